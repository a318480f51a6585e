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
