//! What this machine can do, found by doing it.
//!
//! Out: one [`Finding`] a feature, with what a miss costs and how to remedy it. Kernel versions are
//! never asked: features are back-ported, and sandboxes take them away. Tun devices are tried in a
//! network namespace of a child process, so that the host sees none of it.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tun_rs::{DeviceBuilder, Layer};

use super::host::{CAP_NET_ADMIN, TUN_NODE, has_capability};
use super::plan::Tuning;
use crate::engine::aead::{AeadError, AeadLibrary};
use crate::ring::probe as ring;
use crate::sys::host as sys;
use crate::sys::ipsec_mb::LoadError;

const ANSWER_LEN_MAX: u64 = 4_096;
const LOOPBACK_WAIT: Duration = Duration::from_millis(500);
/// One TCP stream by WireGuard with ring against IPsec-MB (BENCHMARKING.md).
const AEAD_COST: &str =
    "bulk TCP by WireGuard is 4 to 11 % slower and takes 11 to 16 % more CPU time a bit";
/// The hidden subcommand that [`namespace`] starts this program with.
pub const NAMESPACE_COMMAND: &str = "probe-namespace";

/// How a feature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There.
    Ok,
    /// Not there; ringtun works without it, but slower or with limits.
    Slower,
    /// Not there; `ringtun up` cannot work without it.
    Missing,
    /// Could not be found out, or matters only for the demo.
    Note,
}

/// One feature.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Its name in JSON.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found, in words.
    pub found: String,
    /// What the miss costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<&'static str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), cost: None, remedy: None }
    }

    fn miss(
        name: &'static str,
        state: State,
        found: impl Into<String>,
        cost: &'static str,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name, state, found: found.into(), cost: Some(cost), remedy: Some(remedy.into()) }
    }
}

/// What a child found in namespaces of its own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NamespaceAnswer {
    /// Why it could not enter them.
    pub refused: Option<String>,
    /// Why no tun device could be created there.
    pub tun_error: Option<String>,
    /// The device takes USO.
    pub uso: bool,
}

/// Tries everything; takes well under a second.
#[must_use]
pub fn all() -> Vec<Finding> {
    let own = namespace(true);
    let own_works = own.refused.is_none();
    // Root may enter a network namespace even where user namespaces are forbidden.
    let tried = if own_works { own.clone() } else { namespace(false) };
    let mut findings = vec![tun_driver(), net_admin(own_works)];
    findings.extend(io_uring());
    findings.push(tun_offloads(&tried));
    findings.extend(udp_offloads());
    findings.push(aead(AeadLibrary::ipsec_mb()));
    findings.push(socket_buffers());
    findings.push(user_namespaces(&own));
    findings
}

fn tun_driver() -> Finding {
    match OpenOptions::new().read(true).write(true).open(TUN_NODE) {
        Ok(_) => Finding::ok("tun_driver", format!("{TUN_NODE} opens")),
        Err(error) => Finding::miss(
            "tun_driver",
            State::Missing,
            format!("{TUN_NODE}: {error}"),
            "no tunnel device can be created",
            "`modprobe tun`; in a container pass --device /dev/net/tun",
        ),
    }
}

fn net_admin(user_namespaces_work: bool) -> Finding {
    let name = "cap_net_admin";
    if has_capability(CAP_NET_ADMIN) {
        return Finding::ok(name, "this process may configure the network");
    }
    let remedy = "run as root, or `setcap cap_net_admin+ep` on the binary";
    let found = "this process may not configure the network (no CAP_NET_ADMIN)";
    if user_namespaces_work {
        let cost =
            "`ringtun up` works only in a network namespace of your own, as `ringtun demo` does";
        return Finding::miss(name, State::Slower, found, cost, remedy);
    }
    Finding::miss(name, State::Missing, found, "no tunnel device can be created", remedy)
}

fn io_uring() -> Vec<Finding> {
    let features = match ring::uring() {
        Ok(features) => features,
        Err(error) => {
            return vec![Finding::miss(
                "io_uring",
                State::Slower,
                error.to_string(),
                "the mmsg backend is used: about as fast for bulk traffic, up to 15 % slower for \
                 small packets",
                "allow io_uring as said, or accept it (`--io mmsg` silences the warning)",
            )];
        }
    };
    let multishot = |name, works, what: &str, since: &str| {
        if works {
            return Finding::ok(name, format!("one request serves many {what}"));
        }
        Finding::miss(
            name,
            State::Slower,
            format!("every one of the {what} needs a request of its own"),
            "more work a packet when packets are small",
            format!("Linux {since} or later"),
        )
    };
    vec![
        Finding::ok("io_uring", "rings with provided buffers work"),
        multishot("multishot_read", features.multishot_read, "tun reads", "6.7"),
        multishot("multishot_receive", features.multishot_recv, "UDP receives", "6.0"),
    ]
}

fn tun_offloads(tried: &NamespaceAnswer) -> Finding {
    let name = "tun_offloads";
    let unknown = |why: String| Finding {
        name,
        state: State::Note,
        found: format!("not tried: {why}"),
        cost: None,
        remedy: Some("run `ringtun check` as root".to_owned()),
    };
    match tried {
        NamespaceAnswer { refused: Some(why), .. } => unknown(why.clone()),
        NamespaceAnswer { tun_error: Some(error), .. } => Finding::miss(
            name,
            State::Missing,
            format!("no tun device with offloads can be created: {error}"),
            "no tunnel device can be created",
            "see tun_driver; offloads need Linux 2.6.27 or later",
        ),
        NamespaceAnswer { uso: false, .. } => Finding::miss(
            name,
            State::Slower,
            "TCP super-packets (TSO), but no UDP super-packets (USO)",
            "UDP that is sent in bulk (QUIC) enters the tunnel packet by packet",
            "Linux 6.2 or later",
        ),
        NamespaceAnswer { .. } => Finding::ok(name, "TCP and UDP super-packets (TSO, USO)"),
    }
}

/// Sends two segments to ourselves in one call and looks how they arrive.
fn udp_offloads() -> Vec<Finding> {
    let gso_cost = "every packet is sent by a call of its own: several times slower";
    let gro_cost = "every packet is received by itself: two to three times slower";
    let remedy = "Linux 4.18 (UDP_SEGMENT) and 5.0 (UDP_GRO) or later";
    let gso = |segmented: io::Result<()>| match segmented {
        Ok(()) => Finding::ok("udp_gso", "one call sends many packets (UDP_SEGMENT)"),
        Err(error) => Finding::miss(
            "udp_gso",
            State::Slower,
            format!("UDP_SEGMENT does not work: {error}"),
            gso_cost,
            remedy,
        ),
    };
    let gro = |merged: io::Result<bool>| match merged {
        Ok(true) => Finding::ok("udp_gro", "one call receives many packets (UDP_GRO)"),
        Ok(false) => Finding::miss(
            "udp_gro",
            State::Slower,
            "UDP_GRO is accepted but two segments did not arrive as one",
            gro_cost,
            remedy,
        ),
        Err(error) => Finding::miss(
            "udp_gro",
            State::Slower,
            format!("UDP_GRO does not work: {error}"),
            gro_cost,
            remedy,
        ),
    };
    match loopback_pair() {
        Ok((sender, receiver)) => {
            let merging = sys::set_socket_option(receiver.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
            let sent =
                sys::set_socket_option(sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 100)
                    .and_then(|()| sender.send(&[0; 200]).map(drop));
            let mut buffer = [0; 400];
            let received = merging.and_then(|()| receiver.recv(&mut buffer).map(|len| len == 200));
            vec![gso(sent), gro(received)]
        }
        Err(error) => vec![Finding {
            name: "udp_gso",
            state: State::Note,
            found: format!("not tried, no UDP on loopback: {error}"),
            cost: None,
            remedy: Some("`ip link set lo up`".to_owned()),
        }],
    }
}

fn loopback_pair() -> io::Result<(UdpSocket, UdpSocket)> {
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    receiver.set_read_timeout(Some(LOOPBACK_WAIT))?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    sender.connect(receiver.local_addr()?)?;
    Ok((sender, receiver))
}

fn socket_buffers() -> Finding {
    let name = "socket_buffers";
    let wanted = Tuning::default().socket_buffer_bytes;
    let (receive, send) = match granted_buffers(wanted) {
        Ok(granted) => granted,
        Err(error) => {
            return Finding {
                name,
                state: State::Note,
                found: format!("not tried: {error}"),
                cost: None,
                remedy: None,
            };
        }
    };
    let found = format!("{receive} bytes to receive, {send} to send (wanted {wanted})");
    if receive.min(send) >= wanted {
        return Finding::ok(name, found);
    }
    Finding::miss(
        name,
        State::Slower,
        found,
        "bursts overflow the buffers and are lost; up to a quarter less throughput",
        format!(
            "run with CAP_NET_ADMIN, or `sysctl net.core.rmem_max={wanted} \
             net.core.wmem_max={wanted}`"
        ),
    )
}

fn aead(tried: Result<AeadLibrary, AeadError>) -> Finding {
    let name = "aead";
    let error = match tried {
        Ok(library) => return Finding::ok(name, format!("packets are encrypted by {library}")),
        Err(error) => error,
    };
    let found = format!("packets are encrypted by ring: {error}");
    if matches!(error, AeadError::Load(LoadError::Processor)) {
        return Finding::ok(name, found);
    }
    let remedy = match error {
        AeadError::Load(LoadError::Missing(_)) => "`apt install libipsec-mb1`, then start anew",
        _ => "libipsec-mb1 in version 1.3 to 1.5, or accept it (`--aead ring` asks for it)",
    };
    Finding::miss(name, State::Slower, found, AEAD_COST, remedy)
}

fn granted_buffers(wanted: u32) -> io::Result<(u32, u32)> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    Ok(super::sockets::grow_buffers(&socket.into(), wanted))
        .map(|(receive, send)| (clamp(receive), clamp(send)))
}

fn clamp(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn user_namespaces(own: &NamespaceAnswer) -> Finding {
    let name = "user_namespaces";
    let Some(refused) = own.refused.clone() else {
        return Finding::ok(name, "`ringtun demo` needs no rights here");
    };
    Finding::miss(
        name,
        State::Note,
        refused,
        "only for the demo: it cannot run without rights",
        format!("`sudo ringtun demo`{}", user_namespace_remedy()),
    )
}

/// Which of the switches that distributions know is set against user namespaces.
fn user_namespace_remedy() -> String {
    let switches = [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "10000"),
    ];
    let value = |switch: &str| {
        std::fs::read_to_string(format!("/proc/sys/{}", switch.replace('.', "/"))).ok()
    };
    switches
        .iter()
        .filter(|(switch, against, _)| value(switch).is_some_and(|value| value.trim() == *against))
        .map(|(switch, _, allow)| format!(", or `sysctl {switch}={allow}`"))
        .collect()
}

/// Starts this program again to look around in namespaces that vanish with it.
///
/// A process must have a single thread to enter a user namespace, so this one cannot do it itself.
fn namespace(user: bool) -> NamespaceAnswer {
    ask_child(user).unwrap_or_else(|error| NamespaceAnswer {
        refused: Some(format!("a child process could not look: {error}")),
        ..NamespaceAnswer::default()
    })
}

fn ask_child(user: bool) -> io::Result<NamespaceAnswer> {
    let mut child = Command::new("/proc/self/exe")
        .arg(NAMESPACE_COMMAND)
        .args(user.then_some("--user"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_LEN_MAX).read_to_string(&mut answer)?;
    }
    child.wait()?;
    serde_json::from_str(&answer).map_err(io::Error::other)
}

/// What the child does: enters namespaces, tries a tun device. Call it with one thread only.
#[must_use]
pub fn inside_namespace(user: bool) -> NamespaceAnswer {
    let flags = if user {
        libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS
    } else {
        libc::CLONE_NEWNET
    };
    if let Err(error) = sys::unshare(flags) {
        let what = if user { "a user namespace" } else { "a network namespace" };
        return NamespaceAnswer {
            refused: Some(format!("{what} is refused: {error}")),
            ..NamespaceAnswer::default()
        };
    }
    let device = DeviceBuilder::new()
        .name("probe0")
        .layer(Layer::L3)
        .offload(true)
        .multi_queue(true)
        .enable(false)
        .build_sync();
    match device {
        Ok(device) => NamespaceAnswer { uso: device.udp_gso(), ..NamespaceAnswer::default() },
        Err(error) => {
            NamespaceAnswer { tun_error: Some(error.to_string()), ..NamespaceAnswer::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_always_says_what_it_costs_and_what_to_do() {
        let mut findings = vec![tun_driver(), net_admin(true), net_admin(false), socket_buffers()];
        let missing = || LoadError::Version(0x2_0001);
        findings.extend([LoadError::Processor, missing()].map(|error| aead(Err(error.into()))));
        findings.extend(io_uring());
        findings.extend(udp_offloads());
        let refused = NamespaceAnswer { refused: Some("no".to_owned()), ..Default::default() };
        let no_tun = NamespaceAnswer { tun_error: Some("no".to_owned()), ..Default::default() };
        findings.extend([user_namespaces(&refused), tun_offloads(&refused)]);
        findings.extend([tun_offloads(&no_tun), tun_offloads(&NamespaceAnswer::default())]);
        for finding in findings {
            let must_explain = matches!(finding.state, State::Slower | State::Missing);
            assert!(!finding.found.is_empty());
            assert!(!must_explain || finding.cost.is_some(), "{finding:?}");
            assert!(finding.state == State::Ok || finding.remedy.is_some(), "{finding:?}");
        }
    }

    #[test]
    fn loopback_segments_and_merges() {
        let findings = udp_offloads();
        assert!(findings.iter().all(|finding| finding.state == State::Ok), "{findings:?}");
    }
}
