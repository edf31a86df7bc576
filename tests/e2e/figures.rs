//! What the figures promise: asleep when idle, memory flat, every packet accounted for; and the
//! control socket that tells them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use ringtun::control::status::Status;
use ringtun::sys::host::set_socket_option;
use ringtun_tests::place::how_long;
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Engine, Family, Io, PATIENCE, Side, Tunnel, difference, drops};

type Test = fn(Io);

pub(crate) fn cases() -> Vec<Case> {
    let tests: [(&str, Test); 3] = [
        ("idle_means_asleep", idle),
        ("memory_is_small_and_flat", memory),
        ("every_packet_is_accounted_for", accounting),
    ];
    let mut cases = Vec::new();
    for io in [Io::Uring, Io::SingleShot, Io::Mmsg] {
        for (name, test) in tests {
            cases.push(Case::new(format!("{}::{name}", io.name()), move || test(io)));
        }
    }
    cases.push(Case::new("control_socket::garbage_and_crowds", control_socket));
    cases
}

/// Voluntary context switches of each worker thread.
fn switches(engine: &Engine) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", engine.process.pid())).unwrap();
    let mut found = Vec::new();
    for task in tasks {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim().to_owned()
        };
        if value("Name:").starts_with("worker-") {
            found.push(value("voluntary_ctxt_switches:").parse().unwrap());
        }
    }
    found
}

fn thread_names(engine: &Engine) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", engine.process.pid())).unwrap();
    tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap()).collect()
}

fn idle(io: Io) {
    const SECONDS: u64 = 3;
    let tunnel = Tunnel::new(io, Family::V4, &["--workers", "2"]);
    tunnel.load(Side::Left, 2, Duration::from_millis(300));
    for engine in [&tunnel.left, &tunnel.right] {
        let names = thread_names(engine);
        assert!(!names.iter().any(|name| name.starts_with("iou-wrk")), "{names:?}");
    }
    // TIME-WAIT, late acknowledgements.
    thread::sleep(Duration::from_secs(1));
    let engines = [&tunnel.left, &tunnel.right];
    let before = engines.map(|engine| (engine.status(), switches(engine)));
    thread::sleep(Duration::from_secs(SECONDS));
    for (engine, (status, slept)) in engines.iter().zip(&before) {
        let (after, slept_after) = (engine.status(), switches(engine));
        assert_eq!((slept.len(), after.workers.len()), (2, 2));
        for (one, other) in status.workers.iter().zip(&after.workers) {
            let rise = (other.turns - one.turns, other.sleeps - one.sleeps);
            assert!(rise.0 < 2 * SECONDS && rise.1 < 2 * SECONDS, "turns and sleeps: {rise:?}");
        }
        for (one, other) in slept.iter().zip(&slept_after) {
            assert!(other - one < 2 * SECONDS, "context switches: {slept:?} {slept_after:?}");
        }
    }
    tunnel.stop();
}

/// A slot takes memory when it is used for the first time, so there is some growth until all have
/// been; beyond them there must be none.
fn memory(io: Io) {
    const MEGABYTE: u64 = 1_000_000;
    /// Both workers' slots for frames, receives of one family and sends, and 8 MB for the rest.
    const ALL_SLOTS: u64 = 2 * (128 + 128 + 64) * 65_536 + 8 * MEGABYTE;
    let tunnel = Tunnel::new(io, Family::V4, &["--workers", "2"]);
    let samples = |at: &[u64]| {
        let mut samples = Vec::new();
        let mut slept = 0;
        for &ms in at {
            thread::sleep(Duration::from_millis(ms - slept));
            slept = ms;
            samples.push([&tunnel.left, &tunnel.right].map(|engine| engine.status().memory_bytes));
        }
        samples
    };
    let samples = thread::scope(|scope| {
        for side in [Side::Left, Side::Right] {
            let tunnel = &tunnel;
            scope.spawn(move || tunnel.load(side, 2, how_long(Duration::from_millis(3_800))));
        }
        samples(&[1_500, 3_500])
    });
    let [first, last] = samples[..] else { panic!("two samples") };
    for (first, last) in first.into_iter().zip(last) {
        assert!(last < 150 * MEGABYTE, "{last} bytes");
        let flat = last.saturating_sub(first) < 5 * MEGABYTE;
        assert!(flat || last < ALL_SLOTS, "from {first} to {last} bytes");
    }
    tunnel.stop();
}

/// Fifty datagrams a send, and the next only when all have arrived: nothing may get lost, and
/// both ends must have counted each one.
fn accounting(io: Io) {
    const SENDS: u64 = 100;
    const SEGMENTS: u64 = 50;
    let tunnel = Tunnel::new(io, Family::V4, &[]);
    tunnel.assert_passes();
    let bind = |side: Side| {
        let at = SocketAddr::new(side.inner(Family::V4), 0);
        let socket = tunnel.host(side).run(|| UdpSocket::bind(at)).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let (sender, receiver) = (bind(Side::Left), bind(Side::Right));
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    set_socket_option(sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 200).unwrap();
    let before = (tunnel.left.status(), tunnel.right.status());
    let mut buffer = [0; 300];
    for _ in 0..SENDS {
        sender.send(&[0x55; 200 * 50]).unwrap();
        for _ in 0..SEGMENTS {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 200);
        }
    }
    // Sends and writes are counted a moment after their packets have arrived. The kernel may add
    // a packet of its own at any time (MLD); both ends must agree on those.
    let wanted = SENDS * SEGMENTS;
    let left = tunnel.left.status_when("all counted", |status| {
        difference(&before.0, status, |worker| &worker.outbound).packets >= wanted
    });
    let sent = difference(&before.0, &left, |worker| &worker.outbound);
    let right = tunnel.right.status_when("all counted", |status| {
        difference(&before.1, status, |worker| &worker.inbound).packets >= sent.packets
    });
    let received = difference(&before.1, &right, |worker| &worker.inbound);
    let after = (left, right);
    assert!((wanted..wanted + 10).contains(&sent.packets), "{sent:?}");
    assert_eq!((sent.packets, sent.bytes), (received.packets, received.bytes));
    let no_drops = |one: &Status, other: &Status| {
        assert_eq!(drops(one), drops(other));
        assert_eq!(one.kernel_drops.tun_queue_full, other.kernel_drops.tun_queue_full);
        assert_eq!(one.kernel_drops.socket_buffer_full, other.kernel_drops.socket_buffer_full);
    };
    no_drops(&before.0, &after.0);
    no_drops(&before.1, &after.1);
    flood(&tunnel);
    tunnel.stop();
}

/// More than fits: whatever does not arrive is in somebody's count.
fn flood(tunnel: &Tunnel) {
    let at = SocketAddr::new(Side::Left.inner(Family::V4), 0);
    let sender = tunnel.pair.left.run(|| UdpSocket::bind(at)).unwrap().unwrap();
    sender.connect((Side::Right.inner(Family::V4), 9)).unwrap();
    let before = (tunnel.left.status(), tunnel.right.status());
    let mut sent = 0;
    while sent < 5_000 {
        // The kernel tells of the closed port that the packets go to; those were not sent.
        sent += u64::from(sender.send(&[1; 1_000]).is_ok());
    }
    let dropped = |one: &Status, other: &Status| -> u64 {
        let all = |status: &Status| drops(status).values().sum::<u64>();
        let kernel = |status: &Status| status.kernel_drops.tun_queue_full;
        all(other) - all(one) + kernel(other) - kernel(one)
    };
    let left = tunnel.left.status_when("accounted for", |status| {
        let carried = difference(&before.0, status, |worker| &worker.outbound).packets;
        carried + dropped(&before.0, status) >= sent
    });
    let carried = difference(&before.0, &left, |worker| &worker.outbound).packets;
    assert!(carried + dropped(&before.0, &left) < sent + 10, "more than was sent");
    tunnel.right.status_when("accounted for", |status| {
        let passed = difference(&before.1, status, |worker| &worker.inbound).packets;
        let full = status.kernel_drops.socket_buffer_full;
        let full = full - before.1.kernel_drops.socket_buffer_full;
        // The kernel counts what it dropped in its own units: merged datagrams as one.
        passed + dropped(&before.1, status) >= carried || full > 0
    });
}

fn control_socket() {
    let tunnel = Tunnel::new(Io::Uring, Family::V4, &[]);
    let path = &tunnel.left.socket;
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let connect = || {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let answer = |mut stream: UnixStream, request: &[u8]| -> String {
        // A request that is refused half-way ends with the connection.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    assert!(answer(connect(), b"nonsense\n").contains("\"error\""));
    assert!(answer(connect(), b"\n\n\n").matches("\"error\"").count() == 3);
    assert!(answer(connect(), b"status\nstatus\r\n").matches("\"version\":1").count() == 2);
    assert_eq!(answer(connect(), b"status"), "", "no line, no answer");
    for noise in [vec![0; 100_000], vec![b'x'; 100_000], vec![0xff; 257], b"\0\n".to_vec()] {
        let said = answer(connect(), &noise);
        assert!(said.is_empty() || said.contains("\"error\""), "{said}");
    }
    // Half a line each, none of them closed, more than are served at once.
    let mut crowd: Vec<UnixStream> = (0..20).map(|_| connect()).collect();
    for stream in &mut crowd {
        let _ = stream.write_all(b"sta");
    }
    let mut served = 0;
    for stream in &mut crowd {
        let _ = stream.write_all(b"tus\n");
        let mut buffer = [0; 16];
        // Those who were turned away see the end or a reset at once, not a time-out.
        match stream.read(&mut buffer) {
            Ok(len) => served += usize::from(len > 0),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    assert!((10..20).contains(&served), "{served} were served");
    drop(crowd);
    tunnel.left.status_when_free();
    tunnel.assert_passes();
    tunnel.stop();
}
