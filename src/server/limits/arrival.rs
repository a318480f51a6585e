//! The body of a unary request, which has to arrive in time.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tonic::Status;

use super::REQUEST;
use crate::{broker::Error, service::status};

pin_project! {
    /// A body that fails when it is not there in time. The time begins when this is made, at HEADERS.
    pub(in crate::server) struct Arriving<B> {
        #[pin]
        body: B,
        #[pin]
        late: Sleep,
    }
}

impl<B> Arriving<B> {
    pub(in crate::server) fn new(body: B) -> Self {
        Self {
            body,
            late: tokio::time::sleep(REQUEST),
        }
    }
}

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        // What is there is taken, however late it is looked at: the broker may have been the slow one.
        match this.body.poll_frame(cx) {
            Poll::Ready(frame) => {
                Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))))
            }
            Poll::Pending => this.late.poll(cx).map(|()| {
                let error = Error::RequestTooSlow {
                    seconds: REQUEST.as_secs(),
                };
                Some(Err(status::from_error(&error)))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_says_as_much_of_its_length_as_its_body() {
        assert!(Arriving::new(Full::<Bytes>::default()).is_end_stream());
        let whole = Arriving::new(Full::new(Bytes::from("abc")));
        assert!(!whole.is_end_stream());
        assert_eq!(whole.size_hint().exact(), Some(3));
    }
}
