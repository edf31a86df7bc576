//! Frames that wait for a session, in order, bounded for each peer and altogether.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::table::peer::Peer;
use crate::wire::wireguard::keys::PublicKey;

/// Frames that wait for one peer at most: the kernel's `MAX_STAGED_PACKETS`.
const FRAMES_MAX: usize = 128;
/// Their bytes; a frame may be a super-packet.
const BYTES_MAX: usize = 1 << 20;
/// Bytes that wait in one worker.
const TOTAL_BYTES_MAX: usize = 16 << 20;
/// Peers that frames wait for in one worker.
const PEERS_MAX: usize = 4096;

/// What waits in one worker.
#[derive(Default)]
pub(super) struct Staging {
    peers: HashMap<PublicKey, Waiting>,
    bytes: usize,
}

/// What waits for one peer.
pub(super) struct Waiting {
    pub(super) peer: Arc<Peer>,
    pub(super) frames: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Staging {
    /// Whether anything waits for `peer`: then what follows must wait behind it.
    #[inline]
    pub(super) fn holds(&self, peer: &Peer) -> bool {
        !self.peers.is_empty() && self.peers.contains_key(&peer.key)
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Keeps a copy of `frame`; returns how many frames were dropped to make room, the oldest of
    /// this peer first, in the end the frame itself.
    pub(super) fn push(&mut self, peer: &Arc<Peer>, frame: &[u8]) -> u64 {
        if self.peers.len() >= PEERS_MAX && !self.holds(peer) {
            return 1;
        }
        let waiting = self.peers.entry(peer.key).or_insert_with(|| Waiting {
            peer: Arc::clone(peer),
            frames: VecDeque::new(),
            bytes: 0,
        });
        let mut dropped = 0;
        // The memory of a dropped frame serves the new one: a flood to a dead peer allocates
        // nothing.
        let mut memory = Vec::new();
        while waiting.frames.len() >= FRAMES_MAX
            || waiting.bytes + frame.len() > BYTES_MAX
            || self.bytes + frame.len() > TOTAL_BYTES_MAX
        {
            dropped += 1;
            let Some(oldest) = waiting.frames.pop_front() else { return dropped };
            waiting.bytes -= oldest.len();
            self.bytes -= oldest.len();
            memory = oldest;
        }
        memory.clear();
        memory.extend_from_slice(frame);
        waiting.bytes += frame.len();
        self.bytes += frame.len();
        waiting.frames.push_back(memory);
        dropped
    }

    /// Takes what waits for `peer`.
    pub(super) fn take(&mut self, key: &PublicKey) -> Option<Waiting> {
        let waiting = self.peers.remove(key)?;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }

    /// The peers that something waits for.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values().map(|waiting| &waiting.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> Arc<Peer> {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        Arc::new(Peer::new(PublicKey::from_bytes(key)))
    }

    #[test]
    fn frames_wait_in_order_and_the_oldest_give_way() {
        let (mut staging, peer) = (Staging::default(), peer(1));
        let dropped: u64 = (0..200u8).map(|n| staging.push(&peer, &[n])).sum();
        assert_eq!(dropped, 200 - 128);
        assert!(staging.holds(&peer));
        let waiting = staging.take(&peer.key).unwrap();
        assert!(waiting.frames.iter().zip(200 - 128..).all(|(frame, n)| frame == &[n]));
        assert!(staging.is_empty() && staging.bytes == 0);
    }

    #[test]
    fn bytes_are_bounded_for_each_peer_and_altogether() {
        let mut staging = Staging::default();
        let frame = vec![0; 60_000];
        for n in 0..100 {
            let peer = peer(n);
            (0..100).for_each(|_| _ = staging.push(&peer, &frame));
            let waiting = staging.peers[&peer.key].bytes;
            assert!(waiting <= BYTES_MAX && staging.bytes <= TOTAL_BYTES_MAX);
        }
        assert!(staging.bytes > TOTAL_BYTES_MAX - BYTES_MAX);
        (0..10_000).for_each(|n| _ = staging.push(&peer(n), &[1]));
        assert_eq!(staging.peers.len(), PEERS_MAX);
    }
}
