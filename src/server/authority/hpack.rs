//! Follows the header blocks of a connection, octet by octet, and says which octets belong to a value of `:authority`
//! (RFC 7541, sections 5 and 6).

use super::table::{AUTHORITY, Name, Table};
use super::{Malformed, huffman};

/// The most octets that `h2` reads for one integer; a longer one ends the connection there.
const MAX_INTEGER: u8 = 5;

/// What an octet of a header block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Octet {
    /// Nothing to look at.
    Other,
    /// Part of the value of an `:authority` that is sent as a literal.
    Authority {
        /// Whether the value has Huffman coding.
        huffman: bool,
        /// The length of the encoded value.
        length: u32,
        /// How many octets of it come after this one.
        left: u32,
    },
}

/// The header blocks of one connection.
#[derive(Debug)]
pub(super) struct Blocks {
    table: Table,
    step: Step,
    field: Field,
    text: Text,
}

/// What the next octet is.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The first of a field or size update.
    Representation,
    /// A further one of an integer.
    Integer(Integer),
    /// The first of a string's length.
    Length(Part),
    /// One of a string.
    Text(Part),
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Name,
    Value,
}

#[derive(Debug, Clone, Copy)]
struct Integer {
    meaning: Meaning,
    value: u32,
    octets: u8,
}

#[derive(Debug, Clone, Copy)]
enum Meaning {
    /// The index of a whole field.
    Field,
    /// The index of a literal field's name, 0 for a literal name.
    Name,
    /// The dynamic table's new size.
    Size,
    /// The length of a string.
    Length(Part),
}

/// The literal field that is being read.
#[derive(Debug, Default)]
struct Field {
    name: Name,
    value_length: u32,
    indexed: bool,
}

/// The string that is being read.
#[derive(Debug, Default)]
struct Text {
    huffman: Option<huffman::Decoder>,
    length: u32,
    left: u32,
}

impl Blocks {
    pub(super) fn new() -> Self {
        Self {
            table: Table::new(),
            step: Step::Representation,
            field: Field::default(),
            text: Text::default(),
        }
    }

    /// Takes the next octet of the header block.
    pub(super) fn octet(&mut self, octet: u8) -> Result<Octet, Malformed> {
        match self.step {
            Step::Representation => {
                let (meaning, prefix) = if octet & 0x80 != 0 {
                    (Meaning::Field, 7)
                } else if octet & 0x40 != 0 {
                    (Meaning::Name, 6)
                } else if octet & 0x20 != 0 {
                    // A place for it is prescribed, but where it stands makes no difference here, and `h2` allows more
                    // places than the RFC.
                    (Meaning::Size, 5)
                } else {
                    (Meaning::Name, 4)
                };
                self.field = Field {
                    indexed: prefix == 6,
                    ..Field::default()
                };
                self.begin_integer(meaning, octet, prefix)?;
            }
            Step::Length(part) => {
                self.text = Text::default();
                if octet & 0x80 != 0 {
                    self.text.huffman = Some(huffman::Decoder::default());
                }
                self.begin_integer(Meaning::Length(part), octet, 7)?;
            }
            Step::Integer(integer) => self.continue_integer(integer, octet)?,
            Step::Text(Part::Name) => self.name_octet(octet)?,
            Step::Text(Part::Value) => return self.value_octet(octet),
        }
        Ok(Octet::Other)
    }

    /// How many octets come next that are a value of which nothing has to be known, at most its length. To be passed by
    /// [`Blocks::pass`], or one by one.
    pub(super) fn passable(&self) -> u32 {
        // Of a value that enters the table its decoded length counts, which is its own only without Huffman coding.
        let known = !self.field.indexed || self.text.huffman.is_none();
        match self.step {
            Step::Text(Part::Value) if known && !self.field.name.is_authority => self.text.left,
            _ => 0,
        }
    }

    /// Takes so many of the octets that are [`Blocks::passable`].
    pub(super) fn pass(&mut self, count: u32) {
        self.field.value_length += count;
        self.text.left -= count;
        if self.text.left == 0 {
            self.end_field();
        }
    }

    /// Ends the header block, which must not be in the middle of a field.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if matches!(self.step, Step::Representation) {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    fn begin_integer(&mut self, meaning: Meaning, octet: u8, prefix: u8) -> Result<(), Malformed> {
        let full = (1 << prefix) - 1;
        let value = u32::from(octet & full);
        if value < u32::from(full) {
            return self.integer(meaning, value);
        }
        self.step = Step::Integer(Integer {
            meaning,
            value,
            octets: 1,
        });
        Ok(())
    }

    fn continue_integer(&mut self, mut integer: Integer, octet: u8) -> Result<(), Malformed> {
        // Cannot overflow: at most four times 7 bits are added to at most 127.
        integer.value += u32::from(octet & 0x7f) << (7 * (integer.octets - 1));
        integer.octets += 1;
        if octet & 0x80 == 0 {
            return self.integer(integer.meaning, integer.value);
        }
        if integer.octets == MAX_INTEGER {
            return Err(Malformed);
        }
        self.step = Step::Integer(integer);
        Ok(())
    }

    /// An integer is complete.
    fn integer(&mut self, meaning: Meaning, value: u32) -> Result<(), Malformed> {
        match meaning {
            Meaning::Field => {
                self.table.name(value)?;
                self.step = Step::Representation;
            }
            Meaning::Size => {
                self.table.resize(value)?;
                self.step = Step::Representation;
            }
            Meaning::Name if value == 0 => {
                // True until an octet differs, see `name_octet`.
                self.field.name = Name {
                    is_authority: true,
                    length: 0,
                };
                self.step = Step::Length(Part::Name);
            }
            Meaning::Name => {
                self.field.name = self.table.name(value)?;
                self.step = Step::Length(Part::Value);
            }
            Meaning::Length(part) => {
                self.text.length = value;
                self.text.left = value;
                self.step = Step::Text(part);
                if value == 0 {
                    match part {
                        // `h2` refuses a field without a name.
                        Part::Name => return Err(Malformed),
                        Part::Value => self.end_field(),
                    }
                }
            }
        }
        Ok(())
    }

    fn name_octet(&mut self, octet: u8) -> Result<(), Malformed> {
        let name = &mut self.field.name;
        self.text.push(octet, |decoded| {
            name.is_authority &= AUTHORITY.get(name.length as usize) == Some(&decoded);
            name.length += 1;
        })?;
        if self.text.left == 0 {
            name.is_authority &= name.length as usize == AUTHORITY.len();
            self.step = Step::Length(Part::Value);
        }
        Ok(())
    }

    fn value_octet(&mut self, octet: u8) -> Result<Octet, Malformed> {
        let length = &mut self.field.value_length;
        self.text.push(octet, |_| *length += 1)?;
        let seen = if self.field.name.is_authority {
            Octet::Authority {
                huffman: self.text.huffman.is_some(),
                length: self.text.length,
                left: self.text.left,
            }
        } else {
            Octet::Other
        };
        if self.text.left == 0 {
            self.end_field();
        }
        Ok(seen)
    }

    fn end_field(&mut self) {
        if self.field.indexed {
            self.table.insert(self.field.name, self.field.value_length);
        }
        self.step = Step::Representation;
    }
}

impl Text {
    /// Takes the next octet and calls `each` with every octet of the decoded string that this completes.
    fn push(&mut self, octet: u8, mut each: impl FnMut(u8)) -> Result<(), Malformed> {
        self.left = self.left.saturating_sub(1);
        match &mut self.huffman {
            None => each(octet),
            Some(decoder) => {
                decoder.push(octet, each)?;
                if self.left == 0 {
                    decoder.finish()?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(blocks: &mut Blocks, octets: &[u8]) -> Result<usize, Malformed> {
        let mut authority = 0;
        for octet in octets {
            authority += usize::from(blocks.octet(*octet)? != Octet::Other);
        }
        blocks.end().map(|()| authority)
    }

    #[test]
    fn only_the_very_name_counts() {
        for (name, due) in [
            (":authority", 2),
            (":authorit", 0),
            (":authority2", 0),
            (":Authority", 0),
            ("authority", 0),
            ("host", 0),
        ] {
            let block = [&[0x40, name.len() as u8], name.as_bytes(), b"\x02/a"].concat();
            let mut blocks = Blocks::new();
            assert_eq!(feed(&mut blocks, &block), Ok(due), "{name}");
            // By index from then on.
            assert_eq!(feed(&mut blocks, b"\x7e\x02/b"), Ok(due), "{name}");
        }
    }

    /// Whoever passes what is passable gets the same table as who looks at every octet.
    #[test]
    fn a_passed_value_counts_like_one_that_was_looked_at() {
        let coded = huffman::encode(&[b'0'; 40]).unwrap();
        let coded = [&[0x80 | coded.len() as u8], coded.as_slice()].concat();
        // Not into the table: raw and coded. Into it: raw, and coded, of which the length has to be known.
        let fields: [(u8, &[u8], bool); 4] = [
            (0x00, b"\x03abc", true),
            (0x00, &coded, true),
            (0x40, b"\x03abc", true),
            (0x40, &coded, false),
        ];
        for (first, value, passable) in fields {
            let block = [&[first, 1, b'k'], value].concat();
            let mut slow = Blocks::new();
            assert_eq!(feed(&mut slow, &block), Ok(0));
            let mut quick = Blocks::new();
            for octet in &block[..4] {
                quick.octet(*octet).unwrap();
            }
            let rest = block.len() as u32 - 4;
            assert_eq!(
                quick.passable(),
                if passable { rest } else { 0 },
                "{first:#x} {value:?}"
            );
            if passable {
                quick.pass(1);
                quick.pass(rest - 1);
                assert!(quick.end().is_ok());
                assert_eq!(format!("{:?}", quick.table), format!("{:?}", slow.table));
            }
        }
        // A value of `:authority` is looked at.
        let mut blocks = Blocks::new();
        assert_eq!(feed(&mut blocks, b"\x01"), Err(Malformed));
        blocks.octet(2).unwrap();
        assert_eq!(blocks.passable(), 0);
    }

    /// An entry is as large as its decoded value: 128 octets of Huffman coding are 204 zeros.
    #[test]
    fn entries_have_their_decoded_size() {
        let encoded = huffman::encode(&[b'0'; 204]).unwrap();
        let block = [&b"\x3f\xc6\x01\x40\x01x\xff\x01"[..], &encoded].concat();
        assert_eq!(encoded.len(), 128);
        // Room for 229 octets, 8 too few.
        let mut blocks = Blocks::new();
        assert_eq!(feed(&mut blocks, &block), Ok(0));
        assert_eq!(feed(&mut blocks, &[0xbe]), Err(Malformed));
        // Room for 237.
        let block = [b"\x3f\xce\x01", &block[3..]].concat();
        let mut blocks = Blocks::new();
        assert_eq!(feed(&mut blocks, &block), Ok(0));
        assert_eq!(feed(&mut blocks, &[0xbe]), Ok(0));
    }

    #[test]
    fn malformed_blocks() {
        for (block, why) in [
            (&b"\x80"[..], "index 0"),
            (b"\xbe", "index beyond the table"),
            (b"\x7f\xff\xff\xff\xff", "integer too long"),
            (b"\x40\x00\x01a", "no name"),
            (b"\x3f\xe2\x1f", "size over the limit"),
            (b"\x41\x81\x00", "wrong Huffman ending"),
            (b"\x41\x02/", "in the middle of a value"),
            (b"\x41", "in the middle of a field"),
        ] {
            assert_eq!(feed(&mut Blocks::new(), block), Err(Malformed), "{why}");
        }
        assert_eq!(feed(&mut Blocks::new(), b"\x3f\xe1\x1f\x82"), Ok(0));
    }
}
