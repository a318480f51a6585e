//! The directory that brokers share, and the brokers in it.

use std::{path::Path, time::Duration};

use rustix::fs::{Access, access};
use tokio::time::timeout;

use super::Report;
use crate::{
    cli::{
        failure::{self, Failure},
        hardening,
    },
    client::{self, probe},
    config::Environment,
    daemon,
    proto::Protection,
    server::socket::{DirRole, LiveBroker, RuntimeDir, SocketError},
};

const RUNTIME: &str = "runtime";
const BROKERS: &str = "brokers";
/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn look(environment: &Environment, report: &mut Report) {
    report.begins(RUNTIME);
    let ignored = environment
        .get("XDG_RUNTIME_DIR")
        .is_some_and(|value| !value.is_empty());
    if ignored && environment.runtime_directory().is_none() {
        report.warn(
            RUNTIME,
            "environment",
            "XDG_RUNTIME_DIR is not an absolute path and is ignored",
            "set it to an absolute path, or unset it",
        );
    }
    let path = match daemon::runtime_path(environment) {
        Ok(path) => path,
        Err(error) => {
            fail(RUNTIME, "directory", error, report);
            return report.left_out(BROKERS, "running");
        }
    };
    let why = if environment.runtime_directory().is_some() {
        "XDG_RUNTIME_DIR says so"
    } else {
        "it is in the temporary directory, because XDG_RUNTIME_DIR is not set"
    };
    let opened = match RuntimeDir::open_existing(&path) {
        Ok(Some(runtime)) => {
            report.ok(RUNTIME, "directory", format!("{} ({why})", path.display()));
            Ok(Some(runtime))
        }
        Ok(None) => can_be_made(&path).map(|()| {
            report.ok(
                RUNTIME,
                "directory",
                format!("{} will be made by the first broker ({why})", path.display()),
            );
            None
        }),
        Err(error) => Err(error),
    };
    let opened = opened.map_err(|error| fail(RUNTIME, "directory", error, report));
    match RuntimeDir::room(&path) {
        Ok(room) => report.ok(RUNTIME, "path length", format!("{room} bytes to spare for sockets")),
        Err(error) => fail(RUNTIME, "path length", error, report),
    }
    report.begins(BROKERS);
    match opened {
        Ok(Some(runtime)) => look_at_brokers(&runtime, report).await,
        Ok(None) => report.ok(BROKERS, "running", "none"),
        Err(()) => report.left_out(BROKERS, "running"),
    }
}

fn fail(layer: &'static str, check: &'static str, error: SocketError, report: &mut Report) {
    let (problem, mend) = (error.problem(), error.mend());
    report.fail(layer, check, problem, mend, Failure::from(error).exit_code());
}

fn can_be_made(path: &Path) -> Result<(), SocketError> {
    let parent = path.parent().unwrap_or(path);
    if !parent.is_dir() {
        return Err(SocketError::Missing {
            path: parent.to_owned(),
            role: DirRole::RuntimeParent,
        });
    }
    access(parent, Access::WRITE_OK | Access::EXEC_OK).map_err(|cause| SocketError::System {
        action: "create directory",
        path: path.to_owned(),
        source: cause.into(),
    })
}

async fn look_at_brokers(runtime: &RuntimeDir, report: &mut Report) {
    let survey = match runtime.survey() {
        Ok(survey) => survey,
        Err(error) => return fail(BROKERS, "running", error, report),
    };
    if survey.live.is_empty() {
        report.ok(BROKERS, "running", "none");
    }
    for broker in survey.live {
        ask(broker, report).await;
    }
    if survey.dead.is_empty() {
        return report.ok(BROKERS, "leftovers", "none");
    }
    for path in survey.dead {
        report.warn(
            BROKERS,
            "leftovers",
            format!("{} is what a dead broker left", path.display()),
            "nothing to do: swept by the next start",
        );
    }
}

async fn ask(broker: LiveBroker, report: &mut Report) {
    let name = broker.pid.map_or_else(
        || format!("the one in {}", broker.dir.display()),
        |pid| format!("pid {pid}"),
    );
    let answer = timeout(PATIENCE, client::broker_status(broker.control_socket.clone())).await;
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        silent => {
            let why = match silent {
                Ok(Err(error)) => error.to_string(),
                _ => format!("no answer within {} s", PATIENCE.as_secs()),
            };
            return report.fail(
                BROKERS,
                "running",
                format!("{name} does not answer: {why}"),
                "stop this process and start a broker anew",
                failure::UNAVAILABLE,
            );
        }
    };
    let running = format!("{name} answers, version {}, at {}", answer.version, answer.socket);
    if answer.version == env!("CARGO_PKG_VERSION") {
        report.ok(BROKERS, "running", running);
    } else {
        let mend = format!("restart it to run version {}", env!("CARGO_PKG_VERSION"));
        report.warn(BROKERS, "running", running, mend);
    }
    protections(&name, &answer.protections, report);
    match probe::health(broker.control_socket).await {
        Ok(Some(true)) => report.ok(BROKERS, "health", format!("{name} serves")),
        _ => report.fail(
            BROKERS,
            "health",
            format!("{name} does not serve: it cannot read or write its store"),
            "mend what the layer store shows; if it shows nothing, the broker's log says why",
            failure::UNAVAILABLE,
        ),
    }
}

/// What a broker says that it took from itself. One that is older says nothing.
fn protections(name: &str, all: &[Protection], report: &mut Report) {
    if all.is_empty() {
        return;
    }
    let (in_force, missing): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.in_force);
    let in_force: Vec<&str> = in_force.iter().map(|one| one.name.as_str()).collect();
    let mut detail = format!("{name} has {}", in_force.join(", "));
    if !missing.is_empty() {
        let why: Vec<String> = missing
            .iter()
            .map(|one| format!("{} ({})", one.name, one.detail))
            .collect();
        detail.push_str(&format!("; not {}", why.join(", ")));
    }
    if missing.iter().any(|one| hardening::is_amiss(&one.name, &one.detail)) {
        let mend = "mend what the layer process shows, then restart the broker";
        report.warn(BROKERS, "protections", detail, mend);
    } else {
        report.ok(BROKERS, "protections", detail);
    }
}
