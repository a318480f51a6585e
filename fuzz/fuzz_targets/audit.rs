//! Any octets as the files of an audit, and files as they are written that somebody changed: each is read in bounded memory,
//! only a chain that another reader finds whole too is called whole, and no change to a file with a key goes unseen.

#![no_main]

use credbroker::broker::audit::{
    chain::Key,
    series::{Found, Judged, Lock, Verdict, judge, judge_all},
    verify::{End, SealedBy, check},
};
use credbroker_fuzz::input::Input;
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac as _};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use sha2::Sha256;
use zeroize::Zeroizing;

const SECRET: [u8; 32] = [7; 32];
const ID: [u8; 32] = [9; 32];
const TIME: &str = "2027-01-15T08:00:00Z";

fn key() -> Key {
    Key::new(Zeroizing::new(SECRET), &ID)
}

fn mac(secret: &[u8], last: &[u8; 32], body: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(last);
    mac.update(body);
    mac.finalize().into_bytes().into()
}

/// A file as a broker writes it.
struct File {
    name: &'static str,
    keyed: bool,
    lines: Vec<Vec<u8>>,
    last: [u8; 32],
    /// Lines that are neither the first one nor a record's.
    counted: usize,
}

impl File {
    fn begin(name: &'static str, keyed: bool, previous: Option<&Self>) -> Self {
        let mut file = Self {
            name,
            keyed,
            lines: Vec::new(),
            last: [0; 32],
            counted: 0,
        };
        let mut begin = json!({"event": "begin", "time": TIME, "file": name, "id": format!("id of {name}"), "pid": 7,
            "version": "0.1.0", "key": keyed.then(|| key().id().to_owned())});
        if let Some(before) = previous {
            begin["previous"] = json!({"file": before.name, "mac": BASE64URL_NOPAD.encode(&before.last)});
        }
        file.line(begin);
        file
    }

    fn line(&mut self, mut line: Value) {
        line["n"] = (self.lines.len() + 1).into();
        let mut text = line.to_string().into_bytes();
        assert_eq!(text.pop(), Some(b'}'));
        let secret: &[u8] = if self.keyed { &SECRET } else { &[] };
        self.last = mac(secret, &self.last, &text);
        text.extend_from_slice(format!(",\"mac\":\"{}\"}}\n", BASE64URL_NOPAD.encode(&self.last)).as_bytes());
        self.lines.push(text);
    }

    fn record(&mut self, sandbox: &str) {
        self.line(
            json!({"time": TIME, "sandbox": sandbox, "peer_uid": 1000, "peer_pid": 42, "operation": "GetToken",
            "provider": "p", "bucket": "default", "outcome": "ok"}),
        );
    }

    /// Calls that were refused and are only counted.
    fn refusals(&mut self, sandbox: &str) {
        self.line(
            json!({"event": "refusals", "time": TIME, "until": TIME, "sandbox": sandbox,
            "calls": {"RATE_LIMITED": 2300, "UNAUTHENTICATED": 60}}),
        );
        self.counted += 1;
    }

    fn end(&mut self, next: Option<&str>) {
        let records = self.lines.len() - 1 - self.counted;
        let mut end = json!({"event": "end", "time": TIME, "records": records});
        if let Some(next) = next {
            end["next"] = next.into();
        }
        self.line(end);
    }

    fn octets(&self) -> Vec<u8> {
        self.lines.concat()
    }
}

/// What somebody does to it who knows what goes before and after it.
fn change(file: &File, previous: Option<&File>, next: Option<&str>, input: &mut Input<'_>) -> Vec<u8> {
    let mut lines = file.lines.clone();
    let (Some(how), Some(one), Some(other)) = (input.octet(), input.octet(), input.octet()) else {
        return file.octets();
    };
    let (line, another) = (usize::from(one) % lines.len(), usize::from(other) % lines.len());
    let mut octets = lines.concat();
    let place = usize::from(u16::from_be_bytes([one, other])) % octets.len();
    match how % 9 {
        0 => return octets,
        1 => octets[place] ^= 1 << (how >> 5),
        2 => octets.truncate(place),
        3 => {
            let part = input.part().unwrap_or_default();
            octets.splice(place..place, part.iter().copied());
        }
        4 => {
            lines.remove(line);
            return lines.concat();
        }
        5 => {
            lines.swap(line, another);
            return lines.concat();
        }
        6 => {
            let copy = lines[line].clone();
            lines.insert(another, copy);
            return lines.concat();
        }
        // All of it anew by who has no key.
        7 => {
            let mut forged = File::begin(file.name, false, previous);
            forged.record("forged");
            forged.end(next);
            return forged.octets();
        }
        // Under a key that nobody has every line seems to follow, and the MACs that others name are copied.
        _ => {
            let text = String::from_utf8(octets).unwrap();
            let forged = text.replacen(&format!("\"{}\"", key().id()), "\"AAAAAAAAAAA\"", 1);
            return forged.replace("GetToken", "GetTokem").into_bytes();
        }
    }
    octets
}

/// Whether the octets are the chain of a closed file under the key, as the page in the documentation says.
fn is_whole(octets: &[u8]) -> bool {
    let Some(octets) = octets.strip_suffix(b"\n") else {
        return false;
    };
    let mut last = [0; 32];
    let mut records = 0;
    let lines: Vec<_> = octets.split(|octet| *octet == b'\n').collect();
    lines.iter().enumerate().all(|(at, line)| {
        let Some(text) = line.strip_suffix(b"\"}") else {
            return false;
        };
        let Some((text, digits)) = text.split_at_checked(text.len().saturating_sub(43)) else {
            return false;
        };
        let Some(body) = text.strip_suffix(b",\"mac\":\"") else {
            return false;
        };
        let mac = mac(&SECRET, &last, body);
        last = mac;
        let said: Value = serde_json::from_slice(line).unwrap_or_default();
        let event = said["event"].as_str();
        records += u64::from(event.is_none());
        BASE64URL_NOPAD.encode(&mac).as_bytes() == digits
            && said["n"] == at + 1
            && (event == Some("begin")) == (at == 0)
            && (event == Some("end")) == (at + 1 == lines.len())
            && (event != Some("end") || said["records"] == records)
            && (event != Some("begin") || said["key"] == key().id())
    })
}

fn found(name: &str, octets: &[u8], lock: Lock) -> Found {
    Found {
        name: name.to_owned(),
        lock,
        checked: check(octets, &[key()]).unwrap(),
    }
}

fn judged(judged: &Judged, octets: &[u8]) {
    let checked = &judged.found.checked;
    let lines = octets.iter().filter(|octet| **octet == b'\n').count() as u64 + 1;
    assert!(checked.faults.len() <= 20);
    assert!(checked.faults.iter().all(|fault| (1..=lines).contains(&fault.line)));
    assert!(
        checked
            .faults
            .iter()
            .all(|fault| !fault.to_string().contains(char::is_control))
    );
    assert!(checked.records <= lines);
    assert_eq!(checked.end == End::Empty, octets.is_empty());
    match &judged.verdict {
        Verdict::Whole => assert!(is_whole(octets)),
        Verdict::Running | Verdict::Held => {
            // Nothing can be said of a first line that is being written.
            let begins = checked.sealed == SealedBy::Unsaid && lines == 1;
            let by = if judged.verdict == Verdict::Running {
                Lock::Broker
            } else {
                Lock::Unknown
            };
            assert!(judged.found.lock == by && (checked.sealed == SealedBy::Key || begins));
        }
        Verdict::Vouched { .. } => assert!(checked.sealed == SealedBy::Nobody),
        Verdict::Tampered(faults) => assert!(!faults.is_empty()),
        Verdict::Cut | Verdict::Unkeyed | Verdict::OtherKey { .. } => {}
    }
    assert!(judged.verdict == Verdict::Whole || !is_whole(octets) || judged.found.name != "a");
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (Some(what), Some(bits)) = (input.octet(), input.octet()) else {
        return;
    };
    let keyed = bits & 1 == 0;
    let lock = match (bits & 2 != 0, bits & 16 != 0) {
        (false, false) => Lock::Free,
        (true, false) => Lock::Broker,
        (false, true) => Lock::Other(7),
        (true, true) => Lock::Unknown,
    };
    if what & 1 == 0 {
        judged(&judge(found("f", input.0, lock)), input.0);
        return;
    }
    let mut one = File::begin("a", keyed, None);
    for _ in 0..bits >> 5 {
        let part = String::from_utf8_lossy(input.part().unwrap_or_default());
        match part.strip_prefix('!') {
            Some(sandbox) => one.refusals(sandbox),
            None => one.record(&part),
        }
    }
    if what & 2 == 0 {
        one.end(None);
        let octets = change(&one, None, None, &mut input);
        let verdict = judge(found("a", &octets, lock));
        judged(&verdict, &octets);
        if octets == one.octets() {
            assert_eq!(verdict.verdict, if keyed { Verdict::Whole } else { Verdict::Unkeyed });
        } else if keyed {
            assert_ne!(verdict.verdict, Verdict::Whole);
        }
        return;
    }
    // Two of them, the second one always with a key.
    one.end(Some("b"));
    let mut two = File::begin("b", true, Some(&one));
    two.record("after");
    two.end(None);
    let first = change(&one, None, Some("b"), &mut input);
    let second = change(&two, Some(&one), None, &mut input);
    let mut files = vec![found("a", &first, Lock::Free), found("b", &second, Lock::Free)];
    if bits & 4 != 0 {
        files.pop();
    }
    if bits & 8 != 0 {
        files.reverse();
    }
    let count = files.len();
    let verdicts = judge_all(files);
    assert_eq!(verdicts.len(), count);
    let good = verdicts
        .iter()
        .filter(|judged| matches!(judged.verdict, Verdict::Whole | Verdict::Vouched { .. }));
    let untouched = first == one.octets() && second == two.octets();
    assert_eq!(good.count() == 2, untouched && count == 2);
    // Beside a file with a key that is as it was, whatever was done to the other is a fault or a cut, and never only that nothing
    // can be said.
    let one_is_good = (first == one.octets()) != (second == two.octets());
    if keyed && one_is_good && count == 2 {
        assert!(
            verdicts
                .iter()
                .any(|judged| matches!(judged.verdict, Verdict::Tampered(_) | Verdict::Cut))
        );
    }
});
