//! Runs the cases under callgrind and reads what it counted.
//!
//! Callgrind starts this program once more. It collects only within [`counted`], so that what a
//! case needs before is free, and writes one file a case, at [`case_ends`].

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use ringtun::wire::wireguard::aead::Aead;

use crate::fixtures::{self, Case};

/// The argument by which this program knows that it is to run the cases.
pub(crate) const CHILD: &str = "--run-cases";

/// Runs before the counted ones: what is done once a thread or a session is done then.
const WARM_UP: usize = 2;
const RUNS: usize = 2;

/// The part of callgrind's child: says name and packets of each case.
pub(crate) fn run_cases() {
    for mut case in fixtures::cases(vec![("ring", Aead::Ring)]) {
        for _ in 0..WARM_UP {
            case.prepare();
            case.run();
        }
        for _ in 0..RUNS {
            case.prepare();
            counted(&mut case);
        }
        println!("{} {}", case.name, case.packets * RUNS);
        case_ends();
    }
}

// Neither ends in a call, which would become a jump that callgrind takes for its end.

#[inline(never)]
fn counted(case: &mut Case) {
    case.run();
    black_box(());
}

#[inline(never)]
fn case_ends() {
    black_box(());
}

/// Instructions a packet, by case.
pub(crate) fn count() -> BTreeMap<String, f64> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    // What an earlier run left would be taken for this one's.
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{error}"),
        _ => fs::create_dir_all(&folder).unwrap(),
    }
    let file = folder.join("callgrind");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"])
        .args(["--toggle-collect=*callgrind::counted*", "--dump-before=*callgrind::case_ends*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env::current_exe().unwrap())
        .arg(CHILD)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "valgrind: {}\n{errors}", output.status);
    let cases = String::from_utf8(output.stdout).unwrap();
    let counts = cases.lines().zip(1..).map(|(line, number)| {
        let (name, packets) = line.split_once(' ').unwrap();
        let file = PathBuf::from(format!("{}.{number}", file.display()));
        let profile = fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}\n{errors}", file.display()));
        let count = instructions(&profile);
        assert!(count > 0, "{name}: callgrind collected nothing\n{errors}");
        (name.to_owned(), count as f64 / packets.parse::<f64>().unwrap())
    });
    counts.collect()
}

/// Instructions of all functions in a profile but ring's own.
fn instructions(profile: &str) -> u64 {
    let (mut sum, mut own, mut after_calls) = (0, true, false);
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("fn=") {
            own = !is_ring(function);
        } else if line.starts_with("calls=") {
            after_calls = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            // The line behind a call is what the callee took, which has its own lines.
            if own && !after_calls {
                sum += line.split(' ').nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
            }
            after_calls = false;
        }
    }
    sum
}

fn is_ring(function: &str) -> bool {
    function.contains("ring_core_") || function.trim_start_matches('<').starts_with("ring::")
}
