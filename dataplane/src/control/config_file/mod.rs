//! Configuration files as wg-quick(8) reads them.
//!
//! In: a file. Out: a [`ConfigFile`], typed and checked, with warnings about what will not be done,
//! or a [`ConfigError`] that names file, line and value. Nothing is carried out and no name is
//! looked up here, but for numbers of routing tables in iproute2's files. The text of the file is
//! wiped when it has been read, and no message repeats a key.
//!
//! ```text
//! parse             lines ─► sections and settings
//! values            one setting's text ─► its value
//! routing_tables    names of routing tables ─► numbers
//! ```

mod parse;
mod routing_tables;
mod values;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::find_endpoint::Retries;
use super::values::Network;
use crate::protocol::config::{AllowedIpUpdate, DeviceUpdate, PeerUpdate};
use crate::table::allowed_ips::Prefix;
use crate::wire::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};

pub use parse::parse;

/// Bytes of a file at most.
const FILE_LEN_MAX: u64 = 64 << 20;
/// Permissions of everybody but owner and group.
const MODE_OTHERS: u32 = 0o007;

/// A file, read.
#[derive(Debug, Default)]
pub struct ConfigFile {
    /// Its `[Interface]`; several are one.
    pub interface: Interface,
    /// Its `[Peer]`s, in order.
    pub peers: Vec<PeerEntry>,
    /// Where it was read, for `SaveConfig`; empty if it was no file.
    pub path: PathBuf,
    /// What the user should know: what is not done, what looks like a mistake.
    pub warnings: Vec<String>,
    /// How often names that cannot be found yet are asked for again: of the environment, not of
    /// the file.
    pub retries: Retries,
}

/// What `[Interface]` says.
#[derive(Debug, Default)]
pub struct Interface {
    /// `PrivateKey`; none if there is none or it is all zero.
    pub private_key: Option<PrivateKey>,
    /// `ListenPort`; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// `FwMark`; 0 for none.
    pub fwmark: Option<u32>,
    /// `Address`, every one.
    pub addresses: Vec<Network>,
    /// `MTU` in bytes.
    pub mtu: Option<u32>,
    /// `Table`.
    pub table: Table,
    /// `DNS`: servers and search domains.
    pub dns: Vec<String>,
    /// `PreUp`: commands in order, `%i` as it stands.
    pub pre_up: Vec<String>,
    /// `PostUp`, likewise.
    pub post_up: Vec<String>,
    /// `PreDown`, likewise.
    pub pre_down: Vec<String>,
    /// `PostDown`, likewise.
    pub post_down: Vec<String>,
    /// `SaveConfig`.
    pub save_config: bool,
}

/// Where routes to the peers' allowed IPs go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// The main table, and a default route beside the host's own.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// This table.
    Number(u32),
}

/// What a `[Peer]` says.
#[derive(Debug)]
pub struct PeerEntry {
    /// The line of its header.
    pub line: usize,
    /// `PublicKey`.
    pub public_key: PublicKey,
    /// `PresharedKey`.
    pub preshared_key: Option<PresharedKey>,
    /// `Endpoint`.
    pub endpoint: Option<EndpointName>,
    /// `PersistentKeepalive`; 0 for none.
    pub persistent_keepalive_s: Option<u16>,
    /// `AllowedIPs`, every one.
    pub allowed_ips: Vec<Prefix>,
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointName {
    /// A host name or an IP address, which may have a scope (`fe80::1%eth0`); without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

impl EndpointName {
    /// The endpoint itself, if it is an address and nothing has to be looked up.
    #[must_use]
    pub fn literal(&self) -> Option<SocketAddr> {
        let address: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(address.to_canonical(), self.port))
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {file}: {error}")]
    Read {
        /// The file.
        file: String,
        /// The kernel's answer.
        error: io::Error,
    },
    /// A line of it makes no sense.
    #[error("{file}:{line}: {problem}")]
    Line {
        /// The file.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong and what is allowed; never a key.
        problem: String,
    },
}

/// Reads the file at `path`.
///
/// # Errors
/// [`ConfigError`]; nothing is half read.
pub fn load(path: &Path) -> Result<ConfigFile, ConfigError> {
    let name = path.display().to_string();
    let failed = |error| ConfigError::Read { file: name.clone(), error };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let room = usize::try_from(metadata.len().min(FILE_LEN_MAX)).unwrap_or(0) + 2;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    let len = file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if len as u64 > FILE_LEN_MAX {
        return Err(failed(io::Error::other("it is longer than 64 MiB")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::Line { file: name.clone(), line, problem: "not UTF-8 text".to_owned() }
    })?;
    let mut config = parse(&name, text, &routing_tables::number)?;
    config.path = path.to_owned();
    if is_open_to_all(path, metadata.permissions().mode()) {
        let warning = format!("{name} is world accessible and holds keys: `chmod 600 {name}`");
        config.warnings.insert(0, warning);
    }
    Ok(config)
}

/// Whether everybody can reach the file, as wg-quick has it: the folder counts too.
fn is_open_to_all(path: &Path, mode: u32) -> bool {
    let folder = fs::canonicalize(path).ok().and_then(|path| {
        let folder = path.parent()?;
        fs::metadata(folder).ok()
    });
    // A pipe or the like has no folder.
    folder.is_some_and(|folder| mode & folder.permissions().mode() & MODE_OTHERS != 0)
}

impl ConfigFile {
    /// The update that makes a device what the file says, whatever it was before (`wg setconf`).
    ///
    /// `endpoints` are those of [`Self::peers`], in the same order, looked up; peers without one
    /// will have none until they speak.
    #[must_use]
    pub fn device_update(&self, endpoints: &[Option<SocketAddr>]) -> DeviceUpdate {
        let endpoint_of = |place: usize| endpoints.get(place).copied().flatten();
        let peers = self.peers.iter().enumerate();
        DeviceUpdate {
            private_key: Some(self.interface.private_key.clone()),
            listen_port: Some(self.interface.listen_port.unwrap_or(0)),
            fwmark: Some(self.interface.fwmark.unwrap_or(0)),
            replace_peers: true,
            peers: peers.map(|(place, peer)| peer.update(endpoint_of(place))).collect(),
        }
    }
}

impl PeerEntry {
    fn update(&self, endpoint: Option<SocketAddr>) -> PeerUpdate {
        let add = |prefix: &Prefix| AllowedIpUpdate { prefix: *prefix, remove: false };
        PeerUpdate {
            public_key: self.public_key,
            remove: false,
            update_only: false,
            preshared_key: self.preshared_key.clone(),
            endpoint,
            persistent_keepalive_s: self.persistent_keepalive_s,
            replace_allowed_ips: true,
            allowed_ips: self.allowed_ips.iter().map(add).collect(),
        }
    }
}

#[cfg(test)]
mod load_tests;
#[cfg(test)]
mod parse_tests;
