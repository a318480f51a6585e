//! Calls that go on when their caller goes away: what they change is changed all the same, and the record says what became of it.

use http::Response;
use tokio::sync::oneshot;
use tonic::body::Body;
use tracing::Instrument as _;

use super::{recorded::Afterwards, routes::CREDENTIALS};
use crate::{broker::Error, service::status};

/// The methods whose work is a task of the broker's, which no caller takes back.
const METHODS: [&str; 4] = ["ExchangeCode", "RefreshToken", "RemoveToken", "SaveToken"];

/// Whether the method goes on.
pub(super) fn goes_on(method: &str) -> bool {
    method
        .strip_prefix(CREDENTIALS)
        .is_some_and(|method| METHODS.contains(&method))
}

/// Awaits the call to its end, in a task of its own. If nobody waits for the answer any more, it is told to `afterwards`; the line
/// that says so, `cancelled`, has been written by then.
pub(super) async fn to_the_end(
    afterwards: Option<Afterwards>,
    call: impl Future<Output = Response<Body>> + Send + 'static,
) -> Response<Body> {
    let (answer, answered) = oneshot::channel();
    let to_the_end = async move {
        let response = call.await;
        if let (Err(response), Some(afterwards)) = (answer.send(response), afterwards) {
            afterwards.tell(response.headers());
        }
    };
    tokio::spawn(to_the_end.in_current_span());
    answered.await.unwrap_or_else(|_dropped| {
        // Only a runtime that ends drops the task; panics are caught in it.
        status::from_error(&Error::Internal("the task of a call was dropped".into())).into_http()
    })
}
