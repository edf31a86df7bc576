//! Nebula with its defaults: AES-256-GCM, MTU 1300, every packet through its firewall (which lets
//! all of them pass here). A certificate authority for the one run signs both ends.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::programs::{Program, find};
use super::{Competitor, Slot, Tunnel, private};

const FOLDER: &str = "/run/ringtun-bench-nebula";
const ENDS: [&str; 2] = ["left", "right"];

/// nebula on both ends.
#[derive(Debug)]
pub(crate) struct Nebula;

impl Competitor for Nebula {
    fn name(&self) -> &'static str {
        "nebula"
    }

    fn needs(&self) -> Vec<Program> {
        vec![Program::debian("nebula", "nebula"), Program::debian("nebula-cert", "nebula")]
    }

    fn start(&self, slot: &Slot<'_>) -> Result<Tunnel> {
        let how = "nebula, encrypted by its defaults (AES-256-GCM, MTU 1300)";
        let mut tunnel = slot.tunnel(how.to_owned());
        let folder = Path::new(FOLDER);
        private::empty_folder(folder)?;
        make(&["ca", "-name", "ringtun-bench", "-duration", "48h"])?;
        for (here, there) in [(0, 1), (1, 0)] {
            let name = ENDS[here];
            make(&["sign", "-name", name, "-ip", &slot.inner(here).to_string()])?;
            let path = folder.join(format!("{name}.yml"));
            let far = (slot.inner(there).ip, slot.endpoint(there));
            private::write(&path, &config(name, &slot.device(here), slot.endpoint(here), far))?;
            let mut command = Command::new(find("nebula")?);
            command.arg("-config").arg(path);
            tunnel.processes.push(slot.ends[here].host.spawn(command)?);
        }
        Ok(tunnel)
    }
}

/// Keys and certificates, written to the folder with rights for their owner only.
fn make(args: &[&str]) -> Result<()> {
    let mut command = Command::new(find("nebula-cert")?);
    let output = command.args(args).current_dir(FOLDER).output();
    let output = output.context("cannot start nebula-cert")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("nebula-cert {}: {}", args[0], words.lines().last().unwrap_or_default());
    }
    Ok(())
}

/// The configuration of one end. YAML takes JSON's notation, which cannot be indented wrongly.
fn config(name: &str, device: &str, local: SocketAddr, far: (IpAddr, SocketAddr)) -> String {
    let (inner, remote) = far;
    let (ip, port) = (local.ip(), local.port());
    let any = "[{port: any, proto: any, host: any}]";
    format!(
        "pki: {{ca: {FOLDER}/ca.crt, cert: {FOLDER}/{name}.crt, key: {FOLDER}/{name}.key}}\n\
         static_host_map: {{\"{inner}\": [\"{remote}\"]}}\n\
         lighthouse: {{am_lighthouse: false, hosts: []}}\n\
         listen: {{host: \"{ip}\", port: {port}}}\n\
         tun: {{dev: {device}}}\n\
         firewall: {{outbound: {any}, inbound: {any}}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_knows_where_the_other_is() {
        let far = ("10.100.7.2".parse().unwrap(), "192.0.2.2:7001".parse().unwrap());
        let text = config("left", "bench7l", "192.0.2.1:7000".parse().unwrap(), far);
        for line in [
            "pki: {ca: /run/ringtun-bench-nebula/ca.crt, cert: /run/ringtun-bench-nebula/left.crt, \
             key: /run/ringtun-bench-nebula/left.key}",
            "static_host_map: {\"10.100.7.2\": [\"192.0.2.2:7001\"]}",
            "listen: {host: \"192.0.2.1\", port: 7000}",
            "tun: {dev: bench7l}",
            "firewall: {outbound: [{port: any, proto: any, host: any}], inbound: [{port: any, \
             proto: any, host: any}]}",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\nis not in\n{text}");
        }
    }
}
