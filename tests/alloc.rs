//! Fixed memory: a worker allocates nothing between its first turn and its last.
//!
//! The left end is built here out of ringtun's library, and its worker runs on a thread whose
//! allocations are counted; the right end is a `ringtun up` process.
#![allow(clippy::unwrap_used)]

mod alloc_handover;
mod alloc_wireguard;

use alloc_handover::workers_that_help_each_other_allocate_nothing as helping;
use alloc_wireguard::a_wireguard_worker_allocates_nothing_after_start as wireguard;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use crossbeam::channel::{Sender, bounded};
use ringtun::control::host::TunDevice;
use ringtun::control::plan::{Encap, IoChoice, Options, Plan, Tuning};
use ringtun::control::sockets::Bound;
use ringtun::control::values::Workers;
use ringtun::engine::AeadLibrary;
use ringtun::io::counters::Counters;
use ringtun::io::mmsg::{Mmsg, MmsgConfig};
use ringtun::io::outbox::Notice;
use ringtun::io::uring::{Uring, UringConfig};
use ringtun::io::{Backend, BusyPoll, Files};
use ringtun::lab::traffic::{Stop, TcpStreams, UdpSequences, tcp_streams, udp_sequences};
use ringtun::lab::{Host, Pair};
use ringtun::packet::merge::MergeConfig;
use ringtun::sys::event;
use ringtun::worker;
use ringtun::worker::inbound::Inbound;
use ringtun::worker::outbound::Outbound;
use ringtun::worker::path::Path;
use ringtun::worker::steering::Steering;
use ringtun_tests::place::how_long;
use ringtun_tests::suite::{self, Case};
use ringtun_tests::tunnel::{Engine, Family, Io, PATIENCE, Side, arguments};

fn main() -> ExitCode {
    let backends = [Io::Uring, Io::SingleShot, Io::Mmsg];
    let mut cases = vec![Case::new("the_counter_counts", the_counter_counts)];
    cases.extend(backends.map(|io| {
        let name = format!("{}::a_worker_allocates_nothing_after_start", io.name());
        Case::new(name, move || allocates_nothing(io))
    }));
    let name = "wireguard::a_worker_allocates_nothing_after_start";
    cases.push(Case::new(name, || wireguard(&AeadLibrary::Ring)));
    let name = "wireguard::workers_that_help_each_other_allocate_nothing";
    cases.push(Case::new(name, || helping(&AeadLibrary::Ring)));
    let name = "wireguard::ipsec_mb::a_worker_allocates_nothing_after_start";
    cases.push(Case::maybe(name, || match AeadLibrary::ipsec_mb() {
        Ok(library) => {
            wireguard(&library);
            helping(&library);
            None
        }
        Err(error) => Some(format!("{error} (apt install libipsec-mb1)")),
    }));
    suite::run(cases)
}

fn the_counter_counts() {
    let info = measure(|| drop(std::hint::black_box(Box::new(1_u32))));
    assert_eq!(info.count_total, 1);
}

/// What the measured thread shares with the test.
struct Shared {
    stop: Arc<AtomicBool>,
    wake: Arc<std::os::fd::OwnedFd>,
    counters: Arc<Counters>,
}

fn allocates_nothing(io: Io) {
    let pair = Pair::new().unwrap();
    let words = [arguments(Side::Right, io, Family::V4), vec!["--workers".into(), "1".into()]];
    let mut right = Engine::start(&pair.right, &words.concat());
    right.wait();
    let shared = Shared {
        stop: Arc::new(AtomicBool::new(false)),
        wake: Arc::new(event::create().unwrap()),
        counters: Arc::default(),
    };
    let (ready, is_ready) = mpsc::channel();
    let info = thread::scope(|scope| {
        let (host, shared) = (&pair.left, &shared);
        let worker = scope.spawn(move || host.run(|| run(io, shared, &ready)).unwrap());
        is_ready.recv_timeout(PATIENCE).unwrap();
        let carried = catch_unwind(AssertUnwindSafe(|| traffic(&pair.left, &pair.right)));
        shared.stop.store(true, Ordering::Release);
        event::signal(&shared.wake);
        let info = worker.join().unwrap();
        carried.unwrap();
        info
    });
    let Counters { outbound, inbound, .. } = &*shared.counters;
    for direction in [outbound, inbound] {
        assert!(direction.packets.get() > 1_000, "too little traffic: {direction:?}");
    }
    assert!(inbound.packets.get() > shared.counters.tun_writes().total(), "nothing was merged");
    assert_eq!(info.count_total, 0, "{info:?} over {:?}", shared.counters);
    right.stop(&pair.right, libc::SIGTERM);
}

/// Builds the left end and runs its worker on this thread; what allocates is counted.
fn run(io: Io, shared: &Shared, ready: &mpsc::Sender<()>) -> AllocationInfo {
    let plan = plan(io);
    let device = TunDevice::create(&plan).unwrap();
    let mut bound = Bound::bind(&plan).unwrap();
    let sockets = bound.workers.remove(0);
    let files = Files {
        queues: device.queue_descriptors().unwrap().into_iter().map(Arc::new).collect(),
        queue: 0,
        sockets: vec![Arc::new(sockets.v4.unwrap().into())],
        connected: Vec::new(),
        claims: Arc::default(),
        stamps: None,
        wake: Arc::clone(&shared.wake),
    };
    let steering = Steering::new(1);
    let merge = MergeConfig { tcp4: true, tcp6: true, udp: device.offloads().uso };
    let counters = || Arc::clone(&shared.counters);
    let peer = plan.peer.unwrap();
    let path = Path::Plain {
        outbound: Outbound::new(peer, 0, steering.clone(), counters()),
        inbound: Inbound::new(peer, steering, merge, counters()),
    };
    // One place: a notice would be lost, not allocated for.
    let (notices, _kept) = bounded(1);
    let multishot_read = io == Io::Uring;
    if io == Io::Mmsg {
        let backend = Mmsg::new(
            files,
            MmsgConfig { gso: true, busy_poll: BusyPoll::Auto },
            counters(),
            notices,
        )
        .unwrap();
        return count(backend, path, shared, ready);
    }
    let config = UringConfig { multishot_read, gso: true, busy_poll: BusyPoll::Auto };
    let backend = uring(files, config, counters(), notices);
    count(backend, path, shared, ready)
}

fn uring(
    files: Files,
    config: UringConfig,
    counters: Arc<Counters>,
    notices: Sender<Notice>,
) -> Uring {
    Uring::new(files, config, counters, notices).unwrap()
}

fn count(
    backend: impl Backend,
    path: Path,
    shared: &Shared,
    ready: &mpsc::Sender<()>,
) -> AllocationInfo {
    ready.send(()).unwrap();
    let mut result = Ok(());
    let info = measure(|| result = worker::run(backend, path, &shared.stop));
    result.unwrap();
    info
}

fn plan(io: Io) -> Plan {
    let text = |text: &str| text.to_owned();
    let options = Options {
        name: Side::Left.device().parse().unwrap(),
        addresses: ["10.7.0.1/24"].map(|network| network.parse().unwrap()).into(),
        listen: vec![text("192.0.2.1:51820").parse().unwrap()],
        peer: text("192.0.2.2:51820").parse().unwrap(),
        encap: Some(Encap::Plain),
        mtu: None,
        workers: Workers::Count(1),
        io: if io == Io::Mmsg { IoChoice::Mmsg } else { IoChoice::Uring },
        tuning: Tuning::default(),
    };
    Plan::new(options, &[0]).unwrap()
}

/// TCP and UDP, each way, in small and in large packets.
fn traffic(left: &Host, right: &Host) {
    let stop = Stop::default();
    let duration = how_long(Duration::from_millis(500));
    let ends = [(left, right, Side::Right), (right, left, Side::Left)];
    for (from, to, at) in ends {
        let address = (at.inner(Family::V4), 0).into();
        let plan = TcpStreams { streams: 4, duration, bytes_max: None, verify: Some(1) };
        assert!(tcp_streams(from, to, address, &plan, &stop).unwrap().bytes > 0);
        for payload_len in [16, 1_400, 5_000] {
            let plan = UdpSequences {
                flows: 4,
                payload_len,
                duration: duration / 2,
                packets_per_second: Some(2_000.0),
                ..UdpSequences::default()
            };
            let report = udp_sequences(from, to, address, &plan, &stop).unwrap();
            assert!(report.total().received > 0, "{report:?}");
        }
    }
}
