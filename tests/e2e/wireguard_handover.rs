//! Two workers that help each other with the traffic of one peer: they do, and nothing changes
//! places.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::lab::traffic::{Stop, TcpStreams, UdpSequences, tcp_streams, udp_sequences};
use ringtun::lab::{Host, Process};
use ringtun_tests::place::how_long;
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::PATIENCE;

use crate::wireguard::{both, inner, reaches, status, stop};

pub(crate) fn cases() -> Vec<Case> {
    let case = |io| {
        let name = format!("wireguard::{io}::two_workers_keep_the_order");
        Case::new(name, move || order(io))
    };
    ["uring", "mmsg"].map(case).into()
}

/// More than they can do, of several flows but one peer, each way in turn: with io_uring they help
/// each other to seal and to open.
fn order(io: &str) {
    let (pair, _, mut processes) = both(io, &["--workers", "2"]);
    assert!(reaches(&pair, 0, inner(1), PATIENCE));
    let both_ways = [(&pair.left, &pair.right, 1), (&pair.right, &pair.left, 0)];
    for (from, to, receiver) in both_ways {
        let address = SocketAddr::new(inner(receiver), 0);
        flood(from, to, address, how_long(Duration::from_millis(500)));
        if io != "uring" {
            continue;
        }
        // Of the sender few batches are to be opened, of the receiver few are to be sealed.
        let until = Instant::now() + PATIENCE;
        let before = handed_over(1 - receiver);
        while handed_over(1 - receiver) == before {
            assert!(Instant::now() < until, "nobody helps to seal");
            super_packets_and_others(from, to, address);
        }
        // It would keep up, on a machine that is busy with all the rest, too.
        let before = handed_over(receiver);
        while handed_over(receiver) == before {
            assert!(Instant::now() < until, "nobody helps to open");
            flood_while_it_stands_still(from, to, address, &mut processes[receiver]);
        }
    }
    let until = Instant::now() + PATIENCE;
    // A batch is counted at both its ends, not at the same instant.
    for end in 0..2 {
        while handed_over(end) != helped(end) {
            assert!(Instant::now() < until, "{} {}", handed_over(end), helped(end));
            thread::sleep(Duration::from_millis(10));
        }
        assert!(io == "uring" || handed_over(end) == 0);
    }
    processes.into_iter().for_each(stop);
}

/// What it is flooded with meanwhile waits for it, and then it has the machine for itself.
fn flood_while_it_stands_still(
    from: &Host,
    to: &Host,
    address: SocketAddr,
    receiver: &mut Process,
) {
    receiver.signal(libc::SIGSTOP).unwrap();
    thread::scope(|scope| {
        let load = scope.spawn(|| flood(from, to, address, Duration::from_millis(100)));
        thread::sleep(Duration::from_millis(150));
        receiver.signal(libc::SIGCONT).unwrap();
        load.join().unwrap();
    });
}

fn flood(from: &Host, to: &Host, address: SocketAddr, duration: Duration) {
    let plan =
        UdpSequences { flows: 4, duration, packets_per_second: None, ..UdpSequences::default() };
    let total = udp_sequences(from, to, address, &plan, &Stop::default()).unwrap().total();
    let wrong = (total.reordered, total.duplicated, total.corrupted);
    assert!(total.received > 0 && wrong == (0, 0, 0), "{total:?}");
}

/// Frames that are handed over and, of other flows, frames that are not: these keep their order.
fn super_packets_and_others(from: &Host, to: &Host, address: SocketAddr) {
    let duration = Duration::from_millis(300);
    let load = TcpStreams { streams: 2, duration, bytes_max: None, verify: None };
    let packets_per_second = Some(5_000.0);
    let plan = UdpSequences { flows: 4, duration, packets_per_second, ..UdpSequences::default() };
    thread::scope(|scope| {
        let udp = scope.spawn(|| udp_sequences(from, to, address, &plan, &Stop::default()));
        tcp_streams(from, to, address, &load, &Stop::default()).unwrap();
        let total = udp.join().unwrap().unwrap().total();
        let wrong = (total.reordered, total.duplicated, total.corrupted);
        assert!(total.received > 0 && wrong == (0, 0, 0), "{total:?}");
    });
}

fn handed_over(end: usize) -> u64 {
    status(end).unwrap().workers.iter().map(|worker| worker.handed_over).sum()
}

fn helped(end: usize) -> u64 {
    status(end).unwrap().workers.iter().map(|worker| worker.helped).sum()
}
