//! 4, 8 and 16 workers in virtual time: is the work even, the order kept, the waiting bounded?
//!
//! The workers are the real ones' logic (`Handover`, and the steps that a turn takes); time, the
//! kernel and the cryptography are simulated, everything from one seed. Times are in nanoseconds.
#![allow(clippy::unwrap_used)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Mutex};

use super::{Exchange, Handover, Lane, Numbered, UNDER_WAY_MAX};

/// What only the owner of a batch can do: receiving, admitting, merging, writing.
const OWNERS_PART_NS: u64 = 800;
/// Opening a batch, at least and at most.
const OPEN_NS: (u64, u64) = (20_000, 40_000);
const ENTER_NS: u64 = 1_000;
/// From the signal until a sleeping worker runs.
const WAKE_NS: u64 = 15_000;
/// Batches that one turn finds at most: the slots lent at a time.
const TURN_MAX: usize = 2;
/// Batches that the kernel keeps for a worker.
const SOCKET_MAX: usize = 64;
const MS: u64 = 1_000_000;

struct Batch {
    number: u64,
    taken_on_ns: u64,
}

/// How the simulation is set up.
#[derive(Clone)]
struct Load {
    workers: usize,
    /// Nanoseconds between two batches of a worker's flow; `None` for no flow.
    every_ns: Vec<Option<u64>>,
    /// One in so many batches, a helper is put to sleep in the middle for that long.
    stall: Option<(u64, u64)>,
    /// Helpers are never scheduled.
    no_helpers: bool,
    for_ns: u64,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    released: Vec<u64>,
    by_helpers: u64,
    /// Nanoseconds that each worker spent at work.
    busy_ns: Vec<u64>,
    waited_max_ns: u64,
    wakes: usize,
}

enum Doing {
    Sleeping,
    /// Something that ends with the event.
    Busy,
    Working(Numbered<Batch>),
}

struct Worker {
    handover: Handover<Batch>,
    doing: Doing,
    /// Events of an earlier one are void: who sleeps has one for what arrives, one for who wakes.
    generation: u64,
    arrived: VecDeque<Batch>,
    every_ns: Option<u64>,
    arrivals: u64,
    taken_on: u64,
    released: u64,
}

struct Simulation {
    load: Load,
    workers: Vec<Worker>,
    /// When, which worker, and of which generation.
    events: BinaryHeap<Reverse<(u64, usize, u64)>>,
    woken: Arc<Mutex<Vec<usize>>>,
    random: u64,
    outcome: Outcome,
}

impl Simulation {
    fn run(load: &Load, seed: u64) -> Outcome {
        let woken = Arc::new(Mutex::new(Vec::new()));
        let wake = |worker| {
            let woken = Arc::clone(&woken);
            Box::new(move || woken.lock().unwrap().push(worker)) as super::exchange::Wake
        };
        let exchange = Arc::new(Exchange::new((0..load.workers).map(wake)));
        let workers = (0..load.workers).map(|me| Worker {
            handover: Handover::new(Arc::clone(&exchange), me),
            doing: Doing::Busy,
            generation: 0,
            arrived: VecDeque::new(),
            every_ns: load.every_ns[me],
            arrivals: 0,
            taken_on: 0,
            released: 0,
        });
        let outcome = Outcome { busy_ns: vec![0; load.workers], ..Outcome::default() };
        let mut simulation = Self {
            workers: workers.collect(),
            events: (0..load.workers).map(|worker| Reverse((0, worker, 0))).collect(),
            woken,
            random: seed | 1,
            outcome,
            load: load.clone(),
        };
        while let Some(Reverse((now, worker, generation))) = simulation.events.pop()
            && now < load.for_ns
        {
            if simulation.workers[worker].generation == generation {
                simulation.workers[worker].generation += 1;
                simulation.step(now, worker);
                simulation.pass_on_wakes(now);
            }
        }
        let released = simulation.workers.iter().map(|worker| worker.released);
        simulation.outcome.released = released.collect();
        simulation.outcome
    }

    /// What a worker does next, as its turn goes (`worker::wireguard`, `io::uring`).
    fn step(&mut self, now: u64, me: usize) {
        let now_ms = now / MS;
        let worker = &mut self.workers[me];
        match std::mem::replace(&mut worker.doing, Doing::Busy) {
            Doing::Working(batch) => {
                let for_another = worker.handover.give_back(batch);
                self.outcome.by_helpers += u64::from(for_another);
            }
            Doing::Sleeping => worker.handover.awake(),
            Doing::Busy => {}
        }
        let mut spent = self.release(now, me);
        let worker = &mut self.workers[me];
        if let Some(own) = worker.handover.overdue(now_ms) {
            return self.work(now, me, spent, own);
        } else if !worker.handover.has_room(Lane::Inbound) {
            // As if there were nothing to receive.
        } else if let Some(batch) = worker.arrived.pop_front() {
            spent += OWNERS_PART_NS;
            let Ok(()) = worker.handover.submit(Lane::Inbound, batch, now_ms) else {
                panic!("no room")
            };
            return self.busy(now, me, spent);
        } else if let found @ 1.. = worker.receive(now) {
            worker.handover.turn(Lane::Inbound, found);
            return self.busy(now, me, spent + ENTER_NS);
        }
        if let Some(batch) = worker.handover.next(now_ms) {
            return self.work(now, me, spent, batch);
        }
        if spent > 0 || !worker.handover.may_sleep() {
            return self.busy(now, me, spent + ENTER_NS);
        }
        worker.doing = Doing::Sleeping;
        // Without room, what comes stays in the socket: only a batch that comes back wakes.
        if worker.handover.has_room(Lane::Inbound)
            && let Some(next) = worker.next_arrival_ns()
        {
            self.schedule(next.max(now + 1), me);
        }
    }

    fn release(&mut self, now: u64, me: usize) -> u64 {
        let worker = &mut self.workers[me];
        worker.handover.collect(now / MS);
        let mut spent = 0;
        while let Some(batch) = worker.handover.release(Lane::Inbound) {
            assert_eq!(batch.number, worker.released, "order");
            worker.released += 1;
            spent += OWNERS_PART_NS;
            let waited = now - batch.taken_on_ns;
            self.outcome.waited_max_ns = self.outcome.waited_max_ns.max(waited);
        }
        spent
    }

    fn work(&mut self, now: u64, me: usize, spent: u64, batch: Numbered<Batch>) {
        let mut cost = OPEN_NS.0 + self.random(OPEN_NS.1 - OPEN_NS.0);
        self.outcome.busy_ns[me] += spent + cost;
        if let Some((one_in, stall_ns)) = self.load.stall
            && batch.owner != me
            && self.random(one_in) == 0
        {
            cost += stall_ns;
        }
        self.workers[me].doing = Doing::Working(batch);
        self.schedule(now + spent + cost, me);
    }

    fn busy(&mut self, now: u64, me: usize, spent: u64) {
        self.outcome.busy_ns[me] += spent;
        self.schedule(now + spent.max(1), me);
    }

    fn schedule(&mut self, at_ns: u64, me: usize) {
        self.events.push(Reverse((at_ns, me, self.workers[me].generation)));
    }

    fn pass_on_wakes(&mut self, now: u64) {
        let woken: Vec<_> = self.woken.lock().unwrap().drain(..).collect();
        for woken in woken {
            self.outcome.wakes += 1;
            if !(self.load.no_helpers && self.workers[woken].every_ns.is_none()) {
                self.schedule(now + WAKE_NS, woken);
            }
        }
    }

    /// A number below `limit` (xorshift64).
    fn random(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }
}

impl Worker {
    fn next_arrival_ns(&self) -> Option<u64> {
        self.every_ns.map(|every| (self.arrivals + 1) * every)
    }

    /// Takes what has come for this worker by now; what the socket cannot keep is lost before it
    /// has a number.
    fn receive(&mut self, now: u64) -> usize {
        let Some(every) = self.every_ns else { return 0 };
        let waiting = usize::try_from(now / every - self.arrivals).unwrap().min(SOCKET_MAX);
        self.arrivals = now / every - waiting as u64;
        let found = waiting.min(TURN_MAX);
        for _ in 0..found {
            self.arrivals += 1;
            self.arrived.push_back(Batch { number: self.taken_on, taken_on_ns: now });
            self.taken_on += 1;
        }
        found
    }
}

/// A flow that brings more than all workers together can do, at each of the first `hot` workers.
fn saturated(workers: usize, hot: usize) -> Load {
    let every_ns = (0..workers).map(|worker| (worker < hot).then_some(500)).collect();
    Load { workers, every_ns, stall: None, no_helpers: false, for_ns: 200 * MS }
}

/// The longest that a batch may wait for those before it when nobody is put to sleep. Two wait for
/// each idle worker; there are the one in every hand, one that the owner has begun meanwhile, and
/// one for who comes last. If there are other hot flows, all other workers may turn busy just when
/// the batches have been offered, and the owner then does every one.
fn wait_max_ns(workers: usize, hot: usize) -> u64 {
    let waiting = if hot == 1 { 2 } else { 2 * (workers as u64 - 1) };
    (waiting + 3) * OPEN_NS.1 + WAKE_NS + UNDER_WAY_MAX as u64 * OWNERS_PART_NS
}

#[test]
fn work_is_even_in_order_and_waits_for_little() {
    for (workers, seed) in [4, 8, 16].into_iter().flat_map(|n| (1..=5).map(move |s| (n, s))) {
        for hot in [1, 2, workers / 2, workers - 1] {
            let outcome = Simulation::run(&saturated(workers, hot), seed);
            let (min, max) =
                (outcome.busy_ns.iter().min().unwrap(), outcome.busy_ns.iter().max().unwrap());
            // The least busy worker has at least 85 % of the work of the busiest one.
            assert!(min * 100 >= max * 85, "{workers} workers, {hot} hot: {:?}", outcome.busy_ns);
            let waited = outcome.waited_max_ns;
            assert!(
                waited <= wait_max_ns(workers, hot),
                "{workers} workers, {hot} hot: {waited} ns"
            );
            assert!(outcome.by_helpers > 0);
        }
    }
}

#[test]
fn one_hot_flow_gets_what_all_workers_can_do() {
    for workers in [2, 4, 8, 16] {
        let of = |workers| Simulation::run(&saturated(workers, 1), 7).released[0];
        let (alone, together) = (of(1), of(workers));
        assert!(together * 100 >= alone * workers as u64 * 85, "{workers}: {alone} {together}");
    }
}

#[test]
fn with_all_workers_hot_nothing_is_handed_over_for_long() {
    let outcome = Simulation::run(&saturated(8, 8), 3);
    let total: u64 = outcome.released.iter().sum();
    assert!(outcome.by_helpers * 100 <= total, "{} of {total}", outcome.by_helpers);
}

/// Eight peers that each bring three quarters of what one core can do, so many at each worker.
fn peers_at(counts: [u64; 8]) -> Load {
    let every_ns = counts.map(|count| (count > 0).then(|| 42_000 / count)).to_vec();
    Load { every_ns, ..saturated(8, 0) }
}

/// A program that gives each worker its peer leaves nothing to be handed over; where a hash lets
/// three peers meet at one worker, handing over makes up for it: a third of all batches.
#[test]
fn peers_spread_evenly_need_no_help_and_others_get_it() {
    let even = Simulation::run(&peers_at([1; 8]), 1);
    let hashed = peers_at([3, 2, 1, 1, 1, 0, 0, 0]);
    let helped = Simulation::run(&hashed, 1);
    let alone = Simulation::run(&Load { no_helpers: true, ..hashed }, 1);
    let total = |outcome: &Outcome| outcome.released.iter().sum::<u64>();
    assert_eq!((even.by_helpers, even.wakes), (0, 0));
    assert!(total(&helped) * 100 >= total(&even) * 95, "{helped:?}");
    assert!(helped.by_helpers * 4 >= total(&helped), "{helped:?}");
    assert!(total(&alone) * 100 <= total(&even) * 85, "{alone:?}");
}

#[test]
fn under_low_load_nothing_is_handed_over_and_nobody_is_woken() {
    for workers in [4, 8, 16] {
        // Half of what one core can do, at every second worker.
        let every_ns = (0..workers).map(|worker| (worker % 2 == 0).then_some(70_000)).collect();
        let load = Load { every_ns, ..saturated(workers, 0) };
        let outcome = Simulation::run(&load, 1);
        assert_eq!((outcome.by_helpers, outcome.wakes), (0, 0));
        assert!(outcome.released[0] * 70_000 >= load.for_ns * 99 / 100, "{outcome:?}");
    }
}

#[test]
fn a_helper_put_to_sleep_delays_by_no_more_than_that() {
    for (workers, seed) in [4, 8, 16].into_iter().flat_map(|n| (1..=5).map(move |s| (n, s))) {
        let stall_ns = 10 * MS;
        let load = Load { stall: Some((500, stall_ns)), ..saturated(workers, 1) };
        let outcome = Simulation::run(&load, seed);
        let bound = stall_ns + wait_max_ns(workers, 1);
        assert!(outcome.waited_max_ns <= bound, "{workers}: {} ns", outcome.waited_max_ns);
        let alone = Simulation::run(&saturated(1, 1), seed).released[0];
        // While the first one in order is away, the owner has only so many to go on with.
        assert!(outcome.released[0] * 10 >= alone * 9, "{workers}: {alone} {outcome:?}");
    }
}

#[test]
fn helpers_that_never_come_cost_nothing_to_speak_of() {
    let alone = Simulation::run(&saturated(1, 1), 1).released[0];
    let load = Load { no_helpers: true, ..saturated(8, 1) };
    let outcome = Simulation::run(&load, 1);
    assert_eq!(outcome.by_helpers, 0);
    assert!(outcome.released[0] * 100 >= alone * 97, "{alone} {outcome:?}");
}

#[test]
fn a_seed_says_all() {
    let of = |seed| {
        let outcome = Simulation::run(&saturated(8, 3), seed);
        (outcome.released, outcome.busy_ns, outcome.wakes)
    };
    assert_eq!(of(5), of(5));
    assert_ne!(of(5), of(6));
}
