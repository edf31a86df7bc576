//! On what machine, with what, and when: the header of every result.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use ringtun::lab::{Entered, Host, WIRE_MTU};
use serde::Serialize;

use crate::provenance::version;

/// Settings of the kernel that move packets differently. Those of the lab's hosts where the kernel
/// has them for each namespace, and the machine's otherwise.
const SYSCTLS: &[&str] = &[
    "kernel.io_uring_disabled",
    "net.core.busy_poll",
    "net.core.busy_read",
    "net.core.default_qdisc",
    "net.core.netdev_budget",
    "net.core.netdev_max_backlog",
    "net.core.optmem_max",
    "net.core.rmem_default",
    "net.core.rmem_max",
    "net.core.wmem_default",
    "net.core.wmem_max",
    "net.ipv4.ip_forward",
    "net.ipv4.ipfrag_high_thresh",
    "net.ipv4.ipfrag_time",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_mtu_probing",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.udp_mem",
    "net.ipv6.ip6frag_high_thresh",
    "net.ipv6.ip6frag_time",
];
/// What this program was built from, by `build.rs`; `-dirty` with changes not committed.
const COMMIT: &str = env!("RINGTUN_BENCH_COMMIT");
/// [`SYSCTLS`] outside the lab.
static MACHINE: OnceLock<BTreeMap<String, String>> = OnceLock::new();
const GOVERNOR: &str = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// What a result means nothing without.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    /// UTC.
    pub(crate) date: String,
    pub(crate) kernel: String,
    pub(crate) cpu_model: String,
    pub(crate) cpus: usize,
    /// [`COMMIT`].
    pub(crate) commit: String,
    /// Of the wire.
    pub(crate) mtu: u32,
    /// Without privileges over the machine: socket buffers end at net.core.rmem_max.
    pub(crate) user_namespace: bool,
    pub(crate) congestion_control: String,
    pub(crate) rmem_max: String,
    pub(crate) iperf3: String,
    pub(crate) command_line: String,
    /// `performance`, `powersave`, …; unknown where the CPU's clock is not ours to see.
    pub(crate) cpu_governor: String,
    /// Where the kernel has its time from.
    pub(crate) clock_source: String,
    /// Of the last 1, 5 and 15 minutes, before the first run.
    pub(crate) load_average: String,
    /// By name; those that this kernel does not have are left out.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// By interface of the left host, and by name: whether it is on.
    pub(crate) offloads: BTreeMap<String, BTreeMap<String, bool>>,
    /// What the tools say of themselves; those of the tunnels are with the tunnels.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Environment {
    /// Looks around; what cannot be found out is `unknown`.
    pub(crate) fn look(entered: Entered, host: &Host) -> Self {
        let sysctl = |key| host.sysctl(key).unwrap_or_else(|_| unknown());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| unknown());
        Self {
            date: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or_else(|_| unknown(), |since| utc(since.as_secs())),
            kernel: kernel.trim().to_owned(),
            cpu_model: cpu_model(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            commit: COMMIT.to_owned(),
            mtu: WIRE_MTU,
            user_namespace: entered.user_namespace,
            congestion_control: sysctl("net.ipv4.tcp_congestion_control"),
            rmem_max: fs::read_to_string("/proc/sys/net/core/rmem_max")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
            iperf3: first_line("iperf3", &["--version"]).unwrap_or_else(unknown),
            command_line: env::args().collect::<Vec<_>>().join(" "),
            cpu_governor: line_of(GOVERNOR),
            clock_source: line_of(CLOCK),
            load_average: line_of("/proc/loadavg"),
            sysctls: sysctls(host),
            offloads: offloads(host),
            versions: ["iperf3", "wg"]
                .iter()
                .filter_map(|&name| Some((name.to_owned(), version(name)?)))
                .collect(),
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let privileges = if self.user_namespace {
            format!("user namespace (socket buffers end at {} bytes)", self.rmem_max)
        } else {
            "root (socket buffers as asked for)".to_owned()
        };
        let lines = [
            ("date", self.date.clone()),
            ("commit", self.commit.clone()),
            ("kernel", format!("{}, TCP {}", self.kernel, self.congestion_control)),
            ("machine", format!("{} × {}", self.cpus, self.cpu_model)),
            ("wire", format!("veth, MTU {}; {privileges}", self.mtu)),
            ("iperf3", self.iperf3.clone()),
            ("command", self.command_line.clone()),
        ];
        lines.iter().map(|(name, value)| format!("{name:<8} {value}\n")).collect()
    }
}

/// Whether TCP can be told to use it.
///
/// # Errors
/// What there is instead.
pub(crate) fn check_congestion_control(name: &str) -> Result<()> {
    let available = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")
        .context("which congestion controls this machine has cannot be read")?;
    if available.split_whitespace().any(|it| it == name) {
        return Ok(());
    }
    bail!(
        "this machine has no congestion control {name:?}: choose from {}, or load its module \
         (modprobe tcp_{name})",
        available.split_whitespace().collect::<Vec<_>>().join(", ")
    )
}

/// Makes `name` the congestion control of everybody on `host`, from the first packet on. Not so
/// iperf3's option: it changes a connection that exists, and what BBR began with goes on pacing it,
/// by a timer for each 64 kB (net/ipv4/tcp_bbr.c, `sk_pacing_status`).
///
/// # Errors
/// What the kernel has against it.
pub(crate) fn use_congestion_control(host: &Host, name: &str) -> Result<()> {
    let allowed = || fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control");
    host.set_sysctl("net.ipv4.tcp_congestion_control", name).with_context(|| {
        format!(
            "congestion control {name:?} may be used in other namespaces only if the machine \
             allows everybody to: sysctl -w net.ipv4.tcp_allowed_congestion_control=\"{} {name}\"",
            allowed().unwrap_or_default().trim()
        )
    })
}

/// Reads what only the machine's own namespace shows. To be called before the lab is entered;
/// without it, settings that hosts of the lab do not have are left out.
pub(crate) fn remember_machine() {
    let read = |key: &str| fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/"))).ok();
    let found = SYSCTLS.iter().filter_map(|&key| Some((key.to_owned(), read(key)?)));
    // A second call changes nothing.
    let _ = MACHINE.set(found.collect());
}

fn sysctls(host: &Host) -> BTreeMap<String, String> {
    let of_machine = |key: &str| MACHINE.get()?.get(key).cloned();
    let read = |key: &str| {
        let value = host.sysctl(key).ok().or_else(|| of_machine(key))?;
        Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    SYSCTLS.iter().filter_map(|&key| Some((key.to_owned(), read(key)?))).collect()
}

fn offloads(host: &Host) -> BTreeMap<String, BTreeMap<String, bool>> {
    let interfaces = host.interfaces().unwrap_or_default().into_iter().map(|(name, _)| name);
    let of = |name: String| {
        let found = host.offloads(&name).ok()?;
        Some((name, found.into_iter().map(|(offload, on)| (offload.to_owned(), on)).collect()))
    };
    interfaces.filter(|name| name != "lo").filter_map(of).collect()
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn cpu_model(cpuinfo: &str) -> String {
    let value = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    value("model name").or_else(|| value("CPU part")).unwrap_or_else(unknown)
}

/// The first line that a program prints.
pub(crate) fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// Seconds since 1970 as `2026-11-23 23:45 UTC` (days to a date after Howard Hinnant).
fn utc(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (seconds % 86_400 / 3_600, seconds % 3_600 / 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_795_477_552), "2026-11-23 23:45 UTC");
    }

    #[test]
    fn an_unknown_congestion_control_is_told_with_those_that_are_known() {
        check_congestion_control("reno").unwrap();
        let error = check_congestion_control("renno").unwrap_err().to_string();
        assert!(error.contains("\"renno\"") && error.contains("reno,"), "{error}");
    }

    #[test]
    fn the_cpu_has_a_name_on_every_architecture() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n"), "AMD EPYC");
        assert_eq!(cpu_model("CPU implementer\t: 0x41\nCPU part\t: 0xd40\n"), "0xd40");
        assert_eq!(cpu_model("model name without a colon"), "unknown");
        assert_eq!(cpu_model(""), "unknown");
    }
}
