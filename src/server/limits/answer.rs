//! The body of an answer: it keeps its call open, and tells how long the peer leaves it untouched.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Status, body::Body};

use super::{
    STREAM_MESSAGE, UNARY_ANSWER,
    connection::{OpenCall, OpenStream},
};

pin_project! {
    /// The body of an answer.
    pub(in crate::server) struct Answer {
        #[pin]
        body: Body,
        call: OpenCall,
        // Gives the place back when the stream is over.
        stream: Option<OpenStream>,
    }
}

impl Answer {
    /// The answer of a call; of a streaming one if there is a `stream`.
    pub(in crate::server) fn new(body: Body, call: OpenCall, stream: Option<OpenStream>) -> Self {
        // An answer without a body needs no room.
        if stream.is_none() && !body.is_end_stream() {
            call.offered(UNARY_ANSWER);
        }
        Self { body, call, stream }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        if this.stream.is_none() {
            return this.body.poll_frame(cx);
        }
        // Asked again, hyper has got rid of the message before.
        this.call.taken();
        // `h2` would take 64 KiB more for each stream, however long the peer has read nothing.
        ready!(this.call.poll_room(cx));
        let frame = this.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && frame.is_data()
        {
            this.call.offered(STREAM_MESSAGE);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
