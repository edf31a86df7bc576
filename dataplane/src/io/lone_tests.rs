//! What comes alone leaves within its turn, without a submission that somebody has to wait for.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use crossbeam::channel::bounded;

use super::counters::Counters;
use super::uring::{Uring, UringConfig};
use super::{Backend, BusyPoll, Destination, Files, Handler, Received, Transmit};
use crate::packet::merge::Piece;
use crate::sys;

/// Sends every frame and writes every datagram, `copies` times.
struct Repeat {
    to: SocketAddr,
    copies: usize,
    taken: usize,
}

impl Handler for Repeat {
    fn start_of_turn(&mut self, _: &mut impl Transmit) {}

    fn frame(&mut self, frame: &[u8], tx: &mut impl Transmit) {
        self.taken += 1;
        for _ in 0..self.copies {
            let mut slot = tx.send_slot().unwrap();
            slot[..frame.len()].copy_from_slice(frame);
            let to = Destination { endpoint: self.to.into(), class: 0 };
            tx.send(slot, to, frame.len(), frame.len());
        }
    }

    fn datagrams(&mut self, received: Received<'_>, tx: &mut impl Transmit) {
        self.taken += 1;
        let len = u32::try_from(received.bytes.len()).unwrap();
        for _ in 0..self.copies {
            let piece = Piece { slot: received.slot, offset: received.offset, len };
            tx.write(0, &[], &[piece], 1, len);
        }
    }

    fn end_of_turn(&mut self, _: &mut impl Transmit) {}
}

/// A worker's files with their other ends.
struct Bench {
    files: Files,
    tun: UnixDatagram,
    peer: UdpSocket,
    own: SocketAddr,
}

impl Bench {
    fn new() -> Self {
        let (queue, tun) = UnixDatagram::pair().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        queue.set_nonblocking(true).unwrap();
        tun.set_nonblocking(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        let own = socket.local_addr().unwrap();
        let files = Files {
            queues: vec![Arc::new(queue.into())],
            queue: 0,
            sockets: vec![Arc::new(socket.into())],
            connected: Vec::new(),
            claims: Arc::default(),
            stamps: None,
            wake: Arc::new(sys::event::create().unwrap()),
        };
        Self { files, tun, peer, own }
    }
}

/// How many of `copies` are out when the turn that took their cause has ended, and how many after
/// one more: first of sends, then of tun writes.
fn out_after(copies: usize, multishot_read: bool) -> Option<[[usize; 2]; 2]> {
    let Bench { files, tun, peer, own } = Bench::new();
    let wake = Arc::clone(&files.wake);
    let (notices, _kept) = bounded(1);
    let config = UringConfig { multishot_read, gso: false, busy_poll: BusyPoll::Off };
    // Where the kernel has no io_uring for us there is nothing to see.
    let mut backend = Uring::new(files, config, Arc::default(), notices).ok()?;
    let mut handler = Repeat { to: peer.local_addr().unwrap(), copies, taken: 0 };
    let mut after_turns = |cause: &dyn Fn(), out: &dyn Fn() -> usize| {
        handler.taken = 0;
        cause();
        while handler.taken == 0 {
            backend.turn(&mut handler).unwrap();
        }
        let at_once = out();
        sys::event::signal(&wake);
        backend.turn(&mut handler).unwrap();
        [at_once, at_once + out()]
    };
    let sent = || std::iter::from_fn(|| peer.recv(&mut [0; 8]).ok()).count();
    let written = || std::iter::from_fn(|| tun.recv(&mut [0; 8]).ok()).count();
    Some([
        after_turns(&|| assert_eq!(tun.send(b"frame").unwrap(), 5), &sent),
        after_turns(&|| assert_eq!(peer.send_to(b"datagram", own).unwrap(), 8), &written),
    ])
}

#[test]
fn one_of_a_kind_leaves_within_its_turn_and_more_together() {
    for multishot_read in [false, true] {
        let alone = out_after(1, multishot_read);
        assert!(alone.is_none_or(|out| out == [[1, 1]; 2]), "{alone:?}");
        let three = out_after(3, multishot_read);
        assert!(three.is_none_or(|out| out == [[0, 3]; 2]), "{three:?}");
    }
}

/// A worker that keeps looking acts on all that it finds before it looks again: a frame that a poll
/// has told of is not left alone until the next look has been in vain.
#[test]
fn what_was_found_is_acted_on_before_the_next_look() {
    for multishot_read in [false, true] {
        let Bench { files, tun, peer, own } = Bench::new();
        let (notices, _kept) = bounded(1);
        let config = UringConfig { multishot_read, gso: false, busy_poll: BusyPoll::On };
        let counters = Arc::<Counters>::default();
        let Ok(mut backend) = Uring::new(files, config, Arc::clone(&counters), notices) else {
            continue;
        };
        let mut handler = Repeat { to: peer.local_addr().unwrap(), copies: 1, taken: 0 };
        let causes: [&dyn Fn(); 2] = [&|| assert_eq!(tun.send(b"frame").unwrap(), 5), &|| {
            assert_eq!(peer.send_to(b"datagram", own).unwrap(), 8)
        }];
        for cause in causes.into_iter().cycle().take(6) {
            while counters.polls.get() == 0 {
                backend.turn(&mut handler).unwrap();
            }
            let in_vain = || counters.polls.get() - counters.polls_won.get();
            let before = in_vain();
            handler.taken = 0;
            cause();
            while handler.taken == 0 {
                backend.turn(&mut handler).unwrap();
            }
            assert_eq!(in_vain(), before, "multishot: {multishot_read}");
        }
    }
}
