//! Follows the tun device while it runs, on a thread that sleeps until something changes.
//!
//! In: rtnetlink notifications about links and about forwarding. Out: the shared [`DeviceState`]
//! kept true, `gso_max_size` kept matched to the MTU, and one message when the device is deleted.
//!
//! A link may be down and up again before anybody can look at it: that it was down is taken from
//! the notifications, each of which tells the flags of its moment.
//!
//! Deleted means a link-deleted notification *and* a queue that answers EBADFD: a device that moves
//! to another namespace is announced as deleted too, while its queues go on working.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, bounded};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tracing::{info, warn};

use super::netlink::{Link, Netlink};
use super::plan::Encap;
use super::values::GsoSize;
use super::{gso_size, host};
use crate::sys::host as sys;

const GROUP_LINK: u32 = 1;
const GROUP_IPV4_NETCONF: u32 = 24;
const GROUP_IPV6_NETCONF: u32 = 25;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWNETCONF: u16 = 80;
const HEADER_LEN: usize = 16;
const IFF_UP: u32 = libc::IFF_UP.cast_unsigned();

/// What is known about the device now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// The link as last seen.
    pub link: Link,
    /// It was moved to another network namespace, where we cannot follow it.
    pub moved_away: bool,
    /// How often it was brought down, even if it is up again by now.
    pub downs: u64,
}

/// The state that the watch keeps and `status` reads.
pub type SharedDevice = Arc<Mutex<DeviceState>>;

/// The device was deleted; nothing more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceDeleted;

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub struct LinkWatch {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    deleted: Receiver<DeviceDeleted>,
    changed: Receiver<()>,
}

impl LinkWatch {
    /// Starts watching the device behind `queue`.
    pub fn start(
        device: SharedDevice,
        queue: OwnedFd,
        gso_size: GsoSize,
        encap: Encap,
    ) -> io::Result<Self> {
        let notifications = open_notifications()?;
        let netlink = Netlink::open()?;
        let (stopped, stop) = io::pipe()?;
        let (tell, deleted) = bounded(1);
        let (tell_change, changed) = bounded(1);
        let index = lock(&device).link.index;
        let watch = Watch {
            device,
            queue,
            gso_size,
            encap,
            index,
            netlink,
            tell,
            tell_change,
            said_up: false,
        };
        let thread = thread::Builder::new()
            .name("link-watch".to_owned())
            .spawn(move || watch.run(&notifications, &stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread), deleted, changed })
    }

    /// Where it is announced that the shared state has changed.
    #[must_use]
    pub fn changed(&self) -> Receiver<()> {
        self.changed.clone()
    }

    /// Where the deletion is announced.
    #[must_use]
    pub fn deleted(&self) -> Receiver<DeviceDeleted> {
        self.deleted.clone()
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The device as last seen.
pub fn lock(device: &SharedDevice) -> std::sync::MutexGuard<'_, DeviceState> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_notifications() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(GROUP_LINK)?;
    for group in [GROUP_IPV4_NETCONF, GROUP_IPV6_NETCONF] {
        if let Err(error) = socket.add_membership(group) {
            warn!(%error, "changes of forwarding are not followed; restart after changing it");
        }
    }
    Ok(socket)
}

struct Watch {
    device: SharedDevice,
    queue: OwnedFd,
    gso_size: GsoSize,
    encap: Encap,
    index: u32,
    netlink: Netlink,
    tell: Sender<DeviceDeleted>,
    tell_change: Sender<()>,
    /// What the last notification said, not what the link is by now.
    said_up: bool,
}

/// What a notification means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    LinkChanged {
        up: bool,
    },
    LinkDeleted,
    ForwardingChanged,
    /// Notifications were lost.
    Unknown,
}

impl Watch {
    fn run(mut self, notifications: &Socket, stopped: &PipeReader) {
        // The device may have changed between set-up and the subscription.
        self.refresh(false);
        self.said_up = lock(&self.device).link.up;
        loop {
            match sys::poll_readable(&[stopped.as_fd(), notifications.as_fd()], None).as_deref() {
                Ok([true, ..]) => return,
                Ok([_, true]) => {}
                Ok(_) => continue,
                Err(error) => {
                    warn!(%error, "the device is no longer watched");
                    return;
                }
            }
            let changes = match notifications.recv_from_full() {
                Ok((bytes, _)) => read_changes(&bytes, self.index),
                // Lost: look at everything.
                Err(_) => vec![Change::Unknown, Change::LinkDeleted],
            };
            for change in changes {
                match change {
                    Change::LinkChanged { up } => {
                        let went_down = std::mem::replace(&mut self.said_up, up) && !up;
                        self.refresh(went_down);
                    }
                    Change::ForwardingChanged => self.refresh(false),
                    Change::Unknown => {
                        self.refresh(false);
                        self.said_up = lock(&self.device).link.up;
                    }
                    Change::LinkDeleted if host::is_deleted(self.queue.as_fd()) => {
                        let _ = self.tell.send(DeviceDeleted);
                        return;
                    }
                    Change::LinkDeleted => self.note_absence(),
                }
            }
        }
    }

    /// Brings the shared state and `gso_max_size` up to date; `went_down` if the link was brought
    /// down meanwhile, whatever it is now.
    fn refresh(&mut self, went_down: bool) {
        let Ok(Some(mut link)) = self.netlink.link_by_index(self.index) else { return };
        let ours = sys::tun_interface(self.queue.as_fd()).is_ok_and(|(name, _)| name == link.name);
        if !ours {
            // The index is another device's by now, or ours is being deleted.
            return;
        }
        let before = lock(&self.device).clone();
        if before.moved_away {
            info!(name = link.name, "the device is back in this network namespace");
        }
        if before.link.name != link.name {
            info!(was = before.link.name, now = link.name, "the device was renamed");
        }
        if before.link.mtu != link.mtu {
            info!(name = link.name, was = before.link.mtu, now = link.mtu, "the MTU was changed");
        }
        if went_down && link.up {
            info!(name = link.name, "the device was brought down and up again");
        } else if before.link.up && !link.up {
            warn!(name = link.name, "the device was brought down: no traffic until it is up again");
        }
        let wanted = gso_size::gso_max_size(
            self.gso_size,
            link.mtu,
            self.encap.overhead(),
            host::host_forwards(),
        );
        // Zero: this kernel would not take one at set-up either.
        if link.gso_max_size != wanted && link.gso_max_size != 0 {
            match host::set_gso_max_size(&mut self.netlink, self.index, wanted) {
                Ok(()) => {
                    info!(name = link.name, was = link.gso_max_size, now = wanted, "gso_max_size");
                    link.gso_max_size = wanted;
                }
                Err(error) => warn!(name = link.name, wanted, %error, "gso_max_size not changed"),
            }
        }
        let downs = before.downs + u64::from(went_down);
        *lock(&self.device) = DeviceState { link, moved_away: false, downs };
        // One that has not been taken yet says the same.
        let _ = self.tell_change.try_send(());
    }

    fn note_absence(&self) {
        let here = Netlink::open().and_then(|mut link| link.link_by_index(self.index));
        if matches!(here, Ok(Some(_))) {
            return;
        }
        let mut device = lock(&self.device);
        if !device.moved_away {
            info!(
                name = device.link.name,
                "the device was moved to another network namespace; its MTU is no longer followed"
            );
            device.moved_away = true;
            let _ = self.tell_change.try_send(());
        }
    }
}

/// What the messages in one datagram say about the interface `index`.
fn read_changes(mut bytes: &[u8], index: u32) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Some((len, kind, body)) = split_message(bytes) {
        // struct ifinfomsg: family, padding, type (2), index (4), flags (4).
        let number =
            |at: usize| body.get(at..)?.first_chunk().map(|raw: &[u8; 4]| u32::from_ne_bytes(*raw));
        let about = number(4);
        let change = match kind {
            RTM_NEWLINK if about == Some(index) => {
                let up = number(8).is_some_and(|flags| flags & IFF_UP != 0);
                Some(Change::LinkChanged { up })
            }
            RTM_DELLINK if about == Some(index) => Some(Change::LinkDeleted),
            RTM_NEWNETCONF => Some(Change::ForwardingChanged),
            _ => None,
        };
        changes.extend(change.filter(|change| changes.last() != Some(change)));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    changes
}

/// The first message's length, type and body.
fn split_message(bytes: &[u8]) -> Option<(usize, u16, &[u8])> {
    let header = bytes.get(..HEADER_LEN)?;
    let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    Some((len, kind, bytes.get(HEADER_LEN..len)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, index: u32) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[..4].copy_from_slice(&32u32.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[20..24].copy_from_slice(&index.to_ne_bytes());
        bytes
    }

    fn link(index: u32, up: bool) -> Vec<u8> {
        let mut bytes = message(RTM_NEWLINK, index);
        // IFF_BROADCAST is set either way.
        bytes[24..28].copy_from_slice(&(2 | u32::from(up)).to_ne_bytes());
        bytes
    }

    const UP: Change = Change::LinkChanged { up: true };
    const DOWN: Change = Change::LinkChanged { up: false };

    #[test]
    fn only_our_link_counts() {
        assert_eq!(read_changes(&link(7, true), 7), [UP]);
        assert_eq!(read_changes(&link(7, false), 7), [DOWN]);
        assert_eq!(read_changes(&message(RTM_DELLINK, 7), 7), [Change::LinkDeleted]);
        assert_eq!(read_changes(&message(RTM_NEWLINK, 8), 7), []);
        assert_eq!(read_changes(&message(RTM_NEWNETCONF, 1), 7), [Change::ForwardingChanged]);
    }

    #[test]
    fn several_messages_in_one_datagram() {
        let flips = [false, true, true, false, false, true].map(|up| link(7, up));
        assert_eq!(read_changes(&flips.concat(), 7), [DOWN, UP, DOWN, UP]);
        let both = [link(7, true), message(RTM_DELLINK, 7), message(RTM_DELLINK, 7)];
        assert_eq!(read_changes(&both.concat(), 7), [UP, Change::LinkDeleted]);
    }

    #[test]
    fn garbage_is_ignored() {
        for len in 0..40 {
            assert_eq!(read_changes(&vec![0; len], 0), []);
            assert_eq!(read_changes(&vec![0xff; len], 0), []);
        }
    }
}
