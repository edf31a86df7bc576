//! Inbound, second step of merging: one flow's group of segments while it grows.
//!
//! In: candidates of one flow, checksums verified, in order of arrival. Out: one tun write, the
//! virtio header and rewritten headers followed by the payloads where they lie.
//! Guaranteed: cutting the write at `gso_size` gives back the packets byte for byte, with two
//! exceptions that mean the same to any receiver: a TCP or IPv4 checksum sent as 0xffff comes out
//! as 0x0000, and the ids of a group whose ids were all equal count up (see [`Ids::Fixed`]).

use super::bytes::{low16, low32, put16};
use super::ip::FlowKey;
use super::merge::{HEAD_MAX, MAX_PIECES, Piece, Sink};
use super::merge_candidate::{Candidate, HEADERS_MAX, Kind, TCP_PSH};
use super::split::PACKET_MAX;
use super::virtio::{self, NEEDS_CSUM, VirtioHdr};

/// How the IPv4 ids of a group run. One packet alone shows nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids {
    Unknown,
    /// Each one more than the one before, as the kernel's segmentation numbers them.
    Increment,
    /// All the same, with DF set. The virtio header cannot say so (the kernel would need
    /// `SKB_GSO_TCP_FIXEDID`): if the kernel cuts the super-packet again, in order to forward it,
    /// ids count up from the first one. That is harmless: with DF set and no fragment the id has
    /// no meaning (RFC 6864 section 4.1).
    Fixed,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Append {
    /// Does not continue the group, which is unchanged.
    Refused,
    /// Is part of the group, which may grow on.
    Held,
    /// Is part of the group and its last.
    Ended,
}

/// A group of segments of one flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) key: FlowKey,
    pub(super) hash: u32,
    kind: Kind,
    /// The first packet's headers, and the whole of it in its slot.
    header: [u8; HEADERS_MAX],
    header_len: usize,
    first: Piece,
    /// The payloads.
    pieces: [Piece; MAX_PIECES],
    count: usize,
    /// Payload bytes of the first segment: the `gso_size`.
    size: usize,
    /// IP bytes of the super-packet so far.
    len: usize,
    /// IP bytes of the segments as received.
    bytes: u32,
    next_seq: u32,
    last_id: u16,
    ids: Ids,
    push: bool,
}

impl Flow {
    /// A group of one. `at` is where the packet lies.
    pub(super) fn open(candidate: &Candidate<'_>, at: Piece, key: FlowKey, hash: u32) -> Self {
        let mut flow = Self {
            key,
            hash,
            kind: candidate.kind,
            header: [0; HEADERS_MAX],
            header_len: 0,
            first: at,
            pieces: [Piece::default(); MAX_PIECES],
            count: 0,
            size: 0,
            len: 0,
            bytes: 0,
            next_seq: 0,
            last_id: 0,
            ids: Ids::Unknown,
            push: false,
        };
        flow.reopen(candidate, at, key, hash);
        flow
    }

    /// Like [`open`](Self::open), in the place of a group that is done with.
    pub(super) fn reopen(&mut self, c: &Candidate<'_>, at: Piece, key: FlowKey, hash: u32) {
        (self.key, self.hash, self.kind) = (key, hash, c.kind);
        self.header_len = c.header_len.min(HEADERS_MAX);
        self.header[..self.header_len].copy_from_slice(&c.packet[..self.header_len]);
        self.first = at;
        self.count = 0;
        self.size = c.payload_len();
        self.len = c.header_len;
        self.bytes = 0;
        self.ids = Ids::Unknown;
        self.take(c, at);
    }

    /// Adds `c`, whose checksums are verified, if it continues the group.
    #[inline]
    pub(super) fn append(&mut self, c: &Candidate<'_>, at: Piece) -> Append {
        if c.kind != self.kind
            || c.header_len != self.header_len
            || !self.kind.same_headers(&self.header, c.packet)
        {
            return Append::Refused;
        }
        let fixed = self.kind.ip_len() + 20;
        let options_differ = self.kind.is_tcp()
            && self.header.get(fixed..self.header_len) != c.packet.get(fixed..c.header_len);
        let payload_len = c.payload_len();
        if options_differ
            || payload_len > self.size
            || self.len + payload_len > PACKET_MAX
            || self.count == MAX_PIECES
            || (self.kind.is_tcp() && c.seq != self.next_seq)
        {
            return Append::Refused;
        }
        if self.kind.is_v4() {
            match self.ids_with(c) {
                Some(ids) => self.ids = ids,
                None => return Append::Refused,
            }
        }
        self.take(c, at);
        if c.push || payload_len < self.size || self.count == MAX_PIECES {
            Append::Ended
        } else {
            Append::Held
        }
    }

    /// How ids run if `c` follows; `None` if neither way.
    #[inline]
    fn ids_with(&self, c: &Candidate<'_>) -> Option<Ids> {
        let step = c.id.wrapping_sub(self.last_id);
        match (self.ids, step) {
            (Ids::Unknown | Ids::Increment, 1) => Some(Ids::Increment),
            (Ids::Unknown | Ids::Fixed, 0) if c.dont_fragment => Some(Ids::Fixed),
            _ => None,
        }
    }

    #[inline]
    fn take(&mut self, c: &Candidate<'_>, at: Piece) {
        let payload_len = c.payload_len();
        let header_len = low32(c.header_len);
        if let Some(piece) = self.pieces.get_mut(self.count) {
            *piece = Piece {
                slot: at.slot,
                offset: at.offset.saturating_add(header_len),
                len: low32(payload_len),
            };
            self.count += 1;
        }
        self.len += payload_len;
        self.bytes = self.bytes.saturating_add(at.len);
        self.next_seq = c.seq.wrapping_add(low32(payload_len));
        self.last_id = c.id;
        self.push = c.push;
    }

    /// Writes the group out. One packet alone goes as it came, under an all-zero virtio header.
    pub(super) fn write(&self, sink: &mut impl Sink) {
        if self.count == 1 {
            sink.write(&[0; virtio::LEN], &[self.first], 1, self.bytes, self.hash);
            return;
        }
        let mut head = [0; HEAD_MAX];
        let (virtio, header) = head.split_at_mut(virtio::LEN);
        virtio.copy_from_slice(&self.virtio().encode());
        header.copy_from_slice(&self.header);
        self.fix(header);
        let head = &head[..virtio::LEN + self.header_len];
        let pieces = &self.pieces[..self.count];
        sink.write(head, pieces, low32(self.count), self.bytes, self.hash);
    }

    fn virtio(&self) -> VirtioHdr {
        VirtioHdr {
            flags: NEEDS_CSUM,
            gso_type: self.kind.gso_type(),
            hdr_len: low16(self.header_len),
            gso_size: low16(self.size),
            csum_start: low16(self.kind.ip_len()),
            csum_offset: low16(self.kind.checksum_offset()),
        }
    }

    /// Makes the first packet's headers those of the super-packet.
    fn fix(&self, header: &mut [u8]) {
        let transport = self.kind.ip_len();
        let transport_len = self.len - transport;
        if self.kind.is_v4() {
            put16(header, 2, low16(self.len));
            put16(header, 10, 0);
            let checksum = super::checksum::sum(&header[..transport]).finish();
            put16(header, 10, checksum);
        } else {
            put16(header, 4, low16(transport_len));
        }
        if !self.kind.is_tcp() {
            put16(header, transport + 4, low16(transport_len));
        } else if self.push {
            header[transport + 13] |= TCP_PSH;
        }
        let pseudo = self.kind.pseudo(header, transport_len).fold();
        put16(header, transport + self.kind.checksum_offset(), pseudo);
    }
}
