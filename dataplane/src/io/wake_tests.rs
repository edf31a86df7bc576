//! Wakes that come at a bad moment.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::bounded;

use super::mmsg::{Mmsg, MmsgConfig};
use super::uring::{Uring, UringConfig};
use super::{Backend, BusyPoll, Files, Handler, Received, Transmit};
use crate::sys;

/// Is woken again while it looks at what it was woken for.
struct Woken {
    wake: Arc<OwnedFd>,
    turns: usize,
}

impl Handler for Woken {
    fn start_of_turn(&mut self, _: &mut impl Transmit) {
        self.turns += 1;
        if self.turns == 1 {
            sys::event::signal(&self.wake);
        }
    }

    fn frame(&mut self, _: &[u8], _: &mut impl Transmit) {}

    fn datagrams(&mut self, _: Received<'_>, _: &mut impl Transmit) {}

    fn end_of_turn(&mut self, _: &mut impl Transmit) {}
}

fn a_second_turn_comes<B: Backend>(start: impl FnOnce(Files) -> std::io::Result<B>) {
    let (tun, _other) = UnixDatagram::pair().unwrap();
    tun.set_nonblocking(true).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let wake = Arc::new(sys::event::create().unwrap());
    let files = Files {
        queues: vec![Arc::new(tun.into())],
        queue: 0,
        sockets: vec![Arc::new(socket.into())],
        connected: Vec::new(),
        claims: Arc::default(),
        stamps: None,
        wake: Arc::clone(&wake),
    };
    // Where the kernel has no io_uring for us there is nothing to see.
    let Ok(mut backend) = start(files) else { return };
    let mut handler = Woken { wake: Arc::clone(&wake), turns: 0 };
    let (done, given_up) = (AtomicBool::new(false), AtomicBool::new(false));
    sys::event::signal(&wake);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..500 {
                thread::sleep(Duration::from_millis(10));
                if done.load(Ordering::Acquire) {
                    return;
                }
            }
            given_up.store(true, Ordering::Release);
            sys::event::signal(&wake);
        });
        while handler.turns < 2 && !given_up.load(Ordering::Acquire) {
            backend.turn(&mut handler).unwrap();
        }
        done.store(true, Ordering::Release);
    });
    assert!(!given_up.load(Ordering::Acquire), "the wake was lost");
}

#[test]
fn a_wake_in_the_middle_of_a_turn_makes_another_turn() {
    for busy_poll in [BusyPoll::Off, BusyPoll::Auto, BusyPoll::On] {
        let (notices, _kept) = bounded(1);
        let told = notices.clone();
        a_second_turn_comes(|files| {
            Mmsg::new(files, MmsgConfig { gso: false, busy_poll }, Arc::default(), told)
        });
        a_second_turn_comes(|files| {
            let config = UringConfig { multishot_read: false, gso: false, busy_poll };
            Uring::new(files, config, Arc::default(), notices)
        });
    }
}
