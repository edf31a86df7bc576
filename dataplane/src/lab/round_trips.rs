//! Round trips: a UDP client that sends at a fixed rate, and an echo.
//!
//! Each request carries its number and its time, so an answer that comes after the next request has
//! left is still measured from its own departure, and the schedule does not slow down when answers
//! do: a stalled tunnel shows as long round trips, not as fewer samples. A request that could not
//! leave when it was due, as the tunnel held up its sender, counts from when it was due (what is
//! called correcting for coordinated omission).

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::host::Host;
use super::traffic::{GLANCE, Stop, TrafficError, any_like, bytes, is_timeout};
use crate::sys::namespace;

/// Number, and the time from which it counts.
const HEADER_LEN: usize = 16;
/// Longer round trips are recorded as this one.
const LONGEST_NS: u64 = 60_000_000_000;
/// Steps in which percentiles get half as far from 100.
pub(super) const PERCENTILE_STEPS: u32 = 5;
/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A plan for [`round_trips`].
#[derive(Clone, Debug)]
pub struct RoundTrips {
    /// For how long requests are sent.
    pub duration: Duration,
    /// Time between two requests.
    pub interval: Duration,
    /// UDP payload of a request and of its answer, in bytes; at least 16.
    pub payload_len: usize,
}

impl Default for RoundTrips {
    /// 200 a second for 5 s, the size of a ping.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(5),
            interval: Duration::from_millis(5),
            payload_len: 64,
        }
    }
}

/// What came of it; times in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RoundTripReport {
    /// Requests sent.
    pub sent: u64,
    /// Answers received.
    pub received: u64,
    /// Requests without an answer.
    pub lost: u64,
    /// The fastest.
    pub min_us: f64,
    /// Half were at most this.
    pub p50_us: f64,
    /// 90 % were at most this.
    pub p90_us: f64,
    /// 99 % were at most this.
    pub p99_us: f64,
    /// 99.9 % were at most this.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// The whole distribution: so many percent were at most so long, in steps that halve the
    /// distance to 100 every five of them.
    pub percentiles: Vec<(f64, f64)>,
}

/// Sends requests from `client` to an echo on `server` at `to` (port 0: any).
///
/// # Errors
/// Socket calls that failed; requests without an answer are no error but `lost`.
pub fn round_trips(
    client: &Host,
    server: &Host,
    to: SocketAddr,
    plan: &RoundTrips,
    stop: &Stop,
) -> Result<RoundTripReport, TrafficError> {
    if plan.payload_len < HEADER_LEN {
        return Err(TrafficError::Plan("round trips need a payload of at least 16 bytes"));
    }
    with_echo(client, server, to, |socket, address| {
        let run = || Client::new(socket, plan)?.run(stop);
        run().map_err(TrafficError::socket("exchange packets with", address))
    })
}

/// Sends a request every 20 ms until one is answered; returns its round trip.
///
/// # Errors
/// [`TrafficError::NoAnswer`] after `timeout`, [`TrafficError::Stopped`].
pub fn probe(
    client: &Host,
    server: &Host,
    to: SocketAddr,
    timeout: Duration,
    stop: &Stop,
) -> Result<Duration, TrafficError> {
    with_echo(client, server, to, |socket, address| {
        let failed = || TrafficError::socket("ask", address);
        socket.set_read_timeout(Some(Duration::from_millis(20))).map_err(failed())?;
        let begin = Instant::now();
        while begin.elapsed() < timeout {
            if stop.raised() {
                return Err(TrafficError::Stopped);
            }
            let left = Instant::now();
            // Refusals (no route yet, ICMP errors) are part of starting up.
            let sent = socket.send(&[0; HEADER_LEN]);
            if sent.is_ok() && socket.recv(&mut [0; HEADER_LEN]).is_ok() {
                return Ok(left.elapsed());
            }
            thread::sleep(Duration::from_millis(if sent.is_ok() { 1 } else { 20 }));
        }
        Err(TrafficError::NoAnswer { address, waited: timeout })
    })
}

/// Runs `work` with a socket on `client` that is connected to an echo on `server`.
fn with_echo<R>(
    client: &Host,
    server: &Host,
    to: SocketAddr,
    work: impl FnOnce(&UdpSocket, SocketAddr) -> Result<R, TrafficError>,
) -> Result<R, TrafficError> {
    let echo = server.run(|| UdpSocket::bind(to))?.map_err(TrafficError::socket("bind", to))?;
    let address = echo.local_addr().map_err(TrafficError::socket("ask for", to))?;
    echo.set_read_timeout(Some(GLANCE)).map_err(TrafficError::socket("set up", address))?;
    let any = any_like(address);
    let socket = client.run(|| UdpSocket::bind(any))?.map_err(TrafficError::socket("bind", any))?;
    socket.connect(address).map_err(TrafficError::socket("connect to", address))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| answer(&echo, &done));
        let _end_echo = RaiseOnDrop(&done);
        work(&socket, address)
    })
}

/// Raises a flag even when the scope is left by a panic.
struct RaiseOnDrop<'a>(&'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn answer(echo: &UdpSocket, done: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !done.load(Ordering::Relaxed) {
        if let Ok((len, from)) = echo.recv_from(&mut buffer) {
            // An answer that cannot be sent is a lost one, and counted by the client.
            let _ = echo.send_to(&buffer[..len], from);
        }
    }
}

struct Client<'a> {
    socket: &'a UdpSocket,
    plan: &'a RoundTrips,
    begin: Instant,
    packet: Vec<u8>,
    answered: Vec<bool>,
    histogram: Histogram<u64>,
}

impl<'a> Client<'a> {
    fn new(socket: &'a UdpSocket, plan: &'a RoundTrips) -> io::Result<Self> {
        let histogram = Histogram::new_with_max(LONGEST_NS, 3).map_err(io::Error::other)?;
        let packet = vec![0; plan.payload_len];
        Ok(Self { socket, plan, begin: Instant::now(), packet, answered: Vec::new(), histogram })
    }

    fn run(mut self, stop: &Stop) -> io::Result<RoundTripReport> {
        // Only costs precision if refused.
        let _ = namespace::sleep_precisely();
        let mut due = self.begin;
        while due.duration_since(self.begin) < self.plan.duration && !stop.raised() {
            self.send(due)?;
            due += self.plan.interval;
            self.receive_until(due)?;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let end = Instant::now() + LAST_ANSWERS;
        while self.missing() > 0 && Instant::now() < end && !stop.raised() {
            self.receive_until(Instant::now() + GLANCE)?;
        }
        Ok(self.report())
    }

    fn send(&mut self, due: Instant) -> io::Result<()> {
        let number = bytes(self.answered.len());
        self.packet[..8].copy_from_slice(&number.to_le_bytes());
        let due_ns = nanoseconds(due.duration_since(self.begin));
        let from_ns = counts_from(due_ns, self.now_ns(), nanoseconds(self.plan.interval));
        self.packet[8..16].copy_from_slice(&from_ns.to_le_bytes());
        self.answered.push(false);
        match self.socket.send(&self.packet) {
            // Refused by a full queue or an unreachable peer: no answer will come, it is lost.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes answers until none is missing or `until` has come.
    fn receive_until(&mut self, until: Instant) -> io::Result<()> {
        let mut buffer = [0; HEADER_LEN];
        while self.missing() > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(HEADER_LEN) => self.take(&buffer),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                // An ICMP error of an earlier request.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
        Ok(())
    }

    fn take(&mut self, answer: &[u8; HEADER_LEN]) {
        let now_ns = self.now_ns();
        let word = |at: usize| {
            answer[at..].first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
        };
        let Ok(number) = usize::try_from(word(0)) else { return };
        if let Some(answered @ false) = self.answered.get_mut(number) {
            *answered = true;
            self.histogram.saturating_record(now_ns.saturating_sub(word(8)).max(1));
        }
    }

    fn missing(&self) -> u64 {
        bytes(self.answered.len()).saturating_sub(self.histogram.len())
    }

    fn now_ns(&self) -> u64 {
        nanoseconds(self.begin.elapsed())
    }

    fn report(&self) -> RoundTripReport {
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |quantile: f64| us(self.histogram.value_at_quantile(quantile));
        RoundTripReport {
            sent: bytes(self.answered.len()),
            received: self.histogram.len(),
            lost: self.missing(),
            min_us: us(self.histogram.min()),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(self.histogram.max()),
            percentiles: self
                .histogram
                .iter_quantiles(PERCENTILE_STEPS)
                .map(|step| (100.0 * step.quantile(), us(step.value_iterated_to())))
                .collect(),
        }
    }
}

/// The time that a request counts from. One that leaves before the next is due counts from when it
/// leaves, for how exactly its sender wakes up is no matter of the tunnel's; a later one has
/// missed its place in the schedule.
fn counts_from(due_ns: u64, departure_ns: u64, interval_ns: u64) -> u64 {
    if departure_ns.saturating_sub(due_ns) < interval_ns { departure_ns } else { due_ns }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests and answers without a network: the sender hangs once, for as long as 50 requests.
    #[test]
    fn a_sender_that_is_held_up_does_not_hide_it() {
        let (interval, stall, trip) = (2_000_000, 100_000_000, 150_000);
        let (mut now, mut took) = (0, Vec::new());
        for number in 0..1_000_u64 {
            let due = number * interval;
            now = due.max(now) + 30_000;
            if number == 500 {
                now += stall;
            }
            took.push(now + trip - counts_from(due, now, interval));
        }
        assert!(took[..500].iter().all(|it| *it == trip), "it leaves nearly when it is due");
        assert_eq!(took[500], stall + trip + 30_000);
        let long = took.iter().filter(|it| **it > 10_000_000).count();
        // Counted from departures, all of them would have taken 150 µs.
        assert!((40..=50).contains(&long), "{long} requests were due while it hung");
        assert_eq!(took[999], trip, "it has caught up");
    }

    #[test]
    fn times_end_at_the_longest() {
        assert_eq!(nanoseconds(Duration::from_micros(3)), 3_000);
        assert_eq!(nanoseconds(Duration::MAX), u64::MAX);
    }
}
