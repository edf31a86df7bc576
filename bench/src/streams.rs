//! What iperf3 sends: TCP streams either way, datagrams of one size or of several, at a rate,
//! without pause, or at the highest rate that a tunnel carries.

use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use ringtun::lab::traffic::{self, Iperf3, Stop};
use serde_json::{Value, json};

use crate::iperf3::{self, Datagrams, Received};
use crate::measure::{Cost, Mark};
use crate::workload::{Rate, Route, Sizes};

/// The simple IMIX: of twelve packets seven of 40, four of 576 and one of 1,500 bytes with their IP
/// headers, the last cut to what fits every tunnel's MTU; as payloads, with their numbers.
const IMIX: [(usize, f64); 3] = [(16, 7.0), (548, 4.0), (1372, 1.0)];
/// Less than this is lost at a rate that a tunnel is said to carry, in per cent.
pub(crate) const LOSS_MAX_PERCENT: f64 = 0.1;
/// How often the ladder halves what it does not know: to 1 % of where it began.
const STEPS: usize = 7;
/// A step of the ladder.
const STEP_SECONDS: u64 = 1;
/// Of the whole ladder, with the flood at its foot and the programs' starts.
pub(crate) const LADDER_SECONDS: f64 = (STEPS + 1) as f64 * (STEP_SECONDS as f64 + 0.1);
/// iperf3 sends in bursts at this distance; its own default of 1,000 µs overflows queues that the
/// same packets would not, spread out.
const PACING_US: &str = "100";

/// How iperf3 is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub(crate) route: &'a Route<'a>,
    pub(crate) program: &'a Path,
    pub(crate) seconds: u64,
    /// Process groups of the tunnel.
    pub(crate) groups: &'a [u32],
    pub(crate) stop: &'a Stop,
}

/// What was received, with iperf3's document of it, and what it cost where that is not the cost of
/// everything that was sent.
pub(crate) type Streamed = (Received, Value, Option<Cost>);

impl Run<'_> {
    /// So many TCP streams, from the server if `back`.
    pub(crate) fn tcp(&self, streams: usize, back: bool) -> Result<(Received, Value)> {
        let args = if back { vec!["-R".to_owned()] } else { Vec::new() };
        self.iperf3(0, streams, args)
    }

    /// Datagrams.
    pub(crate) fn udp(&self, sizes: &Sizes, rate: &Rate) -> Result<Streamed> {
        let (received, document) = match rate {
            Rate::Free => self.datagrams(sizes, None)?,
            Rate::Bits(bits, _) => self.datagrams(sizes, Some(*bits))?,
            Rate::Highest => return self.highest(sizes),
        };
        Ok((received, document, None))
    }

    fn datagrams(&self, sizes: &Sizes, bits_per_second: Option<f64>) -> Result<(Received, Value)> {
        let one = |index: u16, len: usize, bits: Option<f64>| {
            let mut args = ["-u", "-l", &len.to_string(), "-b"].map(str::to_owned).to_vec();
            args.push(bits.map_or_else(|| "0".to_owned(), |bits| format!("{bits:.0}")));
            if bits.is_some() {
                args.extend(["--pacing-timer", PACING_US].map(str::to_owned));
            }
            self.iperf3(index, 1, args)
        };
        let Sizes::One(len) = sizes else {
            let all: f64 = IMIX.iter().map(|(len, count)| *len as f64 * count).sum();
            return thread::scope(|scope| {
                let runs: Vec<_> = (0..)
                    .zip(IMIX)
                    .map(|(index, (len, count))| {
                        let bits = bits_per_second.map(|bits| bits * len as f64 * count / all);
                        scope.spawn(move || one(index, len, bits))
                    })
                    .collect();
                let ended = runs.into_iter().map(|run| {
                    run.join().map_err(|_| anyhow!("one of the senders came to no result"))?
                });
                sum(ended.collect::<Result<Vec<_>>>()?)
            });
        };
        one(0, *len, bits_per_second)
    }

    /// Between nothing and what arrives of a flood, by halves. The cost is that of the step which
    /// the figures are from.
    fn highest(&self, sizes: &Sizes) -> Result<Streamed> {
        let step = Run { seconds: STEP_SECONDS, ..*self };
        let flood = match sizes {
            // Three floods at once would only show which of them the scheduler likes.
            Sizes::Imix => step.datagrams(&Sizes::One(IMIX[1].0), None)?,
            Sizes::One(_) => step.datagrams(sizes, None)?,
        };
        let mut steps = vec![json!({ "bits_per_second": null, "iperf3": flood.1 })];
        let top = 1.25 * flood.0.gbit_per_second() * 1e9;
        let found = climb(top, STEPS, |bits| {
            let mark = Mark::now(self.groups)?;
            let (received, document) = step.datagrams(sizes, Some(bits))?;
            let cost = mark.cost()?;
            steps.push(json!({ "bits_per_second": bits, "iperf3": document }));
            let loss = received.datagrams.unwrap_or_default().loss_percent();
            Ok((loss < LOSS_MAX_PERCENT).then_some((received, cost)))
        })?;
        let lowest = top / (1 << STEPS) as f64 / 1e6;
        let (best, cost) = found.with_context(|| {
            format!("more than {LOSS_MAX_PERCENT} % were lost even at {lowest:.1} Mbit/s")
        })?;
        Ok((best, Value::Array(steps), Some(cost)))
    }

    fn iperf3(
        &self,
        index: u16,
        streams: usize,
        mut client_args: Vec<String>,
    ) -> Result<(Received, Value)> {
        if let Some(from) = self.route.from {
            client_args.extend(["-B".to_owned(), from.to_string()]);
        }
        let plan = Iperf3 {
            program: self.program.to_owned(),
            port: Iperf3::PORT + index,
            streams,
            seconds: self.seconds,
            client_args,
        };
        let Route { client, server, to, .. } = *self.route;
        let report = traffic::iperf3(client, server, to, &plan, self.stop)?;
        Ok((iperf3::parse(&report.json)?, report.json))
    }
}

/// Halves the distance between a rate that is carried and one that is not, `steps` times, from 0
/// and `top` on; returns what was carried at the highest that was.
fn climb<T>(
    top: f64,
    steps: usize,
    mut carried: impl FnMut(f64) -> Result<Option<T>>,
) -> Result<Option<T>> {
    let (mut low, mut high, mut best) = (0.0, top, None);
    for _ in 0..steps {
        let rate = f64::midpoint(low, high);
        match carried(rate)? {
            Some(result) => (low, best) = (rate, Some(result)),
            None => high = rate,
        }
    }
    Ok(best)
}

/// Several senders at once as one.
fn sum(runs: Vec<(Received, Value)>) -> Result<(Received, Value)> {
    let mut total = Received { datagrams: Some(Datagrams::default()), ..Received::default() };
    let mut documents = Vec::new();
    for (received, document) in runs {
        total.bytes += received.bytes;
        total.seconds = total.seconds.max(received.seconds);
        let (Some(total), Some(datagrams)) = (&mut total.datagrams, received.datagrams) else {
            bail!("iperf3's document is not about UDP");
        };
        total.sent += datagrams.sent;
        total.received += datagrams.received;
        documents.push(document);
    }
    Ok((total, Value::Array(documents)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_ends_just_below_what_is_too_much() {
        for limit in [3.0, 10.0, 55.5, 99.0] {
            let mut tried = 0;
            let found = climb(100.0, STEPS, |rate| {
                tried += 1;
                Ok((rate <= limit).then_some(rate))
            });
            let found = found.unwrap().unwrap();
            assert!(found <= limit && found > limit - 1.0, "{limit}: {found}");
            assert_eq!(tried, STEPS);
        }
        assert!(climb(100.0, STEPS, |_| Ok(None::<f64>)).unwrap().is_none());
        assert!(climb(100.0, STEPS, |_| -> Result<Option<f64>> { bail!("gone") }).is_err());
    }

    #[test]
    fn senders_add_up() {
        let run = |bytes, sent, received| {
            let datagrams = Some(Datagrams { sent, received });
            (Received { bytes, seconds: 1.0, retransmits: None, datagrams }, Value::Null)
        };
        let (total, documents) = sum(vec![run(10, 5, 4), run(30, 6, 6)]).unwrap();
        assert_eq!((total.bytes, documents.as_array().unwrap().len()), (40, 2));
        assert_eq!(total.datagrams, Some(Datagrams { sent: 11, received: 10 }));
        let tcp = Received::default();
        assert!(sum(vec![(tcp, Value::Null)]).is_err());
    }
}
