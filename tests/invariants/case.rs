//! A case: what happens to a small world, in which order, and how the provider and the disk behave meanwhile.
//!
//! Plain lists, so that a failing case shrinks to the few lines that matter, and its `Debug` is code that can be kept.

use std::{fmt, time::Duration};

use proptest::{collection::vec, option, prelude::*, sample::select};

/// One world's whole story.
#[derive(Clone, Default)]
pub(crate) struct Case {
    /// Whether the provider's configuration allows to repeat a presentation whose answer was lost.
    pub(crate) may_repeat: bool,
    /// What is done to the world.
    pub(crate) steps: Vec<Step>,
    /// What becomes of the first presentations; later ones are answered at once.
    pub(crate) answers: Vec<Answer>,
    /// How long the first operations of the store take, in milliseconds, before and after they take effect.
    pub(crate) disk: Vec<(u16, u16)>,
}

/// Something that happens, and when.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) when: When,
    pub(crate) op: Op,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum When {
    /// So many milliseconds after the step before.
    After(u32),
    /// As soon as this happens again, at the latest after 20 s.
    On(Event),
}

/// Moments in the life of a process that are worth meeting exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A lock was taken.
    Locked,
    /// An intent is durable, and its writer does not know it yet.
    Marked,
    /// A refresh token is on its way.
    Presented,
    /// The provider has processed it.
    Processed,
    /// The answer has arrived, and nothing was done with it yet.
    Answered,
    /// A write that carries a new token set begins.
    Saving,
    /// It is durable, and its writer does not know it yet.
    Saved,
    /// A removal is durable, and its caller does not know it yet.
    Removed,
}

pub(crate) const EVENTS: [Event; 8] = [
    Event::Locked,
    Event::Marked,
    Event::Presented,
    Event::Processed,
    Event::Answered,
    Event::Saving,
    Event::Saved,
    Event::Removed,
];

/// Processes and entries are numbers, taken modulo how many there are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    /// `GetToken`, by so many clients at once; each gives up after so many milliseconds, if at all.
    Get {
        process: u8,
        entry: u8,
        clients: u8,
        min_validity: u16,
        patience: Option<u32>,
    },
    /// `RefreshToken`.
    Refresh {
        process: u8,
        entry: u8,
        clients: u8,
        has: Has,
        patience: Option<u32>,
    },
    /// `SaveToken` of a token that lasts so many seconds.
    Save {
        process: u8,
        entry: u8,
        lifetime: u32,
        patience: Option<u32>,
    },
    /// `RemoveToken`.
    Remove {
        process: u8,
        entry: u8,
        patience: Option<u32>,
    },
    /// A login: a new family of refresh tokens, with an access token for so many seconds.
    Import { process: u8, entry: u8, lifetime: u32 },
    /// The same refresh token that is stored, once more.
    ImportAgain { process: u8, entry: u8, lifetime: u32 },
    /// One more process, if there are fewer than two.
    Start,
    /// kill -9.
    Kill { process: u8 },
    /// kill -9 at the very moment when this happens next.
    Doom { process: u8, at: Event },
    /// SIGTERM.
    Stop { process: u8 },
    /// Everything dies, and the clock of the boot begins anew.
    Reboot,
    /// The machine sleeps for so many seconds: the monotonic clock stands, the others go on.
    Suspend(u32),
    /// Somebody sets the wall clock, by so many seconds.
    Step(i32),
    /// The disk fails in this way for so many milliseconds.
    Disk { fails: Fails, millis: u32 },
}

/// Which revision a caller of `RefreshToken` has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Has {
    Nothing,
    Current,
    Old,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    /// Writes and removals leave everything as it was.
    Writes,
    /// They take effect, and report a failure: the directory could not be synced.
    Reports,
    /// Removals alone.
    Removals,
    Reads,
}

/// What becomes of one presentation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    /// Milliseconds until the provider processes it, and until the answer is back.
    pub(crate) there: u16,
    pub(crate) back: u16,
    /// Whether the provider goes on with a request whose sender has died meanwhile.
    pub(crate) goes_on: bool,
    pub(crate) lifetime: Lifetime,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// A new access token and a new refresh token.
    Rotates,
    /// A new access token alone.
    Keeps,
    /// The new access token is the new refresh token, too, and so is nobody's.
    Equal,
    /// The connection was refused.
    Unreachable,
    /// 429 or 503, with `Retry-After` in seconds.
    Busy(Option<u16>),
    /// 307, 401, `invalid_client`.
    Rejects,
    /// A reset, 500, 502, HTML with 200, half a JSON object: the answer is lost, or there never was one.
    Lost { processed: bool },
    /// Nothing for 60 s; processed after so many milliseconds, if at all, also when nobody waits any more.
    Silent { processed: Option<u32> },
}

/// `expires_in`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Lifetime {
    Seconds(u16),
    Missing,
    Absurd,
}

impl Lifetime {
    /// As the answer's reader understands it.
    pub(crate) fn read(self) -> Option<Duration> {
        match self {
            Self::Seconds(seconds) => Some(Duration::from_secs(seconds.into())),
            Self::Missing => None,
            Self::Absurd => Some(credbroker::credential::MAX_LIFETIME),
        }
    }
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            kind: Kind::Rotates,
            there: 20,
            back: 20,
            goes_on: false,
            lifetime: Lifetime::Seconds(300),
        }
    }
}

impl fmt::Debug for Case {
    /// As lines of Rust, to be read and kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Case {{\n    may_repeat: {},\n    steps: vec![", self.may_repeat)?;
        for step in &self.steps {
            writeln!(f, "        {step:?},")?;
        }
        writeln!(f, "    ],\n    answers: vec![")?;
        for answer in &self.answers {
            writeln!(f, "        {answer:?},")?;
        }
        write!(f, "    ],\n    disk: vec!{:?},\n}}", self.disk)
    }
}

/// Which kinds of trouble a world is full of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mix {
    pub(crate) logouts: u32,
    pub(crate) deaths: u32,
    pub(crate) disk: u32,
    pub(crate) clocks: u32,
    /// How many in ten presentations go wrong.
    pub(crate) provider: u32,
}

pub(crate) fn case(mix: Mix) -> impl Strategy<Value = Case> {
    (
        prop::bool::weighted(0.85),
        vec(step(mix), 1..24),
        vec(answer(mix.provider), 0..12),
        vec(
            prop_oneof![6 => Just((0, 0)), 2 => (0..20_u16, 0..20_u16), 1 => (0..900_u16, 0..900_u16)],
            0..40,
        ),
    )
        .prop_map(|(may_repeat, steps, answers, disk)| Case {
            may_repeat,
            steps,
            answers,
            disk,
        })
}

fn step(mix: Mix) -> impl Strategy<Value = Step> {
    (when(), op(mix)).prop_map(|(when, op)| Step { when, op })
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        2 => Just(When::After(0)),
        4 => (0..100_u32).prop_map(When::After),
        4 => (0..8_000_u32).prop_map(When::After),
        3 => (8_000..70_000_u32).prop_map(When::After),
        2 => (70_000..700_000_u32).prop_map(When::After),
        5 => event().prop_map(When::On),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    select(EVENTS.to_vec())
}

fn patience() -> impl Strategy<Value = Option<u32>> {
    option::weighted(0.3, prop_oneof![0..200_u32, 0..20_000_u32])
}

/// Seconds: mostly so few that a world sees several of them.
fn lifetime() -> impl Strategy<Value = u16> {
    prop_oneof![1 => Just(0), 4 => 1..60_u16, 3 => 60..700_u16, 1 => 700..4000_u16]
}

fn op(mix: Mix) -> impl Strategy<Value = Op> {
    // One entry is enough for most of what can go wrong, and meets more of it.
    let entry = || prop_oneof![5 => Just(0_u8), 1 => Just(1_u8)];
    let process = || 0..2_u8;
    let clients = || prop_oneof![2 => Just(1_u8), 1 => 2..5_u8];
    // A weight of zero is none: what a mix does not name is rare.
    let often = |weight: u32| (4 * weight).max(1);
    prop_oneof![
        40 => (process(), entry(), clients(), prop_oneof![Just(0_u16), 0..900_u16], patience())
            .prop_map(|(process, entry, clients, min_validity, patience)| Op::Get { process, entry, clients, min_validity, patience }),
        40 => (process(), entry(), clients(), select(vec![Has::Nothing, Has::Nothing, Has::Current, Has::Old]), patience())
            .prop_map(|(process, entry, clients, has, patience)| Op::Refresh { process, entry, clients, has, patience }),
        8 => (process(), entry(), lifetime(), patience())
            .prop_map(|(process, entry, lifetime, patience)| Op::Save { process, entry, lifetime: lifetime.into(), patience }),
        often(mix.logouts) => (process(), entry(), patience())
            .prop_map(|(process, entry, patience)| Op::Remove { process, entry, patience }),
        often(mix.logouts) => (process(), entry(), lifetime())
            .prop_map(|(process, entry, lifetime)| Op::Import { process, entry, lifetime: lifetime.into() }),
        4 => (process(), entry(), lifetime())
            .prop_map(|(process, entry, lifetime)| Op::ImportAgain { process, entry, lifetime: lifetime.into() }),
        often(2 + mix.deaths) => Just(Op::Start),
        often(mix.deaths) => process().prop_map(|process| Op::Kill { process }),
        often(mix.deaths) => (process(), event()).prop_map(|(process, at)| Op::Doom { process, at }),
        2 + mix.deaths => process().prop_map(|process| Op::Stop { process }),
        1 + mix.deaths => Just(Op::Reboot),
        often(mix.clocks) => prop_oneof![1..100_u32, 100..10_000_u32].prop_map(Op::Suspend),
        often(mix.clocks) => prop_oneof![-200..200_i32, -100_000..100_000_i32].prop_map(Op::Step),
        often(mix.disk) => (select(vec![Fails::Writes, Fails::Writes, Fails::Reports, Fails::Removals, Fails::Reads]),
            prop_oneof![0..300_u32, 300..60_000_u32])
            .prop_map(|(fails, millis)| Op::Disk { fails, millis }),
    ]
}

fn answer(provider: u32) -> impl Strategy<Value = Answer> {
    let kind = prop_oneof![
        20 - 2 * provider => Just(Kind::Rotates),
        2 => Just(Kind::Keeps),
        1 => Just(Kind::Equal),
        provider => Just(Kind::Unreachable),
        provider => option::of(prop_oneof![0..6_u16, 6..4000_u16]).prop_map(Kind::Busy),
        1 => Just(Kind::Rejects),
        2 * provider => any::<bool>().prop_map(|processed| Kind::Lost { processed }),
        provider => option::of(0..62_000_u32).prop_map(|processed| Kind::Silent { processed }),
    ];
    let millis = || prop_oneof![3 => 0..30_u16, 3 => 30..2_000_u16, 1 => 2_000..29_000_u16];
    let lifetime = prop_oneof![
        8 => lifetime().prop_map(Lifetime::Seconds),
        1 => Just(Lifetime::Missing),
        1 => Just(Lifetime::Absurd),
    ];
    (kind, millis(), millis(), any::<bool>(), lifetime).prop_map(|(kind, there, back, goes_on, lifetime)| Answer {
        kind,
        there,
        back,
        goes_on,
        lifetime,
    })
}
