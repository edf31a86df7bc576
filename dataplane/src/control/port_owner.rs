//! Who holds a UDP port: a help for an error message, so every failure here is silence.
//!
//! In: a port. Out: `name (pid N)` of a process in this network namespace that we may look into.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;

/// The process that has a UDP socket on this address's family and port, if it can be found.
#[must_use]
pub fn find(address: SocketAddr) -> Option<String> {
    let table = if address.is_ipv4() { "/proc/net/udp" } else { "/proc/net/udp6" };
    let inodes = inodes_of_port(&fs::read_to_string(table).ok()?, address.port());
    if inodes.is_empty() {
        return None;
    }
    let wanted: HashSet<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| wanted.contains(target)));
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        holds.then(|| format!("{} (pid {pid})", name.trim()))
    })
}

/// The inodes of the sockets on `port` in the text of /proc/net/udp.
fn inodes_of_port(table: &str, port: u16) -> Vec<u64> {
    let hex = format!("{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (_, local_port) = words.nth(1)?.rsplit_once(':')?;
            // After the local address: peer, state, queues, timer, retransmits, uid, timeout.
            let inode = words.nth(7)?.parse().ok()?;
            (local_port == hex).then_some(inode)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn our_own_socket_is_found() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let owner = find(socket.local_addr().unwrap()).unwrap();
        assert!(owner.contains(&format!("(pid {})", std::process::id())), "{owner}");
    }

    #[test]
    fn the_table_is_read_by_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
            uid  timeout inode ref pointer drops\n 4412: 00000000:CA6C 00000000:0000 07 \
            00000000:00000000 00:00000000 00000000     0        0 12345 2 0000000000000000 0\n";
        assert_eq!(inodes_of_port(table, 51_820), [12_345]);
        assert_eq!(inodes_of_port(table, 51_821), Vec::<u64>::new());
    }
}
