//! How a tunnel ends, and what it survives: signals, its device deleted or moved, links that go
//! down and come back.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringtun::lab::Host;
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, Io, PATIENCE, Side, Tunnel, dropped};

type Test = fn(Io);

pub(crate) fn cases() -> Vec<Case> {
    let tests: [(&str, Test); 9] = [
        ("sigterm_leaves_nothing", |io| signal(io, libc::SIGTERM)),
        ("sigint_leaves_nothing", |io| signal(io, libc::SIGINT)),
        ("a_kill_leaves_what_the_next_start_removes", kill),
        ("device_deleted_underneath", deleted),
        ("device_moved_to_another_namespace", moved),
        ("device_deleted_in_another_namespace", deleted_elsewhere),
        ("device_down_and_up_under_traffic", device_down),
        ("wire_down_and_up", wire_down),
        ("mtu_changed_while_running", mtu_changed),
    ];
    let mut cases = Vec::new();
    for io in [Io::Uring, Io::SingleShot, Io::Mmsg] {
        for (name, test) in tests {
            cases.push(Case::new(format!("{}::{name}", io.name()), move || test(io)));
        }
    }
    cases
}

fn signal(io: Io, signal: i32) {
    let mut tunnel = Tunnel::new(io, Family::V4, &[]);
    tunnel.assert_passes();
    tunnel.left.stop(&tunnel.pair.left, signal);
    // A second start finds everything free.
    tunnel.restart_left();
    tunnel.assert_passes();
    tunnel.stop();
}

fn kill(io: Io) {
    let mut tunnel = Tunnel::new(io, Family::V4, &[]);
    tunnel.assert_passes();
    tunnel.left.process.signal(libc::SIGKILL).unwrap();
    tunnel.left.process.wait_timeout(PATIENCE).unwrap().unwrap();
    assert!(tunnel.left.socket.exists(), "nobody could remove the socket");
    tunnel.restart_left();
    tunnel.assert_passes();
    tunnel.stop();
}

fn deleted(io: Io) {
    let mut tunnel = Tunnel::new(io, Family::V4, &[]);
    tunnel.assert_passes();
    tunnel.pair.left.delete_link(Side::Left.device()).unwrap();
    ends_with_its_device(&mut tunnel);
}

fn ends_with_its_device(tunnel: &mut Tunnel) {
    let code = tunnel.left.exit_code(Duration::from_secs(2));
    let log = tunnel.left.process.stderr();
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("the device was deleted"), "{log}");
    tunnel.left.assert_gone(&tunnel.pair.left);
}

/// Moves the left device away, with its address; returns where it is.
fn move_away(tunnel: &Tunnel) -> Host {
    let elsewhere = Host::new("elsewhere").unwrap();
    let device = Side::Left.device();
    tunnel.assert_passes();
    tunnel.pair.left.move_link(device, &elsewhere).unwrap();
    elsewhere.add_address(device, "10.7.0.1/24".parse().unwrap()).unwrap();
    elsewhere.set_up(device).unwrap();
    tunnel.assert_reaches(&elsewhere, Family::V4);
    elsewhere
}

fn moved(io: Io) {
    let mut tunnel = Tunnel::new(io, Family::V4, &[]);
    let elsewhere = move_away(&tunnel);
    let to = SocketAddr::new(Side::Right.inner(Family::V4), 0);
    Tunnel::tcp_between((&elsewhere, &tunnel.pair.right), to, 1, 1 << 20);
    assert!(tunnel.left.process.ended().unwrap().is_none());
    // And back home again.
    let device = Side::Left.device();
    elsewhere.move_link(device, &tunnel.pair.left).unwrap();
    tunnel.pair.left.add_address(device, "10.7.0.1/24".parse().unwrap()).unwrap();
    tunnel.pair.left.set_up(device).unwrap();
    tunnel.assert_passes();
    tunnel.stop();
}

fn deleted_elsewhere(io: Io) {
    let mut tunnel = Tunnel::new(io, Family::V4, &[]);
    let elsewhere = move_away(&tunnel);
    elsewhere.delete_link(Side::Left.device()).unwrap();
    ends_with_its_device(&mut tunnel);
}

/// Packets in both directions until dropped, whatever becomes of them.
fn with_trickle(tunnel: &Tunnel, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let socket = |side: Side| {
        let socket = tunnel.host(side).run(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap().unwrap();
        socket.connect((side.other().inner(Family::V4), 9)).unwrap();
        socket
    };
    let sockets = [socket(Side::Left), socket(Side::Right)];
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for socket in &sockets {
                    // Refused while the link is down: that is what this is for.
                    let _ = socket.send(&[0; 100]);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
}

fn device_down(io: Io) {
    let mut tunnel = Tunnel::new(io, Family::V4, &[]);
    tunnel.assert_passes();
    let device = Side::Left.device();
    with_trickle(&tunnel, || {
        for _ in 0..3 {
            let before = dropped(&tunnel.left.status(), "tun_down");
            tunnel.pair.left.set_down(device).unwrap();
            tunnel.left.status_when("dropped because its device is down", |status| {
                dropped(status, "tun_down") > before
            });
            tunnel.pair.left.set_up(device).unwrap();
            tunnel.assert_passes();
        }
    });
    assert!(tunnel.left.process.ended().unwrap().is_none());
    assert!(tunnel.left.log_count("was brought down") > 0);
    tunnel.stop();
}

fn wire_down(io: Io) {
    let tunnel = Tunnel::new(io, Family::V4, &[]);
    tunnel.assert_passes();
    with_trickle(&tunnel, || {
        for _ in 0..3 {
            let before = dropped(&tunnel.left.status(), "send_unreachable");
            tunnel.pair.left.set_down("eth0").unwrap();
            tunnel.left.status_when("without a route to the peer", |status| {
                dropped(status, "send_unreachable") > before
            });
            tunnel.pair.left.set_up("eth0").unwrap();
            tunnel.pair.left.wait_running("eth0").unwrap();
            tunnel.assert_passes();
        }
    });
    tunnel.stop();
}

fn mtu_changed(io: Io) {
    let tunnel = Tunnel::new(io, Family::V4, &[]);
    let before = tunnel.left.status();
    for side in [Side::Left, Side::Right] {
        tunnel.host(side).set_mtu(side.device(), 1_300).unwrap();
    }
    let after = tunnel.left.status_when("told the new MTU", |status| {
        status.mtu == 1_300 && status.gso_max_size != before.gso_max_size
    });
    // One frame is still one send: a multiple of what a packet holds, below what a send takes.
    assert!((40_000..=65_536).contains(&after.gso_max_size), "{}", after.gso_max_size);
    tunnel.tcp(Side::Left, Family::V4, 1, 1 << 20);
    tunnel.stop();
}
