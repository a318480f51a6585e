//! Follows the frames of a client's connection (RFC 9113, sections 3.4, 4.1, 6.2 and 6.10) and says which octets belong
//! to header blocks.

use super::Malformed;

/// What a client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADER_LENGTH: u8 = 9;
const PRIORITY_LENGTH: u32 = 5;

const HEADERS: u8 = 0x1;
const PUSH_PROMISE: u8 = 0x5;
const CONTINUATION: u8 = 0x9;

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many octets outside header blocks.
    Other(usize),
    /// So many octets of a header block.
    Fragment(usize),
    /// The header block is complete. No octets.
    EndOfBlock,
}

/// The frames of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    step: Step,
    /// The header block that is open between the first octet of HEADERS and the end of END_HEADERS.
    block: Option<Block>,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    stream: u32,
    /// Whether the current frame is the last of the block.
    last: bool,
}

/// What the next octet is, and how many of the kind are left.
#[derive(Debug, Clone, Copy)]
enum Step {
    Preface {
        seen: usize,
    },
    /// A frame header; the octets so far make up a number.
    Header {
        seen: u8,
        octets: u128,
    },
    /// The rest of a frame that carries no header block.
    Payload {
        left: u32,
    },
    /// Of HEADERS: the length of the padding.
    PadLength {
        left: u32,
        priority: bool,
    },
    /// Of HEADERS: the stream dependency and weight.
    Priority {
        left: u32,
        fragment: u32,
        padding: u32,
    },
    Fragment {
        left: u32,
        padding: u32,
    },
    Padding {
        left: u32,
    },
}

const NEXT_HEADER: Step = Step::Header { seen: 0, octets: 0 };

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            step: Step::Preface { seen: 0 },
            block: None,
        }
    }

    /// Says what the first octets of `data` are, or `None` if it takes more octets to go on.
    pub(super) fn next(&mut self, data: &[u8]) -> Result<Option<Piece>, Malformed> {
        loop {
            match self.step {
                Step::Preface { seen } => {
                    let due = PREFACE.get(seen..).unwrap_or_default();
                    let count = due.len().min(data.len());
                    if data.get(..count) != due.get(..count) {
                        return Err(Malformed);
                    }
                    self.step = if count == due.len() {
                        NEXT_HEADER
                    } else {
                        Step::Preface { seen: seen + count }
                    };
                    return Ok(some(Piece::Other(count)));
                }
                Step::Header { mut seen, mut octets } => {
                    let mut count = 0;
                    for octet in data.iter().take(usize::from(HEADER_LENGTH - seen)) {
                        octets = (octets << 8) | u128::from(*octet);
                        seen += 1;
                        count += 1;
                    }
                    self.step = if seen == HEADER_LENGTH {
                        self.begin(octets)?
                    } else {
                        Step::Header { seen, octets }
                    };
                    return Ok(some(Piece::Other(count)));
                }
                Step::Payload { left: 0 } | Step::Padding { left: 0 } => self.step = NEXT_HEADER,
                Step::Payload { left } => {
                    let count = take(left, data);
                    self.step = Step::Payload { left: left - count };
                    return Ok(some(Piece::Other(count as usize)));
                }
                Step::PadLength { left, priority } => {
                    let Some(&padding) = data.first() else {
                        return Ok(None);
                    };
                    self.step = inside_headers(left.checked_sub(1).ok_or(Malformed)?, priority, padding.into())?;
                    return Ok(Some(Piece::Other(1)));
                }
                Step::Priority {
                    left: 0,
                    fragment,
                    padding,
                } => {
                    self.step = Step::Fragment {
                        left: fragment,
                        padding,
                    };
                }
                Step::Priority {
                    left,
                    fragment,
                    padding,
                } => {
                    let count = take(left, data);
                    self.step = Step::Priority {
                        left: left - count,
                        fragment,
                        padding,
                    };
                    return Ok(some(Piece::Other(count as usize)));
                }
                Step::Fragment { left: 0, padding } => {
                    self.step = Step::Padding { left: padding };
                    if self.block.take_if(|block| block.last).is_some() {
                        return Ok(Some(Piece::EndOfBlock));
                    }
                }
                Step::Fragment { left, padding } => {
                    let count = take(left, data);
                    self.step = Step::Fragment {
                        left: left - count,
                        padding,
                    };
                    return Ok(some(Piece::Fragment(count as usize)));
                }
                Step::Padding { left } => {
                    let count = take(left, data);
                    self.step = Step::Padding { left: left - count };
                    return Ok(some(Piece::Other(count as usize)));
                }
            }
        }
    }

    /// A frame header is complete: what its payload begins with.
    fn begin(&mut self, header: u128) -> Result<Step, Malformed> {
        let length = (header >> 48) as u32;
        let kind = (header >> 40) as u8;
        let flags = (header >> 32) as u8;
        let stream = header as u32 & 0x7fff_ffff;
        let last = flags & END_HEADERS != 0;
        match (kind, self.block) {
            (CONTINUATION, Some(block)) if block.stream == stream => {
                self.block = Some(Block { stream, last });
                Ok(Step::Fragment {
                    left: length,
                    padding: 0,
                })
            }
            // A header block is sent in one go; nothing may come between its frames.
            (CONTINUATION, _) | (_, Some(_)) => Err(Malformed),
            (HEADERS, None) => {
                self.block = Some(Block { stream, last });
                let priority = flags & PRIORITY != 0;
                if flags & PADDED != 0 {
                    // Without room for the length there is nothing to wait for.
                    if length == 0 {
                        Err(Malformed)
                    } else {
                        Ok(Step::PadLength { left: length, priority })
                    }
                } else {
                    inside_headers(length, priority, 0)
                }
            }
            // A client may not send PUSH_PROMISE, and the header block in it would be missed here.
            (PUSH_PROMISE, None) => Err(Malformed),
            (_, None) => Ok(Step::Payload { left: length }),
        }
    }
}

/// What HEADERS goes on with after the length of the padding.
fn inside_headers(left: u32, priority: bool, padding: u32) -> Result<Step, Malformed> {
    let priority = if priority { PRIORITY_LENGTH } else { 0 };
    let fragment = left
        .checked_sub(priority)
        .and_then(|left| left.checked_sub(padding))
        .ok_or(Malformed)?;
    Ok(Step::Priority {
        left: priority,
        fragment,
        padding,
    })
}

/// How many of the octets that are left are there.
fn take(left: u32, data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX).min(left)
}

/// No octets are no piece.
fn some(piece: Piece) -> Option<Piece> {
    (!matches!(piece, Piece::Other(0) | Piece::Fragment(0))).then_some(piece)
}
