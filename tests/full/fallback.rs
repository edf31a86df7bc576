//! On a kernel that has io_uring but no multishot reads (before 6.7): the tun is read by single
//! requests, traffic passes in both encapsulations, and no request ends in a kernel thread.

use std::fs;
use std::process::Command;
use std::time::Duration;

use ringtun::control::status::Status;
use ringtun::lab::Process;
use ringtun::lab::traffic::UdpSequences;
use ringtun_tests::place::binary;
use ringtun_tests::suite::Case;
use ringtun_tests::tunnel::{Family, Io, Side as TunnelSide, Tunnel};

use crate::ends::{Ends, Knows, Side};
use crate::program::Program;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![Case::maybe("fallback::check_says_so", || unless_newer(check))];
    for io in [Io::Uring, Io::Mmsg] {
        let name = format!("fallback::{}::plain", io.name());
        cases.push(Case::maybe(name, move || unless_newer(|| plain(io))));
    }
    for io in ["auto", "mmsg"] {
        let name = format!("fallback::{io}::wireguard");
        cases.push(Case::maybe(name, move || unless_newer(|| wireguard(io))));
    }
    cases
}

/// Runs `test` on the kernels it is about, and says why not elsewhere.
fn unless_newer(test: impl FnOnce()) -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.trim().split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= (6, 7) {
        return Some(format!("the guest's kernel is {}: it has multishot reads", release.trim()));
    }
    test();
    None
}

fn check() {
    let output = Command::new(binary()).args(["check", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let state = |name: &str| {
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["name"] == name);
        finding.unwrap_or_else(|| panic!("no {name}: {report}"))["state"].clone()
    };
    assert_eq!(state("io_uring"), "ok", "{report}");
    assert_eq!(state("multishot_receive"), "ok", "{report}");
    assert_eq!(state("multishot_read"), "slower", "{report}");
}

fn plain(io: Io) {
    let tunnel = Tunnel::new(io, Family::V4, &[]);
    tunnel.assert_passes();
    for family in [Family::V4, Family::V6] {
        tunnel.tcp(TunnelSide::Left, family, 2, 1 << 20);
        tunnel.tcp(TunnelSide::Right, family, 2, 1 << 20);
        let plan = UdpSequences { duration: Duration::from_secs(2), ..UdpSequences::default() };
        let report = tunnel.udp(TunnelSide::Left, family, &plan);
        let flow = &report.flows[0];
        let wrong = flow.reordered + flow.duplicated + flow.corrupted + report.foreign;
        assert!(flow.received > 0 && wrong == 0, "{report:?}");
    }
    assert_backend(&tunnel.left.status(), io == Io::Mmsg);
    for engine in [&tunnel.left, &tunnel.right] {
        assert_no_kernel_threads(&engine.process);
    }
    tunnel.stop();
}

fn wireguard(io: &'static str) {
    let ends = Ends::started(Program::Ringtun, io, Knows::ENDPOINT, Knows::ENDPOINT);
    ends.assert_reaches(Side::Ours);
    ends.assert_carries();
    assert_backend(&ends.status(), io == "mmsg");
    assert_no_kernel_threads(ends.ringtun());
    ends.stop();
}

fn assert_backend(status: &Status, mmsg: bool) {
    let backend = &status.backend;
    let (name, how) = if mmsg { ("mmsg", "read") } else { ("uring", "single-shot") };
    assert_eq!((backend.name.as_str(), backend.tun_read.as_str()), (name, how), "{backend:?}");
    if !mmsg {
        assert!(backend.reason.contains("lacks multishot reads"), "{backend:?}");
    }
}

/// A request that io_uring cannot do without blocking goes to a thread named `iou-wrk-…`.
fn assert_no_kernel_threads(process: &Process) {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let names: Vec<String> = tasks
        .map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default())
        .collect();
    assert!(
        !names.is_empty() && !names.iter().any(|name| name.starts_with("iou-wrk")),
        "{names:?}"
    );
}
