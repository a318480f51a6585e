//! Every failure carries a machine-readable reason, also where tonic answers by itself.
//!
//! The outermost layer looks at each `grpc-status` on its way out, in the headers of an answer without a body or in the
//! trailers behind one. One that is not OK and has no details was not made by a handler of this crate, and is replaced.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status, body::Body};

use crate::service::status;

const DETAILS: &str = "grpc-status-details-bin";

/// The failure in these headers or trailers, if there is one.
pub(super) fn failure(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// The failure in these headers or trailers that has no details, if there is one.
fn incomplete(headers: &HeaderMap) -> Option<Status> {
    if headers.contains_key(DETAILS) {
        return None;
    }
    failure(headers)
}

/// Completes a response: its headers now, its trailers when they come.
pub(super) fn response(response: Response<Body>, method: &str) -> Response<Body> {
    if let Some(incomplete) = incomplete(response.headers()) {
        return status::complete(&incomplete, method).into_http();
    }
    if failure(response.headers()).is_some() {
        return response;
    }
    let method = method.into();
    response.map(|body| Body::new(Completed { body, method }))
}

pin_project! {
    /// A body whose trailers are completed.
    struct Completed {
        #[pin]
        body: Body,
        method: Box<str>,
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
                    if let Some(trailers) = frame.trailers_mut()
                        && let Some(incomplete) = incomplete(trailers)
                        && let Ok(complete) = trailers_of(&status::complete(&incomplete, this.method))
                    {
                        *trailers = complete;
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
