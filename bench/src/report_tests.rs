//! The tables of made-up records.

use ringtun::lab::traffic::RoundTripReport;
use serde_json::Value;

use super::*;
use crate::alone::StartUpReport;
use crate::iperf3::{Datagrams, Received};
use crate::measure::Cost;

fn record(name: &str, round: usize, bytes: u64) -> Record {
    let datagrams = Some(Datagrams { sent: bytes / 500, received: bytes / 1000 });
    let received = Received { bytes, seconds: 2.0, retransmits: Some(3), datagrams };
    Record {
        competitor: name.to_owned(),
        workload: "udp1000".to_owned(),
        round,
        position: 0,
        figures: Some(Figures::Stream(received)),
        error: None,
        cost: Cost {
            wall_seconds: 2.0,
            daemon_cpu_seconds: 0.5,
            busy_cpu_seconds: 2.0,
            ..Cost::default()
        },
        disturbed: round == 1,
        engines: Vec::new(),
        raw: Value::Null,
    }
}

fn entries(names: &[&str]) -> Vec<Entry> {
    names.iter().map(|&name| (name.to_owned(), Ok(String::new()))).collect()
}

fn row(text: &str, name: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.starts_with(&format!("| {name} "))).unwrap();
    line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn a_row_holds_medians_ratios_and_cost() {
    let records = [
        record("vxlan", 0, 1_000_000_000),
        record("uring", 0, 500_000_000),
        record("vxlan", 1, 100_000_000),
        record("uring", 1, 90_000_000),
        record("vxlan", 2, 1_000_000_000),
        record("uring", 2, 600_000_000),
    ];
    let udp = "udp1000".parse().unwrap();
    let text = workload(&udp, &entries(&["vxlan", "uring"]), &records, "vxlan", &[]);
    let expected = [
        "uring",
        "2.00 [0.36–2.40]",
        "250 [45.0–300]",
        // The median of 0.5, 0.9 and 0.6; that of the medians would be 0.5.
        "0.60",
        "50.0",
        // 9.52 Gbit in 1.5 s.
        "6.35",
        "793",
        "198",
        "~1/3",
    ];
    assert_eq!(row(&text, "uring"), expected);
    assert_eq!(row(&text, "vxlan")[3], "1.00");
}

#[test]
fn round_trips_under_load_are_compared_by_their_tail() {
    let loaded = |name: &str, p99_us: f64| {
        let mut record = record(name, 0, 1_000_000_000);
        record.workload = "ping+tcp1".to_owned();
        let Some(Figures::Stream(stream)) = record.figures.take() else { unreachable!() };
        let round_trips = RoundTripReport { p50_us: 500.0, p99_us, lost: 7, ..Default::default() };
        record.figures = Some(Figures::Loaded { round_trips, stream });
        record
    };
    let records = [loaded("uring", 2000.0), loaded("other", 8000.0)];
    let loaded = "ping+tcp1".parse().unwrap();
    let text = workload(&loaded, &entries(&["uring", "other"]), &records, "other", &[]);
    let cells = row(&text, "uring");
    assert!(cells[1].starts_with("2000"), "{cells:?}");
    assert_eq!((cells[4].as_str(), cells[5].as_str()), ("0.25", "7"));
    assert!(cells[6].starts_with("4.00"), "{cells:?}");
}

#[test]
fn handshakes_are_charged_and_what_is_no_wireguard_is_not_asked() {
    let made = |name: &str, per_second: f64| {
        let mut record = record(name, 0, 0);
        record.workload = "handshakes".to_owned();
        let completed = 1000;
        let report = HandshakeReport {
            completed,
            handshakes_per_second: per_second,
            unanswered: 3,
            ..Default::default()
        };
        record.figures = Some(Figures::Handshakes(report));
        record
    };
    let records = [made("wg-uring", 500.0), made("wireguard-go", 1000.0)];
    let entries = entries(&["vxlan", "wg-uring", "wireguard-go"]);
    let handshakes = "handshakes".parse().unwrap();
    let text = workload(&handshakes, &entries, &records, "vxlan", &["vxlan"]);
    assert!(text.contains("× wireguard-go"), "{text}");
    let ours = row(&text, "wg-uring");
    assert_eq!((ours[1].as_str(), ours[2].as_str()), ("500 [500–500]", "0.50"));
    // 1,000 in 0.5 s of the daemon's, and in 2 s of everybody's.
    assert_eq!((ours[5].as_str(), ours[6].as_str(), ours[8].as_str()), ("2000", "500", "3"));
    assert_eq!(row(&text, "vxlan")[1], "does not apply");
}

#[test]
fn a_start_is_told_with_its_memory() {
    let mut started = record("wg-uring", 0, 0);
    started.workload = "peers10".to_owned();
    let report = StartUpReport {
        peers: 10,
        socket_seconds: 0.1,
        configured_seconds: 0.2,
        first_packet_seconds: 0.25,
    };
    started.figures = Some(Figures::StartUp(report));
    started.cost.daemon_peak_memory_bytes = 25_000_000;
    let peers = "peers10".parse().unwrap();
    let text = workload(&peers, &entries(&["wg-uring"]), &[started], "wg-uring", &[]);
    let cells = row(&text, "wg-uring");
    assert_eq!((cells[1].as_str(), cells[3].as_str()), ("0.25 [0.25–0.25]", "0.20 [0.20–0.20]"));
    assert_eq!(cells[5], "25.0 [25.0–25.0]");
}

#[test]
fn what_failed_or_is_missing_stays_visible() {
    let mut failed = record("uring", 0, 1);
    failed.figures = None;
    failed.error = Some("iperf3: unable to connect".to_owned());
    let mut entries = entries(&["uring"]);
    entries.push(("socat".to_owned(), Err("sudo apt install socat".to_owned())));
    let text = workload(&"udp1000".parse().unwrap(), &entries, &[failed], "vxlan", &[]);
    assert!(text.contains("uring: 1 of 1 runs FAILED: iperf3: unable to connect"), "{text}");
    assert_eq!(row(&text, "uring")[1], "–");
    assert_eq!(row(&text, "socat")[1], "not measured");
    assert!(legend(&entries).contains("NOT MEASURED: sudo apt install socat"));
}

#[test]
fn memory_is_that_of_engines_only() {
    assert_eq!(memory(&entries(&["vxlan"]), &[record("vxlan", 0, 1)]), None);
}
