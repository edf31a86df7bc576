//! `SaveConfig`: the file of a device written anew with what is in force, as wg-quick has it.
//!
//! In: what the file said of the interface, and the device as it is. Out: a file that only its
//! owner can read, in the place of the old one from one moment to the next. As with wg-quick,
//! comments are lost and endpoints are addresses; addresses of the interface are those of the file.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::config_file::{Interface, Table};
use super::uapi::DeviceStatus;
use crate::protocol::config::PeerView;
use crate::wire::wireguard::keys::PresharedKey;

/// Room for the interface and for a peer, so that the text does not grow, which would leave copies
/// of keys behind.
const INTERFACE_LEN: usize = 4 << 10;
const PEER_LEN: usize = 512;
const PREFIX_LEN: usize = 48;

/// Replaces the file at `path`.
///
/// # Errors
/// The kernel's; the old file is as it was.
pub fn save(path: &Path, interface: &Interface, status: &DeviceStatus) -> io::Result<()> {
    let text = text_of(interface, status);
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let young = Path::new(&name);
    // One that was left behind may be open to others.
    let _ = fs::remove_file(young);
    let write = |mut file: File| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(young, path)
    };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(young)
        .and_then(write)
        .inspect_err(|_| drop(fs::remove_file(young)))
}

fn text_of(interface: &Interface, status: &DeviceStatus) -> Zeroizing<String> {
    let peers = &status.view.peers;
    let hooks = hooks(interface);
    let prefixes: usize = peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let hooks_len: usize = hooks.iter().map(|(_, command)| command.len() + 16).sum();
    let room = INTERFACE_LEN + hooks_len + peers.len() * PEER_LEN + prefixes * PREFIX_LEN;
    let mut text = Zeroizing::new(String::with_capacity(room));
    text.push_str("[Interface]\n");
    text_of_interface(interface, status, &hooks, &mut text);
    for peer in peers {
        text.push_str("\n[Peer]\n");
        text_of_peer(peer, &mut text);
    }
    text
}

fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name} = {value}");
}

fn hooks(interface: &Interface) -> Vec<(&'static str, &str)> {
    [
        ("PreUp", &interface.pre_up),
        ("PostUp", &interface.post_up),
        ("PreDown", &interface.pre_down),
        ("PostDown", &interface.post_down),
    ]
    .into_iter()
    .flat_map(|(name, commands)| commands.iter().map(move |command| (name, command.as_str())))
    .collect()
}

fn text_of_interface(
    interface: &Interface,
    status: &DeviceStatus,
    hooks: &[(&str, &str)],
    text: &mut String,
) {
    for address in &interface.addresses {
        line(text, "Address", address);
    }
    if !interface.dns.is_empty() {
        line(text, "DNS", interface.dns.join(", "));
    }
    if let Some(mtu) = interface.mtu {
        line(text, "MTU", mtu);
    }
    match interface.table {
        Table::Auto => {}
        Table::Off => line(text, "Table", "off"),
        Table::Number(number) => line(text, "Table", number),
    }
    line(text, "SaveConfig", "true");
    for (name, command) in hooks {
        line(text, name, command);
    }
    if status.listen_port != 0 {
        line(text, "ListenPort", status.listen_port);
    }
    if status.fwmark != 0 {
        line(text, "FwMark", format_args!("{:#x}", status.fwmark));
    }
    if let Some(key) = &status.view.private_key {
        line(text, "PrivateKey", key.to_base64().as_str());
    }
}

fn text_of_peer(peer: &PeerView, text: &mut String) {
    line(text, "PublicKey", peer.public_key);
    if peer.preshared_key.as_bytes() != PresharedKey::default().as_bytes() {
        line(text, "PresharedKey", peer.preshared_key.to_base64().as_str());
    }
    if !peer.allowed_ips.is_empty() {
        let prefixes: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        line(text, "AllowedIPs", prefixes.join(", "));
    }
    if let Some(endpoint) = peer.endpoint {
        line(text, "Endpoint", endpoint);
    }
    if peer.persistent_keepalive_s != 0 {
        line(text, "PersistentKeepalive", peer.persistent_keepalive_s);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::config_file::load;
    use super::*;
    use crate::protocol::config::DeviceView;
    use crate::wire::wireguard::keys::{PrivateKey, PublicKey};

    fn peer(n: u8) -> PeerView {
        PeerView {
            public_key: PublicKey::from_bytes([n; 32]),
            preshared_key: PresharedKey::from_bytes([n - 1; 32]),
            endpoint: (n > 1).then_some(([192, 0, 2, n], 51820).into()),
            persistent_keepalive_s: u16::from(n - 1) * 25,
            last_handshake: None,
            received_bytes: 0,
            sent_bytes: 0,
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        }
    }

    #[test]
    fn what_is_saved_can_be_read_again() {
        let interface = Interface {
            addresses: vec!["10.0.0.1/24".parse().unwrap()],
            mtu: Some(1400),
            table: Table::Number(7),
            dns: vec!["10.0.0.2".to_owned(), "example.com".to_owned()],
            post_up: vec!["echo %i; true".to_owned()],
            save_config: true,
            ..Interface::default()
        };
        let private_key = Some(PrivateKey::from_bytes([72; 32]));
        let view = DeviceView { private_key, peers: vec![peer(1), peer(2)], refused_handshakes: 0 };
        let status = DeviceStatus { view, listen_port: 51820, fwmark: 0xca6c };
        let folder = std::env::temp_dir().join(format!("ringtun-save-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("wg0.conf");
        fs::write(&path, "old").unwrap();
        save(&path, &interface, &status).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = load(&path).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left behind");
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(read.interface.addresses, interface.addresses);
        assert_eq!((read.interface.mtu, read.interface.table), (Some(1400), Table::Number(7)));
        assert_eq!((&read.interface.dns, read.interface.save_config), (&interface.dns, true));
        assert_eq!(read.interface.post_up, interface.post_up);
        let numbers = (read.interface.listen_port, read.interface.fwmark);
        assert_eq!(numbers, (Some(51820), Some(0xca6c)));
        let update = read.device_update(&[None, None]);
        assert_eq!(update.private_key.unwrap().unwrap().as_bytes(), &[72; 32]);
        let [one, two] = &update.peers[..] else { panic!("two peers") };
        assert!(one.preshared_key.is_none() && one.persistent_keepalive_s.is_none());
        assert_eq!(two.preshared_key.as_ref().unwrap().as_bytes(), &[1; 32]);
        assert_eq!((two.persistent_keepalive_s, two.allowed_ips.len()), (Some(25), 2));
    }
}
