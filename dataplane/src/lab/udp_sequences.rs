//! Numbered UDP packets in several flows: what is lost, reordered, repeated or changed, per flow.
//!
//! Each flow is a socket with its own source port and a thread of its own, numbered from 0; the
//! receiver is one socket and knows flows and numbers from the packets. A packet's bytes after
//! its header follow from seed, flow and number, and are compared.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::SockRef;

use super::host::Host;
use super::pattern::Pattern;
use super::traffic::{GLANCE, GRACE, Stop, TrafficError, any_like, bytes, is_timeout, rate};

/// Magic, flow, number.
const HEADER_LEN: usize = 16;
const MAGIC: [u8; 4] = *b"ring";
/// Offsets of two packets of a flow are this far apart in its sequence: more than a payload.
const STRIDE: u64 = 1 << 16;
/// With packets missing, the receiver gives up this long after the last one. Generous: on a busy
/// machine a pinned worker may wait that long for its core.
const QUIET: Duration = Duration::from_secs(3);
/// Asked for, so that the receiver itself loses little; granted up to `net.core.rmem_max`.
const RECEIVE_BUFFER_LEN: usize = 8 << 20;

/// A plan for [`udp_sequences`].
#[derive(Clone, Debug)]
pub struct UdpSequences {
    /// Flows at once, each with its own source port.
    pub flows: usize,
    /// UDP payload in bytes; 16 to 65,507.
    pub payload_len: usize,
    /// For how long to send.
    pub duration: Duration,
    /// End a flow earlier, after this many packets.
    pub packets_max: Option<u64>,
    /// Over all flows; `None` sends as fast as it can.
    pub packets_per_second: Option<f64>,
    /// Of the payloads.
    pub seed: u64,
}

impl Default for UdpSequences {
    /// One flow of full packets, 2,000 a second for 2 s.
    fn default() -> Self {
        Self {
            flows: 1,
            payload_len: 1_200,
            duration: Duration::from_secs(2),
            packets_max: None,
            packets_per_second: Some(2_000.0),
            seed: 1,
        }
    }
}

/// What became of one flow, in packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowReport {
    /// Sent.
    pub sent: u64,
    /// Arrived, each number once.
    pub received: u64,
    /// Sent and never arrived.
    pub lost: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Arrived again.
    pub duplicated: u64,
    /// Arrived with another length or other bytes.
    pub corrupted: u64,
}

/// What became of all flows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UdpReport {
    /// By flow.
    pub flows: Vec<FlowReport>,
    /// Packets that belong to no flow: their header was not ours.
    pub foreign: u64,
    /// Sends that the kernel refused and that were tried again.
    pub send_errors: u64,
    /// Seconds from the first packet sent to the last received.
    pub seconds: f64,
    /// Received packets per second.
    pub packets_per_second: f64,
    /// Received payload bits per second.
    pub bits_per_second: f64,
}

impl UdpReport {
    /// The sum of the flows.
    #[must_use]
    pub fn total(&self) -> FlowReport {
        let mut total = FlowReport::default();
        for flow in &self.flows {
            total.sent += flow.sent;
            total.received += flow.received;
            total.lost += flow.lost;
            total.reordered += flow.reordered;
            total.duplicated += flow.duplicated;
            total.corrupted += flow.corrupted;
        }
        total
    }

    /// Everything that was sent arrived once, in order and unchanged, and nothing else did.
    #[must_use]
    pub fn is_perfect(&self) -> bool {
        let total = self.total();
        total.sent > 0
            && self.foreign == 0
            && total == FlowReport { sent: total.sent, received: total.sent, ..Default::default() }
    }
}

/// Sends from `client` to a receiver on `server` at `to` (port 0: any).
///
/// # Errors
/// Socket calls that failed, such as a payload too large for IPv4 (EMSGSIZE).
pub fn udp_sequences(
    client: &Host,
    server: &Host,
    to: SocketAddr,
    plan: &UdpSequences,
    stop: &Stop,
) -> Result<UdpReport, TrafficError> {
    if !(HEADER_LEN..=65_507).contains(&plan.payload_len) || plan.flows == 0 {
        return Err(TrafficError::Plan("UDP sequences need a payload of 16 to 65,507 bytes"));
    }
    let receiver = server.run(|| UdpSocket::bind(to))?.map_err(TrafficError::socket("bind", to))?;
    let address = receiver.local_addr().map_err(TrafficError::socket("ask for", to))?;
    receiver.set_read_timeout(Some(GLANCE)).map_err(TrafficError::socket("set up", address))?;
    // Granted as far as the machine allows.
    let _ = SockRef::from(&receiver).set_recv_buffer_size(RECEIVE_BUFFER_LEN);
    let mut senders = Vec::new();
    for _ in 0..plan.flows {
        let any = any_like(address);
        let bound = client.run(|| UdpSocket::bind(any))?;
        let sender = bound.map_err(TrafficError::socket("bind", any))?;
        sender.connect(address).map_err(TrafficError::socket("connect to", address))?;
        senders.push(sender);
    }
    let run = Run {
        plan,
        stop,
        begin: Instant::now(),
        sending: AtomicUsize::new(plan.flows),
        sent: AtomicU64::new(0),
        send_errors: AtomicU64::new(0),
    };
    run.all(&senders, &receiver).map_err(TrafficError::socket("send packets to", address))
}

struct Run<'a> {
    plan: &'a UdpSequences,
    stop: &'a Stop,
    begin: Instant,
    /// Flows that still send.
    sending: AtomicUsize,
    /// Packets of those that have ended.
    sent: AtomicU64,
    send_errors: AtomicU64,
}

impl Run<'_> {
    fn all(&self, senders: &[UdpSocket], receiver: &UdpSocket) -> io::Result<UdpReport> {
        let (sent, received) = thread::scope(|scope| {
            let threads: Vec<_> = senders
                .iter()
                .enumerate()
                .map(|(flow, socket)| scope.spawn(move || self.send(flow, socket)))
                .collect();
            let received = self.receive(receiver);
            let sent: Vec<io::Result<u64>> = threads
                .into_iter()
                .map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect();
            (sent, received)
        });
        let mut report = UdpReport {
            foreign: received.foreign,
            send_errors: self.send_errors.load(Ordering::Relaxed),
            seconds: received.last.as_secs_f64(),
            ..UdpReport::default()
        };
        for (sent, arrivals) in sent.into_iter().zip(&received.flows) {
            let sent = sent?;
            report.flows.push(FlowReport {
                sent,
                received: arrivals.received,
                lost: sent.saturating_sub(arrivals.received),
                reordered: arrivals.reordered,
                duplicated: arrivals.duplicated,
                corrupted: arrivals.corrupted,
            });
        }
        let packets = report.total().received as f64;
        report.packets_per_second = rate(packets, received.last);
        report.bits_per_second =
            report.packets_per_second * bytes(self.plan.payload_len) as f64 * 8.0;
        Ok(report)
    }

    /// Returns the packets sent.
    fn send(&self, flow: usize, socket: &UdpSocket) -> io::Result<u64> {
        let result = self.send_flow(flow, socket);
        self.sent.fetch_add(*result.as_ref().unwrap_or(&0), Ordering::Release);
        self.sending.fetch_sub(1, Ordering::Release);
        result
    }

    fn send_flow(&self, flow: usize, socket: &UdpSocket) -> io::Result<u64> {
        let pattern = Pattern::new(self.plan.seed, bytes(flow));
        let limit = self.plan.packets_max.unwrap_or(u64::MAX);
        let per_second = self.plan.packets_per_second.map(|all| all / self.plan.flows as f64);
        let mut packet = vec![0; self.plan.payload_len];
        packet[..4].copy_from_slice(&MAGIC);
        packet[4..8].copy_from_slice(&u32::try_from(flow).unwrap_or(u32::MAX).to_le_bytes());
        let mut sent: u64 = 0;
        while sent < limit && self.begin.elapsed() < self.plan.duration && !self.stop.raised() {
            if let Some(per_second) = per_second {
                let due = Duration::from_secs_f64(sent as f64 / per_second);
                let early = due.saturating_sub(self.begin.elapsed());
                if !early.is_zero() {
                    thread::sleep(early.min(GLANCE));
                    continue;
                }
            }
            packet[8..16].copy_from_slice(&sent.to_le_bytes());
            pattern.fill(sent.wrapping_mul(STRIDE), &mut packet[HEADER_LEN..]);
            match socket.send(&packet) {
                Ok(_) => sent += 1,
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Err(error),
                // Full queues, ICMP errors of earlier packets, a tunnel that is restarting.
                Err(_) => {
                    self.send_errors.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        Ok(sent)
    }

    fn receive(&self, socket: &UdpSocket) -> Arrivals {
        let mut arrivals = Arrivals::new(self.plan);
        let mut buffer = vec![0; 65_536];
        let deadline = self.plan.duration + GRACE;
        let mut quiet_since = self.begin;
        while self.begin.elapsed() < deadline && !self.stop.raised() {
            match socket.recv(&mut buffer) {
                Ok(len) => {
                    quiet_since = Instant::now();
                    arrivals.last = quiet_since.duration_since(self.begin);
                    arrivals.take(&buffer[..len]);
                }
                Err(error) if is_timeout(&error) => {
                    let all_sent = self.sending.load(Ordering::Acquire) == 0;
                    // Complete: the glance that has just passed was for repetitions.
                    let complete = arrivals.count() >= self.sent.load(Ordering::Acquire);
                    if all_sent && (complete || quiet_since.elapsed() > QUIET) {
                        break;
                    }
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
        arrivals
    }
}

#[derive(Default)]
struct FlowArrivals {
    received: u64,
    reordered: u64,
    duplicated: u64,
    corrupted: u64,
    /// The number after the highest seen.
    next: u64,
    /// One bit a number.
    seen: Vec<u64>,
}

struct Arrivals {
    flows: Vec<FlowArrivals>,
    patterns: Vec<Pattern>,
    payload_len: usize,
    foreign: u64,
    last: Duration,
}

impl Arrivals {
    fn new(plan: &UdpSequences) -> Self {
        Self {
            flows: (0..plan.flows).map(|_| FlowArrivals::default()).collect(),
            patterns: (0..plan.flows).map(|flow| Pattern::new(plan.seed, bytes(flow))).collect(),
            payload_len: plan.payload_len,
            foreign: 0,
            last: Duration::ZERO,
        }
    }

    /// Packets that arrived, whatever their state.
    fn count(&self) -> u64 {
        self.flows.iter().map(|flow| flow.received + flow.corrupted).sum()
    }

    fn take(&mut self, packet: &[u8]) {
        let Some((flow, number)) = read_header(packet) else {
            self.foreign += 1;
            return;
        };
        let Some(arrivals) = self.flows.get_mut(flow) else {
            self.foreign += 1;
            return;
        };
        let offset = number.wrapping_mul(STRIDE);
        let changed = packet.len() != self.payload_len
            || self.patterns[flow].first_difference(offset, &packet[HEADER_LEN..]).is_some();
        if changed {
            arrivals.corrupted += 1;
        } else {
            arrivals.take(number);
        }
    }
}

impl FlowArrivals {
    fn take(&mut self, number: u64) {
        let word = usize::try_from(number / 64).unwrap_or(usize::MAX - 1);
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        if self.seen[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.seen[word] |= bit;
        self.received += 1;
        if number < self.next {
            self.reordered += 1;
        } else {
            self.next = number + 1;
        }
    }
}

/// Flow and number.
fn read_header(packet: &[u8]) -> Option<(usize, u64)> {
    let (magic, rest) = packet.split_first_chunk::<4>()?;
    let (flow, rest) = rest.split_first_chunk::<4>()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    let flow = usize::try_from(u32::from_le_bytes(*flow)).ok()?;
    (*magic == MAGIC).then_some((flow, u64::from_le_bytes(*number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(plan: &UdpSequences, flow: u32, number: u64) -> Vec<u8> {
        let mut packet = vec![0; plan.payload_len];
        packet[..4].copy_from_slice(&MAGIC);
        packet[4..8].copy_from_slice(&flow.to_le_bytes());
        packet[8..16].copy_from_slice(&number.to_le_bytes());
        let pattern = Pattern::new(plan.seed, u64::from(flow));
        pattern.fill(number * STRIDE, &mut packet[HEADER_LEN..]);
        packet
    }

    #[test]
    fn tells_lost_reordered_repeated_and_changed_apart() {
        let plan = UdpSequences { flows: 2, payload_len: 40, ..UdpSequences::default() };
        let mut arrivals = Arrivals::new(&plan);
        for number in [0, 1, 3, 2, 2] {
            arrivals.take(&packet(&plan, 0, number));
        }
        let mut changed = packet(&plan, 1, 0);
        changed[39] ^= 1;
        arrivals.take(&changed);
        arrivals.take(&packet(&plan, 1, 1)[..39]);
        arrivals.take(&packet(&plan, 2, 0));
        arrivals.take(b"short");
        let [zero, one] = arrivals.flows.as_slice() else { panic!("two flows") };
        assert_eq!((zero.received, zero.reordered, zero.duplicated), (4, 1, 1));
        assert_eq!((one.received, one.corrupted), (0, 2));
        assert_eq!(arrivals.foreign, 2);
    }
}
