//! Short TCP connections: how many a second, and how long each takes.
//!
//! A few clients at once connect, send a byte, wait for one, and close by a reset, so that neither
//! end runs out of ports however long it takes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use socket2::SockRef;

use super::host::Host;
use super::round_trips::PERCENTILE_STEPS;
use super::traffic::{GLANCE, GRACE, Stop, TrafficError};

/// Clients at once.
const CLIENTS: usize = 4;
/// A connection that takes so long is a failed one.
const TIMEOUT: Duration = Duration::from_secs(2);

/// More than a connection that is not a failed one can take: three waits of [`TIMEOUT`].
const LONGEST_NS: u64 = 10_000_000_000;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ConnectionReport {
    /// Connections that were opened, used and closed.
    pub connections: u64,
    /// Those that were not.
    pub failed: u64,
    /// By the clock.
    pub seconds: f64,
    /// `connections` for each of them.
    pub connections_per_second: f64,
    /// From the call to the answer, in µs: half took at most this …
    pub p50_us: f64,
    /// … 90 % at most this …
    pub p90_us: f64,
    /// … 99 % at most this …
    pub p99_us: f64,
    /// … 99.9 % at most this …
    pub p999_us: f64,
    /// … and the slowest this.
    pub max_us: f64,
    /// The whole distribution: so many percent took at most so long, in steps that halve the
    /// distance to 100 every five of them.
    pub percentiles: Vec<(f64, f64)>,
}

/// Opens connections from `client` to a listener on `server` at `to` (port 0: any) for `duration`.
///
/// # Errors
/// A listener that cannot be made; [`TrafficError::Stopped`].
pub fn connections(
    client: &Host,
    server: &Host,
    to: SocketAddr,
    duration: Duration,
    stop: &Stop,
) -> Result<ConnectionReport, TrafficError> {
    let listener =
        server.run(|| TcpListener::bind(to))?.map_err(TrafficError::socket("bind", to))?;
    let address = listener.local_addr().map_err(TrafficError::socket("ask for", to))?;
    let glance = SockRef::from(&listener).set_read_timeout(Some(GLANCE));
    glance.map_err(TrafficError::socket("set up", address))?;
    let done = AtomicBool::new(false);
    let begin = Instant::now();
    let took = thread::scope(|scope| {
        // The answers are short: one thread is never the bottleneck of four that wait for them.
        scope.spawn(|| answer(&listener, &done));
        // Threads that are made inside a host stay in it.
        let took = client.run(|| {
            thread::scope(|scope| {
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|_| scope.spawn(|| connect_until(address, begin + duration, stop)))
                    .collect();
                clients.into_iter().map(|client| client.join().unwrap_or_default()).collect()
            })
        });
        done.store(true, Ordering::Relaxed);
        took
    });
    let took: Vec<(Vec<Duration>, u64)> = took?;
    if stop.raised() {
        return Err(TrafficError::Stopped);
    }
    report(took, begin.elapsed())
}

fn connect_until(to: SocketAddr, end: Instant, stop: &Stop) -> (Vec<Duration>, u64) {
    let (mut took, mut failed) = (Vec::new(), 0);
    while Instant::now() < end && !stop.raised() {
        let begin = Instant::now();
        match connect_once(to) {
            Ok(()) => took.push(begin.elapsed()),
            Err(_) => {
                failed += 1;
                // Refused at once, over and over, is not to burn the CPU that is measured.
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    (took, failed)
}

fn connect_once(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])
}

fn answer(listener: &TcpListener, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        let mut serve = || -> io::Result<()> {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(GRACE.min(4 * GLANCE)))?;
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)
        };
        // A client that has gone counts its own failure.
        let _ = serve();
    }
}

fn report(
    took: Vec<(Vec<Duration>, u64)>,
    elapsed: Duration,
) -> Result<ConnectionReport, TrafficError> {
    let mut histogram = Histogram::<u64>::new_with_max(LONGEST_NS, 3)
        .map_err(|_| TrafficError::Plan("connections need a histogram with other bounds"))?;
    let failed = took.iter().map(|(_, failed)| failed).sum();
    for took in took.into_iter().flat_map(|(took, _)| took) {
        histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1));
    }
    let us = |ns: u64| ns as f64 / 1e3;
    let at = |quantile: f64| us(histogram.value_at_quantile(quantile));
    let (connections, seconds) = (histogram.len(), elapsed.as_secs_f64());
    Ok(ConnectionReport {
        connections,
        failed,
        seconds,
        connections_per_second: if seconds > 0.0 { connections as f64 / seconds } else { 0.0 },
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        p999_us: at(0.999),
        max_us: us(histogram.max()),
        percentiles: histogram
            .iter_quantiles(PERCENTILE_STEPS)
            .map(|step| (100.0 * step.quantile(), us(step.value_iterated_to())))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_counts_and_ranks() {
        let took = |from: u64| (from..from + 50).map(Duration::from_micros).collect::<Vec<_>>();
        let report = report(vec![(took(51), 2), (took(1), 1)], Duration::from_secs(2)).unwrap();
        assert_eq!((report.connections, report.failed), (100, 3));
        assert!((report.connections_per_second - 50.0).abs() < 1e-9);
        assert!((report.p50_us - 50.0).abs() < 0.1 && (report.p99_us - 99.0).abs() < 0.1);
        assert!((report.max_us - 100.0).abs() < 0.1 && report.percentiles.len() > 5);
    }

    #[test]
    fn nothing_is_no_rate() {
        let report = report(Vec::new(), Duration::ZERO).unwrap();
        assert_eq!(report, ConnectionReport::default());
    }
}
