//! The exchange among real threads.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::{Exchange, Handover, Lane, UNDER_WAY_MAX};

/// Wakes by `unpark`, which is not lost when the thread does not sleep yet: as an eventfd.
fn exchange(workers: &[thread::Thread]) -> Arc<Exchange<u64>> {
    let wakes = workers.iter().cloned().map(|worker| {
        let wake: super::exchange::Wake = Box::new(move || worker.unpark());
        wake
    });
    Arc::new(Exchange::new(wakes))
}

fn under_load(exchange: &Arc<Exchange<u64>>, me: usize) -> Handover<u64> {
    let mut handover = Handover::new(Arc::clone(exchange), me);
    (0..100).for_each(|_| handover.turn(Lane::Inbound, 2));
    handover
}

#[test]
fn without_others_everything_stays() {
    let exchange = exchange(&[thread::current()]);
    let mut handover = under_load(&exchange, 0);
    for number in 0..1_000 {
        handover.submit(Lane::Inbound, number, 0).unwrap();
        let own = handover.overdue(0).unwrap();
        assert_eq!(own.job, number);
        assert!(!handover.give_back(own));
        assert_eq!(handover.release(Lane::Inbound), Some(number));
    }
    assert_eq!(handover.collect(0), 0);
}

#[test]
fn more_than_fits_is_given_back() {
    let exchange = exchange(&[thread::current(), thread::current()]);
    let mut handover = under_load(&exchange, 0);
    // The helper takes every one and keeps it.
    let mut helper = Handover::new(Arc::clone(&exchange), 1);
    let mut kept = Vec::new();
    for number in 0..UNDER_WAY_MAX as u64 {
        handover.submit(Lane::Inbound, number, 0).unwrap();
        assert!(handover.overdue(0).is_none());
        kept.push(helper.next(0).unwrap());
    }
    assert!(!handover.has_room(Lane::Inbound));
    assert_eq!(handover.submit(Lane::Inbound, 7, 0).unwrap_err(), 7);
    assert_eq!(handover.line_up(Lane::Inbound, 8), Err(8));
    assert!(handover.may_sleep(), "all is with the helper");
    assert!(kept.drain(..).rev().all(|batch| helper.give_back(batch)));
    assert!(!handover.may_sleep());
    handover.collect(0);
    let released: Vec<_> = std::iter::from_fn(|| handover.release(Lane::Inbound)).collect();
    assert!(released.iter().copied().eq(0..UNDER_WAY_MAX as u64));
}

#[test]
fn a_direction_waits_for_its_own_batches_only() {
    let exchange = exchange(&[thread::current(), thread::current()]);
    let mut handover = under_load(&exchange, 0);
    let mut helper = Handover::new(Arc::clone(&exchange), 1);
    handover.submit(Lane::Inbound, 1, 0).unwrap();
    let kept = helper.next(0).unwrap();
    handover.line_up(Lane::Outbound, 2).unwrap();
    assert_eq!(handover.release(Lane::Outbound), Some(2));
    assert_eq!(handover.release(Lane::Inbound), None);
    assert!(handover.offers(Lane::Inbound, 0) && !handover.offers(Lane::Outbound, 0));
    assert!(helper.give_back(kept));
    handover.collect(0);
    assert_eq!(handover.release(Lane::Inbound), Some(1));
}

#[test]
fn who_is_under_load_in_one_direction_helps_in_neither() {
    let exchange = exchange(&[thread::current(), thread::current()]);
    let mut handover = under_load(&exchange, 0);
    handover.submit(Lane::Inbound, 1, 0).unwrap();
    let mut other = Handover::new(Arc::clone(&exchange), 1);
    (0..100).for_each(|_| other.turn(Lane::Outbound, 2));
    (0..100).for_each(|_| other.turn(Lane::Inbound, 0));
    assert!(other.next(0).is_none());
    assert_eq!(handover.overdue(0).unwrap().job, 1);
}

/// Owner and helpers on threads of their own, each asleep whenever it may: nothing is lost,
/// doubled or overtaken, and no wake is missed (the test would not end).
#[test]
fn threads_that_sleep_miss_nothing() {
    const BATCHES: u64 = 20_000;
    const HELPERS: usize = 3;
    let (stop, helped) = (AtomicBool::new(false), AtomicU64::new(0));
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..HELPERS).map(|_| crossbeam::channel::bounded(1)).unzip();
    thread::scope(|scope| {
        let (stop, helped) = (&stop, &helped);
        let helpers = receivers.into_iter().enumerate().map(|(i, exchange)| {
            scope.spawn(move || {
                let mut helper = Handover::new(exchange.recv().unwrap(), i + 1);
                while !stop.load(Ordering::Acquire) {
                    while let Some(mut batch) = helper.next(0) {
                        batch.job *= 2;
                        helped.fetch_add(1, Ordering::Relaxed);
                        assert!(helper.give_back(batch));
                    }
                    if helper.may_sleep() {
                        thread::park();
                    }
                    helper.awake();
                }
            })
        });
        let helpers: Vec<_> = helpers.collect();
        let threads = helpers.iter().map(|helper| helper.thread().clone());
        let threads: Vec<_> = [thread::current()].into_iter().chain(threads).collect();
        let exchange = exchange(&threads);
        senders.iter().for_each(|sender| sender.send(Arc::clone(&exchange)).unwrap());
        own(under_load(&exchange, 0), BATCHES);
        stop.store(true, Ordering::Release);
        helpers.iter().for_each(|helper| helper.thread().unpark());
    });
    assert!(helped.load(Ordering::Relaxed) >= LEFT);
}

/// Batches that the owner leaves to its helpers, one by one.
const LEFT: u64 = 200;

fn own(mut owner: Handover<u64>, batches: u64) {
    let (mut submitted, mut released, mut now_ms) = (0, 0, 0);
    while released < batches {
        // However seldom helpers come: in this time no pause lasts.
        now_ms += 10_000;
        owner.turn(Lane::Inbound, 2);
        let left = submitted < LEFT;
        while submitted < batches
            && owner.has_room(Lane::Inbound)
            && !(left && submitted > released)
        {
            owner.submit(Lane::Inbound, submitted, now_ms).unwrap();
            submitted += 1;
            while !left && let Some(mut own) = owner.overdue(now_ms) {
                own.job *= 2;
                owner.give_back(own);
            }
        }
        owner.collect(now_ms);
        while let Some(job) = owner.release(Lane::Inbound) {
            assert_eq!(job, released * 2);
            released += 1;
        }
        if left {
            thread::yield_now();
        } else if released % 3 == 0
            && let Some(mut own) = owner.next(now_ms)
        {
            own.job *= 2;
            owner.give_back(own);
        } else if released < batches && submitted == batches && owner.may_sleep() {
            thread::park();
        }
        owner.awake();
    }
}
