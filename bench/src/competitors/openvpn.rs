//! OpenVPN 2.6, point to point over UDP with AES-256-GCM, in userspace.
//!
//! AES-256-GCM needs TLS (a static key cannot do it), so each end makes itself a certificate at
//! run time and pins that of the other by its fingerprint. The files lie in the lab's private /run.
//! `--disable-dco` keeps the data path in the daemon, which is what is compared here; the kernel
//! module `ovpn-dco` is another competitor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::programs::{Program, find};
use super::{Competitor, Slot, Tunnel, private};

const FOLDER: &str = "/run/ringtun-bench-openvpn";

/// OpenVPN with a throwaway certificate on each end.
#[derive(Debug)]
pub(crate) struct OpenVpn;

impl Competitor for OpenVpn {
    fn name(&self) -> &'static str {
        "openvpn"
    }

    fn needs(&self) -> Vec<Program> {
        vec![Program::debian("openvpn", "openvpn"), Program::debian("openssl", "openssl")]
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let version =
            crate::environment::first_line(&find("openvpn")?.to_string_lossy(), &["--version"]);
        let version = version.unwrap_or_default();
        let version = version.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let how = format!("{version}, TLS, AES-256-GCM in userspace (--disable-dco), UDP");
        let mut tunnel = slot.tunnel(how);
        let identities = [Identity::new("left")?, Identity::new("right")?];
        for (here, there) in [(0, 1), (1, 0)] {
            let command = command(slot, here, there, &identities)?;
            tunnel.processes.push(slot.ends[here].host.spawn(command)?);
        }
        Ok(tunnel)
    }
}

fn command(
    slot: &Slot<'_>,
    here: usize,
    there: usize,
    identities: &[Identity; 2],
) -> Result<Command> {
    let (local, remote) = (slot.endpoint(here), slot.endpoint(there));
    let (ip, peer) = (slot.inner(here).ip.to_string(), slot.inner(there).ip.to_string());
    let port = slot.port().to_string();
    let mut command = Command::new(find("openvpn")?);
    command.args(["--dev", &slot.device(here), "--dev-type", "tun", "--proto", "udp"]);
    command.args(["--local", &local.ip().to_string(), "--lport", &port]);
    command.args(["--remote", &remote.ip().to_string(), &port]);
    command.args(["--ifconfig", &ip, &peer, "--disable-dco", "--verb", "3"]);
    command.args(["--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM"]);
    command.arg("--cert").arg(&identities[here].certificate);
    command.arg("--key").arg(&identities[here].key);
    command.args(["--peer-fingerprint", &identities[there].fingerprint]);
    if here == 0 {
        command.args(["--tls-client"]);
    } else {
        command.args(["--tls-server", "--dh", "none"]);
    }
    Ok(command)
}

/// A key, its certificate, and how the other end knows it.
struct Identity {
    key: PathBuf,
    certificate: PathBuf,
    fingerprint: String,
}

impl Identity {
    fn new(name: &str) -> Result<Self> {
        private::folder(Path::new(FOLDER))?;
        let file = |end: &str| Path::new(FOLDER).join(format!("{name}.{end}"));
        let (key, certificate) = (file("key"), file("crt"));
        let mut make = Command::new(find("openssl")?);
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        make.args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")]);
        make.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        output(make)?;
        fs::metadata(&certificate).context("openssl made no certificate")?;
        let mut ask = Command::new(find("openssl")?);
        ask.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&certificate);
        let fingerprint = parse_fingerprint(&output(ask)?).context("openssl gave none")?;
        Ok(Self { key, certificate, fingerprint })
    }
}

fn output(mut command: Command) -> Result<String> {
    let output = command.output().context("cannot start openssl")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("openssl failed: {}", words.lines().last().unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `sha256 Fingerprint=AB:CD…` (the word before varies).
fn parse_fingerprint(text: &str) -> Option<String> {
    let (_, fingerprint) = text.trim().split_once("Fingerprint=")?;
    let bytes: Vec<&str> = fingerprint.split(':').collect();
    let is_byte = |byte: &&str| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok();
    (bytes.len() == 32 && bytes.iter().all(is_byte)).then(|| fingerprint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_sha256_or_nothing() {
        let print = ["A1"; 32].join(":");
        let text = format!("sha256 Fingerprint={print}\n");
        assert_eq!(parse_fingerprint(&text), Some(print));
        for broken in ["", "sha256 Fingerprint=", "sha1 Fingerprint=A1:B2", "unable to load"] {
            assert_eq!(parse_fingerprint(broken), None, "{broken:?}");
        }
        assert_eq!(parse_fingerprint(&text.replace("A1:A1:", "A1:x1:")), None);
    }
}
