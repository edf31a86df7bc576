//! Has the kernel pick the tun queue of an outbound packet by its flow alone.
//!
//! A program of 60 instructions, attached to the device (`TUNSETSTEERINGEBPF`, Linux 4.16), hashes
//! addresses, protocol and ports; a packet's queue is the hash modulo their number
//! (drivers/net/tun.c, `tun_ebpf_select_queue`). Fragments are told by their addresses, all parts
//! of a datagram alike. Needs CAP_BPF or CAP_SYS_ADMIN over the machine, unless
//! `kernel.unprivileged_bpf_disabled` is 0.

use std::io;
use std::os::fd::BorrowedFd;

use super::bpf::{self, Instruction, op};

/// `_IOR('T', 224, int)`, linux/if_tun.h; libc has none.
const TUNSETSTEERINGEBPF: libc::Ioctl = 0x8004_54e0_u32 as libc::Ioctl;
/// An odd number whose bits look random, from the golden ratio.
const MIX: i32 = 0x9e37_79b1_u32.cast_signed();

/// R0 = the big-endian word, half or byte at `at`; past the packet's end the program returns 0.
const fn load(size: u8, at: i32) -> Instruction {
    op(0x20 | size, 0, 0, 0, at)
}
const WORD: u8 = 0x00;
const HALF: u8 = 0x08;
const BYTE: u8 = 0x10;

/// R7 = R7 * MIX + R0.
const fn mix() -> [Instruction; 2] {
    [op(0x27, 7, 0, 0, MIX), op(0x0f, 7, 0, 0, 0)]
}

/// Jumps over `count` instructions if R`register` is (`0x15`) or is not (`0x55`) `value`.
const fn skip(code: u8, register: u8, value: i32, count: i16) -> Instruction {
    op(code, register, 0, count, value)
}
const IF_EQUAL: u8 = 0x15;
const IF_NOT: u8 = 0x55;
const ALWAYS: u8 = 0x05;

/// Registers: 6 the packet, 7 the hash, 8 the protocol, 9 where the ports are.
fn program() -> Vec<Instruction> {
    const TCP: i32 = 6;
    const UDP: i32 = 17;
    // Ports, and the end: what every branch comes to.
    let mut tail = vec![skip(IF_EQUAL, 8, TCP, 1), skip(IF_NOT, 8, UDP, 3)];
    // R0 = the word at R9.
    tail.push(op(0x40, 0, 9, 0, 0));
    tail.extend(mix());
    // R0 = the upper half of (R7 ^ R7 >> 32) * MIX, in which each bit of R7 counts: connections of
    // one host have ports of one parity (net/ipv4/inet_hashtables.c `__inet_hash_connect`). Exit.
    tail.extend([
        op(0xbf, 0, 7, 0, 0),
        op(0x77, 0, 0, 0, 32),
        op(0xaf, 7, 0, 0, 0),
        op(0xbf, 0, 7, 0, 0),
        op(0x27, 0, 0, 0, MIX),
        op(0x77, 0, 0, 0, 32),
        op(0x95, 0, 0, 0, 0),
    ]);
    let end = 5;

    let mut v4 = vec![load(BYTE, 9), op(0xbf, 8, 0, 0, 0)];
    for address in [12, 16] {
        v4.push(load(WORD, address));
        v4.extend(mix());
    }
    // R9 = the header's length.
    v4.extend([load(BYTE, 0), op(0x57, 0, 0, 0, 0xf), op(0x67, 0, 0, 0, 2), op(0xbf, 9, 0, 0, 0)]);
    // A fragment: the end.
    v4.extend([load(HALF, 6), op(0x57, 0, 0, 0, 0x3fff), skip(IF_NOT, 0, 0, end)]);

    // Behind an extension header, a fragment's too, the protocol is neither TCP nor UDP.
    let mut v6 = vec![load(BYTE, 6), op(0xbf, 8, 0, 0, 0)];
    for address in (8..40).step_by(4) {
        v6.push(load(WORD, address));
        v6.extend(mix());
    }
    v6.push(op(0xb7, 9, 0, 0, 40));
    let over = |code: &[Instruction]| i16::try_from(code.len()).unwrap_or(0);
    v6.push(op(ALWAYS, 0, 0, over(&v4), 0));

    let mut all = vec![op(0xbf, 6, 1, 0, 0), op(0xb7, 7, 0, 0, 0)];
    all.extend([load(BYTE, 0), op(0x77, 0, 0, 0, 4), skip(IF_NOT, 0, 6, over(&v6))]);
    all.extend(v6);
    all.extend(v4);
    all.extend(tail);
    all
}

/// From now on the device of `queue` gives all packets of a flow to one queue, for as long as it
/// lives.
///
/// # Errors
/// EPERM without the right to load programs; what else the kernel says of them.
pub fn by_flow(queue: BorrowedFd<'_>) -> io::Result<()> {
    bpf::attach(queue, TUNSETSTEERINGEBPF, Some(&bpf::load(&program())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `program` as the kernel would; only what it is made of.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let mut registers = [0_u64; 10];
        let mut at = 0_usize;
        loop {
            let Instruction { code, registers: both, offset, immediate } = program[at];
            let (dst, src) = (usize::from(both & 15), usize::from(both >> 4));
            let value = i64::from(immediate).cast_unsigned();
            let mut jump = |taken: bool| {
                if taken {
                    at = at.checked_add_signed(offset.into()).unwrap();
                }
            };
            match code {
                0x05 => jump(true),
                0x15 => jump(registers[dst] == value),
                0x55 => jump(registers[dst] != value),
                0x0f => registers[dst] = registers[dst].wrapping_add(registers[src]),
                0x27 => registers[dst] = registers[dst].wrapping_mul(value),
                0x57 => registers[dst] &= value,
                0x67 => registers[dst] <<= value,
                0x77 => registers[dst] >>= value,
                0xaf => registers[dst] ^= registers[src],
                0xb7 => registers[dst] = value,
                0xbf => registers[dst] = registers[src],
                0x95 => return u32::try_from(registers[0] & 0xffff_ffff).unwrap(),
                0x20 | 0x28 | 0x30 | 0x40 => {
                    let from = usize::try_from(immediate).unwrap()
                        + if code == 0x40 { usize::try_from(registers[src]).unwrap() } else { 0 };
                    let len = [4, 2, 1][usize::from(code >> 3 & 3)];
                    let Some(bytes) = packet.get(from..from + len) else { return 0 };
                    registers[0] = bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
                }
                code => panic!("no instruction {code:#x}"),
            }
            at += 1;
        }
    }

    fn v4(source: u8, port: u16, fragment: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 1, 2, 0, 0, 64, 17, 0, 0, 10, 0, 0, source];
        packet.extend([10, 0, 0, 9]);
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet.extend(port.to_be_bytes().into_iter().chain([0, 53, 0, 8, 0, 0]));
        packet
    }

    fn v6(last: u8, port: u16, next: u8) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, next, 64];
        packet.extend([0xfd; 16]);
        packet.extend([0xfd; 15].into_iter().chain([last]));
        packet.extend(port.to_be_bytes().into_iter().chain([0, 53, 0, 8, 0, 0]));
        packet
    }

    #[test]
    fn flows_spread_and_stay() {
        let program = program();
        let queue = |packet: &[u8]| run(&program, packet) % 4;
        let mut seen = [[0; 4]; 4];
        for n in 0..1000_u16 {
            let byte = n.to_be_bytes()[1];
            for (seen, packet) in seen.iter_mut().zip([
                v4(1, n, 0x4000),
                v4(byte, 7, 0),
                v6(1, n, 17),
                v6(byte, 7, 17),
            ]) {
                let chosen = queue(&packet);
                // What differs between the packets of a flow does not count.
                let mut later = packet.clone();
                (later[4], later[5]) = (9, 9);
                later.extend([7; 100]);
                assert_eq!(queue(&later), chosen);
                seen[chosen as usize] += 1;
            }
        }
        assert!(seen.iter().flatten().all(|&count| count > 150), "{seen:?}");
    }

    /// Whatever power of two divides their ports, from either side, for every number of queues.
    #[test]
    fn ports_of_a_pattern_spread_too() {
        let program = program();
        for (step, queues) in
            [1, 2, 4, 8, 16].into_iter().flat_map(|s| [2, 3, 4, 8].map(|q| (s, q)))
        {
            let mut seen = [[0_u32; 8]; 3];
            for n in 0..1024_u16 {
                let port = 32_768 + n * step;
                let mut answer = v4(1, 53, 0x4000);
                answer[22..24].copy_from_slice(&port.to_be_bytes());
                let packets = [v4(1, port, 0x4000), answer, v6(1, port, 6)];
                for (seen, packet) in seen.iter_mut().zip(packets) {
                    seen[(run(&program, &packet) % queues) as usize] += 1;
                }
            }
            let fair = 1024 / queues;
            for seen in seen {
                let seen = &seen[..queues as usize];
                assert!(seen.iter().all(|&it| it > fair / 2), "{step} {queues} {seen:?}");
            }
        }
    }

    #[test]
    fn all_parts_of_a_datagram_have_one_queue() {
        let program = program();
        let first = run(&program, &v4(1, 4711, 0x2000));
        assert_eq!(run(&program, &v4(1, 0xabcd, 0x20b9)), first);
        assert_eq!(run(&program, &v4(1, 0x1234, 0x0172)), first);
        assert_ne!(run(&program, &v4(1, 4711, 0x4000)), first);
        let first = run(&program, &v6(1, 4711, 44));
        assert_eq!(run(&program, &v6(1, 5, 44)), first);
        assert_ne!(run(&program, &v6(1, 4711, 17)), run(&program, &v6(1, 5, 17)));
    }

    #[test]
    fn what_is_no_packet_has_a_queue_too() {
        let program = program();
        for packet in [v4(1, 1, 0), v6(1, 1, 6)] {
            for len in 0..packet.len() {
                run(&program, &packet[..len]);
            }
        }
        for first in 0..=255 {
            run(&program, &[first; 60]);
        }
    }
}
