//! Frames that wait for a session, in order, bounded for each peer and altogether.
//!
//! All memory is there from the start: a frame lies in a chain of blocks of one pool, and is put
//! together again when it goes. Blocks that nothing has waited in yet take no physical memory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::table::peer::Peer;

/// Frames that wait for one peer at most: the kernel's `MAX_STAGED_PACKETS`.
const FRAMES_MAX: usize = 128;
/// Their bytes; a frame may be a super-packet.
const BYTES_MAX: usize = 1 << 20;
/// Bytes that wait in one worker, each frame rounded up to whole blocks.
const TOTAL_BYTES_MAX: usize = 16 << 20;
/// Peers that frames wait for in one worker.
pub(super) const PEERS_MAX: usize = 4096;
/// The longest frame: a virtio header and the largest IP packet.
pub(super) const FRAME_LEN_MAX: usize = 10 + 65_535;

const BLOCK_LEN: usize = 1 << 10;
const BLOCKS: u32 = 1 << 14;
const _: () = assert!(BLOCKS as usize * BLOCK_LEN == TOTAL_BYTES_MAX);
/// No block.
const NONE: u32 = u32::MAX;

/// What waits in one worker.
pub(super) struct Staging {
    /// By the address of the peer, which is held and so is nobody else's: one that was removed and
    /// added again is another.
    peers: HashMap<usize, Waiting>,
    pool: Pool,
}

/// What waits for one peer: at least one frame.
struct Waiting {
    peer: Arc<Peer>,
    /// The first block of the oldest and of the newest frame.
    oldest: u32,
    newest: u32,
    count: usize,
    bytes: usize,
}

impl Staging {
    pub(super) fn new() -> Self {
        // Twice the room that is used: a map that is never more than half full makes place for
        // new entries where it is.
        Self { peers: HashMap::with_capacity(2 * PEERS_MAX), pool: Pool::new() }
    }

    /// Whether anything waits for `peer`: then what follows must wait behind it.
    #[inline]
    pub(super) fn holds(&self, peer: &Arc<Peer>) -> bool {
        !self.peers.is_empty() && self.peers.contains_key(&address(peer))
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Keeps a copy of `frame`; returns how many frames were dropped to make room, the oldest of
    /// this peer first, in the end the frame itself.
    pub(super) fn push(&mut self, peer: &Arc<Peer>, frame: &[u8]) -> u64 {
        let refused = frame.len() > FRAME_LEN_MAX || self.peers.len() >= PEERS_MAX;
        if refused && !(frame.len() <= FRAME_LEN_MAX && self.holds(peer)) {
            return 1;
        }
        let mut dropped = 0;
        loop {
            let waiting = self.peers.get(&address(peer));
            let (count, bytes) = waiting.map_or((0, 0), |waiting| (waiting.count, waiting.bytes));
            if count < FRAMES_MAX
                && bytes + frame.len() <= BYTES_MAX
                && let Some(first) = self.pool.store(frame)
            {
                self.append(peer, first, frame.len());
                return dropped;
            }
            dropped += 1;
            if self.drop_oldest(peer).is_none() {
                return dropped;
            }
        }
    }

    fn append(&mut self, peer: &Arc<Peer>, first: u32, len: usize) {
        let waiting = self.peers.entry(address(peer)).or_insert_with(|| Waiting {
            peer: Arc::clone(peer),
            oldest: first,
            newest: NONE,
            count: 0,
            bytes: 0,
        });
        if let Some(newest) = self.pool.blocks.get_mut(waiting.newest as usize) {
            newest.next_frame = first;
        }
        waiting.newest = first;
        waiting.count += 1;
        waiting.bytes += len;
    }

    /// Takes the oldest frame that waits for `peer`, into `room`.
    pub(super) fn pop<'a>(&mut self, peer: &Arc<Peer>, room: &'a mut [u8]) -> Option<&'a [u8]> {
        let oldest = self.peers.get(&address(peer))?.oldest;
        let len = self.pool.load(oldest, room);
        self.drop_oldest(peer)?;
        room.get(..len)
    }

    /// Forgets the oldest frame that waits for `peer`; none if nothing does.
    fn drop_oldest(&mut self, peer: &Arc<Peer>) -> Option<()> {
        let waiting = self.peers.get_mut(&address(peer))?;
        let (len, next_frame) = self.pool.free(waiting.oldest);
        waiting.oldest = next_frame;
        waiting.count -= 1;
        waiting.bytes -= len;
        if waiting.count == 0 {
            self.peers.remove(&address(peer));
        }
        Some(())
    }

    /// Forgets everything that waits for `peer`; returns how many frames that was.
    pub(super) fn forget(&mut self, peer: &Arc<Peer>) -> u64 {
        let mut count = 0;
        while self.drop_oldest(peer).is_some() {
            count += 1;
        }
        count
    }

    /// The peers that something waits for.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values().map(|waiting| &waiting.peer)
    }
}

#[inline]
fn address(peer: &Arc<Peer>) -> usize {
    Arc::as_ptr(peer).addr()
}

/// The memory, in blocks that are free or belong to one frame.
struct Pool {
    bytes: Box<[u8]>,
    blocks: Box<[Block]>,
    /// The first free block.
    free: u32,
    free_count: usize,
}

#[derive(Clone)]
struct Block {
    /// The next one of the frame, or the next free one.
    next: u32,
    /// In the first block of a frame: its length, and where the next frame of its peer begins.
    len: u32,
    next_frame: u32,
}

impl Pool {
    fn new() -> Self {
        let block = |number| Block {
            next: if number + 1 < BLOCKS { number + 1 } else { NONE },
            len: 0,
            next_frame: NONE,
        };
        Self {
            bytes: vec![0; TOTAL_BYTES_MAX].into(),
            blocks: (0..BLOCKS).map(block).collect(),
            free: 0,
            free_count: BLOCKS as usize,
        }
    }

    /// Copies `frame` into free blocks; the first of them, or none if there are not enough.
    fn store(&mut self, frame: &[u8]) -> Option<u32> {
        if frame.len().div_ceil(BLOCK_LEN).max(1) > self.free_count {
            return None;
        }
        let first = self.free;
        let mut rest = frame;
        loop {
            let number = self.free as usize;
            let (now, later) = rest.split_at(rest.len().min(BLOCK_LEN));
            let place = number * BLOCK_LEN;
            self.bytes.get_mut(place..place + now.len())?.copy_from_slice(now);
            let block = self.blocks.get_mut(number)?;
            self.free_count -= 1;
            self.free = block.next;
            rest = later;
            if rest.is_empty() {
                block.next = NONE;
                break;
            }
        }
        let block = self.blocks.get_mut(first as usize)?;
        (block.len, block.next_frame) = (u32::try_from(frame.len()).ok()?, NONE);
        Some(first)
    }

    /// Copies the frame that begins at `first` to the start of `room`; returns its length.
    fn load(&self, first: u32, room: &mut [u8]) -> usize {
        let len =
            self.blocks.get(first as usize).map_or(0, |block| block.len as usize).min(room.len());
        let mut number = first as usize;
        for part in room[..len].chunks_mut(BLOCK_LEN) {
            let place = number * BLOCK_LEN;
            let (Some(bytes), Some(block)) =
                (self.bytes.get(place..place + part.len()), self.blocks.get(number))
            else {
                break;
            };
            part.copy_from_slice(bytes);
            number = block.next as usize;
        }
        len
    }

    /// Gives the blocks of a frame back; returns its length and where the next frame begins.
    fn free(&mut self, first: u32) -> (usize, u32) {
        let Some(block) = self.blocks.get(first as usize) else { return (0, NONE) };
        let (len, next_frame) = (block.len as usize, block.next_frame);
        let mut number = first;
        while let Some(block) = self.blocks.get_mut(number as usize) {
            let next = std::mem::replace(&mut block.next, self.free);
            self.free = number;
            self.free_count += 1;
            number = next;
        }
        (len, next_frame)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::wireguard::keys::PublicKey;

    fn peer(n: u32) -> Arc<Peer> {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        Arc::new(Peer::new(PublicKey::from_bytes(key)))
    }

    fn pop(staging: &mut Staging, peer: &Arc<Peer>) -> Option<Vec<u8>> {
        staging.pop(peer, &mut [0; FRAME_LEN_MAX]).map(<[u8]>::to_vec)
    }

    #[test]
    fn frames_wait_in_order_and_the_oldest_give_way() {
        let (mut staging, peer) = (Staging::new(), peer(1));
        let dropped: u64 = (0..200u8).map(|n| staging.push(&peer, &[n])).sum();
        assert_eq!(dropped, 200 - 128);
        assert!(staging.holds(&peer));
        let waiting: Vec<_> = std::iter::from_fn(|| pop(&mut staging, &peer)).collect();
        assert!(waiting.len() == 128 && waiting.iter().zip(72..).all(|(frame, n)| frame == &[n]));
        assert!(staging.is_empty() && staging.pool.free_count == BLOCKS as usize);
    }

    #[test]
    fn bytes_are_bounded_for_each_peer_and_altogether() {
        let mut staging = Staging::new();
        let frame = vec![0; FRAME_LEN_MAX];
        let peers: Vec<_> = (0..10_000).map(peer).collect();
        for peer in &peers[..100] {
            (0..100).for_each(|_| _ = staging.push(peer, &frame));
            assert!(staging.peers.values().all(|waiting| waiting.bytes <= BYTES_MAX));
        }
        assert!(staging.pool.free_count * BLOCK_LEN < BYTES_MAX);
        peers.iter().for_each(|peer| _ = staging.push(peer, &[1]));
        assert!(staging.peers.len() <= PEERS_MAX);
        peers.iter().for_each(|peer| _ = staging.forget(peer));
        assert_eq!(peers.iter().map(|peer| staging.push(peer, &[1])).sum::<u64>(), 10_000 - 4096);
        assert_eq!(staging.push(&peers[0], &[0; FRAME_LEN_MAX + 1]), 1, "longer than any frame");
    }

    #[test]
    fn peers_that_come_and_go_take_no_more_memory() {
        let mut staging = Staging::new();
        let capacity = staging.peers.capacity();
        let mut waiting = VecDeque::new();
        for n in 0..40_000 {
            let peer = peer(n);
            assert_eq!(staging.push(&peer, &[1; 2000]), 0);
            waiting.push_back(peer);
            if waiting.len() == PEERS_MAX {
                staging.forget(&waiting.pop_front().unwrap());
            }
        }
        assert_eq!(staging.peers.capacity(), capacity);
    }

    #[test]
    fn a_peer_that_was_removed_and_added_again_is_another() {
        let (mut staging, old, new) = (Staging::new(), peer(1), peer(1));
        staging.push(&old, &[1]);
        assert!(!staging.holds(&new));
        staging.push(&new, &[2]);
        assert_eq!(staging.forget(&old), 1);
        assert_eq!(pop(&mut staging, &new), Some(vec![2]));
    }

    proptest! {
        #[test]
        fn it_is_a_queue_for_each_peer(
            steps in prop::collection::vec((0..4usize, 0..6u8, 0..FRAME_LEN_MAX), 1..200)
        ) {
            let (mut staging, peers) = (Staging::new(), [0, 1, 2, 3].map(peer));
            let mut queues = [const { VecDeque::<Vec<u8>>::new() }; 4];
            for (i, (n, what, len)) in (0u8..).zip(steps) {
                let (peer, queue) = (&peers[n], &mut queues[n]);
                match what {
                    0 => prop_assert_eq!(staging.forget(peer), queue.drain(..).count() as u64),
                    1 | 2 => prop_assert_eq!(pop(&mut staging, peer), queue.pop_front()),
                    _ => {
                        let frame: Vec<u8> = vec![i; len];
                        let dropped = staging.push(peer, &frame);
                        queue.push_back(frame);
                        queue.drain(..usize::try_from(dropped).unwrap());
                        let bytes = queue.iter().map(Vec::len).sum::<usize>();
                        prop_assert!(queue.len() <= FRAMES_MAX && bytes <= BYTES_MAX);
                    }
                }
                prop_assert_eq!(staging.holds(peer), !queue.is_empty());
            }
        }
    }
}
