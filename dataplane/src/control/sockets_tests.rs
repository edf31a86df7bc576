//! Binding on loopback: order, options, and that a port in use is noticed.

use super::super::plan::{Encap, IoChoice, Options, Tuning};
use super::super::values::Workers;
use super::*;
use crate::table::sessions::worker_of;

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn plan(listen: &str) -> Plan {
    let options = Options {
        name: "rt0".parse().unwrap(),
        addresses: Vec::new(),
        listen: vec![listen.parse().unwrap()],
        peer: "127.0.0.1:9".parse().unwrap(),
        encap: Some(Encap::Plain),
        mtu: None,
        workers: Workers::Count(2),
        io: IoChoice::Auto,
        tuning: Tuning::default(),
    };
    Plan::new(options, &[0, 1]).unwrap()
}

#[test]
fn one_socket_a_worker_with_its_options() {
    let port = free_port();
    let bound = Bound::bind(&plan(&format!("127.0.0.1:{port}"))).unwrap();
    assert_eq!(bound.workers.len(), 2);
    assert!(bound.udp_gro);
    assert!(bound.buffers.receive_bytes > 0 && bound.buffers.send_bytes > 0);
    assert_eq!(bound.watchers().len(), 2);
    for worker in &bound.workers {
        let socket = worker.v4.as_ref().unwrap();
        assert_eq!(socket.local_addr().unwrap().port(), port);
        let discover =
            sys::socket_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER).unwrap();
        assert_eq!(discover, libc::IP_PMTUDISC_DONT);
        let blocked = socket.recv(&mut [0; 1]).unwrap_err();
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
    }
}

/// A socket that is connected leaves the group, in whose order the program counts.
#[test]
fn messages_find_their_worker_whoever_is_connected() {
    let workers = Workers::Count(2);
    let plan = Plan::wireguard("wg0".parse().unwrap(), &workers, IoChoice::Auto, &[0, 1]);
    let bound = Bound::bind_wireguard(&plan.unwrap(), 0, 0).unwrap();
    assert_eq!(bound.peer_steering, "receiver index");
    let to = bound.listen[0].port();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let assert_steered = |when: &str| {
        for index in 0..4_u8 {
            let message = [4, 0, 0, 0, index, 0, 0, 0, 1];
            sender.send_to(&message, ("127.0.0.1", to)).unwrap();
            let worker = worker_of(index.into(), 2);
            let socket = bound.workers[worker].v4.as_ref().unwrap();
            let received = socket.recv(&mut [0; 16]);
            assert!(matches!(received, Ok(9)), "{index} {when}: {received:?}");
        }
    };
    assert_steered("at first");
    let (here, elsewhere) = ("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap());
    let peers = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    // Nobody may connect a socket that does not say so to all of the network.
    let refused: SocketAddr = "255.255.255.255:9".parse().unwrap();
    for worker in &bound.workers {
        let connect = |to, source| {
            crate::sys::datagram::connect_anew(worker.connected[0].as_fd(), to, source)
        };
        connect(refused, here).unwrap_err();
        assert_steered("after a first connection that failed");
        connect(peers[0], here).unwrap();
        assert_steered("with one connected");
        connect(peers[1], here).unwrap();
        assert_steered("with one connected again");
        connect(peers[0], elsewhere).unwrap();
        assert_steered("with one connected for another address");
        connect(refused, elsewhere).unwrap_err();
        assert_steered("after another connection that failed");
    }
}

#[test]
fn a_second_ringtun_does_not_join_silently() {
    let plan = plan(&format!("127.0.0.1:{}", free_port()));
    let _first = Bound::bind(&plan).unwrap();
    let error = Bound::bind(&plan).unwrap_err();
    assert!(matches!(error, SocketsError::InUse { .. }));
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
}

#[test]
fn a_port_alone_listens_on_what_the_host_has() {
    let bound = Bound::bind(&plan(&free_port().to_string())).unwrap();
    assert!(bound.listen[0].is_ipv4());
    let with_ipv6 = UdpSocket::bind("[::1]:0").is_ok();
    assert_eq!(bound.workers[1].v6.is_some(), with_ipv6);
}

#[test]
fn a_foreign_address_is_named() {
    let error = Bound::bind(&plan("192.0.2.1:51820")).unwrap_err();
    assert!(matches!(error, SocketsError::NotLocal { .. }), "{error}");
}

#[test]
fn starters_take_turns() {
    let port = free_port();
    let turn = take_turn(port).unwrap();
    let waiting = thread::spawn(move || take_turn(port).is_some());
    thread::sleep(Duration::from_millis(30));
    assert!(!waiting.is_finished());
    drop(turn);
    assert!(waiting.join().unwrap());
}
