//! Which commit the program says it was built from. Needs git.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "../build.rs"]
#[allow(dead_code)]
mod build;

/// A tree with all that is built, in no repository of its own.
fn tree(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("commit").join(name);
    let _ = fs::remove_dir_all(&root);
    for folder in ["bench/src", "dataplane/src"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in ["Cargo.toml", "README.md", "bench/build.rs", "bench/src/main.rs"] {
        fs::write(root.join(file), "one\n").unwrap();
    }
    root
}

fn git(root: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(root).args(["-c", "user.name=x", "-c", "user.email=x@example.org"]);
    let output = command.args(args).output().expect("these tests need git: sudo apt install git");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn committed(name: &str) -> (PathBuf, String) {
    let root = tree(name);
    git(&root, &["init", "-q"]);
    git(&root, &["add", "."]);
    git(&root, &["commit", "-q", "-m", "one"]);
    let commit = git(&root, &["rev-parse", "--short=12", "HEAD"]);
    (root, commit)
}

#[test]
fn a_commit_and_whether_it_is_all() {
    let (root, commit) = committed("clean");
    assert_eq!(build::commit_of(&root).as_ref(), Some(&commit));
    fs::write(root.join("README.md"), "not built\n").unwrap();
    assert_eq!(build::commit_of(&root).as_ref(), Some(&commit));
    let dirty = Some(format!("{commit}-dirty"));
    fs::write(root.join("bench/src/main.rs"), "two\n").unwrap();
    assert_eq!(build::commit_of(&root), dirty);
    git(&root, &["checkout", "-q", "--", "bench"]);
    assert_eq!(build::commit_of(&root).as_ref(), Some(&commit));
    fs::write(root.join("dataplane/src/new.rs"), "not committed\n").unwrap();
    assert_eq!(build::commit_of(&root), dirty);
}

#[test]
fn an_archive_has_none_also_inside_of_another_repository() {
    // The folder of this test is inside of one, as a rule.
    assert_eq!(build::commit_of(&tree("archive")), None);
    let (outer, _) = committed("outer");
    let inner = outer.join("unpacked");
    fs::create_dir_all(inner.join("bench")).unwrap();
    fs::write(inner.join("bench/build.rs"), "").unwrap();
    assert_eq!(build::commit_of(&inner), None);
}

#[test]
fn what_changes_it_is_watched() {
    let (root, first) = committed("watched");
    let state = || -> Vec<_> {
        let paths = build::watched(&root).into_iter().filter(|path| path.is_file());
        paths.map(|path| (fs::read(&path).unwrap(), path)).collect()
    };
    let before = state();
    git(&root, &["commit", "-q", "--allow-empty", "-m", "two"]);
    assert_ne!(build::commit_of(&root), Some(first));
    assert_ne!(state(), before, "a commit changes nothing that is watched");
    let before = state();
    git(&root, &["checkout", "-q", "--detach", "HEAD~1"]);
    assert_ne!(state(), before, "a checkout changes nothing that is watched");
}

#[test]
fn the_program_says_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringtun-bench")).arg("--version").output();
    let version = String::from_utf8(output.unwrap().stdout).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let given =
        option_env!("RINGTUN_COMMIT").filter(|commit| !commit.is_empty()).map(str::to_owned);
    let expected = given.or_else(|| build::commit_of(root)).unwrap_or("unknown".to_owned());
    let all = format!("ringtun-bench {} ({expected})\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(version, all);
}
