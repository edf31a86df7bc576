//! Where datagrams go to and come from.

use std::net::{IpAddr, SocketAddr};

/// Where a peer is, and by which of our addresses it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address and port.
    pub to: SocketAddr,
    /// Our address and interface at which its last packet arrived; packets go out the same way.
    pub source: Option<Source>,
}

/// One of our addresses, and the interface that packets to it came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address.
    pub address: IpAddr,
    /// The interface's index.
    pub interface: u32,
}

impl From<SocketAddr> for Endpoint {
    fn from(to: SocketAddr) -> Self {
        Self { to, source: None }
    }
}
