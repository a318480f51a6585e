//! Any octets in any pieces through the `:authority` adapter: as many octets come out, the same ones whatever the pieces
//! and the reader's buffers, no piece ends in nothing before the end, and nothing panics.

#![no_main]

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use credbroker::server::authority::AcceptAnyAuthority;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

/// Gives its octets in pieces whose lengths are taken from `lengths` in turn.
struct Pieces<'a> {
    octets: &'a [u8],
    lengths: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    left: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.left == 0 {
            // Nothing there for once, after every piece.
            self.left = self
                .lengths
                .next()
                .map_or(usize::MAX, |length| usize::from(*length) + 1);
            return Poll::Pending;
        }
        let count = self.left.min(self.octets.len()).min(buf.remaining());
        buf.put_slice(&self.octets[..count]);
        self.octets = &self.octets[count..];
        self.left -= count;
        Poll::Ready(Ok(()))
    }
}

fn through(octets: &[u8], lengths: &[u8], size: usize) -> Vec<u8> {
    let mut stream = AcceptAnyAuthority::new(Pieces {
        octets,
        lengths: lengths.iter().cycle(),
        left: 0,
    });
    let mut cx = Context::from_waker(Waker::noop());
    let mut all = Vec::new();
    let mut space = vec![0; size];
    loop {
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut stream).poll_read(&mut cx, &mut buf) {
            Poll::Pending => assert!(buf.filled().is_empty()),
            Poll::Ready(result) => {
                result.unwrap();
                if buf.filled().is_empty() {
                    return all;
                }
                all.extend_from_slice(buf.filled());
            }
        }
    }
}

// The first octet is the size of the reader's buffer, the second how many lengths of pieces follow. A preface goes before
// the rest unless the first octet is 0, for the fuzzer would be long in finding one.
fuzz_target!(|data: &[u8]| {
    let [size, count, rest @ ..] = data else { return };
    let (lengths, rest) = rest.split_at(usize::from(*count % 16).min(rest.len()));
    let mut octets = Vec::new();
    if *size != 0 {
        octets.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    }
    octets.extend_from_slice(rest);

    let at_once = through(&octets, &[], octets.len() + 1);
    assert_eq!(at_once.len(), octets.len());
    assert_eq!(through(&octets, lengths, usize::from(*size) + 1), at_once);
    // The client may break off anywhere: what had been changed by then is changed, and nothing else.
    let half = &octets[..octets.len() / 2];
    let part = through(half, lengths, 64);
    assert_eq!(part.len(), half.len());
    for (place, octet) in part.iter().enumerate() {
        assert!(*octet == at_once[place] || *octet == half[place]);
    }
    // What has been made acceptable is left alone.
    assert_eq!(through(&at_once, lengths, 64), at_once);
});
