//! The body of an answer: it keeps its call open, and tells how long `h2` holds each part of it.
//!
//! That hyper asks for the next part, or drops the body, says nothing of the peer: `h2` takes a whole part as soon as
//! there is room for a single octet of it. So what is handed on tells when it is dropped, and that is when the last octet
//! was written, or when the stream was reset.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

use super::{
    STREAM_MESSAGE, UNARY_ANSWER,
    calls::{Offer, OpenCall, OpenStream},
};

pin_project! {
    /// The body of an answer.
    pub(in crate::server) struct Answer<B> {
        #[pin]
        body: B,
        call: OpenCall,
        // Gives the place back when the stream is over.
        stream: Option<OpenStream>,
        // That of a unary answer, whose time began before anyone asked for it.
        offer: Option<Offer>,
    }
}

impl<B: Body> Answer<B> {
    /// The answer of a call; of a streaming one if there is a `stream`.
    pub(in crate::server) fn new(body: B, call: OpenCall, stream: Option<OpenStream>) -> Self {
        // An answer without a body needs no room.
        let unary = stream.is_none() && !body.is_end_stream();
        let offer = unary.then(|| call.offer(0, UNARY_ANSWER));
        Self {
            body,
            call,
            stream,
            offer,
        }
    }
}

impl<B: Body<Data = Bytes, Error = Status>> Body for Answer<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let time = if this.stream.is_some() {
            // `h2` would take 64 KiB more for each stream, and hyper a part, however long the peer has read nothing.
            ready!(this.call.poll_room(cx));
            STREAM_MESSAGE
        } else {
            UNARY_ANSWER
        };
        let frame = ready!(this.body.poll_frame(cx));
        let told = |data: Bytes| {
            let mut offer = this.offer.take().unwrap_or_else(|| this.call.offer(0, time));
            offer.grow(data.len());
            Bytes::from_owner(Part { data, _offer: offer })
        };
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(told))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of an answer for as long as somebody holds it.
struct Part {
    data: Bytes,
    _offer: Offer,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        sync::watch,
        time::{Instant, sleep},
    };

    use super::*;
    use crate::server::limits::{Connection, Crowd, Cut, Guarded, Limits, SocketRate};

    /// The end and the length are told on the wire with the headers.
    #[tokio::test(start_paused = true)]
    async fn an_answer_says_as_much_of_its_length_as_its_body() {
        let limits = Limits::default();
        let connection = Connection::new(None, &limits, watch::channel(false).1);
        let answer = |body| Answer::new(body, connection.open_call(), None);
        let nothing = answer(tonic::body::Body::empty());
        assert!(nothing.is_end_stream());
        let whole = answer(tonic::body::Body::new(http_body_util::Full::new(Bytes::from("abc"))));
        assert!(!whole.is_end_stream());
        assert_eq!(whole.size_hint().exact(), Some(3));
    }

    /// Parts that are all there, and then nothing more: a stream that stays open.
    struct Parts {
        left: VecDeque<usize>,
        open: bool,
    }

    impl Body for Parts {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.left.pop_front() {
                Some(length) => Poll::Ready(Some(Ok(Frame::data(vec![7; length].into())))),
                None if self.open => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn room(stream: u32, octets: u32) -> Vec<u8> {
        frame(8, 0, stream, &octets.to_be_bytes())
    }

    /// `GET http://a/`, whole: indexed fields and a literal.
    fn ask(stream: u32) -> Vec<u8> {
        frame(1, 5, stream, &[0x82, 0x84, 0x86, 0x41, 1, b'a'])
    }

    /// What the peer gets of each stream until a day has passed or the connection ends, and when and why that is.
    async fn serve<F: Future<Output = ()>>(
        parts: &'static [usize],
        streaming: bool,
        peer: impl FnOnce(DuplexStream) -> F,
    ) -> Option<(u64, Cut)> {
        let limits = Limits::default();
        let (_stop, stopping) = watch::channel(false);
        let connection = Connection::new(None, &limits, stopping);
        let place = Crowd::new(&limits).join(&connection);
        let (ours, theirs) = duplex(1 << 16);
        let (calls, socket) = (Arc::clone(&connection), SocketRate::new(&limits));
        let service = service_fn(move |_: http::Request<Incoming>| {
            let left = parts.iter().copied().collect();
            let body = tonic::body::Body::new(Parts { left, open: streaming });
            let stream = streaming.then(|| calls.open_stream(&socket).unwrap());
            let answer = Answer::new(body, calls.open_call(), stream);
            async move { Ok::<_, Infallible>(http::Response::new(answer)) }
        });
        let io = TokioIo::new(Guarded::new(ours, Arc::clone(&connection)));
        let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let http = http2.max_send_buf_size(1 << 16).serve_connection(io, service);
        let start = Instant::now();
        let peer = async {
            peer(theirs).await;
            sleep(Duration::from_secs(86_400)).await;
        };
        tokio::select! {
            biased;
            () = peer => None,
            ended = http => panic!("{ended:?}"),
            cut = connection.ends(&place) => Some((start.elapsed().as_secs(), cut)),
        }
    }

    /// Asks for so many answers with so much room for each, reads what comes, and says these things later.
    async fn asks(mut socket: DuplexStream, window: u32, streams: u32, then: Vec<(f64, Vec<u8>)>) -> DuplexStream {
        let settings = frame(4, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat());
        let mut opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &frame(4, 1, 0, &[])].concat();
        opening.extend((0..streams).flat_map(|at| ask(2 * at + 1)));
        socket.write_all(&opening).await.unwrap();
        let (mut read, mut write) = tokio::io::split(socket);
        let reads = tokio::spawn(async move {
            let mut sink = vec![0; 1 << 16];
            while read.read(&mut sink).await.is_ok_and(|count| count > 0) {}
            read
        });
        let start = Instant::now();
        for (at, octets) in then {
            tokio::time::sleep_until(start + Duration::from_secs_f64(at)).await;
            write.write_all(&octets).await.unwrap();
        }
        // Open, and read, until the end.
        reads.await.unwrap().unsplit(write)
    }

    const STARVED: Option<(u64, Cut)> = Some((10, Cut::Starved));
    const FORGOTTEN: Option<(u64, Cut)> = Some((60, Cut::Starved));

    #[tokio::test(start_paused = true)]
    async fn a_window_is_as_good_as_none_until_the_whole_part_fits() {
        for window in [0, 1, 299] {
            for streams in [1, 50] {
                let peer = async |socket| drop(asks(socket, window, streams, vec![]).await);
                assert_eq!(serve(&[300], false, peer).await, STARVED, "{window} {streams}");
                assert_eq!(serve(&[300, 300], true, peer).await, FORGOTTEN, "{window} {streams}");
            }
        }
    }

    /// A little is granted again and again: that is no reason to wait for longer.
    #[tokio::test(start_paused = true)]
    async fn a_trickle_gets_no_more_time() {
        let trickle: Vec<_> = (1..200).map(|at| (f64::from(at), room(1, 1))).collect();
        let peer = async |socket| drop(asks(socket, 1, 1, trickle.clone()).await);
        assert_eq!(serve(&[300], false, peer).await, STARVED);
        let peer = async |socket| drop(asks(socket, 1, 1, trickle.clone()).await);
        assert_eq!(serve(&[300], true, peer).await, FORGOTTEN);
    }

    /// Others that are taken at once do not help one that is not.
    #[tokio::test(start_paused = true)]
    async fn one_answer_of_many_is_enough() {
        let others = (1..200).map(|at| (f64::from(at) / 10.0, [ask(2 * at + 1), room(2 * at + 1, 300)].concat()));
        let others: Vec<_> = others.collect();
        let peer = async |socket| drop(asks(socket, 1, 1, others).await);
        assert_eq!(serve(&[300], false, peer).await, STARVED);
    }

    async fn stays(parts: &'static [usize], streaming: bool, window: u32, streams: u32, then: Vec<(f64, Vec<u8>)>) {
        let peer = async |socket| {
            tokio::spawn(asks(socket, window, streams, then));
        };
        assert_eq!(serve(parts, streaming, peer).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_at_a_sensible_pace_stays() {
        // All at once; a tenth each second; and of a stream, a hundredth every half second, for one part after the other.
        stays(&[300], false, 300, 50, vec![]).await;
        let tenths = (1..10).map(|at| (f64::from(at), room(1, 30))).collect();
        stays(&[300], false, 30, 1, tenths).await;
        let hundredths = (1..1000).map(|at| (f64::from(at) / 2.0, [room(1, 100), room(0, 100)].concat()));
        stays(&[10_000; 10], true, 100, 1, hundredths.collect()).await;
    }

    /// What is reset is nobody's debt, however much of it was unsent.
    #[tokio::test(start_paused = true)]
    async fn what_is_reset_is_forgotten() {
        let resets: Vec<_> = (0..50)
            .map(|at| (9.0, frame(3, 0, 2 * at + 1, &8_u32.to_be_bytes())))
            .collect();
        stays(&[300], false, 1, 50, resets.clone()).await;
        stays(&[300, 300], true, 1, 50, resets).await;
    }
}
