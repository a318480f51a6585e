//! The body of a streaming request, which is read no faster than one client's share.
//!
//! The rates count calls, and a stream is one call however many messages it carries. So what is sent on streams is
//! read at a pace; the rest waits in the window, and then with the client.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::Connection;

pin_project! {
    /// A body that is read at its connection's pace.
    pub(in crate::server) struct Paced<B> {
        #[pin]
        body: B,
        #[pin]
        pause: Sleep,
        paused: bool,
        connection: Arc<Connection>,
    }
}

impl<B> Paced<B> {
    pub(in crate::server) fn new(body: B, connection: Arc<Connection>) -> Self {
        Self {
            body,
            pause: tokio::time::sleep_until(Instant::now()),
            paused: false,
            connection,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for Paced<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        if *this.paused {
            ready!(this.pause.as_mut().poll(cx));
            *this.paused = false;
        }
        let frame = ready!(this.body.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let pause = this.connection.streamed(data.len());
            if !pause.is_zero() {
                this.pause.reset(Instant::now() + pause);
                *this.paused = true;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
