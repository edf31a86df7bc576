//! A wg-quick configuration file: `[Interface]` once, `[Peer]` for each peer.
//!
//! In: text. Out: a [`ConfigFile`], or an error that names the line, what is there (never a key)
//! and what is allowed. Pure; endpoints stay the names they are.

use std::fmt;
use std::str::FromStr;

use super::values::Network;
use crate::protocol::config::{AllowedIpUpdate, PeerUpdate};
use crate::table::allowed_ips::Prefix;
use crate::wire::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};

/// Which routes are made for allowed IPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteTable {
    /// In the main table; a default route by policy.
    #[default]
    Auto,
    /// None.
    Off,
    /// In this table, without rules.
    Number(u32),
}

/// What a file says.
#[derive(Default)]
pub struct ConfigFile {
    /// Our identity.
    pub private_key: Option<PrivateKey>,
    /// The port to receive on.
    pub listen_port: Option<u16>,
    /// Mark of outgoing datagrams; none if not said, 0 for off.
    pub fwmark: Option<u32>,
    /// The device's addresses.
    pub addresses: Vec<Network>,
    /// The device's MTU.
    pub mtu: Option<u32>,
    /// Where routes go.
    pub table: RouteTable,
    /// Commands before and after the device comes up, and before and after it goes.
    pub hooks: Hooks,
    /// Peers, in order.
    pub peers: Vec<ConfigPeer>,
    /// What is in the file and not done.
    pub warnings: Vec<String>,
}

/// Commands, in order; `%i` stands for the interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Before the device is up.
    pub pre_up: Vec<String>,
    /// After.
    pub post_up: Vec<String>,
    /// Before it is taken down.
    pub pre_down: Vec<String>,
    /// After.
    pub post_down: Vec<String>,
}

/// A peer, its endpoint still a name.
pub struct ConfigPeer {
    /// Everything else.
    pub update: PeerUpdate,
    /// `host:port`.
    pub endpoint: Option<String>,
}

/// Why a file was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct FileError {
    /// Counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong and what is allowed.
    pub problem: String,
}

const INTERFACE_KEYS: &str = "PrivateKey, ListenPort, FwMark, Address, MTU, Table, PreUp, PostUp, \
    PreDown, PostDown, DNS, SaveConfig";
const PEER_KEYS: &str = "PublicKey, PresharedKey, AllowedIPs, Endpoint, PersistentKeepalive";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    None,
    Interface,
    Peer,
}

impl FromStr for ConfigFile {
    type Err = FileError;

    fn from_str(text: &str) -> Result<Self, FileError> {
        let mut file = Self::default();
        let mut section = Section::None;
        let mut peer_lines = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            let result = match line.to_ascii_lowercase().as_str() {
                "" => Ok(()),
                "[interface]" => {
                    section = Section::Interface;
                    Ok(())
                }
                "[peer]" => {
                    section = Section::Peer;
                    let update = PeerUpdate::new(PublicKey::from_bytes([0; 32]));
                    file.peers.push(ConfigPeer { update, endpoint: None });
                    peer_lines.push((number, false));
                    Ok(())
                }
                _ => file.line(section, line, &mut peer_lines),
            };
            result.map_err(|problem| FileError { line: number, problem })?;
        }
        match peer_lines.iter().find(|(_, named)| !named) {
            Some((line, _)) => {
                Err(FileError { line: *line, problem: "this [Peer] has no PublicKey".to_owned() })
            }
            None => Ok(file),
        }
    }
}

impl ConfigFile {
    fn line(
        &mut self,
        section: Section,
        line: &str,
        peers: &mut [(usize, bool)],
    ) -> Result<(), String> {
        let (key, value) = line
            .split_once('=')
            .map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim()))
            .ok_or("neither a [section] nor `Key = value`")?;
        match section {
            Section::None => Err("a key before [Interface] or [Peer]".to_owned()),
            Section::Interface => self.interface_line(&key, value),
            Section::Peer => {
                if let Some(last) = peers.last_mut().filter(|_| key == "publickey") {
                    last.1 = true;
                }
                let peer = self.peers.last_mut().ok_or("no [Peer] yet")?;
                peer_line(peer, &key, value)
            }
        }
    }

    fn interface_line(&mut self, key: &str, value: &str) -> Result<(), String> {
        let hooks = &mut self.hooks;
        match key {
            "privatekey" => {
                let key = PrivateKey::from_base64(value);
                self.private_key = Some(key.map_err(|error| error.to_string())?);
            }
            "listenport" => self.listen_port = Some(number(value, "a port from 0 to 65535")?),
            "fwmark" => self.fwmark = Some(mark(value)?),
            "address" => {
                for address in list(value) {
                    self.addresses.push(network(address)?);
                }
            }
            "mtu" => self.mtu = Some(number(value, "a number of bytes")?),
            "table" => self.table = table(value)?,
            "preup" => hooks.pre_up.push(value.to_owned()),
            "postup" => hooks.post_up.push(value.to_owned()),
            "predown" => hooks.pre_down.push(value.to_owned()),
            "postdown" => hooks.post_down.push(value.to_owned()),
            "dns" => self.warnings.push("DNS is not set: use PostUp to set it".to_owned()),
            "saveconfig" => {
                if value != "false" {
                    self.warnings.push("SaveConfig is ignored: the file is never written".into());
                }
            }
            _ => return Err(unknown(key, "[Interface]", INTERFACE_KEYS)),
        }
        Ok(())
    }
}

fn peer_line(peer: &mut ConfigPeer, key: &str, value: &str) -> Result<(), String> {
    let update = &mut peer.update;
    match key {
        "publickey" => {
            let key = PublicKey::from_base64(value);
            update.public_key = key.map_err(|error| error.to_string())?;
        }
        "presharedkey" => {
            let key = PresharedKey::from_base64(value);
            update.preshared_key = Some(key.map_err(|error| error.to_string())?);
        }
        "allowedips" => {
            for prefix in list(value) {
                let prefix: Prefix = parse(prefix)?;
                update.allowed_ips.push(AllowedIpUpdate { prefix, remove: false });
            }
        }
        "endpoint" => {
            let named = value.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
            });
            if !named {
                return Err(format!("{value:?} is no endpoint: host:port or [IPv6]:port"));
            }
            peer.endpoint = Some(value.to_owned());
        }
        "persistentkeepalive" => {
            let off = value.eq_ignore_ascii_case("off");
            let seconds = if off { 0 } else { number(value, "off, or 0 to 65535 seconds")? };
            update.persistent_keepalive_s = Some(seconds);
        }
        _ => return Err(unknown(key, "[Peer]", PEER_KEYS)),
    }
    Ok(())
}

fn unknown(key: &str, section: &str, known: &str) -> String {
    format!("{key:?} is no key of {section}; it takes {known}")
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn parse<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn number<T: FromStr>(value: &str, allowed: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{value:?} is not {allowed}"))
}

/// A bare address is a single one.
fn network(text: &str) -> Result<Network, String> {
    if text.contains('/') {
        return parse(text);
    }
    parse(&format!("{text}/{}", if text.contains(':') { 128 } else { 32 }))
}

fn mark(value: &str) -> Result<u32, String> {
    let parsed = match value.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if value.eq_ignore_ascii_case("off") => Some(0),
        None => value.parse().ok(),
    };
    parsed.ok_or_else(|| format!("{value:?} is no mark: off, a number, or 0x and hexadecimal"))
}

fn table(value: &str) -> Result<RouteTable, String> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => Ok(RouteTable::Auto),
        "off" => Ok(RouteTable::Off),
        "main" => Ok(RouteTable::Number(super::netlink_routes::TABLE_MAIN)),
        text => match text.parse() {
            Ok(table) if table > 0 => Ok(RouteTable::Number(table)),
            _ => Err(format!("{value:?} is no table: auto, off, main or a number above 0")),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";

    #[test]
    fn a_whole_file_is_read() {
        let file: ConfigFile = format!(
            "# home\n[interface]\nPrivateKey={KEY}\nAddress = 10.9.0.1/24, fd09::1\nAddress = 10.8.0.1/32\n\
             ListenPort = 51820 # here\nFwMark = 0x10\nMTU=1400\nTable = 77\nDNS = 9.9.9.9\n\
             PreUp = echo %i\nPostUp = a\nPostUp = b\n\n[Peer]\npublickey = {KEY}\n\
             PresharedKey = {KEY}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = vpn.example.net:51820\n\
             PersistentKeepalive = 25\n[Peer]\nPublicKey = {KEY}\nAllowedIPs =\n\
             PersistentKeepalive = off\nEndpoint = [2001:db8::1]:7\n"
        )
        .parse()
        .unwrap();
        assert_eq!((file.listen_port, file.fwmark, file.mtu), (Some(51820), Some(16), Some(1400)));
        let addresses: Vec<_> = file.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.9.0.1/24", "fd09::1/128", "10.8.0.1/32"]);
        assert_eq!((file.table, file.warnings.len()), (RouteTable::Number(77), 1));
        assert_eq!((file.hooks.pre_up.len(), file.hooks.post_up.len()), (1, 2));
        let [first, second] = &file.peers[..] else { panic!("two peers") };
        assert_eq!(first.endpoint.as_deref(), Some("vpn.example.net:51820"));
        assert_eq!((first.update.allowed_ips.len(), second.update.allowed_ips.len()), (2, 0));
        assert_eq!(second.update.persistent_keepalive_s, Some(0));
    }

    #[test]
    fn refusals_name_the_line_and_what_is_allowed() {
        for (text, line, part) in [
            ("x", 1, "[section]"),
            ("MTU = 1", 1, "before [Interface]"),
            ("[Interface]\nMtuu = 1", 2, "ListenPort"),
            ("[Interface]\nAddress = 10.0.0.1/33", 2, "10.0.0.1/33"),
            ("[Interface]\nTable = x", 2, "auto, off"),
            ("[Interface]\nListenPort = 70000", 2, "65535"),
            ("[Peer]\nAllowedIPs = 10/8", 2, "10.7.0.0/24"),
            ("\n[Peer]\nEndpoint = x:1", 2, "no PublicKey"),
            ("[Peer]\nEndpoint = x", 2, "host:port"),
        ] {
            let error = text.parse::<ConfigFile>().err().unwrap();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
        let secret = "[Interface]\nPrivateKey = c2VjcmV0";
        assert!(!secret.parse::<ConfigFile>().err().unwrap().to_string().contains("c2Vj"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(?s)(\\[Interface\\]|\\[Peer\\])?.{0,200}") {
            let _ = text.parse::<ConfigFile>();
        }
    }
}
