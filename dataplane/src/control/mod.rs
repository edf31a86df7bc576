//! Everything around the packets: what is asked for, what the host can do, and setting it up and
//! undoing it. Nothing here runs on a worker thread.
//!
//! In the order of a tunnel's life:
//!
//! ```text
//! values ─► plan         what the user asks for, typed and checked
//! config_file            the same, from a file as wg-quick reads it
//! probe, backend, aead   what this machine can do, and which I/O backend and AEAD follow from it
//! host (netlink, gso_size)   the tun device: created, addressed, sized, up; undone on drop
//! inherited_tun          the same for a device that was handed over
//! sockets (port_owner)   the UDP sockets: probed for conflicts, bound in order, buffers granted
//! run                    the foreground life of one engine, from set-up to exit
//! run_wireguard          the same for a WireGuard device, which others configure
//! ├─ device              its thread: the protocol, its sockets, its workers
//! ├─ uapi                the socket that `wg` speaks to
//! ├─ config_file, configure (netlink_routes)   a wg-quick file carried out and undone
//! │  ├─ find_endpoint    looks names up at the start, with patience
//! │  ├─ endpoints        looks names up again when peers do not answer
//! │  ├─ save_config      writes the file anew at the end
//! │  └─ firewall, dns (tools)   what only programs of the host can do
//! ├─ notices             says what the workers found out
//! ├─ link_watch          follows the device: MTU, name, deletion, forwarding
//! ├─ socket (snapshot, status)   answers `status` on /run/ringtun/NAME.sock
//! ├─ uapi                answers `wg` on /var/run/wireguard/NAME.sock
//! └─ notify              tells systemd
//! ```

pub mod aead;
pub mod backend;
pub mod config_file;
pub mod configure;
pub mod device;
pub mod dns;
pub mod endpoints;
pub mod find_endpoint;
pub mod firewall;
pub mod gso_size;
pub mod host;
pub mod inherited_tun;
pub mod link_watch;
pub mod netlink;
pub mod netlink_routes;
pub mod notices;
pub mod notify;
pub mod plan;
pub mod port_owner;
pub mod probe;
pub mod route_watch;
pub mod run;
pub mod run_wireguard;
pub mod save_config;
pub mod snapshot;
pub mod socket;
pub mod sockets;
pub mod status;
pub mod tools;
pub mod uapi;
pub mod values;
