//! A request of exactly one message.
//!
//! tonic answers a call that has one request message with its first and drops what follows, so a client whose framing is
//! wrong would learn nothing of it, and one that never ends its request could go on sending. Only the frame headers are
//! looked at here; that there is a message at all, and that it is whole, tonic sees itself.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tonic::Status;

/// A flag and the length of the message.
const FRAME_HEADER: usize = 5;

pin_project! {
    /// A request body that fails where a second message begins.
    pub(super) struct OneMessage {
        #[pin]
        body: Incoming,
        first: First,
    }
}

impl OneMessage {
    pub(super) fn of(body: Incoming) -> Self {
        Self {
            body,
            first: First::default(),
        }
    }
}

impl Body for OneMessage {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        this.body.poll_frame(cx).map(|frame| {
            frame.map(|frame| {
                let frame = frame.map_err(|error| Status::from_error(error.into()))?;
                if frame.data_ref().is_some_and(|data| !this.first.holds(data)) {
                    return Err(Status::invalid_argument("more than one message"));
                }
                Ok(frame)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How much of the first message has come.
#[derive(Default)]
struct First {
    header: Vec<u8>,
    content: u64,
}

impl First {
    /// Takes the next bytes; `false`: they reach beyond the message.
    fn holds(&mut self, data: &[u8]) -> bool {
        let (header, content) = data.split_at(data.len().min(FRAME_HEADER - self.header.len()));
        self.header.extend(header);
        self.content += content.len() as u64;
        match *self.header.as_slice() {
            [_flag, a, b, c, d] => self.content <= u64::from(u32::from_be_bytes([a, b, c, d])),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_held_however_it_is_cut_and_not_a_byte_more() {
        let message = [0, 0, 0, 0, 3, b'a', b'b', b'c'];
        for pieces in 1..=message.len() {
            let mut first = First::default();
            assert!(message.chunks(pieces).all(|piece| first.holds(piece)), "{pieces}");
            assert!(first.holds(&[]) && !first.holds(&[0]), "{pieces}");
        }
        assert!(
            !First::default().holds(&[0, 0, 0, 0, 0, 0]),
            "an empty message and a byte"
        );
    }
}
