//! What a second core is worth: batches of one session, opened or sealed, and released in order.
//!
//! `cargo bench -p ringtun --bench handover`. In: batches of 45 messages of 1,452 bytes, two a
//! turn, as a saturated receive brings them. Out: medians of interleaved rounds in nanoseconds a
//! message: by one worker without any hand-over, by one with a helper, each on a core of its own,
//! and the ratio; the share that the helper took; how far the two cores are from twice one,
//! measured by both doing the same work with nothing in common.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Instant;

use ringtun::engine::AeadLibrary;
use ringtun::wire::wireguard::aead::Aead;
use ringtun::wire::wireguard::session::{Session, TransportKeys};
use ringtun::worker::handover::{Exchange, Handover, Lane, Wake};
use ringtun::worker::wireguard::run::Run;
use zeroize::Zeroizing;

const MESSAGE_LEN: usize = 1_452;
const MESSAGES: usize = 45;
const BATCHES: usize = 128;
const PER_TURN: usize = 2;
const ROUNDS: usize = 41;

/// A batch and all that is needed to work on it.
struct Job {
    number: usize,
    bytes: Box<[u8]>,
    session: Arc<Session>,
    first_counter: u64,
    run: Run,
    seals: bool,
}

impl Job {
    fn work(&mut self, aead: &Aead) {
        if !self.seals {
            return self.run.open(aead, Some(&self.session), &mut self.bytes, 0, MESSAGE_LEN);
        }
        for (message, counter) in self.bytes.chunks_mut(MESSAGE_LEN).zip(self.first_counter..) {
            self.session.seal(aead, counter, message);
        }
    }
}

fn main() {
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
    let mut libraries = vec![AeadLibrary::Ring];
    match AeadLibrary::ipsec_mb() {
        Ok(library) => libraries.push(library),
        Err(error) => println!("ipsec-mb: {error}"),
    }
    println!(
        "{:<24} {:<5} {:>9} {:>10} {:>7} {:>13} {:>11}",
        "", "", "1 core ns", "2 cores ns", "ratio", "helper's part", "cores' own"
    );
    for library in libraries {
        for seals in [false, true] {
            compare(&library, seals);
        }
    }
}

fn compare(library: &AeadLibrary, seals: bool) {
    let stop = AtomicBool::new(false);
    let (to_helper, from_owner) = crossbeam::channel::bounded::<Arc<Exchange<Job>>>(1);
    thread::scope(|scope| {
        let stop = &stop;
        let helper = scope.spawn(move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
            help(Handover::new(from_owner.recv().unwrap(), 1), library, stop);
        });
        let exchange = exchange([thread::current(), helper.thread().clone()]);
        to_helper.send(Arc::clone(&exchange)).unwrap();
        let mut owner = Owner::new(Handover::new(exchange, 0), library, seals);
        let [mut alone, mut together, mut ratios, mut independent] = [(); 4].map(|()| Vec::new());
        for _ in 0..ROUNDS {
            let [one, two] = [owner.round(false), owner.round(true)];
            alone.push(one);
            together.push(two);
            ratios.push(one / two);
            independent.push(owner.two_at_once(library));
        }
        let part = 100.0 * owner.helped as f64 / (ROUNDS * BATCHES) as f64;
        let [alone, together, ratio, independent] =
            [alone, together, ratios, independent].map(median);
        println!(
            "{:<24} {:<5} {alone:>9.0} {together:>10.0} {ratio:>7.2} {part:>12.0}% {:>11.2}",
            library.to_string(),
            if seals { "seal" } else { "open" },
            2.0 * alone / independent,
        );
        stop.store(true, Ordering::Release);
        helper.thread().unpark();
    });
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn exchange(workers: [Thread; 2]) -> Arc<Exchange<Job>> {
    let wakes = workers.map(|worker| Box::new(move || worker.unpark()) as Wake);
    Arc::new(Exchange::new(wakes))
}

/// A worker without traffic of its own.
fn help(mut handover: Handover<Job>, library: &AeadLibrary, stop: &AtomicBool) {
    let aead = library.for_worker().unwrap();
    while !stop.load(Ordering::Acquire) {
        while let Some(mut batch) = handover.next(0) {
            batch.job.work(&aead);
            handover.give_back(batch);
        }
        if handover.may_sleep() {
            thread::park();
        }
        handover.awake();
    }
}

struct Owner {
    handover: Handover<Job>,
    session: Arc<Session>,
    aead: Aead,
    jobs: Vec<Job>,
    done: Vec<Job>,
    /// Batches that the helper has done.
    helped: u64,
    begin: Instant,
}

impl Owner {
    fn new(handover: Handover<Job>, library: &AeadLibrary, seals: bool) -> Self {
        let key = |byte| Zeroizing::new([byte; 32]);
        let keys = TransportKeys { send: key(1), receive: key(1) };
        let session = Arc::new(Session::new(&keys, 1, 1, true, 0).unwrap());
        let job = |number| Job {
            number,
            bytes: vec![7; MESSAGES * MESSAGE_LEN].into(),
            session: Arc::clone(&session),
            first_counter: 0,
            run: Run::default(),
            seals,
        };
        let jobs = (0..BATCHES).map(job).collect();
        let (aead, done) = (library.for_worker().unwrap(), Vec::with_capacity(BATCHES));
        Self { handover, session, aead, jobs, done, helped: 0, begin: Instant::now() }
    }

    /// Nanoseconds a message, by this worker alone or with the helper.
    fn round(&mut self, shared: bool) -> f64 {
        for job in &mut self.jobs {
            job.first_counter = self.session.reserve(MESSAGES as u64).unwrap();
            if !job.seals {
                for (message, counter) in job.bytes.chunks_mut(MESSAGE_LEN).zip(job.first_counter..)
                {
                    self.session.seal(&self.aead, counter, message);
                }
            }
        }
        let mut arrived = std::mem::take(&mut self.jobs).into_iter();
        let begin = Instant::now();
        loop {
            let turn = arrived.by_ref().take(PER_TURN);
            let found = if shared { self.share(turn) } else { self.alone(turn) };
            if found == 0 && self.done.len() == BATCHES {
                break;
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        std::mem::swap(&mut self.jobs, &mut self.done);
        assert!(self.jobs.iter().map(|job| job.number).eq(0..BATCHES), "order");
        seconds * 1e9 / (BATCHES * MESSAGES) as f64
    }

    fn alone(&mut self, turn: impl Iterator<Item = Job>) -> usize {
        let before = self.done.len();
        for mut job in turn {
            job.work(&self.aead);
            self.release(job);
        }
        self.done.len() - before
    }

    /// A turn as a worker takes it.
    fn share(&mut self, turn: impl Iterator<Item = Job>) -> usize {
        let now_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap();
        self.handover.awake();
        let mut found = 0;
        for job in turn {
            found += 1;
            if self.handover.submit(Lane::Inbound, job, now_ms).is_err() {
                panic!("no room");
            }
            while let Some(mut batch) = self.handover.overdue(now_ms) {
                batch.job.work(&self.aead);
                self.handover.give_back(batch);
            }
        }
        if found > 0 {
            self.handover.turn(Lane::Inbound, found);
        } else if let Some(mut batch) = self.handover.next(now_ms) {
            batch.job.work(&self.aead);
            self.handover.give_back(batch);
        }
        self.helped += self.handover.collect(now_ms);
        while let Some(job) = self.handover.release(Lane::Inbound) {
            self.release(job);
        }
        if found == 0 && self.handover.under_way(Lane::Inbound) > 0 && self.handover.may_sleep() {
            thread::park();
        }
        found
    }

    /// What only the owner can do with a batch.
    fn release(&mut self, mut job: Job) {
        if !job.seals {
            let mut admission = job.session.admission();
            let refused = job.run.keep(|counter| admission.admit(counter));
            drop(admission);
            assert_eq!((refused, job.run.opened().len()), (0, MESSAGES));
        }
        self.done.push(job);
    }

    /// Nanoseconds a message of one core when both work, with nothing in common.
    fn two_at_once(&mut self, library: &AeadLibrary) -> f64 {
        let half = |cpu: usize, jobs: &mut [Job], aead: &Aead| {
            core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
            let begin = Instant::now();
            for job in jobs.iter_mut() {
                for (message, counter) in job.bytes.chunks_mut(MESSAGE_LEN).zip(0..) {
                    job.session.seal(aead, counter, message);
                }
            }
            begin.elapsed().as_secs_f64() * 1e9 / (jobs.len() * MESSAGES) as f64
        };
        let (ours, theirs) = self.jobs.split_at_mut(BATCHES / 2);
        let other = library.for_worker().unwrap();
        let aead = &self.aead;
        thread::scope(|scope| {
            let other = scope.spawn(move || half(1, theirs, &other));
            let one = half(0, ours, aead);
            one.max(other.join().unwrap())
        })
    }
}
