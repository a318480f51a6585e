//! How a connection gets on: what the peer has to be done with by when, and how many frames it sends that say nothing.
//! Pure: time is an argument, and nothing is read or written.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Cut, FRAME, HANDSHAKE, UNREAD, UNREAD_PROGRESS,
    allowance::Allowance,
    frames::{Event, Frames, Head},
};

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const CONTINUATION: u8 = 0x9;

const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

const ENHANCE_YOUR_CALM: u32 = 0xb;

/// How many frames a SETTINGS counts for: it makes `h2` go through all streams, and a client sends a handful in its life.
const SETTINGS_WEIGHT: u32 = 10;
/// How many frames a HEADERS counts for until it becomes a call, which is left to the rates. It costs `h2` more than any
/// other frame, but as many as can be open at once must fit in the burst.
const HEADERS_WEIGHT: u32 = 5;
/// For how much time's worth of frames there is room at once.
const BURST: Duration = Duration::from_secs(4);

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Progress {
    incoming: Frames,
    /// When the first SETTINGS has to be complete; `None` once it is.
    handshake_due: Option<Instant>,
    /// When the frame has to be complete whose beginning is there.
    frame_due: Option<Instant>,
    /// When the header block has to be complete whose beginning is there.
    block_due: Option<Instant>,
    /// The highest stream that the client began.
    last_stream: u32,
    allowance: Allowance,
    outgoing: Frames,
    /// Since when the socket is full, and what the peer has read since.
    full: Option<Full>,
}

#[derive(Debug)]
struct Full {
    due: Instant,
    written: usize,
}

impl Progress {
    pub(super) fn new(now: Instant, frames_per_second: u32) -> Self {
        Self {
            incoming: Frames::of_client(),
            handshake_due: Some(now + HANDSHAKE),
            frame_due: None,
            block_due: None,
            last_stream: 0,
            allowance: Allowance::new(now, frames_per_second, BURST),
            outgoing: Frames::of_server(),
            full: None,
        }
    }

    /// The peer sent this.
    pub(super) fn read(&mut self, mut data: &[u8], now: Instant) -> Result<(), Cut> {
        while let Some(event) = self.incoming.next(&mut data) {
            match event {
                Event::Begins(head) => self.begins(head, now)?,
                Event::Ends(head) => self.ends(head),
            }
        }
        if self.incoming.at_boundary() || self.incoming.in_preface() {
            self.frame_due = None;
        } else if self.frame_due.is_none() {
            self.frame_due = Some(now + FRAME);
        }
        Ok(())
    }

    fn begins(&mut self, head: Head, now: Instant) -> Result<(), Cut> {
        let weight = match head.kind {
            // `h2` counts what is small among these.
            DATA | CONTINUATION => 0,
            HEADERS => {
                self.last_stream = self.last_stream.max(head.stream);
                if head.flags & END_HEADERS == 0 {
                    self.block_due.get_or_insert(now + FRAME);
                }
                HEADERS_WEIGHT
            }
            SETTINGS if head.flags & ACK == 0 => SETTINGS_WEIGHT,
            _ => 1,
        };
        if weight == 0 || self.allowance.spend(weight, now).is_zero() {
            return Ok(());
        }
        Err(Cut::Flood(match head.kind {
            SETTINGS => "too_many_settings",
            PING => "too_many_pings",
            HEADERS => "too_many_headers",
            RST_STREAM => "too_many_resets",
            _ => "too_many_frames",
        }))
    }

    /// A HEADERS became a call. What `h2` answers by itself, such as a header block over its limit, never does.
    pub(super) fn called(&mut self) {
        self.allowance.give_back(HEADERS_WEIGHT);
    }

    fn ends(&mut self, head: Head) {
        // The next frame's time begins with its own first octet.
        self.frame_due = None;
        match head.kind {
            SETTINGS if head.flags & ACK == 0 => self.handshake_due = None,
            HEADERS | CONTINUATION if head.flags & END_HEADERS != 0 => self.block_due = None,
            _ => {}
        }
    }

    /// Whether the first SETTINGS has come.
    pub(super) fn settled(&self) -> bool {
        self.handshake_due.is_none()
    }

    /// The socket took this.
    pub(super) fn wrote(&mut self, mut data: &[u8], now: Instant) {
        if let Some(full) = &mut self.full {
            full.written += data.len();
            if full.written >= UNREAD_PROGRESS {
                *full = Full {
                    due: now + UNREAD,
                    written: 0,
                };
            }
        }
        while self.outgoing.next(&mut data).is_some() {}
    }

    /// The socket takes no more for now.
    pub(super) fn full(&mut self, now: Instant) {
        self.full.get_or_insert(Full {
            due: now + UNREAD,
            written: 0,
        });
    }

    /// Whether the socket takes no more.
    pub(super) fn is_full(&self) -> bool {
        self.full.is_some()
    }

    /// All there was to write has been written. Says whether the socket was full before.
    pub(super) fn flushed(&mut self) -> bool {
        self.full.take().is_some()
    }

    /// When something is overdue, and what.
    pub(super) fn due(&self) -> Option<(Instant, Cut)> {
        let all = [
            (self.handshake_due, Cut::Handshake),
            (self.frame_due, Cut::Frame),
            (self.block_due, Cut::HeaderBlock),
            (self.full.as_ref().map(|full| full.due), Cut::Unread),
        ];
        all.into_iter()
            .filter_map(|(due, cut)| Some((due?, cut)))
            .min_by_key(|(due, _)| *due)
    }

    /// The frame that tells the peer why it is left. `None`: it would land within another frame.
    pub(super) fn goaway(&self, cut: Cut) -> Option<Vec<u8>> {
        if !self.outgoing.at_boundary() {
            return None;
        }
        let why = cut.word().as_bytes();
        let length = u8::try_from(8 + why.len()).ok()?;
        let mut frame = vec![0, 0, length, GOAWAY, 0, 0, 0, 0, 0];
        frame.extend(self.last_stream.to_be_bytes());
        frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend(why);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = &[0; 24];

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        frame.extend(payload);
        frame
    }

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    /// A connection whose client has sent preface and SETTINGS at once.
    fn settled(now: Instant) -> Progress {
        let mut progress = Progress::new(now, 500);
        progress.read(PREFACE, now).unwrap();
        progress.read(&frame(SETTINGS, 0, 0, &[]), now).unwrap();
        assert!(progress.settled());
        assert_eq!(progress.due(), None);
        progress
    }

    #[test]
    fn what_is_due_when() {
        let start = Instant::now();
        let at = |seconds| after(start, seconds);
        let whole = frame(HEADERS, END_HEADERS, 1, b"abc");
        let open = frame(HEADERS, 0, 1, b"abc");
        let more = frame(CONTINUATION, 0, 1, b"abc");
        let last = frame(CONTINUATION, END_HEADERS, 1, b"abc");
        type Sent<'a> = &'a [(f64, &'a [u8])];
        let table: [(Sent<'_>, Option<(f64, Cut)>); 9] = [
            (&[(1.0, &whole)], None),
            (&[(1.0, &whole[..1])], Some((6.0, Cut::Frame))),
            // One byte at a time: the first counts.
            (
                &[(1.0, &whole[..1]), (3.0, &whole[1..2]), (4.0, &whole[2..11])],
                Some((6.0, Cut::Frame)),
            ),
            (&[(1.0, &whole[..1]), (4.0, &whole[1..])], None),
            // The rest of one frame and the beginning of the next: the next one's time begins now.
            (
                &[(1.0, &whole[..9]), (4.0, &[&whole[9..], &whole[..3]].concat())],
                Some((9.0, Cut::Frame)),
            ),
            (&[(1.0, &open)], Some((6.0, Cut::HeaderBlock))),
            (
                &[(1.0, &open), (3.0, &more), (5.0, &more)],
                Some((6.0, Cut::HeaderBlock)),
            ),
            (&[(1.0, &open), (3.0, &more), (5.0, &last)], None),
            (&[(1.0, &open), (2.0, &more[..4])], Some((6.0, Cut::HeaderBlock))),
        ];
        for (sent, want) in table {
            let mut progress = settled(start);
            for (seconds, data) in sent {
                progress.read(data, at(*seconds)).unwrap();
            }
            assert_eq!(
                progress.due(),
                want.map(|(seconds, cut)| (at(seconds), cut)),
                "{sent:?}"
            );
        }
    }

    #[test]
    fn the_first_settings_are_due_5_s_after_accept_whatever_comes_before() {
        let start = Instant::now();
        let due = Some((after(start, 5.0), Cut::Handshake));
        let mut progress = Progress::new(start, 500);
        assert_eq!(progress.due(), due);
        progress.read(&PREFACE[..3], after(start, 4.0)).unwrap();
        progress.read(&PREFACE[3..], after(start, 4.1)).unwrap();
        let settings = frame(SETTINGS, 0, 0, &[0; 6]);
        progress.read(&settings[..12], after(start, 4.2)).unwrap();
        assert_eq!(progress.due(), due);
        // Ours acknowledged is not its own sent.
        assert!(!progress.settled());
        progress.read(&settings[12..], after(start, 4.3)).unwrap();
        assert!(progress.settled() && progress.due().is_none());
        let mut acked = Progress::new(start, 500);
        acked.read(PREFACE, start).unwrap();
        acked.read(&frame(SETTINGS, ACK, 0, &[]), start).unwrap();
        assert!(!acked.settled());
    }

    #[test]
    fn floods_and_what_is_none() {
        let table: [(u8, u8, usize, Option<&str>); 11] = [
            (HEADERS, END_HEADERS, 2001, Some("too_many_headers")),
            (PING, 0, 2001, Some("too_many_pings")),
            (PING, ACK, 2001, Some("too_many_pings")),
            (SETTINGS, 0, 200, Some("too_many_settings")),
            (RST_STREAM, 0, 2001, Some("too_many_resets")),
            (0x8, 0, 2001, Some("too_many_frames")),
            (0x77, 0, 2001, Some("too_many_frames")),
            (PING, 0, 1980, None),
            // An answer to ours is as cheap as any other frame.
            (SETTINGS, ACK, 1980, None),
            (SETTINGS, ACK, 2001, Some("too_many_settings")),
            (DATA, 0, 100_000, None),
        ];
        let now = Instant::now();
        for (kind, flags, count, want) in table {
            let mut progress = settled(now);
            let one = frame(kind, flags, 1, b"x");
            let got = (0..count).find_map(|_| progress.read(&one, now).err());
            assert_eq!(got, want.map(Cut::Flood), "{kind} {count}");
        }
    }

    #[test]
    fn headers_that_become_calls_are_left_to_the_rates() {
        let now = Instant::now();
        let mut progress = settled(now);
        for _ in 0..100 {
            // As many as can be open at once, before the first is looked at.
            for _ in 0..256 {
                progress.read(&frame(HEADERS, END_HEADERS, 1, b"x"), now).unwrap();
            }
            (0..256).for_each(|_| progress.called());
        }
    }

    #[test]
    fn what_an_honest_client_sends_goes_on_for_ever() {
        let start = Instant::now();
        let mut progress = settled(start);
        // 60 calls a second, each with everything that a client may send beside it.
        for call in 0..60 * 600 {
            let now = after(start, f64::from(call) / 60.0);
            for (kind, flags) in [
                (HEADERS, END_HEADERS),
                (DATA, 1),
                (PING, 0),
                (PING, ACK),
                (0x8, 0),
                (0x8, 0),
                (RST_STREAM, 0),
            ] {
                progress.read(&frame(kind, flags, 1, b"x"), now).unwrap();
            }
            progress.called();
        }
    }

    #[test]
    fn a_peer_that_does_not_read() {
        let start = Instant::now();
        let at = |seconds| after(start, seconds);
        let due = |seconds| Some((at(seconds), Cut::Unread));
        let mut progress = settled(start);
        progress.full(at(1.0));
        progress.full(at(3.0));
        assert_eq!(progress.due(), due(11.0));
        // A little is no progress, much is, and all of it is the end.
        progress.wrote(&frame(DATA, 0, 1, &[0; 100]), at(4.0));
        assert_eq!(progress.due(), due(11.0));
        progress.wrote(&vec![0; UNREAD_PROGRESS], at(5.0));
        assert_eq!(progress.due(), due(15.0));
        assert!(progress.flushed() && !progress.flushed());
        assert_eq!(progress.due(), None);
    }

    #[test]
    fn the_last_word_names_the_last_stream_and_never_lands_in_another_frame() {
        let now = Instant::now();
        let mut progress = settled(now);
        for stream in [3, 7, 5] {
            progress.read(&frame(HEADERS, END_HEADERS, stream, b""), now).unwrap();
        }
        let goaway = progress.goaway(Cut::Flood("too_many_pings")).unwrap();
        assert_eq!(goaway[..9], [0, 0, 22, GOAWAY, 0, 0, 0, 0, 0]);
        assert_eq!(goaway[9..17], [0, 0, 0, 7, 0, 0, 0, 0xb]);
        assert_eq!(&goaway[17..], b"too_many_pings");
        progress.wrote(&[0, 0, 1], now);
        assert_eq!(progress.goaway(Cut::Frame), None);
    }
}
