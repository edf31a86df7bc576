//! Whole networks on one machine, without root: the topology the demo, the end-to-end tests and
//! the benchmarks share.
//!
//! ```text
//! enter()            own user, network and mount namespaces, own /run     enter.rs
//!   Host::new        a network namespace with a name                      host.rs, netlink.rs
//!     host.run       a closure in it                                      host.rs
//!     host.spawn     a process in it, dead when the host goes             process.rs
//!   Pair, Line       hosts, veth pairs, addresses, routes                 topology.rs
//!   traffic          round trips, TCP streams, UDP sequences, iperf3      traffic.rs and its parts
//! ```
//!
//! Guarantees: the network of the machine is never touched; everything ends with the process, by
//! `Drop` in the ordinary case and by the kernel (parent-death signals, reference-counted
//! namespaces) otherwise. Nothing here prints: results and errors are values, and each error
//! says what to do.

mod connections;
mod enter;
mod error;
mod host;
mod iperf3;
mod netlink;
mod pattern;
mod process;
mod round_trips;
mod tcp_streams;
mod topology;
pub mod traffic;
mod udp_sequences;

pub use enter::{Entered, Isolation, enter, enter_with};
pub use error::LabError;
pub use host::Host;
pub use netlink::{Address, InterfaceStatistics, Vxlan};
pub use process::Process;
pub use topology::{End, Line, Pair, WIRE_MTU, connect, has_ipv6};
