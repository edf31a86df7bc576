//! `ab`: competitors against each other, interleaved.
//!
//! Rounds are the outermost loop and competitors the innermost, in an order that moves on by one
//! each round: whatever slows the machine down for a while slows all of them down.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};
use ringtun::lab::traffic::Stop;
use ringtun::lab::{Entered, Pair};

use crate::Outcome;
use crate::alone::{Alone, Stage};
use crate::competitors::{self, Competitor, End, OtherBuild, OtherWireGuard, Slot, Tunnel};
use crate::environment::{Environment, check_congestion_control, use_congestion_control};
use crate::pace::{Plan, Starting};
use crate::provenance::Provenance;
use crate::record::Journal;
use crate::report::{self, Entry};
use crate::session::{Session, Turn, iperf3_for};
use crate::workload::{Route, Workload};

/// What `ab` is to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// Length of one measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// What is sent: tcpN, tcpN-r, udpLEN, udpLEN@RATE, udpLEN@max, imix@RATE, imix@max, ping,
    /// ping+tcpN, connect, idle, handshakes, handshakesN, peersN
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = Workload::DEFAULT)]
    workload: Vec<Workload>,

    #[command(flatten)]
    contest: Contest,
}

/// Who is measured, against whom, and where it is written down: the same for `ab` and `run`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Contest {
    /// Only these tunnels, besides those of --ringtun and --wireguard-go [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// Another build of ringtun, with further flags for its `up`
    #[arg(long, value_name = "NAME=PATH[:FLAGS]")]
    ringtun: Vec<OtherBuild>,

    /// A wireguard-go of any version
    #[arg(long, value_name = "NAME=PATH")]
    wireguard_go: Vec<OtherWireGuard>,

    /// What the others are compared with
    #[arg(long, value_name = "NAME", default_value = "vxlan")]
    baseline: String,

    /// How TCP finds its rate: cubic, bbr, reno, … as sysctl
    /// net.ipv4.tcp_available_congestion_control lists them [default: the machine's]
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<String>,

    /// Appends every run, with raw output, to this file (NDJSON), for `report` and `compare`
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Args {
    /// What `run` comes to.
    pub(crate) fn new(
        workload: Vec<Workload>,
        rounds: u16,
        seconds: u64,
        contest: Contest,
    ) -> Self {
        Self { rounds, seconds, workload, contest }
    }

    /// What is measured, in a line.
    #[cfg(test)]
    pub(crate) fn summary(&self) -> String {
        let names: Vec<String> = self.workload.iter().map(ToString::to_string).collect();
        format!("{}: {} rounds of {} s", names.join(","), self.rounds, self.seconds)
    }
}

/// Measures and prints.
pub(crate) fn run(args: &Args, entered: Entered, stop: &Stop) -> Result<Outcome> {
    let chosen = choose(args)?;
    let iperf3 = iperf3_for(&args.workload)?;
    let congestion_control = args.contest.congestion_control.as_deref();
    congestion_control.map_or(Ok(()), check_congestion_control)?;
    let pair = Pair::new()?;
    for host in [&pair.left, &pair.right] {
        congestion_control.map_or(Ok(()), |name| use_congestion_control(host, name))?;
    }
    hold_many_fragments(&pair)?;
    let (mut tunnels, entries) = start(&chosen, &pair, stop);
    if stop.raised() {
        return Ok(Outcome::Interrupted);
    }
    // Now that the tunnels' devices are there, whose offloads belong to it.
    let environment = Environment::look(entered, &pair.left);
    let running: Vec<(String, String)> =
        tunnels.iter().map(|it| (it.name.clone(), it.tunnel.how.clone())).collect();
    let mut journal = Journal::open(args.contest.json.as_deref(), &environment, &running)?;
    for Contestant { name, tunnel, .. } in &tunnels {
        journal.tunnel(name, &Provenance::of(tunnel))?;
    }
    for (name, how) in &entries {
        how.as_ref().map_or_else(|why| journal.absent(name, why), |_| Ok(()))?;
    }
    let mut plan = Plan::default();
    for workload in &args.workload {
        let exempt = exempt(workload, &tunnels);
        let runs = usize::from(args.rounds) * (tunnels.len() - exempt.len());
        plan = plan.and(runs, workload.lasts(args.seconds));
        for name in exempt {
            journal.exempt(name, &workload.to_string(), Alone::EXEMPT)?;
        }
    }
    let mut session = Session::new(iperf3, args.seconds, plan, journal, stop);
    rounds(args, &pair, &mut tunnels, &mut session)?;
    session.pace.clear();
    print(args, &environment, (&entries, &tunnels), &session)?;
    let absent = entries.iter().any(|(_, how)| how.is_err());
    Ok(match session.outcome() {
        Outcome::Complete if absent => Outcome::Incomplete,
        outcome => outcome,
    })
}

fn rounds(
    args: &Args,
    pair: &Pair,
    tunnels: &mut [Contestant<'_>],
    session: &mut Session<'_>,
) -> Result<()> {
    let (client, server, count) = (&pair.left, &pair.right, tunnels.len());
    for round in 0..usize::from(args.rounds) {
        for workload in &args.workload {
            for position in 0..count {
                let Contestant { name, competitor, index, tunnel } =
                    &mut tunnels[(position + round) % count];
                let (competitor, index) = (*competitor, *index);
                let route = Route { client, server, to: tunnel.to, from: None };
                let turn = Turn { competitor: name, workload, round, position };
                let (seconds, stop) = (session.seconds, session.stop);
                match workload.alone() {
                    None => session.run(turn, tunnel, &route)?,
                    Some(alone) if competitor.device("").is_some() => {
                        let stage = Stage { competitor, route, index, seconds, stop };
                        session.run_alone(turn, alone, &stage)?;
                    }
                    Some(_) => {}
                }
                if session.stop.raised() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn choose(args: &Args) -> Result<Vec<Box<dyn Competitor>>> {
    let Contest { only, ringtun, wireguard_go, baseline, .. } = &args.contest;
    let all = competitors::all_and(ringtun, wireguard_go);
    let names: Vec<String> = all.iter().map(|competitor| competitor.name().to_owned()).collect();
    let unique: BTreeSet<&String> = names.iter().collect();
    if unique.len() < names.len() {
        bail!("two tunnels have the same name: choose another NAME=…");
    }
    if let Some(unknown) = only.iter().chain([baseline]).find(|&it| !names.contains(it)) {
        bail!("there is no tunnel {unknown:?}: choose from {}", names.join(", "));
    }
    let builds = ringtun.iter().map(|other| other.engine().name().to_owned());
    let wireguards = wireguard_go.iter().map(|other| other.competitor().name().to_owned());
    let others: Vec<String> = builds.chain(wireguards).collect();
    let is_chosen = |name: &str| {
        let listed = |names: &[String]| names.iter().any(|it| it == name);
        only.is_empty() || listed(only) || listed(&others)
    };
    Ok(all.into_iter().filter(|competitor| is_chosen(competitor.name())).collect())
}

/// One that passes packets.
#[derive(Debug)]
struct Contestant<'a> {
    name: String,
    competitor: &'a dyn Competitor,
    /// Of its slot.
    index: u8,
    tunnel: Tunnel,
}

/// Those that have no figures in a workload, for it is not for them.
fn exempt<'a>(workload: &Workload, tunnels: &'a [Contestant<'_>]) -> Vec<&'a str> {
    let is_exempt =
        |it: &&Contestant<'_>| workload.alone().is_some() && it.competitor.device("").is_none();
    tunnels.iter().filter(is_exempt).map(|it| it.name.as_str()).collect()
}

/// Starts all of them; those that do not come up remain as entries with the reason.
fn start<'a>(
    chosen: &'a [Box<dyn Competitor>],
    pair: &Pair,
    stop: &Stop,
) -> (Vec<Contestant<'a>>, Vec<Entry>) {
    let end = |host, wire| End { host, wire, underlay: Pair::INTERFACE };
    let ends = [end(&pair.left, Pair::LEFT[0].ip), end(&pair.right, Pair::RIGHT[0].ip)];
    let (mut tunnels, mut entries) = (Vec::new(), Vec::new());
    let starting = Starting::new(chosen.len());
    for (index, competitor) in (0_u8..).zip(chosen) {
        if stop.raised() {
            break;
        }
        let name = competitor.name().to_owned();
        starting.begin(&name);
        match competitors::start(&**competitor, &Slot { ends, index, stop }) {
            Ok(tunnel) => {
                starting.end(&format!("{name}: passes packets"));
                entries.push((name.clone(), Ok(tunnel.how.clone())));
                tunnels.push(Contestant { name, competitor: &**competitor, index, tunnel });
            }
            // No fault of the tunnel's.
            Err(_) if stop.raised() => break,
            Err(error) => {
                starting.end(&format!("{name}: NOT MEASURED: {error:#}"));
                entries.push((name, Err(format!("{error:#}"))));
            }
        }
    }
    (tunnels, entries)
}

fn print(
    args: &Args,
    environment: &Environment,
    (entries, tunnels): (&[Entry], &[Contestant<'_>]),
    session: &Session<'_>,
) -> Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{}\n{}\n", environment.text(), report::legend(entries))?;
    if session.stop.raised() {
        writeln!(out, "INTERRUPTED: what follows is not complete\n")?;
    }
    for workload in &args.workload {
        let exempt = exempt(workload, tunnels);
        let table =
            report::workload(workload, entries, &session.records, &args.contest.baseline, &exempt);
        writeln!(out, "{table}")?;
    }
    if let Some(memory) = report::memory(entries, &session.records) {
        writeln!(out, "{memory}")?;
    }
    writeln!(
        out,
        "Median [min–max] of {} rounds of {} s, interleaved; × {}: median of the ratios within a \
         round.\nGb/s and kpps are payload at the receiver. ~n/m: in n of m runs others (guests \
         of the host, or processes of this machine) took more than 5 % of the CPU time.",
        args.rounds, args.seconds, args.contest.baseline
    )?;
    Ok(())
}

/// Floods of datagrams that a tunnel cuts in two leave halves behind. By default (4 MiB, 30 s)
/// these soon keep every fragment out, and whoever is measured next receives nothing.
fn hold_many_fragments(pair: &Pair) -> Result<()> {
    for host in [&pair.left, &pair.right] {
        for family in ["ipv4.ipfrag", "ipv6.ip6frag"] {
            host.set_sysctl(&format!("net.{family}_high_thresh"), "268435456")?;
            host.set_sysctl(&format!("net.{family}_time"), "1")?;
        }
    }
    Ok(())
}
