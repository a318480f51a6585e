//! `logout`: removes an entry, and takes its token back at the provider.

use std::process::ExitCode;

use crate::{
    cli::{args::LogoutArgs, failure::Failure, output, session::Session},
    client::Revocation,
    credential::EntryKey,
};

pub(super) async fn logout(session: &Session, arguments: LogoutArgs) -> Result<ExitCode, Failure> {
    let key = EntryKey {
        provider: arguments.provider,
        bucket: arguments.bucket,
    };
    let revocation = session.remove(&key).await.map_err(|failure| {
        // What helps who wants a token is no advice to who wants none.
        failure.if_not_found(&format!(
            "there is no entry {key}, so there is nothing to log out of: look at `credbroker token list` for those that there are"
        ))
    })?;
    let token = match revocation {
        Revocation::Done => "its token is revoked at the provider",
        Revocation::NotSupported => {
            "its token cannot be revoked, and stays good at the provider until it expires: no revocation endpoint is known"
        }
        Revocation::Failed => {
            "its token could not be revoked, and stays good at the provider until it expires: the log says why, and the provider's own pages may revoke it"
        }
        Revocation::Pending => "its token is still being revoked at the provider",
        _ => "what became of its token at the provider was not said",
    };
    output::note(&format!("logged out of {key}; {token}"));
    Ok(ExitCode::SUCCESS)
}
