//! ringtun on this machine's kernel, and the WireGuard of the guest's kernel: two machines on a
//! network card.
//!
//! ```text
//! here:      rt-out 10.9.0.1 fd09::1 ── tap0 192.0.2.1    ringtun up --config
//! the guest: wg0    10.9.0.2 fd09::2 ── eth0 192.0.2.2    this binary as [`serve`]
//! ```

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringtun::control::socket::query;
use ringtun::lab::{Address, Host, Process};
use ringtun::wire::wireguard::keys::{PresharedKey, PrivateKey};
use ringtun_tests::place::{binary, find_program};
use ringtun_tests::suite::Case;

use crate::ends::{patience, run, until};
use crate::guest::{Machine, folder, missing};

const DEVICE: &str = "rt-out";
const TAP: &str = "tap0";
/// Echoes what it is sent.
const ECHO_PORT: u16 = 7;
/// What one echo sends, and gets back.
const ECHO_LEN: usize = 4 << 20;
/// A boot under load.
const BOOT: Duration = Duration::from_secs(120);

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, first| {
        Case::maybe(format!("guest::outside::{name}"), move || {
            let missing = missing();
            if missing.is_none() {
                across(first);
            }
            missing
        })
    };
    vec![case("a_handshake_from_ringtun", First::Here), case("a_handshake_from_it", First::There)]
}

/// Who knows where the other is, and therefore starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Here,
    There,
}

fn configs(first: First) -> [String; 2] {
    let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
    let psk = PresharedKey::generate().unwrap();
    [0, 1].map(|own: usize| {
        let (this, that) = (own + 1, 2 - own);
        let mut text = String::from("[Interface]\n");
        if own == 0 {
            text += "Address = 10.9.0.1/24, fd09::1/64\n";
        }
        text += &format!(
            "PrivateKey = {}\nListenPort = 5182{this}\n[Peer]\nPublicKey = {}\n\
             PresharedKey = {}\nAllowedIPs = 10.9.0.{that}/32, fd09::{that}/128\n",
            keys[own].to_base64().as_str(),
            keys[1 - own].public(),
            psk.to_base64().as_str(),
        );
        if (own == 0) == (first == First::Here) {
            text += &format!("Endpoint = 192.0.2.{that}:5182{that}\n");
        }
        text
    })
}

fn across(first: First) {
    let host = Host::new("outside").unwrap();
    let [ours, theirs] = configs(first);
    let config = "/run/rt-out.conf";
    fs::write(config, ours).unwrap();
    fs::set_permissions(config, fs::Permissions::from_mode(0o600)).unwrap();
    let copy = folder().join("wg0.conf");
    fs::write(&copy, theirs).unwrap();
    let machine = Machine::new("outside", vec![copy]);
    let mut guest = host.spawn(machine.command("env RINGTUN_GUEST=serve full", Some(TAP))).unwrap();
    until("QEMU has made its network", || {
        assert!(guest.ended().unwrap().is_none(), "{}", guest.stderr());
        host.has_interface(TAP).unwrap()
    });
    host.add_address(TAP, Address { ip: [192, 0, 2, 1].into(), prefix_len: 24 }).unwrap();
    host.set_up(TAP).unwrap();
    let mut ringtun = start(&host, config);
    let begin = Instant::now();
    while !guest.stdout().contains("GUEST serves") {
        assert!(guest.ended().unwrap().is_none() && begin.elapsed() < BOOT, "{}", guest.stdout());
        thread::sleep(Duration::from_millis(50));
    }
    if first == First::There {
        until("the guest starts a handshake", || {
            let status = query(&socket()).unwrap();
            status.peers[0].last_handshake_s.is_some()
        });
    }
    for to in ["10.9.0.2", "fd09::2"] {
        let to: IpAddr = to.parse().unwrap();
        if find_program("ping").is_some() {
            let said = run(&host, "ping", &["-c", "5", "-i", "0.2", "-W", "5", &to.to_string()]);
            assert!(said.contains(" 0% packet loss"), "{said}");
        }
        host.run(|| echo(SocketAddr::new(to, ECHO_PORT))).unwrap();
    }
    let status = query(&socket()).unwrap();
    let peer = &status.peers[0];
    assert!(peer.preshared_key && peer.last_handshake_s.is_some(), "{peer:?}");
    assert!(peer.received_bytes > 2 * ECHO_LEN as u64, "{peer:?}");
    assert!(ringtun.terminate(patience()).unwrap().success(), "{}", ringtun.stderr());
}

fn socket() -> std::path::PathBuf {
    format!("/run/ringtun/{DEVICE}.sock").into()
}

fn start(host: &Host, config: &str) -> Process {
    let mut command = Command::new(binary());
    command.args(["up", DEVICE, "--config", config]).env("NO_COLOR", "1");
    let mut process = host.spawn(command).unwrap();
    until("ringtun is up", || {
        assert!(process.ended().unwrap().is_none(), "{}", process.stderr());
        query(&socket()).is_ok_and(|status| !status.listen.is_empty())
    });
    process
}

/// Sends a sequence and compares what comes back with it.
fn echo(to: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&to, patience()).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    stream.set_write_timeout(Some(patience())).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let sent: Vec<u8> = (0..ECHO_LEN / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    let mut sender = stream.try_clone().unwrap();
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            sender.write_all(&sent).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received == sent, "{} bytes of {} came back, or others", received.len(), sent.len());
}

/// What this binary does in the guest: the far end, until the guest is ended from outside.
pub(crate) fn serve() -> io::Result<()> {
    for words in [
        "ip address add 192.0.2.2/24 dev eth0",
        "ip link set eth0 up",
        "ip link add wg0 type wireguard",
        "wg setconf wg0 /bin/wg0.conf",
        "ip address add 10.9.0.2/24 dev wg0",
        "ip address add fd09::2/64 dev wg0 nodad",
        "ip link set wg0 up",
    ] {
        let mut parts = words.split(' ');
        let status = Command::new(parts.next().unwrap_or_default()).args(parts).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("{words}: {status}")));
        }
    }
    let listener = TcpListener::bind(("::", ECHO_PORT))?;
    // Has this end start the handshake when it knows where the other is.
    let prod = UdpSocket::bind("0.0.0.0:0")?;
    thread::spawn(move || {
        loop {
            let _ = prod.send_to(b"?", "10.9.0.1:9");
            thread::sleep(Duration::from_millis(200));
        }
    });
    writeln!(io::stdout(), "GUEST serves")?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || io::copy(&mut &stream, &mut &stream));
    }
    Ok(())
}
