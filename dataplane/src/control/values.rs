//! The values a user writes, each parsed once into a type that cannot be wrong.
//!
//! In: one word from the command line (later, from a file). Out: the typed value or an error that
//! says what is wrong with it and what is allowed. No I/O happens here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Most queues a tun device can have, hence most workers.
pub const WORKERS_MAX: usize = 256;
/// The longest interface name in bytes (the kernel's IFNAMSIZ less the terminator).
pub const NAME_LEN_MAX: usize = 15;

/// Why a value was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// A configuration file where only a name works today.
    #[error(
        "{0:?} looks like a file (it has a '/' or ends in .conf or .toml); configuration files are \
         not supported yet, and an interface name looks like rt0"
    )]
    File(String),
    /// Not an interface name.
    #[error("{name:?} is no interface name: {problem}; for example rt0")]
    Name {
        /// What was written.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not ADDRESS/PREFIX.
    #[error(
        "{text:?} is no address with a prefix: {problem}; for example 10.7.0.1/24 or fd00::1/64"
    )]
    Network {
        /// What was written.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Not ADDR:PORT or PORT.
    #[error(
        "{text:?} is nothing to listen on: {problem}; give a port (51820, both families) or \
         an address and a port (0.0.0.0:51820, [::]:51820)"
    )]
    Listen {
        /// What was written.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not a usable peer.
    #[error(
        "{text:?} is no peer: {problem}; give an address and a port (192.0.2.2:51820, \
         [2001:db8::2]:51820); host names are not supported yet"
    )]
    Peer {
        /// What was written.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not a worker count or core list.
    #[error(
        "{text:?} says neither how many workers nor which cores: {problem}; give auto, a number \
         (2), or a list of cores (0,2-3; for core 3 alone write 3-3)"
    )]
    Workers {
        /// What was written.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not a gso_max_size.
    #[error("{text:?} is no size: give auto or a number of bytes from {min} to {max}")]
    GsoSize {
        /// What was written.
        text: String,
        /// Smallest allowed.
        min: u32,
        /// Largest allowed.
        max: u32,
    },
}

/// The name of an interface that the kernel will take.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a word names a file rather than an interface: `up NAME` and `up FILE` share the word.
#[must_use]
pub fn looks_like_file(word: &str) -> bool {
    word.contains('/') || word.ends_with(".conf") || word.ends_with(".toml")
}

impl FromStr for InterfaceName {
    type Err = ValueError;

    fn from_str(word: &str) -> Result<Self, ValueError> {
        if looks_like_file(word) {
            return Err(ValueError::File(word.to_owned()));
        }
        let problem = if word.is_empty() {
            "it is empty"
        } else if word.len() > NAME_LEN_MAX {
            "it is longer than 15 bytes"
        } else if word == "." || word == ".." {
            "it is a folder"
        } else if word == "all" || word == "default" {
            // Both are sysctl folders beside the interfaces' own.
            "the kernel uses this word for settings of all interfaces"
        } else if !word.bytes().all(|byte| byte.is_ascii_graphic() && !b":%\"\\".contains(&byte)) {
            "only visible ASCII characters without ':', '%', '\"' and '\\' are allowed"
        } else {
            return Ok(Self(word.to_owned()));
        };
        Err(ValueError::Name { name: word.to_owned(), problem })
    }
}

/// An address of the device with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network's prefix.
    pub prefix_len: u8,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for Network {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refuse = |problem: String| ValueError::Network { text: text.to_owned(), problem };
        let Some((address, prefix)) = text.split_once('/') else {
            return Err(refuse("the prefix length is missing".to_owned()));
        };
        let address: IpAddr =
            address.parse().map_err(|_| refuse(format!("{address:?} is no IP address")))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix_len = prefix.parse().ok().filter(|len| digits && (1..=longest).contains(len));
        let Some(prefix_len) = prefix_len else {
            return Err(refuse(format!("the prefix length must be 1 to {longest}")));
        };
        if address.is_unspecified() || address.is_multicast() {
            return Err(refuse(
                "a device cannot have the unspecified or a multicast address".into(),
            ));
        }
        Ok(Self { address, prefix_len })
    }
}

/// One `--listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// This address and port.
    Address(SocketAddr),
    /// This port on every address of both families.
    Port(u16),
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refuse = |problem| Err(ValueError::Listen { text: text.to_owned(), problem });
        let listen = if let Ok(port) = text.parse() {
            Self::Port(port)
        } else if let Ok(address) = text.parse() {
            Self::Address(address)
        } else if text.parse::<IpAddr>().is_ok() {
            return refuse("the port is missing");
        } else {
            return refuse("it is neither a port nor an address with a port");
        };
        match listen {
            Self::Port(0) => refuse("port 0 would pick one that the peer cannot know"),
            Self::Address(address) if address.port() == 0 => {
                refuse("port 0 would pick one that the peer cannot know")
            }
            Self::Address(address) if address.ip().is_multicast() => {
                refuse("a multicast address cannot be listened on")
            }
            Self::Address(_) | Self::Port(_) => Ok(listen),
        }
    }
}

/// The peer's endpoint: a unicast address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

impl FromStr for Peer {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refuse = |problem| Err(ValueError::Peer { text: text.to_owned(), problem });
        let Ok(address) = text.parse::<SocketAddr>() else {
            let bare = text.parse::<IpAddr>().is_ok();
            return refuse(if bare {
                "the port is missing"
            } else {
                "it is no IP address and port"
            });
        };
        if address.port() == 0 {
            return refuse("port 0 cannot be sent to");
        }
        if address.ip().is_unspecified() || address.ip().is_multicast() {
            return refuse("the address must be that of one host");
        }
        // The kernel reports IPv4 senders on IPv4 sockets; a mapped peer would never match.
        Ok(Self(SocketAddr::new(address.ip().to_canonical(), address.port())))
            .map(|peer| if peer.0.is_ipv6() { Self(address) } else { peer })
    }
}

/// How many workers, or on which cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// One a core.
    Auto,
    /// This many, on the first cores.
    Count(usize),
    /// One on each of these cores.
    Cores(Vec<usize>),
}

impl FromStr for Workers {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refuse = |problem| ValueError::Workers { text: text.to_owned(), problem };
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Ok(count) = text.parse::<usize>() {
            return match count {
                0 => Err(refuse("at least one worker is needed")),
                1..=WORKERS_MAX => Ok(Self::Count(count)),
                _ => Err(refuse("a tun device has at most 256 queues")),
            };
        }
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
                return Err(refuse("a core is a number"));
            };
            if first > last {
                return Err(refuse("a range runs from the lower core to the higher"));
            }
            if last - first >= WORKERS_MAX || cores.len() + (last - first) >= WORKERS_MAX {
                return Err(refuse("a tun device has at most 256 queues"));
            }
            cores.extend(first..=last);
        }
        let mut unique = cores.clone();
        unique.sort_unstable();
        unique.dedup();
        if unique.len() != cores.len() {
            return Err(refuse("a core is named twice"));
        }
        Ok(Self::Cores(cores))
    }
}

/// How large a super-packet the kernel may build for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoSize {
    /// Matched to one UDP send, or full size on a forwarding host.
    Auto,
    /// This many bytes.
    Bytes(u32),
}

impl GsoSize {
    /// Smallest size that may be asked for.
    pub const MIN: u32 = 2_048;
    /// Largest: what one read of the tun device can hold.
    pub const MAX: u32 = 65_536;
}

impl FromStr for GsoSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let bytes = text.parse().ok().filter(|bytes| (Self::MIN..=Self::MAX).contains(bytes));
        bytes.map(Self::Bytes).ok_or_else(|| ValueError::GsoSize {
            text: text.to_owned(),
            min: Self::MIN,
            max: Self::MAX,
        })
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
