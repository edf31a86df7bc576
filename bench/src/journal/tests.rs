//! Journals as recorded, and everything that can be wrong with them.

use proptest::prelude::*;
use serde_json::json;

use super::groups::{Panel, title};
use super::*;
use crate::{hgrm, markdown, page};

const SAMPLE: &str = include_str!("../../samples/sample.ndjson");

fn run(figures: &Value) -> Run {
    let line = json!({ "version": 1, "kind": "run", "competitor": "a", "workload": "ping",
        "figures": figures });
    let mut recorded = Recorded::of(line.to_string().as_bytes());
    recorded.sessions.remove(0).runs.remove(0)
}

#[test]
fn the_sample_is_read_whole() {
    let recorded = Recorded::of(SAMPLE.as_bytes());
    assert_eq!(recorded.skipped, []);
    assert!(recorded.sessions.len() >= 2, "a history needs two commits");
    let runs = SAMPLE.lines().filter(|line| line.contains("\"kind\":\"run\"")).count();
    assert_eq!(recorded.runs().count(), runs);
    assert!(recorded.runs().any(|(_, run)| !run.engines.is_empty()));
    for session in &recorded.sessions {
        for fact in ["kernel", "cpu_model", "commit", "date", "iperf3", "command_line"] {
            assert_ne!(session.fact(fact), "unknown", "{fact}");
        }
        let of = |name: &str| session.environment[name].as_object().unwrap();
        assert!(of("sysctls").contains_key("net.ipv4.tcp_congestion_control"));
        assert!(of("offloads")["eth0"].get("tso").is_some_and(Value::is_boolean));
        let uring = session.tunnels.iter().find(|tunnel| tunnel.name == "uring").unwrap();
        assert_eq!(uring.commands.len(), 2, "a command for each end");
        assert!(uring.versions[0].1.starts_with("ringtun "), "{:?}", uring.versions);
    }
}

#[test]
fn what_is_no_record_is_skipped_and_counted() {
    let mut text = SAMPLE.lines().next().unwrap().as_bytes().to_vec();
    text.extend_from_slice(b"\n\n{\"version\":1,\"kind\":\"ru\n[1,2]\nhello\n\xff\xfe\n");
    text.extend_from_slice(b"{\"version\":2,\"kind\":\"run\"}\n{\"version\":1,\"kind\":\"run\"}\n");
    text.extend_from_slice(b"{\"version\":1,\"kind\":\"later\"}\n{\"kind\":\"run\"}\n");
    let recorded = Recorded::of(&text);
    let lines: Vec<usize> = recorded.skipped.iter().map(|skipped| skipped.line).collect();
    assert_eq!(lines, [3, 4, 5, 6, 7, 8, 9, 10]);
    assert!(recorded.skipped[0].why.starts_with("cut off"), "{:?}", recorded.skipped[0]);
    assert!(recorded.skipped[4].why.contains("version 2"), "{:?}", recorded.skipped[4]);
    assert!(recorded.skipped_text().unwrap().starts_with("8 line(s) skipped (line 3: cut off"));
    assert_eq!(Recorded::of(b"").skipped_text(), None);
}

#[test]
fn runs_find_their_session_by_its_name_or_come_to_the_last() {
    let start = |id: &str, commit: &str| {
        json!({ "version": 1, "kind": "start", "session": id,
            "environment": { "commit": commit } })
        .to_string()
    };
    let run = |id: &str| {
        json!({ "version": 1, "kind": "run", "session": id, "competitor": "a", "workload": "tcp1" })
            .to_string()
    };
    let old = json!({ "version": 1, "kind": "run", "competitor": "b", "workload": "tcp1" });
    let lines = [
        start("x", "one"),
        start("y", "two"),
        run("x"),
        run("y"),
        run("x"),
        old.to_string(),
        run("lost"),
    ];
    let recorded = Recorded::of(lines.join("\n").as_bytes());
    let counts: Vec<(&str, usize)> =
        recorded.sessions.iter().map(|it| (it.fact("commit"), it.runs.len())).collect();
    assert_eq!(counts, [("one", 2), ("two", 2), ("unknown", 1)]);
}

#[test]
fn percentiles_count_to_one_or_to_a_hundred() {
    let named = json!({ "received": 10, "lost": 1, "min_us": 1, "p50_us": 5, "p90_us": 9,
        "p99_us": 10, "max_us": 11 });
    let with = |list: Value| {
        let mut all = named.clone();
        all["percentiles"] = list;
        run(&json!({ "round_trips": all })).figures.unwrap().trips.unwrap()
    };
    let plain = run(&json!({ "round_trips": named })).figures.unwrap();
    assert_eq!((plain.value, plain.metric.less_is_better), (5.0, true));
    let trips = plain.trips.unwrap();
    assert_eq!(trips.at(0.5), Some(5.0));
    assert_eq!((trips.at_exactly(0.999), trips.at(0.999)), (None, Some(11.0)));
    let hundred = with(json!([[25.0, 3.0], [50.0, 5.0], [100.0, 11.0], ["x"], [50.0]]));
    assert_eq!(hundred, with(json!([[0.25, 3.0], [0.5, 5.0], [1.0, 11.0]])));
    assert_eq!(hundred.at(0.25), Some(3.0));
    assert_eq!(hundred.percentiles.iter().filter(|(it, _)| *it == 0.5).count(), 1);
}

#[test]
fn figures_of_all_kinds() {
    let stream = json!({ "bytes": 1_000_000_000_u64, "seconds": 2.0, "retransmits": 3,
        "datagrams": { "sent": 100, "received": 50 } });
    let figures = run(&json!({ "stream": stream })).figures.unwrap();
    assert_eq!((figures.value, figures.stream.unwrap().loss_percent()), (4.0, Some(50.0)));
    let loaded = json!({ "loaded": { "stream": stream,
        "round_trips": { "p50_us": 100, "p99_us": 900, "received": 1 } } });
    let figures = run(&loaded).figures.unwrap();
    assert_eq!((figures.value, figures.stream.is_some()), (900.0, true));
    let later = json!({ "handshakes": { "seconds": 2, "handshakes_per_second": 1234.5 } });
    let figures = run(&later).figures.unwrap();
    assert_eq!((figures.value, figures.metric.unit.as_str()), (1234.5, "handshakes/s"));
    let counted = json!({ "handshakes": { "handshakes_per_second": 500.0, "completed": 1000,
        "unanswered": 2, "p50_us": 60, "p99_us": 90, "percentiles": [[0.5, 60.0], [1.0, 95.0]] } });
    let trips = run(&counted).figures.unwrap().trips.unwrap();
    assert_eq!((trips.received, trips.lost, trips.at(1.0)), (1000.0, 2.0, Some(95.0)));
    let connections = json!({ "connections": { "connections_per_second": 800.0,
        "connections": 1600, "failed": 3, "p50_us": 60, "p99_us": 90 } });
    let figures = run(&connections).figures.unwrap();
    let trips = figures.trips.as_ref().unwrap();
    assert_eq!((figures.value, trips.received, trips.lost), (800.0, 1600.0, 3.0));
    assert!(!figures.metric.less_is_better && trips.at_exactly(0.99) == Some(90.0));
    let idle = run(&json!({ "idle": { "wakeups_per_second": 0.5 } })).figures.unwrap();
    assert_eq!((idle.value, idle.metric.unit.as_str()), (0.5, "wake-ups/s"));
    assert!(idle.metric.less_is_better, "who wakes up often without traffic is not ahead");
    let start_up = json!({ "start_up": { "peers": 10, "socket_seconds": 0.1,
        "configured_seconds": 0.5, "first_packet_seconds": 0.75 } });
    let figures = run(&start_up).figures.unwrap();
    assert_eq!((figures.value, figures.configured_seconds), (0.75, Some(0.5)));
    assert!(figures.metric.less_is_better);
    for broken in [
        json!({}),
        json!(1),
        json!({ "stream": { "bytes": 1, "seconds": 0 } }),
        json!({ "round_trips": [] }),
        json!({ "handshakes": { "completed": 1 } }),
        json!({ "start_up": { "peers": 1 } }),
        json!({ "connections": { "failed": 4 } }),
        json!({ "idle": {} }),
        json!({ "later": { "count": 1 } }),
    ] {
        let run = run(&broken);
        assert_eq!((run.figures, run.error.as_deref()), (None, Some("its figures cannot be read")));
    }
    assert_eq!(run(&Value::Null).figures, None);
}

#[test]
fn only_runs_of_one_commit_and_machine_are_shown_together() {
    let recorded = Recorded::of(SAMPLE.as_bytes());
    let panels = Panel::newest(&recorded);
    assert!(panels.iter().any(|panel| panel.workload == "tcp1"));
    let last = recorded.sessions.last().unwrap().fact("commit");
    for panel in &panels {
        assert_eq!(panel.setting.commit, last);
        assert!(panel.row("uring").unwrap().ours && !panel.row("vxlan").unwrap().ours);
        assert_eq!(panel.baseline(None).unwrap().name, "vxlan");
        assert_eq!(panel.baseline(Some("veth")).unwrap().name, "veth");
        assert_eq!(panel.baseline(Some("nobody")).unwrap().name, "vxlan");
        let commits = Panel::history(&recorded, panel);
        assert_eq!(commits.last().unwrap().setting.commit, last);
    }
}

#[test]
fn what_is_not_for_a_tunnel_is_no_failure() {
    let line = |extra: Value| {
        let mut line = json!({ "version": 1, "session": "x" });
        line.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        line.to_string()
    };
    let cost = json!({ "daemon_cpu_seconds": 2.0, "busy_cpu_seconds": 4.0,
        "daemon_peak_memory_bytes": 30_000_000 });
    let handshakes = json!({ "handshakes": { "handshakes_per_second": 500.0, "completed": 1000,
        "p50_us": 60, "p99_us": 90 } });
    let start_up =
        json!({ "start_up": { "configured_seconds": 0.5, "first_packet_seconds": 0.75 } });
    let run = |workload: &str, figures: &Value| {
        line(json!({ "kind": "run", "competitor": "wg", "workload": workload, "figures": figures,
            "cost": cost }))
    };
    let exempt = |workload: &str| {
        line(json!({ "kind": "exempt", "name": "openvpn", "workload": workload, "why": "no WG" }))
    };
    let lines = [
        line(json!({ "kind": "start", "environment": {} })),
        exempt("handshakes"),
        exempt("peers10"),
        run("handshakes", &handshakes),
        run("peers10", &start_up),
        run("tcp1", &json!({ "stream": { "bytes": 1, "seconds": 1 } })),
    ];
    let recorded = Recorded::of(lines.join("\n").as_bytes());
    assert_eq!(recorded.skipped, []);
    let text = markdown::text(&recorded, None);
    let row = |workload: &str, name: &str| -> Vec<String> {
        let part = text.split("\n**").find(|part| part.contains(&format!("{workload}**"))).unwrap();
        let mut lines = part.lines().filter(|line| line.starts_with(&format!("| {name} ")));
        let line = lines.next().unwrap_or_default();
        line.split('|').map(|cell| cell.trim().to_owned()).filter(|it| !it.is_empty()).collect()
    };
    assert_eq!(row("handshakes", "openvpn"), ["openvpn", "does not apply"]);
    assert_eq!(row("tcp1", "openvpn"), [""; 0]);
    let wg = row("handshakes", "wg");
    assert_eq!(wg[4..], ["1.00", "500", "250", "0"], "{text}");
    let wg = row("peers10", "wg");
    let peak = "30.0 [30.0–30.0]";
    assert_eq!((wg[3].as_str(), wg[5].as_str()), ("0.50 [0.50–0.50]", peak), "{text}");
    let page = page::html(&recorded, None);
    for words in ["does not apply: no WG", "Daemon CPU a handshake", "Peak memory"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("Not everything could be measured"), "{page}");
}

/// Everything that is made of a journal.
fn publish(text: &[u8]) {
    let recorded = Recorded::of(text);
    let html = page::html(&recorded, None);
    assert!(html.ends_with("</html>") && !html.contains("NaN%"), "{html}");
    let _ = markdown::text(&recorded, Some("veth"));
    for (name, _) in hgrm::files(&recorded) {
        assert!(!name.contains('/') && !name.contains(".."), "{name}");
    }
    let _ = recorded.skipped_text();
    crate::compare::all_of(&recorded);
}

/// Replaces the value that a walk by `path` leads to.
fn replace(value: &mut Value, path: &[usize], by: &Value) {
    let Some((first, rest)) = path.split_first() else {
        *value = by.clone();
        return;
    };
    let next = match value {
        Value::Array(items) if !items.is_empty() => {
            let index = first % items.len();
            items.get_mut(index)
        }
        Value::Object(fields) if !fields.is_empty() => {
            let index = first % fields.len();
            fields.iter_mut().nth(index).map(|(_, it)| it)
        }
        _ => None,
    };
    match next {
        Some(next) => replace(next, rest, by),
        None => *value = by.clone(),
    }
}

fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!(1e308)),
        Just(json!(5e-324)),
        Just(json!(0.0)),
        "[\\PC<>&\"|\n]{0,12}".prop_map(Value::from),
        Just(json!("ping+tcp")),
        Just(json!([[1e300, 1e300], [-1, 5], [0.5, 0]])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_value_in_a_line_breaks_a_report(
        changes in prop::collection::vec(
            (any::<usize>(), prop::collection::vec(any::<usize>(), 1..6), anything()), 1..12),
    ) {
        let mut lines: Vec<Value> =
            SAMPLE.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (line, path, value) in &changes {
            let index = line % lines.len();
            replace(&mut lines[index], path, value);
        }
        let text: Vec<String> = lines.iter().map(Value::to_string).collect();
        publish(text.join("\n").as_bytes());
    }

    #[test]
    fn no_bytes_break_a_report(
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..40),
        len in any::<usize>(),
    ) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(len % bytes.len() + 1);
        publish(&bytes);
    }
}

#[test]
fn every_workload_has_a_name_in_words() {
    for (workload, words) in [
        ("tcp1", "One TCP stream"),
        ("tcp4-r", "4 TCP streams, right to left"),
        ("ping+tcp1", "UDP round trips next to one TCP stream"),
        ("udp64", "UDP flood, 64-byte datagrams"),
        ("udp64@500M", "UDP, 64-byte datagrams at 500Mbit/s"),
        ("udp64@max", "UDP, 64-byte datagrams: highest rate with under 0.1 % loss"),
        (
            "imix@max",
            "UDP, datagrams of 16, 548 and 1372 bytes (IMIX): highest rate with under \
            0.1 % loss",
        ),
        ("connect", "Short TCP connections, four at once"),
        ("idle", "Idle: wake-ups without traffic"),
        ("handshakes256", "WireGuard handshakes answered, 256 under way"),
        ("of a later version", "of a later version"),
    ] {
        assert_eq!(title(workload, false), words);
    }
    assert_eq!(title("tcp1", true), "One TCP stream, through a gateway");
}
