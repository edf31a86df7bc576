//! The WireGuard protocol's pure parts: keys, messages, handshake, sessions, cookies.
//!
//! Bytes and times come in as arguments; nothing here does I/O, reads a clock or logs. Section
//! numbers are those of the WireGuard whitepaper ("WireGuard: Next Generation Kernel Network
//! Tunnel", Donenfeld, 2020).

pub mod aead;
pub mod cookie;
pub mod handshake;
pub mod identity;
pub mod keys;
pub mod limiter;
pub mod messages;
mod noise;
pub mod replay;
pub mod session;
pub mod timestamp;

#[cfg(test)]
mod by_hand_tests;
