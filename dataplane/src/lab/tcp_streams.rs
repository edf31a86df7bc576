//! TCP streams between two hosts: throughput, or proof that every byte arrives as it was sent.
//!
//! One thread an end and stream. Without `verify` the same large buffer is written again and
//! again, so that the tunnel and not the generator is measured; with it, each stream carries a
//! seeded sequence that the receiver recomputes and compares, and sent and received lengths must
//! agree.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::host::Host;
use super::pattern::Pattern;
use super::traffic::{GLANCE, GRACE, Stop, StreamReport, TrafficError, bytes, is_timeout, rate};

/// What one write or read moves at most, in bytes.
const CHUNK_LEN: usize = 256 * 1024;

/// A plan for [`tcp_streams`].
#[derive(Clone, Debug)]
pub struct TcpStreams {
    /// Streams at once.
    pub streams: usize,
    /// For how long they send.
    pub duration: Duration,
    /// End a stream earlier, after this many bytes.
    pub bytes_max: Option<u64>,
    /// Send a sequence of this seed and compare every byte that arrives.
    pub verify: Option<u64>,
}

impl Default for TcpStreams {
    /// One stream for 5 s, not verified.
    fn default() -> Self {
        Self { streams: 1, duration: Duration::from_secs(5), bytes_max: None, verify: None }
    }
}

/// Sends from `client` to a receiver on `server` at `to` (port 0: any).
///
/// # Errors
/// Socket calls that failed; with `verify`, [`TrafficError::Corrupt`] and [`TrafficError::Short`].
pub fn tcp_streams(
    client: &Host,
    server: &Host,
    to: SocketAddr,
    plan: &TcpStreams,
    stop: &Stop,
) -> Result<StreamReport, TrafficError> {
    let Connected { address, senders, receivers } = connect(client, server, to, plan.streams)?;
    let shared = Shared { plan, stop, address, begin: Instant::now() };
    let ends = thread::scope(|scope| {
        let shared = &shared;
        let sending: Vec<_> = senders
            .iter()
            .enumerate()
            .map(|(index, stream)| scope.spawn(move || shared.send(index, stream)))
            .collect();
        let receiving: Vec<_> = receivers
            .iter()
            .enumerate()
            .map(|(index, stream)| scope.spawn(move || shared.receive(index, stream)))
            .collect();
        // Receivers first: one that finds a wrong byte says more than a sender that finds the
        // connection gone.
        let received: Vec<_> = receiving.into_iter().map(join).collect();
        let sent: Vec<_> = sending.into_iter().map(join).collect();
        received.into_iter().zip(sent)
    });
    let mut all = Vec::new();
    for (index, (received, sent)) in ends.enumerate() {
        let (received, sent) = (received?, sent?);
        if plan.verify.is_some() && received.bytes != sent && !stop.raised() {
            return Err(TrafficError::Short { stream: index, sent, received: received.bytes });
        }
        all.push(received);
    }
    Ok(report(&all, plan))
}

/// A thread's result; its panic continues here.
fn join<R>(thread: ScopedJoinHandle<'_, R>) -> R {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Pairs of sockets, in the same order on both ends.
struct Connected {
    address: SocketAddr,
    senders: Vec<TcpStream>,
    receivers: Vec<TcpStream>,
}

fn connect(
    client: &Host,
    server: &Host,
    to: SocketAddr,
    count: usize,
) -> Result<Connected, TrafficError> {
    let listener =
        server.run(|| TcpListener::bind(to))?.map_err(TrafficError::socket("bind", to))?;
    let address = listener.local_addr().map_err(TrafficError::socket("ask for", to))?;
    let failed = || TrafficError::socket("connect to", address);
    listener.set_nonblocking(true).map_err(failed())?;
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for _ in 0..count {
        let sender =
            client.run(|| TcpStream::connect_timeout(&address, GRACE))?.map_err(failed())?;
        let receiver = accept(&listener).map_err(failed())?;
        // One connection at a time, so that the two ends belong together.
        sender.set_write_timeout(Some(GLANCE)).map_err(failed())?;
        receiver.set_nonblocking(false).map_err(failed())?;
        receiver.set_read_timeout(Some(GLANCE)).map_err(failed())?;
        senders.push(sender);
        receivers.push(receiver);
    }
    Ok(Connected { address, senders, receivers })
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let deadline = Instant::now() + GRACE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if is_timeout(&error) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

struct Shared<'a> {
    plan: &'a TcpStreams,
    stop: &'a Stop,
    address: SocketAddr,
    begin: Instant,
}

#[derive(Default)]
struct Received {
    bytes: u64,
    /// Bytes by second.
    by_second: Vec<u64>,
    /// When the last byte came.
    last: Duration,
}

impl Shared<'_> {
    fn pattern(&self, index: usize) -> Pattern {
        Pattern::new(self.plan.verify.unwrap_or(0), bytes(index))
    }

    /// Returns the bytes written.
    fn send(&self, index: usize, mut stream: &TcpStream) -> Result<u64, TrafficError> {
        let pattern = self.pattern(index);
        let mut buffer = vec![0; CHUNK_LEN];
        pattern.fill(0, &mut buffer);
        let limit = self.plan.bytes_max.unwrap_or(u64::MAX);
        // `start` is what of `buffer` is written; a whole buffer is refilled with what follows.
        let (mut sent, mut start) = (0_u64, 0_usize);
        while sent < limit && self.begin.elapsed() < self.plan.duration && !self.stop.raised() {
            let room = usize::try_from(limit - sent).unwrap_or(usize::MAX);
            let end = CHUNK_LEN.min(start.saturating_add(room));
            match stream.write(&buffer[start..end]) {
                Ok(len) => {
                    sent += bytes(len);
                    start += len;
                }
                Err(error) if is_timeout(&error) => {}
                Err(source) => return Err(self.failed("send to", source)),
            }
            if start == CHUNK_LEN {
                start = 0;
                if self.plan.verify.is_some() {
                    pattern.fill(sent, &mut buffer);
                }
            }
        }
        stream
            .shutdown(Shutdown::Write)
            .map_err(|error| self.failed("end the stream to", error))?;
        Ok(sent)
    }

    fn receive(&self, index: usize, mut stream: &TcpStream) -> Result<Received, TrafficError> {
        let pattern = self.pattern(index);
        let mut buffer = vec![0; CHUNK_LEN];
        let mut received = Received::default();
        let deadline = self.plan.duration + GRACE;
        while self.begin.elapsed() < deadline && !self.stop.raised() {
            let len = match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if is_timeout(&error) => continue,
                Err(source) => return Err(self.failed("receive for", source)),
            };
            if self.plan.verify.is_some()
                && let Some(at) = pattern.first_difference(received.bytes, &buffer[..len])
            {
                let offset = received.bytes + bytes(at);
                return Err(TrafficError::Corrupt { stream: index, offset });
            }
            received.last = self.begin.elapsed();
            received.bytes += bytes(len);
            let second = usize::try_from(received.last.as_secs()).unwrap_or(usize::MAX - 1);
            if received.by_second.len() <= second {
                received.by_second.resize(second + 1, 0);
            }
            received.by_second[second] += bytes(len);
        }
        Ok(received)
    }

    fn failed(&self, what: &'static str, source: io::Error) -> TrafficError {
        if self.stop.raised() {
            return TrafficError::Stopped;
        }
        TrafficError::Socket { what, address: self.address, source }
    }
}

fn report(all: &[Received], plan: &TcpStreams) -> StreamReport {
    let total: u64 = all.iter().map(|stream| stream.bytes).sum();
    let elapsed = all.iter().map(|stream| stream.last).max().unwrap_or_default();
    // What is drained after the end is no second of its own.
    let seconds = usize::try_from(plan.duration.as_secs()).unwrap_or(usize::MAX).max(1);
    let mut per_second = Vec::new();
    for second in 0..all.iter().map(|stream| stream.by_second.len()).max().unwrap_or(0).min(seconds)
    {
        let in_second: u64 = all.iter().filter_map(|stream| stream.by_second.get(second)).sum();
        per_second.push(in_second as f64 * 8.0);
    }
    StreamReport {
        tool: "built-in".to_owned(),
        streams: plan.streams,
        seconds: elapsed.as_secs_f64(),
        bytes: total,
        bits_per_second: rate(total as f64 * 8.0, elapsed),
        per_second,
        retransmits: None,
        verified: plan.verify.is_some(),
    }
}
