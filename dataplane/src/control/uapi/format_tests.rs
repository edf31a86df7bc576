//! What `get` answers, byte by byte and read back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::fake_tests::{peer, prefix};
use super::format::write_status;
use super::parse::{Request, read_request};
use super::{Device, DeviceStatus};
use crate::protocol::config::{DeviceUpdate, DeviceView, PeerView};
use crate::table::allowed_ips::Prefix;
use crate::wire::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};

fn written(status: &DeviceStatus) -> String {
    let mut bytes = Vec::new();
    write_status(status, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn status(peers: Vec<PeerView>) -> DeviceStatus {
    let view = DeviceView { private_key: None, peers, refused_handshakes: 0 };
    DeviceStatus { view, listen_port: 0, fwmark: 0 }
}

/// As wireguard-go answered for the same device.
#[test]
fn the_answer_is_that_of_wireguard_go() {
    assert_eq!(written(&status(Vec::new())), "errno=0\n\n");
    let mut one = peer(PublicKey::from_bytes([0x11; 32]));
    one.endpoint = Some("1.2.3.4:5".parse().unwrap());
    one.persistent_keepalive_s = 25;
    one.allowed_ips = vec![prefix("10.0.0.0/8"), prefix("fd00::/8")];
    one.last_handshake = Some(Duration::new(1_700_000_000, 5));
    one.received_bytes = 7;
    one.sent_bytes = u64::MAX;
    let mut device = status(vec![one]);
    device.view.private_key = Some(PrivateKey::from_bytes([0xaa; 32]));
    device.listen_port = 57408;
    device.fwmark = 16;
    let expected = "\
        private_key=a8aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa6a\n\
        listen_port=57408\nfwmark=16\n\
        public_key=1111111111111111111111111111111111111111111111111111111111111111\n\
        preshared_key=0000000000000000000000000000000000000000000000000000000000000000\n\
        protocol_version=1\nendpoint=1.2.3.4:5\n\
        last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\n\
        tx_bytes=18446744073709551615\nrx_bytes=7\n\
        persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\n\
        errno=0\n\n";
    assert_eq!(written(&device), expected);
}

#[test]
fn a_large_answer_is_whole() {
    let peers = (0..3_000u32).map(|number| {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let mut peer = peer(PublicKey::from_bytes(key));
        peer.allowed_ips = vec![Prefix::new(number.to_be_bytes().into(), 32).unwrap()];
        peer
    });
    let text = written(&status(peers.collect()));
    assert_eq!(text.matches("public_key=").count(), 3_000);
    assert_eq!(text.matches("allowed_ip=0.0.").count(), 3_000);
    assert!(text.ends_with("\nerrno=0\n\n"));
}

/// The lines of an answer that may be set, as a request.
fn as_request(answer: &str) -> String {
    let told = ["last_handshake", "tx_bytes", "rx_bytes", "errno"];
    let lines = answer.lines().filter(|line| !told.iter().any(|word| line.starts_with(word)));
    lines.fold("set=1\n".to_owned(), |text, line| text + line + "\n")
}

/// Key, preshared key, endpoint, keepalive and allowed IPs.
type Parts = ([u8; 32], [u8; 32], Option<SocketAddr>, u16, BTreeSet<Prefix>);

fn any_parts() -> impl Strategy<Value = Parts> {
    let prefixes = proptest::collection::btree_set(any_prefix(), 0..5);
    (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<Option<SocketAddr>>(), any::<u16>(), prefixes)
}

fn peer_of((key, preshared_key, endpoint, keepalive, prefixes): Parts) -> PeerView {
    PeerView {
        preshared_key: PresharedKey::from_bytes(preshared_key),
        endpoint: endpoint.map(plain),
        persistent_keepalive_s: keepalive,
        allowed_ips: prefixes.into_iter().collect(),
        ..peer(PublicKey::from_bytes(key))
    }
}

/// Peers and prefixes that occur once only.
fn as_in_a_device(parts: Vec<Parts>) -> Vec<PeerView> {
    let mut keys = BTreeSet::new();
    let mut prefixes = BTreeSet::new();
    let mut peers: Vec<_> = parts.into_iter().map(peer_of).collect();
    peers.retain(|peer| keys.insert(peer.public_key));
    peers.iter_mut().for_each(|peer| peer.allowed_ips.retain(|prefix| prefixes.insert(*prefix)));
    peers
}

/// Without flow labels, which have no text, and mapped addresses, which become IPv4.
fn plain(endpoint: SocketAddr) -> SocketAddr {
    match endpoint {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_none() => {
            let scope_id = v6.scope_id();
            std::net::SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope_id).into()
        }
        other => SocketAddr::new(other.ip().to_canonical(), other.port()),
    }
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    (any::<std::net::IpAddr>(), 0..=128u8).prop_map(|(address, len)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        Prefix::new(address, len % (longest + 1)).unwrap()
    })
}

proptest! {
    #[test]
    fn what_is_written_can_be_set_again(
        key in proptest::option::of(any::<[u8; 32]>()),
        listen_port: u16,
        fwmark: u32,
        peers in proptest::collection::vec(any_parts(), 0..5),
    ) {
        let peers = as_in_a_device(peers);
        let private_key = key.map(PrivateKey::from_bytes);
        let view = DeviceView { private_key, peers, refused_handshakes: 0 };
        let first = written(&DeviceStatus { view, listen_port, fwmark });
        let request = as_request(&first);
        let Ok(Some(Request::Set(update))) = read_request(&mut request.as_bytes(), &|_| None)
        else {
            return Err(TestCaseError::fail(request));
        };
        let DeviceUpdate { replace_peers, .. } = update;
        prop_assert!(!replace_peers);
        let device = super::fake_tests::Fake::default();
        // The port that the fake holds taken.
        if device.set(update).is_ok() {
            prop_assert_eq!(written(&device.get().unwrap()), first);
        }
    }
}
