//! Traffic over ordinary kernel sockets between two hosts, measured and, where asked, checked
//! byte by byte.
//!
//! | function | measures | proves |
//! |---|---|---|
//! | [`round_trips`] | latency of UDP echoes at a fixed rate | packets pass both ways |
//! | [`tcp_streams`] | throughput of N streams, per second | bytes arrive identical (`verify`) |
//! | [`udp_sequences`] | loss at a given rate | order, integrity, no duplicates, per flow |
//! | [`connections`] | short TCP connections a second | — |
//! | [`iperf3`] | what the usual tool says | — |
//!
//! Sockets are made inside the hosts; the threads that use them run anywhere. Everything ends:
//! at its time, when [`Stop`] is raised, or a few seconds after traffic ceased to pass.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

pub use super::connections::{ConnectionReport, connections};
use super::error::LabError;
pub use super::iperf3::{Iperf3, Iperf3Report, find_iperf3, iperf3};
pub use super::round_trips::{RoundTripReport, RoundTrips, probe, round_trips};
pub use super::tcp_streams::{TcpStreams, tcp_streams};
pub use super::udp_sequences::{FlowReport, UdpReport, UdpSequences, udp_sequences};

/// How long connecting, and draining what is in flight, may take.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How long a socket call may block before its loop looks at the clock and at [`Stop`].
pub(super) const GLANCE: Duration = Duration::from_millis(50);

/// A flag that ends traffic early; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Shares a flag that somebody else raises, such as a signal handler.
    #[must_use]
    pub fn from_flag(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// Ends the traffic.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was raised.
    #[must_use]
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What streams carried.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StreamReport {
    /// What produced the traffic: `built-in` or `iperf3 3.12`.
    pub tool: String,
    /// Streams at once.
    pub streams: usize,
    /// Seconds from the first byte to the last.
    pub seconds: f64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Bits received per second, over all streams.
    pub bits_per_second: f64,
    /// The same for each second.
    pub per_second: Vec<f64>,
    /// TCP retransmissions, where the tool tells.
    pub retransmits: Option<u64>,
    /// Every byte was compared with what was sent.
    pub verified: bool,
}

/// Why traffic could not be sent or was not what was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrafficError {
    /// The lab itself.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A socket call failed.
    #[error("could not {what} {address}: {source}")]
    Socket {
        /// What was attempted.
        what: &'static str,
        /// Whose address.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Nothing came back.
    #[error(
        "{address} did not answer within {} ms: no packet passes between the two hosts",
        waited.as_millis()
    )]
    NoAnswer {
        /// Who should have answered.
        address: SocketAddr,
        /// For how long.
        waited: Duration,
    },
    /// A stream's bytes differ from what was sent.
    #[error("stream {stream}: byte {offset} is not the one that was sent")]
    Corrupt {
        /// Which stream, from 0.
        stream: usize,
        /// Where, from 0.
        offset: u64,
    },
    /// A stream ended with bytes missing.
    #[error("stream {stream}: {sent} bytes were sent and {received} arrived")]
    Short {
        /// Which stream, from 0.
        stream: usize,
        /// Bytes written by the sender.
        sent: u64,
        /// Bytes read by the receiver.
        received: u64,
    },
    /// The plan cannot be carried out.
    #[error("{0}")]
    Plan(&'static str),
    /// iperf3 failed.
    #[error("iperf3 failed: {0}")]
    Iperf3(String),
    /// It was asked to stop.
    #[error("stopped before it was done")]
    Stopped,
}

impl TrafficError {
    /// For `map_err`: names what was attempted.
    pub(super) fn socket(
        what: &'static str,
        address: SocketAddr,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Socket { what, address, source }
    }
}

/// Whether a socket call only ran into its timeout.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Any port of any address, in the family of `address`.
pub(super) fn any_like(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// A length as a count of bytes.
pub(super) fn bytes(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// `count` per `duration`, per second; 0 for no time.
pub(super) fn rate(count: f64, duration: Duration) -> f64 {
    if duration.is_zero() { 0.0 } else { count / duration.as_secs_f64() }
}
