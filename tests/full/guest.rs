//! The guest: Debian's kernel under QEMU by software emulation, with this binary and ringtun in
//! it. tests/guest/build.sh makes its file system; the guest ends with the tests it was given.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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
    ["kernel", "fallback", "rekey"]
        .into_iter()
        .map(|group| Case::maybe(format!("guest::{group}"), move || boot(group)))
        .collect()
}

/// The checkout's `target`: where tests/guest/build.sh leaves what it makes.
fn folder() -> PathBuf {
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

fn boot(group: &str) -> Option<String> {
    let missing = missing();
    if missing.is_some() {
        return missing;
    }
    let console = folder().join(format!("{group}.log"));
    let machine = Machine::new(group, &[]);
    let words = format!(
        "env {INSIDE}=1 RINGTUN_FULL=1 RINGTUN_BIN=/bin/ringtun RUST_BACKTRACE=1 \
         full --color never {group}::"
    );
    let mut command = machine.command(&words, None);
    command.stdin(Stdio::null()).stdout(File::create(&console).unwrap());
    let mut guest = Guest(command.spawn().unwrap());
    let ended = wait(&mut guest);
    let said = fs::read(&console).unwrap();
    let said = String::from_utf8_lossy(&said);
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
    /// `files` go to /bin, too.
    pub(crate) fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let image = folder().join(name);
        let own = fs::canonicalize(env::current_exe().unwrap()).unwrap();
        let full = folder().join("full");
        fs::copy(own, &full).unwrap();
        let mut more = vec![full, binary()];
        for (name, text) in files {
            let path = folder().join(name);
            fs::write(&path, text).unwrap();
            more.push(path);
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/build.sh");
        let mut pack = Command::new("bash");
        pack.arg(script).arg("pack").arg(&image).args(&more);
        let packed = pack.output().unwrap();
        // They are in the image now.
        more.iter().skip(2).for_each(|path| fs::remove_file(path).unwrap());
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

/// Ends with the test, whatever happens.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(guest: &mut Guest) -> Option<ExitStatus> {
    let begin = Instant::now();
    while begin.elapsed() < BOUND {
        if let Some(status) = guest.0.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(100));
    }
    None
}
