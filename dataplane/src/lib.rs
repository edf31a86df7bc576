//! ringtun: a userspace tunnel and VPN data plane for Linux.
//!
//! A worker per core owns one queue of a multiqueue tun device, one `SO_REUSEPORT` UDP socket per
//! address family, one io_uring and its buffers; packets move between the two in batches of up to
//! 64 KiB. Imports go one way:
//!
//! ```text
//! command → control → (engine → worker → io, protocol) → table → wire → packet   io → (ring, sys)
//! ```
//!
//! `packet` and `wire` are pure: bytes in, bytes out. Unsafe code lives in `ring` and `sys` only.

pub mod command;
pub mod control;
pub mod engine;
pub mod io;
pub mod lab;
pub mod packet;
pub mod protocol;
pub mod ring;
pub mod sys;
pub mod table;
pub mod wire;
pub mod worker;
