//! Worlds in which something was wrong once.

use crate::{
    case::{Answer, Case, Event, Fails, Has, Kind, Op, Step, When},
    play,
};

fn step(when: When, op: Op) -> Step {
    Step { when, op }
}

fn refresh() -> Op {
    Op::Refresh {
        process: 0,
        entry: 0,
        clients: 1,
        has: Has::Nothing,
        patience: None,
    }
}

fn holds(case: &Case) {
    if let Err(wrong) = play(case) {
        panic!("{wrong}");
    }
}

#[test]
fn a_broker_that_is_told_to_stop_while_it_writes_its_intent_presents_nothing() {
    holds(&Case {
        may_repeat: true,
        steps: vec![
            step(When::After(1), refresh()),
            step(When::On(Event::Marked), Op::Stop { process: 0 }),
        ],
        answers: vec![],
        disk: vec![(0, 5); 12],
    });
}

#[test]
fn an_import_that_cannot_see_what_is_there_does_not_drop_the_intent() {
    holds(&Case {
        may_repeat: true,
        steps: vec![
            step(When::After(1), refresh()),
            step(
                When::After(1428),
                Op::Disk {
                    fails: Fails::Reads,
                    millis: 60,
                },
            ),
            step(
                When::After(0),
                Op::ImportAgain {
                    process: 0,
                    entry: 0,
                    lifetime: 0,
                },
            ),
        ],
        answers: vec![Answer {
            kind: Kind::Lost { processed: false },
            ..Answer::default()
        }],
        disk: vec![],
    });
}

#[test]
fn the_pauses_between_repeats_of_what_is_lost_again_and_again_grow() {
    let get = || Op::Get {
        process: 0,
        entry: 0,
        clients: 1,
        min_validity: 0,
        patience: None,
    };
    let mut steps = vec![step(When::After(121_000), get())];
    steps.extend((0..100).map(|_| step(When::After(10_000), get())));
    let lost = Answer {
        kind: Kind::Lost { processed: false },
        ..Answer::default()
    };
    holds(&Case {
        may_repeat: true,
        steps,
        answers: vec![lost; 20],
        disk: vec![],
    });
}
