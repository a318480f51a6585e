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
        // Octets that are read at any pace.
        free: usize,
        connection: Arc<Connection>,
    }
}

impl<B> Paced<B> {
    pub(in crate::server) fn new(body: B, connection: Arc<Connection>) -> Self {
        Self {
            body,
            pause: tokio::time::sleep_until(Instant::now()),
            paused: false,
            free: 0,
            connection,
        }
    }

    /// A body whose first octets are read at any pace: that it begins counts as a call.
    pub(in crate::server) fn but_for(free: usize, body: B, connection: Arc<Connection>) -> Self {
        Self {
            free,
            ..Self::new(body, connection)
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
            let free = data.len().min(*this.free);
            *this.free -= free;
            let pause = this.connection.streamed(data.len() - free);
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

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, future::poll_fn};

    use tokio::sync::watch;

    use super::*;
    use crate::server::limits::{Limits, STREAMED_BURST, STREAMED_PER_SECOND};

    /// Frames that are all there.
    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn frames(lengths: &[usize]) -> Frames {
        let data = |length: &usize| Frame::data(Bytes::from(vec![0; *length]));
        Frames(lengths.iter().map(data).collect())
    }

    /// When each frame came out, in milliseconds.
    async fn read<B: Body>(body: B) -> Vec<u128> {
        let start = Instant::now();
        let mut body = std::pin::pin!(body);
        let mut came = Vec::new();
        while poll_fn(|cx| body.as_mut().poll_frame(cx)).await.is_some() {
            came.push(start.elapsed().as_millis());
        }
        came
    }

    fn connection() -> Arc<Connection> {
        Connection::new(None, &Limits::default(), watch::channel(false).1)
    }

    const SECOND: usize = STREAMED_PER_SECOND as usize;
    const BURST: usize = SECOND * STREAMED_BURST.as_secs() as usize;

    #[tokio::test(start_paused = true)]
    async fn a_burst_at_once_and_the_rest_at_the_pace() {
        let body = Paced::new(frames(&[BURST, SECOND, SECOND / 2, 0, 1]), connection());
        let came = read(body).await;
        // What goes beyond the burst is paid for before the next is looked at; what is empty costs nothing.
        assert_eq!(came.len(), 5);
        for (came, want) in came.into_iter().zip([0, 0, 1000, 1500, 1500]) {
            assert!(came.abs_diff(want) <= 2, "{came} {want}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_streams_of_a_connection_share_the_pace_and_another_connection_has_its_own() {
        let shared = connection();
        let streams = [(); 2].map(|()| Paced::new(frames(&[BURST, SECOND, 1]), Arc::clone(&shared)));
        let [one, two] = streams.map(|body| tokio::spawn(read(body)));
        let alone = tokio::spawn(read(Paced::new(frames(&[BURST, SECOND, 1]), connection())));
        let last = |came: Vec<u128>| *came.last().unwrap();
        let (one, two) = (last(one.await.unwrap()), last(two.await.unwrap()));
        // Twice the burst and two seconds' worth are 6 s; 2 of them are free.
        assert!(one.max(two).abs_diff(4000) <= 3, "{one} {two}");
        assert!(last(alone.await.unwrap()).abs_diff(1000) <= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_beginning_that_is_free_is_each_streams_own_and_goes_beyond_no_octet() {
        let shared = connection();
        let body = || {
            Paced::but_for(
                BURST,
                frames(&[BURST - 1, 1 + BURST / 2, SECOND, 1]),
                Arc::clone(&shared),
            )
        };
        assert_eq!(
            read(Paced::but_for(BURST, frames(&[BURST, 1]), Arc::clone(&shared))).await,
            [0, 0]
        );
        let came = read(body()).await;
        assert!(
            came.last().unwrap().abs_diff(0) <= 2,
            "half a burst and a second's worth are one burst: {came:?}"
        );
        let came = read(body()).await;
        assert!(came.last().unwrap().abs_diff(2000) <= 3, "{came:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_says_as_much_of_its_length_as_its_body() {
        let body = |octets: &'static str| http_body_util::Full::new(Bytes::from(octets));
        assert!(Paced::new(body(""), connection()).is_end_stream());
        let whole = Paced::new(body("abc"), connection());
        assert!(!whole.is_end_stream());
        assert_eq!(whole.size_hint().exact(), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn trailers_cost_nothing() {
        let mut body = frames(&[BURST]);
        body.0.push_back(Frame::trailers(http::HeaderMap::new()));
        assert_eq!(read(Paced::new(body, connection())).await, [0, 0]);
    }
}
