//! One datagram from an address and with a traffic class of our choice; connecting for many.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::{MsgHdr, SockRef};

use crate::packet::endpoint::Endpoint;

/// `struct cmsghdr` on 64-bit Linux.
const HEADER_LEN: usize = 16;
/// Room for a traffic class and for packet info, each with its header.
const CONTROL_LEN: usize = CLASS_LEN + HEADER_LEN + 24;
const CLASS_LEN: usize = HEADER_LEN + 8;

/// Nobody sends from this port (RFC 863).
const DISCARD: u16 = 9;

#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// Sends `bytes` to `to`, from its source address if that is still ours, else from any. `class` is
/// the traffic class byte of its header; 0 is the socket's own.
///
/// # Errors
/// The kernel's; `WouldBlock` when the socket is full.
pub fn send_from(
    socket: BorrowedFd<'_>,
    to: Endpoint,
    class: u8,
    bytes: &[u8],
) -> io::Result<usize> {
    let address = to.to.into();
    let buffers = [io::IoSlice::new(bytes)];
    let message = || MsgHdr::new().with_addr(&address).with_buffers(&buffers);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let socket = SockRef::from(&socket);
    let mut control = Control([0; CONTROL_LEN]);
    let class_len = encode_class(to.to.is_ipv6(), class, &mut control.0);
    let source_len = encode_source(to, &mut control.0[class_len..]);
    if source_len > 0
        && let Ok(sent) =
            socket.sendmsg(&message().with_control(&control.0[..class_len + source_len]), flags)
    {
        return Ok(sent);
    }
    if class_len > 0 {
        return socket.sendmsg(&message().with_control(&control.0[..class_len]), flags);
    }
    socket.sendmsg(&message(), flags)
}

/// Connects a UDP socket to `to`, whether or not it was connected before; returns the address that
/// it sends from: `source` if it did before, else what the route there wants. After an error it is
/// connected to nobody that sends, or as it was.
///
/// # Errors
/// The kernel's; there is no route, say.
pub fn connect_anew(
    socket: BorrowedFd<'_>,
    to: SocketAddr,
    source: IpAddr,
) -> io::Result<SocketAddr> {
    let file = socket;
    let socket = SockRef::from(&file);
    let before = local_address(&socket)?.ip();
    if before == source || before.is_unspecified() {
        socket.connect(&to.into())?;
        return local_address(&socket);
    }
    // A second connect would keep the address of the first: connect(2), "dissolve the association".
    let family = libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap_or(0);
    let nobody = libc::sockaddr { sa_family: family, sa_data: [0; 14] };
    let len = libc::socklen_t::try_from(size_of_val(&nobody)).unwrap_or(0);
    // SAFETY: the address is a sockaddr of ours of the length said, read during the call.
    if unsafe { libc::connect(file.as_raw_fd(), &raw const nobody, len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.connect(&to.into()).inspect_err(|_| {
        // It has left its SO_REUSEPORT group for good (net/ipv4/udp.c `udp_lib_rehash`) and would
        // get what is for the group, by itself, as long as it is connected to nobody.
        let _ = park(file, to.is_ipv6());
    })?;
    local_address(&socket)
}

/// Connects a UDP socket to nobody that sends; what it has received stays there.
///
/// # Errors
/// The kernel's.
pub fn park(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    let loopback: IpAddr =
        if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    SockRef::from(&socket).connect(&SocketAddr::new(loopback, DISCARD).into())
}

fn local_address(socket: &SockRef<'_>) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// IP_TOS (ip(7)) or IPV6_TCLASS (RFC 3542 section 6.5); returns the length, 0 without class.
fn encode_class(ipv6: bool, class: u8, control: &mut [u8]) -> usize {
    if class == 0 {
        return 0;
    }
    control[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&i32::from(class).to_ne_bytes());
    let (level, kind) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
    } else {
        (libc::IPPROTO_IP, libc::IP_TOS)
    };
    encode_header(control, level, kind, HEADER_LEN + 4)
}

/// IP_PKTINFO (ip(7)) or IPV6_PKTINFO (RFC 3542 section 6.2); returns the length, 0 without source.
fn encode_source(to: Endpoint, control: &mut [u8]) -> usize {
    let Some(source) = to.source else { return 0 };
    let interface = source.interface.to_ne_bytes();
    let (level, kind, len) = match source.address {
        IpAddr::V4(address) => {
            control[HEADER_LEN..HEADER_LEN + 4].copy_from_slice(&interface);
            control[HEADER_LEN + 4..HEADER_LEN + 8].copy_from_slice(&address.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, HEADER_LEN + 12)
        }
        IpAddr::V6(address) => {
            control[HEADER_LEN..HEADER_LEN + 16].copy_from_slice(&address.octets());
            control[HEADER_LEN + 16..HEADER_LEN + 20].copy_from_slice(&interface);
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, HEADER_LEN + 20)
        }
    };
    encode_header(control, level, kind, len)
}

/// Writes the header of a control message of `len` bytes; returns the bytes that it takes.
fn encode_header(control: &mut [u8], level: i32, kind: i32, len: usize) -> usize {
    control[..8].copy_from_slice(&len.to_ne_bytes());
    control[8..12].copy_from_slice(&level.to_ne_bytes());
    control[12..16].copy_from_slice(&kind.to_ne_bytes());
    len.next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;
    use crate::packet::endpoint::Source;

    #[test]
    fn a_source_that_is_ours_is_used_and_another_is_not_missed() {
        for (own, other) in [("127.0.0.1", "127.0.0.9"), ("::1", "::1")] {
            let Ok(receiver) = UdpSocket::bind((own, 0)) else { continue };
            let any = if own == "::1" { "::" } else { "0.0.0.0" };
            let sender = UdpSocket::bind((any, 0)).unwrap();
            for source in [other, "192.0.2.77", "2001:db8::7"] {
                let to = receiver.local_addr().unwrap();
                let source = Some(Source { address: source.parse().unwrap(), interface: 0 });
                send_from(sender.as_fd(), Endpoint { to, source }, 0x88, b"x").unwrap();
                let from = receiver.recv_from(&mut [0; 8]).unwrap().1.ip().to_string();
                assert!(from == own || from == other, "{from}");
            }
        }
    }
}
