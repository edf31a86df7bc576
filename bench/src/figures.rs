//! What came of a run: the figures that are recorded, compared and shown.

use ringtun::lab::traffic::{ConnectionReport, RoundTripReport};
use serde::Serialize;

use crate::alone::{HandshakeReport, StartUpReport};
use crate::iperf3::Received;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figures {
    /// By iperf3.
    Stream(Received),
    /// By the lab's own echo.
    RoundTrips(RoundTripReport),
    /// Round trips, and the streams they were made next to.
    Loaded {
        /// By the lab's own echo.
        round_trips: RoundTripReport,
        /// By iperf3.
        stream: Received,
    },
    /// Short connections.
    Connections(ConnectionReport),
    /// With a WireGuard device.
    Handshakes(HandshakeReport),
    /// Of a WireGuard device with many peers.
    StartUp(StartUpReport),
    /// No traffic.
    Idle {
        /// Of all threads of the tunnel's processes, both ends.
        wakeups_per_second: f64,
    },
}

impl Figures {
    /// What is compared: received Gb/s, or for round trips the median in µs, under load the 99th
    /// percentile; connections, wake-ups or handshakes a second; seconds until a packet passed.
    pub(crate) fn value(&self) -> f64 {
        match self {
            Self::Stream(received) => received.gbit_per_second(),
            Self::RoundTrips(report) => report.p50_us,
            Self::Loaded { round_trips, .. } => round_trips.p99_us,
            Self::Connections(report) => report.connections_per_second,
            Self::Idle { wakeups_per_second } => *wakeups_per_second,
            Self::Handshakes(report) => report.handshakes_per_second,
            Self::StartUp(report) => report.first_packet_seconds,
        }
    }

    /// What iperf3 moved.
    pub(crate) fn stream(&self) -> Option<&Received> {
        match self {
            Self::Stream(received) | Self::Loaded { stream: received, .. } => Some(received),
            Self::RoundTrips(_)
            | Self::Connections(_)
            | Self::Handshakes(_)
            | Self::StartUp(_)
            | Self::Idle { .. } => None,
        }
    }

    /// The connections made.
    pub(crate) fn connections(&self) -> Option<&ConnectionReport> {
        if let Self::Connections(report) = self { Some(report) } else { None }
    }

    /// The round trips made.
    pub(crate) fn round_trips(&self) -> Option<&RoundTripReport> {
        match self {
            Self::RoundTrips(report) | Self::Loaded { round_trips: report, .. } => Some(report),
            Self::Stream(_)
            | Self::Connections(_)
            | Self::Handshakes(_)
            | Self::StartUp(_)
            | Self::Idle { .. } => None,
        }
    }

    /// The handshakes made.
    pub(crate) fn handshakes(&self) -> Option<&HandshakeReport> {
        if let Self::Handshakes(report) = self { Some(report) } else { None }
    }

    /// How a device with many peers started.
    pub(crate) fn start_up(&self) -> Option<&StartUpReport> {
        if let Self::StartUp(report) = self { Some(report) } else { None }
    }

    /// For the line of progress.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Stream(received) => {
                let loss = received.datagrams.map_or(String::new(), |datagrams| {
                    format!(", {:.1} % lost", datagrams.loss_percent())
                });
                format!("{:.2} Gb/s{loss}", received.gbit_per_second())
            }
            Self::RoundTrips(report) => {
                format!("p50 {:.0} µs, p99 {:.0} µs", report.p50_us, report.p99_us)
            }
            Self::Connections(report) => {
                format!("{:.0} connections/s", report.connections_per_second)
            }
            Self::Idle { wakeups_per_second } => format!("{wakeups_per_second:.1} wake-ups/s"),
            Self::Handshakes(report) => report.text(),
            Self::StartUp(report) => report.text(),
            Self::Loaded { round_trips, stream } => format!(
                "p50 {:.0} µs, p99 {:.0} µs at {:.2} Gb/s",
                round_trips.p50_us,
                round_trips.p99_us,
                stream.gbit_per_second()
            ),
        }
    }
}
