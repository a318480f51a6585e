//! `providers`: which authorization servers are configured, and how many entries each has.

use std::{collections::BTreeMap, process::ExitCode};

use crate::{
    cli::{failure::Failure, output, session::Session},
    credential::Name,
    daemon,
};

pub(super) async fn providers(session: &Session) -> Result<ExitCode, Failure> {
    let (_, config) = session.host()?;
    let mut entries: BTreeMap<Name, usize> = config.providers.keys().map(|name| (name.clone(), 0)).collect();
    for entry in session.entries().await? {
        *entries.entry(entry.provider).or_default() += 1;
    }
    if entries.is_empty() {
        output::note(
            "no provider is configured and no entry is stored: store one with `credbroker token import PROVIDER < token.json`",
        );
        return Ok(ExitCode::SUCCESS);
    }
    let rows = entries.into_iter().map(|(name, count)| {
        let configured = config.providers.get(&name);
        let columns = match configured {
            None => ["not configured", "-", "-", "-", "-", "-", "-"].map(str::to_owned),
            Some(provider) => {
                let summary = daemon::summary(provider);
                let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
                [
                    summary.source,
                    summary.token_endpoint,
                    or_none(summary.login_endpoints.join(", ")),
                    or_none(summary.flows.join(", ")),
                    summary.client_auth.to_owned(),
                    summary.revocation.to_owned(),
                    provider.client_id.clone(),
                ]
            }
        };
        let columns = columns.map(|text| output::printable(&text));
        let row = [name.to_string()].into_iter().chain(columns).chain([count.to_string()]);
        row.collect()
    });
    let header = [
        "PROVIDER",
        "SOURCE",
        "TOKEN ENDPOINT",
        "LOGIN ENDPOINTS",
        "FLOWS",
        "CLIENT AUTH",
        "REVOCATION",
        "CLIENT ID",
        "ENTRIES",
    ];
    output::table(&header, rows)?;
    Ok(ExitCode::SUCCESS)
}
