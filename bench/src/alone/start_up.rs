//! Start-up with many peers: from the start of the program to the first packet at the last peer.
//!
//! What that peer answers and opens is real: the device looks up the packet's destination among all
//! allowed IPs, makes a handshake with whom it belongs to, and sends it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ringtun::lab::Pair;
use ringtun::wire::wireguard::aead::Aead;
use ringtun::wire::wireguard::cookie::Stamper;
use ringtun::wire::wireguard::handshake::Responder;
use ringtun::wire::wireguard::keys::PrivateKey;
use ringtun::wire::wireguard::messages::{Kind, TAG_LEN, TRANSPORT_HEADER_LEN, kind, receiver};
use ringtun::wire::wireguard::session::Session;
use serde::Serialize;

use super::Stage;
use super::cast::Cast;
use super::device::{Device, write_config};
use crate::figures::Figures;
use crate::measure::{Cost, Mark};

const IPS_EACH: u32 = 10;
const PAYLOAD: &[u8] = b"the first packet to the last peer";
/// Any: nobody listens.
const PORT: u16 = 9;
/// Between two packets to the last peer, until one arrives.
const INTERVAL: Duration = Duration::from_millis(2);
const PACKET_TIMEOUT: Duration = Duration::from_secs(30);
const DATAGRAM_MAX: usize = 2048;

/// What came of it; since the program was started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct StartUpReport {
    /// With ten allowed IPs each.
    pub(crate) peers: u64,
    /// Its control socket was there.
    pub(crate) socket_seconds: f64,
    /// `wg setconf` had ended.
    pub(crate) configured_seconds: f64,
    /// The last peer had opened a packet.
    pub(crate) first_packet_seconds: f64,
}

impl StartUpReport {
    /// For the line of progress.
    pub(crate) fn text(&self) -> String {
        format!(
            "first packet after {:.3} s, configured after {:.3} s",
            self.first_packet_seconds, self.configured_seconds
        )
    }
}

/// Starts a device with so many peers.
pub(super) fn run(peers: usize, stage: &Stage<'_>) -> Result<(Figures, String, Cost)> {
    let cast = Cast::new(peers)?;
    let mut last = LastPeer::new(&cast, stage)?;
    let text = cast.config(stage.endpoint().port(), IPS_EACH, Some(last.address));
    let config = write_config(stage.index, &text)?;
    let begin = Instant::now();
    let mut device = stage.device()?;
    let socket_seconds = begin.elapsed().as_secs_f64();
    let mark = Mark::now(&device.groups())?;
    device.configure(&config)?;
    let configured_seconds = begin.elapsed().as_secs_f64();
    device.bring_up()?;
    last.wait_for_packet(cast.last_ip(IPS_EACH).into(), stage, &mut device)?;
    let first_packet_seconds = begin.elapsed().as_secs_f64();
    let cost = mark.cost()?;
    let report = StartUpReport {
        peers: peers as u64,
        socket_seconds,
        configured_seconds,
        first_packet_seconds,
    };
    Ok((Figures::StartUp(report), device.how.clone(), cost))
}

/// The last peer of the list, at its endpoint.
struct LastPeer<'a> {
    socket: UdpSocket,
    address: SocketAddr,
    cast: &'a Cast,
    key: &'a PrivateKey,
    stamper: Stamper,
    /// By our index, the place; a device may begin again.
    sessions: Vec<Session>,
}

impl<'a> LastPeer<'a> {
    fn new(cast: &'a Cast, stage: &Stage<'_>) -> Result<Self> {
        let key = cast.peers.last().context("no peers")?;
        let at = SocketAddr::new(Pair::LEFT[0].ip, 0);
        let socket = stage.route.client.run(|| UdpSocket::bind(at))?;
        let socket = socket.with_context(|| format!("cannot bind {at}"))?;
        socket.set_read_timeout(Some(INTERVAL))?;
        let address = socket.local_addr()?;
        let stamper = Stamper::new(&cast.device.public());
        Ok(Self { socket, address, cast, key, stamper, sessions: Vec::new() })
    }

    /// Sends packets to the last peer through the device until one arrives there.
    fn wait_for_packet(
        &mut self,
        to: IpAddr,
        stage: &Stage<'_>,
        device: &mut Device<'_>,
    ) -> Result<()> {
        let sender = stage.route.server.run(|| UdpSocket::bind(("0.0.0.0", 0)))??;
        let begin = Instant::now();
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            device.check()?;
            if begin.elapsed() > PACKET_TIMEOUT {
                bail!(
                    "it is configured, but no packet reached its last peer in {PACKET_TIMEOUT:?}"
                );
            }
            // A device that is not ready yet may refuse it.
            let _ = sender.send_to(PAYLOAD, (to, PORT));
            let due = Instant::now() + INTERVAL;
            while Instant::now() < due {
                let Ok((len, from)) = self.socket.recv_from(&mut buffer) else { break };
                if self.take(&mut buffer[..len], from)? {
                    return Ok(());
                }
            }
        }
    }

    /// Answers a handshake; true for the packet.
    fn take(&mut self, datagram: &mut [u8], from: SocketAddr) -> Result<bool> {
        match kind(datagram) {
            Some(Kind::Initiation) => {
                if let Some(response) = self.respond(datagram) {
                    self.socket.send_to(&response, from).context("cannot answer the device")?;
                }
                Ok(false)
            }
            Some(Kind::Transport) => {
                let index = receiver(datagram).and_then(|index| usize::try_from(index).ok());
                let Some(session) = index.and_then(|index| self.sessions.get(index)) else {
                    return Ok(false);
                };
                let opened = session.open(&Aead::Ring, datagram).is_some();
                let inner = datagram.get(TRANSPORT_HEADER_LEN..datagram.len() - TAG_LEN);
                let has_payload =
                    |inner: &[u8]| inner.windows(PAYLOAD.len()).any(|part| part == PAYLOAD);
                Ok(opened && inner.is_some_and(has_payload))
            }
            _ => Ok(false),
        }
    }

    fn respond(&mut self, initiation: &[u8]) -> Option<Vec<u8>> {
        let responder = Responder::read(self.key, initiation.try_into().ok()?)?;
        if responder.peer != self.cast.device.public() {
            return None;
        }
        let (remote, local) = (responder.remote_index, u32::try_from(self.sessions.len()).ok()?);
        let (keys, mut response) = responder.respond(&self.cast.psk, local)?;
        self.sessions.push(Session::new(&keys, local, remote, false, 0)?);
        self.stamper.stamp(&mut response, 0);
        Some(response.to_vec())
    }
}
