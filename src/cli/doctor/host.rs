//! The host's layers: configuration, store, runtime directory, brokers, audit, providers, clock, process, sandboxes. A layer that failed
//! stops only what depends on it.

use std::path::Path;

use jiff::Timestamp;
use rustix::{
    fs::{Access, access},
    io::Errno,
};

use super::{Report, machine, providers, runtime, sandboxes};
use crate::{
    cli::failure::{self, Failure},
    config::{Config, ConfigError, Environment},
    daemon,
    store::file::{Finding, Outcome},
};

const CONFIG: &str = "config";
const STORE: &str = "store";
const AUDIT: &str = "audit";

pub(super) async fn look(explicit: Option<&Path>, environment: &Environment, report: &mut Report) {
    report.begins(CONFIG);
    let config = look_at_config(explicit, environment, report);
    report.begins(STORE);
    let newest = match &config {
        Some(config) => look_at_store(config, environment, report).await,
        None => {
            report.left_out(STORE, "directory");
            None
        }
    };
    runtime::look(environment, report).await;
    report.begins(AUDIT);
    match &config {
        Some(config) => {
            look_at_audit(config, report);
            providers::look(config, environment, report).await;
        }
        None => report.left_out(AUDIT, "directory"),
    }
    report.begins(machine::CLOCK);
    machine::look_at_clock(newest, report);
    report.begins(machine::PROCESS);
    machine::look_at_process(config.as_ref(), report);
    sandboxes::look(config.as_ref(), environment, report).await;
}

fn look_at_config(explicit: Option<&Path>, environment: &Environment, report: &mut Report) -> Option<Config> {
    let file = match (explicit, Config::default_file(environment)) {
        (Some(path), _) => format!("{}, as --config says", path.display()),
        (None, Some(path)) if path.symlink_metadata().is_ok() => path.display().to_string(),
        (None, Some(path)) => format!("{} is not there: defaults are used", path.display()),
        (None, None) => "there is no home directory: defaults are used".to_owned(),
    };
    report.ok(CONFIG, "file", file);
    let overrides = Config::overrides(environment);
    report.ok(
        CONFIG,
        "environment",
        if overrides.is_empty() {
            "overrides no key".to_owned()
        } else {
            format!("keys are overridden by {}", overrides.join(", "))
        },
    );
    match Config::load(explicit, environment) {
        Ok(config) => {
            report.ok(CONFIG, "keys", "all are known and have valid values");
            Some(config)
        }
        Err(error) => {
            fail_config(CONFIG, "keys", error, report);
            None
        }
    }
}

fn fail_config(layer: &'static str, check: &'static str, error: ConfigError, report: &mut Report) {
    let (problem, mend) = (error.problem(), error.mend().to_owned());
    report.fail(layer, check, problem, mend, Failure::from(error).exit_code());
}

/// When the newest token set was stored.
async fn look_at_store(config: &Config, environment: &Environment, report: &mut Report) -> Option<Timestamp> {
    let diagnosis = match daemon::diagnose_store(config, environment).await {
        Ok(Some(diagnosis)) => diagnosis,
        Ok(None) => {
            report.ok(
                STORE,
                "backend",
                "memory: nothing outlives the process, so there is nothing to look at",
            );
            return None;
        }
        Err(error) => {
            fail_config(STORE, "directory", error, report);
            return None;
        }
    };
    report.ok(STORE, "backend", "file");
    for Finding { check, outcome } in diagnosis.findings {
        match outcome {
            Outcome::Good(detail) => report.ok(STORE, check, detail),
            Outcome::Notice { detail, mend } => report.warn(STORE, check, detail, mend),
            Outcome::Bad { error, mend } => {
                let problem = error.problem();
                let mend = mend.unwrap_or_else(|| error.mend().to_owned());
                report.fail(STORE, check, problem, mend, Failure::from(error).exit_code());
            }
        }
    }
    diagnosis.newest
}

/// Whether this user could write there. Asked, not tried: a file there would look like a broker's record.
fn look_at_audit(config: &Config, report: &mut Report) {
    let check = "directory";
    let path = match config.audit.directory() {
        Ok(path) => path,
        Err(error) => return fail_config(AUDIT, check, error, report),
    };
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let usable = if there.is_dir() {
        access(there, Access::WRITE_OK | Access::EXEC_OK)
    } else {
        Err(Errno::NOTDIR)
    };
    match usable {
        Ok(()) if there == path => report.ok(AUDIT, check, format!("{} can be written to", path.display())),
        Ok(()) => report.ok(
            AUDIT,
            check,
            format!("{} will be made with the first record", path.display()),
        ),
        Err(cause) => report.fail(
            AUDIT,
            check,
            format!("{} cannot be written to: {}: {cause}", path.display(), there.display()),
            "let this user write there, or set `path` in [audit] to another directory",
            failure::CONFIGURATION,
        ),
    }
}
