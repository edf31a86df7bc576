//! The packet path of one worker, as its backend drives it.

use crate::io::{Handler, Received, Transmit};

use super::inbound::Inbound;
use super::outbound::Outbound;

/// Both directions.
pub struct Path {
    /// tun → wire.
    pub outbound: Outbound,
    /// wire → tun.
    pub inbound: Inbound,
}

impl Handler for Path {
    #[inline]
    fn frame(&mut self, frame: &[u8], tx: &mut impl Transmit) {
        self.outbound.frame(frame, tx);
    }

    #[inline]
    fn datagrams(&mut self, received: Received<'_>, tx: &mut impl Transmit) {
        self.inbound.datagrams(&received, tx);
    }

    #[inline]
    fn end_of_turn(&mut self, tx: &mut impl Transmit) {
        self.outbound.send(tx);
        self.inbound.flush(tx);
    }
}
