//! Numbers of routing tables that are given by name, as `ip` knows them.
//!
//! In: iproute2's `rt_tables`, of the host and of the distribution. Out: numbers.

use std::fs;
use std::path::{Path, PathBuf};

const FOLDERS: [&str; 2] = ["/etc/iproute2", "/usr/share/iproute2"];
/// Fixed by the kernel (include/uapi/linux/rtnetlink.h, `rt_class_t`).
const FIXED: [(&str, u32); 3] = [("default", 253), ("main", 254), ("local", 255)];

/// The number of the table `name`.
pub(super) fn number(name: &str) -> Option<u32> {
    let fixed = FIXED.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    fixed.or_else(|| {
        FOLDERS.iter().flat_map(|folder| files(Path::new(folder))).find_map(|file| {
            let text = fs::read_to_string(file).ok()?;
            find(&text, name)
        })
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let more = fs::read_dir(folder.join("rt_tables.d")).into_iter().flatten().flatten();
    let more = more.map(|entry| entry.path());
    let more = more.filter(|path| path.extension().is_some_and(|extension| extension == "conf"));
    [folder.join("rt_tables")].into_iter().chain(more).collect()
}

/// Lines are `NUMBER NAME`, the number decimal or hexadecimal.
fn find(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let line = line.split_once('#').map_or(line, |(before, _)| before);
        let mut words = line.split_whitespace();
        let number = words.next()?;
        (words.next() == Some(name)).then_some(())?;
        match number.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => number.parse().ok(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_ip_writes_them() {
        let text =
            "#\n# reserved\n255\tlocal\n0 unspec\n 100 office # not home\n0x65 lab\nx y\n7\n";
        let cases = [("office", Some(100)), ("lab", Some(101)), ("home", None), ("7", None)];
        for (name, number) in cases {
            assert_eq!(find(text, name), number, "{name}");
        }
        assert_eq!(number("main"), Some(254));
        assert_eq!(number("no such table"), None);
    }
}
