//! What a worker counts. Written by its one worker, read by anyone, never locked.
//!
//! Every packet that enters a worker ends in `packets` of its direction or under one
//! [`DropReason`]; `docs`, `show` and the metrics all take their names from here.
//!
//! Calls to the kernel are counted by how many packets they move, in powers of two ([`Calls`]);
//! how many calls there were is the sum, so that a call costs one addition. Those that move one
//! packet are counted beside the packets and bytes of both directions: all that a lone packet adds
//! to on its way is in one cache line.

use std::array;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

/// A figure that one thread adds to and others read: a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`; only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The figure now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! drop_reasons {
    ($($variant:ident, $name:literal, $text:literal;)*) => {
        /// Why a packet was not forwarded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum DropReason { $(#[doc = $text] $variant),* }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The reason's name in JSON and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Whether such a packet was lost to slow its transfer down, not for want of anything.
            #[must_use]
            pub const fn is_signal(self) -> bool {
                matches!(self, Self::QueueDelay | Self::TunDelay)
            }

            /// The reason in words, with what to do about it where something can be done.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

drop_reasons! {
    TunMalformed, "tun_malformed", "outbound: the tun delivered a frame that is no valid IP packet";
    SendSlotsBusy, "send_slots_busy",
        "outbound: every send buffer is in flight, the network is slower than the tunnel";
    NoPeer, "no_peer", "outbound: no peer's allowed IPs hold the destination";
    NoEndpoint, "no_endpoint",
        "outbound: the peer's endpoint is not known: none is configured and it has not spoken yet";
    RoutingLoop, "routing_loop",
        "outbound: our own message came back by the tunnel; the route to the peer leads into it";
    NoSession, "no_session",
        "outbound: the peer did not answer the handshake; is it up, are both keys right?";
    StagingFull, "staging_full", "outbound: too many packets wait for a handshake, oldest dropped";
    TunDelay, "tun_delay",
        "outbound: one packet of a transfer that kept the tun queue waiting, so that it slows down";
    SendUnreachable, "send_unreachable", "outbound: no route to the peer's endpoint";
    SendDenied, "send_denied", "outbound: a firewall rule on this host refused the send";
    SendTooBig, "send_too_big",
        "outbound: a single datagram exceeds what the path takes, lower the MTU";
    SendNoBuffers, "send_no_buffers", "outbound: the kernel had no room in the device's queue";
    SendFailed, "send_failed", "outbound: the send failed for another reason";
    UnknownSource, "unknown_source", "inbound: the datagram does not come from the configured peer";
    BadMessage, "bad_message", "inbound: the datagram is no WireGuard message";
    BadMac, "bad_mac",
        "inbound: a handshake message that was not made for this end's public key";
    HandshakesBusy, "handshakes_busy",
        "inbound: more handshake messages than can be worked on, a flood?";
    UnknownSession, "unknown_session", "inbound: a message of a session that is not (any more)";
    NotAuthentic, "not_authentic", "inbound: a message that does not open with its session's key";
    Replayed, "replayed", "inbound: a message that came before, or too late to tell";
    SourceNotAllowed, "source_not_allowed",
        "inbound: the inner source address is not among the sending peer's allowed IPs";
    NotIp, "not_ip", "inbound: the payload is neither an IPv4 nor an IPv6 packet";
    LengthMismatch, "length_mismatch",
        "inbound: the packet claims more bytes than the datagram holds";
    Truncated, "truncated", "inbound: the kernel truncated the datagram or its control data";
    QueueDelay, "queue_delay",
        "inbound: one packet of a transfer that kept a queue waiting, so that it slows down";
    WriteSlotsBusy, "write_slots_busy", "inbound: every tun write is in flight";
    TunDown, "tun_down", "inbound: the tun device is down";
    TunRejected, "tun_rejected", "inbound: the tun device refused the packet";
}

/// One direction's figures.
#[derive(Debug, Default)]
pub struct Direction {
    /// Packets as on the wire (segments, not super-packets) handed on.
    pub packets: Count,
    /// Their bytes: inner IP packets inbound, UDP payload outbound.
    pub bytes: Count,
    lone_reads: Count,
    lone_writes: Count,
}

/// How many sizes of batches are told apart: 1, 2, 3–4, 5–8, 9–16, 17–32, 33–64, and more packets.
pub const SIZES: usize = 8;

/// Calls that moved more than one packet, by size. Reads and writes of a size lie next to each
/// other: what comes in as one often goes out as one.
type Larger = [[Count; 2]; SIZES - 1];

/// One kind of call to the kernel, counted by the packets that each one moved.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a> {
    lone: &'a Count,
    larger: &'a Larger,
    /// Which of a pair.
    kind: usize,
}

const READS: usize = 0;
const WRITES: usize = 1;

impl Calls<'_> {
    /// Counts a call that moved so many packets, at least one; only the owning worker may call
    /// this.
    #[inline]
    pub fn count(self, packets: usize) {
        if packets <= 1 {
            return self.lone.add(1);
        }
        let doublings = (packets - 1).ilog2() as usize;
        self.larger[doublings.min(SIZES - 2)][self.kind].add(1);
    }

    /// How many calls there were of each size: 1, 2, 3–4, 5–8, 9–16, 17–32, 33–64, and more.
    #[must_use]
    pub fn by_size(self) -> [u64; SIZES] {
        array::from_fn(|size| match size.checked_sub(1) {
            None => self.lone.get(),
            Some(larger) => self.larger[larger][self.kind].get(),
        })
    }

    /// How many calls there were.
    #[must_use]
    pub fn total(self) -> u64 {
        self.by_size().iter().sum()
    }
}

/// Everything one worker counts. In the order of the fields: those of every packet first.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Counters {
    /// tun → wire.
    pub outbound: Direction,
    /// wire → tun.
    pub inbound: Direction,
    outbound_larger: Larger,
    inbound_larger: Larger,
    /// Turns of the worker's loop, each one system call at least.
    pub turns: Count,
    /// Turns that were ready to sleep until something came. Whether it had come by then is not
    /// seen.
    pub sleeps: Count,
    /// Times that the worker looked for packets instead of sleeping …
    pub polls: Count,
    /// … and found some.
    pub polls_won: Count,
    /// Handshake messages and cookie replies passed on to control.
    pub handshakes: Count,
    /// Keepalives received.
    pub keepalives: Count,
    /// Segments that arrived with a wrong inner checksum and were passed on unchanged.
    pub bad_checksums: Count,
    /// Receives that ended because all buffers were in use; re-armed, nothing lost by us.
    pub receive_starved: Count,
    /// Receives and frames marked as having met congestion, so that a transfer slows down.
    pub ecn_marks: Count,
    /// Batches that another worker opened or sealed for this one.
    pub handed_over: Count,
    /// Batches that this worker opened or sealed for others.
    pub helped: Count,
    /// Sends repeated unsegmented after the path refused `UDP_SEGMENT`.
    pub gso_refused: Count,
    drops: [Count; DropReason::ALL.len()],
}

/// Bytes.
const CACHE_LINE: usize = 64;
// All of a lone packet, either way, but the turn that it takes.
const _: () = assert!(offset_of!(Counters, outbound_larger) == CACHE_LINE);
// A read and a write of a size are in one line, whichever it is.
const _: () = assert!(offset_of!(Counters, inbound_larger) % size_of::<[Count; 2]>() == 0);

impl Default for Counters {
    fn default() -> Self {
        Self {
            outbound: Direction::default(),
            inbound: Direction::default(),
            outbound_larger: Larger::default(),
            inbound_larger: Larger::default(),
            turns: Count::default(),
            sleeps: Count::default(),
            polls: Count::default(),
            polls_won: Count::default(),
            handshakes: Count::default(),
            keepalives: Count::default(),
            bad_checksums: Count::default(),
            receive_starved: Count::default(),
            ecn_marks: Count::default(),
            handed_over: Count::default(),
            helped: Count::default(),
            gso_refused: Count::default(),
            drops: array::from_fn(|_| Count::default()),
        }
    }
}

impl Counters {
    /// Counts that the worker looked for packets instead of sleeping, and whether some came.
    #[inline]
    pub fn looked(&self, came: bool) {
        self.polls.add(1);
        self.polls_won.add(u64::from(came));
    }

    /// Tun reads: the packets that a frame is split into.
    #[inline]
    pub fn tun_reads(&self) -> Calls<'_> {
        Calls { lone: &self.outbound.lone_reads, larger: &self.outbound_larger, kind: READS }
    }

    /// UDP sends: the datagrams of each.
    #[inline]
    pub fn sends(&self) -> Calls<'_> {
        Calls { lone: &self.outbound.lone_writes, larger: &self.outbound_larger, kind: WRITES }
    }

    /// UDP receives: the datagrams of each, of whatever kind.
    #[inline]
    pub fn receives(&self) -> Calls<'_> {
        Calls { lone: &self.inbound.lone_reads, larger: &self.inbound_larger, kind: READS }
    }

    /// Tun writes: the packets merged in each.
    #[inline]
    pub fn tun_writes(&self) -> Calls<'_> {
        Calls { lone: &self.inbound.lone_writes, larger: &self.inbound_larger, kind: WRITES }
    }

    /// Counts `packets` dropped for `reason`.
    #[inline]
    pub fn count_drop(&self, reason: DropReason, packets: u64) {
        self.drops[reason as usize].add(packets);
    }

    /// Packets dropped so far for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_powers_of_two() {
        let counters = Counters::default();
        for packets in 0..=130 {
            counters.sends().count(packets);
        }
        // None is one: a datagram without a byte.
        assert_eq!(counters.sends().by_size(), [2, 1, 2, 4, 8, 16, 32, 66]);
        assert_eq!(counters.sends().total(), 131);
        counters.sends().count(usize::MAX);
        assert_eq!(counters.sends().by_size()[SIZES - 1], 67);
    }

    #[test]
    fn every_kind_of_call_has_counters_of_its_own() {
        let counters = Counters::default();
        let kinds =
            [Counters::tun_reads, Counters::sends, Counters::receives, Counters::tun_writes];
        for (size, packets) in [1, 2, 4, 8, 16, 32, 64, 65].into_iter().enumerate() {
            for (times, kind) in (1_u64..).zip(kinds) {
                (0..times).for_each(|_| kind(&counters).count(packets));
            }
            for (times, kind) in (1..).zip(kinds) {
                assert_eq!(kind(&counters).by_size()[size], times);
            }
        }
        assert_eq!(kinds.map(|kind| kind(&counters).total()), [8, 16, 24, 32]);
    }
}
