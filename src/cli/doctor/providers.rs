//! The configured providers: whether a refresh would get as far as the token endpoint. No token is sent to any.

use super::Report;
use crate::{
    cli::failure,
    config::{Config, Environment},
    daemon,
};

const PROVIDER: &str = "provider";

pub(super) async fn look(config: &Config, environment: &Environment, report: &mut Report) {
    report.begins(PROVIDER);
    for (name, looks) in daemon::diagnose_providers(config, environment).await {
        for look in looks {
            let check = format!("{name} {}", look.at);
            match look.found {
                Ok(detail) => report.ok(PROVIDER, check, detail),
                Err(trouble) => {
                    let code = if trouble.configured_wrong {
                        failure::CONFIGURATION
                    } else {
                        failure::TRY_AGAIN
                    };
                    report.fail(PROVIDER, check, trouble.problem, trouble.mend, code);
                }
            }
        }
    }
}
