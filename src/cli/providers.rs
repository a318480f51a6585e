//! `providers`: which authorization servers are configured, and how many entries each has.

use std::{collections::BTreeMap, process::ExitCode};

use crate::{
    cli::{failure::Failure, output, session::Session},
    config::ProviderConfig,
    credential::Name,
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
        let provider = config.providers.get(&name);
        let or_none = |text: Option<String>| text.map_or_else(|| "-".to_owned(), |text| output::printable(&text));
        vec![
            name.to_string(),
            provider.map_or_else(|| "not configured".to_owned(), source),
            or_none(provider.and_then(|p| p.flow.map(|flow| flow.as_str().to_owned()))),
            or_none(provider.map(|p| p.client_id.clone())),
            count.to_string(),
        ]
    });
    output::table(&["PROVIDER", "SOURCE", "FLOW", "CLIENT ID", "ENTRIES"], rows)?;
    Ok(ExitCode::SUCCESS)
}

/// Where the provider's endpoints come from.
fn source(provider: &ProviderConfig) -> String {
    if let Some(preset) = provider.preset {
        format!("preset {}", preset.as_str())
    } else if let Some(issuer) = &provider.issuer {
        output::printable(&issuer.to_string())
    } else {
        provider
            .token_endpoint
            .as_ref()
            .map_or_else(|| "-".to_owned(), |endpoint| output::printable(&endpoint.to_string()))
    }
}
