//! The packet path of one worker, as its backend drives it.

use crate::io::{Arrival, Handler, Received, Slot, Transmit};

use super::inbound::Inbound;
use super::outbound::Outbound;
use super::wireguard::WireGuard;

/// Both directions, by encapsulation.
#[expect(clippy::large_enum_variant, reason = "one a worker, never moved")]
pub enum Path {
    /// IP in UDP.
    Plain {
        /// tun → wire.
        outbound: Outbound,
        /// wire → tun.
        inbound: Inbound,
    },
    /// WireGuard.
    WireGuard(Box<WireGuard>),
}

impl Handler for Path {
    #[inline]
    fn start_of_turn(&mut self, tx: &mut impl Transmit) {
        match self {
            Self::Plain { .. } => {}
            Self::WireGuard(wireguard) => wireguard.start_of_turn(tx),
        }
    }

    #[inline]
    fn frame(&mut self, frame: &[u8], tx: &mut impl Transmit) {
        match self {
            Self::Plain { outbound, .. } => outbound.frame(frame, tx),
            Self::WireGuard(wireguard) => wireguard.frame(frame, tx),
        }
    }

    #[inline]
    fn datagrams(&mut self, received: Received<'_>, tx: &mut impl Transmit) {
        match self {
            Self::Plain { inbound, .. } => inbound.datagrams(&received, tx),
            Self::WireGuard(wireguard) => wireguard.datagrams(received, tx),
        }
    }

    #[inline]
    fn has_room(&self) -> bool {
        match self {
            Self::Plain { .. } => true,
            Self::WireGuard(wireguard) => wireguard.has_room(),
        }
    }

    #[inline]
    fn takes_on(&self) -> bool {
        match self {
            Self::Plain { .. } => false,
            Self::WireGuard(wireguard) => wireguard.takes_on(),
        }
    }

    #[inline]
    fn take_on(&mut self, slot: Slot, arrival: Arrival) -> Result<(), Slot> {
        match self {
            Self::Plain { .. } => Err(slot),
            Self::WireGuard(wireguard) => wireguard.take_on(slot, arrival),
        }
    }

    #[inline]
    fn take_on_frame(
        &mut self,
        slot: Slot,
        len: usize,
        tx: &mut impl Transmit,
    ) -> Result<(), Slot> {
        match self {
            Self::Plain { .. } => Err(slot),
            Self::WireGuard(wireguard) => wireguard.take_on_frame(slot, len, tx),
        }
    }

    #[inline]
    fn may_sleep(&self) -> bool {
        match self {
            Self::Plain { .. } => true,
            Self::WireGuard(wireguard) => wireguard.may_sleep(),
        }
    }

    #[inline]
    fn end_of_turn(&mut self, tx: &mut impl Transmit) {
        match self {
            Self::Plain { outbound, inbound } => {
                outbound.send(tx);
                inbound.flush(tx);
            }
            Self::WireGuard(wireguard) => wireguard.end_of_turn(tx),
        }
    }
}
