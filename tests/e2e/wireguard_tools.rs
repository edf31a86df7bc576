//! ringtun as the real `wg` sees and sets it, and the configuration protocol word by word.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use ringtun::wire::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};
use ringtun_tests::device::{Device, Link, NAMES, ask, endpoint, peer_lines, run, try_run};
use ringtun_tests::place::find_program;
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, PORT};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("wireguard::uapi_changes_what_it_says", uapi_changes),
        Case::new("wireguard::uapi_refuses_by_errno_and_changes_nothing", uapi_refuses),
    ];
    let tests: [(&str, fn()); 4] = [
        ("shows_everything", wg_show),
        ("sets_everything", wg_set),
        ("hears_refusals", wg_refusals),
        ("reads_files", wg_files),
    ];
    for (name, test) in tests {
        cases.push(Case::maybe(format!("wireguard::wg_{name}"), move || {
            if find_program("wg").is_none() {
                return Some("no wg here (apt install wireguard-tools)".to_owned());
            }
            test();
            None
        }));
    }
    cases
}

/// Runs `wg` at left.
fn wg(link: &Link, words: &[&str]) -> String {
    run(&link.pair.left, "wg", words)
}

/// A file that only its owner may read.
fn private_file(name: &str, text: &str) -> String {
    let path = format!("/run/{name}");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn wg_show() {
    let link = Link::new(Family::V4);
    let psk = PresharedKey::generate().unwrap();
    // Right first: left calls as soon as it has a keepalive.
    for (n, keepalive_s) in [(1, 0), (0, 25)] {
        let peer = peer_lines(&link.public(1 - n), None, &[]);
        link.devices[n].set(&format!(
            "fwmark=4660\n{peer}preshared_key={}\n\
             persistent_keepalive_interval={keepalive_s}\n",
            psk.to_hex().as_str()
        ));
    }
    link.assert_passes(0);
    let show = |form: &str| wg(&link, &["show", NAMES[0], form]);
    let (own, peer) = (link.public(0).to_string(), link.public(1).to_string());
    let (private, psk) = (link.keys[0].to_base64(), psk.to_base64());
    let allowed = ["10.9.0.2/32", "fd09::2/128"];
    assert_eq!(show("public-key"), format!("{own}\n"));
    assert_eq!(show("private-key"), format!("{}\n", private.as_str()));
    assert_eq!(show("listen-port"), "51820\n");
    assert_eq!(show("fwmark"), "0x1234\n");
    assert_eq!(show("peers"), format!("{peer}\n"));
    assert_eq!(show("preshared-keys"), format!("{peer}\t{}\n", psk.as_str()));
    assert_eq!(show("endpoints"), format!("{peer}\t192.0.2.2:51820\n"));
    assert_eq!(show("allowed-ips"), format!("{peer}\t{}\n", allowed.join(" ")));
    assert_eq!(show("persistent-keepalive"), format!("{peer}\t25\n"));
    let lines = link.devices[0].peer(&link.public(1));
    let (rx, tx) = (lines.figure("rx_bytes"), lines.figure("tx_bytes"));
    assert!(rx >= 92 && tx >= 148, "a handshake is {rx}, {tx} bytes");
    assert_eq!(show("transfer"), format!("{peer}\t{rx}\t{tx}\n"));
    let handshake = lines.figure("last_handshake_time_sec");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 20..=now).contains(&handshake));
    assert_eq!(show("latest-handshakes"), format!("{peer}\t{handshake}\n"));
    let device = format!("{}\t{own}\t51820\t0x1234", private.as_str());
    let rest = format!(
        "{peer}\t{}\t192.0.2.2:51820\t{}\t{handshake}\t{rx}\t{tx}\t25",
        psk.as_str(),
        allowed.join(",")
    );
    assert_eq!(show("dump"), format!("{device}\n{rest}\n"));
    // Both devices of this lab are found by their sockets.
    let all = wg(&link, &["show", "all", "dump"]);
    for line in [format!("wg-l\t{device}"), format!("wg-l\t{rest}")] {
        assert!(all.lines().any(|found| found == line), "{line}: {all}");
    }
    let mut interfaces: Vec<_> =
        wg(&link, &["show", "interfaces"]).split_whitespace().map(str::to_owned).collect();
    interfaces.sort();
    assert_eq!(interfaces, NAMES);
    let text = wg(&link, &["show", NAMES[0]]);
    for words in [&own, &peer, "(hidden)", "listening port: 51820", "every 25 seconds", "transfer:"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(wg(&link, &[]).contains(&own), "without words it shows all");
    link.stop();
}

fn wg_set() {
    let link = Link::new(Family::V4);
    link.assert_passes(0);
    let left = &link.devices[0];
    let other = PrivateKey::generate().unwrap().public();
    let psk = PresharedKey::generate().unwrap();
    let psk_file = private_file("psk", psk.to_base64().as_str());
    let name = other.to_string();
    let set = |text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        wg(&link, &[&["set", NAMES[0]], &words[..]].concat());
    };
    set(&format!(
        "fwmark 0x77 peer {name} preshared-key {psk_file} endpoint [fd00:2::9]:7 \
         persistent-keepalive 9 allowed-ips 10.77.0.0/16,fd77::/16"
    ));
    let lines = left.peer(&other);
    assert_eq!(lines.one("preshared_key"), Some(psk.to_hex().as_str()));
    assert_eq!(lines.one("endpoint"), Some("[fd00:2::9]:7"));
    assert_eq!(lines.figure("persistent_keepalive_interval"), 9);
    assert_eq!(lines.all("allowed_ip"), ["10.77.0.0/16", "fd77::/16"]);
    assert!(left.get().contains("fwmark=119\n"));
    // What is not said stays; allowed IPs are replaced; words take things away.
    set(&format!(
        "fwmark off peer {name} preshared-key /dev/null persistent-keepalive off \
         allowed-ips 10.78.0.0/16"
    ));
    let lines = left.peer(&other);
    assert_eq!(lines.figure("persistent_keepalive_interval"), 0);
    assert_eq!(lines.all("allowed_ip"), ["10.78.0.0/16"]);
    assert_eq!(lines.one("endpoint"), Some("[fd00:2::9]:7"));
    assert_eq!(lines.one("preshared_key").unwrap().trim_matches('0'), "");
    assert!(!left.get().contains("fwmark="));
    set(&format!("peer {name} allowed-ips "));
    assert!(left.peer(&other).all("allowed_ip").is_empty());
    set(&format!("peer {name} remove"));
    assert!(left.find_peer(&other).is_none());
    // A key from a file; the same one: the session stands.
    let key_file = private_file("key", link.keys[0].to_base64().as_str());
    set(&format!("private-key {key_file}"));
    link.assert_passes(0);
    set("listen-port 40404");
    link.assert_passes(0);
    link.stop();
}

/// Refusals are told as the kernel tells them, and change nothing.
fn wg_refusals() {
    let link = Link::new(Family::V4);
    link.assert_passes(0);
    let left = &link.devices[0];
    let before = settings(left);
    let taken = link.pair.left.run(|| UdpSocket::bind(("0.0.0.0", 40_404))).unwrap().unwrap();
    let refused = |words: &[&str]| {
        let (success, said) = try_run(&link.pair.left, "wg", words);
        assert!(!success, "{words:?}: {said}");
        said
    };
    let said = refused(&["set", NAMES[0], "listen-port", "40404"]);
    assert!(said.contains("Address already in use"), "{said}");
    // All of a request or nothing.
    let key_file = private_file("other-key", PrivateKey::generate().unwrap().to_base64().as_str());
    let said = refused(&[
        "set",
        NAMES[0],
        "fwmark",
        "0x99",
        "listen-port",
        "40404",
        "private-key",
        &key_file,
    ]);
    assert!(said.contains("Address already in use"), "{said}");
    assert_eq!(settings(left), before);
    refused(&["set", NAMES[0], "peer", "nonsense", "remove"]);
    refused(&["set", "wg-none", "listen-port", "1"]);
    refused(&["show", "wg-none"]);
    assert_eq!(settings(left), before);
    link.assert_passes(0);
    drop(taken);
    wg(&link, &["set", NAMES[0], "fwmark", "0x99", "listen-port", "40404"]);
    assert!(left.get().contains("fwmark=153\n") && left.get().contains("listen_port=40404\n"));
    link.assert_passes(0);
    link.stop();
}

/// What can be set, without figures.
fn settings(device: &Device) -> Vec<String> {
    let told = ["last_handshake", "tx_bytes", "rx_bytes"];
    let text = device.get();
    let lines = text.lines().filter(|line| !told.iter().any(|word| line.starts_with(word)));
    lines.map(str::to_owned).collect()
}

fn wg_files() {
    let link = Link::new(Family::V4);
    link.assert_passes(0);
    let left = &link.devices[0];
    let session = || left.peer(&link.public(1)).figure("last_handshake_time_nsec");
    let first = session();
    let shown = wg(&link, &["showconf", NAMES[0]]);
    let file = private_file("own.conf", &shown);
    let before = settings(left);
    let other = PrivateKey::generate().unwrap().public();
    let more = private_file(
        "more.conf",
        &format!("[Peer]\nPublicKey = {other}\nAllowedIPs = 10.66.0.0/16\n"),
    );
    wg(&link, &["addconf", NAMES[0], &more]);
    assert_eq!(left.peer(&other).all("allowed_ip"), ["10.66.0.0/16"]);
    assert_ne!(settings(left), before);
    // What the file does not name goes; what it names goes on as it was, session and all.
    wg(&link, &["syncconf", NAMES[0], &file]);
    assert_eq!(settings(left), before);
    link.assert_passes(0);
    assert_eq!(session(), first, "syncconf touched a peer that did not change");
    wg(&link, &["addconf", NAMES[0], &more]);
    wg(&link, &["setconf", NAMES[0], &file]);
    assert_eq!(settings(left), before);
    assert_eq!(wg(&link, &["showconf", NAMES[0]]), shown);
    link.assert_passes(0);
    assert_ne!(session(), first, "setconf replaces all peers");
    let broken = private_file("broken.conf", "[Interface]\nListenPort = many\n");
    assert!(!try_run(&link.pair.left, "wg", &["setconf", NAMES[0], &broken]).0);
    assert_eq!(settings(left), before);
    link.stop();
}

fn keys() -> [PublicKey; 2] {
    [1, 2].map(|_| PrivateKey::generate().unwrap().public())
}

fn uapi_changes() {
    let link = Link::new(Family::V4);
    let left = &link.devices[0];
    let [one, two] = keys();
    let only = |key: &PublicKey, lines: &str| {
        left.set(&format!("{}{lines}", peer_lines(key, None, &[])));
    };
    // Nobody is made by update_only, and somebody who is there is changed.
    only(&one, "update_only=true\npersistent_keepalive_interval=5\n");
    assert!(left.find_peer(&one).is_none());
    left.set(&peer_lines(&one, None, &["10.1.0.0/16", "10.2.0.0/16", "fd01::/16"]));
    only(&one, "update_only=true\npersistent_keepalive_interval=5\n");
    assert_eq!(left.peer(&one).figure("persistent_keepalive_interval"), 5);
    // Prefixes: added, taken away singly, replaced, moved by being given to another.
    only(&one, "allowed_ip=+10.3.0.0/16\nallowed_ip=-10.2.0.0/16\nallowed_ip=-10.9.9.0/24\n");
    assert_eq!(left.peer(&one).all("allowed_ip"), ["10.1.0.0/16", "10.3.0.0/16", "fd01::/16"]);
    left.set(&peer_lines(&two, None, &["10.3.0.0/16"]));
    assert_eq!(left.peer(&one).all("allowed_ip"), ["10.1.0.0/16", "fd01::/16"]);
    only(&two, "allowed_ip=-10.1.0.0/16\n");
    assert_eq!(left.peer(&one).all("allowed_ip").len(), 2, "another's prefix cannot be taken away");
    only(&one, "replace_allowed_ips=true\nallowed_ip=10.4.5.6/8\n");
    assert_eq!(left.peer(&one).all("allowed_ip"), ["10.0.0.0/8"], "without its host bits");
    only(&one, "replace_allowed_ips=true\n");
    assert!(left.peer(&one).all("allowed_ip").is_empty());
    // Several peers in one request, one of them removed, in order.
    left.set(&format!(
        "{}{}remove=true\n{}",
        peer_lines(&one, None, &["10.1.0.0/16"]),
        peer_lines(&two, None, &[]),
        peer_lines(&link.public(1), None, &["10.8.0.0/16"]),
    ));
    assert!(left.find_peer(&two).is_none());
    assert_eq!(left.peer(&link.public(1)).all("allowed_ip").len(), 3);
    // Removing nobody is no error; neither is an own peer, which is not made.
    only(&two, "remove=true\n");
    left.set(&peer_lines(&link.public(0), None, &["10.6.0.0/16"]));
    assert!(left.find_peer(&link.public(0)).is_none());
    link.assert_passes(0);
    // All others go, and the session with the one that is named again.
    let at = Some(endpoint(1, Family::V4));
    let peer = peer_lines(&link.public(1), at, &["10.9.0.2/32"]);
    left.set(&format!("replace_peers=true\n{peer}"));
    assert_eq!(left.get().matches("public_key=").count(), 1);
    assert_eq!(left.peer(&link.public(1)).figure("last_handshake_time_sec"), 0);
    link.assert_passes(0);
    // The zero key takes the identity away: nothing passes any more.
    left.set(&format!("private_key={}\n", "0".repeat(64)));
    assert!(!left.get().contains("private_key="));
    assert!(!link.reaches(0, Family::V4, crate::wireguard_net::SILENCE));
    left.set(&format!("private_key={}\n", link.keys[0].to_hex().as_str()));
    link.assert_passes(0);
    link.stop();
}

fn uapi_refuses() {
    let link = Link::new(Family::V4);
    link.assert_passes(0);
    let left = &link.devices[0];
    let before = settings(left);
    let [one, _] = keys();
    let peer = peer_lines(&one, None, &["10.1.0.0/16"]);
    let known = peer_lines(&link.public(1), None, &[]);
    for lines in [
        "no_such_key=1\n".to_owned(),
        "private_key=abc\n".to_owned(),
        format!("private_key={}\n", "g".repeat(64)),
        "listen_port=65536\n".to_owned(),
        "listen_port=-1\n".to_owned(),
        "fwmark=many\n".to_owned(),
        "replace_peers=yes\n".to_owned(),
        "endpoint=192.0.2.2:1\n".to_owned(),
        "public_key=00\n".to_owned(),
        // Behind something that could be done: that must not be done either.
        format!("{peer}allowed_ip=10.0.0.0/33\n"),
        format!("{peer}{known}endpoint=192.0.2.2\n"),
        format!("{known}remove=true\n{peer}persistent_keepalive_interval=65536\n"),
        format!("{known}endpoint=192.0.2.66:1\nprotocol_version=2\n"),
        format!("{known}preshared_key=1\n"),
    ] {
        let errno = left.try_set(&lines);
        assert_eq!(errno.abs(), libc::EINVAL, "{lines}");
        assert_eq!(settings(left), before, "{lines}");
    }
    assert_eq!(left.try_set("nonsense\n").abs(), libc::EPROTO, "as wireguard-go");
    let taken = SocketAddr::from(([0, 0, 0, 0], PORT + 7));
    let taken = link.pair.left.run(|| UdpSocket::bind(taken)).unwrap().unwrap();
    let errno = left.try_set(&format!("listen_port={}\n", PORT + 7));
    assert_eq!(errno.abs(), libc::EADDRINUSE);
    assert_eq!(settings(left), before);
    drop(taken);
    // One more line than a get has.
    let answer = ask(NAMES[0], "get=1\nlisten_port=1\n\n");
    assert_eq!(answer, format!("errno=-{}\n\n", libc::EINVAL));
    link.assert_passes(0);
    link.assert_passes(1);
    link.stop();
}
