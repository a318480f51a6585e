//! Every failure carries a machine-readable reason, also where tonic answers by itself.
//!
//! The outermost layer looks at each `grpc-status` on its way out, in the headers of an answer without a body or in the
//! trailers behind one. One that is not OK and has no details was not made by a handler of this crate, and is replaced.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response, uri::PathAndQuery};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status, body::Body};

use super::metrics::Call;
use crate::service::status;

static DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
static STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The failure in these headers or trailers, if there is one.
pub(super) fn failure(headers: &HeaderMap) -> Option<Status> {
    // Nearly every call is this one, and has nothing to be read.
    if headers.get(&STATUS).is_none_or(|code| code == "0") {
        return None;
    }
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// The failure in these headers or trailers that has no details, if there is one.
fn incomplete(headers: &HeaderMap) -> Option<Status> {
    failure(headers).filter(|_| !headers.contains_key(&DETAILS))
}

/// Completes a response: its headers now, its trailers when they come.
pub(super) fn response(
    response: Response<Body>,
    path: Option<PathAndQuery>,
    mut call: Option<Call>,
) -> Response<Completed> {
    let Some(failure) = failure(response.headers()) else {
        return response.map(|body| Completed { body, path, call });
    };
    let (failure, response) = if response.headers().contains_key(&DETAILS) {
        (failure, response)
    } else {
        let complete = status::complete(&failure, method(path.as_ref()));
        (complete.clone(), complete.into_http())
    };
    if let Some(call) = &mut call {
        call.failed(&failure);
    }
    response.map(|body| Completed { body, path: None, call })
}

fn method(path: Option<&PathAndQuery>) -> &str {
    path.map_or("", PathAndQuery::path)
}

pin_project! {
    /// A body whose trailers are completed.
    pub(super) struct Completed {
        #[pin]
        body: Body,
        // The method's; `None` also where the headers have said all.
        path: Option<PathAndQuery>,
        // Counts how the call ended when the body is dropped.
        call: Option<Call>,
    }
}

impl http_body::Body for Completed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        frame.map(|frame| {
            frame.map(|frame| {
                frame.map(|mut frame| {
                    if let Some(trailers) = frame.trailers_mut() {
                        if let Some(incomplete) = incomplete(trailers)
                            && let Ok(complete) =
                                trailers_of(&status::complete(&incomplete, method(this.path.as_ref())))
                        {
                            *trailers = complete;
                        }
                        if let Some(call) = this.call {
                            match failure(trailers) {
                                None => call.succeeded(),
                                Some(failure) => call.failed(&failure),
                            }
                        }
                    }
                    frame
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pub(super) fn trailers_of(status: &Status) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(trailers)
}
