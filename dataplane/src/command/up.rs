//! `ringtun up`: a tunnel in the foreground.
//!
//! In: flags. Out: a running tunnel until it is stopped. Parsing ends here: every flag becomes a
//! typed value, the values become a [`Plan`], and `control::run` carries it out.

use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgAction, ValueEnum};

use super::exit::Exit;
use crate::control::find_endpoint::Retries;
use crate::control::plan::{
    self, AeadChoice, Encap, IoChoice, MTU_MAX, MTU_MIN, Options, Plan, Tuning,
};
use crate::control::values::{GsoSize, InterfaceName, Listen, Network, Peer, Workers};
use crate::control::{config_file, run, run_wireguard};
use crate::engine::BusyPoll;

const TX_QUEUE_LEN_MAX: i64 = 100_000;
const SOCKET_BUFFER_MIN: i64 = 64 << 10;
const SOCKET_BUFFER_MAX: i64 = 1 << 30;

/// Options of `ringtun up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the device to create, at most 15 bytes, for example rt0
    name: InterfaceName,

    /// Address of the device with its prefix length, for example 10.7.0.1/24 or fd00::1/64;
    /// repeat it for more [default: none]
    #[arg(long, value_name = "ADDR/PREFIX")]
    address: Vec<Network>,

    /// Encrypted, as this wg-quick file describes it: keys, addresses, peers, routes, hooks
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "peer", "encap", "address"])]
    config: Option<PathBuf>,

    /// UDP address and port to receive on, or only a port for all addresses of both families;
    /// at most one for each family
    #[arg(long, value_name = "[ADDR:]PORT", required_unless_present = "config")]
    listen: Vec<Listen>,

    /// UDP address and port of the other end
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "config")]
    peer: Option<Peer>,

    /// How packets travel without --config: plain (readable and forgeable)
    #[arg(long)]
    encap: Option<EncapArg>,

    /// MTU of the device in bytes [default: MTU of the path to the peer less 28 (IPv4) or 48
    /// (IPv6)]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(MTU_RANGE))]
    mtu: Option<u32>,

    /// Workers: auto (one a core, at most 8), how many, or on which cores (0,2-3; 3-3 for core 3)
    #[arg(long, value_name = "auto|N|CORES", default_value = "auto")]
    workers: Workers,

    /// How packets are moved: uring, mmsg (epoll with recvmmsg and sendmmsg), or auto: uring where
    /// it works
    #[arg(long, value_enum, default_value_t = IoArg::Auto)]
    io: IoArg,

    /// What encrypts the packets: ring, ipsec-mb (Intel's library, with AVX-512), or auto: ipsec-mb
    /// where it is installed and faster
    #[arg(long, value_enum, conflicts_with = "encap", default_value_t = AeadArg::Auto)]
    aead: AeadArg,

    /// Send many packets in one call (UDP_SEGMENT)
    #[arg(long, value_enum, default_value_t = OnOff::On)]
    gso: OnOff,

    /// Receive many packets in one call (UDP_GRO)
    #[arg(long, value_enum, default_value_t = OnOff::On)]
    gro: OnOff,

    /// Take super-packets of up to 64 kB from the device (TSO, USO)
    #[arg(long, value_enum, default_value_t = OnOff::On)]
    tun_gso: OnOff,

    /// Merge received packets into super-packets before they enter the device
    #[arg(long, value_enum, default_value_t = OnOff::On)]
    tun_gro: OnOff,

    /// Largest super-packet in bytes (2048 to 65536), or auto: what one send carries, but 65536 on
    /// a host that forwards
    #[arg(long, value_name = "auto|BYTES", default_value = "auto")]
    gso_max_size: GsoSize,

    /// Transmit queue of the device, in packets (super-packets count as one) for each worker
    #[arg(long, value_name = "PACKETS", default_value_t = Tuning::default().tx_queue_len,
        value_parser = clap::value_parser!(u32).range(1..=TX_QUEUE_LEN_MAX))]
    txqueuelen: u32,

    /// Buffer of each UDP socket in bytes, each way
    #[arg(long, value_name = "BYTES", default_value_t = Tuning::default().socket_buffer_bytes,
        value_parser = clap::value_parser!(u32).range(SOCKET_BUFFER_MIN..=SOCKET_BUFFER_MAX))]
    socket_buffer: u32,

    /// Manage queues: have transfers whose packets wait too long in a UDP socket, or as root in
    /// the tun's queue, slow down, by ECN or by dropping one packet
    #[arg(long, value_enum, default_value_t = OnOff::On)]
    aqm: OnOff,

    /// Look for packets instead of sleeping: off, on (a worker that has nothing to do keeps its
    /// core busy unless others want it), or auto: for a moment after a packet that came alone,
    /// where an answer is likely
    #[arg(long, value_enum, default_value_t = BusyPollArg::Auto)]
    busy_poll: BusyPollArg,

    /// Do without io_uring's multishot requests
    #[arg(long, hide = true, action = ArgAction::SetTrue)]
    no_multishot: bool,
}

const MTU_RANGE: std::ops::RangeInclusive<i64> = MTU_MIN as i64..=MTU_MAX as i64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EncapArg {
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum IoArg {
    Auto,
    Uring,
    Mmsg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AeadArg {
    Auto,
    Ring,
    IpsecMb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BusyPollArg {
    Off,
    Auto,
    On,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

impl OnOff {
    fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Runs a tunnel until it is stopped.
pub fn run(args: &Args) -> Result<Exit> {
    let cores = plan::usable_cores();
    let Some(path) = &args.config else {
        let Some(peer) = args.peer else { return Ok(Exit::Usage) };
        run::run(&Plan::new(args.options(peer), &cores)?)?;
        return Ok(Exit::Ok);
    };
    let mut file = config_file::load(path)?;
    file.retries = Retries::from_env()?;
    let mut plan = Plan::wireguard(args.name.clone(), &args.workers, args.io_choice(), &cores)?;
    plan.tuning = args.tuning();
    plan.mtu = args.mtu.or(file.interface.mtu).or(plan.mtu);
    run_wireguard::run(&plan, None, file, || ())?;
    Ok(Exit::Ok)
}

impl Args {
    fn options(&self, peer: Peer) -> Options {
        Options {
            name: self.name.clone(),
            addresses: self.address.clone(),
            listen: self.listen.clone(),
            peer,
            encap: self.encap.map(|EncapArg::Plain| Encap::Plain),
            mtu: self.mtu,
            workers: self.workers.clone(),
            io: self.io_choice(),
            tuning: self.tuning(),
        }
    }

    fn io_choice(&self) -> IoChoice {
        match self.io {
            IoArg::Auto => IoChoice::Auto,
            IoArg::Uring => IoChoice::Uring,
            IoArg::Mmsg => IoChoice::Mmsg,
        }
    }

    fn aead_choice(&self) -> AeadChoice {
        match self.aead {
            AeadArg::Auto => AeadChoice::Auto,
            AeadArg::Ring => AeadChoice::Ring,
            AeadArg::IpsecMb => AeadChoice::IpsecMb,
        }
    }

    fn tuning(&self) -> Tuning {
        Tuning {
            multishot: !self.no_multishot,
            aead: self.aead_choice(),
            udp_gso: self.gso.is_on(),
            udp_gro: self.gro.is_on(),
            tun_gso: self.tun_gso.is_on(),
            tun_gro: self.tun_gro.is_on(),
            gso_size: self.gso_max_size,
            tx_queue_len: self.txqueuelen,
            socket_buffer_bytes: self.socket_buffer,
            aqm: self.aqm.is_on(),
            busy_poll: match self.busy_poll {
                BusyPollArg::Off => BusyPoll::Off,
                BusyPollArg::Auto => BusyPoll::Auto,
                BusyPollArg::On => BusyPoll::On,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Up {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &str) -> Result<Options, clap::Error> {
        let words = ["up"].into_iter().chain(words.split_whitespace());
        Up::try_parse_from(words).map(|up| up.args.options(up.args.peer.unwrap()))
    }

    const LEAST: &str = "rt0 --listen 51820 --peer 192.0.2.2:51820";

    #[test]
    fn the_defaults_are_those_of_the_plan() {
        let options = parse(LEAST).unwrap();
        assert_eq!(options.tuning, Tuning::default());
        assert_eq!((options.io, options.workers), (IoChoice::Auto, Workers::Auto));
        assert_eq!((options.mtu, options.encap), (None, None));
    }

    #[test]
    fn every_switch_arrives() {
        let options = parse(&format!(
            "{LEAST} --encap plain --mtu 1400 --workers 0 --io mmsg --gso off --gro off \
             --tun-gso off --tun-gro off --gso-max-size 61000 --txqueuelen 500 \
             --socket-buffer 100000 --no-multishot --address 10.7.0.1/24 --address fd00::1/64"
        ));
        assert!(options.unwrap_err().to_string().contains("at least one worker"));
        let options = parse(&format!(
            "{LEAST} --encap plain --mtu 1400 --workers 1 --io mmsg --gso off --gro off \
             --tun-gso off --tun-gro off --gso-max-size 61000 --txqueuelen 500 \
             --socket-buffer 100000 --no-multishot --address 10.7.0.1/24 --address fd00::1/64 \
             --aqm off --busy-poll on"
        ))
        .unwrap();
        let tuning = Tuning {
            multishot: false,
            aead: AeadChoice::Auto,
            udp_gso: false,
            udp_gro: false,
            tun_gso: false,
            tun_gro: false,
            gso_size: GsoSize::Bytes(61_000),
            tx_queue_len: 500,
            socket_buffer_bytes: 100_000,
            aqm: false,
            busy_poll: BusyPoll::On,
        };
        assert_eq!(options.tuning, tuning);
        assert_eq!((options.io, options.mtu), (IoChoice::Mmsg, Some(1400)));
        assert_eq!((options.addresses.len(), options.encap), (2, Some(Encap::Plain)));
    }

    #[test]
    fn refusals_say_what_is_allowed() {
        let refusal = |words: &str| parse(words).unwrap_err().to_string();
        assert!(refusal("rt0 --peer 192.0.2.2:1").contains("--listen"));
        assert!(refusal("rt0 --listen 1").contains("--peer"));
        assert!(refusal("rt0.toml --listen 1 --peer 192.0.2.2:1").contains("not supported yet"));
        assert!(refusal(&format!("{LEAST} --mtu 100")).contains("576"));
        assert!(refusal(&format!("{LEAST} --encap plain --aead ring")).contains("cannot be used"));
        assert!(refusal("rt0 --config x.conf --aead openssl").contains("ipsec-mb"));
        assert!(refusal(&format!("{LEAST} --io epoll")).contains("mmsg"));
        assert!(refusal(&format!("{LEAST} --busy-poll 50")).contains("auto"));
        assert!(refusal(&format!("{LEAST} --encap wireguard")).contains("plain"));
    }
}
