//! Configures a device by a file, as `wg-quick up` does, and undoes it.
//!
//! In: a [`ConfigFile`]. Done in order: PreUp, keys and peers, addresses, link up, DNS, routes
//! and, for a default route, rules and firewall, PostUp. Undone in reverse, also after a failure in
//! the middle: PreDown, SaveConfig (not after a failure), DNS, firewall, rules and routes,
//! PostDown. The device itself goes with its process, and its addresses and own routes with it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{after, bounded};
use tracing::{info, warn};

use super::config_file::{ConfigFile, EndpointName, Interface, Table};
use super::device::DeviceHandle;
use super::dns::Dns;
use super::endpoints::{self, LOOKUP_GAP, Names};
use super::find_endpoint::{NotFound, Retries, find};
use super::firewall::Firewall;
use super::host::TunDevice;
use super::netlink::{LinkChange, Netlink};
use super::netlink_routes::{Route, Rule, TABLE_MAIN};
use super::run::Ended;
use super::run_wireguard::{Configure, Ends, NotConfigured};
use super::save_config;
use super::tools::ToolError;
use super::uapi::Device;
use crate::sys::resolver::LookupError;
use crate::table::allowed_ips::Prefix;

/// The mark and table of a default route, unless the file names a mark: wg-quick's first choice.
const DEFAULT_MARK: u32 = 51820;
/// Rules of processes that were killed, taken away at most.
const RULES_LEFT_MAX: usize = 16;
const VALID_MARK: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

/// Why a device could not be configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// An endpoint's name.
    #[error(
        "cannot find the endpoint {endpoint}: {error}; is the name right, and is there a resolver?"
    )]
    Endpoint {
        /// As in the file.
        endpoint: String,
        /// The resolver's last answer.
        error: LookupError,
    },
    /// A hook.
    #[error("the command `{command}` failed ({status}); the device is taken down again")]
    Hook {
        /// The command.
        command: String,
        /// Its exit status, or why it did not start.
        status: String,
    },
    /// A program of the host.
    #[error("{0}; the device is taken down again")]
    Tool(ToolError),
    /// Keys, peers or port.
    #[error("the configuration was refused: {0} (the log says what)")]
    Refused(std::io::Error),
    /// The kernel.
    #[error("cannot {what}: {error}")]
    Host {
        /// The step.
        what: String,
        /// The kernel's answer.
        error: std::io::Error,
    },
}

impl From<ConfigureError> for NotConfigured {
    fn from(error: ConfigureError) -> Self {
        Self::Failed(error.into())
    }
}

/// What has been done so far; undone when dropped.
pub struct Configured {
    interface: String,
    file: Interface,
    netlink: Netlink,
    routes: Vec<Route>,
    rules: Vec<Rule>,
    /// What `src_valid_mark` was before.
    valid_mark: Option<String>,
    firewalls: Vec<Firewall>,
    dns: Option<Dns>,
    /// The file to save to and the device to ask, once all is done.
    save: Option<(PathBuf, DeviceHandle)>,
}

impl Configure for ConfigFile {
    type Undo = Configured;

    fn configure(
        self,
        device: &DeviceHandle,
        tun: &TunDevice,
        ends: &Ends,
    ) -> Result<Configured, NotConfigured> {
        let link = tun.link();
        let netlink = Netlink::open().map_err(host("open a netlink socket"))?;
        let names = self.peers.iter().map(|peer| peer.endpoint.as_ref());
        let resolved = names.map(|name| name.map(|name| resolve(name, self.retries, ends)));
        let found = resolved.map(Option::transpose).collect::<Result<Vec<_>, _>>()?;
        let mut update = self.device_update(&found);
        let mut names = Names::default();
        for (peer, found) in self.peers.iter().zip(found) {
            if let (Some(name), Some(found)) = (&peer.endpoint, found) {
                names.add(peer.public_key, name, found);
            }
        }
        self.warnings.iter().for_each(|warning| warn!("{warning}"));
        let mut done = Configured {
            interface: link.name.clone(),
            file: self.interface,
            netlink,
            routes: Vec::new(),
            rules: Vec::new(),
            valid_mark: None,
            firewalls: Vec::new(),
            dns: None,
            save: None,
        };
        run_hooks(&done.file.pre_up, &link.name)?;
        let prefixes: Vec<Prefix> =
            self.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied()).collect();
        let table = done.file.table;
        let by_policy = table == Table::Auto && prefixes.iter().any(Prefix::is_default);
        let mark = match done.file.fwmark {
            Some(mark) if mark != 0 => mark,
            _ if by_policy => DEFAULT_MARK,
            _ => 0,
        };
        update.fwmark = Some(mark);
        let addresses = done.file.addresses.clone();
        let refused = |errno| ConfigureError::Refused(std::io::Error::from_raw_os_error(errno));
        device.set(update).map_err(refused)?;
        names
            .follow(device.unanswered(), device.clone(), endpoints::look_up, LOOKUP_GAP)
            .map_err(host("start the thread that follows endpoint names"))?;
        for network in addresses {
            done.netlink
                .add_address(link.index, network)
                .map_err(host(format!("add the address {network}")))?;
        }
        done.netlink
            .change_link(link.index, &[LinkChange::Up])
            .map_err(host(format!("bring {} up", link.name)))?;
        done.dns = Dns::set(&link.name, &done.file.dns).map_err(ConfigureError::Tool)?;
        done.add_routes(prefixes, link.index, table, mark)?;
        run_hooks(&done.file.post_up, &link.name)?;
        done.save = done.file.save_config.then(|| (self.path, device.clone()));
        Ok(done)
    }
}

impl Configured {
    fn add_routes(
        &mut self,
        mut prefixes: Vec<Prefix>,
        index: u32,
        table: Table,
        mark: u32,
    ) -> Result<(), ConfigureError> {
        // The longest first, as wg-quick: a default route does not cut off the rest half way.
        prefixes.sort_by_key(|prefix| (std::cmp::Reverse(prefix.len()), *prefix));
        prefixes.dedup();
        for prefix in prefixes {
            let (number, by_policy) = match table {
                Table::Off => return Ok(()),
                Table::Number(number) => (number, false),
                Table::Auto if prefix.is_default() => (mark, true),
                Table::Auto => (TABLE_MAIN, false),
            };
            let route = Route { prefix, index, table: number };
            let added = match self.netlink.add_route(route) {
                Ok(()) => true,
                // The address's own route, or one that somebody wanted so.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
                Err(error) => return Err(host(format!("add the route {prefix}"))(error)),
            };
            self.routes.extend(added.then_some(route));
            if by_policy {
                self.add_policy(mark, prefix.address().is_ipv6(), added)?;
            }
        }
        Ok(())
    }

    /// Everything but our own datagrams takes the tunnel, unless the main table knows better.
    /// `unused` if the table had no default route before: a rule that is there already led nowhere,
    /// so it is of a process that was killed, and is replaced.
    fn add_policy(&mut self, mark: u32, ipv6: bool, unused: bool) -> Result<(), ConfigureError> {
        let rules =
            [Rule::NotMarked { mark, table: mark, ipv6 }, Rule::MainWithoutDefault { ipv6 }];
        // The kernel adds the same rule again and again, each with a priority of its own.
        let stale = |netlink: &mut Netlink| netlink.remove_rule(rules[0]).is_ok();
        for _ in 0..RULES_LEFT_MAX {
            if !unused || !stale(&mut self.netlink) {
                break;
            }
            let _ = self.netlink.remove_rule(rules[1]);
        }
        for rule in rules {
            match self.netlink.add_rule(rule) {
                Ok(()) => self.rules.push(rule),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(host("add a routing rule")(error)),
            }
        }
        let addresses: Vec<_> = self.file.addresses.iter().map(|one| one.address).collect();
        let firewall = Firewall::install(&self.interface, &addresses, mark, ipv6);
        self.firewalls.extend(firewall.map_err(ConfigureError::Tool)?);
        // Answers to marked datagrams pass the reverse path filter only with this.
        if !ipv6
            && let Ok(before) = fs::read_to_string(VALID_MARK)
            && before.trim() != "1"
            && fs::write(VALID_MARK, "1").is_ok()
        {
            self.valid_mark = Some(before);
        }
        Ok(())
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        let warn_of = |result: Result<(), ConfigureError>| {
            if let Err(error) = result {
                warn!("{error}");
            }
        };
        warn_of(run_hooks(&self.file.pre_down, &self.interface));
        if let Some((path, device)) = self.save.take() {
            let status = device.get().map_err(std::io::Error::from_raw_os_error);
            let saved = status.and_then(|status| save_config::save(&path, &self.file, &status));
            warn_of(saved.map_err(host(format!("save the configuration to {}", path.display()))));
        }
        drop(self.dns.take());
        self.firewalls.clear();
        for rule in self.rules.drain(..).rev() {
            if let Err(error) = self.netlink.remove_rule(rule) {
                warn!(?rule, %error, "a routing rule is left behind");
            }
        }
        for route in self.routes.drain(..).rev() {
            // Gone with the device if somebody deleted that.
            let _ = self.netlink.remove_route(route);
        }
        if let Some(before) = self.valid_mark.take() {
            let _ = fs::write(VALID_MARK, before);
        }
        warn_of(run_hooks(&self.file.post_down, &self.interface));
    }
}

fn run_hooks(commands: &[String], interface: &str) -> Result<(), ConfigureError> {
    for command in commands {
        let command = command.replace("%i", interface);
        info!("[#] {command}");
        let failed = |status: String| ConfigureError::Hook { command: command.clone(), status };
        let run = |shell: &str| Command::new(shell).arg("-c").arg(&command).status();
        let status = run("bash").or_else(|_| run("sh"));
        let status = status.map_err(|error| failed(error.to_string()))?;
        if !status.success() {
            return Err(failed(status.to_string()));
        }
    }
    Ok(())
}

/// The first address of a name, with the patience that `retries` asks for.
fn resolve(
    endpoint: &EndpointName,
    retries: Retries,
    ends: &Ends,
) -> Result<SocketAddr, NotConfigured> {
    let pause = |wait: Duration| ends.wait_for(&after(wait)).map(drop);
    let found = find(endpoint, retries, |name| look_up(name, ends), pause);
    let found = found.and_then(|found| found.first().copied().ok_or_else(|| nothing().into()));
    found.map_err(|error| match error {
        NotFound::Interrupted(ended) => NotConfigured::Ended(ended),
        NotFound::Error(error) => {
            ConfigureError::Endpoint { endpoint: endpoint.to_string(), error }.into()
        }
    })
}

fn nothing() -> LookupError {
    LookupError { permanent: false, reason: "the resolver did not answer".to_owned() }
}

/// On a thread of its own, for which nobody waits when the device is to end: a resolver may take
/// tens of seconds.
fn look_up(
    name: &EndpointName,
    ends: &Ends,
) -> Result<Result<Vec<SocketAddr>, LookupError>, Ended> {
    if let Some(address) = name.literal() {
        return Ok(Ok(vec![address]));
    }
    let (tell, told) = bounded(1);
    let asked = name.clone();
    let run = move || {
        let _ = tell.send(endpoints::look_up(&asked));
    };
    if thread::Builder::new().name("resolver".to_owned()).spawn(run).is_err() {
        return Ok(Err(nothing()));
    }
    ends.wait_for(&told).map(|answer| answer.unwrap_or_else(|| Err(nothing())))
}

fn host(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ConfigureError {
    let what = what.into();
    move |error| ConfigureError::Host { what, error }
}
