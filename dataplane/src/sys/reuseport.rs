//! Has the kernel hand WireGuard's transport messages to the worker that their receiver index
//! names.
//!
//! The sockets of a port form a group (`SO_REUSEPORT`), of which a hash of addresses and ports
//! picks one, so that of a few peers two may meet at one worker while others have none. A classic
//! BPF program (`SO_ATTACH_REUSEPORT_CBPF`, Linux 4.5; no right is needed) looks at the message
//! instead: the lowest byte of the receiver index, which we chose ourselves, modulo the number of
//! workers. It sees the payload (net/core/sock_reuseport.c `run_bpf_filter`); what is no transport
//! message is left to the hash.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// A transport message's first byte, and where the lowest byte of its receiver index is (WireGuard,
/// 5.4.6; little-endian).
const TRANSPORT: u32 = 4;
const RECEIVER_AT: u32 = 4;
/// Not the number of any socket: the kernel goes by the hash.
const BY_HASH: u32 = u32::MAX;

// Classic BPF, linux/bpf_common.h and linux/filter.h.
const LOAD_BYTE: u16 = 0x30;
const LOAD_LEN: u16 = 0x80;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const MODULO: u16 = 0x94;
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;

const fn op(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

/// Goes on if A is as wanted, else jumps over `count` instructions.
const fn unless(code: u16, k: u32, count: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: count, k }
}

/// Attaches the program to the group of `socket`, whose first `workers` sockets are the workers'.
///
/// # Errors
/// The kernel's: not in a group, or too old.
pub fn steer_by_receiver(socket: BorrowedFd<'_>, workers: usize) -> io::Result<()> {
    let workers = u32::try_from(workers.max(1)).unwrap_or(u32::MAX);
    let mut program = [
        // A load past the end would end the program with 0, which is a socket.
        op(LOAD_LEN, 0),
        unless(IF_GREATER, RECEIVER_AT, 5),
        op(LOAD_BYTE, 0),
        unless(IF_EQUAL, TRANSPORT, 3),
        op(LOAD_BYTE, RECEIVER_AT),
        op(MODULO, workers),
        op(RETURN_A, 0),
        op(RETURN, BY_HASH),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    let len = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or(0);
    // SAFETY: `program` and the instructions that it points at live until the call returns; the
    // kernel copies them.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            len,
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    /// `count` sockets of one port.
    fn group(count: usize) -> (Vec<UdpSocket>, std::net::SocketAddr) {
        let first = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let bound = (0..count).map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
            let socket = socket.unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&first.into()).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.into()
        });
        (bound.collect(), first)
    }

    fn message(kind: u8, index: u32) -> Vec<u8> {
        [&[kind, 0, 0, 0][..], &index.to_le_bytes(), &[7; 24]].concat()
    }

    #[test]
    fn transport_messages_go_where_their_index_says() {
        let (sockets, at) = group(4);
        steer_by_receiver(sockets[3].as_fd(), 3).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for index in [0, 1, 2, 3, 0x8000_0001, 0xdead_beef, 0x0102_03ff, 0xffff_ff00] {
            sender.send_to(&message(4, index), at).unwrap();
            let worker = (index & 0xff) as usize % 3;
            let mut buffer = [0; 64];
            let len = sockets[worker].recv(&mut buffer).unwrap();
            assert_eq!(buffer[..len], message(4, index));
        }
    }

    /// Those of one sender stay together, whatever they look like.
    #[test]
    fn everything_else_goes_by_the_hash() {
        let (sockets, at) = group(4);
        steer_by_receiver(sockets[0].as_fd(), 4).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sent = Vec::new();
        for index in 0..8 {
            sent.extend([message(1, index), message(2, index), vec![4; 4], vec![4], vec![]]);
        }
        sent.iter().for_each(|bytes| assert_eq!(sender.send_to(bytes, at).unwrap(), bytes.len()));
        let mut counts = [0; 4];
        for (socket, count) in sockets.iter().zip(&mut counts) {
            socket.set_nonblocking(true).unwrap();
            *count = std::iter::from_fn(|| socket.recv(&mut [0; 64]).ok()).count();
        }
        assert_eq!(counts.iter().max(), Some(&sent.len()), "{counts:?}");
    }

    #[test]
    fn a_socket_without_a_group_is_refused() {
        let alone = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(steer_by_receiver(alone.as_fd(), 2).is_err());
    }
}
