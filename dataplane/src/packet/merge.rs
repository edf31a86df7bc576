//! Inbound: decapsulated packets, still in the slots they were received in, become tun writes.
//!
//! In: IP packets of one batch, in order of arrival. Out: to a [`Sink`], gather lists of slot
//! pieces behind a virtio header and rewritten headers; payload is never copied. What belongs
//! together is merged as the kernel's own GRO would, so that the host's stack runs once for up to
//! 64 packets. Guaranteed: packets of a flow leave in the order they came; nothing with a wrong
//! checksum is merged or repaired; a group can be cut into the very same packets again
//! (merge_flow.rs names the two exceptions). All memory is allocated in [`Merger::new`].
//!
//! What is held is lost sight of unless [`Merger::flush`] is called at the end of the batch,
//! before the slots are reused.

use super::bytes::low32;
use super::ip::FlowKey;
use super::merge_candidate::{Candidate, HEADERS_MAX};
use super::merge_flow::{Append, Flow};
use super::virtio;

/// Flows held at a time; one more sends out the oldest.
pub const MAX_FLOWS: usize = 32;

/// Segments of a super-packet at most: the bound of the kernel's own GRO for UDP
/// (`UDP_GRO_CNT_MAX`, net/ipv4/udp_offload.c), and more than 64 KiB at usual segment sizes.
pub const MAX_PIECES: usize = 64;

/// Longest `head` of a write, in bytes: virtio, IPv6 and TCP headers with all TCP options.
pub const HEAD_MAX: usize = virtio::LEN + HEADERS_MAX;

/// A stretch of a receive slot, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Which slot.
    pub slot: u16,
    /// Where in the slot it begins.
    pub offset: u32,
    /// Bytes of it.
    pub len: u32,
}

/// What may be merged: what `TUNSETOFFLOAD` was granted. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeConfig {
    /// TCP over IPv4 (`TUN_F_TSO4`).
    pub tcp4: bool,
    /// TCP over IPv6 (`TUN_F_TSO6`).
    pub tcp6: bool,
    /// UDP over both (`TUN_F_USO4` and `TUN_F_USO6`, which come together).
    pub udp: bool,
}

/// Takes what goes to the tun.
pub trait Sink {
    /// One tun write: `head`, then `pieces` in order. `head` is the virtio header followed by the
    /// rewritten headers of a super-packet, or by nothing for a packet that goes as it came; at
    /// most [`HEAD_MAX`] bytes. There are 1..=[`MAX_PIECES`] pieces. `packets` counts the packets
    /// received that are in it, `bytes` their IP bytes; `flow_hash` is
    /// [`flow_hash`](super::ip::flow_hash) of their flow.
    fn write(&mut self, head: &[u8], pieces: &[Piece], packets: u32, bytes: u32, flow_hash: u32);
}

/// Merges the packets of one queue. See the module.
#[derive(Debug)]
pub struct Merger {
    config: MergeConfig,
    /// Groups by number. Grows to [`MAX_FLOWS`] within its capacity; places are used again.
    flows: Vec<Flow>,
    /// `flows[i].hash`, close together for searching.
    hashes: [u32; MAX_FLOWS],
    /// Numbers of the groups held, oldest first.
    held: Vec<usize>,
    /// Numbers of the groups done with.
    free: Vec<usize>,
    /// The group that took the last packet, if still held: most often it takes the next, too.
    last: Option<usize>,
    bad_checksums: u64,
}

impl Merger {
    /// A merger that holds nothing. Allocates about 40 KiB, and nothing later.
    #[must_use]
    pub fn new(config: MergeConfig) -> Self {
        Self {
            config,
            flows: Vec::with_capacity(MAX_FLOWS),
            hashes: [0; MAX_FLOWS],
            held: Vec::with_capacity(MAX_FLOWS),
            free: Vec::with_capacity(MAX_FLOWS),
            last: None,
            bad_checksums: 0,
        }
    }

    /// Takes one packet, as [`inner_packet`](super::ip::inner_packet) returned it, that lies at
    /// `offset` in slot `slot`. It is either written to `sink` now or held, at the latest until
    /// [`flush`](Self::flush); its slot has to stay as it is until then.
    #[inline]
    pub fn push(&mut self, packet: &[u8], slot: u16, offset: u32, sink: &mut impl Sink) {
        let at = Piece { slot, offset, len: low32(packet.len()) };
        let Some(candidate) = Candidate::parse(packet, &self.config) else {
            return self.pass(packet, at, sink);
        };
        if !candidate.checksums_valid() {
            self.bad_checksums += 1;
            return self.pass(packet, at, sink);
        }
        if let Some(last) = self.last
            && self.append(last, &candidate, at, sink)
        {
            return;
        }
        self.place(&candidate, at, sink);
    }

    /// Writes out everything held, oldest first packet first.
    pub fn flush(&mut self, sink: &mut impl Sink) {
        for &number in &self.held {
            self.flows[number].write(sink);
        }
        self.free.append(&mut self.held);
        self.last = None;
    }

    /// Changes what is merged from the next packet on.
    pub fn set_config(&mut self, config: MergeConfig) {
        self.config = config;
    }

    /// How many candidates had a wrong checksum since the last call.
    pub fn bad_checksums(&mut self) -> u64 {
        std::mem::take(&mut self.bad_checksums)
    }

    /// Adds the candidate to group `number` if it continues it.
    #[inline]
    fn append(
        &mut self,
        number: usize,
        candidate: &Candidate<'_>,
        at: Piece,
        sink: &mut impl Sink,
    ) -> bool {
        match self.flows[number].append(candidate, at) {
            Append::Refused => return false,
            Append::Held => self.last = Some(number),
            Append::Ended => self.release(number, sink),
        }
        true
    }

    /// A candidate that the last group did not take: another group of its flow, or a new one.
    fn place(&mut self, candidate: &Candidate<'_>, at: Piece, sink: &mut impl Sink) {
        let Some(key) = FlowKey::parse(candidate.packet) else {
            return self.pass(candidate.packet, at, sink);
        };
        let hash = key.hash();
        if let Some(number) = self.find(&key, hash) {
            if self.append(number, candidate, at, sink) {
                return;
            }
            self.release(number, sink);
        }
        if candidate.push {
            // Nothing may follow a PSH: no use in holding it.
            return alone(at, hash, sink);
        }
        if self.held.len() == MAX_FLOWS {
            let oldest = self.held[0];
            self.release(oldest, sink);
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.flows[number].reopen(candidate, at, key, hash);
                number
            }
            None => {
                self.flows.push(Flow::open(candidate, at, key, hash));
                self.flows.len() - 1
            }
        };
        self.hashes[number] = hash;
        self.held.push(number);
        self.last = Some(number);
    }

    /// Writes a packet alone and unchanged, after whatever is held of its flow.
    fn pass(&mut self, packet: &[u8], at: Piece, sink: &mut impl Sink) {
        let Some(key) = FlowKey::parse(packet) else {
            return alone(at, 0, sink);
        };
        let hash = key.hash();
        if key.ports.is_some() {
            if let Some(number) = self.find(&key, hash) {
                self.release(number, sink);
            }
        } else {
            // A fragment, whose ports are unknown: it may belong to any flow of these hosts. ICMP
            // and the like come here as well, which is needless but rare.
            self.release_addresses(&key, sink);
        }
        alone(at, hash, sink);
    }

    /// The group held of this flow.
    fn find(&self, key: &FlowKey, hash: u32) -> Option<usize> {
        let same = |&number: &usize| self.hashes[number] == hash && self.flows[number].key == *key;
        self.held.iter().copied().find(|number| same(number))
    }

    /// Writes out group `number` and frees its place.
    fn release(&mut self, number: usize, sink: &mut impl Sink) {
        self.flows[number].write(sink);
        self.held.retain(|&held| held != number);
        self.free.push(number);
        if self.last == Some(number) {
            self.last = None;
        }
    }

    /// Writes out every group between the addresses of `key`, oldest first.
    fn release_addresses(&mut self, key: &FlowKey, sink: &mut impl Sink) {
        let mut i = 0;
        while let Some(&number) = self.held.get(i) {
            if self.flows[number].key.same_addresses(key) {
                self.release(number, sink);
            } else {
                i += 1;
            }
        }
    }
}

fn alone(at: Piece, flow_hash: u32, sink: &mut impl Sink) {
    sink.write(&[0; virtio::LEN], &[at], 1, at.len, flow_hash);
}

#[cfg(test)]
#[path = "merge_rules_tests.rs"]
mod rules_tests;
#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
