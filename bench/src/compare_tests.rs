//! Verdicts on made-up rounds.

use serde_json::json;

use super::*;

/// Runs of one benchmark: a commit, and for each competitor its Gb/s round by round.
fn benchmark(commit: &str, competitors: &[(&str, &[f64])]) -> String {
    let mut lines = vec![json!({ "version": 1, "kind": "start", "session": commit,
        "environment": { "commit": commit, "command_line": "ringtun-bench ab" } })];
    for (name, values) in competitors {
        for (round, gbit) in values.iter().enumerate() {
            lines.push(json!({ "version": 1, "kind": "run", "session": commit, "competitor": name,
                "workload": "tcp1", "round": round, "figures": { "stream":
                { "bytes": gbit * 1.25e8, "seconds": 1.0 } } }));
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn verdict(text: &str, a: &str, b: &str) -> String {
    let recorded = Recorded::of(text.as_bytes());
    let sides = [a, b].map(|side| Side::parse(side, &recorded));
    let found = comparisons(&recorded, &sides[0], &sides[1], None);
    assert_eq!(found.len(), 1, "{text}");
    found[0].verdict(a, b)
}

#[test]
fn pairs_of_one_run_are_judged_by_their_ratios() {
    // The machine slows down by half on the way; the ratio does not notice.
    let slow = [10.0, 9.0, 8.0, 7.0, 6.0, 5.0];
    let fast = slow.map(|it| it * 1.2);
    let text = benchmark("one", &[("a", &slow), ("b", &fast)]);
    assert_eq!(verdict(&text, "a", "b"), "b is faster: 1.20 × [1.20–1.20]");
    assert!(verdict(&text, "b", "a").starts_with("a is slower: 0.83 ×"));
    let mixed = [11.0, 8.0, 9.0, 6.0, 7.0, 4.0];
    let text = benchmark("one", &[("a", &slow), ("b", &mixed)]);
    assert!(verdict(&text, "a", "b").starts_with("cannot be told apart: "));
}

#[test]
fn few_rounds_decide_nothing_however_clear_they_look() {
    let text = benchmark("one", &[("a", &[1.0; 5]), ("b", &[9.0; 5])]);
    let verdict = verdict(&text, "a", "b");
    assert!(verdict.starts_with("not decided: 5 round(s) say nothing for sure, 6 at least"));
}

#[test]
fn commits_are_judged_in_relation_to_what_both_have() {
    let before = [("veth", &[20.0, 21.0, 19.0, 20.0][..]), ("uring", &[10.0, 10.5, 9.5, 10.0])];
    // The machine is half as fast, ringtun in relation to it 1.5 times as fast.
    let after = [("veth", &[10.0, 10.5, 9.5, 10.0][..]), ("uring", &[7.5, 7.9, 7.1, 7.5])];
    let text = benchmark("aaaa", &before) + &benchmark("bbbb", &after);
    assert!(verdict(&text, "uring@aaaa", "uring@bb").starts_with("uring@bb is faster: 1.50 ×"));
    let alone = benchmark("aaaa", &before[1..]) + &benchmark("bbbb", &after[1..]);
    let words = verdict(&alone, "uring@aaaa", "uring@bbbb");
    assert!(words.starts_with("not decided: 0.75 ×, but in different runs"), "{words}");
    let equal = benchmark("aaaa", &before) + &benchmark("bbbb", &before);
    let words = verdict(&equal, "uring@aaaa", "uring@bbbb");
    assert!(words.starts_with("cannot be told apart: 1.00 ×"), "{words}");
}

#[test]
fn for_round_trips_less_is_faster() {
    let lines = |name: &str, us: f64| -> String {
        let line = |round| {
            json!({ "version": 1, "kind": "run", "competitor": name, "round": round,
            "workload": "ping", "figures": { "round_trips": { "p50_us": us, "received": 1 } } })
        };
        (0..6).map(|round| format!("{}\n", line(round))).collect()
    };
    let text = lines("a", 100.0) + &lines("b", 80.0);
    assert_eq!(verdict(&text, "a", "b"), "b is faster: 0.80 × [0.80–0.80]");
    assert_eq!(verdict(&text, "b", "a"), "a is slower: 1.25 × [1.25–1.25]");
}

#[test]
fn a_disturbed_machine_and_failed_runs_are_said() {
    let text = benchmark("one", &[("a", &[1.0; 6]), ("b", &[2.0; 6])])
        .replace("\"kind\":\"run\"", "\"kind\":\"run\",\"disturbed\":true");
    assert!(verdict(&text, "a", "b").contains("others disturbed 12 of 12 runs"));
    let text = text.replace("\"stream\"", "\"nothing\"");
    assert!(verdict(&text, "a", "b").starts_with("nothing to compare"));
}

#[test]
fn names_may_hold_an_at_sign() {
    let text = benchmark("one", &[("a@b", &[1.0])]);
    let recorded = Recorded::of(text.as_bytes());
    let side = Side::parse("a@b", &recorded);
    assert_eq!((side.name.as_str(), side.commit), ("a@b", None));
    let side = Side::parse("a@b@one", &recorded);
    assert_eq!((side.name.as_str(), side.commit.as_deref()), ("a@b", Some("one")));
    assert_eq!(names(&recorded), "a@b@one");
}
