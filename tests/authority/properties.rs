//! Properties over every way to write a connection, and over what is no connection at all.

use http::uri::Authority;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::client::{Field, Indexing, Prefer, Request, Sent, connection};
use crate::server::{through, with_adapter, without_adapter};

/// Values of `:authority`: those that clients send, acceptable ones, and anything else.
fn authority_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => "(%2F|/)?[a-z0-9]{1,8}((%2F|/)[a-zA-Z0-9._-]{1,12}){0,6}".prop_map(String::into_bytes),
        1 => "[a-z][a-z0-9-]{0,30}(:[0-9]{1,5})?".prop_map(String::into_bytes),
        1 => "[ -~]{1,40}".prop_map(String::into_bytes),
        1 => "[:@\\[\\]%/a]{1,12}".prop_map(String::into_bytes),
    ]
}

/// Octets for which no acceptable one has a Huffman code of the same length; see the module's documentation.
const IRREPLACEABLE: &[u8] = b"#<>\\^`{}";

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec![
            "accept-charset", "accept-encoding", "authorization", "content-type", "cookie", "range", "user-agent",
            "www-authenticate", "x-authority", "authority",
        ]).prop_map(str::to_owned),
        1 => "x-[a-z]{1,40}",
    ]
}

fn indexing() -> impl Strategy<Value = Indexing> {
    prop::sample::select(vec![Indexing::With, Indexing::With, Indexing::Without, Indexing::Never])
}

fn prefer() -> impl Strategy<Value = Prefer> {
    prop::sample::select(vec![Prefer::Whole, Prefer::Name, Prefer::Literal])
}

fn field() -> impl Strategy<Value = Field> {
    let value = prop_oneof![8 => vec(0x20..0x7f_u8, 0..80), 1 => vec(0x80..=0xff_u8, 0..40), 1 => vec(0x21..0x7f_u8, 900..1300)];
    (name(), value, indexing(), prefer(), any::<bool>(), any::<bool>()).prop_map(
        |(name, value, indexing, prefer, huffman_name, huffman_value)| Field {
            name,
            value,
            indexing,
            prefer,
            huffman_name,
            huffman_value,
        },
    )
}

fn authority() -> impl Strategy<Value = Field> {
    (authority_value(), indexing(), prefer(), any::<bool>(), any::<bool>()).prop_map(
        |(value, indexing, prefer, huffman_name, huffman_value)| Field {
            name: ":authority".to_owned(),
            huffman_value: huffman_value && !value.iter().any(|octet| IRREPLACEABLE.contains(octet)),
            value,
            indexing,
            prefer,
            huffman_name,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    (
        vec(prop_oneof![Just(0), Just(4096), 30..400_u32], 0..3),
        authority(),
        vec(field(), 0..6),
        vec(0..=1000_u16, 0..6),
        option::of(any::<u8>()),
        any::<bool>(),
        option::of(prop_oneof![
            Just((6, vec![7; 8])),
            (0xa..=0xff_u8, vec(any::<u8>(), 0..30))
        ]),
    )
        .prop_map(|(sizes, authority, fields, cuts, padding, priority, between)| Request {
            sizes,
            authority,
            fields,
            cuts,
            padding,
            priority,
            between,
        })
}

/// The connection's requests; the authority is mostly the same in all of them, as with real clients.
fn requests() -> impl Strategy<Value = Vec<Request>> {
    (vec(request(), 1..6), authority_value(), any::<bool>()).prop_map(|(mut requests, value, same)| {
        if same {
            for request in &mut requests {
                request.authority.huffman_value &= !value.iter().any(|octet| IRREPLACEABLE.contains(octet));
                request.authority.value.clone_from(&value);
            }
        }
        requests
    })
}

/// The octets in pieces of the given lengths, again and again.
fn pieces(octets: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = octets;
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at((*length).clamp(1, rest.len()));
        pieces.push(piece.to_vec());
        rest = behind;
    }
    pieces
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        Just(vec![usize::MAX]),
        vec(1..40_usize, 1..8),
        vec(1..2000_usize, 1..4)
    ]
}

/// Whether two lists of octets differ only where a value of `:authority` is.
fn differ_only_in_authority(sent: &Sent, after: &[u8]) -> bool {
    sent.octets.len() == after.len()
        && sent
            .octets
            .iter()
            .zip(after)
            .zip(&sent.authority)
            .all(|((sent, after), place)| *place != 0 || sent == after)
}

fn accepted(value: &[u8]) -> bool {
    Authority::try_from(value).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// The point of it all: `h2` serves every request, and sees what was sent except for refused authorities.
    #[test]
    fn every_request_is_served(requests in requests(), lengths in lengths()) {
        let sent = connection(&requests);
        let outcome = with_adapter(pieces(&sent.octets, &lengths));
        prop_assert_eq!(outcome.requests.len(), requests.len(), "{:?}", outcome);
        prop_assert!(outcome.resets.is_empty() && outcome.goaway.is_empty(), "{:?}", outcome);
        for (seen, request) in outcome.requests.iter().zip(&requests) {
            let authority = seen.authority.as_deref().unwrap_or_default();
            prop_assert_eq!(authority.len(), request.authority.value.len());
            if accepted(&request.authority.value) {
                prop_assert_eq!(authority.as_bytes(), &request.authority.value);
            }
            let mut fields: Vec<_> = request.fields.iter().map(|field| (field.name.clone(), field.value.clone())).collect();
            let mut seen = seen.fields.clone();
            fields.sort();
            seen.sort();
            prop_assert_eq!(seen, fields);
        }
    }

    /// The test of the test: without the adapter, exactly the requests with a refused authority are lost.
    #[test]
    fn h2_alone_refuses(requests in requests()) {
        let outcome = without_adapter([connection(&requests).octets]);
        let due = requests.iter().filter(|request| accepted(&request.authority.value)).count();
        prop_assert_eq!(outcome.requests.len(), due, "{:?}", outcome);
        prop_assert_eq!(outcome.resets.len(), requests.len() - due, "{:?}", outcome);
    }

    /// Not one octet more or less, and none changed outside the values; the same whatever the pieces and buffers.
    #[test]
    fn only_refused_values_change(requests in requests(), lengths in lengths(), size in 1..600_usize) {
        let sent = connection(&requests);
        let after = through([sent.octets.clone()], 1 << 20);
        prop_assert!(differ_only_in_authority(&sent, &after));
        prop_assert_eq!(&through(pieces(&sent.octets, &lengths), size), &after);
        if requests.iter().all(|request| accepted(&request.authority.value)) {
            prop_assert_eq!(&sent.octets, &after);
        }
        // What was made acceptable is left alone the second time.
        prop_assert_eq!(&through([after.clone()], 1 << 20), &after);
    }

    /// A connection that breaks off is given up to the last octet.
    #[test]
    fn a_connection_may_end_anywhere(requests in requests(), end in 0..=1000_usize, lengths in lengths()) {
        let sent = connection(&requests);
        let whole = through([sent.octets.clone()], 1 << 20);
        let end = sent.octets.len() * end / 1000;
        let part = through(pieces(&sent.octets[..end], &lengths), 1 << 20);
        prop_assert_eq!(part.len(), end);
        // A value that is cut off stays as it was sent; everything else is as it would have been.
        for place in 0..end {
            let value = sent.authority[place];
            let cut = value != 0 && sent.authority[end..].contains(&value);
            let due = if cut { sent.octets[place] } else { whole[place] };
            prop_assert_eq!(part[place], due, "at {} of {}", place, end);
        }
    }

    /// Whatever comes, as many octets go.
    #[test]
    fn garbage_passes(octets in vec(any::<u8>(), 0..400), preface in any::<bool>(), lengths in lengths(), size in 1..100_usize) {
        let mut sent = if preface { crate::client::PREFACE.to_vec() } else { Vec::new() };
        sent.extend_from_slice(&octets);
        let after = through([sent.clone()], 1 << 20);
        prop_assert_eq!(after.len(), sent.len());
        prop_assert_eq!(&through(pieces(&sent, &lengths), size), &after);
    }

    /// A connection with a few wrong octets gets past most checks before it is given up.
    #[test]
    fn a_damaged_connection_passes(
        requests in requests(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        lengths in lengths(),
        size in 1..100_usize,
    ) {
        let mut sent = connection(&requests).octets;
        for (place, octet) in damage {
            let place = place.index(sent.len());
            sent[place] = octet;
        }
        let after = through([sent.clone()], 1 << 20);
        prop_assert_eq!(after.len(), sent.len());
        prop_assert_eq!(&through(pieces(&sent, &lengths), size), &after);
    }
}
