//! `doctor`: is everything as it should be here, and if not, which layer is it, and what mends it?
//!
//! The layers look at themselves; this is the order of the questions and what people and programs see of the answers.
//! Nothing is changed, except that a probe file is written in the store and removed again; no token is spent.

mod host;
mod machine;
mod providers;
mod runtime;
mod sandbox;
mod sandboxes;

use std::{borrow::Cow, path::Path, process::ExitCode, time::Duration};

use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};

use crate::{
    cli::{
        Workers,
        args::DoctorArgs,
        failure::{self, Failure},
        output, runtime as new_runtime,
    },
    config::Environment,
};

/// How long a check may take; what a store may take has a limit of its own, half as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What works on the host, or what a sandbox can see of it; ends with the exit code of the first check that failed.
pub(super) async fn doctor(
    config: Option<&Path>,
    environment: &Environment,
    arguments: &DoctorArgs,
) -> Result<ExitCode, Failure> {
    let (told, hears) = mpsc::unbounded_channel();
    let (config, environment) = (config.map(Path::to_owned), environment.clone());
    let runtime = new_runtime(Workers::One)?;
    // A file on a mount that hangs is not to be had out of a system call: what looks at it is left behind.
    std::thread::spawn(move || {
        let mut report = Report {
            told: Some(told),
            ..Report::default()
        };
        runtime.block_on(async {
            match environment.socket() {
                Some(socket) => sandbox::look(socket, &environment, &mut report).await,
                None => host::look(config.as_deref(), &environment, &mut report).await,
            }
        });
        report.tell(Event::Done);
    });
    let report = hear(hears).await?;
    if arguments.json {
        output::json(&report.document())?;
    } else {
        report.print()?;
    }
    Ok(report.code.map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// What a look says while it goes on.
enum Event {
    /// A layer is looked at.
    Layer(&'static str),
    Checked(Check, Option<u8>),
    Done,
}

/// Listens to a look until it is done, or has said nothing for too long.
async fn hear(mut hears: mpsc::UnboundedReceiver<Event>) -> Result<Report, Failure> {
    let mut report = Report::default();
    let mut layer = "config";
    loop {
        match timeout(PATIENCE, hears.recv()).await {
            Ok(Some(Event::Layer(next))) => layer = next,
            Ok(Some(Event::Checked(check, code))) => {
                report.code = report.code.or(code);
                report.checks.push(check);
            }
            Ok(Some(Event::Done)) => return Ok(report),
            Ok(None) => return Err(Failure::internal("the look at the layers ended too early")),
            Err(_elapsed) => {
                let detail = format!("the next check has not ended after {} s", PATIENCE.as_secs());
                let mend = "see whether a file or a mount of this layer hangs; what comes behind it was not checked";
                report.fail(layer, "time", detail, mend, failure::UNAVAILABLE);
                return Ok(report);
            }
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// It works all the same, or it could not be checked.
    Warn,
    Fail,
}

/// One check and its answer.
#[derive(Clone, Serialize)]
struct Check {
    layer: &'static str,
    check: Cow<'static, str>,
    status: Status,
    detail: String,
    mend: Option<String>,
}

/// The checks so far.
#[derive(Default)]
struct Report {
    checks: Vec<Check>,
    /// Of the first one that failed.
    code: Option<u8>,
    /// Who is told while the look goes on.
    told: Option<mpsc::UnboundedSender<Event>>,
}

#[derive(Serialize)]
struct Document<'r> {
    checks: &'r [Check],
    ok: bool,
}

impl Report {
    /// What comes next belongs to this layer.
    fn begins(&self, layer: &'static str) {
        self.tell(Event::Layer(layer));
    }

    fn tell(&self, event: Event) {
        if let Some(told) = &self.told {
            // Nobody hears any more who has lost patience.
            let _ = told.send(event);
        }
    }

    fn ok(&mut self, layer: &'static str, check: impl Into<Cow<'static, str>>, detail: impl Into<String>) {
        self.add(layer, check, Status::Ok, detail, None, None);
    }

    fn warn(
        &mut self,
        layer: &'static str,
        check: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.add(layer, check, Status::Warn, detail, Some(mend.into()), None);
    }

    fn fail(
        &mut self,
        layer: &'static str,
        check: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        mend: impl Into<String>,
        code: u8,
    ) {
        self.add(layer, check, Status::Fail, detail, Some(mend.into()), Some(code));
    }

    /// A check that an earlier failure stands in the way of.
    fn left_out(&mut self, layer: &'static str, check: &'static str) {
        self.warn(layer, check, "not checked", "mend what failed above first");
    }

    fn add(
        &mut self,
        layer: &'static str,
        check: impl Into<Cow<'static, str>>,
        status: Status,
        detail: impl Into<String>,
        mend: Option<String>,
        code: Option<u8>,
    ) {
        let check = Check {
            layer,
            check: check.into(),
            status,
            detail: detail.into(),
            mend,
        };
        self.tell(Event::Checked(check.clone(), code));
        self.code = self.code.or(code);
        self.checks.push(check);
    }

    fn document(&self) -> Document<'_> {
        Document {
            checks: &self.checks,
            ok: self.code.is_none(),
        }
    }

    fn print(&self) -> Result<(), Failure> {
        for check in &self.checks {
            let status = match check.status {
                Status::Ok => "ok",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            let detail = output::printable(&check.detail);
            output::line(&format!("{status:<5} {:<8} {}: {detail}", check.layer, check.check))?;
            if let Some(mend) = &check.mend {
                output::line(&format!("{:<15}mend: {}", "", output::printable(mend)))?;
            }
        }
        let failed = |check: &&Check| check.status == Status::Fail;
        output::line(&match self.checks.iter().find(failed) {
            None => "Nothing failed.".to_owned(),
            Some(first) => format!(
                "{} failed, the first in the layer {}.",
                self.checks.iter().filter(failed).count(),
                first.layer
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_is_left_with_what_it_had_to_say() {
        let (told, hears) = mpsc::unbounded_channel();
        let mut looks = Report {
            told: Some(told),
            ..Report::default()
        };
        looks.begins("config");
        looks.ok("config", "file", "is there");
        looks.begins("store");
        let report = hear(hears).await.unwrap();
        let said: Vec<_> = report.checks.iter().map(|check| (check.layer, check.status)).collect();
        assert_eq!(said, [("config", Status::Ok), ("store", Status::Fail)]);
        assert_eq!(report.code, Some(failure::UNAVAILABLE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_dies_is_no_good_news() {
        let (told, hears) = mpsc::unbounded_channel();
        drop(told);
        assert!(hear(hears).await.is_err());
    }
}
