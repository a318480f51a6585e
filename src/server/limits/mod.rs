//! What one client may take from the others: calls, connections, streams, time and memory.
//!
//! Every sandbox is assumed to be hostile, and all share one process. So whatever a peer can make the broker hold has a
//! bound and a time after which it is given back, and whatever it can make the broker do has a rate.
//!
//! | module | job |
//! | --- | --- |
//! | this one | the numbers |
//! | `rates` | how many calls a second pass |
//! | `crowd` | how many connections there are, and which one goes when there is one too many |
//! | `frames` | where the frames of a connection begin and end |
//! | `progress` | how long a peer takes over what it sends and reads, and how often it says nothing; no I/O |
//! | `guard` | the adapter around the accepted stream that feeds `progress` |
//! | `connection` | what belongs to one connection: its rates, its calls, why it has to end |
//! | `calls` | the open calls of a connection, and what is there for the peer and not sent |
//! | `arrival` | the body of a unary request, which has to arrive in time |
//! | `pace` | the body of a streaming request, which is read no faster than one client's share |
//! | `allowance` | so much a second |
//! | `answer` | the body of an answer: tells how long `h2` holds each part of it |
//!
//! What is one call's is answered with a reason (`RATE_LIMITED`, `TOO_MANY_STREAMS`, `DEADLINE_EXCEEDED`). What is the
//! connection's ends it with GOAWAY: `ENHANCE_YOUR_CALM`, a word why, and the last stream that was looked at, so that a
//! client knows which calls it may send again.
//!
//! # What `h2` sees to
//!
//! Measured and read in h2 0.4.20; the tests in `tests/hostile/` hold it to that.
//!
//! | flood | `h2` by itself | here |
//! | --- | --- | --- |
//! | HEADERS without end, CONTINUATION | at most 5 frames of a block, then GOAWAY; decoded size | time of a block |
//! | header blocks that are no call (over 64 KiB decoded: it answers 431) | answers each for ever; far over, GOAWAY | frames a second |
//! | HEADERS and RST_STREAM | only those it reads before it hands the stream on (see `PENDING_RESETS` in `serve`) | frames a second |
//! | streams beyond the advertised number | RST_STREAM, after 1024 of them GOAWAY | |
//! | messages on one stream | the windows | octets a second |
//! | DATA in small or empty frames | GOAWAY once too much of them is unread | |
//! | DATA that nobody reads | the windows | time of a request |
//! | SETTINGS, PING | answers each, one at a time, for ever: no memory, but a core | frames a second |
//! | PRIORITY, WINDOW_UPDATE, unknown frames | reads them for ever: no memory, but a core | frames a second |
//! | answers that nobody reads | holds them for ever, 64 KiB and a message for each stream, from the first octet of room on | time until the last octet is written, time of a blocked socket; a stream goes on only when what it said before is gone |
//! | no frame at all, half a frame | waits for ever | time of the first SETTINGS and of a frame |
//!
//! It judges no capability and no policy, and never looks into a header block or a message.

mod allowance;
mod answer;
mod arrival;
mod calls;
mod connection;
mod crowd;
mod frames;
mod guard;
mod pace;
mod progress;
mod rates;

use std::{num::NonZeroU32, time::Duration};

pub(super) use self::{
    answer::Answer,
    arrival::Arriving,
    calls::{OpenCall, OpenStream},
    connection::{Connection, Cut},
    crowd::{Crowd, Place},
    guard::Guarded,
    pace::Paced,
    rates::{Kind, Rate, SocketRate},
};

/// From accept to the end of the first SETTINGS.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// From the first to the last byte of a frame, and of a header block over all its frames.
const FRAME: Duration = Duration::from_secs(5);
/// From HEADERS to END_STREAM of a unary request.
pub(super) const REQUEST: Duration = Duration::from_secs(5);
/// From a unary answer being there to `h2` having written the last octet of it; it is at most 64 KiB, and every stock
/// client grants room for as much from the beginning.
const UNARY_ANSWER: Duration = Duration::from_secs(10);
/// The same for what is there of a stream. Longer, because a slow reader of a stream is legitimate: it gets the newest
/// state when it comes back. But not for ever, because it is held.
const STREAM_MESSAGE: Duration = Duration::from_secs(60);
/// With so many octets of answers unsent on a connection, its streams are asked for no more. One that has something
/// unsent of its own is not, either.
const UNSENT: usize = 64 * 1024;
/// How long a socket may stay full while the peer reads less than [`UNREAD_PROGRESS`].
const UNREAD: Duration = Duration::from_secs(10);
const UNREAD_PROGRESS: usize = 64 * 1024;
/// What all streams of a connection may send, in octets a second, and for how much time's worth there is room at once: a
/// thousand small messages, then half as many a second.
const STREAMED_PER_SECOND: u32 = 32 * 1024;
const STREAMED_BURST: Duration = Duration::from_secs(2);
/// Streaming calls that a connection may always have, and how many connections may have all of theirs at once. A stream
/// costs some 30 KiB while it is open and what it says is unread, whatever it says. With the default limits there are
/// 256 * 4 + 16 * 64 = 2048 at most, and one client can follow a thousand entries; with a message of 64 KiB half sent on
/// each, that is 200 MiB, and with one of 128 KiB for secret discovery 330 MiB.
const OWN_STREAMS: usize = 4;
const SHARERS: usize = 16;
/// Connections before their first SETTINGS, beside the others.
const UNSETTLED: usize = 64;
/// How long the refusal of a call over the rate is held back. A client in a loop is slowed to what costs nothing; one
/// that waits as it is told to does not notice.
pub(super) const HOLD: Duration = Duration::from_millis(100);

/// How much one socket's clients may ask for; what is not here is not configurable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls a second on one connection; twice as many at once.
    pub requests_per_second: NonZeroU32,
    /// Calls a second, and at once, on all connections together.
    pub requests_per_second_per_socket: NonZeroU32,
    /// Connections.
    pub connections: NonZeroU32,
    /// Streaming calls of one connection; eight connections may have as many at once, and the others four each.
    pub streams: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_second: number(60),
            requests_per_second_per_socket: number(600),
            connections: number(256),
            streams: number(64),
        }
    }
}

impl Limits {
    /// Frames a second that are neither a call nor its data, four times as many at once.
    ///
    /// An honest client's worst, for each call that is answered: a PING (gRPC measures the line's bandwidth with one for
    /// DATA that came in), two WINDOW_UPDATE, one RST_STREAM. That is 240 a second at the default rate of 60 calls.
    fn frames_per_second(&self) -> u32 {
        self.requests_per_second.get().saturating_mul(8).max(500)
    }
}

pub(super) const fn number(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_pace_with_the_calls_that_are_allowed() {
        for (calls, frames) in [(1, 500), (60, 500), (63, 504), (1000, 8000), (u32::MAX, u32::MAX)] {
            let limits = Limits {
                requests_per_second: number(calls),
                ..Limits::default()
            };
            assert_eq!(limits.frames_per_second(), frames, "{calls}");
        }
    }
}
