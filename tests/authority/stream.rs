//! The adapter as a stream, its bounds, and single corners of the protocol.

use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use credbroker::server::authority::{AcceptAnyAuthority, MAX_HELD, MAX_VALUE};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::client::{Field, Indexing, PREFACE, Prefer, Request, connection, frame, integer};
use crate::server::{through, with_adapter, without_adapter};

fn request(value: &str) -> Request {
    Request {
        sizes: Vec::new(),
        authority: Field {
            name: ":authority".to_owned(),
            value: value.as_bytes().to_vec(),
            indexing: Indexing::With,
            prefer: Prefer::Whole,
            huffman_name: false,
            huffman_value: false,
        },
        fields: Vec::new(),
        cuts: Vec::new(),
        padding: None,
        priority: false,
        between: None,
    }
}

/// HEADERS with a refused plain value, cut before the value; the value and the rest of the block come in `rest`.
fn cut_before_value(value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut sent = PREFACE.to_vec();
    sent.extend_from_slice(&frame(4, 0, 0, &[]));
    let mut block = vec![0x83, 0x86, 0x84, 0x41];
    block.extend_from_slice(&integer(0, 7, value.len() as u32));
    sent.extend_from_slice(&frame(1, 0x1, 1, &block));
    (sent, value.to_vec())
}

#[test]
fn every_cut_of_a_block_is_served() {
    for huffman in [false, true] {
        let mut request = request("tmp%2Fdir%2Fsock");
        request.authority.huffman_value = huffman;
        request.authority.prefer = Prefer::Literal;
        for cut in 0..=1000 {
            request.cuts = vec![cut, cut];
            request.padding = (cut % 2 == 0).then_some(3);
            let octets = connection(&[request.clone(), request.clone()]).octets;
            assert_eq!(
                with_adapter(octets.iter().map(|octet| vec![*octet])).requests.len(),
                2,
                "{cut}"
            );
        }
    }
}

/// The name of every static entry has the right length: an entry that just fits does not push out the one before it.
#[test]
fn the_table_is_sized_exactly() {
    // HTTP/2 has no transfer-encoding (57).
    for index in (15..=61_u32).filter(|index| *index != 57) {
        let names = with_adapter([named_by(index, 4096)]);
        let length = names.requests[0].fields[0].0.len() as u32;
        // Room for `:authority: /a` and the field, and not one octet more.
        let room = (10 + 2 + 32) + (length + 1 + 32);
        let outcome = with_adapter([named_by(index, room)]);
        assert_eq!(outcome.requests.len(), 2, "static entry {index}: {outcome:?}");
    }
}

/// Two requests: the first puts `:authority: /a` and a field with a static name into a table of the given size, the
/// second names its authority by the older of the two entries.
fn named_by(index: u32, size: u32) -> Vec<u8> {
    let mut first = integer(0x20, 5, size);
    first.extend_from_slice(&[0x83, 0x86, 0x84, 0x41, 2, b'/', b'a']);
    first.extend_from_slice(&integer(0x40, 6, index));
    first.extend_from_slice(&[1, b'0']);
    let second = [&[0x83, 0x86, 0x84][..], &integer(0x00, 4, 63), &[2, b'/', b'b']].concat();
    let settings = frame(4, 0, 0, &[]);
    [
        PREFACE,
        &settings,
        &frame(1, 0x5, 1, &first),
        &frame(1, 0x5, 3, &second),
    ]
    .concat()
}

#[test]
fn an_empty_authority_stays_refused() {
    for block in [&[0x83, 0x86, 0x84, 0x41, 0][..], &[0x83, 0x86, 0x84, 0x81]] {
        let octets = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 0x5, 1, block)].concat();
        let outcome = with_adapter([octets.clone()]);
        assert_eq!((outcome.requests.len(), &outcome.resets[..]), (0, &[(1, 1)][..]));
        assert_eq!(outcome, without_adapter([octets]));
    }
}

#[test]
fn an_absent_authority_stays_absent() {
    let octets = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 0x5, 1, &[0x83, 0x86, 0x84])].concat();
    let outcome = with_adapter([octets]);
    assert_eq!(outcome.requests.len(), 1);
    assert_eq!(outcome.requests[0].authority, None);
}

#[test]
fn what_huffman_coding_cannot_replace_stays_refused() {
    for value in ["a{b", "/tmp/b\u{fc}cher"] {
        let mut request = request(value);
        request.authority.huffman_value = true;
        let octets = connection(&[request]).octets;
        assert_eq!(through([octets.clone()], 4096), octets);
    }
    // Without it everything can be.
    assert_eq!(
        with_adapter([connection(&[request("/tmp/b\u{fc}cher/{a}")]).octets])
            .requests
            .len(),
        1
    );
}

#[test]
fn a_long_value_passes_as_it_is() {
    for (length, served) in [(MAX_VALUE, 1), (MAX_VALUE + 1, 0)] {
        let octets = connection(&[request(&"/".repeat(length))]).octets;
        assert_eq!(with_adapter([octets.clone()]).requests.len(), served);
        assert_eq!(
            with_adapter(octets.iter().map(|octet| vec![*octet])).requests.len(),
            served
        );
        assert_eq!(through([octets.clone()], 1 << 20) == octets, served == 0);
    }
}

/// A connection goes on to be followed after a value that was too long or too scattered.
#[test]
fn the_next_value_is_found_after_one_that_was_given_up() {
    let long = connection(&[request(&"/".repeat(MAX_VALUE + 1)), request("/tmp/dir/sock")]).octets;
    let mut scattered = cut_before_value(b"/ab").0;
    for octet in [&b"/"[..], b"a"] {
        scattered.extend_from_slice(&frame(9, 0, 1, octet));
        for _ in 0..MAX_HELD / 9 {
            scattered.extend_from_slice(&frame(9, 0, 1, &[]));
        }
    }
    scattered.extend_from_slice(&frame(9, 0x4, 1, b"b"));
    scattered.extend_from_slice(&frame(1, 0x5, 3, &[0x83, 0x86, 0x84, 0x01, 2, b'/', b'a']));
    for (octets, due) in [(long, 3), (scattered, 1)] {
        for size in [1, 1000, octets.len()] {
            let after = through(octets.chunks(size).map(<[u8]>::to_vec), 4096);
            assert_eq!(
                octets
                    .iter()
                    .zip(&after)
                    .filter(|(before, after)| before != after)
                    .count(),
                due
            );
        }
    }
}

/// No more is held back than the bound, and it is given up without waiting for more.
#[tokio::test]
async fn holding_back_is_bounded() {
    let (before, _) = cut_before_value(b"/a");
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let mut server = AcceptAnyAuthority::new(server);
    client.write_all(&before).await.unwrap();
    client.write_all(&frame(9, 0, 1, b"/")).await.unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut sent = before.len() + 10;
    // The value's first octet is held back.
    assert_eq!(read_now(&mut server, &mut buffer).await, sent - 1);
    while sent - (before.len() + 9) <= MAX_HELD {
        assert_eq!(read_now(&mut server, &mut buffer).await, 0);
        client.write_all(&frame(9, 0, 1, &[])).await.unwrap();
        sent += 9;
    }
    assert_eq!(read_now(&mut server, &mut buffer).await, sent - (before.len() + 9));
}

/// What is held back counts, not what came before it in the same read.
#[tokio::test]
async fn a_value_at_the_end_of_a_long_read_is_waited_for() {
    let (before, value) = cut_before_value(b"/a");
    let mut octets = PREFACE.to_vec();
    octets.extend(frame(0x77, 0, 0, &[0; MAX_HELD]));
    octets.extend(&before[PREFACE.len()..]);
    octets.extend(frame(9, 0x4, 1, &value));
    let (last, most) = octets.split_last().unwrap();
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let mut server = AcceptAnyAuthority::new(server);
    let mut buffer = vec![0; 1 << 16];
    client.write_all(most).await.unwrap();
    assert_eq!(read_now(&mut server, &mut buffer).await, most.len() - 1);
    client.write_all(&[*last]).await.unwrap();
    assert_eq!(read_now(&mut server, &mut buffer).await, 2);
    assert_ne!(buffer[..2], value);
}

/// How many octets can be read without waiting for the client.
async fn read_now(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> usize {
    poll_fn(|cx| {
        let mut buffer = ReadBuf::new(buffer);
        while Pin::new(&mut *stream).poll_read(cx, &mut buffer)?.is_ready() {}
        Poll::Ready(Ok::<_, std::io::Error>(buffer.filled().len()))
    })
    .await
    .unwrap()
}

/// When the last octet of a value comes, a reader that waits is woken.
#[tokio::test]
async fn a_waiting_reader_is_woken() {
    let (before, value) = cut_before_value(b"/tmp/dir");
    let (mut client, server) = tokio::io::duplex(4096);
    let mut server = AcceptAnyAuthority::new(server);
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        all
    });
    client.write_all(&before).await.unwrap();
    for octet in frame(9, 0x4, 1, &value) {
        client.write_all(&[octet]).await.unwrap();
        tokio::task::yield_now().await;
    }
    drop(client);
    let all = tokio::time::timeout(Duration::from_secs(5), reader)
        .await
        .unwrap()
        .unwrap();
    assert!(all.ends_with(b"-tmp-dir"));
}

/// Something malformed lets go of what is held back at once: `h2` must see it to end the connection.
#[tokio::test]
async fn a_malformed_rest_is_not_held_back() {
    for wrong in [frame(6, 0, 0, &[0; 8]), frame(9, 0x4, 3, b"/a"), frame(9, 0x4, 1, b"/")] {
        let (before, _) = cut_before_value(b"/a");
        let (mut client, server) = tokio::io::duplex(4096);
        let mut server = AcceptAnyAuthority::new(server);
        client.write_all(&before).await.unwrap();
        client.write_all(&wrong).await.unwrap();
        let mut buffer = [0; 256];
        let count = read_now(&mut server, &mut buffer).await;
        assert_eq!(buffer[..count], [before, wrong].concat());
    }
}

/// Whoever broke the protocol is `h2`'s: the adapter has lost its place, and changes nothing more.
#[tokio::test]
async fn nothing_is_changed_after_something_malformed() {
    let octets = connection(&[request("/a")]).octets;
    let (start, requests) = octets.split_at(PREFACE.len());
    for (wrong, changed) in [(frame(6, 0, 0, &[0; 8]), true), (frame(9, 0x4, 1, b""), false)] {
        let (mut client, server) = tokio::io::duplex(4096);
        let mut server = AcceptAnyAuthority::new(server);
        let mut buffer = [0; 1024];
        client.write_all(&[start, &wrong].concat()).await.unwrap();
        let before = read_now(&mut server, &mut buffer).await;
        assert_eq!(before, start.len() + wrong.len());
        client.write_all(requests).await.unwrap();
        let count = read_now(&mut server, &mut buffer).await;
        assert_eq!(count, requests.len());
        assert_eq!(buffer[..count] != *requests, changed);
    }
}

/// The first bit before a stream's number is reserved and no part of it (RFC 9113, section 4.1).
#[test]
fn the_reserved_bit_makes_no_other_stream() {
    let mut octets = [PREFACE, &frame(4, 0, 0, &[])].concat();
    octets.extend(frame(1, 0x1, 0x8000_0001, &[0x83, 0x86, 0x84, 0x41, 2]));
    octets.extend(frame(9, 0x4, 1, b"/a"));
    assert_eq!(with_adapter([octets]).requests.len(), 1);
}

#[tokio::test]
async fn reading_into_nothing_is_not_the_end() {
    let octets = connection(&[request("/a")]).octets;
    let mut stream = AcceptAnyAuthority::new(&octets[..]);
    assert_eq!(stream.read(&mut []).await.unwrap(), 0);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), octets.len());
}

/// Notes which of the writing methods were called, and says this of how it likes to be written to.
#[derive(Default)]
struct Writer(Vec<&'static str>, bool);

impl AsyncRead for Writer {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.push("write");
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.0.push("flush");
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.0.push("shutdown");
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.0.push("write_vectored");
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.1
    }
}

#[tokio::test]
async fn writing_goes_straight_through() {
    assert!(!AcceptAnyAuthority::new(Writer::default()).is_write_vectored());
    let mut stream = AcceptAnyAuthority::new(Writer(Vec::new(), true));
    assert!(stream.is_write_vectored());
    assert_eq!(stream.write(b"abc").await.unwrap(), 3);
    assert_eq!(
        stream
            .write_vectored(&[IoSlice::new(b"ab"), IoSlice::new(b"c")])
            .await
            .unwrap(),
        3
    );
    stream.flush().await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.get_ref().0, ["write", "write_vectored", "flush", "shutdown"]);
}
