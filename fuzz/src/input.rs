//! The octets of an input, taken from the front.

pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// `None`: there is nothing left.
    pub fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A length in two octets, and as much as there is of so many.
    pub fn part(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (part, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        self.0 = rest;
        Some(part)
    }
}
