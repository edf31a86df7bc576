//! From what the user asks for to a [`Plan`] that can be carried out.
//!
//! In: [`Options`] (typed values, each fine by itself) and the cores this process may use. Out: a
//! `Plan` whose parts fit together, or a [`PlanError`] that says what does not and what to change.
//! Pure: what only the host can know (the path's MTU, IPv6 or not) is settled later, on the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::values::{GsoSize, InterfaceName, Listen, Network, Peer, WORKERS_MAX, Workers};
use crate::engine::BusyPoll;

/// Smallest MTU of the device: what every IPv4 host must be able to take.
pub const MTU_MIN: u32 = 576;
/// Largest: with outer IPv4 and UDP headers it fills the largest IP packet.
pub const MTU_MAX: u32 = 65_535 - 28;
/// WireGuard's usual MTU: fits 1,500 bytes with outer IPv6.
pub const MTU_WIREGUARD: u32 = 1_420;
/// What IPv6 asks of a link.
pub const MTU_IPV6_MIN: u32 = 1_280;
/// The path's MTU when the host cannot tell.
pub const PATH_MTU_DEFAULT: u32 = 1_500;
/// Workers that `auto` stops at: one peer is one flow, which more cores do not speed up.
const WORKERS_AUTO_MAX: usize = 8;

/// What travels over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encap {
    /// The inner IP packet is the UDP payload: readable, forgeable.
    Plain,
    /// The WireGuard protocol.
    WireGuard,
}

impl Encap {
    /// Its name in options and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::WireGuard => "wireguard",
        }
    }

    /// Bytes that it adds to an inner packet of full size.
    #[must_use]
    pub const fn overhead(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::WireGuard => 32,
        }
    }
}

/// Which I/O backend is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring where it works, else mmsg.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll, recvmmsg and sendmmsg.
    Mmsg,
}

/// What packets are encrypted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AeadChoice {
    /// IPsec-MB where it is installed and faster, else ring.
    #[default]
    Auto,
    /// ring.
    Ring,
    /// IPsec-MB or nothing.
    IpsecMb,
}

/// What the user asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device's name.
    pub name: InterfaceName,
    /// Its addresses.
    pub addresses: Vec<Network>,
    /// Where to receive.
    pub listen: Vec<Listen>,
    /// Where to send.
    pub peer: Peer,
    /// What travels over the network; must be given.
    pub encap: Option<Encap>,
    /// The device's MTU in bytes; none means by the path to the peer.
    pub mtu: Option<u32>,
    /// How many workers, or where.
    pub workers: Workers,
    /// The I/O backend.
    pub io: IoChoice,
    /// Tuning that has a good default.
    pub tuning: Tuning,
}

/// Tuning that has a good default and passes through the plan unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Use multishot requests where io_uring has them.
    pub multishot: bool,
    /// What packets are encrypted by.
    pub aead: AeadChoice,
    /// Send with `UDP_SEGMENT`.
    pub udp_gso: bool,
    /// Receive with `UDP_GRO`.
    pub udp_gro: bool,
    /// Let the tun device hand over super-packets.
    pub tun_gso: bool,
    /// Merge received packets before the tun write.
    pub tun_gro: bool,
    /// How large super-packets may get.
    pub gso_size: GsoSize,
    /// The device's transmit queue in packets.
    pub tx_queue_len: u32,
    /// UDP socket buffer each way in bytes.
    pub socket_buffer_bytes: u32,
    /// Tell transfers to slow down when a queue stands.
    pub aqm: bool,
    /// Look for packets before sleeping.
    pub busy_poll: BusyPoll,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            multishot: true,
            aead: AeadChoice::Auto,
            udp_gso: true,
            udp_gro: true,
            tun_gso: true,
            tun_gro: true,
            gso_size: GsoSize::Auto,
            tx_queue_len: 1_000,
            socket_buffer_bytes: 7 << 20,
            aqm: true,
            busy_poll: BusyPoll::Auto,
        }
    }
}

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAt {
    /// Where.
    pub address: SocketAddr,
    /// Whether a host without this address family is an error.
    pub required: bool,
}

/// What will be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The device's name.
    pub name: InterfaceName,
    /// Its addresses.
    pub addresses: Vec<Network>,
    /// At most one address a family.
    pub listen: Vec<ListenAt>,
    /// Where to send in the clear; its family is listened on. WireGuard's peers come later.
    pub peer: Option<SocketAddr>,
    /// What travels over the network.
    pub encap: Encap,
    /// The device's MTU, if it was given.
    pub mtu: Option<u32>,
    /// One entry a worker, at least one: the core it is pinned to.
    pub cpus: Vec<Option<usize>>,
    /// The I/O backend.
    pub io: IoChoice,
    /// The device is brought up at once.
    pub up: bool,
    /// The rest.
    pub tuning: Tuning,
}

/// Why the options do not make a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Encryption is the coming default, so sending in the clear must be said.
    #[error(
        "--listen and --peer alone make no encrypted tunnel: that needs keys, so give `--config \
         FILE` (a wg-quick file). `--encap plain` sends packets readable and lets anyone who can \
         forge a source address inject some; add it to accept that"
    )]
    EncapMissing,
    /// Two listens for one family.
    #[error(
        "--listen is given twice for {family} ({first} and {second}); give at most one for each \
         address family, or only a port for both"
    )]
    ListenTwice {
        /// IPv4 or IPv6.
        family: &'static str,
        /// One.
        first: SocketAddr,
        /// The other.
        second: SocketAddr,
    },
    /// No socket can reach the peer.
    #[error(
        "the peer {peer} is an {family} address but --listen has none of that family; add \
         `--listen {example}` or give only the port to listen on both families"
    )]
    PeerFamily {
        /// The peer.
        peer: SocketAddr,
        /// IPv4 or IPv6.
        family: &'static str,
        /// What to add.
        example: SocketAddr,
    },
    /// The tunnel would talk to itself.
    #[error("the peer {peer} is the address this end listens on; give the other end's address")]
    PeerIsSelf {
        /// The peer.
        peer: SocketAddr,
    },
    /// An address twice.
    #[error("--address {address} is given twice")]
    AddressTwice {
        /// The address.
        address: IpAddr,
    },
    /// MTU out of range.
    #[error("--mtu {mtu} is out of range: {MTU_MIN} to {MTU_MAX} bytes are possible")]
    Mtu {
        /// What was asked for.
        mtu: u32,
    },
    /// MTU too small for an IPv6 address.
    #[error(
        "an MTU of {mtu} bytes is too small for the IPv6 address {network}: IPv6 needs \
         {MTU_IPV6_MIN}; raise it with --mtu (outer packets that are too large are fragmented) or \
         leave the address out"
    )]
    MtuIpv6 {
        /// The MTU.
        mtu: u32,
        /// The address.
        network: Network,
    },
    /// More workers than cores.
    #[error(
        "--workers {asked} is more than the {usable} cores this process may run on; give at most \
         {usable}, or auto"
    )]
    TooManyWorkers {
        /// Asked for.
        asked: usize,
        /// Cores in the affinity mask.
        usable: usize,
    },
    /// A core outside the mask.
    #[error(
        "core {core} of --workers is not one this process may run on; it may use {usable:?} (see \
         `taskset -cp $$`)"
    )]
    Core {
        /// Asked for.
        core: usize,
        /// Cores in the affinity mask.
        usable: Vec<usize>,
    },
}

impl Plan {
    /// Checks that the options fit together and with the cores this process may use.
    pub fn new(options: Options, usable_cores: &[usize]) -> Result<Self, PlanError> {
        let encap = options.encap.ok_or(PlanError::EncapMissing)?;
        let listen = listen_addresses(&options.listen)?;
        let peer = options.peer.0;
        check_peer(peer, &listen)?;
        for (position, network) in options.addresses.iter().enumerate() {
            if options.addresses[..position].iter().any(|other| other.address == network.address) {
                return Err(PlanError::AddressTwice { address: network.address });
            }
        }
        if let Some(mtu) = options.mtu {
            check_mtu(mtu, &options.addresses)?;
        }
        Ok(Self {
            name: options.name,
            addresses: options.addresses,
            listen,
            peer: Some(peer),
            encap,
            mtu: options.mtu,
            cpus: choose_cores(&options.workers, usable_cores)?,
            io: options.io,
            up: true,
            tuning: options.tuning,
        })
    }

    /// A WireGuard device that others configure: down, without addresses, listening nowhere yet.
    pub fn wireguard(
        name: InterfaceName,
        workers: &Workers,
        io: IoChoice,
        usable_cores: &[usize],
    ) -> Result<Self, PlanError> {
        Ok(Self {
            name,
            addresses: Vec::new(),
            listen: Vec::new(),
            peer: None,
            encap: Encap::WireGuard,
            mtu: Some(MTU_WIREGUARD),
            cpus: choose_cores(workers, usable_cores)?,
            io,
            up: false,
            tuning: Tuning::default(),
        })
    }

    /// The device's MTU: as given, or what fits the path to the peer without fragments.
    pub fn mtu_for_path(&self, path_mtu: Option<u32>) -> Result<u32, PlanError> {
        if let Some(mtu) = self.mtu {
            return Ok(mtu);
        }
        // Without a peer to ask for, the larger header is assumed, as wg-quick does.
        let ip_header = if self.peer.is_some_and(|peer| peer.is_ipv4()) { 20 } else { 40 };
        let udp_header = 8;
        let path_mtu = path_mtu.unwrap_or(PATH_MTU_DEFAULT);
        let mtu = path_mtu
            .saturating_sub(ip_header + udp_header + self.encap.overhead())
            .clamp(MTU_MIN, MTU_MAX);
        check_mtu(mtu, &self.addresses)?;
        Ok(mtu)
    }
}

/// IPv4 or IPv6, for messages.
#[must_use]
pub fn family_name(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn listen_addresses(asked: &[Listen]) -> Result<Vec<ListenAt>, PlanError> {
    let mut listen: Vec<ListenAt> = Vec::new();
    for one in asked {
        let at = match *one {
            Listen::Address(address) => vec![ListenAt { address, required: true }],
            // A host without IPv6 is common, one without IPv4 is not: only IPv6 may be skipped.
            Listen::Port(port) => vec![
                ListenAt { address: (Ipv4Addr::UNSPECIFIED, port).into(), required: true },
                ListenAt { address: (Ipv6Addr::UNSPECIFIED, port).into(), required: false },
            ],
        };
        for new in at {
            let same = listen.iter().find(|old| old.address.is_ipv4() == new.address.is_ipv4());
            if let Some(old) = same {
                return Err(PlanError::ListenTwice {
                    family: family_name(new.address.ip()),
                    first: old.address,
                    second: new.address,
                });
            }
            listen.push(new);
        }
    }
    Ok(listen)
}

fn check_peer(peer: SocketAddr, listen: &[ListenAt]) -> Result<(), PlanError> {
    if listen.iter().any(|at| at.address == peer) {
        return Err(PlanError::PeerIsSelf { peer });
    }
    if listen.iter().any(|at| at.address.is_ipv4() == peer.is_ipv4()) {
        return Ok(());
    }
    let port = listen.first().map_or(peer.port(), |at| at.address.port());
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Err(PlanError::PeerFamily {
        peer,
        family: family_name(peer.ip()),
        example: SocketAddr::new(any, port),
    })
}

fn check_mtu(mtu: u32, addresses: &[Network]) -> Result<(), PlanError> {
    if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Err(PlanError::Mtu { mtu });
    }
    match addresses.iter().find(|network| network.address.is_ipv6()) {
        Some(network) if mtu < MTU_IPV6_MIN => Err(PlanError::MtuIpv6 { mtu, network: *network }),
        _ => Ok(()),
    }
}

fn choose_cores(workers: &Workers, usable: &[usize]) -> Result<Vec<Option<usize>>, PlanError> {
    match workers {
        // Workers that nobody gave a place float: pinned, they could not flee from what else runs
        // there, nor wake up on the core of who wakes them.
        Workers::Auto => Ok(vec![None; usable.len().min(WORKERS_AUTO_MAX)]),
        Workers::Count(asked) if *asked > usable.len().min(WORKERS_MAX) => {
            Err(PlanError::TooManyWorkers { asked: *asked, usable: usable.len() })
        }
        Workers::Count(asked) => Ok(vec![None; *asked]),
        Workers::Cores(cores) => match cores.iter().find(|core| !usable.contains(core)) {
            Some(core) => Err(PlanError::Core { core: *core, usable: usable.to_vec() }),
            None => Ok(cores.iter().copied().map(Some).collect()),
        },
    }
}

/// The cores this process may run on, lowest first; core 0 when the kernel will not say.
#[must_use]
pub fn usable_cores() -> Vec<usize> {
    let mut cores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    cores.sort_unstable();
    if cores.is_empty() {
        cores.push(0);
    }
    cores
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
