//! For tests: packets built the slow, obvious way, field by field, sharing no code with what they
//! test; a tun that records writes and cuts them again.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use super::merge::{MergeConfig, Merger, Piece, Sink};
use super::split::Split;
use super::virtio::{self, VirtioHdr};
use proptest::prelude::*;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;
pub(crate) const URG: u8 = 32;
pub(crate) const ECE: u8 = 64;
pub(crate) const CWR: u8 = 128;

/// RFC 1071 as a schoolbook loop.
pub(crate) fn naive_fold(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What a packet says, to be turned into bytes by [`Frame::build`].
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub v6: bool,
    pub udp: bool,
    pub source: u8,
    pub destination: u8,
    pub sport: u16,
    pub dport: u16,
    pub tos: u8,
    pub label: u32,
    pub ttl: u8,
    pub id: u16,
    /// The IPv4 field: DF, MF and offset.
    pub fragment: u16,
    pub ip_options: Vec<u8>,
    /// Destination options headers (8 bytes each) before the transport, IPv6 only.
    pub extensions: usize,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub reserved: u8,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            v6: false,
            udp: false,
            source: 1,
            destination: 2,
            sport: 40_000,
            dport: 443,
            tos: 0,
            label: 0,
            ttl: 64,
            id: 1000,
            fragment: 0x4000,
            ip_options: vec![],
            extensions: 0,
            seq: 0xffff_f000,
            ack: 77,
            flags: ACK,
            reserved: 0,
            window: 500,
            urgent: 0,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload: vec![],
        }
    }
}

impl Frame {
    pub(crate) fn ip_len(&self) -> usize {
        if self.v6 { 40 + 8 * self.extensions } else { 20 + self.ip_options.len() }
    }

    pub(crate) fn header_len(&self) -> usize {
        self.ip_len() + if self.udp { 8 } else { 20 + self.options.len() }
    }

    fn addresses(&self) -> (Vec<u8>, Vec<u8>) {
        let base: &[u8] =
            if self.v6 { &[0xfd, 0, 9, 8, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 1] } else { &[10, 9, 8] };
        ([base, &[self.source]].concat(), [base, &[self.destination]].concat())
    }

    fn transport(&self) -> Vec<u8> {
        let mut t = vec![];
        t.extend(self.sport.to_be_bytes());
        t.extend(self.dport.to_be_bytes());
        if self.udp {
            t.extend((8 + self.payload.len() as u16).to_be_bytes());
            t.extend([0, 0]);
        } else {
            t.extend(self.seq.to_be_bytes());
            t.extend(self.ack.to_be_bytes());
            t.push(((20 + self.options.len()) as u8 / 4) << 4 | self.reserved);
            t.push(self.flags);
            t.extend(self.window.to_be_bytes());
            t.extend([0, 0]);
            t.extend(self.urgent.to_be_bytes());
            t.extend(&self.options);
        }
        t.extend(&self.payload);
        t
    }

    fn ip(&self, transport_len: usize) -> Vec<u8> {
        let (source, destination) = self.addresses();
        let protocol = if self.udp { 17 } else { 6 };
        let mut ip = vec![];
        if self.v6 {
            ip.extend((6u32 << 28 | u32::from(self.tos) << 20 | self.label).to_be_bytes());
            ip.extend(((transport_len + 8 * self.extensions) as u16).to_be_bytes());
            ip.push(if self.extensions > 0 { 60 } else { protocol });
            ip.push(self.ttl);
            ip.extend([source, destination].concat());
            for i in 0..self.extensions {
                let next = if i + 1 < self.extensions { 60 } else { protocol };
                ip.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
        } else {
            ip.extend([0x40 + (self.ip_len() / 4) as u8, self.tos]);
            ip.extend(((self.ip_len() + transport_len) as u16).to_be_bytes());
            ip.extend(self.id.to_be_bytes());
            ip.extend(self.fragment.to_be_bytes());
            ip.extend([self.ttl, protocol, 0, 0]);
            ip.extend([source, destination].concat());
            ip.extend(&self.ip_options);
            let checksum = !naive_fold(&ip);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        ip
    }

    /// The sum over the pseudo-header.
    fn pseudo(&self, len: usize) -> u16 {
        let (source, destination) = self.addresses();
        let protocol = if self.udp { 17u8 } else { 6 };
        let tail = [&[0, protocol][..], &(len as u32).to_be_bytes()].concat();
        naive_fold(&[source, destination, tail].concat())
    }

    fn with_checksum(&self, checksum: impl Fn(&[u8], u16) -> u16) -> Vec<u8> {
        let mut transport = self.transport();
        let value = checksum(&transport, self.pseudo(transport.len()));
        let at = if self.udp { 6 } else { 16 };
        transport[at..at + 2].copy_from_slice(&value.to_be_bytes());
        [self.ip(transport.len()), transport].concat()
    }

    /// The finished packet.
    pub(crate) fn build(&self) -> Vec<u8> {
        self.with_checksum(|transport, pseudo| {
            let sum = !naive_fold(&[&pseudo.to_be_bytes(), transport].concat());
            if self.udp && sum == 0 { 0xffff } else { sum }
        })
    }

    /// The packet as the kernel hands it over: the pseudo-header sum in place of the checksum.
    pub(crate) fn build_partial(&self) -> Vec<u8> {
        self.with_checksum(|_, pseudo| pseudo)
    }

    /// The virtio header that goes with [`build_partial`](Self::build_partial); `size` 0 for an
    /// ordinary packet.
    pub(crate) fn virtio(&self, size: usize) -> VirtioHdr {
        VirtioHdr {
            flags: 1,
            gso_type: match (size, self.udp, self.v6) {
                (0, ..) => 0,
                (_, true, _) => 5,
                (_, false, false) => 1,
                (_, false, true) => 4,
            },
            hdr_len: self.header_len() as u16,
            gso_size: size as u16,
            csum_start: self.ip_len() as u16,
            csum_offset: if self.udp { 6 } else { 16 },
        }
    }

    /// The reference for splitting: each segment as a frame of its own.
    pub(crate) fn segments(&self, size: usize) -> Vec<Self> {
        let count = self.payload.len().div_ceil(size);
        let mut segments = vec![];
        for (i, payload) in self.payload.chunks(size).enumerate() {
            let mut segment = self.clone();
            segment.payload = payload.to_vec();
            segment.id = self.id.wrapping_add(i as u16);
            segment.seq = self.seq.wrapping_add((i * size) as u32);
            if i > 0 {
                segment.flags &= !CWR;
            }
            if i + 1 < count {
                segment.flags &= !(FIN | PSH);
            }
            segments.push(segment);
        }
        segments
    }
}

/// `len` bytes that differ from place to place.
pub(crate) fn filler(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + (i >> 8) * 7) as u8 ^ seed).collect()
}

/// Any frame that the kernel might hand over as a super-packet.
pub(crate) fn any_frame(payload_max: usize) -> impl Strategy<Value = Frame> {
    let shape = (any::<bool>(), any::<bool>(), 0usize..4, 0usize..11, 0usize..4);
    let ip = (any::<u8>(), 0u32..1 << 20, any::<u8>(), any::<u16>(), any::<bool>());
    let tcp = (any::<u32>(), any::<u32>(), any::<u8>(), 0u8..16, any::<u16>());
    let payload = (1..payload_max, any::<u8>(), any::<u16>(), any::<u16>());
    (shape, ip, tcp, payload).prop_map(|(shape, ip, tcp, payload)| {
        let (v6, udp, extensions, options, ip_options) = shape;
        Frame {
            v6,
            udp,
            extensions: if udp || options < 8 { extensions } else { 0 },
            options: filler(options * 4, 0x55),
            ip_options: vec![1; ip_options * 4],
            tos: ip.0,
            label: ip.1,
            ttl: ip.2,
            id: ip.3,
            fragment: if ip.4 { 0x4000 } else { 0 },
            seq: tcp.0,
            ack: tcp.1,
            flags: tcp.2,
            reserved: tcp.3,
            window: tcp.4,
            payload: filler(payload.0, payload.1),
            sport: payload.2,
            dport: payload.3,
            ..Frame::default()
        }
    })
}

/// One recorded write.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub hdr: VirtioHdr,
    /// Headers and pieces together: the packet as the kernel sees it.
    pub packet: Vec<u8>,
    pub head_len: usize,
    pub pieces: Vec<Piece>,
    pub packets: u32,
    pub bytes: u32,
    pub flow_hash: u32,
}

/// Packets in slots, and a [`Sink`] that gathers from them.
pub(crate) struct Slots {
    pub slots: Vec<Vec<u8>>,
    pub writes: Vec<Write>,
}

impl Sink for Slots {
    fn write(&mut self, head: &[u8], pieces: &[Piece], packets: u32, bytes: u32, hash: u32) {
        assert!(head.len() <= super::merge::HEAD_MAX);
        assert!((1..=super::merge::MAX_PIECES).contains(&pieces.len()));
        assert_eq!(pieces.len(), packets as usize);
        let (virtio, headers) = head.split_at(virtio::LEN);
        let mut packet = headers.to_vec();
        for piece in pieces {
            let slot = &self.slots[usize::from(piece.slot)];
            packet.extend(&slot[piece.offset as usize..][..piece.len as usize]);
        }
        self.writes.push(Write {
            hdr: VirtioHdr::decode(virtio).unwrap(),
            packet,
            head_len: head.len(),
            pieces: pieces.to_vec(),
            packets,
            bytes,
            flow_hash: hash,
        });
    }
}

pub(crate) const ALL: MergeConfig = MergeConfig { tcp4: true, tcp6: true, udp: true };

/// Pushes `packets` as one batch; returns what was written and how many checksums were bad.
pub(crate) fn merge_with(config: MergeConfig, packets: &[Vec<u8>]) -> (Vec<Write>, u64) {
    let mut merger = Merger::new(config);
    let padded = |(i, p): (usize, &Vec<u8>)| [&vec![0xcc; i % 50], &p[..], &[0xdd; 3]].concat();
    let slots = packets.iter().enumerate().map(padded).collect();
    let mut tun = Slots { slots, writes: vec![] };
    for (i, packet) in packets.iter().enumerate() {
        merger.push(packet, i as u16, (i % 50) as u32, &mut tun);
    }
    merger.flush(&mut tun);
    let bad = merger.bad_checksums();
    assert_eq!(merger.bad_checksums(), 0);
    (tun.writes, bad)
}

pub(crate) fn merge(packets: &[Vec<u8>]) -> Vec<Write> {
    merge_with(ALL, packets).0
}

/// All packets of a frame.
pub(crate) fn cut(hdr: &VirtioHdr, packet: &[u8]) -> Vec<Vec<u8>> {
    let split = Split::new(hdr, packet).unwrap();
    let mut packets = vec![];
    for i in 0..split.count() {
        let mut out = vec![0xaa; split.len_of(i) + 5];
        split.write(i, &mut out);
        assert_eq!(out.split_off(split.len_of(i)), [0xaa; 5]);
        packets.push(out);
    }
    assert_eq!(packets.iter().map(Vec::len).sum::<usize>(), split.total_len());
    packets
}
