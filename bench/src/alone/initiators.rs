//! The initiators' half of many handshakes: no I/O, no clock.
//!
//! Handshakes are prepared before anything is sent. In: datagrams of the responder, and the time
//! since the beginning. Out: what to send and from where, and at the end a report, for which every
//! response is opened.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use ringtun::wire::wireguard::cookie::{Checker, Stamper};
use ringtun::wire::wireguard::handshake::Initiator;
use ringtun::wire::wireguard::identity::Identity;
use ringtun::wire::wireguard::keys::PrivateKey;
use ringtun::wire::wireguard::messages::{INITIATION_LEN, Kind, RESPONSE_LEN, kind, receiver};
use ringtun::wire::wireguard::timestamp::Timestamp;
use serde::Serialize;

use super::cast::Cast;

/// An initiation without a response by then has failed.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often one initiation is sent again for a cookie reply.
const SENT_AGAIN_MAX: u8 = 3;
/// Peer n sends from this address and n.
const FIRST_SOURCE: u32 = 0x0a40_0001;
/// Steps in which percentiles get half as far from 1.
const PERCENTILE_STEPS: u32 = 5;

/// What came of it; times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct HandshakeReport {
    /// Initiations that were answered by a response that could be opened.
    pub(crate) completed: u64,
    /// Initiations without an answer within a second.
    pub(crate) unanswered: u64,
    /// Answers that could not be opened.
    pub(crate) invalid: u64,
    /// Asked for proof of an address; the initiation was sent again with it.
    pub(crate) cookie_replies: u64,
    /// By the clock.
    pub(crate) seconds: f64,
    /// `completed` for each of them.
    pub(crate) handshakes_per_second: f64,
    /// From an initiation, the first time it was sent, to its response: half took at most this …
    pub(crate) p50_us: f64,
    /// … 90 % at most this …
    pub(crate) p90_us: f64,
    /// … 99 % at most this …
    pub(crate) p99_us: f64,
    /// … 99.9 % at most this …
    pub(crate) p999_us: f64,
    /// … and the slowest this.
    pub(crate) max_us: f64,
    /// The whole distribution: (part from 0 to 1, at most so long).
    pub(crate) percentiles: Vec<(f64, f64)>,
}

impl HandshakeReport {
    /// For the line of progress.
    pub(crate) fn text(&self) -> String {
        let mut text =
            format!("{:.0} handshakes/s, p99 {:.0} µs", self.handshakes_per_second, self.p99_us);
        for (count, what) in [(self.unanswered, "unanswered"), (self.invalid, "INVALID")] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text
    }
}

/// What a datagram led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// An initiation has its response.
    Answered,
    /// This one is to be sent again.
    Again(Sending),
    /// Nothing: late, or not for us.
    Nothing,
}

/// A message of an initiator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sending {
    /// From where.
    pub(super) source: Ipv4Addr,
    /// With its MACs.
    pub(super) message: [u8; INITIATION_LEN],
}

/// Many initiators and all of their handshakes.
pub(super) struct Initiators {
    peers: Vec<Peer>,
    /// In the order they are sent; the place is the index that the responder answers to.
    attempts: Vec<Attempt>,
    next: usize,
    /// Sent and neither answered nor given up yet, but for those that were answered meanwhile.
    under_way: VecDeque<usize>,
    under_way_count: usize,
    answered: u64,
    unanswered: u64,
    cookie_replies: u64,
}

struct Peer {
    source: Ipv4Addr,
    stamper: Stamper,
    /// For what comes to it.
    checker: Checker,
}

struct Attempt {
    initiator: Initiator,
    message: [u8; INITIATION_LEN],
    sent: Option<Duration>,
    sent_again: u8,
    /// When it came, and what.
    response: Option<(Duration, [u8; RESPONSE_LEN])>,
    given_up: bool,
}

/// The address that peer `index` sends from.
pub(super) fn source(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(FIRST_SOURCE.wrapping_add(u32::try_from(index).unwrap_or_default()))
}

impl Initiators {
    /// Prepares `count` handshakes of the peers `range` of `cast`, in turns; `now` is the time
    /// since the Unix epoch.
    ///
    /// # Errors
    /// None that is known: all keys are our own.
    pub(super) fn prepare(
        cast: &Cast,
        range: std::ops::Range<usize>,
        count: usize,
        now: Duration,
    ) -> Result<Self> {
        let theirs = cast.device.public();
        let keys = cast.peers.get(range.clone()).filter(|keys| !keys.is_empty());
        let keys = keys.context("no peers to make handshakes for")?;
        let peer = |(index, key): (usize, &PrivateKey)| Peer {
            source: source(index),
            stamper: Stamper::new(&theirs),
            checker: Checker::new(&key.public(), &[0; 32]),
        };
        // Half of the work is the same each time.
        let identity = |key: &PrivateKey| {
            let identity = Identity::new(key.clone());
            identity.expect(theirs);
            Arc::new(identity)
        };
        let identities: Vec<Arc<Identity>> = keys.iter().map(identity).collect();
        let rounds = count.div_ceil(keys.len());
        let mut stamps = vec![Timestamp::from_unix(now)];
        for _ in 1..rounds {
            stamps.extend(stamps.last().map(|last| last.next()));
        }
        let attempt = |index: usize| -> Option<Attempt> {
            let peer = identities.get(index % identities.len())?;
            let stamp = *stamps.get(index / identities.len())?;
            let local = u32::try_from(index).ok()?;
            let (initiator, message) = Initiator::start_as(peer, &theirs, &cast.psk, local, stamp)?;
            Some(Attempt {
                initiator,
                message,
                sent: None,
                sent_again: 0,
                response: None,
                given_up: false,
            })
        };
        Ok(Self {
            peers: range.zip(keys).map(peer).collect(),
            attempts: in_parallel(count, attempt).context("a handshake could not be prepared")?,
            next: 0,
            under_way: VecDeque::new(),
            under_way_count: 0,
            answered: 0,
            unanswered: 0,
            cookie_replies: 0,
        })
    }

    /// The next initiation, if there is one left.
    pub(super) fn next(&mut self, now: Duration) -> Option<Sending> {
        let index = self.next;
        self.attempts.get_mut(index)?.sent = Some(now);
        self.next += 1;
        self.under_way.push_back(index);
        self.under_way_count += 1;
        self.send(index, now)
    }

    /// Initiations that were sent and are neither answered nor given up.
    pub(super) fn under_way(&self) -> usize {
        self.under_way_count
    }

    /// Those that were answered, opened or not.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// Takes a datagram of the responder's.
    pub(super) fn take(&mut self, datagram: &[u8], now: Duration) -> Taken {
        let index = receiver(datagram).and_then(|index| usize::try_from(index).ok());
        let Some(index) = index.filter(|&index| index < self.next) else { return Taken::Nothing };
        let peer_index = index % self.peers.len();
        let (Some(attempt), Some(peer)) =
            (self.attempts.get_mut(index), self.peers.get_mut(peer_index))
        else {
            return Taken::Nothing;
        };
        if attempt.given_up || attempt.response.is_some() {
            return Taken::Nothing;
        }
        match kind(datagram) {
            Some(Kind::Response) => {
                let Ok(response) = datagram.try_into() else { return Taken::Nothing };
                attempt.response = Some((now, response));
                self.under_way_count -= 1;
                self.answered += 1;
                Taken::Answered
            }
            Some(Kind::CookieReply) => {
                let Ok(reply) = datagram.try_into() else { return Taken::Nothing };
                if !peer.stamper.take_reply(reply, millis(now)) {
                    return Taken::Nothing;
                }
                self.cookie_replies += 1;
                attempt.sent_again += 1;
                if attempt.sent_again > SENT_AGAIN_MAX {
                    return Taken::Nothing;
                }
                self.send(index, now).map_or(Taken::Nothing, Taken::Again)
            }
            _ => Taken::Nothing,
        }
    }

    /// Gives up what has waited for too long.
    pub(super) fn give_up(&mut self, now: Duration) {
        while let Some(&index) = self.under_way.front() {
            let Some(attempt) = self.attempts.get_mut(index) else { return };
            let waits = attempt.response.is_none();
            if waits && attempt.sent.is_some_and(|sent| now < sent + PATIENCE) {
                return;
            }
            self.under_way.pop_front();
            if waits {
                attempt.given_up = true;
                self.under_way_count -= 1;
                self.unanswered += 1;
            }
        }
    }

    /// Opens all responses; `elapsed` is for how long it was.
    ///
    /// # Errors
    /// None that is known.
    pub(super) fn report(mut self, elapsed: Duration) -> Result<HandshakeReport> {
        let peers = &self.peers;
        let open = |(index, attempt): (usize, &mut Attempt)| -> Option<Option<Duration>> {
            let ((came, response), sent) = (attempt.response?, attempt.sent?);
            let checked = peers[index % peers.len()].checker.mac1_valid(&response);
            let opened = checked && attempt.initiator.finish(&response).is_some();
            Some(opened.then(|| came.saturating_sub(sent)))
        };
        let mut histogram = histogram()?;
        let mut invalid = 0;
        for took in open_in_parallel(&mut self.attempts, open) {
            match took {
                Some(took) => {
                    histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
                }
                None => invalid += 1,
            }
        }
        let us = |ns: u64| ns as f64 / 1e3;
        let seconds = elapsed.as_secs_f64();
        let completed = histogram.len();
        Ok(HandshakeReport {
            completed,
            unanswered: self.unanswered,
            invalid,
            cookie_replies: self.cookie_replies,
            seconds,
            handshakes_per_second: if seconds > 0.0 { completed as f64 / seconds } else { 0.0 },
            p50_us: us(histogram.value_at_quantile(0.5)),
            p90_us: us(histogram.value_at_quantile(0.9)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            p999_us: us(histogram.value_at_quantile(0.999)),
            max_us: us(histogram.max()),
            percentiles: histogram
                .iter_quantiles(PERCENTILE_STEPS)
                .map(|step| (step.quantile(), us(step.value_iterated_to())))
                .collect(),
        })
    }

    fn send(&mut self, index: usize, now: Duration) -> Option<Sending> {
        let peer_index = index % self.peers.len();
        let attempt = self.attempts.get_mut(index)?;
        let peer = self.peers.get_mut(peer_index)?;
        peer.stamper.stamp(&mut attempt.message, millis(now));
        Some(Sending { source: peer.source, message: attempt.message })
    }
}

fn millis(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Of nanoseconds, with three digits.
fn histogram() -> Result<Histogram<u64>> {
    let longest = u64::try_from(PATIENCE.as_nanos())?;
    Histogram::new_with_bounds(1, longest, 3).context("a histogram cannot be made")
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// `make(0)` to `make(count - 1)` in order, by all cores; none if one of them is.
fn in_parallel<T: Send>(count: usize, make: impl Fn(usize) -> Option<T> + Sync) -> Option<Vec<T>> {
    let part = count.div_ceil(cores()).max(1);
    thread::scope(|scope| {
        let make = &make;
        let starts = (0..count).step_by(part);
        let workers: Vec<_> = starts
            .map(|start| {
                let range = start..(start + part).min(count);
                scope.spawn(move || range.map(make).collect::<Option<Vec<T>>>())
            })
            .collect();
        let mut all = Vec::with_capacity(count);
        for worker in workers {
            all.extend(worker.join().ok()??);
        }
        Some(all)
    })
}

/// What `open` makes of those that it makes something of.
fn open_in_parallel<T: Send>(
    attempts: &mut [Attempt],
    open: impl Fn((usize, &mut Attempt)) -> Option<T> + Sync,
) -> Vec<T> {
    let part = attempts.len().div_ceil(cores()).max(1);
    thread::scope(|scope| {
        let open = &open;
        let workers: Vec<_> = attempts
            .chunks_mut(part)
            .enumerate()
            .map(|(number, chunk)| {
                let numbered = (number * part..).zip(chunk);
                scope.spawn(move || numbered.filter_map(open).collect::<Vec<T>>())
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    })
}

#[cfg(test)]
#[path = "initiators_tests.rs"]
mod tests;
