//! What really passes a host's interfaces: UDP datagrams as a packet socket sees them.

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use ringtun::lab::Host;
use socket2::{Domain, Protocol, Socket, Type};

const GLANCE: Duration = Duration::from_millis(20);
/// Nothing for so long, and nothing more is under way.
const QUIET: Duration = Duration::from_millis(200);
const UDP: u8 = 17;
const UDP_HEADER_LEN: usize = 8;

/// A UDP datagram that came or went.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Its outer source.
    pub from: SocketAddr,
    /// Its outer destination.
    pub to: SocketAddr,
    /// The traffic class byte of its outer header.
    pub class: u8,
    /// What it carried.
    pub payload: Vec<u8>,
}

/// Sees every whole datagram of a host from when it is opened; a train that is sent or received
/// as one shows as one.
pub struct Tap(Socket);

impl Tap {
    /// Opens one on all interfaces of `host`.
    ///
    /// # Panics
    /// When packet sockets are refused.
    #[must_use]
    pub fn open(host: &Host) -> Self {
        let everything = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        let protocol = Protocol::from(i32::from(everything));
        let open = || Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol));
        let socket = host.run(open).unwrap().unwrap();
        socket.set_read_timeout(Some(GLANCE)).unwrap();
        Self(socket)
    }

    /// Waits until a probe is really over: late echoes, and what the kernel answers to those that
    /// nobody waits for any more, are under way for a moment.
    pub fn settle(&self) {
        while self.next(QUIET, |_| true).is_some() {}
    }

    /// The next datagram that is `wanted`.
    #[must_use]
    pub fn next(&self, within: Duration, wanted: impl Fn(&Captured) -> bool) -> Option<Captured> {
        let deadline = Instant::now() + within;
        let mut buffer = vec![0; 1 << 16];
        while Instant::now() < deadline {
            let Ok(len) = (&self.0).read(&mut buffer) else { continue };
            if let Some(captured) = parse(&buffer[..len]).filter(&wanted) {
                return Some(captured);
            }
        }
        None
    }
}

fn parse(packet: &[u8]) -> Option<Captured> {
    let (source, destination, class, udp) = match packet.first()? >> 4 {
        4 => {
            let header_len = usize::from(packet[0] & 0xf) * 4;
            let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff;
            if packet.get(9) != Some(&UDP) || fragment != 0 {
                return None;
            }
            let address = |at: usize| -> Option<IpAddr> {
                packet.get(at..)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes))
            };
            (address(12)?, address(16)?, packet[1], packet.get(header_len..)?)
        }
        6 if packet.get(6) == Some(&UDP) => {
            let address = |at: usize| -> Option<IpAddr> {
                packet.get(at..)?.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).into())
            };
            (address(8)?, address(24)?, packet[0] << 4 | packet[1] >> 4, packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*udp.get(at..)?.first_chunk()?));
    Some(Captured {
        from: SocketAddr::new(source, port(0)?),
        to: SocketAddr::new(destination, port(2)?),
        class,
        payload: udp.get(UDP_HEADER_LEN..)?.to_vec(),
    })
}
