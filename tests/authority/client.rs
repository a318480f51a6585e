//! A client that can write its requests in every way that HTTP/2 and HPACK allow.

use std::collections::VecDeque;

/// How a literal goes with the dynamic table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Indexing {
    With,
    Without,
    Never,
}

/// How much of a field is sent as an index, where the tables allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefer {
    Whole,
    Name,
    Literal,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: Vec<u8>,
    pub(crate) indexing: Indexing,
    pub(crate) prefer: Prefer,
    pub(crate) huffman_name: bool,
    pub(crate) huffman_value: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Sizes of the dynamic table that are announced before the fields.
    pub(crate) sizes: Vec<u32>,
    pub(crate) authority: Field,
    pub(crate) fields: Vec<Field>,
    /// Where the header block is cut, in thousandths of its length. The same place twice makes an empty frame.
    pub(crate) cuts: Vec<u16>,
    pub(crate) padding: Option<u8>,
    pub(crate) priority: bool,
    /// A frame of another kind after the request.
    pub(crate) between: Option<(u8, Vec<u8>)>,
}

/// The octets of a connection.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) octets: Vec<u8>,
    /// For every octet the literal value of `:authority` that it belongs to: 0 for none, 1 for the first.
    pub(crate) authority: Vec<usize>,
}

impl Sent {
    fn add(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
        self.authority.resize(self.octets.len(), 0);
    }

    fn add_authority(&mut self, octets: &[u8], number: usize) {
        self.octets.extend_from_slice(octets);
        self.authority.resize(self.octets.len(), number);
    }
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Those entries of the static table that the tests make use of.
const STATIC: [(usize, &str, &[u8]); 12] = [
    (1, ":authority", b""),
    (3, ":method", b"POST"),
    (4, ":path", b"/"),
    (6, ":scheme", b"http"),
    (15, "accept-charset", b""),
    (16, "accept-encoding", b"gzip, deflate"),
    (23, "authorization", b""),
    (31, "content-type", b""),
    (32, "cookie", b""),
    (50, "range", b""),
    (58, "user-agent", b""),
    (61, "www-authenticate", b""),
];

/// The client's side of the header table.
struct Table {
    entries: VecDeque<(String, Vec<u8>)>,
    max: usize,
    // Literal values of `:authority` so far.
    authorities: usize,
}

impl Table {
    fn insert(&mut self, name: &str, value: &[u8]) {
        self.entries.push_front((name.to_owned(), value.to_vec()));
        self.evict();
    }

    fn evict(&mut self) {
        while self
            .entries
            .iter()
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum::<usize>()
            > self.max
        {
            self.entries.pop_back();
        }
    }

    fn find(&self, name: &str, value: Option<&[u8]>) -> Option<usize> {
        let matches = |n: &str, v: &[u8]| n == name && value.is_none_or(|value| value == v);
        let dynamic = self
            .entries
            .iter()
            .position(|(n, v)| matches(n, v))
            .map(|place| place + 62);
        dynamic.or_else(|| STATIC.iter().find(|(_, n, v)| matches(n, v)).map(|entry| entry.0))
    }
}

/// Writes the requests of one connection.
pub(crate) fn connection(requests: &[Request]) -> Sent {
    let mut sent = Sent::default();
    sent.add(PREFACE);
    sent.add(&frame(4, 0, 0, &[]));
    let mut table = Table {
        entries: VecDeque::new(),
        max: 4096,
        authorities: 0,
    };
    for (number, request) in requests.iter().enumerate() {
        let mut block = Sent::default();
        for size in &request.sizes {
            table.max = *size as usize;
            table.evict();
            block.add(&integer(0x20, 5, *size));
        }
        let fixed = |name: &str, value: &[u8]| Field {
            name: name.to_owned(),
            value: value.to_vec(),
            indexing: Indexing::Without,
            prefer: Prefer::Whole,
            huffman_name: false,
            huffman_value: false,
        };
        field(&mut block, &mut table, &fixed(":method", b"POST"));
        field(&mut block, &mut table, &fixed(":scheme", b"http"));
        field(&mut block, &mut table, &request.authority);
        field(&mut block, &mut table, &fixed(":path", b"/"));
        for other in &request.fields {
            field(&mut block, &mut table, other);
        }
        let stream = 2 * number as u32 + 1;
        headers(&mut sent, stream, request, &block);
        if let Some((kind, payload)) = &request.between {
            sent.add(&frame(*kind, 0, 0, payload));
        }
    }
    sent
}

fn headers(sent: &mut Sent, stream: u32, request: &Request, block: &Sent) {
    let mut cuts: Vec<usize> = request
        .cuts
        .iter()
        .map(|cut| block.octets.len() * usize::from(*cut).min(1000) / 1000)
        .collect();
    cuts.sort_unstable();
    cuts.insert(0, 0);
    cuts.push(block.octets.len());
    for (index, pair) in cuts.windows(2).enumerate() {
        let (mut head, mut tail, mut flags) = (Vec::new(), Vec::new(), 0);
        let last = index + 2 == cuts.len();
        if index == 0 {
            flags |= 0x1;
            if let Some(padding) = request.padding {
                flags |= 0x8;
                head.push(padding);
                tail.resize(padding.into(), 0);
            }
            if request.priority {
                flags |= 0x20;
                head.extend_from_slice(&[0, 0, 0, 0, 15]);
            }
        }
        if last {
            flags |= 0x4;
        }
        let length = head.len() + pair[1] - pair[0] + tail.len();
        let kind = if index == 0 { 1 } else { 9 };
        sent.add(&frame_header(length, kind, flags, stream));
        sent.add(&head);
        sent.octets.extend_from_slice(&block.octets[pair[0]..pair[1]]);
        sent.authority.extend_from_slice(&block.authority[pair[0]..pair[1]]);
        sent.add(&tail);
    }
}

fn field(block: &mut Sent, table: &mut Table, field: &Field) {
    if field.prefer == Prefer::Whole
        && let Some(index) = table.find(&field.name, Some(&field.value))
    {
        block.add(&integer(0x80, 7, index as u32));
        return;
    }
    let (first, prefix) = match field.indexing {
        Indexing::With => (0x40, 6),
        Indexing::Without => (0x00, 4),
        Indexing::Never => (0x10, 4),
    };
    let index = if field.prefer == Prefer::Literal {
        None
    } else {
        table.find(&field.name, None)
    };
    block.add(&integer(first, prefix, index.unwrap_or(0) as u32));
    if index.is_none() {
        let (length, text) = string(field.name.as_bytes(), field.huffman_name);
        block.add(&length);
        block.add(&text);
    }
    let (length, text) = string(&field.value, field.huffman_value);
    block.add(&length);
    if field.name == ":authority" {
        table.authorities += 1;
        block.add_authority(&text, table.authorities);
    } else {
        block.add(&text);
    }
    if field.indexing == Indexing::With {
        table.insert(&field.name, &field.value);
    }
}

fn string(text: &[u8], huffman: bool) -> (Vec<u8>, Vec<u8>) {
    let mut encoded = Vec::new();
    if huffman {
        httlib_huffman::encode(text, &mut encoded).unwrap();
    } else {
        encoded.extend_from_slice(text);
    }
    (
        integer(if huffman { 0x80 } else { 0 }, 7, encoded.len() as u32),
        encoded,
    )
}

pub(crate) fn integer(first: u8, prefix: u8, value: u32) -> Vec<u8> {
    let full = (1 << prefix) - 1;
    if value < full {
        return vec![first | value as u8];
    }
    let mut octets = vec![first | full as u8];
    let mut rest = value - full;
    while rest >= 128 {
        octets.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    octets.push(rest as u8);
    octets
}

pub(crate) fn frame_header(length: usize, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let mut header = (length as u32).to_be_bytes()[1..].to_vec();
    header.extend_from_slice(&[kind, flags]);
    header.extend_from_slice(&stream.to_be_bytes());
    header
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame_header(payload.len(), kind, flags, stream);
    frame.extend_from_slice(payload);
    frame
}
