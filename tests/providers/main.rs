//! Recorded exchanges with each provider, played over real sockets through what `serve` makes of a configuration. The
//! README beside this file says how a case is written. A case fails also if a log line has one of its secrets.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure here is a test's failure"
)]

mod case;
#[path = "../support/log.rs"]
#[expect(dead_code, reason = "every test binary uses its own part of this")]
mod log;
mod play;
#[path = "../canary/scanner.rs"]
mod scanner;
#[path = "../oauth/server.rs"]
#[expect(dead_code, reason = "each test file uses its own part of what they share")]
mod server;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use credbroker::oauth::{Flow, presets::PRESETS};

use crate::case::{Call, Case};

/// The provider without a preset.
const PLAIN: &str = "rfc";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/providers").join(name)
}

fn cases(provider: &str) -> Vec<Case> {
    let mut files: Vec<_> = fs::read_dir(folder(provider))
        .unwrap_or_else(|error| panic!("tests/providers/{provider}: {error}"))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().is_some_and(|name| name != "config.toml"))
        .collect();
    files.sort();
    files.iter().map(|file| Case::read(file)).collect()
}

fn play(provider: &str) {
    let cases = cases(provider);
    assert!(!cases.is_empty(), "{provider} has no case");
    for case in &cases {
        play::play(case);
    }
}

macro_rules! providers {
    ($($provider:ident)*) => {
        $(
            #[test]
            fn $provider() {
                play(stringify!($provider));
            }
        )*

        const PLAYED: &[&str] = &[$(stringify!($provider)),*];
    };
}

providers!(anthropic codex gemini google qwen github microsoft rfc);

#[test]
fn every_preset_is_played_in_every_flow_that_it_has_and_in_all_that_may_become_of_it() {
    let presets: BTreeSet<_> = PRESETS.iter().map(|preset| preset.name).chain([PLAIN]).collect();
    assert_eq!(presets, PLAYED.iter().copied().collect());
    let all = [Flow::DeviceCode, Flow::BrowserRedirect, Flow::PkceRedirect];
    let flows = PRESETS
        .iter()
        .map(|preset| (preset.name, preset.flows))
        .chain([(PLAIN, &all[..])]);
    for (name, flows) in flows {
        let cases = cases(name);
        let outcomes = |wanted: Call| -> BTreeSet<&str> {
            let steps = cases.iter().flat_map(|case| &case.step);
            let steps = steps.filter(|step| step.call == wanted);
            steps.map(|step| step.outcome.is.as_str()).collect()
        };
        let played = |call: Call, want: &[&str]| {
            let found = outcomes(call);
            for want in want {
                assert!(found.contains(want), "{name} has no case in which {call:?} is {want}");
            }
        };
        for flow in flows {
            match flow {
                Flow::DeviceCode => {
                    played(Call::AuthorizeDevice, &["begun", "unavailable"]);
                    played(
                        Call::PollDevice,
                        &["answered", "pending", "slow down", "denied", "expired", "unavailable"],
                    );
                }
                Flow::PkceRedirect => {
                    played(Call::Authorize, &["authorization"]);
                    played(Call::Answer, &["code", "denied", "not ours"]);
                    played(Call::Exchange, &["answered", "refused", "unavailable"]);
                }
                Flow::BrowserRedirect => {
                    played(Call::AuthorizeLoopback, &["authorization"]);
                    played(Call::Browser, &["code", "denied"]);
                    played(Call::Exchange, &["answered", "refused"]);
                }
            }
        }
        played(Call::Refresh, &["answered", "refused", "ambiguous"]);
        played(Call::Flows, &["flows"]);
    }
}
