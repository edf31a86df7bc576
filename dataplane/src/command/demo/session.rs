//! The course of the demo: hosts, engines, a first packet each way, then one measurement after
//! the other while both engines are watched.
//!
//! A measurement runs on a thread of its own; this one asks both engines four times a second,
//! feeds the view, and ends the measurement when an engine dies or the user has had enough.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::Demo;
use super::engines::{Engine, LEFT, RIGHT, Secrets};
use super::report::{Failure, Phase, Report, Use};
use super::view::{Live, View};
use crate::control::status::Status;
use crate::lab::traffic::{
    Iperf3, RoundTripReport, RoundTrips, Stop, StreamReport, TcpStreams, TrafficError, find_iperf3,
    iperf3, probe, round_trips, tcp_streams,
};
use crate::lab::{Pair, has_ipv6};

const LEFT_INNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 1));
const RIGHT_INNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 2));
const RIGHT_INNER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2));
const FIRST_PACKET_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How soon the end of a measurement is noticed.
const STEP: Duration = Duration::from_millis(10);
/// Time for TCP to reach its rate before round trips under it are measured.
const WARM_UP: Duration = Duration::from_millis(500);
const ROUND_TRIPS_UNDER_LOAD_MAX: Duration = Duration::from_secs(3);
const PHASES: usize = 4;

/// Everything that runs; dropping it ends the engines, then their hosts.
pub(super) struct Session<'a> {
    args: &'a Demo,
    stop: Stop,
    view: View,
    iperf3: Option<PathBuf>,
    left: Engine,
    right: Engine,
    pair: Pair,
}

/// Both engines' state at one moment.
#[derive(Clone)]
struct Look {
    at: Instant,
    left: Status,
    right: Status,
}

type Traffic<'w, R> = dyn Fn(&Pair, &Stop) -> Result<R, TrafficError> + Sync + 'w;

impl<'a> Session<'a> {
    /// Builds the hosts and starts the engines.
    pub(super) fn start(args: &'a Demo, stop: Stop, view: View) -> Result<Self, Failure> {
        let pair = Pair::new()?;
        let secrets = Secrets::new()?;
        let left = Engine::start(&pair.left, &LEFT, &secrets, args)?;
        let right = Engine::start(&pair.right, &RIGHT, &secrets, args)?;
        Ok(Self { args, stop, view, iperf3: find_iperf3(), left, right, pair })
    }

    /// Plays it through; what was measured before a failure stays in `report`.
    pub(super) fn play(mut self, report: &mut Report) -> Result<(), Failure> {
        let played = self.measure(report);
        self.view.finish();
        let ended = (self.left.stop(), self.right.stop());
        played?;
        ended.0?;
        ended.1
    }

    fn measure(&mut self, report: &mut Report) -> Result<(), Failure> {
        report.left = Some(self.left.wait(&self.stop)?);
        report.right = Some(self.right.wait(&self.stop)?);
        self.first_packets(report)?;
        let duration = Duration::from_secs(self.args.seconds);

        let idle = RoundTrips { duration, ..RoundTrips::default() };
        self.round_trips(report, 1, &idle)?;
        self.streams(report, 2, 1)?;
        self.streams(report, 3, usize::from(self.args.streams))?;
        self.round_trips_under_load(report, duration.min(ROUND_TRIPS_UNDER_LOAD_MAX))?;

        let last = self.look()?;
        (report.left, report.right) = (Some(last.left), Some(last.right));
        Ok(())
    }

    /// A packet each way, so that measurements start on a tunnel that works.
    fn first_packets(&self, report: &mut Report) -> Result<(), Failure> {
        let (left, right) = (&self.pair.left, &self.pair.right);
        let ways = [(left, right, RIGHT_INNER), (right, left, LEFT_INNER)];
        for (from, to, address) in ways {
            let address = SocketAddr::new(address, 0);
            probe(from, to, address, FIRST_PACKET_TIMEOUT, &self.stop)
                .map_err(|error| self.with_logs(error.into()))?;
        }
        if has_ipv6() {
            let address = SocketAddr::new(RIGHT_INNER_V6, 0);
            probe(left, right, address, FIRST_PACKET_TIMEOUT, &self.stop)
                .map_err(|error| self.with_logs(error.into()))?;
        } else {
            report.notes.push("This kernel has no IPv6: the tunnel carries IPv4 only.".to_owned());
        }
        Ok(())
    }

    fn round_trips(
        &mut self,
        report: &mut Report,
        number: usize,
        plan: &RoundTrips,
    ) -> Result<(), Failure> {
        let title = "round trips, idle";
        self.view.begin(number, PHASES, title, plan.duration);
        let traffic = |pair: &Pair, stop: &Stop| {
            let to = SocketAddr::new(RIGHT_INNER, 0);
            round_trips(&pair.left, &pair.right, to, plan, stop)
        };
        let (trips, left, right) = self.watch(&traffic)?;
        answered(title, &trips).map_err(|failure| self.with_logs(failure))?;
        report.phases.push(Phase {
            name: "round_trips_idle".to_owned(),
            title: title.to_owned(),
            streams: None,
            round_trips: Some(trips),
            left,
            right,
        });
        Ok(())
    }

    fn streams(
        &mut self,
        report: &mut Report,
        number: usize,
        streams: usize,
    ) -> Result<(), Failure> {
        let plural = if streams == 1 { "" } else { "s" };
        let title = format!("TCP, {streams} stream{plural}");
        self.view.begin(number, PHASES, &title, Duration::from_secs(self.args.seconds));
        let (carried, left, right) = match self.stream_traffic(streams) {
            Err(error) if self.iperf3.is_some() && !error.interrupted => {
                // The tunnel may well be in order, and the tool not: ask it in another way.
                self.left.check()?;
                self.right.check()?;
                self.iperf3 = None;
                let note = format!("{}; the built-in traffic was used instead.", error.reason);
                report.notes.push(note);
                self.stream_traffic(streams)
            }
            other => other,
        }?;
        moved(&title, &carried).map_err(|failure| self.with_logs(failure))?;
        report.phases.push(Phase {
            name: format!("tcp_{streams}"),
            title,
            streams: Some(carried),
            round_trips: None,
            left,
            right,
        });
        Ok(())
    }

    fn stream_traffic(&mut self, streams: usize) -> Result<(StreamReport, Use, Use), Failure> {
        let seconds = self.args.seconds;
        let program = self.iperf3.clone();
        let traffic = move |pair: &Pair, stop: &Stop| match &program {
            Some(program) => {
                let client_args = Vec::new();
                let plan = Iperf3 {
                    program: program.clone(),
                    port: Iperf3::PORT,
                    streams,
                    seconds,
                    client_args,
                };
                let done = iperf3(&pair.left, &pair.right, RIGHT_INNER, &plan, stop)?;
                Ok(done.streams)
            }
            None => {
                let duration = Duration::from_secs(seconds);
                let plan = TcpStreams { streams, duration, ..TcpStreams::default() };
                let to = SocketAddr::new(RIGHT_INNER, 0);
                tcp_streams(&pair.left, &pair.right, to, &plan, stop)
            }
        };
        self.watch(&traffic)
    }

    fn round_trips_under_load(
        &mut self,
        report: &mut Report,
        duration: Duration,
    ) -> Result<(), Failure> {
        let title = "round trips under one TCP stream";
        self.view.begin(PHASES, PHASES, title, duration + WARM_UP);
        let trips = RoundTrips { duration, ..RoundTrips::default() };
        let load = TcpStreams { duration: duration + 2 * WARM_UP, ..TcpStreams::default() };
        let traffic = |pair: &Pair, stop: &Stop| {
            let (from, at) = (&pair.left, &pair.right);
            let to = SocketAddr::new(RIGHT_INNER, 0);
            thread::scope(|scope| {
                let stream = scope.spawn(|| tcp_streams(from, at, to, &load, stop));
                thread::sleep(WARM_UP);
                let trips = round_trips(from, at, to, &trips, stop);
                let stream = stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                Ok((stream?, trips?))
            })
        };
        let ((stream, trips), left, right) = self.watch(&traffic)?;
        moved(title, &stream).map_err(|failure| self.with_logs(failure))?;
        answered(title, &trips).map_err(|failure| self.with_logs(failure))?;
        report.phases.push(Phase {
            name: "round_trips_tcp_1".to_owned(),
            title: title.to_owned(),
            streams: Some(stream),
            round_trips: Some(trips),
            left,
            right,
        });
        Ok(())
    }

    /// Runs `traffic` to its end with both engines in view.
    fn watch<R: Send>(&mut self, traffic: &Traffic<'_, R>) -> Result<(R, Use, Use), Failure> {
        let first = self.look()?;
        let stop = Stop::default();
        let Self { stop: user, view, left, right, pair, .. } = self;
        let (result, fate) = thread::scope(|scope| {
            let running = scope.spawn(|| traffic(pair, &stop));
            let mut last = first.clone();
            let mut fate = Ok(());
            while !running.is_finished() {
                thread::sleep(STEP);
                if fate.is_ok() {
                    fate = attend(left, right, user, &mut last, view, first.at);
                }
                if fate.is_err() {
                    stop.raise();
                }
            }
            (running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), fate)
        });
        fate?;
        if self.stop.raised() {
            return Err(Failure::interrupted());
        }
        let done = result.map_err(|error| self.with_logs(error.into()))?;
        let after = self.look()?;
        let seconds = after.at.duration_since(first.at).as_secs_f64();
        let left = Use::between(&first.left, &after.left, seconds);
        let right = Use::between(&first.right, &after.right, seconds);
        Ok((done, left, right))
    }

    fn look(&mut self) -> Result<Look, Failure> {
        let state = |engine: &mut Engine| {
            engine.check()?;
            engine.status().map_err(|error| engine.failure(format!("does not answer: {error}")))
        };
        let (left, right) = (state(&mut self.left)?, state(&mut self.right)?);
        Ok(Look { at: Instant::now(), left, right })
    }

    fn with_logs(&self, mut failure: Failure) -> Failure {
        if !failure.interrupted && failure.log.is_empty() {
            failure.log = self.left.log();
            failure.log.extend(self.right.log());
        }
        failure
    }
}

/// One step of watching: an error ends the measurement.
fn attend(
    left: &mut Engine,
    right: &mut Engine,
    user: &Stop,
    last: &mut Look,
    view: &mut View,
    begin: Instant,
) -> Result<(), Failure> {
    if user.raised() {
        return Err(Failure::interrupted());
    }
    left.check()?;
    right.check()?;
    if last.at.elapsed() < LOOK_INTERVAL {
        return Ok(());
    }
    // An answer that is late under load is no failure: the view skips it.
    if let (Ok(left), Ok(right)) = (left.status(), right.status()) {
        let now = Look { at: Instant::now(), left, right };
        let seconds = now.at.duration_since(last.at).as_secs_f64();
        view.update(&Live {
            elapsed: now.at.duration_since(begin),
            left: Use::between(&last.left, &now.left, seconds),
            right: Use::between(&last.right, &now.right, seconds),
            left_status: &now.left,
            right_status: &now.right,
        });
        *last = now;
    }
    Ok(())
}

fn moved(title: &str, streams: &StreamReport) -> Result<(), Failure> {
    if streams.bytes > 0 {
        Ok(())
    } else {
        Err(Failure::because(format!("{title}: not one byte arrived through the tunnel")))
    }
}

fn answered(title: &str, trips: &RoundTripReport) -> Result<(), Failure> {
    if trips.received > 0 {
        Ok(())
    } else {
        Err(Failure::because(format!("{title}: none of {} requests was answered", trips.sent)))
    }
}
