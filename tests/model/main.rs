//! Random sequences of operations on the union, without FUSE, against a plain tree in memory that says what is right.
//!
//! `PROPTEST_CASES` asks for more sequences than these; `PROPTEST_RNG_SEED` for those of a run that failed.

// Clippy knows tests by their attribute; most of this is what they share.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod check;
mod indexed;
mod layers;
mod model;
mod ops;
mod packed;
mod regressions;
mod together;

use onlay::vocab::Errno;
use onlay::vocab::dialect::Prefix;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

use check::{Harness, Where};

pub(crate) fn prefix() -> impl Strategy<Value = Prefix> {
    prop_oneof![Just(Prefix::Trusted), Just(Prefix::User)]
}

pub(crate) fn memory() -> impl Strategy<Value = Where> {
    prop_oneof![Just(Where::Apart), Just(Where::Together)]
}

pub(crate) fn layers() -> impl Strategy<Value = Vec<layers::Layer>> {
    prop::collection::vec(layers::layer(), 0..=4)
}

/// At least `cases`, of which `PROPTEST_CASES` may want more (it is a number for the tests in memory).
pub(crate) fn runner(cases: u32, share: u32) -> TestRunner {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let cases = cases.max(wanted / share);
    // The environment's, or one of our own that can be told.
    let seed = match Config::default().rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), cases),
    };
    // Shown where the test fails.
    println!("PROPTEST_RNG_SEED={seed}");
    let rng_seed = RngSeed::Fixed(seed);
    TestRunner::new(Config {
        cases,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        rng_seed,
        ..Config::default()
    })
}

pub(crate) fn failed<T: std::fmt::Debug>(e: TestError<T>) {
    match e {
        TestError::Fail(why, input) => panic!("{why}\n{input:?}"),
        TestError::Abort(why) => panic!("{why}"),
    }
}

fn whole(layers: &[layers::Layer], place: Where, prefix: Prefix, ops: &[ops::Op]) {
    let mut h = Harness::new(layers, place, prefix);
    for op in ops {
        h.run(op);
    }
    h.check();
}

#[test]
fn in_memory() {
    let input = (layers(), memory(), prefix(), prop::collection::vec(ops::op(), 0..40));
    runner(3000, 1)
        .run(&input, |(layers, place, prefix, ops)| {
            whole(&layers, place, prefix, &ops);
            Ok(())
        })
        .unwrap_or_else(failed);
}

#[test]
fn with_stored_owners() {
    let input = (layers(), memory(), prop::collection::vec(ops::op(), 0..40));
    runner(1000, 4)
        .run(&input, |(layers, place, ops)| {
            let mut h = Harness::new(&layers, place, Prefix::User);
            h.store_owners();
            ops.iter().for_each(|op| h.run(op));
            h.check();
            Ok(())
        })
        .unwrap_or_else(failed);
}

/// Layers without hard links: those need the inode index, which a plain upper does not have.
fn unlinked_layers() -> impl Strategy<Value = Vec<layers::Layer>> {
    layers().prop_map(|mut all| {
        all.iter_mut().for_each(|layer| layer.retain(|(_, put)| !matches!(put, layers::Put::Link(_))));
        all
    })
}

#[test]
fn with_whiteouts_as_files() {
    let place = prop_oneof![3 => Just(Where::Apart), 3 => Just(Where::Together), 1 => Just(Where::Disk)];
    let errno = prop_oneof![Just(Errno::NOSPC), Just(Errno::IO)];
    let fault = prop::option::weighted(0.1, (1..12_u64, errno));
    let ops = prop::collection::vec((ops::op(), fault), 0..40);
    let input = (unlinked_layers(), place, prefix(), any::<bool>(), ops);
    runner(500, 4)
        .run(&input, |(layers, place, prefix, faulty, ops)| {
            let mut h = Harness::new(&layers, place, prefix);
            h.make_plain();
            h.faulty = faulty;
            for (op, fault) in &ops {
                h.fault = fault.filter(|_| faulty);
                h.run(op);
                h.fault = None;
            }
            h.check();
            Ok(())
        })
        .unwrap_or_else(failed);
}

#[test]
fn as_layers_and_back() {
    let input = (layers(), memory(), any::<bool>(), prop::collection::vec(ops::op(), 0..40));
    runner(200, 8)
        .run(&input, |(layers, place, stored, ops)| {
            let mut h = Harness::new(&layers, place, Prefix::User);
            if stored {
                h.store_owners();
            }
            ops.iter().for_each(|op| h.run(op));
            h.check_packed(stored);
            Ok(())
        })
        .unwrap_or_else(failed);
}

#[test]
fn read_only() {
    runner(1000, 1)
        .run(&(layers(), memory(), prefix()), |(layers, place, prefix)| {
            Harness::new(&layers, place, prefix).check_read_only();
            Ok(())
        })
        .unwrap_or_else(failed);
}

#[test]
fn on_disk() {
    let input = (layers(), prefix(), prop::collection::vec(ops::op(), 0..40));
    runner(400, 10)
        .run(&input, |(layers, prefix, ops)| {
            whole(&layers, Where::Disk, prefix, &ops);
            Ok(())
        })
        .unwrap_or_else(failed);
}

#[test]
fn with_faults() {
    let errno = prop_oneof![Just(Errno::NOSPC), Just(Errno::IO)];
    let fault = prop::option::weighted(0.3, (1..12_u64, errno));
    let input = (layers(), memory(), prefix(), prop::collection::vec((ops::op(), fault), 0..30));
    runner(2000, 1)
        .run(&input, |(layers, place, prefix, ops)| {
            let mut h = Harness::new(&layers, place, prefix);
            h.faulty = true;
            for (op, fault) in &ops {
                h.fault = *fault;
                h.run(op);
                h.fault = None;
            }
            h.check();
            Ok(())
        })
        .unwrap_or_else(failed);
}
