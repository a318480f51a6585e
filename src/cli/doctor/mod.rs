//! `doctor`: is everything as it should be here, and if not, which layer is it, and what mends it?
//!
//! The layers look at themselves; this is the order of the questions and what people and programs see of the answers.
//! Nothing is changed, except that a probe file is written in the store and removed again; no token is spent.

mod host;
mod machine;
mod providers;
mod runtime;
mod sandbox;

use std::{borrow::Cow, path::Path, process::ExitCode};

use serde::Serialize;

use crate::{
    cli::{args::DoctorArgs, failure::Failure, output},
    config::Environment,
};

/// What works on the host, or what a sandbox can see of it; ends with the exit code of the first check that failed.
pub(super) async fn doctor(
    config: Option<&Path>,
    environment: &Environment,
    arguments: &DoctorArgs,
) -> Result<ExitCode, Failure> {
    let mut report = Report::default();
    match environment.socket() {
        Some(socket) => sandbox::look(socket, environment, &mut report).await,
        None => host::look(config, environment, &mut report).await,
    }
    if arguments.json {
        output::json(&report.document())?;
    } else {
        report.print()?;
    }
    Ok(report.code.map_or(ExitCode::SUCCESS, ExitCode::from))
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
#[derive(Serialize)]
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
}

#[derive(Serialize)]
struct Document<'r> {
    checks: &'r [Check],
    ok: bool,
}

impl Report {
    fn ok(&mut self, layer: &'static str, check: impl Into<Cow<'static, str>>, detail: impl Into<String>) {
        self.add(layer, check, Status::Ok, detail, None);
    }

    fn warn(
        &mut self,
        layer: &'static str,
        check: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.add(layer, check, Status::Warn, detail, Some(mend.into()));
    }

    fn fail(
        &mut self,
        layer: &'static str,
        check: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        mend: impl Into<String>,
        code: u8,
    ) {
        self.add(layer, check, Status::Fail, detail, Some(mend.into()));
        self.code.get_or_insert(code);
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
    ) {
        self.checks.push(Check {
            layer,
            check: check.into(),
            status,
            detail: detail.into(),
            mend,
        });
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
