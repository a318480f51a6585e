//! What comes due, in which order, and what stops it.

use secrecy::SecretString;

use super::*;
use crate::credential::{Expiry, TokenSet};

const HOUR: u64 = 3600;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn at(seconds: u64) -> Now {
    Now {
        wall: jiff::Timestamp::from_second(1_800_000_000).unwrap() + secs(seconds),
        boot: secs(seconds),
        boot_id: "boot".into(),
    }
}

fn key(bucket: &str) -> EntryKey {
    EntryKey::parse("p", bucket).unwrap()
}

fn stored(lifetime: u64, now: &Now) -> StoredTokens {
    StoredTokens::new(TokenSet {
        access_token: SecretString::from("access"),
        refresh_token: Some(SecretString::from("refresh")),
        expiry: Some(Expiry::from_lifetime(secs(lifetime), now)),
        token_type: String::new(),
        scope: String::new(),
        subject: None,
        extra: [].into(),
        saved_by: String::new(),
    })
}

/// Arms an entry with a token of this lifetime, issued now.
fn arm(agenda: &mut Agenda, bucket: &str, lifetime: u64, now: &Now) -> StoredTokens {
    let stored = stored(lifetime, now);
    agenda.arm(&key(bucket), Plan::of(&stored, now, || 0.0).unwrap(), now);
    stored
}

fn names(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().map(|job| job.key.bucket.as_str()).collect()
}

#[test]
fn what_cannot_be_renewed_is_not_planned() {
    let whole = stored(HOUR, &at(0));
    assert!(Plan::of(&whole, &at(0), || 0.0).is_some());
    let mut eternal = whole.clone();
    eternal.tokens.expiry = None;
    assert!(Plan::of(&eternal, &at(0), || 0.0).is_none());
    let mut alone = whole;
    alone.tokens.refresh_token = None;
    assert!(Plan::of(&alone, &at(0), || 0.0).is_none());
}

#[test]
fn entries_come_due_in_order_and_only_once() {
    let mut agenda = Agenda::default();
    for (bucket, lifetime) in [("c", 4000), ("a", 1000), ("b", 2000), ("b2", 2000)] {
        arm(&mut agenda, bucket, lifetime, &at(0));
    }
    assert_eq!((agenda.armed(), agenda.next()), (4, Some(secs(700))));
    assert!(agenda.take_due(&at(699), 9).is_empty());
    assert_eq!(names(&agenda.take_due(&at(700), 9)), ["a"]);
    assert_eq!(names(&agenda.take_due(&at(9_999), 9)), ["b", "b2", "c"]);
    assert!(agenda.take_due(&at(9_999), 9).is_empty());
    assert_eq!((agenda.armed(), agenda.next()), (4, None), "they are under way");
}

#[test]
fn one_use_after_another_arms_nothing_twice() {
    let mut agenda = Agenda::default();
    let token = arm(&mut agenda, "a", HOUR, &at(0));
    let newer = stored(HOUR, &at(60));
    assert_eq!(agenda.used(&key("a"), &token.revision, &at(1)), Known::Armed);
    assert_eq!(agenda.used(&key("a"), &newer.revision, &at(60)), Known::No);
    assert_eq!(agenda.used(&key("b"), &token.revision, &at(1)), Known::No);
    agenda.arm(&key("a"), Plan::of(&newer, &at(60), || 0.0).unwrap(), &at(60));
    assert_eq!((agenda.armed(), agenda.queue.len()), (1, 1));
    assert_eq!(agenda.next(), Some(secs(60 + 3240)));
}

#[test]
fn a_renewal_that_was_cancelled_or_armed_anew_is_not_expected_any_more() {
    let mut agenda = Agenda::default();
    for bucket in ["a", "b", "c"] {
        arm(&mut agenda, bucket, 600, &at(0));
    }
    let jobs = agenda.take_due(&at(300), 9);
    assert!(jobs.iter().all(|job| agenda.expects(job)));
    agenda.cancel(&key("a"));
    arm(&mut agenda, "b", 600, &at(300));
    assert_eq!(
        jobs.iter().map(|job| agenda.expects(job)).collect::<Vec<_>>(),
        [false, false, true]
    );
    arm(&mut agenda, "a", 600, &at(300));
    assert!(!agenda.expects(&jobs[0]), "another login is another entry");
    agenda.cancel_all();
    assert!(!agenda.expects(&jobs[2]));
    assert_eq!((agenda.armed(), agenda.next()), (0, None));
}

#[test]
fn a_provider_with_many_due_does_not_keep_another_waiting() {
    let mut agenda = Agenda::default();
    for n in 0..AT_ONCE + 2 {
        arm(&mut agenda, &format!("{n}"), 600, &at(0));
    }
    let other = EntryKey::parse("other", "").unwrap();
    let plan = Plan::of(&stored(700, &at(0)), &at(0), || 0.0).unwrap();
    agenda.arm(&other, plan, &at(0));
    let jobs = agenda.take_due(&at(HOUR), 9_999);
    assert_eq!(jobs.len(), AT_ONCE + 1);
    assert!(jobs.iter().any(|job| *job.key == other));
    assert!(agenda.take_due(&at(HOUR), 9_999).is_empty());
    // Who waits in line may be cancelled there.
    agenda.cancel(&key(&format!("{AT_ONCE}")));
    assert!(agenda.ended(&key("0").provider));
    assert_eq!(names(&agenda.take_due(&at(HOUR), 9_999)), [format!("{}", AT_ONCE + 1)]);
    assert!(!agenda.ended(&key("0").provider));
    assert!(!agenda.ended(&other.provider));
}

/// Takes the entry's renewal, which has to be due, and lets it fail.
fn fail(agenda: &mut Agenda, now: &Now) -> Failed {
    let jobs = agenda.take_due(now, 9);
    assert_eq!(jobs.len(), 1, "due at {:?}", agenda.next());
    agenda.ended(&jobs[0].key.provider);
    agenda.failed(&jobs[0], Duration::ZERO, now)
}

#[test]
fn a_token_that_nobody_used_backs_off_and_is_given_up_until_a_use() {
    let mut agenda = Agenda::default();
    let token = arm(&mut agenda, "a", 600, &at(0));
    let mut now = HOUR;
    for pause in [30, 60, 120, 240, 480, 960, 1800, 1800, 1800] {
        assert_eq!(fail(&mut agenda, &at(now)), Failed::Again(secs(pause)));
        now += pause;
    }
    assert_eq!(fail(&mut agenda, &at(now)), Failed::GivenUp(10));
    assert_eq!((agenda.armed(), agenda.next()), (0, None));
    let outlook = agenda.outlook(&key("a")).unwrap();
    assert_eq!((outlook.due, outlook.failures), (None, 10));
    agenda.used(&key("a"), &token.revision, &at(now + 5));
    assert_eq!((agenda.armed(), agenda.next()), (1, Some(secs(now + 5))));
    assert_eq!(agenda.outlook(&key("a")).unwrap().failures, 0);
}

#[test]
fn a_use_cuts_the_pause_that_is_so_long_because_there_was_none() {
    let mut agenda = Agenda::default();
    let token = arm(&mut agenda, "a", 600, &at(0));
    let mut now = HOUR;
    for pause in [30, 60, 120, 240] {
        assert_eq!(fail(&mut agenda, &at(now)), Failed::Again(secs(pause)));
        now += pause;
    }
    fail(&mut agenda, &at(now));
    assert_eq!(agenda.next(), Some(secs(now + 480)));
    agenda.used(&key("a"), &token.revision, &at(now + 10));
    assert_eq!(agenda.next(), Some(secs(now + 150)), "a quarter of the lifetime");
    assert_eq!(agenda.outlook(&key("a")).unwrap().failures, 5, "it still counts");
    assert_eq!(
        fail(&mut agenda, &at(now + 150)),
        Failed::Again(secs(150)),
        "it was used lately"
    );
}

#[test]
fn a_watched_renewal_is_never_given_up_and_one_given_up_is_tried_for_a_watcher() {
    let mut agenda = Agenda::default();
    arm(&mut agenda, "a", 600, &at(0));
    agenda.watch(&key("a"), &at(0));
    let mut now = HOUR;
    for failure in 1..40 {
        let Failed::Again(pause) = fail(&mut agenda, &at(now)) else {
            panic!("given up")
        };
        assert!(pause <= secs(150), "{failure}: {pause:?}");
        now += pause.as_secs();
    }
    agenda.unwatch(&key("a"), &at(now));
    assert_eq!(fail(&mut agenda, &at(now)), Failed::GivenUp(40));
    agenda.watch(&key("a"), &at(now + 1));
    assert_eq!(agenda.armed(), 1);
    assert_eq!(fail(&mut agenda, &at(now + 1)), Failed::Again(secs(30)));
}

#[test]
fn a_resume_forgets_failures_and_their_pauses_but_not_the_cooldown() {
    let mut agenda = Agenda::default();
    arm(&mut agenda, "a", 600, &at(0));
    for now in [300, 400, 500, 700] {
        let jobs = agenda.take_due(&at(now), 9);
        agenda.flew(&jobs[0], secs(now));
        agenda.ended(&jobs[0].key.provider);
        agenda.failed(&jobs[0], secs(9), &at(now));
    }
    assert_eq!(agenda.next(), Some(secs(700 + 240)));
    agenda.resume(&at(701));
    assert_eq!(agenda.next(), Some(secs(700 + 30)));
    assert_eq!(agenda.outlook(&key("a")).unwrap().failures, 0);
}

#[test]
fn only_another_version_wakes_what_needs_a_login() {
    let mut agenda = Agenda::default();
    let token = arm(&mut agenda, "a", 600, &at(0));
    let jobs = agenda.take_due(&at(300), 9);
    agenda.needs_login(&jobs[0]);
    assert_eq!(agenda.used(&key("a"), &token.revision, &at(301)), Known::Armed);
    assert_eq!((agenda.armed(), agenda.next()), (0, None));
    arm(&mut agenda, "a", 600, &at(400));
    assert_eq!((agenda.armed(), agenda.next()), (1, Some(secs(700))));
}

#[test]
fn a_wall_clock_that_moved_changes_the_order() {
    let mut agenda = Agenda::default();
    arm(&mut agenda, "later", 4000, &at(0));
    // Issued while the wall clock was an hour behind.
    let mut behind = at(0);
    behind.wall -= secs(HOUR);
    let token = stored(4200, &behind);
    agenda.arm(&key("stepped"), Plan::of(&token, &behind, || 0.0).unwrap(), &behind);
    assert_eq!(agenda.next(), Some(secs(3600)));
    agenda.reorder(&at(100));
    assert_eq!(agenda.next(), Some(secs(180)), "by the wall clock it is due soon");
    assert_eq!(names(&agenda.take_due(&at(180), 9)), ["stepped"]);
}

#[test]
fn a_renewal_that_goes_on_is_not_mistaken_for_the_one_armed_after_it() {
    let mut agenda = Agenda::default();
    arm(&mut agenda, "a", 600, &at(0));
    let old = agenda.take_due(&at(300), 9);
    arm(&mut agenda, "a", 600, &at(300));
    let new = agenda.take_due(&at(600), 9);
    assert_eq!((names(&old), names(&new)), (vec!["a"], vec!["a"]));
    assert!(!agenda.expects(&old[0]) && agenda.expects(&new[0]));
}

#[test]
fn what_is_armed_anew_while_it_waits_in_line_has_one_turn() {
    let mut agenda = Agenda::default();
    for n in 0..=AT_ONCE {
        arm(&mut agenda, &format!("{n:03}"), 600, &at(0));
    }
    assert_eq!(agenda.take_due(&at(300), 9_999).len(), AT_ONCE);
    let last = format!("{AT_ONCE}");
    arm(&mut agenda, &last, 600, &at(300));
    // Now it is in line twice.
    assert!(agenda.take_due(&at(600), 9_999).is_empty());
    for _ in 0..2 {
        assert!(agenda.ended(&key("").provider));
    }
    let jobs = agenda.take_due(&at(600), 9_999);
    assert_eq!(names(&jobs), [last]);
    assert!(
        agenda.expects(&jobs[0]),
        "its turn is that of the version it was armed for"
    );
}

#[test]
fn what_is_under_way_counts_until_it_ends_and_then_nothing_is_kept() {
    let mut agenda = Agenda::default();
    let fill = |agenda: &mut Agenda| {
        for n in 0..AT_ONCE {
            arm(agenda, &format!("{n}"), 600, &at(0));
        }
        agenda.take_due(&at(300), 9_999).len()
    };
    assert_eq!(fill(&mut agenda), AT_ONCE);
    agenda.cancel_all();
    assert_eq!(fill(&mut agenda), 0, "the flights of before still go on");
    agenda.cancel_all();
    for _ in 0..AT_ONCE {
        assert!(!agenda.ended(&key("").provider));
    }
    assert_eq!(agenda.lines.len(), 1);
    agenda.cancel_all();
    assert!(agenda.lines.is_empty());
    // The same without anybody who cancels.
    assert_eq!(fill(&mut agenda), AT_ONCE);
    for _ in 0..AT_ONCE {
        agenda.ended(&key("").provider);
    }
    assert!(agenda.take_due(&at(301), 9).is_empty() && agenda.lines.is_empty());
}

#[test]
fn what_was_in_use_all_along_and_given_up_is_tried_at_the_next_use() {
    let mut agenda = Agenda::default();
    let token = arm(&mut agenda, "a", 100 * HOUR, &at(0));
    let mut now = 95 * HOUR;
    for pause in [30, 60, 120, 240, 480, 960, 1800, 1800, 1800] {
        agenda.used(&key("a"), &token.revision, &at(now));
        assert_eq!(fail(&mut agenda, &at(now)), Failed::Again(secs(pause)));
        now += pause;
    }
    assert_eq!(fail(&mut agenda, &at(now)), Failed::GivenUp(10));
    agenda.used(&key("a"), &token.revision, &at(now + 1));
    assert_eq!((agenda.armed(), agenda.next()), (1, Some(secs(now + 1))));
}
