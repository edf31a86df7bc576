//! The guest: Debian's kernel under QEMU by software emulation, with this binary and ringtun in
//! it. tests/guest/build.sh makes its file system; the guest ends with the tests it was given.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringtun::lab::Host;
use ringtun_tests::place::{binary, find_program};
use ringtun_tests::suite::Case;

use crate::program::Program;

/// What the other end may be in the guest.
pub(crate) const PROGRAMS: [Program; 1] = [Program::Kernel];

/// Set in the guest.
const INSIDE: &str = "RINGTUN_GUEST";
/// How long a boot and its tests may take. One minute is usual, and four with a rekey.
const BOUND: Duration = Duration::from_secs(15 * 60);

/// Whether this process runs in the guest.
pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Whether it is the far end there, and no test.
pub(crate) fn is_serving() -> bool {
    env::var_os(INSIDE).is_some_and(|value| value == "serve")
}

/// One case a boot: the tests in the guest whose names begin so.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = ["kernel", "fallback", "rekey"]
        .into_iter()
        .map(|group| {
            let words = format!("full --color never {group}::");
            Case::maybe(format!("guest::{group}"), move || boot(group, &words, Vec::new()))
        })
        .collect();
    cases.push(Case::maybe("guest::e2e", e2e));
    cases
}

/// The end-to-end tests of single reads, on the kernel they are for. Left out is what fails when
/// both ends and the traffic share a slow machine: how much one read brings, and how much a
/// socket's buffer holds. Transfers are those of the quick suite: emulation is slow enough.
fn e2e() -> Option<String> {
    let missing = missing();
    if missing.is_some() {
        return missing;
    }
    let own = env::current_exe().unwrap();
    let built = fs::read_dir(own.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let newest = built
        .filter(|path| path.extension().is_none())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("e2e-"))
        .max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    let Some(newest) = newest else {
        return Some("e2e is not built: cargo test -p ringtun-tests --no-run".to_owned());
    };
    let program = folder().join("e2e");
    fs::copy(newest, &program).unwrap();
    let skipped = "--skip super_packets_happen --skip garbage_of_strangers";
    boot(
        "e2e",
        &format!("env -u RINGTUN_FULL e2e --color never {skipped} uring_single_shot::"),
        vec![program],
    )
}

/// Where tests/guest/build.sh leaves what it makes.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/guest")
}

pub(crate) fn missing() -> Option<String> {
    for (program, package) in
        [("qemu-system-x86_64", "qemu-system-x86"), ("cpio", "cpio"), ("strip", "binutils")]
    {
        if find_program(program).is_none() {
            return Some(format!("no {program} here (apt install {package})"));
        }
    }
    if cfg!(not(target_arch = "x86_64")) {
        return Some("the guest is an x86-64 one".to_owned());
    }
    let base = folder().join("base.cpio.gz");
    (!base.is_file()).then(|| format!("no {}: bash tests/guest/build.sh", base.display()))
}

fn boot(name: &str, words: &str, programs: Vec<PathBuf>) -> Option<String> {
    let missing = missing();
    if missing.is_some() {
        return missing;
    }
    let console = folder().join(format!("{name}.log"));
    let machine = Machine::new(name, programs);
    let words =
        format!("env {INSIDE}=1 RINGTUN_FULL=1 RINGTUN_BIN=/bin/ringtun RUST_BACKTRACE=1 {words}");
    // A host of the lab, for its processes end with this one, however that ends.
    let host = Host::new("machine").unwrap();
    let mut guest = host.spawn(machine.command(&words, None)).unwrap();
    let ended = guest.wait_timeout(BOUND).unwrap();
    let said = guest.stdout() + &guest.stderr();
    fs::write(&console, &said).unwrap();
    let results = said.lines().filter(|line| {
        ["test ", "test result", "GUEST"].iter().any(|begin| line.starts_with(begin))
    });
    let _ = writeln!(io::stderr(), "\n{}", results.collect::<Vec<_>>().join("\n"));
    let tail = || {
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(150)..].join("\n")
    };
    assert!(ended.is_some(), "the guest did not end within {BOUND:?}:\n{}", tail());
    assert!(said.contains("GUEST exit 0"), "in the guest ({}):\n{}", console.display(), tail());
    let passed = said.contains("test result: ok") && !said.contains(" 0 passed");
    assert!(passed, "no test ran:\n{}", tail());
    None
}

/// A file system with this binary and the one under test, and the kernel to go with it.
pub(crate) struct Machine {
    image: PathBuf,
}

impl Machine {
    /// `more` are copies of what else goes to /bin; they are removed.
    pub(crate) fn new(name: &str, more: Vec<PathBuf>) -> Self {
        let image = folder().join(format!("{name}.cpio.gz"));
        let own = fs::canonicalize(env::current_exe().unwrap()).unwrap();
        let full = folder().join("full");
        fs::copy(own, &full).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/build.sh");
        let mut pack = Command::new("bash");
        pack.arg(script).arg("pack").arg(&image).arg(binary()).arg(&full).args(&more);
        let packed = pack.output().unwrap();
        // They are in the image now.
        more.iter().chain([&full]).for_each(|path| fs::remove_file(path).unwrap());
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
        Self { image }
    }

    /// QEMU, its console on stdout, whose /init runs `words`; `tap` is its network card's other
    /// end, which it makes.
    pub(crate) fn command(&self, words: &str, tap: Option<&str>) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        // Never KVM because its device file exists: software emulation works everywhere.
        command
            .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-vga", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(folder().join("vmlinuz"))
            .arg("-initrd")
            .arg(&self.image)
            .arg("-append")
            // Everything after the two dashes is what /init runs.
            .arg(format!("console=ttyS0 quiet panic=-1 rdinit=/init -- {words}"));
        if let Some(tap) = tap {
            command
                .arg("-netdev")
                .arg(format!("tap,id=wire,ifname={tap},script=no,downscript=no"))
                .args(["-device", "virtio-net-pci,netdev=wire,romfile="]);
        }
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.image);
    }
}
