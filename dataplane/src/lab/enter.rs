//! The way into the lab: namespaces of our own, in which an ordinary user is root.
//!
//! In: a process with one thread. Out: the same process in a new network namespace (with nothing
//! but `lo`), a new mount namespace (with an empty `/run`), and, unless it was root already, a
//! new user namespace. What stands in the way on this machine is named together with its remedy.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use super::error::LabError;
use super::netlink::Netlink;
use crate::sys::namespace::{self, Namespaces};

/// Where the lab keeps its files; inside the private `/run`.
pub(super) const FILES: &str = "/run/ringtun-lab";
/// Where `ip netns` looks for names.
pub(super) const NAMES: &str = "/run/netns";

/// Enough for sockets and the logs of many processes; a flood of log lines ends here, not in the
/// machine's memory.
const RUN_SIZE_MIB: u32 = 64;

static ENTERED: OnceLock<Entered> = OnceLock::new();

/// How the lab is to be separated from the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Root keeps its privileges (so that forced socket buffers work) and makes network and mount
    /// namespaces only; everybody else, and root where that is refused, makes a user namespace.
    #[default]
    Auto,
    /// Always a user namespace: what an ordinary user gets.
    UserNamespace,
}

/// Proof that this process is in a lab, and how it got there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Whether a user namespace was made. If so, there are no privileges over the machine itself:
    /// socket buffers end at `net.core.rmem_max`, and `bpf()` is out of reach.
    pub user_namespace: bool,
}

/// Moves this process into a lab of its own, see [`enter_with`] and [`Isolation::Auto`].
///
/// # Errors
/// As [`enter_with`].
pub fn enter() -> Result<Entered, LabError> {
    enter_with(Isolation::Auto)
}

/// Moves this process into a lab of its own. A second call changes nothing.
///
/// # Errors
/// [`LabError::Threads`] after a thread was started, [`LabError::Tun`] without a usable
/// `/dev/net/tun`, [`LabError::Namespaces`] where the machine forbids namespaces.
pub fn enter_with(isolation: Isolation) -> Result<Entered, LabError> {
    if let Some(entered) = ENTERED.get() {
        return Ok(*entered);
    }
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        return Err(LabError::Threads { threads });
    }
    check_tun()?;
    let user_namespace = separate(isolation)?;
    prepare_files(user_namespace)?;
    let refused = |source: io::Error| refused_later(user_namespace, "bring up lo", source);
    let mut netlink = Netlink::open().map_err(refused)?;
    // Ubuntu lets anybody make the namespaces and then refuses their use: this is where it shows.
    netlink.set_up("lo").map_err(refused)?;
    Ok(*ENTERED.get_or_init(|| Entered { user_namespace }))
}

/// Whether this process has entered.
pub(super) fn require() -> Result<Entered, LabError> {
    ENTERED.get().copied().ok_or(LabError::NotEntered)
}

/// Makes the namespaces; returns whether a user namespace is among them.
fn separate(isolation: Isolation) -> Result<bool, LabError> {
    let (user, group) = namespace::effective_ids();
    let without_user = Namespaces { user: false, network: true, mount: true };
    if isolation == Isolation::Auto && user == 0 && namespace::unshare(without_user).is_ok() {
        return Ok(false);
    }
    namespace::unshare(Namespaces { user: true, ..without_user })
        .map_err(|error| diagnose(&error, user == 0, &read_setting))?;
    map_ids(user, group).map_err(|error| diagnose(&error, user == 0, &read_setting))?;
    Ok(true)
}

/// Makes the caller root inside its user namespace.
fn map_ids(user: u32, group: u32) -> io::Result<()> {
    // Kernels want setgroups off before an unprivileged process may map its group.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1\n"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1\n"))
}

fn prepare_files(user_namespace: bool) -> Result<(), LabError> {
    let refused =
        |what: &'static str| move |source: io::Error| refused_later(user_namespace, what, source);
    namespace::make_mounts_private().map_err(refused("make the mounts private"))?;
    namespace::mount_tmpfs(Path::new("/run"), RUN_SIZE_MIB).map_err(refused("mount a tmpfs"))?;
    for folder in [FILES, NAMES, "/run/ringtun"] {
        fs::create_dir_all(folder).map_err(refused("create folders in the private /run"))?;
    }
    Ok(())
}

/// An error after the namespaces were granted.
fn refused_later(user_namespace: bool, what: &'static str, source: io::Error) -> LabError {
    let denied = matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    if denied && user_namespace {
        diagnose(&source, false, &read_setting)
    } else {
        LabError::System { what, source }
    }
}

fn read_setting(key: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Finds the setting that is in the way.
fn diagnose(
    error: &io::Error,
    is_root: bool,
    setting: &dyn Fn(&str) -> Option<String>,
) -> LabError {
    let blockers = [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
        ("user.max_net_namespaces", "0", "10000"),
        ("user.max_mnt_namespaces", "0", "10000"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ];
    let sudo = if is_root { "" } else { "Run it with sudo, or allow it: " };
    for (key, blocking, allowing) in blockers {
        // Root is not subject to the two that speak of unprivileged users.
        let applies = !(is_root && key.contains("unprivileged"));
        if applies && setting(key).as_deref() == Some(blocking) {
            return LabError::Namespaces {
                cause: format!("{key} is {blocking} ({error})"),
                remedy: format!("{sudo}sudo sysctl {key}={allowing}"),
            };
        }
    }
    if error.raw_os_error() == Some(libc::EINVAL) {
        return LabError::Namespaces {
            cause: format!("this kernel has no user namespaces ({error})"),
            remedy: "Run it with sudo, or on a kernel with CONFIG_USER_NS".to_owned(),
        };
    }
    let container = "in a container, start that with --privileged (its seccomp profile or \
                     missing CAP_SYS_ADMIN is in the way)";
    LabError::Namespaces {
        cause: format!("the kernel said: {error}"),
        remedy: if is_root {
            format!("If this is {container}")
        } else {
            format!("Run it with sudo; {container}")
        },
    }
}

/// Opens `/dev/net/tun` once, so that its absence is told before anything else happens.
fn check_tun() -> Result<(), LabError> {
    let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") else {
        return Ok(());
    };
    let remedy = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "Run it with sudo, or let users open it: sudo chmod 0666 /dev/net/tun; in a \
             container, pass the device in (--device /dev/net/tun)"
        }
        _ => {
            "Load the driver: sudo modprobe tun; in a container, pass the device in (--device \
             /dev/net/tun)"
        }
    };
    Err(LabError::Tun { cause: error.to_string(), remedy: remedy.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(error: i32, is_root: bool, settings: &[(&str, &str)]) -> String {
        let setting = |key: &str| {
            settings.iter().find(|(k, _)| *k == key).map(|(_, value)| (*value).to_owned())
        };
        diagnose(&io::Error::from_raw_os_error(error), is_root, &setting).to_string()
    }

    #[test]
    fn names_the_setting_in_the_way() {
        let text = say(libc::EPERM, false, &[("kernel.unprivileged_userns_clone", "0")]);
        assert!(text.contains("sudo sysctl kernel.unprivileged_userns_clone=1"), "{text}");
        let text = say(libc::ENOSPC, false, &[("user.max_user_namespaces", "0")]);
        assert!(text.contains("sudo sysctl user.max_user_namespaces=10000"), "{text}");
        let ubuntu = [
            ("user.max_user_namespaces", "127000"),
            ("kernel.apparmor_restrict_unprivileged_userns", "1"),
        ];
        let text = say(libc::EPERM, false, &ubuntu);
        assert!(text.contains("kernel.apparmor_restrict_unprivileged_userns=0"), "{text}");
    }

    #[test]
    fn does_not_blame_unprivileged_settings_for_root() {
        let text = say(libc::EPERM, true, &[("kernel.unprivileged_userns_clone", "0")]);
        assert!(!text.contains("unprivileged_userns"), "{text}");
        assert!(text.contains("--privileged"), "{text}");
    }

    #[test]
    fn falls_back_to_sudo() {
        let text = say(libc::EPERM, false, &[("user.max_user_namespaces", "96365")]);
        assert!(text.contains("sudo"), "{text}");
    }
}
