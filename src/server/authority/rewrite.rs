//! Finds the values of `:authority` in a client's octets and replaces those that `h2` would refuse. No I/O.

use super::frames::{Frames, Piece};
use super::hpack::{Blocks, Octet};
use super::{Malformed, value};

/// The longest encoded value that is looked at. A Unix socket's path has at most 108 octets, 324 when percent-encoded.
pub const MAX_VALUE: usize = 1024;

/// The most octets that are held back: a value and what lies between its parts when it is spread over several frames.
pub const MAX_HELD: usize = 8 * 1024;

/// Reads along a connection, from its first octet on.
#[derive(Debug)]
pub(super) struct Rewriter {
    // `None` when the rest of the connection passes as it is.
    walk: Option<Walk>,
}

#[derive(Debug)]
struct Walk {
    frames: Frames,
    blocks: Blocks,
    value: Option<Value>,
}

/// A value of `:authority` whose end has not been seen.
#[derive(Debug)]
struct Value {
    // Where its octets are, counted from the first one. They need not be side by side.
    places: Vec<u16>,
}

impl Rewriter {
    pub(super) fn new() -> Self {
        Self {
            walk: Some(Walk {
                frames: Frames::new(),
                blocks: Blocks::new(),
                value: None,
            }),
        }
    }

    /// Walks over the octets after the first `walked`, rewrites in place, and returns how many octets from the first are
    /// final. The others are to be given again, at the beginning of the next call's `data`, with more behind them.
    pub(super) fn walk(&mut self, data: &mut [u8], walked: usize) -> usize {
        match self.walk.as_mut().map(|walk| walk.over(data, walked)) {
            Some(Ok(done)) => done,
            Some(Err(Malformed)) => {
                self.give_up();
                data.len()
            }
            None => data.len(),
        }
    }

    /// Lets the rest of the connection pass as it is.
    pub(super) fn give_up(&mut self) {
        self.walk = None;
    }
}

impl Walk {
    fn over(&mut self, data: &mut [u8], walked: usize) -> Result<usize, Malformed> {
        // Where the value begins that is being collected: one from the last call begins what was held back.
        let mut start = 0;
        let mut at = walked;
        while let Some(piece) = self.frames.next(data.get(at..).unwrap_or_default())? {
            match piece {
                Piece::Other(count) => at += count,
                Piece::EndOfBlock => self.blocks.end()?,
                Piece::Fragment(count) => {
                    let end = at + count;
                    let mut place = at;
                    while place < end {
                        let passable = (self.blocks.passable() as usize).min(end - place);
                        if passable > 0 {
                            self.blocks.pass(passable as u32);
                            place += passable;
                            continue;
                        }
                        let octet = data.get(place).copied().ok_or(Malformed)?;
                        if let Octet::Authority { huffman, length, left } = self.blocks.octet(octet)? {
                            if left + 1 == length && length as usize <= MAX_VALUE {
                                self.value = Some(Value {
                                    places: Vec::with_capacity(length as usize),
                                });
                                start = place;
                            }
                            self.collect(data, start, place, huffman, left == 0);
                        }
                        place += 1;
                    }
                    at = end;
                }
            }
        }
        if self.value.is_some() && data.len() - start <= MAX_HELD {
            return Ok(start);
        }
        self.value = None;
        Ok(data.len())
    }

    /// Notes one octet of a value, and replaces the value if it was the last.
    fn collect(&mut self, data: &mut [u8], start: usize, place: usize, huffman: bool, last: bool) {
        let Some(mut value) = self.value.take() else {
            return;
        };
        // The same limit whether the octets came at once or one by one.
        if place - start >= MAX_HELD {
            return;
        }
        value.places.push((place - start) as u16);
        if !last {
            self.value = Some(value);
            return;
        }
        let places = value.places.iter().map(|place| start + usize::from(*place));
        let encoded: Vec<u8> = places.clone().filter_map(|place| data.get(place).copied()).collect();
        for (place, octet) in places.zip(value::replacement(&encoded, huffman).unwrap_or_default()) {
            if let Some(old) = data.get_mut(place) {
                *old = octet;
            }
        }
    }
}
