//! Exit codes: documented, few, stable.
//!
//! In: how a command went. Out: a number that scripts may rely on. Which error is which is decided
//! here and nowhere else.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use crate::control::config_file::ConfigError;
use crate::control::find_endpoint::RetriesError;
use crate::control::host::HostError;
use crate::control::plan::PlanError;
use crate::control::run::RunError;
use crate::control::socket::SocketError;
use crate::control::sockets::SocketsError;
use crate::control::uapi::UapiError;
use crate::control::values::ValueError;

/// What `--help` says about the codes.
pub const HELP: &str = "Exit codes:\n  \
    0  done; for `check`: full speed\n  \
    1  failed; for `check`: works, but slower\n  \
    2  wrong usage: nothing was done\n  \
    3  a permission is missing\n  \
    4  this machine cannot do it (no tun driver, io_uring asked for and not there, …)\n  \
    5  something else is in the way: the device name, the UDP port or the control socket is taken";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed.
    Failure = 1,
    /// The command line makes no sense (clap uses the same number).
    Usage = 2,
    /// A permission is missing.
    NoPermission = 3,
    /// Not possible on this machine.
    Unsupported = 4,
    /// A name, port or socket is taken.
    Conflict = 5,
}

impl Exit {
    /// The exit of a child that is this program.
    #[must_use]
    pub fn of_child(code: Option<i32>) -> Self {
        let all = [Self::Usage, Self::NoPermission, Self::Unsupported, Self::Conflict];
        all.into_iter().find(|exit| code == Some(*exit as i32)).unwrap_or(Self::Failure)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The code for an error that a command returned.
#[must_use]
pub fn of_error(error: &anyhow::Error) -> Exit {
    let usage = error.is::<PlanError>() || error.is::<ValueError>();
    if usage || error.is::<ConfigError>() || error.is::<RetriesError>() {
        return Exit::Usage;
    }
    if is_closed_pipe(error) {
        return Exit::Ok;
    }
    if let Some(error) = error.downcast_ref::<SocketError>() {
        return of_control(error);
    }
    error.downcast_ref::<RunError>().map_or(Exit::Failure, of_run)
}

/// Whether the reader of our output went away, as in `ringtun show | head -1`: no error of ours.
#[must_use]
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn of_run(error: &RunError) -> Exit {
    match error {
        RunError::Host(error) => match error {
            HostError::NoDriver { .. } | HostError::NoIpv6 { .. } => Exit::Unsupported,
            HostError::NameTaken { .. } => Exit::Conflict,
            HostError::Forbidden { .. } => Exit::NoPermission,
            HostError::Plan(_) | HostError::Inherited { .. } => Exit::Usage,
            HostError::Step { .. } => Exit::Failure,
        },
        RunError::Sockets(error) => match error {
            SocketsError::InUse { .. } => Exit::Conflict,
            SocketsError::Forbidden { .. } => Exit::NoPermission,
            SocketsError::NoFamily { .. } | SocketsError::PeerUnreachable { .. } => {
                Exit::Unsupported
            }
            SocketsError::NotLocal { .. } | SocketsError::Step { .. } => Exit::Failure,
        },
        RunError::Control(error) => of_control(error),
        RunError::Uapi(UapiError::Live { .. }) => Exit::Conflict,
        RunError::Uapi(UapiError::Create { error, .. }) if is_denial(error.kind()) => {
            Exit::NoPermission
        }
        RunError::Backend(_) | RunError::Aead(_) => Exit::Unsupported,
        RunError::Uapi(_)
        | RunError::Engine(_)
        | RunError::Setup { .. }
        | RunError::Configure(_) => Exit::Failure,
    }
}

fn of_control(error: &SocketError) -> Exit {
    match error {
        SocketError::Live { .. } => Exit::Conflict,
        SocketError::Create { error, .. } if is_denial(error.kind()) => Exit::NoPermission,
        SocketError::Forbidden { .. } => Exit::NoPermission,
        SocketError::Create { .. } | SocketError::Absent { .. } | SocketError::Answer { .. } => {
            Exit::Failure
        }
    }
}

fn is_denial(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_get_their_code_through_anyhow() {
        assert_eq!(of_error(&PlanError::EncapMissing.into()), Exit::Usage);
        let taken = HostError::NameTaken { name: "rt0".parse().unwrap() };
        assert_eq!(of_error(&RunError::from(taken).into()), Exit::Conflict);
        assert_eq!(of_error(&anyhow::anyhow!("anything")), Exit::Failure);
    }
}
