//! A tun device that whoever started this process made: `WG_TUN_FD`, as wireguard-go has it.
//!
//! In: the number of a descriptor. Out: an [`InheritedTun`] that says what it is, then a
//! [`TunDevice`] of one queue. The device stays when we go, if somebody else still has it open. Of
//! its settings the MTU, the largest super-packet and the offload mask are set, as for a device
//! of ours; what is not permitted stays as it was.

use std::env;
use std::os::fd::{AsFd, OwnedFd};

use tracing::{info, warn};

use super::gso_size;
use super::host::{self, HostError, TunDevice, find, set_offloads, step};
use super::netlink::{LinkChange, Netlink};
use super::plan::Plan;
use super::values::InterfaceName;
use crate::packet::virtio;
use crate::sys::{self, host::tun_interface, tun};

/// Names the descriptor of a tun device by its number.
pub const FD_VARIABLE: &str = "WG_TUN_FD";

/// A descriptor that was handed over, looked at and nothing changed.
#[derive(Debug)]
pub struct InheritedTun {
    queue: OwnedFd,
    name: InterfaceName,
}

impl InheritedTun {
    /// The one that [`FD_VARIABLE`] names; none if that is not set.
    ///
    /// # Errors
    /// [`HostError::Inherited`] if it is no tun device that ringtun can work with.
    pub fn from_environment() -> Result<Option<Self>, HostError> {
        let value = env::var_os(FD_VARIABLE).filter(|value| !value.is_empty());
        value.map(|value| Self::from_number(&value.to_string_lossy())).transpose()
    }

    fn from_number(value: &str) -> Result<Self, HostError> {
        let refuse = |problem: String| HostError::Inherited {
            variable: FD_VARIABLE,
            value: value.to_owned(),
            problem,
        };
        let number = value.parse().map_err(|_| refuse("it is no number".to_owned()))?;
        let queue = sys::inherited::duplicate(number).map_err(|error| {
            refuse(format!("{error}; the descriptor must be open and not close-on-exec"))
        })?;
        let (name, flags) = tun_interface(queue.as_fd()).map_err(|error| {
            refuse(format!("it is no tun device ({error}); open one and attach it by TUNSETIFF"))
        })?;
        if let Some(lack) = lack_of(flags) {
            return Err(refuse(format!(
                "the device {name} {lack}; create it by TUNSETIFF with IFF_TUN | IFF_NO_PI | \
                 IFF_VNET_HDR, or unset {FD_VARIABLE} and let ringtun create it"
            )));
        }
        let name = name.parse().map_err(|error| refuse(format!("its name: {error}")))?;
        Ok(Self { queue, name })
    }

    /// What the device is called.
    #[must_use]
    pub fn name(&self) -> &InterfaceName {
        &self.name
    }

    /// Makes it the device of `plan`, whose name and number of workers must suit.
    ///
    /// # Errors
    /// The step that failed.
    pub fn take_over(self, plan: &Plan) -> Result<TunDevice, HostError> {
        let Self { queue, name } = self;
        let mut netlink = Netlink::open().map_err(|error| step("open a netlink socket", error))?;
        let index = find(netlink.link_by_name(name.as_str()), &name)?.index;
        tun::set_nonblocking(queue.as_fd())
            .and_then(|()| tun::set_header_len(queue.as_fd(), virtio::LEN))
            .map_err(|error| step(format!("set up the queue of {name}"), error))?;
        let queues = vec![queue];
        let offloads = set_offloads(&queues, plan.tuning.tun_gso)?;
        if let Some(mtu) = plan.mtu
            && let Err(error) = netlink.change_link(index, &[LinkChange::Mtu(mtu)])
        {
            warn!(%name, mtu, %error, "the MTU of the device stays as it was");
        }
        let link = find(netlink.link_by_index(index), &name)?;
        let size = gso_size::gso_max_size(
            plan.tuning.gso_size,
            link.mtu,
            plan.encap.overhead(),
            host::host_forwards(),
        );
        if let Err(error) = host::set_gso_max_size(&mut netlink, index, size) {
            warn!(%name, size, %error, "gso_max_size not set: slower");
        }
        let link = find(netlink.link_by_index(index), &name)?;
        info!(
            "{name} was handed over ({FD_VARIABLE}): one queue, so one worker; it stays when \
             ringtun ends, for as long as somebody has it open"
        );
        Ok(TunDevice { queues, offloads, link, inherited: true })
    }
}

/// What a device with these flags does not have that the packet path needs.
fn lack_of(flags: u16) -> Option<&'static str> {
    if flags & tun::FLAG_TUN == 0 {
        Some("is a tap: it carries Ethernet frames, not IP packets")
    } else if flags & tun::FLAG_NO_PI == 0 {
        Some("puts a packet information header before each packet (no IFF_NO_PI)")
    } else if flags & tun::FLAG_VNET_HDR == 0 {
        Some("has no virtio header before each packet (no IFF_VNET_HDR)")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn flags_that_do_not_suit_are_named() {
        let good = tun::FLAG_TUN | tun::FLAG_NO_PI | tun::FLAG_VNET_HDR;
        assert_eq!(lack_of(good), None);
        assert_eq!(lack_of(good | 0x0100), None, "of several queues");
        assert!(lack_of(good & !tun::FLAG_VNET_HDR).unwrap().contains("IFF_VNET_HDR"));
        assert!(lack_of(good & !tun::FLAG_NO_PI).unwrap().contains("IFF_NO_PI"));
        assert!(lack_of(good & !tun::FLAG_TUN | 2).unwrap().contains("tap"));
    }

    #[test]
    fn what_is_no_tun_is_refused_by_name() {
        let (pipe, _end) = std::io::pipe().unwrap();
        for value in ["", "x", "-1", "99999", &pipe.as_raw_fd().to_string()] {
            let error = InheritedTun::from_number(value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("WG_TUN_FD={value:?}: ")), "{error}");
        }
    }
}
