//! Files with secrets: in the lab's private /run, and for their owner's eyes only.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};

/// Makes a folder that nobody else can look into, and those above it, empty.
///
/// # Errors
/// What the kernel said.
pub(crate) fn empty_folder(path: &Path) -> Result<()> {
    // What cannot be removed is in the way of creating it, or was not there.
    let _ = fs::remove_dir_all(path);
    folder(path)
}

/// Makes a folder that nobody else can look into, and those above it.
///
/// # Errors
/// What the kernel said.
pub(crate) fn folder(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot create {}", path.display()))
}

/// Writes a file that nobody else can read.
///
/// # Errors
/// What the kernel said.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nobody_else_can_read_them() {
        let root = std::env::temp_dir().join(format!("ringtun-bench-{}", std::process::id()));
        let path = root.join("inner");
        folder(&path).unwrap();
        folder(&path).unwrap();
        let file = path.join("key");
        write(&file, "a longer secret").unwrap();
        write(&file, "secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let seen = (mode(&path), mode(&file), fs::read_to_string(&file).unwrap());
        empty_folder(&path).unwrap();
        let left = file.exists();
        fs::remove_dir_all(&root).unwrap();
        assert!(!left);
        assert_eq!(seen, (0o700, 0o600, "secret".to_owned()));
    }
}
