//! The tun device: created, sized, addressed and brought up; gone again when dropped.
//!
//! In: a [`Plan`]. Out: a [`TunDevice`] with one non-blocking queue a worker, or a [`HostError`]
//! after which the host is as it was. The device is never persistent, so closing its queues removes
//! it together with its addresses and routes, also when this process is killed.
//!
//! The virtio header is always there, whatever offloads are on: workers know one frame format.
//! What the kernel may hand over is set by the offload mask alone, and always set, also to nothing.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, warn};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::gso_size;
use super::netlink::{Link, LinkChange, Netlink};
use super::plan::{Plan, PlanError};
use super::values::{InterfaceName, Network};
use crate::engine::TunOffloads;
use crate::sys::host as sys;

/// How long a device may take to vanish after its last queue was closed: a ring that had requests
/// on it lets go a moment after the workers have ended.
const GONE_WAIT: Duration = Duration::from_secs(1);
const GONE_POLL: Duration = Duration::from_millis(10);

/// The number of the capability to configure the network.
pub const CAP_NET_ADMIN: u32 = 12;
/// Where the kernel's tun driver is reached.
pub const TUN_NODE: &str = "/dev/net/tun";

/// Why the device could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no driver.
    #[error(
        "{TUN_NODE} cannot be used: {error}. Load the driver (`modprobe tun`); in a container, \
         pass the device in (`--device /dev/net/tun`)"
    )]
    NoDriver {
        /// The kernel's answer.
        error: io::Error,
    },
    /// The name is in use.
    #[error(
        "an interface named {name} already exists and is left alone; choose another name, or \
         remove it with `ip link del {name}` if nobody needs it"
    )]
    NameTaken {
        /// The name.
        name: InterfaceName,
    },
    /// Not allowed.
    #[error(
        "not permitted to {what}: {error}. CAP_NET_ADMIN is needed: run as root, or give the \
         binary the capability (`setcap cap_net_admin+ep`), or try it all without any rights with \
         `ringtun demo`"
    )]
    Forbidden {
        /// The step.
        what: String,
        /// The kernel's answer.
        error: io::Error,
    },
    /// IPv6 addresses without IPv6.
    #[error(
        "{network} cannot be added: IPv6 is disabled on this host; leave the address out or enable \
         it with `sysctl net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0`"
    )]
    NoIpv6 {
        /// The address.
        network: Network,
    },
    /// A descriptor was handed over that is none, or is something else.
    #[error("{variable}={value:?}: {problem}")]
    Inherited {
        /// The environment variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What is wrong, what is wanted, what to do.
        problem: String,
    },
    /// Another step failed.
    #[error("cannot {what}: {error}")]
    Step {
        /// The step, with its value.
        what: String,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The MTU that follows from the path does not suit.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// A tun device of ours, up and addressed. Dropping it removes it.
pub struct TunDevice {
    pub(super) queues: Vec<OwnedFd>,
    pub(super) offloads: TunOffloads,
    pub(super) link: Link,
    /// It was handed over: when it goes is for others to say.
    pub(super) inherited: bool,
}

impl TunDevice {
    /// Creates the device that `plan` describes.
    pub fn create(plan: &Plan) -> Result<Self, HostError> {
        let mut netlink = Netlink::open().map_err(|error| step("open a netlink socket", error))?;
        check_node()?;
        if !is_free(&mut netlink, &plan.name)? {
            return Err(HostError::NameTaken { name: plan.name.clone() });
        }
        let mtu = plan.mtu_for_path(path_mtu(&mut netlink, plan))?;

        let queues = open_queues(plan)?;
        let offloads = set_offloads(&queues, plan.tuning.tun_gso)?;
        let index = find(netlink.link_by_name(plan.name.as_str()), &plan.name)?.index;
        configure(&mut netlink, index, plan, mtu)?;
        let link = find(netlink.link_by_index(index), &plan.name)?;
        Ok(Self { queues, offloads, link, inherited: false })
    }

    /// What the kernel hands over.
    #[must_use]
    pub fn offloads(&self) -> TunOffloads {
        self.offloads
    }

    /// The link as it was after set-up.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// A descriptor of each queue, for the workers.
    pub fn queue_descriptors(&self) -> Result<Vec<OwnedFd>, HostError> {
        self.queues
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<io::Result<_>>()
            .map_err(|error| step("duplicate a tun queue's descriptor", error))
    }

    /// Whether the device was deleted underneath us.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        is_deleted(self.queues[0].as_fd())
    }

    /// Closes the queues and waits until the device has left this namespace.
    pub fn remove(self) {
        let Link { index, name, .. } = self.link;
        drop(self.queues);
        if self.inherited {
            return;
        }
        let Ok(mut netlink) = Netlink::open() else { return };
        let deadline = Instant::now() + GONE_WAIT;
        while let Ok(Some(link)) = netlink.link_by_index(index) {
            // An index is never given out twice in a row; another name is the same device renamed.
            if Instant::now() > deadline {
                warn!(name, now = link.name, "the device is still there a second after closing it");
                return;
            }
            thread::sleep(GONE_POLL);
        }
    }
}

/// Whether no interface has this name, now or in a moment: the device of a process that was killed
/// goes a moment after it.
fn is_free(netlink: &mut Netlink, name: &InterfaceName) -> Result<bool, HostError> {
    let deadline = Instant::now() + GONE_WAIT;
    loop {
        let taken = netlink.link_by_name(name.as_str());
        if taken.map_err(|error| step(format!("look for {name}"), error))?.is_none() {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(GONE_POLL);
    }
}

/// Finds the usual obstacles before anything is taken: no driver, no permission.
pub fn preflight(plan: &Plan) -> Result<(), HostError> {
    check_node()?;
    if has_capability(CAP_NET_ADMIN) {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(libc::EPERM);
    Err(HostError::Forbidden { what: format!("create the tun device {}", plan.name), error })
}

/// Whether this process has a capability, by its number.
#[must_use]
pub fn has_capability(capability: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Without /proc nobody knows; the kernel will say it soon enough.
    mask.is_none_or(|mask| mask >> capability & 1 == 1)
}

/// Whether the device behind a tun descriptor is gone. A device that only moved to another
/// namespace is not: its descriptor still works.
#[must_use]
pub fn is_deleted(queue: std::os::fd::BorrowedFd<'_>) -> bool {
    sys::tun_interface(queue).is_err_and(|error| error.raw_os_error() == Some(libc::EBADFD))
}

/// Whether this namespace forwards packets between interfaces.
#[must_use]
pub fn host_forwards() -> bool {
    ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
        .iter()
        .any(|path| fs::read_to_string(path).is_ok_and(|value| value.trim() != "0"))
}

/// Sets the largest super-packet; some kernels know one limit, newer ones one more for IPv4.
pub fn set_gso_max_size(netlink: &mut Netlink, index: u32, bytes: u32) -> io::Result<()> {
    netlink.change_link(index, &[LinkChange::GsoMaxSize(bytes)])?;
    if let Err(error) = netlink.change_link(index, &[LinkChange::GsoIpv4MaxSize(bytes)]) {
        debug!(%error, "no separate gso_ipv4_max_size: the one limit covers both");
    }
    Ok(())
}

/// tun-rs would make a missing node; a tool that leaves hosts as it found them does not.
fn check_node() -> Result<(), HostError> {
    match OpenOptions::new().read(true).write(true).open(TUN_NODE) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(HostError::Forbidden { what: format!("open {TUN_NODE}"), error })
        }
        Err(error) => Err(HostError::NoDriver { error }),
    }
}

fn path_mtu(netlink: &mut Netlink, plan: &Plan) -> Option<u32> {
    let peer = plan.peer?;
    netlink.path_mtu(peer.ip()).unwrap_or_else(|error| {
        warn!(%peer, %error, "cannot ask for the path's MTU; 1500 bytes are assumed");
        None
    })
}

/// The link, which must be there.
pub(super) fn find(
    link: io::Result<Option<Link>>,
    name: &InterfaceName,
) -> Result<Link, HostError> {
    link.and_then(|link| link.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV)))
        .map_err(|error| step(format!("find {name}"), error))
}

fn open_queues(plan: &Plan) -> Result<Vec<OwnedFd>, HostError> {
    let workers = plan.cpus.len();
    let create = || format!("create the tun device {}", plan.name);
    let first = DeviceBuilder::new()
        .name(plan.name.as_str())
        .layer(Layer::L3)
        .offload(true)
        .multi_queue(workers > 1)
        .enable(false)
        .build_sync()
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EINVAL) => HostError::NameTaken { name: plan.name.clone() },
            // Something else lies at the node's place, as in some containers.
            Some(libc::ENOTTY) => HostError::NoDriver { error },
            _ => step(create(), error),
        })?;
    // A persistent device is somebody's that appeared since the name was looked up.
    let flags = sys::tun_interface(first.as_fd()).map_err(|error| step(create(), error))?.1;
    if flags & sys::TUN_FLAG_PERSIST != 0 {
        return Err(HostError::NameTaken { name: plan.name.clone() });
    }
    let mut queues = vec![first];
    for queue in 1..workers {
        let more = queues[0]
            .try_clone()
            .map_err(|error| step(format!("open queue {queue} of {}", plan.name), error))?;
        queues.push(more);
    }
    for queue in &queues {
        queue.set_nonblocking(true).map_err(|error| {
            step(format!("make the queues of {} non-blocking", plan.name), error)
        })?;
    }
    // Descriptors are all that is needed from here on; a duplicate keeps the queue.
    let descriptor = |queue: &SyncDevice| queue.as_fd().try_clone_to_owned();
    queues
        .iter()
        .map(descriptor)
        .collect::<io::Result<_>>()
        .map_err(|error| step("duplicate a tun queue's descriptor", error))
}

/// Sets the device-wide offload mask last, since opening a queue sets it as well.
pub(super) fn set_offloads(queues: &[OwnedFd], wanted: bool) -> Result<TunOffloads, HostError> {
    let device = queues[0].as_fd();
    let set = |mask| sys::tun_set_offload(device, mask);
    if !wanted {
        set(0).map_err(|error| step("switch the tun device's offloads off", error))?;
        return Ok(TunOffloads { tso: false, uso: false });
    }
    if set(sys::TUN_OFFLOAD_TSO | sys::TUN_OFFLOAD_USO).is_ok() {
        return Ok(TunOffloads { tso: true, uso: true });
    }
    set(sys::TUN_OFFLOAD_TSO).map_err(|error| {
        step("switch the tun device's TCP offload on (--tun-gso off works)", error)
    })?;
    Ok(TunOffloads { tso: true, uso: false })
}

fn configure(netlink: &mut Netlink, index: u32, plan: &Plan, mtu: u32) -> Result<(), HostError> {
    let name = &plan.name;
    let queue_len = plan.tuning.tx_queue_len;
    netlink
        .change_link(index, &[LinkChange::Mtu(mtu)])
        .map_err(|error| step(format!("set the MTU of {name} to {mtu} bytes"), error))?;
    netlink
        .change_link(index, &[LinkChange::TxQueueLen(queue_len)])
        .map_err(|error| step(format!("set txqueuelen of {name} to {queue_len} packets"), error))?;
    let size =
        gso_size::gso_max_size(plan.tuning.gso_size, mtu, plan.encap.overhead(), host_forwards());
    if let Err(error) = set_gso_max_size(netlink, index, size) {
        warn!(%name, size, %error, "gso_max_size not set: more than one send a tun read, slower");
    }
    quieten_ipv6(netlink, index, name);
    for network in &plan.addresses {
        netlink.add_address(index, *network).map_err(|error| address_error(*network, error))?;
    }
    if !plan.up {
        return Ok(());
    }
    netlink
        .change_link(index, &[LinkChange::Up])
        .map_err(|error| step(format!("bring {name} up"), error))
}

/// No router solicitations into the tunnel, and no routes from advertisements out of it: an idle
/// tunnel carries nothing, and the peer does not get to configure this host.
fn quieten_ipv6(netlink: &mut Netlink, index: u32, name: &InterfaceName) {
    if let Err(error) = netlink.change_link(index, &[LinkChange::NoLinkLocal]) {
        debug!(%name, %error, "no link-local mode to set: IPv6 is off");
    }
    let accept_ra = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    if let Err(error) = fs::write(&accept_ra, "0") {
        debug!(%accept_ra, %error, "router advertisements not switched off");
    }
}

fn address_error(network: Network, error: io::Error) -> HostError {
    let no_ipv6 = [libc::EACCES, libc::EOPNOTSUPP, libc::EAFNOSUPPORT];
    match error.raw_os_error() {
        Some(errno) if network.address.is_ipv6() && no_ipv6.contains(&errno) => {
            HostError::NoIpv6 { network }
        }
        _ => step(format!("add the address {network}"), error),
    }
}

pub(super) fn step(what: impl Into<String>, error: io::Error) -> HostError {
    let what = what.into();
    match error.kind() {
        io::ErrorKind::PermissionDenied => HostError::Forbidden { what, error },
        _ => HostError::Step { what, error },
    }
}
