//! Requests: tables of what is taken and what is refused, and noise.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";
const OTHER: &str = "58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376";
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn no_interfaces(_: &str) -> Option<u32> {
    None
}

fn read(mut text: &[u8]) -> Result<Option<Request>, RequestError> {
    read_request(&mut text, &|name| (name == "eth0").then_some(7))
}

/// The update in `set=1`, `lines` and the empty line.
fn set(lines: &str) -> Result<DeviceUpdate, RequestError> {
    match read(format!("set=1\n{lines}\n").as_bytes())? {
        Some(Request::Set(update)) => Ok(update),
        _ => panic!("no set"),
    }
}

/// The only peer after `lines` in its section.
fn set_peer(lines: &str) -> PeerUpdate {
    let mut update = set(&format!("public_key={KEY}\n{lines}")).unwrap();
    assert_eq!(update.peers.len(), 1);
    update.peers.remove(0)
}

fn refusal(lines: &str) -> (i32, usize, String) {
    match set(lines) {
        Err(RequestError::Refused { errno, line, problem }) => (errno, line, problem),
        Err(RequestError::Broken(error)) => panic!("{lines:?}: broken: {error}"),
        Ok(_) => panic!("{lines:?} was taken"),
    }
}

#[test]
fn get_is_a_line_and_an_empty_one() {
    assert!(matches!(read(b"get=1\n\n"), Ok(Some(Request::Get))));
    assert!(matches!(read(b"get=1\nx=1\n\n"), Err(RequestError::Refused { errno: 22, .. })));
    assert!(matches!(read(b""), Ok(None)));
}

#[test]
fn other_operations_and_cut_off_requests_end_the_connection() {
    for text in [
        "\n",
        "get=2\n\n",
        "foo=1\n\n",
        "get=1",
        "get=1\n",
        "set=1\n",
        "set=1\nfwmark=1",
        "set=1\nfwmark=1\n",
        "set=1\nbogus\n",
    ] {
        assert!(matches!(read(text.as_bytes()), Err(RequestError::Broken(_))), "{text:?}");
    }
}

#[test]
fn requests_follow_one_another_also_after_a_refused_one() {
    let text = "set=1\nbogus=1\nlisten_port=4\n\nset=1\nlisten_port=5\n\nget=1\n\n";
    let mut reader = text.as_bytes();
    let first = read_request(&mut reader, &no_interfaces);
    assert!(matches!(first, Err(RequestError::Refused { line: 2, .. })));
    let Ok(Some(Request::Set(update))) = read_request(&mut reader, &no_interfaces) else {
        panic!("no set");
    };
    assert_eq!(update.listen_port, Some(5));
    assert!(matches!(read_request(&mut reader, &no_interfaces), Ok(Some(Request::Get))));
    assert!(matches!(read_request(&mut reader, &no_interfaces), Ok(None)));
}

#[test]
fn the_example_of_the_protocols_page() {
    // As on wireguard.com/xplatform, shortened.
    let update = set(&format!(
        "private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a\n\
         fwmark=0\nlisten_port=12912\nreplace_peers=true\npublic_key={KEY}\n\
         preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52\n\
         replace_allowed_ips=true\nallowed_ip=192.168.4.4/32\n\
         endpoint=[abcd:23::33%2]:51820\npublic_key={OTHER}\n\
         replace_allowed_ips=true\npersistent_keepalive_interval=111\n\
         allowed_ip=192.168.4.6/32\nendpoint=182.122.22.19:3233\n\
         public_key=662e14fd594556f522604703340351258903b64f35553763f19426ab2a515c58\n\
         remove=true\n"
    ))
    .unwrap();
    let private = update.private_key.unwrap().unwrap();
    assert!(private.to_hex().starts_with("e84b5a6d"));
    assert_eq!((update.fwmark, update.listen_port), (Some(0), Some(12912)));
    assert!(update.replace_peers);
    let [first, second, third] = update.peers.as_slice() else { panic!("three peers") };
    assert_eq!(first.public_key.to_hex().as_str(), KEY);
    assert!(first.preshared_key.as_ref().unwrap().to_hex().starts_with("18851509"));
    assert_eq!(first.endpoint.unwrap().to_string(), "[abcd:23::33%2]:51820");
    assert_eq!(second.persistent_keepalive_s, Some(111));
    assert_eq!(second.allowed_ips.len(), 1);
    assert!(second.replace_allowed_ips && !second.remove && third.remove);
}

#[test]
fn what_is_not_said_stays() {
    let update = set("").unwrap();
    assert!(update.private_key.is_none() && !update.replace_peers && update.peers.is_empty());
    assert_eq!((update.listen_port, update.fwmark), (None, None));
    let peer = set_peer("");
    assert!(!peer.remove && !peer.update_only && !peer.replace_allowed_ips);
    assert!(peer.preshared_key.is_none() && peer.endpoint.is_none());
    assert!(peer.persistent_keepalive_s.is_none() && peer.allowed_ips.is_empty());
}

#[test]
fn the_zero_key_takes_the_identity_away() {
    assert!(matches!(set(&format!("private_key={ZERO}\n")).unwrap().private_key, Some(None)));
    let peer = set_peer(&format!("preshared_key={ZERO}\n"));
    assert!(peer.preshared_key.unwrap().is_none());
}

#[test]
fn a_repeated_key_begins_a_new_section() {
    let update = set(&format!(
        "public_key={KEY}\nallowed_ip=10.0.0.0/8\npublic_key={OTHER}\npublic_key={KEY}\n\
         allowed_ip=11.0.0.0/8\n"
    ))
    .unwrap();
    let keys: Vec<_> = update.peers.iter().map(|peer| peer.public_key.to_hex()).collect();
    assert_eq!(keys.iter().map(|key| key.as_str()).collect::<Vec<_>>(), [KEY, OTHER, KEY]);
    let counts: Vec<_> = update.peers.iter().map(|peer| peer.allowed_ips.len()).collect();
    assert_eq!(counts, [1, 0, 1]);
}

#[test]
fn allowed_ips_are_added_removed_and_replaced_in_order() {
    let peer = set_peer("allowed_ip=+10.1.2.3/8\nallowed_ip=-fd00::1/64\n");
    let of = |address: &str, len, remove| AllowedIpUpdate {
        prefix: Prefix::new(address.parse().unwrap(), len).unwrap(),
        remove,
    };
    assert_eq!(peer.allowed_ips, [of("10.0.0.0", 8, false), of("fd00::", 64, true)]);
    let peer = set_peer("allowed_ip=10.0.0.0/8\nreplace_allowed_ips=true\nallowed_ip=0.0.0.0/0\n");
    assert!(peer.replace_allowed_ips);
    assert_eq!(peer.allowed_ips, [of("0.0.0.0", 0, false)]);
}

#[test]
fn endpoints_of_every_form() {
    for (text, endpoint) in [
        ("192.0.2.1:51820", "192.0.2.1:51820"),
        ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ("[fe80::1%eth0]:65535", "[fe80::1%7]:65535"),
        ("[fe80::1%3]:9", "[fe80::1%3]:9"),
        ("[::ffff:192.0.2.1]:9", "192.0.2.1:9"),
    ] {
        let peer = set_peer(&format!("endpoint={text}\n"));
        assert_eq!(peer.endpoint.unwrap().to_string(), endpoint);
    }
}

#[test]
fn marks_in_both_notations() {
    for (text, mark) in
        [("0", 0), ("51820", 51820), ("0x0", 0), ("0xcA6c", 51820), ("4294967295", u32::MAX)]
    {
        assert_eq!(set(&format!("fwmark={text}\n")).unwrap().fwmark, Some(mark), "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_as_wireguard_go_does() {
    for line in [
        "bogus=1",
        "=",
        "=1",
        "listen_port=",
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=+1",
        "listen_port= 1",
        "listen_port=0x10",
        "fwmark=",
        "fwmark=0x",
        "fwmark=0x+1",
        "fwmark=4294967296",
        "fwmark=off",
        "replace_peers=false",
        "replace_peers=1",
        "private_key=",
        "private_key=00",
        "public_key=",
        "allowed_ip=10.0.0.0/8",
        "errno=0",
        "protocol_version=1",
    ] {
        let (errno, number, problem) = refusal(&format!("{line}\n"));
        assert_eq!((errno, number), (22, 2), "{line}: {problem}");
    }
    for line in [
        "fwmark=1",
        "listen_port=1",
        "private_key=00",
        "replace_peers=true",
        "remove=false",
        "update_only=",
        "preshared_key=1",
        "endpoint=",
        "endpoint=host:1",
        "endpoint=1.2.3.4",
        "endpoint=1.2.3.4:",
        "endpoint=1.2.3.4:65536",
        "endpoint=fe80::1:5",
        "endpoint=[fe80::1%nope]:5",
        "endpoint=[1.2.3.4%eth0]:5",
        "endpoint=[fe80::1%eth0]:",
        "endpoint=[fe80::1%eth0",
        "persistent_keepalive_interval=off",
        "persistent_keepalive_interval=65536",
        "replace_allowed_ips=no",
        "allowed_ip=",
        "allowed_ip=+",
        "allowed_ip=10.0.0.1",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=::/129",
        "allowed_ip=10.0.0.0/+8",
        "allowed_ip=10.0.0.0/",
        "allowed_ip=--1.0.0.0/8",
        "protocol_version=2",
        "last_handshake_time_sec=0",
    ] {
        let (errno, number, problem) = refusal(&format!("public_key={KEY}\n{line}\n"));
        assert_eq!((errno, number), (22, 3), "{line}: {problem}");
    }
    assert_eq!(refusal("no equals sign\n").0, 71);
}

#[test]
fn refusals_help_and_keep_secrets() {
    let (.., problem) = refusal("listen_port=99999\n");
    assert_eq!(problem, "listen_port=\"99999\" is not allowed: 0 to 65535");
    let secret = &KEY[..63];
    for line in [
        format!("private_key={secret}"),
        format!("public_key={KEY}\npreshared_key={secret}"),
        format!("{KEY}=x"),
        KEY.to_owned(),
    ] {
        let (.., problem) = refusal(&format!("{line}\n"));
        assert!(!problem.contains(&KEY[..16]), "{problem}");
    }
}

#[test]
fn lines_are_bounded_and_need_not_end_in_one_way() {
    let fits = format!("{}\n", "x".repeat(LINE_LEN_MAX - 1) + "=");
    assert!(refusal(&fits).2.contains("none of the device's settings"));
    for len in [LINE_LEN_MAX + 1, LINE_LEN_MAX + 2, 10 * LINE_LEN_MAX, 3 * (LINE_LEN_MAX + 2)] {
        let (errno, line, problem) = refusal(&format!("{}\nfwmark=1\n", "x".repeat(len)));
        assert_eq!((errno, line), (22, 2), "{problem}");
        assert!(problem.contains("longer"), "{problem}");
    }
    assert_eq!(set("fwmark=5\r\n\r").unwrap().fwmark, Some(5));
    assert!(matches!(read(b"set=1\nfwmark=\xff\n\n"), Err(RequestError::Refused { .. })));
}

/// Endless input without memory of its own.
struct Endless(&'static [u8], usize);

impl io::Read for Endless {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        for byte in &mut *to {
            *byte = self.0[self.1 % self.0.len()];
            self.1 += 1;
        }
        Ok(to.len())
    }
}

#[test]
fn endless_requests_end() {
    for line in [b"set=1\n".as_slice(), b"x"] {
        let start = b"set=1\n".as_slice();
        let mut reader = io::BufReader::with_capacity(1 << 16, start.chain(Endless(line, 0)));
        match read_request(&mut reader, &no_interfaces) {
            Err(RequestError::Broken(error)) => assert!(error.to_string().contains("64 MiB")),
            _ => panic!("it ended"),
        }
    }
}

#[test]
fn ten_thousand_peers_with_ten_prefixes_fit() {
    let mut text = String::from("set=1\nreplace_peers=true\n");
    for peer in 0u32..10_000 {
        write!(text, "public_key={peer:064x}\nreplace_allowed_ips=true\n").unwrap();
        for prefix in 0..10 {
            writeln!(text, "allowed_ip=fd00:1111:2222:3333:{peer:x}:{prefix}::/128").unwrap();
        }
    }
    text.push('\n');
    let Ok(Some(Request::Set(update))) = read(text.as_bytes()) else { panic!("no set") };
    assert_eq!(update.peers.len(), 10_000);
    assert!(update.peers.iter().all(|peer| peer.allowed_ips.len() == 10));
}

proptest! {
    #[test]
    fn noise_is_refused_quietly(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let _ = read(&[b"set=1\n", bytes.as_slice(), b"\n\n"].concat());
    }

    #[test]
    fn likely_lines_never_panic(
        lines in proptest::collection::vec(
            ("(private_key|public_key|endpoint|allowed_ip|fwmark|remove|listen_port)",
             "([+-]?[0-9a-f:.\\[\\]%/]{0,20}|true|[0-9a-f]{64}|\\PC{0,8})"),
            0..12,
        ),
    ) {
        let text = lines.iter().fold(String::new(), |text, (key, value)| {
            format!("{text}{key}={value}\n")
        });
        if let Err(RequestError::Refused { line, problem, .. }) = set(&text) {
            // The first line is `set=1`; the one that is named has the setting that is named.
            let named = text.lines().nth(line - 2).and_then(|line| line.split_once('='));
            let (key, _) = named.ok_or_else(|| TestCaseError::fail(format!("{line}: {problem}")))?;
            prop_assert!(problem.starts_with(key), "{}: {}", line, problem);
        }
    }
}
