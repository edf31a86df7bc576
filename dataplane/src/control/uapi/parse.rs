//! From the lines of a `set=1` request to a [`DeviceUpdate`].

use std::net::SocketAddr;

use crate::protocol::config::{AllowedIpUpdate, DeviceUpdate, PeerUpdate};
use crate::wire::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};

/// A line that is refused: `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Collects the lines of one request.
#[derive(Default)]
pub struct SetParser {
    update: DeviceUpdate,
}

impl SetParser {
    /// Takes one line, without its end.
    ///
    /// # Errors
    /// An unknown key, a value that is none, or a peer's key before any `public_key`.
    pub fn line(&mut self, line: &str) -> Result<(), Invalid> {
        let (key, value) = line.split_once('=').ok_or(Invalid)?;
        if key == "public_key" {
            let public_key = PublicKey::from_hex(value).map_err(|_| Invalid)?;
            self.update.peers.push(PeerUpdate::new(public_key));
            return Ok(());
        }
        match self.update.peers.last_mut() {
            Some(peer) => peer_line(peer, key, value),
            None => device_line(&mut self.update, key, value),
        }
    }

    /// What the lines came to.
    #[must_use]
    pub fn finish(self) -> DeviceUpdate {
        self.update
    }
}

fn device_line(update: &mut DeviceUpdate, key: &str, value: &str) -> Result<(), Invalid> {
    match key {
        "private_key" => {
            let is_none = value.len() == 64 && value.bytes().all(|byte| byte == b'0');
            let private_key = PrivateKey::from_hex(value).map_err(|_| Invalid)?;
            update.private_key = Some((!is_none).then_some(private_key));
        }
        "listen_port" => update.listen_port = Some(number(value)?),
        "fwmark" => update.fwmark = Some(mark(value)?),
        "replace_peers" => update.replace_peers = is_true(value)?,
        _ => return Err(Invalid),
    }
    Ok(())
}

fn peer_line(peer: &mut PeerUpdate, key: &str, value: &str) -> Result<(), Invalid> {
    match key {
        "remove" => peer.remove = is_true(value)?,
        "update_only" => peer.update_only = is_true(value)?,
        "preshared_key" => {
            peer.preshared_key = Some(PresharedKey::from_hex(value).map_err(|_| Invalid)?);
        }
        "endpoint" => peer.endpoint = Some(endpoint(value)?),
        "persistent_keepalive_interval" => peer.persistent_keepalive_s = Some(number(value)?),
        "replace_allowed_ips" => peer.replace_allowed_ips = is_true(value)?,
        "allowed_ip" => {
            let (remove, prefix) = match value.strip_prefix('-') {
                Some(prefix) => (true, prefix),
                None => (false, value.strip_prefix('+').unwrap_or(value)),
            };
            let prefix = prefix.parse().map_err(|_| Invalid)?;
            peer.allowed_ips.push(AllowedIpUpdate { prefix, remove });
        }
        "protocol_version" if value == "1" => {}
        _ => return Err(Invalid),
    }
    Ok(())
}

fn number(value: &str) -> Result<u16, Invalid> {
    value.parse().map_err(|_| Invalid)
}

/// `wg` sends a decimal number; `0x` is allowed too, and nothing at all means none.
fn mark(value: &str) -> Result<u32, Invalid> {
    match value.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).map_err(|_| Invalid),
        None if value.is_empty() => Ok(0),
        None => value.parse().map_err(|_| Invalid),
    }
}

fn is_true(value: &str) -> Result<bool, Invalid> {
    if value == "true" { Ok(true) } else { Err(Invalid) }
}

/// `ADDRESS:PORT`, `[V6]:PORT`, with an interface's number as scope.
fn endpoint(value: &str) -> Result<SocketAddr, Invalid> {
    let endpoint: SocketAddr = value.parse().map_err(|_| Invalid)?;
    let usable = endpoint.port() != 0 && !endpoint.ip().is_unspecified();
    if usable { Ok(endpoint) } else { Err(Invalid) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<DeviceUpdate, Invalid> {
        let mut parser = SetParser::default();
        text.lines().try_for_each(|line| parser.line(line))?;
        Ok(parser.finish())
    }

    const KEY: &str = "188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52";

    #[test]
    fn everything_that_wg_sends_is_taken() {
        let update = parse(&format!(
            "private_key={KEY}\nlisten_port=51820\nfwmark=51820\nreplace_peers=true\n\
             public_key={KEY}\nupdate_only=true\npreshared_key={KEY}\nendpoint=192.0.2.7:51820\n\
             persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/8\n\
             allowed_ip=-10.1.0.0/16\nallowed_ip=+fd00::/64\nprotocol_version=1\n\
             public_key={}\nremove=true\nendpoint=[fe80::1%2]:7",
            KEY.replace('1', "2"),
        ))
        .unwrap();
        assert!(update.private_key.flatten().is_some() && update.replace_peers);
        assert_eq!((update.listen_port, update.fwmark), (Some(51820), Some(51820)));
        let [first, second] = &update.peers[..] else { panic!("two peers") };
        assert_eq!(*first.public_key.to_hex(), KEY);
        assert!(first.update_only && first.replace_allowed_ips && !first.remove);
        assert_eq!(first.endpoint, Some("192.0.2.7:51820".parse().unwrap()));
        assert_eq!(first.persistent_keepalive_s, Some(25));
        let changes: Vec<_> =
            first.allowed_ips.iter().map(|ip| (ip.prefix.to_string(), ip.remove)).collect();
        let expected = [("10.0.0.0/8", false), ("10.1.0.0/16", true), ("fd00::/64", false)];
        assert!(changes.iter().zip(expected).all(|(a, b)| (a.0.as_str(), a.1) == b));
        assert!(second.remove && second.endpoint.unwrap().is_ipv6());
    }

    #[test]
    fn a_private_key_of_zeroes_takes_the_identity_away() {
        let update = parse(&format!("private_key={}", "0".repeat(64))).unwrap();
        assert!(matches!(update.private_key, Some(None)));
        assert_eq!(parse("fwmark=0x10").unwrap().fwmark, Some(16));
        assert_eq!(parse("fwmark=").unwrap().fwmark, Some(0));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for line in [
            "",
            "x",
            "unknown=1",
            "private_key=1",
            "listen_port=65536",
            "listen_port=-1",
            "replace_peers=false",
            "remove=true",
            "allowed_ip=10.0.0.0/8",
            "fwmark=x",
            "public_key=12",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in [
            "endpoint=192.0.2.7",
            "endpoint=192.0.2.7:0",
            "endpoint=host:1",
            "allowed_ip=10/8",
            "allowed_ip=10.0.0.0/33",
            "protocol_version=2",
            "listen_port=1",
            "remove=1",
            "persistent_keepalive_interval=65536",
            "preshared_key=x",
        ] {
            assert!(parse(&format!("public_key={KEY}\n{line}")).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "(?s).{0,200}") {
            let _ = parse(&text);
            let _ = parse(&format!("public_key={KEY}\n{text}"));
        }
    }
}
