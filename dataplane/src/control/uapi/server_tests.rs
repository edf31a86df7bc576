//! Requests as `wg` sends them, over a socket pair.

use std::sync::Mutex;

use super::super::DeviceStatus;
use super::*;
use crate::protocol::config::{DeviceUpdate, DeviceView, PeerView};
use crate::wire::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};

#[derive(Default)]
struct Fake {
    updates: Mutex<Vec<DeviceUpdate>>,
}

impl Device for Fake {
    fn get(&self) -> Result<DeviceStatus, i32> {
        let peer = PeerView {
            public_key: PublicKey::from_bytes([2; 32]),
            preshared_key: PresharedKey::default(),
            endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
            persistent_keepalive_s: 25,
            last_handshake: Some(Duration::new(1_700_000_000, 5)),
            received_bytes: 10,
            sent_bytes: 20,
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()],
        };
        let private_key = Some(PrivateKey::from_bytes([1; 32]));
        let view = DeviceView { private_key, peers: vec![peer] };
        Ok(DeviceStatus { view, listen_port: 51820, fwmark: 7 })
    }

    fn set(&self, update: DeviceUpdate) -> Result<(), i32> {
        let refused = update.listen_port == Some(1);
        self.updates.lock().unwrap().push(update);
        if refused { Err(libc::EADDRINUSE) } else { Ok(()) }
    }
}

/// What is answered to `request`, after which the client closes its side.
fn ask(device: &Fake, request: &str) -> String {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(request.as_bytes()).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    let _ = converse(&ours, device);
    drop(ours);
    let mut answer = String::new();
    theirs.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn get_tells_everything_in_the_order_of_the_protocol() {
    let answer = ask(&Fake::default(), "get=1\n\n");
    let keys: Vec<&str> = answer.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(
        keys,
        [
            "private_key",
            "listen_port",
            "fwmark",
            "public_key",
            "preshared_key",
            "protocol_version",
            "endpoint",
            "last_handshake_time_sec",
            "last_handshake_time_nsec",
            "tx_bytes",
            "rx_bytes",
            "persistent_keepalive_interval",
            "allowed_ip",
            "allowed_ip",
            "errno",
            "",
        ]
    );
    assert!(answer.contains("endpoint=[2001:db8::1]:51820\n") && answer.ends_with("errno=0\n\n"));
}

#[test]
fn set_is_carried_out_and_its_error_told() {
    let device = Fake::default();
    assert_eq!(
        ask(&device, "set=1\nlisten_port=5\n\nset=1\nlisten_port=1\n\n"),
        "errno=0\n\nerrno=98\n\n"
    );
    assert_eq!(device.updates.lock().unwrap().len(), 2);
}

#[test]
fn a_refused_line_changes_nothing_and_the_conversation_goes_on() {
    let device = Fake::default();
    assert_eq!(
        ask(&device, "set=1\nnonsense=1\nlisten_port=5\n\nset=1\n\n"),
        "errno=22\n\nerrno=0\n\n"
    );
    assert_eq!(device.updates.lock().unwrap().len(), 1);
}

#[test]
fn nonsense_ends_the_conversation() {
    let device = Fake::default();
    assert_eq!(ask(&device, "hello\n"), "errno=22\n\n");
    assert_eq!(ask(&device, &"x".repeat(5_000)), "");
    assert_eq!(ask(&device, "set=1\nlisten_port=5\n"), "", "cut short: not carried out");
    assert!(device.updates.lock().unwrap().is_empty());
}
