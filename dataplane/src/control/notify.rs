//! Tells systemd how far we are (`sd_notify`), when it asked to be told.
//!
//! In: a state line. Out: a datagram to the socket named by `NOTIFY_SOCKET`; nothing without it.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::debug;

/// Sends a state such as `READY=1`; a failure is not worth more than a debug line.
pub fn notify(state: &str) {
    let Some(target) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&target, state) {
        debug!(?target, state, %error, "systemd was not told");
    }
}

fn send(target: &OsString, state: &str) -> io::Result<()> {
    let address = match target.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(target)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstract_socket_is_told() {
        let name = format!("ringtun-notify-test/{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let systemd = UnixDatagram::bind_addr(&address).unwrap();
        send(&OsString::from(format!("@{name}")), "READY=1").unwrap();
        let mut state = [0; 16];
        let len = systemd.recv(&mut state).unwrap();
        assert_eq!(&state[..len], b"READY=1");
    }
}
