//! What is sent through a tunnel, and what came of it.
//!
//! | name | sent | measured |
//! |---|---|---|
//! | `tcpN` | iperf3, N TCP streams | Gb/s at the receiver |
//! | `udpLEN` | iperf3, datagrams of LEN bytes, one sender without pause | Gb/s, kpps, loss |
//! | `udpLEN@RATE` | the same at RATE (iperf3's `-b`) | the same |
//! | `ping` | UDP echoes at a fixed rate through an idle tunnel | p50 and p99 |
//! | `ping+tcpN` | the same while `tcpN` runs through the same tunnel | p50, p99, Gb/s |

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use ringtun::lab::Host;
use ringtun::lab::traffic::{self, RoundTripReport, RoundTrips, Stop};
use serde::Serialize;
use serde_json::Value;

use crate::iperf3::{self, Received};

/// 500 round trips a second: 1 % of 3 s is 15 samples.
const PING_INTERVAL: Duration = Duration::from_millis(2);
/// How long a load runs before and after the round trips that are made under it.
const LOAD_MARGIN: Duration = Duration::from_millis(500);
const STREAMS_MAX: usize = 128;
const DATAGRAM_MIN: usize = 16;
/// With IPv4 and UDP headers in the smallest MTU among the competitors, VXLAN's 1450.
const DATAGRAM_MAX: usize = 1422;

/// One kind of traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// So many streams.
    Tcp(usize),
    /// Datagrams.
    Udp {
        /// Payload in bytes.
        len: usize,
        /// For iperf3's `-b`; 0 is no limit.
        rate: String,
    },
    /// Round trips.
    Ping,
    /// Round trips next to so many TCP streams.
    PingUnder(usize),
}

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
}

/// From where to where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route<'a> {
    /// Sends.
    pub(crate) client: &'a Host,
    /// Receives.
    pub(crate) server: &'a Host,
    /// The server's address in the tunnel.
    pub(crate) to: IpAddr,
    /// The client's address, where it matters.
    pub(crate) from: Option<IpAddr>,
}

impl Workload {
    /// Those of a plain `ab`, in the order of its tables.
    pub(crate) const DEFAULT: &str = "tcp1,tcp4,udp1400,udp64,ping";

    /// Sends it, and returns the figures with the document they were taken from.
    ///
    /// # Errors
    /// What the tool said; [`traffic::TrafficError::Stopped`].
    pub(crate) fn run(
        &self,
        route: &Route<'_>,
        seconds: u64,
        program: &Path,
        stop: &Stop,
    ) -> Result<(Figures, Value)> {
        let (streams, mut client_args) = match self {
            Self::Ping => {
                return Ok((Figures::RoundTrips(ping(route, seconds, stop)?), Value::Null));
            }
            Self::PingUnder(streams) => {
                return ping_under(*streams, route, seconds, program, stop);
            }
            Self::Tcp(streams) => (*streams, Vec::new()),
            Self::Udp { len, rate } => {
                let args = ["-u", "-b", rate, "-l", &len.to_string()].map(str::to_owned);
                (1, args.to_vec())
            }
        };
        if let Some(from) = route.from {
            client_args.extend(["-B".to_owned(), from.to_string()]);
        }
        let plan = traffic::Iperf3 { program: program.to_owned(), streams, seconds, client_args };
        let report = traffic::iperf3(route.client, route.server, route.to, &plan, stop)?;
        Ok((Figures::Stream(iperf3::parse(&report.json)?), report.json))
    }
}

fn ping(route: &Route<'_>, seconds: u64, stop: &Stop) -> Result<RoundTripReport> {
    let duration = Duration::from_secs(seconds);
    let plan = RoundTrips { duration, interval: PING_INTERVAL, ..RoundTrips::default() };
    let to = SocketAddr::new(route.to, 0);
    let report = traffic::round_trips(route.client, route.server, to, &plan, stop)?;
    if stop.raised() {
        return Err(traffic::TrafficError::Stopped.into());
    }
    Ok(report)
}

fn ping_under(
    streams: usize,
    route: &Route<'_>,
    seconds: u64,
    program: &Path,
    stop: &Stop,
) -> Result<(Figures, Value)> {
    thread::scope(|scope| {
        let load = scope.spawn(|| Workload::Tcp(streams).run(route, seconds + 1, program, stop));
        thread::sleep(LOAD_MARGIN);
        let round_trips = ping(route, seconds, stop);
        match (load.join(), round_trips?) {
            (Ok(Ok((Figures::Stream(stream), json))), round_trips) => {
                Ok((Figures::Loaded { round_trips, stream }, json))
            }
            (Ok(Err(error)), _) => Err(error.context("the TCP streams next to the round trips")),
            _ => Err(anyhow!("the TCP streams next to the round trips came to no result")),
        }
    })
}

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let parse = || {
            let streams = |digits: &str| {
                digits.parse().ok().filter(|streams| (1..=STREAMS_MAX).contains(streams))
            };
            if name == "ping" {
                return Some(Self::Ping);
            }
            if let Some(digits) = name.strip_prefix("ping+tcp") {
                return streams(digits).map(Self::PingUnder);
            }
            if let Some(digits) = name.strip_prefix("tcp") {
                return streams(digits).map(Self::Tcp);
            }
            let (len, rate) = match name.strip_prefix("udp")?.split_once('@') {
                Some((len, rate)) => (len, rate),
                None => (name.strip_prefix("udp")?, "0"),
            };
            let digits = rate.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
            let is_rate = rate.len() - digits.len() <= 1 && digits.parse::<f64>().is_ok();
            let len = len.parse().ok()?;
            let is_len = (DATAGRAM_MIN..=DATAGRAM_MAX).contains(&len);
            (is_rate && is_len).then(|| Self::Udp { len, rate: rate.to_owned() })
        };
        parse().ok_or_else(|| {
            anyhow!(
                "{name:?} is no workload: tcpN (N streams, 1 to {STREAMS_MAX}), udpLEN or \
                 udpLEN@RATE ({DATAGRAM_MIN} to {DATAGRAM_MAX} bytes, such as udp1400@500M), ping, \
                 ping+tcpN"
            )
        })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(streams) => write!(f, "tcp{streams}"),
            Self::Udp { len, rate } if rate == "0" => write!(f, "udp{len}"),
            Self::Udp { len, rate } => write!(f, "udp{len}@{rate}"),
            Self::Ping => f.write_str("ping"),
            Self::PingUnder(streams) => write!(f, "ping+tcp{streams}"),
        }
    }
}

impl Figures {
    /// What is compared: received Gb/s, or for round trips the median in µs, under load the 99th
    /// percentile.
    pub(crate) fn value(&self) -> f64 {
        match self {
            Self::Stream(received) => received.gbit_per_second(),
            Self::RoundTrips(report) => report.p50_us,
            Self::Loaded { round_trips, .. } => round_trips.p99_us,
        }
    }

    /// What iperf3 moved.
    pub(crate) fn stream(&self) -> Option<&Received> {
        match self {
            Self::Stream(received) | Self::Loaded { stream: received, .. } => Some(received),
            Self::RoundTrips(_) => None,
        }
    }

    /// The round trips made.
    pub(crate) fn round_trips(&self) -> Option<&RoundTripReport> {
        match self {
            Self::RoundTrips(report) | Self::Loaded { round_trips: report, .. } => Some(report),
            Self::Stream(_) => None,
        }
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
            Self::Loaded { round_trips, stream } => format!(
                "p50 {:.0} µs, p99 {:.0} µs at {:.2} Gb/s",
                round_trips.p50_us,
                round_trips.p99_us,
                stream.gbit_per_second()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_there_and_back() {
        for name in [
            "tcp1",
            "tcp128",
            "udp1400",
            "udp64",
            "udp1400@500M",
            "udp16@1.5G",
            "ping",
            "ping+tcp4",
        ] {
            assert_eq!(name.parse::<Workload>().unwrap().to_string(), name);
        }
        for name in Workload::DEFAULT.split(',') {
            assert!(name.parse::<Workload>().is_ok());
        }
    }

    #[test]
    fn what_is_none_says_what_is() {
        for name in [
            "",
            "tcp",
            "tcp0",
            "tcp129",
            "ping+",
            "ping+tcp0",
            "ping+udp64",
            "udp",
            "udp9000",
            "udp64@",
            "udp64@fast",
            "udp64@1MM",
        ] {
            let error = name.parse::<Workload>().unwrap_err().to_string();
            assert!(error.contains("udp1400@500M"), "{name}: {error}");
        }
    }
}
