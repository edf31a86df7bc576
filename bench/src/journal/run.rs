//! One run as read back: the figures that charts and tables are made of.
//!
//! Figures of kinds that came later than this program are read as far as they name their units: a
//! field that ends in `_per_second` is compared, the more the better.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::record::EngineUse;

/// One workload through one tunnel once.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) competitor: String,
    pub(crate) workload: String,
    pub(crate) round: u64,
    /// None if it failed.
    pub(crate) figures: Option<Figures>,
    /// Why it failed.
    pub(crate) error: Option<String>,
    pub(crate) disturbed: bool,
    /// By name, as `measure::Cost` calls them.
    pub(crate) cost: BTreeMap<String, f64>,
    /// Left and right; empty for others than ringtun.
    pub(crate) engines: Vec<EngineUse>,
}

/// What came of it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// What competitors are compared by.
    pub(crate) value: f64,
    pub(crate) metric: Metric,
    pub(crate) stream: Option<Stream>,
    /// Round trips, or handshakes and connections, which are some too.
    pub(crate) trips: Option<Trips>,
    /// Of a device with many peers: seconds until it was configured.
    pub(crate) configured_seconds: Option<f64>,
}

/// Names of metrics that have columns of their own.
pub(crate) const HANDSHAKES: &str = "handshakes";
pub(crate) const CONNECTIONS: &str = "connections";
pub(crate) const WAKEUPS: &str = "wake-ups";
pub(crate) const START_UP: &str = "first packet after";

/// What a value is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metric {
    /// `throughput`, `median round trip`, …
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) less_is_better: bool,
}

impl Metric {
    /// Whether it is that of a device which was started for the run, and not of a tunnel.
    pub(crate) fn is_of_a_device(&self) -> bool {
        [HANDSHAKES, START_UP].contains(&self.name.as_str())
    }
}

/// What iperf3 moved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stream {
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
    pub(crate) retransmits: Option<f64>,
    /// Datagrams sent and received; UDP only.
    pub(crate) datagrams: Option<(f64, f64)>,
}

/// Round trips at a fixed rate.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Trips {
    pub(crate) received: f64,
    pub(crate) lost: f64,
    /// (quantile from 0 to 1, µs), rising; all that was recorded.
    pub(crate) percentiles: Vec<(f64, f64)>,
}

impl Run {
    /// From a line; none without the two names.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let cost = value.get("cost").and_then(Value::as_object).into_iter().flatten();
        let engines = value.get("engines").and_then(Value::as_array).into_iter().flatten();
        let figures = value.get("figures").and_then(Figures::read);
        let error = text("error");
        let unreadable = || Some("its figures cannot be read".to_owned());
        Some(Self {
            competitor: text("competitor").filter(|name| !name.is_empty())?,
            workload: text("workload").filter(|name| !name.is_empty())?,
            round: value.get("round").and_then(Value::as_u64).unwrap_or_default(),
            error: if figures.is_none() { error.or_else(unreadable) } else { error },
            figures,
            disturbed: value.get("disturbed").and_then(Value::as_bool).unwrap_or_default(),
            cost: cost.filter_map(|(name, it)| Some((name.clone(), usable(it)?))).collect(),
            engines: engines
                .filter_map(|engine| serde_json::from_value(engine.clone()).ok())
                .collect(),
        })
    }

    /// A figure of the cost; 0 if it was not recorded.
    pub(crate) fn cost(&self, name: &str) -> f64 {
        self.cost.get(name).copied().unwrap_or_default()
    }
}

impl Figures {
    fn read(value: &Value) -> Option<Self> {
        let (kind, body) = value.as_object()?.iter().next()?;
        let metric = |name: &str, unit: &str, less_is_better| Metric {
            name: name.to_owned(),
            unit: unit.to_owned(),
            less_is_better,
        };
        match kind.as_str() {
            "stream" => {
                let stream = Stream::read(body)?;
                let value = stream.gbit() / stream.seconds;
                let metric = metric("throughput", "Gb/s", false);
                Some(Self { value, metric, stream: Some(stream), ..Self::default() })
            }
            "round_trips" => {
                let trips = Trips::read(body)?;
                let metric = metric("median round trip", "µs", true);
                let value = trips.at(0.5)?;
                Some(Self { value, metric, trips: Some(trips), ..Self::default() })
            }
            "loaded" => {
                let trips = Trips::read(body.get("round_trips")?)?;
                let stream = body.get("stream").and_then(Stream::read);
                let metric = metric("99 % of round trips within", "µs", true);
                let value = trips.at(0.99)?;
                Some(Self { value, metric, stream, trips: Some(trips), ..Self::default() })
            }
            "handshakes" => {
                let counted = Trips::counted(body, "completed", "unanswered");
                Self::rate(body, "handshakes_per_second", HANDSHAKES, counted)
            }
            "connections" => {
                let counted = Trips::counted(body, "connections", "failed");
                Self::rate(body, "connections_per_second", CONNECTIONS, counted)
            }
            "idle" => {
                let value = body.get("wakeups_per_second").and_then(usable)?;
                Some(Self { value, metric: metric(WAKEUPS, "wake-ups/s", true), ..Self::default() })
            }
            "start_up" => {
                let number = |field: &str| body.get(field).and_then(usable);
                let (value, metric) =
                    (number("first_packet_seconds")?, metric(START_UP, "s", true));
                let configured_seconds = number("configured_seconds");
                Some(Self { value, metric, configured_seconds, ..Self::default() })
            }
            _ => {
                let mut fields = body.as_object()?.iter();
                let rate = fields
                    .find_map(|(name, it)| Some((name.strip_suffix("_per_second")?, usable(it)?)));
                let (name, value) = rate?;
                let name = name.replace('_', " ");
                let unit = format!("{name}/s");
                Some(Self { value, metric: metric(&name, &unit, false), ..Self::default() })
            }
        }
    }
}

impl Figures {
    /// So many of `name` a second.
    fn rate(body: &Value, field: &str, name: &str, trips: Option<Trips>) -> Option<Self> {
        let (unit, name) = (format!("{name}/s"), name.to_owned());
        let metric = Metric { name, unit, less_is_better: false };
        let value = body.get(field).and_then(usable)?;
        Some(Self { value, metric, trips, ..Self::default() })
    }
}

impl Stream {
    fn read(value: &Value) -> Option<Self> {
        let number = |field: &str| value.get(field).and_then(usable);
        let datagrams = value.get("datagrams").and_then(|both| {
            Some((both.get("sent").and_then(usable)?, both.get("received").and_then(usable)?))
        });
        Some(Self {
            bytes: number("bytes")?,
            seconds: number("seconds").filter(|seconds| *seconds > 0.0)?,
            retransmits: number("retransmits"),
            datagrams,
        })
    }

    /// Payload bits received, in units of 1e9.
    pub(crate) fn gbit(&self) -> f64 {
        self.bytes * 8e-9
    }

    /// Thousands of datagrams received.
    pub(crate) fn kilo_packets(&self) -> Option<f64> {
        self.datagrams.map(|(_, received)| received / 1e3)
    }

    /// Per cent that did not arrive.
    pub(crate) fn loss_percent(&self) -> Option<f64> {
        let (sent, received) = self.datagrams?;
        Some(if sent > 0.0 { 100.0 * (sent - received).max(0.0) / sent } else { 0.0 })
    }
}

impl Trips {
    fn read(value: &Value) -> Option<Self> {
        let number = |field: &str| value.get(field).and_then(usable);
        let mut percentiles: Vec<(f64, f64)> = value
            .get("percentiles")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((usable(pair.get(0)?)?, usable(pair.get(1)?)?)))
            .collect();
        // Lists end with everything: 1, or 100 if they count in per cent.
        if percentiles.iter().any(|(quantile, _)| *quantile > 1.0) {
            percentiles.iter_mut().for_each(|(quantile, _)| *quantile /= 100.0);
        }
        let named = [
            ("min_us", 0.0),
            ("p50_us", 0.5),
            ("p90_us", 0.9),
            ("p99_us", 0.99),
            ("p999_us", 0.999),
            ("max_us", 1.0),
        ];
        for (field, quantile) in named {
            if let Some(us) = number(field) {
                // The named ones are exact, those of the list may be where a step happened to end.
                percentiles.retain(|(other, _)| (other - quantile).abs() > 1e-9);
                percentiles.push((quantile, us));
            }
        }
        percentiles.retain(|(quantile, _)| (0.0..=1.0).contains(quantile));
        percentiles.sort_by(|one, other| one.0.total_cmp(&other.0));
        let received = number("received").unwrap_or_default();
        let lost = number("lost").unwrap_or_default();
        (!percentiles.is_empty()).then_some(Self { received, lost, percentiles })
    }

    /// The same with other names for what came and what did not.
    fn counted(value: &Value, came: &str, missing: &str) -> Option<Self> {
        let count = |field: &str| value.get(field).and_then(usable).unwrap_or_default();
        Self::read(value).map(|it| Self { received: count(came), lost: count(missing), ..it })
    }

    /// Only if that very quantile was recorded.
    pub(crate) fn at_exactly(&self, quantile: f64) -> Option<f64> {
        let found = self.percentiles.iter().find(|(it, _)| (it - quantile).abs() < 1e-9);
        found.map(|(_, us)| *us)
    }

    /// What so many were at most: that of the first recorded quantile that is not below.
    pub(crate) fn at(&self, quantile: f64) -> Option<f64> {
        let found = self.percentiles.iter().find(|(it, _)| *it >= quantile - 1e-9);
        found.map(|(_, us)| *us)
    }
}

/// A number that can be drawn: neither infinite nor negative.
fn usable(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite() && *number >= 0.0)
}
