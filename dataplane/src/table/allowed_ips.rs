//! Allowed IPs: the longest prefix that holds an address, as an immutable structure.

use std::net::IpAddr;

/// An address range by its first `len` bits; the bits behind them are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The first address.
    pub address: IpAddr,
    /// How many bits are fixed.
    pub len: u8,
}

impl Prefix {
    /// Clears the bits behind `len`; `None` if `len` exceeds the address.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let _ = (address, len);
        todo!()
    }
}

/// The structure. Values are small numbers (places of peers).
#[derive(Default)]
pub struct AllowedIps {}

impl AllowedIps {
    /// Builds it; of equal prefixes the last one counts.
    #[must_use]
    pub fn new(prefixes: impl IntoIterator<Item = (Prefix, u32)>) -> Self {
        let _ = prefixes.into_iter();
        todo!()
    }

    /// The value of the longest prefix that holds `address`.
    #[inline]
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<u32> {
        let _ = address;
        todo!()
    }
}
