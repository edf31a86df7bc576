//! Workloads with a WireGuard device of their own, whose peers the benchmark plays itself.
//!
//! | name | done | measured |
//! |---|---|---|
//! | `handshakes` | 1,000 initiators, 32 initiations under way | handshakes/s, p50, p99, CPU |
//! | `handshakesN` | the same with N under way: many are load | the same |
//! | `peersN` | a device with N peers of ten allowed IPs is started | seconds, peak memory |
//!
//! ```text
//! left: the peers ── wire ── right: the device under test     device (start, configure, end)
//!   handshakes: initiators (prepared, counted, opened)        cast   (keys, `wg setconf`)
//!   start_up:   the last peer answers
//! ```
//!
//! A handshake is an initiation of a configured peer, answered by a response that the initiator
//! opens: MAC1, both Diffie-Hellmans, the preshared key. Initiations are made before the clock
//! starts and responses are opened after it has stopped, so that what runs meanwhile is the
//! responder. Each initiator has an address of its own, for responders that are busy take 20 a
//! second of one, and its turn comes every 1,000 handshakes, for they take 50 a second of one peer.
//! To a cookie reply it sends its initiation again, with MAC2.

mod cast;
mod device;
mod handshakes;
mod initiators;
mod start_up;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use ringtun::lab::Address;
use ringtun::lab::traffic::Stop;
use serde_json::{Value, json};

use crate::competitors::Competitor;
use crate::figures::Figures;
use crate::measure::Cost;
use crate::workload::Route;
use device::Device;

pub(crate) use initiators::HandshakeReport;
pub(crate) use start_up::StartUpReport;

/// Initiations under way: two cores are never idle, and nobody's queue is so long that it is load.
const WINDOW: usize = 32;
const WINDOW_MAX: usize = handshakes::PEERS;
const PEERS_MAX: usize = 50_000;
/// Devices listen on this and the ports after it; tunnels have those below.
const FIRST_PORT: u16 = 52_820;
/// In the device; the peers' are in [`cast::INNER`].
const ADDRESS: Address = Address { ip: IpAddr::V4(Ipv4Addr::new(10, 192, 0, 1)), prefix_len: 32 };

/// What is done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alone {
    /// It answers, with so many initiations under way.
    Handshakes(usize),
    /// It starts with so many peers.
    StartUp(usize),
}

/// Where, and with whose device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage<'a> {
    /// Makes the device.
    pub(crate) competitor: &'a dyn Competitor,
    /// From the peers to the device.
    pub(crate) route: Route<'a>,
    /// Of the competitor; makes its device and port unique.
    pub(crate) index: u8,
    /// For how long handshakes are made.
    pub(crate) seconds: u64,
    /// Ends it early.
    pub(crate) stop: &'a Stop,
}

impl Alone {
    /// What there is, for people.
    pub(crate) const NAMES: &str = "handshakes, handshakesN (N under way, 1 to 1000), peersN (1 to \
        50000)";
    /// Why somebody has no figures.
    pub(crate) const EXEMPT: &str = "it is no WireGuard that `wg` configures";

    /// From its name.
    pub(crate) fn read(name: &str) -> Option<Self> {
        let number =
            |digits: &str, max| digits.parse().ok().filter(|number| (1..=max).contains(number));
        if let Some(digits) = name.strip_prefix("handshakes") {
            let window = if digits.is_empty() { Some(WINDOW) } else { number(digits, WINDOW_MAX) };
            return window.map(Self::Handshakes);
        }
        number(name.strip_prefix("peers")?, PEERS_MAX).map(Self::StartUp)
    }

    /// Does it; returns the figures, how the device was run, and what it cost.
    ///
    /// # Errors
    /// A device that did not come up in time or ended; [`TrafficError::Stopped`].
    ///
    /// [`TrafficError::Stopped`]: ringtun::lab::traffic::TrafficError::Stopped
    pub(crate) fn run(self, stage: &Stage<'_>) -> Result<(Figures, Value, Cost)> {
        let (figures, how, cost) = match self {
            Self::Handshakes(window) => handshakes::run(window, stage)?,
            Self::StartUp(peers) => start_up::run(peers, stage)?,
        };
        Ok((figures, json!({ "device": how }), cost))
    }
}

impl Stage<'_> {
    /// Makes the device, without configuration.
    fn device(&self) -> Result<Device<'_>> {
        let name = format!("bench{}a", self.index);
        Device::start(self.competitor, self.route.server, name, self.stop)
    }

    /// Where it listens.
    fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(ringtun::lab::Pair::RIGHT[0].ip, FIRST_PORT + u16::from(self.index))
    }
}

impl fmt::Display for Alone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshakes(WINDOW) => f.write_str("handshakes"),
            Self::Handshakes(window) => write!(f, "handshakes{window}"),
            Self::StartUp(peers) => write!(f, "peers{peers}"),
        }
    }
}
