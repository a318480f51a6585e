//! The adapter around the accepted stream: it passes everything through, tells [`Progress`](super::progress) what goes
//! by, and has the last word when the connection is cut.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::Connection;

/// The stream of one connection, watched.
pub(in crate::server) struct Guarded<S: AsyncWrite + Unpin> {
    inner: S,
    connection: Arc<Connection>,
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    pub(in crate::server) fn new(inner: S, connection: Arc<Connection>) -> Self {
        Self { inner, connection }
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>, bufs: &[IoSlice<'_>]) {
        let now = Instant::now();
        let mut progress = self.connection.progress();
        match result {
            Poll::Pending => progress.full(now),
            Poll::Ready(Ok(count)) => {
                let mut left = *count;
                for buf in bufs {
                    let taken = left.min(buf.len());
                    progress.wrote(buf.get(..taken).unwrap_or_default(), now);
                    left -= taken;
                }
            }
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Nothing more is read of a connection that is being cut; the task that polls this ends it right after.
        if self.connection.why_cut().is_some() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        let new = buf.filled().get(before..).unwrap_or_default();
        if new.is_empty() {
            return result;
        }
        let read = self.connection.progress().read(new, Instant::now());
        if let Err(cut) = read {
            buf.set_filled(before);
            self.connection.cut(cut);
            return Poll::Pending;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(&result, &[IoSlice::new(buf)]);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(&result, bufs);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // `h2` flushes the stream once it has written all it had.
        self.connection.flushed();
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncWrite + Unpin> Drop for Guarded<S> {
    fn drop(&mut self) {
        let Some(cut) = self.connection.why_cut() else { return };
        let Some(goaway) = self.connection.progress().goaway(cut) else {
            return;
        };
        // A peer whose socket is full does not get to know; nobody waits for it.
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.inner).poll_write(&mut cx, &goaway);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::AsyncWriteExt as _,
        sync::{mpsc, watch},
    };

    use super::*;
    use crate::server::limits::{Cut, Limits};

    /// Tells what is asked of it; takes no more than so many octets at once.
    struct Socket {
        told: mpsc::UnboundedSender<(&'static str, Vec<u8>)>,
        room: usize,
        vectored: bool,
    }

    impl Socket {
        fn tell(&self, what: &'static str, octets: &[u8]) -> Poll<io::Result<usize>> {
            let taken = octets.get(..self.room).unwrap_or(octets);
            self.told.send((what, taken.to_vec())).unwrap();
            Poll::Ready(Ok(taken.len()))
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.tell("write", buf)
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bufs: Vec<&[u8]> = bufs.iter().map(|buf| &**buf).collect();
            self.tell("write_vectored", &bufs.concat())
        }

        fn is_write_vectored(&self) -> bool {
            self.vectored
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.tell("flush", &[]).map_ok(drop)
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.tell("shutdown", &[]).map_ok(drop)
        }
    }

    type Told = mpsc::UnboundedReceiver<(&'static str, Vec<u8>)>;

    fn guarded(room: usize, vectored: bool) -> (Guarded<Socket>, Told) {
        let (told, hears) = mpsc::unbounded_channel();
        let connection = Connection::new(None, &Limits::default(), watch::channel(false).1);
        (Guarded::new(Socket { told, room, vectored }, connection), hears)
    }

    #[tokio::test]
    async fn writing_goes_straight_through() {
        assert!(!guarded(1, false).0.is_write_vectored());
        let (mut guarded, mut told) = guarded(3, true);
        assert!(guarded.is_write_vectored());
        assert_eq!(guarded.write(b"abcd").await.unwrap(), 3);
        let parts = [IoSlice::new(b"ef"), IoSlice::new(b"gh")];
        assert_eq!(guarded.write_vectored(&parts).await.unwrap(), 3);
        guarded.flush().await.unwrap();
        guarded.shutdown().await.unwrap();
        drop(guarded);
        let want: [(&str, &[u8]); 4] = [
            ("write", b"abc"),
            ("write_vectored", b"efg"),
            ("flush", b""),
            ("shutdown", b""),
        ];
        for (what, octets) in want {
            assert_eq!(told.recv().await, Some((what, octets.to_vec())));
        }
        assert_eq!(told.recv().await, None, "nobody was cut: there is no last word");
    }

    /// Two frames without a payload, of which the socket takes so many octets: a last word fits between frames only.
    #[tokio::test]
    async fn the_last_word_comes_where_a_frame_may_begin() {
        for (taken, fits) in [(0, true), (1, false), (8, false), (9, true), (10, false), (18, true)] {
            for vectored in [false, true] {
                let (mut guarded, mut told) = guarded(taken, vectored);
                let (one, two) = ([0; 9], [0; 9]);
                let parts = [IoSlice::new(&one), IoSlice::new(&two)];
                let whole = [one, two].concat();
                let written = poll_fn(|cx| match vectored {
                    true => Pin::new(&mut guarded).poll_write_vectored(cx, &parts),
                    false => Pin::new(&mut guarded).poll_write(cx, &whole),
                });
                assert_eq!(written.await.unwrap(), taken);
                told.recv().await.unwrap();
                guarded.connection.cut(Cut::Crowded);
                guarded.inner.room = 1_000;
                drop(guarded);
                let last = told.recv().await;
                assert_eq!(last.is_some(), fits, "{taken} {vectored}");
                assert!(last.is_none_or(|(_, frame)| frame.ends_with(Cut::Crowded.word().as_bytes())));
            }
        }
    }
}
