//! Files as text: what real ones say, what is refused and in which words, and noise.

use proptest::prelude::*;

use super::*;

const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const PUBLIC: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const OTHER: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";
const PSK: &str = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=";

fn read(text: &str) -> Result<ConfigFile, String> {
    let table_number = |name: &str| (name == "main").then_some(254);
    parse("wg0.conf", text, &table_number).map_err(|error| error.to_string())
}

/// With `lines` in `[Interface]`.
fn interface(lines: &str) -> Result<Interface, String> {
    read(&format!("[Interface]\nPrivateKey={PRIVATE}\n{lines}\n")).map(|config| config.interface)
}

/// With `lines` in a `[Peer]`; those begin in line 4.
fn peer(lines: &str) -> Result<PeerEntry, String> {
    let text = format!("[Interface]\n[Peer]\nPublicKey={PEER}\n{lines}\n");
    read(&text).map(|mut config| config.peers.remove(0))
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

fn prefixes(peer: &PeerEntry) -> Vec<String> {
    peer.allowed_ips.iter().map(|prefix| format!("{}/{}", prefix.address(), prefix.len())).collect()
}

#[test]
fn an_ordinary_file() {
    let config = read(&format!(
        "# office\n[Interface]\nPrivateKey = {PRIVATE} # secret\nListenPort = 51820\n\
         FwMark = 0xca6c\nAddress = 10.7.0.1/24, fd00::1/64\nAddress = 10.8.0.1\nMTU = 1420\n\
         Table = off\nPreUp = echo 1\nPostUp = iptables -A FORWARD -i %i -j ACCEPT; echo a=b\n\
         PostUp = echo 2 # two\nPreDown = echo 3\nPostDown = echo 4\nPostDown =\n\n\
         [Peer]\nPublicKey = {PEER}\nPresharedKey = {PSK}\nAllowedIPs = 10.0.0.0/8, fd00::/8\n\
         AllowedIPs = 192.0.2.7\nEndpoint = vpn.example.com:51820\nPersistentKeepalive = 25\n\n\
         [Peer]\nPublicKey = {OTHER}\nAllowedIPs =\n"
    ))
    .unwrap();
    assert_eq!(config.warnings, [""; 0]);
    let Interface { private_key, listen_port, fwmark, addresses, mtu, table, .. } =
        &config.interface;
    assert_eq!(private_key.as_ref().unwrap().public().to_string(), PUBLIC);
    assert_eq!((*listen_port, *fwmark, *mtu), (Some(51820), Some(0xca6c), Some(1420)));
    assert_eq!(texts(addresses), ["10.7.0.1/24", "fd00::1/64", "10.8.0.1/32"]);
    assert_eq!(*table, Table::Off);
    let Interface { pre_up, post_up, pre_down, post_down, .. } = &config.interface;
    assert_eq!(post_up, &["iptables -A FORWARD -i %i -j ACCEPT; echo a=b", "echo 2"]);
    assert_eq!([pre_up, pre_down, post_down], [&["echo 1"], &["echo 3"], &["echo 4"]]);
    let [first, second] = config.peers.as_slice() else { panic!("two peers") };
    assert_eq!((first.public_key.to_string(), first.line), (PEER.to_owned(), 17));
    assert_eq!(first.preshared_key.as_ref().unwrap().to_base64().as_str(), PSK);
    assert_eq!(prefixes(first), ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"]);
    assert_eq!(first.endpoint.as_ref().unwrap().to_string(), "vpn.example.com:51820");
    assert_eq!(first.persistent_keepalive_s, Some(25));
    assert!(second.allowed_ips.is_empty() && second.endpoint.is_none());
    assert!(second.preshared_key.is_none() && second.persistent_keepalive_s.is_none());
}

#[test]
fn case_space_and_marks_do_not_matter() {
    let config = read(&format!(
        "\u{feff}  [ iNTERFACE ]\r\n\tprivatekey={PRIVATE}\r\nlisten port = 5 1\r\n#\r\n\
         [PEER]\r\nPUBLICKEY\t=\t{PEER}\r\nallowedips = 10.0.0.0 / 8 ,::/0\r\n\
         endpoint= [fe80::1%eth0] : 7"
    ))
    .unwrap();
    assert_eq!(config.interface.listen_port, Some(51));
    assert_eq!(prefixes(&config.peers[0]), ["10.0.0.0/8", "::/0"]);
    assert_eq!(config.peers[0].endpoint.as_ref().unwrap().to_string(), "[fe80::1%eth0]:7");
}

#[test]
fn sections_may_come_again_and_the_last_word_counts() {
    let config = read(&format!(
        "[Peer]\nPublicKey={PEER}\nEndpoint=a:1\nEndpoint=b:2\n[Interface]\nMTU=1400\n\
         Address=10.0.0.1\n[Interface]\nMTU=1300\nPrivateKey={PRIVATE}\nAddress=10.0.0.2\n\
         [Peer]\nPublicKey={PEER}\n"
    ))
    .unwrap();
    assert_eq!(config.interface.mtu, Some(1300));
    assert_eq!(config.interface.addresses.len(), 2);
    assert_eq!(config.peers[0].endpoint.as_ref().unwrap().host, "b");
    assert_eq!(config.peers.len(), 2, "each [Peer] is one");
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].starts_with("wg0.conf:12: the same PublicKey as in line 1"));
}

#[test]
fn settings_of_the_interface() {
    for (text, port) in [("0", 0), ("65535", 65535)] {
        assert_eq!(interface(&format!("ListenPort={text}")).unwrap().listen_port, Some(port));
    }
    for (text, mark) in [("off", 0), ("OFF", 0), ("0", 0), ("0xFfffffff", u32::MAX), ("7", 7)] {
        assert_eq!(interface(&format!("FwMark={text}")).unwrap().fwmark, Some(mark), "{text}");
    }
    for (text, table) in [
        ("auto", Table::Auto),
        ("Off", Table::Off),
        ("1", Table::Number(1)),
        ("4294967295", Table::Number(u32::MAX)),
        ("0x10", Table::Number(16)),
        ("main", Table::Number(254)),
    ] {
        assert_eq!(interface(&format!("Table={text}")).unwrap().table, table, "{text}");
    }
    let zero = "PrivateKey=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert!(interface(zero).unwrap().private_key.is_none());
    let dns = interface("DNS=10.0.0.1, fd00::1 example.com\nDNS=x").unwrap().dns;
    assert_eq!(dns, ["10.0.0.1", "fd00::1", "example.com", "x"]);
}

#[test]
fn settings_of_a_peer() {
    for (text, seconds) in [("off", 0), ("0", 0), ("65535", 65535)] {
        let peer = peer(&format!("PersistentKeepalive={text}")).unwrap();
        assert_eq!(peer.persistent_keepalive_s, Some(seconds));
    }
    for (text, host, literal) in [
        ("192.0.2.1:1", "192.0.2.1", Some("192.0.2.1:1")),
        ("[2001:db8::1]:1", "2001:db8::1", Some("[2001:db8::1]:1")),
        ("2001:db8::1:1", "2001:db8::1", Some("[2001:db8::1]:1")),
        ("[::ffff:192.0.2.1]:1", "::ffff:192.0.2.1", Some("192.0.2.1:1")),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", None),
        ("a-b_c.example.:1", "a-b_c.example.", None),
    ] {
        let endpoint = peer(&format!("Endpoint={text}")).unwrap().endpoint.unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), (host, 1));
        assert_eq!(endpoint.literal(), literal.map(|literal| literal.parse().unwrap()), "{text}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for line in [
        "ListenPort=",
        "ListenPort=65536",
        "ListenPort=-1",
        "ListenPort=http",
        "FwMark=on",
        "FwMark=",
        "FwMark=0x",
        "FwMark=4294967296",
        "Address=10.0.0.0/33",
        "Address=host",
        "Address=::",
        "Address=10.0.0.1/",
        "MTU=",
        "MTU=575",
        "MTU=65536",
        "MTU=auto",
        "Table=",
        "Table=0",
        "Table=4294967296",
        "Table=nowhere",
        "SaveConfig=yes",
        "SaveConfig=",
        "PrivateKey=",
        "PrivateKey=AAAA",
    ] {
        let error = interface(line).unwrap_err();
        assert!(error.starts_with("wg0.conf:3: "), "{line}: {error}");
    }
    for line in [
        "PublicKey=",
        "PresharedKey=x",
        "AllowedIPs=,",
        "AllowedIPs=10.0.0.0/8,",
        "AllowedIPs=10.0.0.0/33",
        "AllowedIPs=10.0.0.0/8 11.0.0.0/8",
        "AllowedIPs=all",
        "AllowedIPs=+10.0.0.0/8",
        "AllowedIPs=10.0.0.0/-8",
        "Endpoint=",
        "Endpoint=host",
        "Endpoint=host:",
        "Endpoint=host:0",
        "Endpoint=host:65536",
        "Endpoint=:1",
        "Endpoint=fd00::1",
        "Endpoint=[fd00::1]",
        "Endpoint=[host]:1",
        "Endpoint=[fe80::1%]:1",
        "Endpoint=a/b:1",
        "PersistentKeepalive=on",
        "PersistentKeepalive=65536",
        "PersistentKeepalive=",
    ] {
        let error = peer(line).unwrap_err();
        assert!(error.starts_with("wg0.conf:4: "), "{line}: {error}");
    }
}

#[test]
fn errors_name_the_line_the_value_and_what_is_allowed() {
    assert_eq!(
        interface("\nListenPort = 99999").unwrap_err(),
        "wg0.conf:4: ListenPort = \"99999\" is not allowed: a port is wanted, 1 to 65535, or 0 \
         for any"
    );
    assert_eq!(
        interface("privatekey = abc").unwrap_err(),
        "wg0.conf:3: privatekey is not a key: 44 characters of base64 are wanted, as `ringtun \
         genkey` prints"
    );
    for (lines, said) in [
        ("ListnePort = 1", "is ListenPort meant?"),
        ("Adress = 10.0.0.1", "is Address meant?"),
        ("PostUpp = x", "is PostUp meant?"),
        ("Jc = 3", "there are PrivateKey, ListenPort"),
        ("Endpoint = a:1", "Endpoint belongs in [Peer]"),
        ("no equals sign", "Setting = value"),
        ("[Peers]", "there are [Interface] and [Peer]"),
    ] {
        let error = interface(lines).unwrap_err();
        assert!(error.starts_with("wg0.conf:3: ") && error.contains(said), "{error}");
    }
    let error = peer("AllowedIP = ::/0").unwrap_err();
    assert!(error.contains("is AllowedIPs meant?"), "{error}");
    assert!(peer("Address = 10.0.0.1").unwrap_err().contains("belongs in [Interface]"));
    for (text, said) in [
        ("", "1: there is no [Interface]"),
        ("MTU = 1", "1: before any setting"),
        ("[Interface]\n\n[Peer]\nAllowedIPs = ::/0", "3: this [Peer] has no PublicKey"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.starts_with(&format!("wg0.conf:{said}")), "{error}");
    }
}

#[test]
fn keys_are_never_repeated() {
    let secret = &PRIVATE[..42];
    for text in [
        format!("[Interface]\nPrivateKey = {secret}"),
        format!("[Interface]\n{PRIVATE}"),
        format!("[Interface]\n{secret}"),
        format!("[Interface]\nMTU = {PRIVATE}"),
        format!("[Interface]\nTable = {PRIVATE}"),
        format!("[Interface]\nSaveConfig = {PRIVATE}"),
        format!("[Interface\n[{PRIVATE}]"),
        format!("[Interface]\n[{PRIVATE}]"),
        format!("[Interface]\n[Peer]\nPresharedKey = {PRIVATE}A"),
        format!("[Interface]\n[Peer]\nEndpoint = {PRIVATE}"),
        format!("[Interface]\n[Peer]\nAllowedIPs = x, {PRIVATE}"),
        format!("[Interface]\n[Peer]\nAllowedIPs = {PRIVATE}"),
    ] {
        let error = read(&text).unwrap_err();
        assert!(!error.contains(&PRIVATE[..20]), "{error}");
    }
    let debug = format!("{:?}", read(&format!("[Interface]\nPrivateKey={PRIVATE}")).unwrap());
    assert!(debug.contains("hidden") && !debug.contains(&PRIVATE[..20]), "{debug}");
}

#[test]
fn warnings_say_what_is_not_done_and_what_looks_wrong() {
    let config = read(&format!(
        "[Interface]\nDNS = 10.0.0.1\nSaveConfig = true\nSaveConfig = FALSE\n[Peer]\n\
         PublicKey = {PEER}\nAllowedIPs = 10.1.2.3/8\n"
    ));
    let warnings = config.unwrap().warnings;
    let expected = [
        "wg0.conf:7: AllowedIPs: bits behind the prefix are taken as zero, which makes it \
         10.0.0.0/8",
        "wg0.conf: there is no PrivateKey",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
    for (warning, start) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(start), "{warning}");
    }
    let own = format!("[Interface]\nPrivateKey = {PRIVATE}\n[Peer]\nPublicKey = {PUBLIC}\n");
    assert!(read(&own).unwrap().warnings[0].contains("this host itself"));
}

#[test]
fn the_update_makes_the_device_what_the_file_says() {
    let config = read(&format!(
        "[Interface]\nPrivateKey={PRIVATE}\n[Peer]\nPublicKey={PEER}\nEndpoint=a:1\n\
         AllowedIPs=10.0.0.0/8\n[Peer]\nPublicKey={OTHER}\nPersistentKeepalive=off\n"
    ))
    .unwrap();
    let resolved = "192.0.2.1:1".parse().unwrap();
    let update = config.device_update(&[Some(resolved)]);
    assert!(update.replace_peers && update.private_key.unwrap().is_some());
    assert_eq!((update.listen_port, update.fwmark), (Some(0), Some(0)));
    let [first, second] = update.peers.as_slice() else { panic!("two peers") };
    assert!(first.replace_allowed_ips && !first.remove && !first.update_only);
    assert_eq!((first.endpoint, second.endpoint), (Some(resolved), None));
    assert_eq!((first.allowed_ips.len(), second.allowed_ips.len()), (1, 0));
    assert_eq!(second.persistent_keepalive_s, Some(0));
    let bare = read("[Interface]").unwrap().device_update(&[]);
    assert!(matches!(bare.private_key, Some(None)) && bare.peers.is_empty());
}

proptest! {
    #[test]
    fn noise_never_panics(text in "\\PC{0,200}", lines in "([=\\[\\]#:/,. a-zA-Z0-9\n]){0,300}") {
        let _ = read(&text);
        let _ = read(&lines);
        let _ = read(&format!("[Interface]\n{lines}\n[Peer]\n{lines}"));
    }

    #[test]
    fn any_value_is_taken_or_refused(
        name in "(PrivateKey|ListenPort|FwMark|Address|MTU|DNS|Table|PostUp|SaveConfig|PublicKey|\
                 PresharedKey|AllowedIPs|Endpoint|PersistentKeepalive)",
        value in "(\\PC{0,60}|[0-9a-f:./%,\\[\\]]{0,40}|[A-Za-z0-9+/]{43}=)",
    ) {
        let _ = interface(&format!("{name}={value}"));
        let _ = peer(&format!("{name}={value}"));
    }

    #[test]
    fn what_is_written_is_read(
        port: u16,
        mark: u32,
        keepalive: u16,
        networks in proptest::collection::vec((any::<std::net::IpAddr>(), 0..=32u8), 0..6),
    ) {
        let entries = networks.iter().map(|(address, len)| format!("{address}/{len}"));
        let entries: Vec<_> = entries.collect();
        let text = format!(
            "[Interface]\nListenPort={port}\nFwMark={mark:#x}\n[Peer]\nPublicKey={PEER}\n\
             PersistentKeepalive={keepalive}\nAllowedIPs={}\n",
            entries.join(","),
        );
        let config = read(&text).map_err(TestCaseError::fail)?;
        prop_assert_eq!(config.interface.listen_port, Some(port));
        prop_assert_eq!(config.interface.fwmark, Some(mark));
        prop_assert_eq!(config.peers[0].persistent_keepalive_s, Some(keepalive));
        let expected: Vec<_> =
            networks.iter().map(|(address, len)| Prefix::new(*address, *len).unwrap()).collect();
        prop_assert_eq!(&config.peers[0].allowed_ips, &expected);
    }
}
