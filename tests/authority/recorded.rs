//! What stock clients really send over a Unix socket at `/tmp/dir/sock`.

use crate::server::{Outcome, through, with_adapter, without_adapter};

const PROTOCOL_ERROR: u32 = 1;

/// A client's octets, what authority it sends, and what `h2` gets to see instead.
struct Recording {
    name: &'static str,
    hex: &'static str,
    sent: &'static str,
    seen: &'static str,
    calls: usize,
}

macro_rules! recording {
    ($name:literal, $sent:literal => $seen:literal, $calls:literal) => {
        Recording {
            name: $name,
            hex: include_str!(concat!("recorded/", $name, ".hex")),
            sent: $sent,
            seen: $seen,
            calls: $calls,
        }
    };
}

const RECORDINGS: [Recording; 12] = [
    recording!("python-1.85", "tmp%2Fdir%2Fsock" => "tmp-2Fdir-2Fsock", 2),
    recording!("python-1.57", "tmp%2Fdir%2Fsock" => "tmp-2Fdir-2Fsock", 2),
    recording!("php-constructed", "tmp%2Fdir%2Fsock" => "tmp-2Fdir-2Fsock", 2),
    recording!("swift-constructed", "%2Ftmp%2Fdir%2Fsock" => "-2Ftmp-2Fdir-2Fsock", 2),
    recording!("java", "/tmp/dir/sock" => "-tmp-dir-sock", 2),
    recording!("python-1.56", "localhost" => "localhost", 2),
    recording!("python-1.51", "localhost" => "localhost", 2),
    recording!("ruby-1.51", "localhost" => "localhost", 2),
    recording!("cpp-1.51", "localhost" => "localhost", 2),
    recording!("go", "localhost" => "localhost", 2),
    recording!("node", "localhost" => "localhost", 2),
    recording!("grpcurl", "localhost" => "localhost", 1),
];

impl Recording {
    fn octets(&self) -> Vec<u8> {
        let digits: String = self.hex.lines().filter(|line| !line.starts_with('#')).collect();
        data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
    }

    fn assert_served(&self, outcome: &Outcome) {
        let name = self.name;
        assert_eq!(outcome.requests.len(), self.calls, "{name}: {outcome:?}");
        assert_eq!((&outcome.resets[..], &outcome.goaway[..]), (&[][..], &[][..]), "{name}");
        for request in &outcome.requests {
            assert_eq!(request.authority.as_deref(), Some(self.seen), "{name}");
            assert!(request.path.starts_with("/grpc."), "{name}");
            let field = |name: &str| {
                request
                    .fields
                    .iter()
                    .find(|field| field.0 == name)
                    .map(|field| &field.1[..])
            };
            assert_eq!(field("content-type"), Some(&b"application/grpc"[..]), "{name}");
            assert_eq!(field("te"), Some(&b"trailers"[..]), "{name}");
        }
        // The second call's fields come from the dynamic table.
        if let [first, second] = &outcome.requests[..] {
            let names = |request: &crate::server::Request| -> Vec<String> {
                request.fields.iter().map(|field| field.0.clone()).collect()
            };
            assert_eq!(names(first), names(second), "{name}");
        }
    }
}

#[test]
fn h2_refuses_what_the_table_says() {
    for recording in RECORDINGS {
        let outcome = without_adapter([recording.octets()]);
        if recording.sent == recording.seen {
            recording.assert_served(&outcome);
        } else {
            assert_eq!(outcome.requests, [], "{}", recording.name);
            let codes: Vec<_> = outcome.resets.iter().map(|reset| reset.1).collect();
            assert_eq!(codes, vec![PROTOCOL_ERROR; recording.calls], "{}", recording.name);
        }
    }
}

#[test]
fn every_client_is_served_behind_the_adapter() {
    for recording in RECORDINGS {
        let octets = recording.octets();
        recording.assert_served(&with_adapter([octets.clone()]));
        recording.assert_served(&with_adapter(octets.iter().map(|octet| vec![*octet])));
        for cut in 0..octets.len() {
            let (first, second) = octets.split_at(cut);
            recording.assert_served(&with_adapter([first.to_vec(), second.to_vec()]));
        }
    }
}

#[test]
fn nothing_but_the_refused_octets_is_changed() {
    for recording in RECORDINGS {
        let before = recording.octets();
        let after = through([before.clone()], 64 * 1024);
        assert_eq!(before.len(), after.len(), "{}", recording.name);
        let changed = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before != after)
            .count();
        let refused = recording
            .sent
            .bytes()
            .zip(recording.seen.bytes())
            .filter(|(sent, seen)| sent != seen)
            .count();
        if recording.name == "swift-constructed" {
            // The codes of Huffman coding do not end with the octets.
            assert!((refused..=2 * refused).contains(&changed), "{changed}");
        } else {
            assert_eq!(changed, refused, "{}", recording.name);
        }
    }
}
