//! The real `wg` against the real server and a fake device.
//!
//! `wg` looks only in `/var/run/wireguard`, so it runs in a mount namespace where that is the
//! test's folder: root, `unshare` and `wg` are needed, hence `cargo test -- --ignored real_wg`.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::fake_tests::{Dir, Fake};
use super::listener::Listener;
use super::server::Server;

const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const PUBLIC: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const OTHER: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";
const PSK: &str = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=";

struct Wg {
    dir: Dir,
    device: Arc<Fake>,
    _server: Server,
}

impl Wg {
    fn new(test: &str) -> Self {
        let dir = Dir::new(test);
        let device = Arc::new(Fake::default());
        let listener = Listener::bind(&dir.0, &"wg0".parse().unwrap()).unwrap();
        let server = Server::start(listener, device.clone()).unwrap();
        Self { dir, device, _server: server }
    }

    fn run(&self, arguments: &str, input: &str) -> Output {
        let script = format!(
            "d=$(mktemp -d) && mount --bind {} $d && mount -t tmpfs none /run && \
             mkdir /run/wireguard && mount --move $d /run/wireguard && rmdir $d; wg {arguments}",
            self.dir.0.display()
        );
        let mut child = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What `wg` prints, which must succeed.
    fn wg(&self, arguments: &str, input: &str) -> String {
        let output = self.run(arguments, input);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "wg {arguments}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `wg` complains about, which must fail.
    fn complaint(&self, arguments: &str) -> String {
        let output = self.run(arguments, "");
        assert!(!output.status.success(), "wg {arguments} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn config() -> String {
    format!(
        "[Interface]\nListenPort = 51820\nFwMark = 0xca6c\nPrivateKey = {PRIVATE}\n\n\
         [Peer]\nPublicKey = {PEER}\nPresharedKey = {PSK}\nAllowedIPs = 10.0.0.0/8, fd00::/8\n\
         Endpoint = 192.0.2.1:51820\nPersistentKeepalive = 25\n"
    )
}

#[test]
#[ignore = "needs root, unshare and wg"]
fn real_wg_reads_what_it_has_set() {
    let wg = Wg::new("wg-config");
    assert_eq!(wg.wg("show interfaces", ""), "wg0\n");
    wg.wg("setconf wg0 /dev/stdin", &config());
    let shown = wg.wg("showconf wg0", "");
    for line in config().lines() {
        assert!(shown.contains(line), "{line:?} is missing in\n{shown}");
    }
    wg.device.with_peer(0, |peer| {
        peer.last_handshake = Some(Duration::new(1_700_000_000, 1));
        peer.received_bytes = 1 << 40;
        peer.sent_bytes = 3;
        peer.endpoint = Some("[fe80::1%1]:9".parse().unwrap());
    });
    let dump = wg.wg("show all dump", "");
    let expected = format!(
        "wg0\t{PRIVATE}\t{PUBLIC}\t51820\t0xca6c\n\
         wg0\t{PEER}\t{PSK}\t[fe80::1%lo]:9\t10.0.0.0/8,fd00::/8\t1700000000\t{}\t3\t25\n",
        1u64 << 40
    );
    assert_eq!(dump, expected);
    assert!(wg.wg("show", "").contains("transfer: 1.00 TiB received, 3 B sent"));
}

#[test]
#[ignore = "needs root, unshare and wg"]
fn real_wg_changes_peers() {
    let wg = Wg::new("wg-peers");
    wg.wg("setconf wg0 /dev/stdin", &config());
    wg.wg("addconf wg0 /dev/stdin", &format!("[Peer]\nPublicKey = {OTHER}\n"));
    assert_eq!(wg.wg("show wg0 peers", ""), format!("{PEER}\n{OTHER}\n"));
    wg.wg(&format!("set wg0 peer {OTHER} allowed-ips 10.0.0.0/8,10.1.2.3/32"), "");
    let allowed = wg.wg("show wg0 allowed-ips", "");
    assert_eq!(allowed, format!("{PEER}\tfd00::/8\n{OTHER}\t10.0.0.0/8 10.1.2.3/32\n"));
    wg.wg(&format!("set wg0 peer {OTHER} persistent-keepalive 7 endpoint [::1]:5"), "");
    let endpoints = wg.wg("show wg0 endpoints", "");
    assert_eq!(endpoints, format!("{PEER}\t192.0.2.1:51820\n{OTHER}\t[::1]:5\n"));
    wg.wg(&format!("set wg0 peer {PEER} preshared-key /dev/null remove"), "");
    assert_eq!(wg.wg("show wg0 peers", ""), format!("{OTHER}\n"));
    wg.wg("syncconf wg0 /dev/stdin", &config());
    assert_eq!(wg.wg("show wg0 peers", ""), format!("{PEER}\n"));
    assert_eq!(wg.wg("show wg0 preshared-keys", ""), format!("{PEER}\t{PSK}\n"));
}

#[test]
#[ignore = "needs root, unshare and wg"]
fn real_wg_changes_the_device_and_says_what_went_wrong() {
    let wg = Wg::new("wg-device");
    wg.wg("set wg0 private-key /dev/stdin listen-port 7 fwmark 0x10", &format!("{PRIVATE}\n"));
    assert_eq!(wg.wg("show wg0 public-key", ""), format!("{PUBLIC}\n"));
    assert_eq!(wg.wg("show wg0 fwmark", ""), "0x10\n");
    wg.wg("set wg0 private-key /dev/null fwmark off", "");
    assert_eq!(wg.wg("show wg0 public-key", ""), "(none)\n");
    assert_eq!(wg.wg("show wg0 fwmark", ""), "off\n");
    let complaint = wg.complaint(&format!("set wg0 listen-port {}", Fake::TAKEN_PORT));
    assert!(complaint.contains("Address already in use"), "{complaint}");
    wg.device.fail_get(libc::ENOMEM);
    let complaint = wg.complaint("show wg0");
    assert!(complaint.contains("Cannot allocate memory"), "{complaint}");
}

#[test]
#[ignore = "needs root, unshare and wg"]
fn real_wg_sets_ten_thousand_peers() {
    let wg = Wg::new("wg-many");
    let key = |number: u32| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        crate::wire::wireguard::keys::PublicKey::from_bytes(bytes)
    };
    let mut text = format!("[Interface]\nPrivateKey = {PRIVATE}\n");
    for number in 0..10_000u32 {
        let [_, _, high, low] = number.to_be_bytes();
        text += &format!("[Peer]\nPublicKey = {}\nAllowedIPs = ", key(number));
        let prefixes: Vec<_> = (0..10).map(|i| format!("10.{high}.{low}.{i}/32")).collect();
        text += &format!("{}\n", prefixes.join(", "));
    }
    // A fake that looks through all peers for each prefix would take its time.
    wg.device.forget_allowed_ips();
    let file = wg.dir.0.join("config");
    fs::write(&file, text).unwrap();
    wg.wg(&format!("setconf wg0 {}", file.display()), "");
    let dump = wg.wg("show wg0 dump", "");
    assert_eq!(dump.lines().count(), 10_001);
}

#[test]
#[ignore = "needs root, unshare and wg of 1.0.20250521 or later"]
fn newer_wg_adds_and_removes_single_allowed_ips() {
    let wg = Wg::new("wg-single");
    wg.wg("setconf wg0 /dev/stdin", &config());
    wg.wg(&format!("set wg0 peer {PEER} allowed-ips +10.1.0.0/16,-10.0.0.0/8"), "");
    assert_eq!(wg.wg("show wg0 allowed-ips", ""), format!("{PEER}\t10.1.0.0/16 fd00::/8\n"));
    wg.wg(&format!("set wg0 peer {PEER} allowed-ips ::/0"), "");
    assert_eq!(wg.wg("show wg0 allowed-ips", ""), format!("{PEER}\t::/0\n"));
}
