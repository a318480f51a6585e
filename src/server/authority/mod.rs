//! Makes the `:authority` of every stock gRPC client acceptable to the HTTP/2 server.
//!
//! # The problem
//!
//! An HTTP/2 request names the host it is meant for in the pseudo header `:authority`. On a Unix domain socket there is
//! no host, and every gRPC implementation fills the gap in its own way:
//!
//! | client | what it sends for `/tmp/dir/sock` |
//! | --- | --- |
//! | Go, Node, grpcurl | `localhost` |
//! | the C core before 1.57 | `localhost` |
//! | the C core since 1.57 (Python, Ruby, PHP, C++) | `tmp%2Fdir%2Fsock`, the percent-encoded path |
//! | Swift | `%2Ftmp%2Fdir%2Fsock` |
//! | Java | `/tmp/dir/sock`, the path itself |
//!
//! `h2`, the HTTP/2 implementation below hyper and tonic, parses the value as the authority of a URI
//! ([`http::uri::Authority`]). It refuses the last three and answers RST_STREAM with PROTOCOL_ERROR. That happens inside
//! `h2`: no layer, interceptor or service of ours is ever asked.
//!
//! # The way out
//!
//! [`AcceptAnyAuthority`] stands between the accepted socket and `h2` and reads along. It follows the frames, the header
//! blocks inside them (HPACK, RFC 7541) and the names in the connection's header table. Where a value of `:authority`
//! goes by that `h2` would refuse, the refused octets are replaced by harmless ones: `tmp%2Fdir%2Fsock` becomes
//! `tmp-2Fdir-2Fsock`. Nothing in the broker looks at the value; who is calling is known from the socket.
//!
//! Not one octet is inserted or removed, because three lengths depend on each other: the frame's, the encoded value's
//! and the decoded value's, by which both sides account for the header table (RFC 7541, section 4.1). In a value with
//! Huffman coding an octet therefore gives way to one whose code has as many bits: `%`, `/` and `-` all have 6.
//!
//! The modules, from the outside in:
//!
//! | module | job |
//! | --- | --- |
//! | this one | the stream: in place where possible, holding octets back where not |
//! | `rewrite` | finds the values in the octets and puts the new ones in their place; no I/O |
//! | `frames` | which octets of the connection belong to header blocks |
//! | `hpack` | which octets of a header block belong to a value of `:authority` |
//! | `table` | the names that an index in a header block can mean |
//! | `value` | what to write instead of a refused value |
//! | `huffman` | HPACK's Huffman code |
//!
//! # What it never does
//!
//! - It judges nothing. When it meets anything that breaks the rules of HTTP/2, it lets the rest of the connection pass
//!   as it is, and `h2` deals with it.
//! - It changes nothing but refused values of `:authority`: an accepted value passes as it is, like every other field.
//! - It changes no number of octets and no order.
//! - It keeps no octets longer than it must: a value is held back from its first octet to its last, at most
//!   [`MAX_VALUE`] octets of value and [`MAX_HELD`] octets in all; beyond that the value passes as it is. Between values
//!   it owns no buffer, only the names' table (at most 128 small entries, as HPACK's 4096 octets allow no more).
//!
//! # What stays refused
//!
//! - An empty `:authority`. `h2` refuses it (an empty authority is not the same to it as none), and there is no octet to
//!   replace. No stock client sends one.
//! - A value with Huffman coding that holds an octet for which no acceptable one has a code of the same length:
//!   `` # < > \ ^ ` { } ``, control characters except NUL, and everything outside ASCII. The clients that send such paths raw (Java)
//!   do so without Huffman coding, where every octet can be replaced; the others percent-encode them.

mod frames;
mod hpack;
mod huffman;
mod rewrite;
mod table;
mod value;

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use rewrite::Rewriter;
pub use rewrite::{MAX_HELD, MAX_VALUE};

/// How much is read at once while octets are held back. Small, because what is missing is the rest of one value.
const STEP: usize = 1024;

/// What goes by breaks the rules of HTTP/2 or HPACK, so nothing after it can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Malformed;

pin_project! {
    /// A server's end of an HTTP/2 connection on which every `:authority` is acceptable.
    ///
    /// Reading gives what the client sent, with the refused octets of `:authority` values replaced; writing goes straight
    /// through. See the [module](self) for why.
    ///
    /// ```no_run
    /// # use credbroker::server::authority::AcceptAnyAuthority;
    /// # async fn serve(listener: tokio::net::UnixListener) -> std::io::Result<()> {
    /// let (stream, _) = listener.accept().await?;
    /// let peer = stream.peer_cred()?;
    /// let stream = AcceptAnyAuthority::new(stream); // hand this to hyper, tonic or h2
    /// # let _ = (peer, stream.get_ref().peer_addr()?);
    /// # Ok(())
    /// # }
    /// ```
    pub struct AcceptAnyAuthority<S> {
        #[pin]
        inner: S,
        rewriter: Rewriter,
        // Octets that were read and not yet handed on. Empty and without memory except around a value of `:authority`
        // that did not arrive in one piece.
        held: Vec<u8>,
        // How many of them, from the first, may be handed on.
        free: usize,
    }
}

impl<S> AcceptAnyAuthority<S> {
    /// Wraps a stream that was just accepted: the client's connection preface must not have been read yet.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            rewriter: Rewriter::new(),
            held: Vec::new(),
            free: 0,
        }
    }

    /// The stream inside, for what it knows about the connection.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

/// Not what is held back: with the end of a value comes whatever the client sent after it, its capability included.
impl<S: fmt::Debug> fmt::Debug for AcceptAnyAuthority<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptAnyAuthority")
            .field("inner", &self.inner)
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

impl<S: AsyncRead> AsyncRead for AcceptAnyAuthority<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        if this.held.is_empty() {
            let before = buf.filled().len();
            ready!(this.inner.as_mut().poll_read(cx, buf))?;
            let Some(new) = buf.filled_mut().get_mut(before..) else {
                return Poll::Ready(Ok(()));
            };
            let free = this.rewriter.walk(new, 0);
            let all = free == new.len();
            if let Some(rest) = new.get(free..) {
                this.held.extend_from_slice(rest);
            }
            buf.set_filled(before + free);
            // Nothing new would mean the end of the stream, so if all is held back, more must be read first.
            if all || free > 0 {
                return Poll::Ready(Ok(()));
            }
        }

        while *this.free == 0 {
            let mut space = [const { MaybeUninit::<u8>::uninit() }; STEP];
            let mut more = ReadBuf::uninit(&mut space);
            ready!(this.inner.as_mut().poll_read(cx, &mut more))?;
            if more.filled().is_empty() {
                // The client ended in the middle of a value. What it did send is due all the same.
                this.rewriter.give_up();
                *this.free = this.held.len();
            } else {
                let walked = this.held.len();
                this.held.extend_from_slice(more.filled());
                *this.free = this.rewriter.walk(this.held, walked);
            }
        }

        let now = (*this.free).min(buf.remaining());
        if let Some(due) = this.held.get(..now) {
            buf.put_slice(due);
        }
        this.held.drain(..now);
        *this.free -= now;
        if this.held.is_empty() {
            *this.held = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite> AsyncWrite for AcceptAnyAuthority<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S: Connected> Connected for AcceptAnyAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x0b\x01\x05\0\0\0\x01\x83\x86\x84\x41\x06/t";

    /// An idle connection owns no buffer, and the table of names takes no memory before there is one.
    #[tokio::test]
    async fn nothing_is_kept_after_a_value() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = AcceptAnyAuthority::new(server);
        let mut buffer = [0; 128];
        tokio::io::AsyncWriteExt::write_all(&mut client, START).await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), START.len() - 2);
        assert_eq!(server.held, b"/t");
        tokio::io::AsyncWriteExt::write_all(&mut client, b"mp/a").await.unwrap();
        // Handed on in as small parts as the reader likes.
        for part in [&b"-tm"[..], b"p-a"] {
            server.read_exact(&mut buffer[..3]).await.unwrap();
            assert_eq!(&buffer[..3], part);
        }
        assert_eq!((server.held.capacity(), server.free), (0, 0));
    }

    #[tokio::test]
    async fn what_comes_behind_a_value_is_in_no_debug_output() {
        const CAPABILITY: &[u8] = b"c0ffee";
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = AcceptAnyAuthority::new(server);
        let mut buffer = [0; 128];
        tokio::io::AsyncWriteExt::write_all(&mut client, START).await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), START.len() - 2);
        let rest = [b"mp/a", CAPABILITY].concat();
        tokio::io::AsyncWriteExt::write_all(&mut client, &rest).await.unwrap();
        server.read_exact(&mut buffer[..1]).await.unwrap();
        assert!(server.held.ends_with(CAPABILITY));
        let shown = format!("{server:?}");
        let octets = format!("{CAPABILITY:?}");
        assert!(!shown.contains(octets.trim_matches(['[', ']'])), "{shown}");
        assert!(shown.contains("held: 11"), "{shown}");
    }

    /// The client ends in the middle of a value: what it sent comes out, then the end.
    #[tokio::test]
    async fn the_end_lets_go() {
        let mut stream = AcceptAnyAuthority::new(START);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, START);
        assert_eq!(stream.held.capacity(), 0);
    }
}
