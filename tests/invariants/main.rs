//! What a refresh promises, held against random worlds: a provider that rotates refresh tokens and detects their reuse, a
//! disk that fails, processes that die, clocks that jump, clients that come and go.
//!
//! A world is a list ([`case`]) that proptest makes and shrinks. [`world`] plays it in paused time against real brokers;
//! [`authority`], [`disk`] and [`calls`] stand at the three seams of a broker (provider, store, callers), let trouble in
//! and tell [`facts`], which knows what must never be. Nothing here knows how a refresh is done: the rules are those of
//! section 8 as they look from outside.
//!
//! `PROPTEST_CASES=10000 cargo test --test invariants` plays more worlds. A failure prints the smallest world that shows
//! it, what happened in it, and which rule was broken; [`kept`] is where such a world goes when it is mended.
//!
//! A single thread in paused time reaches interleavings at awaits, and no others. Between two awaits, threads can meet only
//! between two sections of a short mutex, and those places are few. A flight that lands frees its entry in one section,
//! then the lock, then tells those who wait: who comes in between starts a flight that waits for the lock, reads again and
//! finds the new version. Who looked for an unsaved token set before there was one, and read the old record, is turned away
//! by the section in which it would start a flight, and looks again. Permits are counted in one section each. Each place
//! is right in either order by what the next section checks, so no model checker is set on them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that cannot go on fails the test"
)]

mod authority;
mod calls;
mod case;
mod disk;
mod facts;
mod kept;
mod presentations;
mod records;
mod time;
mod world;

use case::{Case, Mix, case};
use proptest::{
    prelude::ProptestConfig,
    test_runner::{TestCaseError, TestRunner},
};

/// Plays one world; what was wrong with it, if anything.
fn play(case: &Case) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(world::play(case.clone()))
}

fn worlds(mix: Mix) {
    let config = ProptestConfig {
        // A kept world says more than a seed, and outlives a change of the generator.
        failure_persistence: None,
        // `PROPTEST_CASES` says how many; some faults need two, and a restart between them.
        cases: ProptestConfig::default().cases * 2,
        ..ProptestConfig::default()
    };
    let failed = TestRunner::new(config).run(&case(mix), |case| play(&case).map_err(TestCaseError::fail));
    if let Err(failed) = failed {
        panic!("{failed}");
    }
}

#[test]
fn a_provider_that_fails_in_every_way_costs_no_session() {
    worlds(Mix {
        logouts: 1,
        deaths: 0,
        disk: 0,
        clocks: 1,
        provider: 5,
    });
}

#[test]
fn processes_that_die_cost_no_more_than_the_answer_that_died_with_them() {
    worlds(Mix {
        logouts: 1,
        deaths: 4,
        disk: 0,
        clocks: 1,
        provider: 3,
    });
}

#[test]
fn a_disk_that_fails_costs_no_token_that_was_received() {
    worlds(Mix {
        logouts: 2,
        deaths: 1,
        disk: 8,
        clocks: 0,
        provider: 2,
    });
}

#[test]
fn a_logout_wins_against_everything() {
    worlds(Mix {
        logouts: 8,
        deaths: 1,
        disk: 2,
        clocks: 0,
        provider: 3,
    });
}

#[test]
fn clocks_that_jump_make_nothing_expired_good_and_nothing_hasty() {
    worlds(Mix {
        logouts: 1,
        deaths: 1,
        disk: 1,
        clocks: 8,
        provider: 3,
    });
}
