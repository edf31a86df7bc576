//! What `values` takes and what it refuses, and that each refusal says why.

use super::*;

fn refusal<T: FromStr<Err = ValueError> + fmt::Debug>(text: &str) -> String {
    text.parse::<T>().unwrap_err().to_string()
}

#[test]
fn interface_names() {
    for good in ["rt0", "a", "fifteen-bytes-x", "rt0.5"] {
        assert_eq!(good.parse::<InterfaceName>().unwrap().as_str(), good);
    }
    for bad in ["", "sixteen-bytes-xx", "rt 0", "rt\t0", "rt%d", "a:b", ".", "..", "tün0", "all"] {
        assert!(refusal::<InterfaceName>(bad).contains("is no interface name"), "{bad:?}");
    }
}

#[test]
fn files_are_told_from_names() {
    for file in ["./rt0", "/etc/rt0", "rt0.conf", "rt0.toml"] {
        assert!(refusal::<InterfaceName>(file).contains("not supported yet"), "{file:?}");
    }
}

#[test]
fn networks() {
    let network: Network = "10.7.0.1/24".parse().unwrap();
    assert_eq!((network.address.to_string(), network.prefix_len), ("10.7.0.1".into(), 24));
    assert_eq!("fd00::1/64".parse::<Network>().unwrap().to_string(), "fd00::1/64");
    assert!("10.7.0.1/32".parse::<Network>().is_ok());
    assert!("fd00::1/128".parse::<Network>().is_ok());
    assert!(refusal::<Network>("10.7.0.1").contains("prefix length is missing"));
    assert!(refusal::<Network>("10.7.0.1/33").contains("1 to 32"));
    assert!(refusal::<Network>("10.7.0.1/0").contains("1 to 32"));
    assert!(refusal::<Network>("10.7.0.1/+8").contains("1 to 32"));
    assert!(refusal::<Network>("fd00::1/129").contains("1 to 128"));
    assert!(refusal::<Network>("10.7.0/24").contains("no IP address"));
    assert!(refusal::<Network>("0.0.0.0/8").contains("unspecified"));
    assert!(refusal::<Network>("ff02::1/64").contains("multicast"));
}

#[test]
fn listens() {
    assert_eq!("51820".parse(), Ok(Listen::Port(51820)));
    assert_eq!(
        "0.0.0.0:51820".parse(),
        Ok(Listen::Address(SocketAddr::from(([0, 0, 0, 0], 51820))))
    );
    assert!("[::]:51820".parse::<Listen>().is_ok());
    assert!(refusal::<Listen>("0").contains("port 0"));
    assert!(refusal::<Listen>("127.0.0.1:0").contains("port 0"));
    assert!(refusal::<Listen>("127.0.0.1").contains("port is missing"));
    assert!(refusal::<Listen>("224.0.0.1:1").contains("multicast"));
    assert!(refusal::<Listen>("70000").contains("neither"));
    assert!(refusal::<Listen>("localhost:1").contains("neither"));
}

#[test]
fn peers() {
    assert!("192.0.2.2:51820".parse::<Peer>().is_ok());
    assert!("[2001:db8::2]:51820".parse::<Peer>().is_ok());
    assert_eq!("[::ffff:192.0.2.2]:5".parse::<Peer>(), "192.0.2.2:5".parse());
    assert!(refusal::<Peer>("192.0.2.2").contains("port is missing"));
    assert!(refusal::<Peer>("192.0.2.2:0").contains("port 0"));
    assert!(refusal::<Peer>("0.0.0.0:5").contains("one host"));
    assert!(refusal::<Peer>("vpn.example.org:51820").contains("host names"));
}

#[test]
fn workers() {
    assert_eq!("auto".parse(), Ok(Workers::Auto));
    assert_eq!("2".parse(), Ok(Workers::Count(2)));
    assert_eq!("0,2-3".parse(), Ok(Workers::Cores(vec![0, 2, 3])));
    assert_eq!("3-3".parse(), Ok(Workers::Cores(vec![3])));
    assert!("0-255".parse::<Workers>().is_ok());
    assert!(refusal::<Workers>("0").contains("at least one"));
    assert!(refusal::<Workers>("257").contains("256"));
    assert!(refusal::<Workers>("0-256").contains("256"));
    assert!(refusal::<Workers>("0-18446744073709551615").contains("256"));
    assert!(refusal::<Workers>("3-1").contains("lower"));
    assert!(refusal::<Workers>("0,0-1").contains("twice"));
    assert!(refusal::<Workers>("0,").contains("number"));
    assert!(refusal::<Workers>("many").contains("number"));
}

#[test]
fn gso_sizes() {
    assert_eq!("auto".parse(), Ok(GsoSize::Auto));
    assert_eq!("61000".parse(), Ok(GsoSize::Bytes(61_000)));
    for bad in ["0", "2047", "65537", "-1", "61k"] {
        assert!(refusal::<GsoSize>(bad).contains("2048 to 65536"), "{bad:?}");
    }
}
