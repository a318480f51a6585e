//! Where the frames of a connection begin and end (RFC 9113, sections 3.4 and 4.1). No I/O.
//!
//! The authority adapter has a walker of its own: that one has to find every octet of a header block behind padding and
//! priority, and gives up at the first mistake, because nothing after it can be told apart. This one looks at frame
//! headers only, must go on counting whatever the payloads hold, and serves both directions. Sharing would make each
//! depend on the other's idea of a mistake, for the sake of nine octets.

/// What a client sends first; what it says is for `h2` to judge.
const PREFACE: usize = 24;
const HEADER: u8 = 9;

/// Of a frame, what is counted or timed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) length: u32,
}

/// What happened in the octets that were walked over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The header of a frame is complete; its payload follows.
    Begins(Head),
    /// The frame is complete.
    Ends(Head),
}

/// A place in the frames of one direction.
#[derive(Debug)]
pub(super) struct Frames {
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Preface { left: usize },
    Header { seen: u8, octets: u128 },
    Payload { head: Head, left: u32 },
}

const BOUNDARY: Step = Step::Header { seen: 0, octets: 0 };

impl Frames {
    /// What a client sends.
    pub(super) const fn of_client() -> Self {
        Self {
            step: Step::Preface { left: PREFACE },
        }
    }

    /// What a server sends.
    pub(super) const fn of_server() -> Self {
        Self { step: BOUNDARY }
    }

    /// Whether a frame could begin here.
    pub(super) const fn at_boundary(&self) -> bool {
        matches!(self.step, Step::Header { seen: 0, .. })
    }

    /// Whether this is within the preface.
    pub(super) const fn in_preface(&self) -> bool {
        matches!(self.step, Step::Preface { .. })
    }

    /// Walks to the next event and takes what it walked over off `data`. `None`: all of it was walked over.
    pub(super) fn next(&mut self, data: &mut &[u8]) -> Option<Event> {
        loop {
            match &mut self.step {
                Step::Preface { left } => {
                    *left -= skip(data, *left);
                    if *left > 0 {
                        return None;
                    }
                    self.step = BOUNDARY;
                }
                Step::Header { seen, octets } => {
                    while *seen < HEADER {
                        let (first, rest) = data.split_first()?;
                        *octets = (*octets << 8) | u128::from(*first);
                        *seen += 1;
                        *data = rest;
                    }
                    let head = Head {
                        length: (*octets >> 48) as u32,
                        kind: (*octets >> 40) as u8,
                        flags: (*octets >> 32) as u8,
                        stream: *octets as u32 & 0x7fff_ffff,
                    };
                    self.step = Step::Payload {
                        head,
                        left: head.length,
                    };
                    return Some(Event::Begins(head));
                }
                Step::Payload { head, left } => {
                    *left -= skip(data, *left as usize) as u32;
                    if *left > 0 {
                        return None;
                    }
                    let head = *head;
                    self.step = BOUNDARY;
                    return Some(Event::Ends(head));
                }
            }
        }
    }
}

/// Takes up to so many octets off the front, and says how many.
fn skip(data: &mut &[u8], most: usize) -> usize {
    let count = most.min(data.len());
    *data = data.get(count..).unwrap_or_default();
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(frames: &mut Frames, mut data: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = frames.next(&mut data) {
            events.push(event);
        }
        assert!(data.is_empty());
        events
    }

    #[test]
    fn the_same_events_however_the_octets_come() {
        let mut octets = vec![b'x'; PREFACE];
        octets.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        octets.extend([0, 0, 3, 1, 5, 0x80, 0, 0, 7, b'a', b'b', b'c']);
        octets.extend([0, 0, 1, 0]);
        let settings = Head {
            kind: 4,
            flags: 0,
            stream: 0,
            length: 0,
        };
        let headers = Head {
            kind: 1,
            flags: 5,
            stream: 7,
            length: 3,
        };
        let want = [
            Event::Begins(settings),
            Event::Ends(settings),
            Event::Begins(headers),
            Event::Ends(headers),
        ];
        for step in [1, 2, 5, 24, 1000] {
            let mut frames = Frames::of_client();
            let got: Vec<_> = octets
                .chunks(step)
                .flat_map(|chunk| events(&mut frames, chunk))
                .collect();
            assert_eq!(got, want, "{step}");
            assert!(!frames.at_boundary());
        }
    }

    #[test]
    fn a_boundary_is_where_nothing_is_half_done() {
        let mut client = Frames::of_client();
        assert!(client.in_preface() && !client.at_boundary());
        events(&mut client, &[0; PREFACE]);
        assert!(client.at_boundary() && !client.in_preface());
        let mut server = Frames::of_server();
        assert!(server.at_boundary());
        events(&mut server, &[0, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert!(!server.at_boundary());
        events(&mut server, &[0]);
        assert!(server.at_boundary());
    }
}
