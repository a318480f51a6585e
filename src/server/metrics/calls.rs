//! How the calls of a socket ended: one number for each method and each reason.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tonic::Status;
use tonic_types::StatusExt as _;

use crate::{
    reason::Reason,
    server::routes::{CREDENTIALS, SECRETS},
};

/// The methods of the socket's own service. A test compares them with the protocol.
pub const METHODS: [&str; 15] = [
    "CancelLogin",
    "ExchangeCode",
    "GetApiKey",
    "GetBucketStats",
    "GetServerInfo",
    "GetToken",
    "InitiateLogin",
    "ListApiKeys",
    "ListBuckets",
    "ListProviders",
    "PollLogin",
    "RefreshToken",
    "RemoveToken",
    "SaveToken",
    "WatchToken",
];
/// The rows behind those of [`METHODS`].
const OTHERS: [&str; 5] = ["FetchSecrets", "StreamSecrets", "health", "reflection", "other"];
/// The columns before those of the reasons.
const ENDS: [&str; 2] = ["OK", "CANCELLED"];
const OK: usize = 0;
const CANCELLED: usize = 1;

const ROWS: usize = METHODS.len() + OTHERS.len();
const COLUMNS: usize = ENDS.len() + Reason::ALL.len();

/// The numbers of one socket.
#[derive(Debug)]
pub struct Calls([[AtomicU64; COLUMNS]; ROWS]);

impl Default for Calls {
    fn default() -> Self {
        Self([const { [const { AtomicU64::new(0) }; COLUMNS] }; ROWS])
    }
}

impl Calls {
    /// A call of this method, which is counted when it ends.
    pub(in crate::server) fn begin(self: &Arc<Self>, path: &str) -> Call {
        Call {
            calls: Arc::clone(self),
            row: row(path),
            column: CANCELLED,
        }
    }

    /// Method, reason and number of the calls that ended; those without any only for `OK`.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let methods = METHODS.into_iter().chain(OTHERS);
        methods.zip(&self.0).flat_map(|(method, row)| {
            let reasons = ENDS.into_iter().chain(Reason::ALL.into_iter().map(Reason::as_str));
            let counts = row.iter().map(|count| count.load(Ordering::Relaxed));
            reasons
                .zip(counts)
                .enumerate()
                .filter(|(column, (_, count))| *column == OK || *count > 0)
                .map(move |(_, (reason, count))| (method, reason, count))
        })
    }
}

/// What comes from the wire is looked up, never taken.
fn row(path: &str) -> usize {
    let other = |name: &str| {
        let at = OTHERS.iter().position(|other| *other == name);
        METHODS.len() + at.unwrap_or(OTHERS.len() - 1)
    };
    if let Some(method) = path.strip_prefix(CREDENTIALS) {
        let at = METHODS.iter().position(|known| *known == method);
        return at.unwrap_or_else(|| other("other"));
    }
    if let Some(method @ ("FetchSecrets" | "StreamSecrets")) = path.strip_prefix(SECRETS) {
        return other(method);
    }
    if matches!(path, "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch") {
        return other("health");
    }
    if matches!(
        path,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    ) {
        return other("reflection");
    }
    other("other")
}

/// A call under way. If its answer is never taken to the end, the client has gone away.
#[derive(Debug)]
pub(in crate::server) struct Call {
    calls: Arc<Calls>,
    row: usize,
    column: usize,
}

impl Call {
    pub(in crate::server) fn succeeded(&mut self) {
        self.column = OK;
    }

    /// It ended with this; every failure has a reason when it goes out.
    pub(in crate::server) fn failed(&mut self, status: &Status) {
        let reason = status.get_details_error_info().map(|info| info.reason);
        let reason = reason.as_deref().and_then(Reason::from_wire);
        let reason = reason.unwrap_or(Reason::InternalError);
        let at = Reason::ALL.iter().position(|known| *known == reason);
        self.column = at.map_or(CANCELLED, |at| ENDS.len() + at);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let row = self.calls.0.get(self.row);
        if let Some(count) = row.and_then(|row| row.get(self.column)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{broker::Error, service::status};

    fn counted(calls: &Calls) -> Vec<(&'static str, &'static str, u64)> {
        calls.iter().filter(|(_, _, count)| *count > 0).collect()
    }

    #[test]
    fn every_call_counts_once_under_a_method_and_a_reason_of_the_closed_lists() {
        let calls = Arc::new(Calls::default());
        let table: [(&str, &str); 12] = [
            ("/credbroker.v1.CredentialBroker/GetToken", "GetToken"),
            ("/credbroker.v1.CredentialBroker/WatchToken", "WatchToken"),
            ("/credbroker.v1.CredentialBroker/GetTokens", "other"),
            ("/credbroker.v1.CredentialBroker/", "other"),
            ("/credbroker.v1.ControlBroker/GetStatus", "other"),
            ("/grpc.health.v1.Health/Check", "health"),
            ("/grpc.health.v1.Health/Other", "other"),
            (
                "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
                "StreamSecrets",
            ),
            ("/envoy.service.secret.v3.SecretDiscoveryService/health", "other"),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                "reflection",
            ),
            ("/x\"} 1\n# secret", "other"),
            ("", "other"),
        ];
        for (path, method) in table {
            let calls = Arc::new(Calls::default());
            calls.begin(path).succeeded();
            assert_eq!(counted(&calls), [(method, "OK", 1)], "{path}");
        }
        drop(calls.begin("/credbroker.v1.CredentialBroker/GetToken"));
        assert_eq!(counted(&calls), [("GetToken", "CANCELLED", 1)]);
        // Later ends take the place of earlier ones.
        let mut call = calls.begin("/grpc.health.v1.Health/Watch");
        call.succeeded();
        call.failed(&status::from_error(&Error::ShuttingDown));
        drop(call);
        calls.begin("/").failed(&Status::unknown("without details"));
        assert_eq!(
            counted(&calls),
            [
                ("GetToken", "CANCELLED", 1),
                ("health", "SHUTTING_DOWN", 1),
                ("other", "INTERNAL_ERROR", 1)
            ]
        );
    }

    #[test]
    fn there_is_a_number_for_every_reason() {
        for reason in Reason::ALL {
            let calls = Arc::new(Calls::default());
            let error = tonic_types::ErrorDetails::with_error_info(
                reason.as_str(),
                "credbroker.dev",
                std::collections::HashMap::<String, String>::new(),
            );
            let status = Status::with_error_details(tonic::Code::Unknown, "x", error);
            calls.begin("/").failed(&status);
            assert_eq!(counted(&calls), [("other", reason.as_str(), 1)]);
        }
    }
}
