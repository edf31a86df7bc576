//! Style as a test: import direction, file and function length, where unsafe may live.
//!
//! Reads the tree as text; what it cannot judge (names, comments that say why) is for people.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const TEST_FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;
/// Words that open unsafe code; put together here so that this file does not find itself.
const UNSAFE: [&str; 4] = [
    concat!("unsafe", " {"),
    concat!("unsafe", " impl"),
    concat!("unsafe", " fn"),
    concat!("unsafe", " extern"),
];
const WIDTH_MAX: usize = 100;

/// What each room may import from the crate. Adding a line here is a decision, not a detail.
const IMPORTS: &[(&str, &[&str])] = &[
    ("packet", &[]),
    ("wire", &["packet"]),
    ("sys", &["packet"]),
    ("ring", &["packet"]),
    ("io", &["packet", "ring", "sys"]),
    ("table", &["wire", "packet"]),
    ("protocol", &["table", "wire", "packet"]),
    ("worker", &["io", "table", "wire", "packet"]),
    ("engine", &["worker", "io", "table", "wire", "packet", "sys"]),
    ("control", &["engine", "protocol", "worker", "io", "table", "wire", "packet", "ring", "sys"]),
    ("lab", &["sys"]),
    ("command", &["control", "engine", "protocol", "lab", "worker", "io", "table", "wire", "sys"]),
];

struct Source {
    path: PathBuf,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in
        ["dataplane/src", "dataplane/benches", "dataplane/tests", "bench", "tests", "tuning"]
    {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 30, "found only {} sources: wrong folder?", found.len());
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push(Source { path: path.strip_prefix(root()).unwrap().to_path_buf(), text });
        }
    }
}

impl Source {
    fn room(&self) -> Option<&str> {
        let room = self.path.strip_prefix("dataplane/src").ok()?.components().next()?;
        let room = room.as_os_str().to_str()?;
        (!room.ends_with(".rs")).then_some(room)
    }

    fn is_test(&self) -> bool {
        let name = self.path.file_stem().unwrap().to_string_lossy();
        self.path.starts_with("tests") || name.ends_with("tests")
    }

    /// Lines with comments and string contents taken out, so that words in them do not count.
    fn code(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        self.text.lines().enumerate().map(|(number, line)| {
            let mut code = String::new();
            let mut in_string = false;
            let mut previous = ' ';
            for (i, c) in line.char_indices() {
                if !in_string && line[i..].starts_with("//") {
                    break;
                }
                if c == '"' && previous != '\\' && previous != '\'' {
                    in_string = !in_string;
                }
                if !in_string {
                    code.push(c);
                }
                previous = c;
            }
            (number + 1, code)
        })
    }
}

fn report(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn imports_go_one_way() {
    let mut findings = Vec::new();
    for source in sources() {
        let Some(room) = source.room() else { continue };
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == room) else {
            findings.push(format!("{}: room {room} has no line in IMPORTS", source.path.display()));
            continue;
        };
        for (number, line) in source.code() {
            for rest in line.split("crate::").skip(1) {
                let target: String =
                    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = IMPORTS.iter().any(|(name, _)| *name == target);
                if known && target != room && !allowed.contains(&target.as_str()) {
                    let path = source.path.display();
                    findings.push(format!("{path}:{number}: {room} must not import {target}"));
                }
            }
        }
    }
    report(&findings);
}

#[test]
fn unsafe_lives_in_sys_and_ring_and_says_why() {
    let mut findings = Vec::new();
    for source in sources() {
        let allowed = matches!(source.room(), Some("sys" | "ring"));
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in source.code() {
            let found = UNSAFE.iter().any(|words| line.contains(words));
            if !found {
                continue;
            }
            let path = source.path.display();
            if !allowed {
                findings.push(format!("{path}:{number}: unsafe outside sys/ and ring/"));
            }
            // The comment stands above the statement, which rustfmt may have broken up.
            let above = &lines[number.saturating_sub(8)..number];
            let documented =
                above.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            if !documented {
                findings.push(format!("{path}:{number}: unsafe without a SAFETY comment"));
            }
        }
    }
    report(&findings);
}

#[test]
fn files_functions_and_lines_stay_small() {
    let mut findings = Vec::new();
    for source in sources() {
        let path = source.path.display();
        let max = if source.is_test() { TEST_FILE_LINES_MAX } else { FILE_LINES_MAX };
        let count = source.text.lines().count();
        if count > max {
            findings.push(format!("{path}: {count} lines, {max} at most"));
        }
        for (number, line) in source.text.lines().enumerate() {
            let width = line.chars().count();
            if width > WIDTH_MAX {
                findings.push(format!("{path}:{}: {width} columns", number + 1));
            }
        }
        let mut start: Option<(usize, usize)> = None;
        for (number, line) in source.code() {
            let indent = line.len() - line.trim_start().len();
            let words = line.trim_start();
            let is_fn = words.starts_with("fn ") || words.contains(" fn ");
            match start {
                None if is_fn && !words.ends_with([';', '}']) => start = Some((number, indent)),
                Some((first, at)) if indent == at && words.starts_with('}') => {
                    let len = number - first + 1;
                    if len > FUNCTION_LINES_MAX {
                        findings.push(format!("{path}:{first}: a function of {len} lines"));
                    }
                    start = None;
                }
                _ => {}
            }
        }
    }
    report(&findings);
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let mut findings = Vec::new();
    for source in sources() {
        if !source.text.starts_with("//!") {
            findings.push(format!("{}: no `//!` at the top", source.path.display()));
        }
    }
    report(&findings);
}
