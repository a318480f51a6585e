//! What `run --sandbox` could use here. None of them has to be there.

use std::time::Duration;

use tokio::time::timeout;

use super::Report;
use crate::{
    cli::run::{
        asking::{Asked, program, trusted},
        confined::bwraps_mend,
        host::podmans_init,
    },
    config::{Config, Environment},
    sandbox::{Runtime, SandboxError},
};

pub(super) const SANDBOXES: &str = "sandbox";
/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What each is asked, so that nothing is made or changed: bwrap makes a sandbox of nothing, docker asks its daemon. podman
/// would set up its storage if it were asked for more than its version.
const QUESTIONS: [(Runtime, &[&str]); 3] = [
    (
        Runtime::Bwrap,
        &[
            "--unshare-user",
            "--unshare-pid",
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--",
            "/bin/sh",
            "-c",
            "echo it makes sandboxes",
        ],
    ),
    (Runtime::Podman, &["--version"]),
    (Runtime::Docker, &["version", "--format", "version {{.Server.Version}}"]),
];

pub(super) async fn look(config: Option<&Config>, environment: &Environment, report: &mut Report) {
    report.begins(SANDBOXES);
    let environment = &trusted(environment, &[]);
    let path = environment.get("PATH").unwrap_or_default();
    let secrets = config.map(Config::secret_variables).unwrap_or_default();
    for (runtime, question) in QUESTIONS {
        let name = runtime.name();
        let Ok(program) = program(runtime, path) else {
            report.ok(
                SANDBOXES,
                name,
                format!("not installed: --sandbox {name} cannot be used"),
            );
            continue;
        };
        let asked = Asked {
            runtime,
            program: &program,
            path,
            environment,
            secrets: &secrets,
        };
        let mend = match runtime {
            Runtime::Bwrap => bwraps_mend(),
            Runtime::Podman => "see what `podman --version` says",
            Runtime::Docker => "start its daemon, and let this user reach it; see what `docker info` says",
        };
        match timeout(PATIENCE, asked.answer(question, mend)).await {
            Ok(Ok(said)) => told(runtime, &format!("{}, {}", program.display(), said.trim()), report),
            Ok(Err(SandboxError::Silent { said, .. })) => report.warn(SANDBOXES, name, said, mend),
            Ok(Err(error)) => report.warn(SANDBOXES, name, error.to_string(), mend),
            Err(_elapsed) => report.warn(SANDBOXES, name, "it did not answer in time", mend),
        }
    }
}

fn told(runtime: Runtime, said: &str, report: &mut Report) {
    let said = match runtime {
        Runtime::Podman => &format!("{said}; no container was tried"),
        Runtime::Bwrap | Runtime::Docker => said,
    };
    if runtime == Runtime::Podman && podmans_init().is_none() {
        let detail =
            format!("{said}; without tini a command is process 1, and signals that it does not handle are lost");
        return report.warn(
            SANDBOXES,
            runtime.name(),
            detail,
            "install tini (`apt install tini`, `dnf install tini-static`)",
        );
    }
    report.ok(SANDBOXES, runtime.name(), said);
}
