//! `run` and `list`: named sets of workloads, for those who do not want to compose their own.
//!
//! | scenario | workloads |
//! |---|---|
//! | `throughput` | `tcp1`, `tcp4`, `tcp1-r` |
//! | `packets` | floods of 1,400, 1,372 and 64 bytes |
//! | `lossless` | the highest rates of 1,372 and 64 bytes and of an IMIX that lose nearly nothing |
//! | `latency` | round trips, idle and next to a TCP stream; short connections |
//! | `idle` | wake-ups and CPU time without traffic |
//! | `peers` | handshakes a second, and starts with 1,000 and 10,000 peers; WireGuards only |
//! | `soak` | one TCP stream for ten minutes a tunnel; alone, and only when asked for |
//!
//! A run is one [`ab`]: all tunnels up, interleaved rounds.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};
use ringtun::lab::traffic::Stop;
use ringtun::lab::{self, Entered, Host};

use crate::Outcome;
use crate::ab::{self, Contest};
use crate::competitors;
use crate::workload::Workload;

/// Few enough for two minutes: the kernel's own, and one of each kind that most people have.
const QUICK_TUNNELS: [&str; 6] =
    ["veth", "vxlan", "uring", "wg-uring", "wireguard-go", "boringtun-cli"];
const QUICK_WORKLOADS: &str = "tcp1,udp1372,ping";
const QUICK_ROUNDS: u16 = 3;
const SOAK_SECONDS: u64 = 600;

/// What `run` is to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// throughput, packets, lossless, latency, idle, peers, soak (see `list`); all but soak by
    /// default
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,

    /// A look in under two minutes: few tunnels, three workloads, three rounds of a second
    #[arg(long, conflicts_with_all = ["scenarios", "rounds", "seconds", "only"])]
    quick: bool,

    /// How often everything is measured [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(3..=1000))]
    rounds: Option<u16>,

    /// Length of one measurement [default: 3; of soak 600]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,

    #[command(flatten)]
    contest: Contest,
}

/// A named set of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    name: &'static str,
    workloads: &'static str,
    what: &'static str,
}

const SOAK: &str = "soak";

impl Scenario {
    /// In the order of the tables.
    const ALL: [Self; 7] = [
        Self { name: "throughput", workloads: "tcp1,tcp4,tcp1-r", what: "TCP, either way" },
        Self {
            name: "packets",
            workloads: "udp1400,udp1372,udp64",
            what: "floods of datagrams: what arrives",
        },
        Self {
            name: "lossless",
            workloads: "udp1372@max,udp64@max,imix@max",
            what: "the highest rates with less than 0.1 % loss",
        },
        Self {
            name: "latency",
            workloads: "ping,ping+tcp1,connect",
            what: "round trips, idle and under load; short connections",
        },
        Self { name: "idle", workloads: "idle", what: "wake-ups and CPU time without traffic" },
        Self {
            name: "peers",
            workloads: "handshakes,peers1000,peers10000",
            what: "WireGuards: handshakes a second, start-up with many peers",
        },
        Self {
            name: SOAK,
            workloads: "tcp1",
            what: "ten minutes of TCP a tunnel: does memory grow, does anything stop",
        },
    ];

    fn workloads(&self) -> Result<Vec<Workload>> {
        self.workloads.split(',').map(str::parse).collect()
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        let names = Self::ALL.map(|scenario| scenario.name).join(", ");
        Self::ALL
            .into_iter()
            .find(|scenario| scenario.name == name)
            .ok_or_else(|| anyhow!("{name:?} is no scenario: {names}"))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Args {
    /// The same in the terms of `ab`.
    fn to_ab(&self) -> Result<ab::Args> {
        let is_soak = |scenario: &Scenario| scenario.name == SOAK;
        let soak = self.scenarios.iter().any(is_soak);
        if soak && self.scenarios.len() > 1 {
            bail!("soak takes ten minutes a tunnel: run it alone");
        }
        let mut workloads: Vec<Workload> = Vec::new();
        if self.quick {
            workloads = QUICK_WORKLOADS.split(',').map(str::parse).collect::<Result<_>>()?;
        }
        let all = Scenario::ALL.map(|it| it).into_iter().filter(|it| !is_soak(it)).collect();
        let chosen: Vec<Scenario> = match self.scenarios.as_slice() {
            _ if self.quick => Vec::new(),
            [] => all,
            some => some.to_vec(),
        };
        for scenario in chosen {
            for workload in scenario.workloads()? {
                if !workloads.contains(&workload) {
                    workloads.push(workload);
                }
            }
        }
        let (rounds, seconds) = match (self.quick, soak) {
            (true, _) => (QUICK_ROUNDS, 1),
            (false, true) => (1, SOAK_SECONDS),
            (false, false) => (5, 3),
        };
        let mut contest = self.contest.clone();
        if self.quick {
            contest.only = QUICK_TUNNELS.map(str::to_owned).to_vec();
        }
        let (rounds, seconds) = (self.rounds.unwrap_or(rounds), self.seconds.unwrap_or(seconds));
        Ok(ab::Args::new(workloads, rounds, seconds, contest))
    }
}

/// Measures and prints.
pub(crate) fn run(args: &Args, entered: Entered, stop: &Stop) -> Result<Outcome> {
    ab::run(&args.to_ab()?, entered, stop)
}

/// Prints what can be measured, and what of it is here. The kernel is asked in a lab.
pub(crate) fn list() -> Result<Outcome> {
    let host = lab::enter().and_then(|_| Host::new("asked"));
    let mut out = io::stdout().lock();
    writeln!(out, "scenarios (`run SCENARIO…`):")?;
    for Scenario { name, workloads, what } in Scenario::ALL {
        writeln!(out, "  {name:<14} {what} ({workloads})")?;
    }
    writeln!(out, "\nworkloads (`ab --workload NAME,…`):\n  {}", Workload::NAMES)?;
    writeln!(out, "\ntunnels (`--only NAME,…`):")?;
    for competitor in competitors::all(&[]) {
        let kernel = || competitor.ask_kernel(host.as_ref().ok()?).err();
        let missing =
            competitors::lacks(&*competitor).or_else(|| kernel().map(|error| format!("{error:#}")));
        let state = missing.map_or_else(|| "installed".to_owned(), |why| format!("MISSING: {why}"));
        writeln!(out, "  {:<14} {state}", competitor.name())?;
    }
    if let Err(why) = host {
        writeln!(out, "\nNOTHING CAN BE MEASURED HERE: {why}")?;
        return Ok(Outcome::Incomplete);
    }
    Ok(Outcome::Complete)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(words: &str) -> Result<String> {
        let line = Line::try_parse_from(["run"].into_iter().chain(words.split_whitespace()))?;
        Ok(line.args.to_ab()?.summary())
    }

    #[test]
    fn scenarios_are_workloads() {
        for scenario in Scenario::ALL {
            assert!(!scenario.workloads().unwrap().is_empty(), "{scenario}");
            assert_eq!(scenario.name.parse::<Scenario>().unwrap(), scenario);
        }
        let all = plan("").unwrap();
        assert!(all.contains("imix@max") && all.contains("5 rounds of 3 s"), "{all}");
        assert_eq!(plan("idle").unwrap(), "idle: 5 rounds of 3 s");
        let peers = plan("peers").unwrap();
        assert_eq!(peers, "handshakes,peers1000,peers10000: 5 rounds of 3 s");
        assert_eq!(plan("idle --rounds 7 --seconds 9").unwrap(), "idle: 7 rounds of 9 s");
        assert_eq!(plan("--quick").unwrap(), "tcp1,udp1372,ping: 3 rounds of 1 s");
        assert_eq!(plan("soak").unwrap(), "tcp1: 1 rounds of 600 s");
    }

    #[test]
    fn a_quick_look_takes_under_two_minutes() {
        let runs = QUICK_TUNNELS.len() * 3 * usize::from(QUICK_ROUNDS);
        // A run of a second takes less than 2 s, and all tunnels are up within ten.
        assert!(runs * 2 + 10 < 120, "{runs} runs");
        let names: Vec<_> = competitors::all(&[]).iter().map(|it| it.name().to_owned()).collect();
        assert!(QUICK_TUNNELS.iter().all(|name| names.iter().any(|it| it == name)));
    }

    #[test]
    fn nonsense_is_refused_with_words() {
        let says = |line: &str, words: &str| {
            let error = plan(line).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        };
        says("fast", "throughput, packets");
        says("soak idle", "alone");
        says("--rounds 2", "3..=1000");
        says("--quick idle", "cannot be used with");
    }
}
