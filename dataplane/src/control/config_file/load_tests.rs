//! Files on disk: permissions, bad text, files that are not there.

use std::env;
use std::fs::Permissions;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Self {
        let dir = env::temp_dir().join(format!("ringtun-config-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn file(&self, content: &[u8], folder_mode: u32, mode: u32) -> PathBuf {
        let path = self.0.join("wg0.conf");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(&self.0, Permissions::from_mode(folder_mode)).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const KEY: &[u8] = b"[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n";

#[test]
fn a_file_open_to_all_is_warned_about() {
    let dir = Dir::new("open");
    for (folder_mode, mode, open) in
        [(0o755, 0o644, true), (0o755, 0o600, false), (0o700, 0o644, false), (0o755, 0o660, false)]
    {
        let path = dir.file(KEY, folder_mode, mode);
        let warnings = load(&path).unwrap().warnings;
        assert_eq!(warnings.len(), usize::from(open), "{folder_mode:o} {mode:o}: {warnings:?}");
        assert!(!open || warnings[0].contains("wg0.conf is world accessible"), "{warnings:?}");
    }
}

#[test]
fn errors_name_the_file() {
    let dir = Dir::new("errors");
    let message = |path: &Path| load(path).unwrap_err().to_string();
    let missing = dir.0.join("none.conf");
    assert!(message(&missing).starts_with(&format!("cannot read {}: ", missing.display())));
    assert!(message(&dir.0).contains("directory"));
    let path = dir.file(b"[Interface]\nMTU = 1\xff\n", 0o700, 0o600);
    assert_eq!(message(&path), format!("{}:2: not UTF-8 text", path.display()));
    let path = dir.file(b"[Interface]\nMTU = 1\n", 0o700, 0o600);
    assert!(message(&path).starts_with(&format!("{}:2: MTU", path.display())));
}

#[test]
fn routing_tables_may_have_names() {
    let dir = Dir::new("tables");
    let path = dir.file(b"[Interface]\nTable = local\n", 0o700, 0o600);
    assert_eq!(load(&path).unwrap().interface.table, Table::Number(255));
}

/// The line that an error names, and the rest.
fn line_and_problem(file: &Path, error: &ConfigError) -> Option<(usize, String)> {
    let text = error.to_string();
    let (line, problem) = text.strip_prefix(&format!("{}:", file.display()))?.split_once(": ")?;
    Some((line.parse().ok()?, problem.to_owned()))
}

proptest! {
    #[test]
    fn any_bytes_are_a_file_or_an_error_that_names_its_line(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        lines in prop::collection::vec(
            "(\\[Interface\\]|\\[Peer\\]|\\[x|#|(PrivateKey|ListenPort|MTU|Table|Address|PublicKey|\
             AllowedIPs|Endpoint|PersistentKeepalive|Nonsense) ?= ?\
             (\\PC{0,40}|[0-9a-f.:/,\\[\\]]{0,30}))",
            0..20,
        ),
    ) {
        let dir = Dir::new("noise");
        let text = lines.join("\n");
        let mixed = [b"[Interface]\n", text.as_bytes(), b"\n", bytes.as_slice()].concat();
        for content in [bytes.as_slice(), text.as_bytes(), &mixed] {
            let path = dir.file(content, 0o700, 0o600);
            let Err(error) = load(&path) else { continue };
            let count = content.split(|byte| *byte == b'\n').count();
            let (line, problem) = line_and_problem(&path, &error)
                .ok_or_else(|| TestCaseError::fail(format!("{error}")))?;
            prop_assert!((1..=count).contains(&line) && problem.len() > 8, "{}", error);
        }
    }
}
