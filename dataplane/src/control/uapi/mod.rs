//! UAPI: the line protocol by which `wg` reads and sets a userspace device
//! (<https://www.wireguard.com/xplatform/>, wireguard-tools `ipc-uapi.h`).
//!
//! In: `get=1` and `set=1` requests on `/var/run/wireguard/NAME.sock`. Out: calls to a [`Device`],
//! and its answers.
//!
//! ```text
//! listener   the socket: private from its first moment, watched, removed if still ours
//! server     a thread for each connection, 16 at most
//! stream     what is read is wiped once it has been used
//! parse      lines ─► DeviceUpdate
//! format     DeviceStatus ─► lines
//! ```
//!
//! A `set` is applied as a whole once its last line has been read: one that is refused or cut off
//! changes nothing.

pub mod format;
pub mod listener;
pub mod parse;
pub mod server;
mod stream;

use std::io;
use std::path::PathBuf;

use crate::protocol::config::{DeviceUpdate, DeviceView};

/// What the server asks; called from several threads at once.
pub trait Device: Send + Sync {
    /// The device as it is.
    ///
    /// # Errors
    /// A positive errno.
    fn get(&self) -> Result<DeviceStatus, i32>;

    /// Changes it. What returns without error is in force.
    ///
    /// # Errors
    /// A positive errno: EADDRINUSE for a port that is taken, and the like.
    fn set(&self, update: DeviceUpdate) -> Result<(), i32>;
}

/// All that `get` tells.
pub struct DeviceStatus {
    /// What the protocol knows.
    pub view: DeviceView,
    /// The port datagrams are received on; 0 if there is none.
    pub listen_port: u16,
    /// Mark of outgoing datagrams; 0 for none.
    pub fwmark: u32,
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum UapiError {
    /// Another process answers there.
    #[error(
        "{} is in use by another process: a WireGuard of the same name runs, perhaps in another \
         network namespace; stop it, or choose another name",
        path.display()
    )]
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// The folder or the socket could not be made.
    #[error(
        "cannot {what} {}: {error}; `wg` looks nowhere else, and root is needed",
        path.display()
    )]
    Create {
        /// The step.
        what: &'static str,
        /// The folder or socket.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The descriptor handed over is none, or is something else.
    #[error("{variable}={value:?} does not name a listening Unix socket: {problem}")]
    Inherited {
        /// The environment variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// The threads could not be started.
    #[error("cannot serve the UAPI socket: {0}")]
    Serve(io::Error),
}

#[cfg(test)]
mod fake_tests;
#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod wg_tests;
