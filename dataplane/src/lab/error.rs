//! What can go wrong in the lab, each with the next thing to do.

use std::io;
use std::path::PathBuf;

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// [`super::enter`] came too late.
    #[error(
        "the lab must be entered before any thread starts, but this process has {threads}; \
         call lab::enter first thing in main"
    )]
    Threads {
        /// Threads found.
        threads: usize,
    },
    /// This machine does not let us have namespaces.
    #[error("no private namespaces here: {cause}. {remedy}")]
    Namespaces {
        /// What is in the way.
        cause: String,
        /// What to do about it.
        remedy: String,
    },
    /// No usable `/dev/net/tun`.
    #[error("/dev/net/tun cannot be opened: {cause}. {remedy}")]
    Tun {
        /// What is in the way.
        cause: String,
        /// What to do about it.
        remedy: String,
    },
    /// Something was asked of the lab before [`super::enter`].
    #[error("this process is not in a lab: call lab::enter first thing in main")]
    NotEntered,
    /// A host of that name exists.
    #[error("there is already a host named {name:?} in this lab; choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Not an address with a prefix length.
    #[error("{text:?} is not an address with a prefix length such as 192.0.2.1/24")]
    Address {
        /// What was given.
        text: String,
    },
    /// The kernel refused a network setting.
    #[error("{host}: could not {what}: {source}")]
    Network {
        /// The host it was for.
        host: String,
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A kernel setting could not be written.
    #[error(
        "{host}: could not set {key}: {source}; in a container, /proc/sys must be writable \
         (docker run --privileged)"
    )]
    Sysctl {
        /// The host it was for.
        host: String,
        /// The setting.
        key: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("could not start {program}: {source}; check that it exists and is executable")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Any other system call.
    #[error("could not {what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl LabError {
    /// For `map_err`: names what was attempted.
    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
