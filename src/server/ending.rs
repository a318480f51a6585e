//! Streams end in order: when the broker stops and at the call's own deadline, with the reason.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::{Status, body::Body};

use super::complete::trailers_of;
use crate::{broker::Error, service::status};

/// Completes when a stream has to end, with the reason.
type End = Pin<Box<dyn Future<Output = Error> + Send>>;

pin_project! {
    /// A stream's body that is cut short by whatever makes the stream end.
    pub(super) struct Ending {
        #[pin]
        body: Body,
        end: End,
        ended: bool,
    }
}

impl Ending {
    /// Ends `body` when `end` completes, with that error.
    pub(super) fn new(body: Body, end: End) -> Self {
        Self {
            body,
            end,
            ended: false,
        }
    }
}

/// Completes at the deadline, if there is one.
pub(super) async fn deadline(at: Option<Instant>, seconds: f64) -> Error {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
    Error::DeadlineExceeded { seconds }
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(error) = this.end.as_mut().poll(cx) {
            *this.ended = true;
            return Poll::Ready(Some(trailers_of(&status::from_error(&error)).map(Frame::trailers)));
        }
        this.body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}
