//! The configuration socket that `wg` speaks to: /var/run/wireguard/NAME.sock.
//!
//! The cross-platform userspace protocol of WireGuard: `get=1` or `set=1`, lines of `key=value`, an
//! empty line; answered with lines and `errno=N`. [`parse`] and [`format`] are pure, [`server`] is
//! the socket. Errors are errno values, as the protocol has nothing else.

pub mod format;
pub mod parse;
pub mod server;

use crate::protocol::config::{DeviceUpdate, DeviceView};

/// What `get` answers with.
pub struct DeviceStatus {
    /// Identity and peers.
    pub view: DeviceView,
    /// The port that is bound, or that will be.
    pub listen_port: u16,
    /// Mark of outgoing datagrams; 0 for none.
    pub fwmark: u32,
}

/// The device behind a configuration socket. Errors are errno values.
pub trait Device: Send + Sync {
    /// The state now.
    ///
    /// # Errors
    /// When the device has ended.
    fn get(&self) -> Result<DeviceStatus, i32>;
    /// Carries out changes; they are in force when this returns.
    ///
    /// # Errors
    /// What could not be carried out.
    fn set(&self, update: DeviceUpdate) -> Result<(), i32>;
}
