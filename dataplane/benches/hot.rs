//! The time of the hot functions: split, merge, checksum, seal, open, lookup, replay, and a
//! worker's whole path without its system calls.
//!
//! `cargo bench -p ringtun --bench hot`, with a part of a name for some of them. The times are of
//! a run, which is a batch or many small things; "elem" are packets. Instructions, which do not
//! depend on what else the machine does, are counted by `tests/instructions`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[allow(dead_code, reason = "some of it is for the other bench")]
mod fixtures;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringtun::engine::AeadLibrary;
use ringtun::wire::wireguard::aead::Aead;

use fixtures::Case;

criterion_group! {
    name = hot;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .nresamples(10_000);
    targets = measure
}
criterion_main!(hot);

fn measure(criterion: &mut Criterion) {
    let mut aeads = vec![("ring", Aead::Ring)];
    match AeadLibrary::ipsec_mb() {
        Ok(library) => aeads.push(("ipsec-mb", library.for_worker().unwrap())),
        Err(error) => eprintln!("without IPsec-MB: {error}"),
    }
    for mut case in fixtures::cases(aeads) {
        let (function, what) = case.name.split_once('/').unwrap();
        let mut group = criterion.benchmark_group(function);
        let elements = case.packets as u64;
        group.throughput(match case.bytes as u64 {
            0 => Throughput::Elements(elements),
            bytes => Throughput::ElementsAndBytes { elements, bytes },
        });
        let what = what.to_owned();
        group.bench_function(what, |bencher| {
            bencher.iter_custom(|runs| (0..runs).map(|_| time(&mut case)).sum());
        });
    }
}

fn time(case: &mut Case) -> Duration {
    case.prepare();
    let begin = Instant::now();
    case.run();
    begin.elapsed()
}
