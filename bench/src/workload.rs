//! What is sent through a tunnel, and what came of it.
//!
//! | name | sent | measured |
//! |---|---|---|
//! | `tcpN` | iperf3, N TCP streams | Gb/s at the receiver |
//! | `tcpN-r` | the same from right to left | the same |
//! | `udpLEN` | iperf3, datagrams of LEN bytes, one sender without pause | Gb/s, kpps, loss |
//! | `udpLEN@RATE` | the same at RATE bits a second, such as 500M | the same |
//! | `udpLEN@max` | the highest rate with less than 0.1 % loss, found by halves | the same |
//! | `imix@RATE`, `imix@max` | small, middle and large datagrams, 7 : 4 : 1 | the same |
//! | `ping` | UDP echoes at a fixed rate through an idle tunnel | p50 and p99 |
//! | `connect` | short TCP connections, four clients at once | connections a second, µs each |
//! | `idle` | nothing | how often the tunnel's processes wake up |
//! | `ping+tcpN` | the same while `tcpN` runs through the same tunnel | p50, p99, Gb/s |
//!
//! `handshakes…` and `peersN` need a WireGuard device of their own: see [`crate::alone`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use ringtun::lab::Host;
use ringtun::lab::traffic::{self, RoundTripReport, RoundTrips};
use serde_json::Value;

use crate::alone::Alone;
use crate::figures::Figures;
use crate::iperf3::Received;
use crate::measure::Cost;
use crate::streams;

/// 500 round trips a second: 1 % of 3 s is 15 samples.
const PING_INTERVAL: Duration = Duration::from_millis(2);
/// How long a load runs before and after the round trips that are made under it.
const LOAD_MARGIN: Duration = Duration::from_millis(500);
/// What every run takes besides: waiting for queues to drain, two programs to start and to end.
const AROUND_SECONDS: f64 = 0.3;
const STREAMS_MAX: usize = 128;
const DATAGRAM_MIN: usize = 16;
/// With IPv4 and UDP headers in the smallest MTU among the competitors, VXLAN's 1450.
const DATAGRAM_MAX: usize = 1422;

/// One kind of traffic.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Workload {
    /// So many streams.
    Tcp(usize),
    /// So many streams towards the client.
    TcpBack(usize),
    /// Datagrams.
    Udp(Sizes, Rate),
    /// Round trips.
    Ping,
    /// Round trips next to so many TCP streams.
    PingUnder(usize),
    /// Short TCP connections.
    Connect,
    /// Nothing.
    Idle,
    /// With a device that is started for it.
    Alone(Alone),
}

/// Of datagrams' payloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// All alike, in bytes.
    One(usize),
    /// A mixture as on the internet.
    Imix,
}

/// How fast datagrams are sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rate {
    /// Without pause.
    Free,
    /// At so many bits of payload a second, which was written so.
    Bits(f64, String),
    /// As fast as almost all arrive.
    Highest,
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
    /// What there is, for people.
    pub(crate) const NAMES: &str = "tcpN, tcpN-r, udpLEN, udpLEN@RATE, udpLEN@max, imix@RATE, \
        imix@max, ping, ping+tcpN, connect, idle, handshakes, handshakesN, peersN";
    /// Those of a plain `ab`, in the order of its tables.
    pub(crate) const DEFAULT: &str = "tcp1,tcp4,udp1400,udp64,ping";

    /// What it is if it needs a device of its own.
    pub(crate) fn alone(&self) -> Option<Alone> {
        if let Self::Alone(alone) = self { Some(*alone) } else { None }
    }

    /// Whether iperf3 sends it, alone or besides.
    pub(crate) fn needs_iperf3(&self) -> bool {
        !matches!(self, Self::Ping | Self::Connect | Self::Idle | Self::Alone(_))
    }

    /// About how many seconds it takes with everything around it, told to measure for so many.
    pub(crate) fn lasts(&self, seconds: u64) -> f64 {
        let seconds = seconds as f64;
        match self {
            Self::Udp(_, Rate::Highest) => streams::LADDER_SECONDS + AROUND_SECONDS,
            Self::PingUnder(_) => seconds + 2.0 * LOAD_MARGIN.as_secs_f64() + AROUND_SECONDS,
            // It ends when it is ready, and is given time to end.
            Self::Alone(Alone::StartUp(_)) => 1.0 + AROUND_SECONDS,
            // Initiations are made before the clock starts, responses opened when it has stopped.
            Self::Alone(Alone::Handshakes(_)) => 1.5 * seconds + AROUND_SECONDS,
            _ => seconds + AROUND_SECONDS,
        }
    }

    /// Sends it, and returns what came of it.
    ///
    /// # Errors
    /// What the tool said; [`traffic::TrafficError::Stopped`].
    pub(crate) fn run(&self, run: streams::Run<'_>) -> Result<Sent> {
        let (received, raw, cost) = match self {
            Self::Ping => return Ok(Sent::of(Figures::RoundTrips(ping(run)?))),
            Self::PingUnder(streams) => return ping_under(*streams, run),
            Self::Connect => return Ok(Sent::of(connect(run)?)),
            Self::Idle => return Ok(Sent::of(idle(run)?)),
            Self::Alone(alone) => bail!("{alone} goes through no tunnel"),
            Self::Tcp(streams) => whole(run.tcp(*streams, false)?),
            Self::TcpBack(streams) => whole(run.tcp(*streams, true)?),
            Self::Udp(sizes, rate) => run.udp(sizes, rate)?,
        };
        Ok(Sent { figures: Figures::Stream(received), raw, cost })
    }
}

/// What came of a workload.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) figures: Figures,
    /// The document that they were taken from.
    pub(crate) raw: Value,
    /// What these figures cost; none where that is the cost of all that was done.
    pub(crate) cost: Option<Cost>,
}

impl Sent {
    fn of(figures: Figures) -> Self {
        Self { figures, raw: Value::Null, cost: None }
    }
}

fn whole((received, raw): (Received, Value)) -> streams::Streamed {
    (received, raw, None)
}

fn ping(run: streams::Run<'_>) -> Result<RoundTripReport> {
    let streams::Run { route, seconds, stop, .. } = run;
    let duration = Duration::from_secs(seconds);
    let plan = RoundTrips { duration, interval: PING_INTERVAL, ..RoundTrips::default() };
    let to = SocketAddr::new(route.to, 0);
    let report = traffic::round_trips(route.client, route.server, to, &plan, stop)?;
    if stop.raised() {
        return Err(traffic::TrafficError::Stopped.into());
    }
    Ok(report)
}

fn connect(run: streams::Run<'_>) -> Result<Figures> {
    let streams::Run { route, seconds, stop, .. } = run;
    let (to, duration) = (SocketAddr::new(route.to, 0), Duration::from_secs(seconds));
    let report = traffic::connections(route.client, route.server, to, duration, stop)?;
    if report.connections == 0 {
        bail!("none of {} connections came about", report.failed);
    }
    Ok(Figures::Connections(report))
}

/// Only time; what happens meanwhile is counted by whoever measures the cost.
fn idle(run: streams::Run<'_>) -> Result<Figures> {
    let end = Instant::now() + Duration::from_secs(run.seconds);
    while Instant::now() < end {
        if run.stop.raised() {
            return Err(traffic::TrafficError::Stopped.into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(Figures::Idle { wakeups_per_second: 0.0 })
}

fn ping_under(streams: usize, run: streams::Run<'_>) -> Result<Sent> {
    let longer = streams::Run { seconds: run.seconds + 1, ..run };
    thread::scope(|scope| {
        let load = scope.spawn(move || longer.tcp(streams, false));
        thread::sleep(LOAD_MARGIN);
        let round_trips = ping(run);
        match (load.join(), round_trips?) {
            (Ok(Ok((stream, raw))), round_trips) => {
                Ok(Sent { raw, ..Sent::of(Figures::Loaded { round_trips, stream }) })
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
            match name {
                "ping" => return Some(Self::Ping),
                "connect" => return Some(Self::Connect),
                "idle" => return Some(Self::Idle),
                _ => {}
            }
            if let Some(alone) = Alone::read(name) {
                return Some(Self::Alone(alone));
            }
            if let Some(digits) = name.strip_prefix("ping+tcp") {
                return streams(digits).map(Self::PingUnder);
            }
            if let Some(digits) = name.strip_prefix("tcp") {
                return match digits.strip_suffix("-r") {
                    Some(digits) => streams(digits).map(Self::TcpBack),
                    None => streams(digits).map(Self::Tcp),
                };
            }
            let (what, rate) =
                name.split_once('@').map_or((name, None), |(what, rate)| (what, Some(rate)));
            let rate = rate.map_or(Some(Rate::Free), read_rate)?;
            if what == "imix" {
                return (rate != Rate::Free).then_some(Self::Udp(Sizes::Imix, rate));
            }
            let len = what.strip_prefix("udp")?.parse().ok()?;
            let is_len = (DATAGRAM_MIN..=DATAGRAM_MAX).contains(&len);
            is_len.then_some(Self::Udp(Sizes::One(len), rate))
        };
        parse().ok_or_else(|| {
            anyhow!(
                "{name:?} is no workload: tcpN or tcpN-r (N streams, 1 to {STREAMS_MAX}, or from \
                 the other end), udpLEN, udpLEN@RATE or udpLEN@max ({DATAGRAM_MIN} to \
                 {DATAGRAM_MAX} bytes, such as udp1400@500M), imix@RATE or imix@max, ping, \
                 ping+tcpN, connect, idle, {}",
                Alone::NAMES
            )
        })
    }
}

/// `500M`, `1.5G`, `max`.
fn read_rate(text: &str) -> Option<Rate> {
    if text == "max" {
        return Some(Rate::Highest);
    }
    let (digits, unit) = match text.chars().last()? {
        'k' | 'K' => (&text[..text.len() - 1], 1e3),
        'm' | 'M' => (&text[..text.len() - 1], 1e6),
        'g' | 'G' => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    let bits = digits.parse::<f64>().ok()? * unit;
    (bits.is_finite() && bits >= 1.0).then(|| Rate::Bits(bits, text.to_owned()))
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => Ok(()),
            Self::Bits(_, text) => write!(f, "@{text}"),
            Self::Highest => f.write_str("@max"),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(streams) => write!(f, "tcp{streams}"),
            Self::TcpBack(streams) => write!(f, "tcp{streams}-r"),
            Self::Udp(Sizes::One(len), rate) => write!(f, "udp{len}{rate}"),
            Self::Udp(Sizes::Imix, rate) => write!(f, "imix{rate}"),
            Self::Ping => f.write_str("ping"),
            Self::Connect => f.write_str("connect"),
            Self::Idle => f.write_str("idle"),
            Self::Alone(alone) => alone.fmt(f),
            Self::PingUnder(streams) => write!(f, "ping+tcp{streams}"),
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
            "handshakes",
            "handshakes256",
            "peers10000",
        ] {
            assert_eq!(name.parse::<Workload>().unwrap().to_string(), name);
        }
        for name in Workload::DEFAULT.split(',') {
            assert!(name.parse::<Workload>().is_ok());
        }
    }

    #[test]
    fn what_takes_longer_is_known_to() {
        let lasts = |name: &str| name.parse::<Workload>().unwrap().lasts(3);
        assert!(lasts("tcp1") > 3.0 && lasts("tcp1") < lasts("ping+tcp1"));
        assert!(lasts("imix@max") > 8.0 && lasts("peers1000") < lasts("handshakes"));
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
            "handshakes0",
            "handshakes1001",
            "peers",
            "peers0",
            "peers50001",
        ] {
            let error = name.parse::<Workload>().unwrap_err().to_string();
            assert!(error.contains("udp1400@500M"), "{name}: {error}");
        }
    }
}
