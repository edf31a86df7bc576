//! fastd, in tun mode with the method that its manual recommends, salsa2012+umac.
//!
//! Each end is given a key at run time and pins the public key of the other. An end whose first
//! handshake finds nobody there tries again after some 20 s.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::programs::{Program, find};
use super::{Competitor, Slot, Tunnel, private, set_mtu_when_there};

const FOLDER: &str = "/run/ringtun-bench-fastd";
const METHOD: &str = "salsa2012+umac";
/// Wire MTU less outer IPv4 and UDP headers and fastd's 24 bytes, so that nothing is fragmented.
const MTU: u32 = 1448;

/// fastd on both ends.
#[derive(Debug)]
pub(crate) struct Fastd;

impl Competitor for Fastd {
    fn name(&self) -> &'static str {
        "fastd"
    }

    fn needs(&self) -> Vec<Program> {
        vec![Program::debian("fastd", "fastd")]
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let mut tunnel = slot.tunnel(format!("fastd, tun mode, encrypted by {METHOD} (MTU {MTU})"));
        private::empty_folder(Path::new(FOLDER))?;
        let keys = [Key::new("left")?, Key::new("right")?];
        for (here, there) in [(0, 1), (1, 0)] {
            let (host, device) = (slot.ends[here].host, slot.device(here));
            let path = Path::new(FOLDER).join(format!("{device}.conf"));
            let ends = [slot.endpoint(here), slot.endpoint(there)];
            private::write(&path, &config(&device, ends, &keys[here], &keys[there].public))?;
            let mut command = Command::new(find("fastd")?);
            command.arg("--config").arg(path);
            tunnel.processes.push(host.spawn(command)?);
            let sized = set_mtu_when_there(slot, here, MTU);
            // If it has ended, that is the reason, and its words are better.
            tunnel.check()?;
            sized?;
            host.add_address(&device, slot.inner(here))?;
            host.set_up(&device)?;
        }
        Ok(tunnel)
    }
}

/// What an end is known by.
struct Key {
    secret: String,
    public: String,
}

impl Key {
    fn new(name: &str) -> Result<Self> {
        let secret = ask(&["--generate-key", "--machine-readable"], None)?;
        let path = Path::new(FOLDER).join(format!("{name}.key"));
        private::write(&path, &format!("secret \"{secret}\";\n"))?;
        let public = ask(&["--show-key", "--machine-readable"], Some(&path))?;
        Ok(Self { secret, public })
    }
}

/// The configuration of one end.
fn config(device: &str, [local, remote]: [SocketAddr; 2], own: &Key, peer: &str) -> String {
    let secret = &own.secret;
    format!(
        "mode tun;\ninterface \"{device}\";\nmtu {MTU};\nbind {local};\nmethod \"{METHOD}\";\n\
         secret \"{secret}\";\npeer \"other\" {{\n  key \"{peer}\";\n  remote {remote};\n}}\n"
    )
}

/// A key, printed by fastd.
fn ask(args: &[&str], config: Option<&PathBuf>) -> Result<String> {
    let mut command = Command::new(find("fastd")?);
    command.args(args);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    let output = command.output().context("cannot start fastd")?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || !is_key(&text) {
        bail!("fastd {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(text)
}

fn is_key(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_knows_itself_and_the_other() {
        let own = Key { secret: "5e".repeat(32), public: "b1".repeat(32) };
        let ends = ["192.0.2.1:7000", "192.0.2.2:7001"].map(|it| it.parse().unwrap());
        let text = config("bench0l", ends, &own, &"ee".repeat(32));
        assert_eq!(
            text,
            "mode tun;\ninterface \"bench0l\";\nmtu 1448;\nbind 192.0.2.1:7000;\n\
             method \"salsa2012+umac\";\nsecret \"5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5\
             e5e5e5e5e5e5e5e\";\npeer \"other\" {\n  key \"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\
             eeeeeeeeeeeeeeeeeeeeeeeee\";\n  remote 192.0.2.2:7001;\n}\n"
        );
        assert!(!text.contains(&own.public));
    }

    #[test]
    fn keys_are_64_hexadecimal_digits() {
        assert!(is_key(&"0aF".repeat(21).chars().chain(['1']).collect::<String>()));
        for broken in ["", "error: no key", &"0".repeat(63), &"g".repeat(64)] {
            assert!(!is_key(broken), "{broken:?}");
        }
    }
}
