//! What goes on the wire: encapsulations, pure functions of bytes.

pub mod plain;
pub mod wireguard;
