//! Pages of journals, without a browser (`tests/page.rs` has one).

use serde_json::json;

use super::*;

const SAMPLE: &str = include_str!("../../samples/sample.ndjson");

#[test]
fn the_sample_has_every_part_and_asks_for_nothing() {
    let html = html(&Recorded::of(SAMPLE.as_bytes()), None);
    for part in ["workloads", "latency", "batches", "history", "environment"] {
        assert!(html.contains(&format!("<h2 id=\"{part}\">")), "{part}");
    }
    for word in ["<script", "src=", "@import", "url(", "<link", "href=\"http"] {
        assert!(!html.contains(word), "{word}");
    }
    for fact in ["net.core.rmem_max = ", "eth0: ", "tso ", "ringtun up ", "iperf 3."] {
        assert!(html.contains(fact), "{fact}");
    }
}

#[test]
fn what_failed_and_what_is_missing_is_said() {
    let lines = [
        json!({ "version": 1, "kind": "start", "environment": {}, "tunnels": [] }),
        json!({ "version": 1, "kind": "absent", "name": "socat", "why": "apt install socat" }),
        json!({ "version": 1, "kind": "run", "competitor": "uring", "workload": "tcp1",
            "figures": null, "error": "it ended: <b>signal 11</b>", "disturbed": true }),
    ];
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let html = html(&Recorded::of((text.join("\n") + "\nnot a record").as_bytes()), None);
    assert!(html.contains("<li>socat: apt install socat</li>"), "{html}");
    assert!(html.contains("1 of 1 runs failed: it ended: &lt;b&gt;signal 11"), "{html}");
    assert!(html.contains("1 line(s) skipped (line 4: no JSON"), "{html}");
    assert!(html.contains("No run came to a figure."), "{html}");
}

#[test]
fn text_from_a_file_stays_text() {
    let name = "</title><script>alert(1)</script>";
    let line = json!({ "version": 1, "kind": "run", "competitor": name, "workload": name,
        "figures": { "stream": { "bytes": 1, "seconds": 1 } } });
    let html = html(&Recorded::of(line.to_string().as_bytes()), Some(name));
    assert!(!html.contains("<script") && html.contains("&lt;script"), "{html}");
}

#[test]
fn an_empty_journal_is_a_page_as_well() {
    assert!(html(&Recorded::default(), None).contains("no runs"));
}
