//! Handshakes in a closed loop: a response, and the next initiation leaves.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use ringtun::lab::{Address, Pair};
use ringtun::packet::endpoint::{Endpoint, Source};
use ringtun::sys::datagram::send_from;
use ringtun::wire::wireguard::messages::traffic_class;

use super::Stage;
use super::cast::Cast;
use super::device::{Device, write_config};
use super::initiators::{Initiators, Sending, Taken, source};
use crate::figures::Figures;
use crate::measure::{Cost, Mark};

/// Initiators; one more shows that the device answers.
pub(super) const PEERS: usize = 1000;
/// Handshakes prepared for each second, more than two cores can answer, and in all.
const PREPARED_PER_SECOND: u64 = 12_000;
const PREPARED_MAX: u64 = 60_000;
/// For the one that shows that the device answers.
const KNOCKS: usize = 50;
const KNOCK_INTERVAL: Duration = Duration::from_millis(100);
/// How long the loop waits for a datagram before it looks at the device and at the clock.
const GLANCE: Duration = Duration::from_millis(20);
const DATAGRAM_MAX: usize = 2048;

/// Makes handshakes, so many under way at once.
pub(super) fn run(window: usize, stage: &Stage<'_>) -> Result<(Figures, String, Cost)> {
    let cast = Cast::new(PEERS + 1)?;
    let mut peers = Peers::new(stage)?;
    let config = write_config(stage.index, &cast.config(peers.to.port(), 1, None))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut knocking = Initiators::prepare(&cast, PEERS..PEERS + 1, KNOCKS, now)?;
    let count = PREPARED_MAX.min(PREPARED_PER_SECOND.saturating_mul(stage.seconds));
    let mut initiators = Initiators::prepare(&cast, 0..PEERS, usize::try_from(count)?, now)?;
    let mut device = stage.device()?;
    device.configure(&config)?;
    device.bring_up()?;
    peers.knock(&mut knocking, &mut device)?;
    let mark = Mark::now(&device.groups())?;
    let duration = Duration::from_secs(stage.seconds);
    let elapsed = peers.pump(&mut initiators, window, duration, &mut device)?;
    let cost = mark.cost()?;
    let report = initiators.report(elapsed)?;
    if report.completed == 0 {
        bail!("no handshake: {} unanswered, {} invalid", report.unanswered, report.invalid);
    }
    Ok((Figures::Handshakes(report), device.how.clone(), cost))
}

/// All initiators behind one socket.
struct Peers {
    socket: UdpSocket,
    to: SocketAddr,
    begin: Instant,
}

impl Peers {
    /// On the left, with an address for each, and a way back to them on the right.
    fn new(stage: &Stage<'_>) -> Result<Self> {
        let (here, there) = (stage.route.client, stage.route.server);
        let network = Address { ip: source(0).into(), prefix_len: 16 };
        // All of a network on the loopback interface is this host's own. It stays from the first
        // time on, and so does the route.
        let _ = here.add_address("lo", network);
        there.set_route(network_of(network), Some(Pair::LEFT[0].ip), Some(Pair::INTERFACE))?;
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let socket = here.run(|| {
            // Sending falls back to another source without a word.
            UdpSocket::bind((source(PEERS), 0))?;
            UdpSocket::bind(any)
        })?;
        let socket = socket.context("cannot send from the initiators' addresses")?;
        socket.set_read_timeout(Some(GLANCE))?;
        Ok(Self { socket, to: stage.endpoint(), begin: Instant::now() })
    }

    /// Returns when the device has answered.
    fn knock(&mut self, one: &mut Initiators, device: &mut Device<'_>) -> Result<()> {
        let mut due = Instant::now();
        while one.answered() == 0 {
            if Instant::now() >= due {
                due += KNOCK_INTERVAL;
                let Some(sending) = one.next(self.begin.elapsed()) else {
                    bail!("the device answers no handshake: {KNOCKS} tries");
                };
                self.send(&sending)?;
            }
            self.receive(one)?;
            device.check()?;
        }
        Ok(())
    }

    /// Keeps `window` initiations under way for `duration` or as long as there are any; returns
    /// how long that was.
    fn pump(
        &mut self,
        initiators: &mut Initiators,
        window: usize,
        duration: Duration,
        device: &mut Device<'_>,
    ) -> Result<Duration> {
        self.begin = Instant::now();
        loop {
            let now = self.begin.elapsed();
            initiators.give_up(now);
            while initiators.under_way() < window {
                let Some(sending) = initiators.next(self.begin.elapsed()) else { break };
                self.send(&sending)?;
            }
            if now >= duration || initiators.under_way() == 0 {
                return Ok(self.begin.elapsed());
            }
            if !self.receive(initiators)? {
                device.check()?;
            }
        }
    }

    /// Takes a datagram; false if none came for a while.
    fn receive(&mut self, initiators: &mut Initiators) -> Result<bool> {
        let mut buffer = [0; DATAGRAM_MAX];
        let len = match self.socket.recv(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("cannot receive from the device"),
        };
        if let Taken::Again(sending) = initiators.take(&buffer[..len], self.begin.elapsed()) {
            self.send(&sending)?;
        }
        Ok(true)
    }

    fn send(&self, sending: &Sending) -> Result<()> {
        let source = Some(Source { address: sending.source.into(), interface: 0 });
        let to = Endpoint { to: self.to, source };
        let class = traffic_class(&sending.message);
        send_from(self.socket.as_fd(), to, class, &sending.message)
            .context("cannot send to the device")?;
        Ok(())
    }
}

/// Without the host's part.
fn network_of(address: Address) -> Address {
    let mask = u32::MAX << (32 - u32::from(address.prefix_len));
    match address.ip {
        std::net::IpAddr::V4(ip) => {
            let ip = std::net::Ipv4Addr::from(u32::from(ip) & mask).into();
            Address { ip, ..address }
        }
        std::net::IpAddr::V6(_) => address,
    }
}
