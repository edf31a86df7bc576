//! A host: a network namespace with a name, a thread that keeps it, and a way in.
//!
//! The keeper thread lives exactly as long as the [`Host`] and starts all of its processes, which
//! therefore die with it (their parent-death signal is tied to that thread). Settings go through a
//! netlink socket opened inside, from any thread. For looking around by hand, the namespace also
//! appears as `/run/netns/NAME` in the lab's own mount namespace:
//! `sudo nsenter -t PID -m -U --preserve-credentials ip netns exec NAME ip addr`.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::enter::{self, NAMES};
use super::error::LabError;
use super::netlink::{
    Address, InterfaceStatistics, Netlink, VethEnd, Vxlan, parse_statistics as parse_interfaces,
};
use super::process::Process;
use crate::sys::namespace::{self, Namespaces};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace in the lab.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: File,
    /// Where it is mounted for `ip netns`.
    mounted: PathBuf,
    netlink: Mutex<Netlink>,
    /// `None` only while dropping.
    jobs: Option<SyncSender<Job>>,
    keeper: Option<JoinHandle<()>>,
}

impl Host {
    /// Makes a namespace with nothing in it but `lo`, up.
    ///
    /// # Errors
    /// [`LabError::NotEntered`], [`LabError::NameTaken`], or the system call that failed.
    pub fn new(name: &str) -> Result<Self, LabError> {
        enter::require()?;
        let mounted = Path::new(NAMES).join(name);
        File::create_new(&mounted).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => LabError::NameTaken { name: name.to_owned() },
            _ => LabError::System { what: "name the host in the private /run/netns", source },
        })?;
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let (report, made) = mpsc::sync_channel(1);
        let target = mounted.clone();
        let keeper = thread::Builder::new()
            .name(format!("host {name}"))
            .spawn(move || keep(&target, &report, &queue))
            .map_err(LabError::system("start a host's thread"))?;
        let made = made.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
        let (namespace, netlink) =
            made.map_err(LabError::system("make a network namespace")).inspect_err(|_| {
                let _ = fs::remove_file(&mounted);
            })?;
        let host = Self {
            name: name.to_owned(),
            namespace,
            mounted,
            netlink: Mutex::new(netlink),
            jobs: Some(jobs),
            keeper: Some(keeper),
        };
        host.set_up("lo")?;
        Ok(host)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside the namespace; threads and sockets it makes belong there
    /// too. A panic in `work` continues here.
    ///
    /// # Errors
    /// The errno of entering the namespace.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, LabError> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                namespace::enter_network(self.namespace.as_fd())?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
        .map_err(LabError::system("enter a host's namespace"))
    }

    /// Starts a process inside. It is killed when its [`Process`] is dropped, when this host is,
    /// or when this program ends, however that happens.
    ///
    /// # Errors
    /// [`LabError::Spawn`] names the program.
    pub fn spawn(&self, command: Command) -> Result<Process, LabError> {
        let gone = || LabError::System {
            what: "reach the host's thread",
            source: io::ErrorKind::BrokenPipe.into(),
        };
        let (report, started) = mpsc::sync_channel(1);
        let name = self.name.clone();
        let job: Job = Box::new(move || {
            // The receiver waits below; if it could not, dropping the process ends it.
            let _ = report.send(Process::start(command, &name));
        });
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        started.recv().map_err(|_| gone())?
    }

    /// Writes a kernel setting of this namespace: `("net.ipv4.ip_forward", "1")`.
    ///
    /// # Errors
    /// [`LabError::Sysctl`].
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| fs::write(path, value))?.map_err(|source| LabError::Sysctl {
            host: self.name.clone(),
            key: key.to_owned(),
            source,
        })
    }

    /// Reads a kernel setting of this namespace.
    ///
    /// # Errors
    /// [`LabError::Sysctl`].
    pub fn sysctl(&self, key: &str) -> Result<String, LabError> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        let text = self.run(|| fs::read_to_string(path))?.map_err(|source| LabError::Sysctl {
            host: self.name.clone(),
            key: key.to_owned(),
            source,
        })?;
        Ok(text.trim().to_owned())
    }

    /// Adds an address, at once usable (no duplicate address detection).
    ///
    /// # Errors
    /// [`LabError::Network`].
    pub fn add_address(&self, interface: &str, address: Address) -> Result<(), LabError> {
        let what = || format!("add {address} to {interface}");
        self.configure(what, |netlink| netlink.add_address(interface, address))
    }

    /// Adds or replaces a route, by a gateway, an interface, or both.
    ///
    /// # Errors
    /// [`LabError::Network`].
    pub fn set_route(
        &self,
        destination: Address,
        gateway: Option<IpAddr>,
        interface: Option<&str>,
    ) -> Result<(), LabError> {
        let what = || format!("set the route to {destination}");
        self.configure(what, |netlink| netlink.set_route(destination, gateway, interface))
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// [`LabError::Network`].
    pub fn set_up(&self, interface: &str) -> Result<(), LabError> {
        self.configure(|| format!("bring up {interface}"), |netlink| netlink.set_up(interface))
    }

    /// Waits until an interface that is up has its carrier, for routing works only then.
    ///
    /// # Errors
    /// [`LabError::Network`], also when there is none after 3 s.
    pub fn wait_running(&self, interface: &str) -> Result<(), LabError> {
        let deadline = Instant::now() + Duration::from_secs(3);
        let wait = |netlink: &mut Netlink| {
            while !netlink.is_running(interface)? {
                if Instant::now() > deadline {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        self.configure(|| format!("get a carrier on {interface}"), wait)
    }

    /// Takes an interface down.
    ///
    /// # Errors
    /// [`LabError::Network`].
    pub fn set_down(&self, interface: &str) -> Result<(), LabError> {
        self.configure(|| format!("take {interface} down"), |netlink| netlink.set_down(interface))
    }

    /// Sets an interface's MTU, in bytes.
    ///
    /// # Errors
    /// [`LabError::Network`].
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> Result<(), LabError> {
        let what = || format!("set the MTU of {interface} to {mtu}");
        self.configure(what, |netlink| netlink.set_mtu(interface, mtu))
    }

    /// Deletes an interface; of a veth pair both ends go.
    ///
    /// # Errors
    /// [`LabError::Network`].
    pub fn delete_link(&self, interface: &str) -> Result<(), LabError> {
        self.configure(|| format!("delete {interface}"), |netlink| netlink.delete_link(interface))
    }

    /// Moves an interface to another host; it loses its addresses.
    ///
    /// # Errors
    /// [`LabError::Network`].
    pub fn move_link(&self, interface: &str, to: &Self) -> Result<(), LabError> {
        let what = || format!("move {interface} to {}", to.name);
        self.configure(what, |netlink| netlink.move_link(interface, to.namespace()))
    }

    /// Adds a VXLAN device of the kernel's, with `addresses`, and brings it up.
    ///
    /// # Errors
    /// [`LabError::Network`].
    pub fn add_vxlan(&self, vxlan: &Vxlan<'_>, addresses: &[Address]) -> Result<(), LabError> {
        let what = || format!("add the VXLAN device {}", vxlan.interface);
        self.configure(what, |netlink| netlink.add_vxlan(vxlan))?;
        for &address in addresses {
            self.add_address(vxlan.interface, address)?;
        }
        self.set_up(vxlan.interface)
    }

    /// Switches generic receive offload of an interface.
    ///
    /// # Errors
    /// [`LabError::Network`].
    pub fn set_receive_offload(&self, interface: &str, enabled: bool) -> Result<(), LabError> {
        let set = || {
            let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
            namespace::set_receive_offload(socket.as_fd(), interface, enabled)
        };
        self.run(set)?.map_err(|source| LabError::Network {
            host: self.name.clone(),
            what: format!("set generic receive offload of {interface}"),
            source,
        })
    }

    /// Which offloads of an interface are on: `("tso", true)`.
    ///
    /// # Errors
    /// [`LabError::Network`].
    pub fn offloads(&self, interface: &str) -> Result<Vec<(&'static str, bool)>, LabError> {
        let ask = || {
            let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
            namespace::offloads(socket.as_fd(), interface)
        };
        self.run(ask)?.map_err(|source| LabError::Network {
            host: self.name.clone(),
            what: format!("ask for the offloads of {interface}"),
            source,
        })
    }

    /// Its interfaces and what passed them so far.
    ///
    /// # Errors
    /// The errno of reading `/proc`.
    pub fn interfaces(&self) -> Result<Vec<(String, InterfaceStatistics)>, LabError> {
        self.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?
            .map(|table| parse_interfaces(&table))
            .map_err(LabError::system("read /proc/thread-self/net/dev"))
    }

    /// Whether it has an interface of that name.
    ///
    /// # Errors
    /// The errno of reading `/proc`.
    pub fn has_interface(&self, interface: &str) -> Result<bool, LabError> {
        Ok(self.interfaces()?.iter().any(|(name, _)| name == interface))
    }

    /// The namespace itself.
    #[must_use]
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Makes a veth pair with one end here and the other in `to`.
    pub(super) fn add_veth(
        &self,
        interface: &str,
        to: (&Self, &str),
        mtu: u32,
    ) -> Result<(), LabError> {
        let (other, there) = to;
        let end = VethEnd { interface: there, namespace: other.namespace() };
        let what = || format!("join {interface} to {there} of {}", other.name);
        self.configure(what, |netlink| netlink.add_veth(interface, &end, mtu))
    }

    fn configure<R>(
        &self,
        what: impl FnOnce() -> String,
        act: impl FnOnce(&mut Netlink) -> io::Result<R>,
    ) -> Result<R, LabError> {
        // A panic between a request and its answer leaves at worst a stale answer, which the
        // sequence number tells apart.
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut netlink).map_err(|source| LabError::Network {
            host: self.name.clone(),
            what: what(),
            source,
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(keeper) = self.keeper.take() {
            // It panics only if a job did, and then there is nothing left to do for it.
            let _ = keeper.join();
        }
        let _ = namespace::unmount(&self.mounted);
        let _ = fs::remove_file(&self.mounted);
    }
}

/// The keeper thread: makes the namespace, reports it, then runs jobs until the host is dropped.
fn keep(target: &Path, report: &SyncSender<io::Result<(File, Netlink)>>, jobs: &Receiver<Job>) {
    let make = || {
        namespace::unshare(Namespaces { network: true, ..Namespaces::default() })?;
        let source = Path::new("/proc/thread-self/ns/net");
        namespace::bind_mount(source, target)?;
        Ok((File::open(source)?, Netlink::open()?))
    };
    let made = make();
    let failed = made.is_err();
    if report.send(made).is_err() || failed {
        return;
    }
    for job in jobs {
        job();
    }
}
