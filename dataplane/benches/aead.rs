//! What sealing and opening costs, by ring and by IPsec-MB, for packets of several sizes.
//!
//! `cargo bench -p ringtun --bench aead`. In: messages of one session, sealed and opened where they
//! lie, as the packet path does it. Out: medians of interleaved rounds in nanoseconds a message and
//! GB/s: beside each other, the two see the same machine, which `--bench hot` cannot promise. A
//! library that cannot be used is named with the reason.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[allow(dead_code, reason = "most of it is for the other bench")]
mod fixtures;

use std::time::Instant;

use ringtun::engine::AeadLibrary;
use ringtun::wire::wireguard::aead::Aead;

use fixtures::aead::Messages;

const LENS: [usize; 6] = [0, 64, 128, 256, 512, 1_420];
/// Messages in one measurement, a batch again and again.
const MESSAGES: usize = 16_000;
const ROUNDS: usize = 21;

fn main() {
    let mut aeads = vec![("ring".to_owned(), Aead::Ring)];
    match AeadLibrary::ipsec_mb() {
        Ok(library) => aeads.push((library.to_string(), library.for_worker().unwrap())),
        Err(error) => println!("ipsec-mb: {error}"),
    }
    println!(
        "{:<24} {:>6} {:>9} {:>10} {:>9} {:>10}",
        "", "bytes", "seal ns", "seal GB/s", "open ns", "open GB/s"
    );
    for len in LENS {
        let mut times = vec![[Vec::new(), Vec::new()]; aeads.len()];
        for _ in 0..ROUNDS {
            for ((_, aead), times) in aeads.iter().zip(&mut times) {
                let [seal, open] = round(aead, len);
                times[0].push(seal);
                times[1].push(open);
            }
        }
        for ((name, _), times) in aeads.iter().zip(&mut times) {
            let [seal, open] = times.each_mut().map(|times| {
                times.sort_by(f64::total_cmp);
                times[ROUNDS / 2]
            });
            let [seal_rate, open_rate] = [seal, open].map(|ns| len as f64 / ns);
            println!(
                "{name:<24} {len:>6} {seal:>9.0} {seal_rate:>10.2} {open:>9.0} {open_rate:>10.2}"
            );
        }
    }
}

/// Nanoseconds a message: sealing, and opening what was sealed.
fn round(aead: &Aead, len: usize) -> [f64; 2] {
    let mut batch = Messages::new(len);
    let batches = MESSAGES.div_ceil(batch.count());
    let mut spent = [0.0; 2];
    for _ in 0..batches {
        let begin = Instant::now();
        batch.seal(aead);
        let sealed = Instant::now();
        batch.open(aead);
        spent[0] += (sealed - begin).as_secs_f64();
        spent[1] += sealed.elapsed().as_secs_f64();
    }
    spent.map(|seconds| seconds * 1e9 / (batches * batch.count()) as f64)
}
