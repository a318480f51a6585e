//! What git says to a helper: `key=value` lines, up to an empty one or the end of the input.

use std::io::BufRead;

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::cli::failure::Failure;

/// Far above what git sends: a token of 16 KiB, and what a server put into its `WWW-Authenticate` headers.
const MAX_INPUT: usize = 256 * 1024;
const MAX_LINES: usize = 1000;

/// What git wants a credential for, as far as it matters here. It sends more, and newer versions will send more still.
#[derive(Default)]
pub(super) struct Request {
    /// The scheme of the URL, in small letters.
    pub(super) protocol: Option<String>,
    /// Its host, with the port if it has one.
    pub(super) host: Option<String>,
    /// The user name that is asked for, or that was used.
    pub(super) username: Option<String>,
    /// The password that was used.
    pub(super) password: Option<SecretString>,
}

impl Request {
    /// Reads one. What is said twice counts as it was said last, as everywhere in git.
    pub(super) fn read(source: impl BufRead) -> Result<Self, Failure> {
        let input = read(source)?;
        let mut request = Self::default();
        for line in lines(&input) {
            // Keys that are not known here may have any value; headers of servers are among them.
            if line.contains(&0) {
                return Err(malformed("has a NUL"));
            }
            let Some(equals) = line.iter().position(|byte| *byte == b'=') else {
                return Err(malformed("has a line without an equals sign"));
            };
            let (key, value) = line.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            match key {
                b"protocol" => request.protocol = text("protocol", value)?.map(|text| text.to_ascii_lowercase()),
                b"host" => request.host = text("host", value)?.map(str::to_owned),
                b"username" => request.username = text("username", value)?.map(str::to_owned),
                b"password" => request.password = text("password", value)?.map(SecretString::from),
                _ => {}
            }
        }
        Ok(request)
    }
}

/// Everything that counts, in one allocation, so that growing leaves no copies of a password behind.
fn read(source: impl BufRead) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut input = Zeroizing::new(Vec::with_capacity(MAX_INPUT + 1));
    let mut source = source.take(MAX_INPUT as u64 + 1);
    for _ in 0..=MAX_LINES {
        let before = input.len();
        let read = source
            .read_until(b'\n', &mut input)
            .map_err(|error| malformed(&format!("cannot be read: {error}")))?;
        if input.len() > MAX_INPUT {
            return Err(malformed(&format!("is longer than {MAX_INPUT} bytes")));
        }
        if read == 0 || input.get(before..) == Some(b"\n") {
            return Ok(input);
        }
    }
    Err(malformed(&format!("has more than {MAX_LINES} lines")))
}

fn lines(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// `None`: git says that it has none, which is as good as not saying it.
fn text<'v>(key: &str, value: &'v [u8]) -> Result<Option<&'v str>, Failure> {
    let text = std::str::from_utf8(value).map_err(|_position| malformed(&format!("has a {key} that is not UTF-8")))?;
    if text.contains(char::is_control) {
        return Err(malformed(&format!("has a {key} with control characters")));
    }
    Ok((!text.is_empty()).then_some(text))
}

fn malformed(problem: &str) -> Failure {
    Failure::bad_data(format!(
        "what git asks {problem}; give git's credential lines on standard input, such as protocol=https and host=github.com"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(input: &[u8]) -> Result<[String; 4], Failure> {
        let request = Request::read(input)?;
        let password = request.password.map(|password| password.expose_secret().to_owned());
        let all = [request.protocol, request.host, request.username, password];
        Ok(all.map(|value| value.unwrap_or_else(|| "-".to_owned())))
    }

    #[test]
    fn lines_are_read_up_to_an_empty_one_or_the_end() {
        let table: &[(&[u8], [&str; 4])] = &[
            (b"", ["-", "-", "-", "-"]),
            (b"\n", ["-", "-", "-", "-"]),
            (b"protocol=https\nhost=a.example\n\n", ["https", "a.example", "-", "-"]),
            (b"protocol=https\nhost=a.example\n", ["https", "a.example", "-", "-"]),
            (b"protocol=https\nhost=a.example", ["https", "a.example", "-", "-"]),
            (b"host=a.example:8443\nprotocol=HTTPS\n", ["https", "a.example:8443", "-", "-"]),
            (b"\nhost=a.example\n", ["-", "-", "-", "-"]),
            (b"host=a\n\nhost=b\n\xff\0", ["-", "a", "-", "-"]),
            (b"host=a\nhost=b\n", ["-", "b", "-", "-"]),
            (b"host=a\nhost=\n", ["-", "-", "-", "-"]),
            (b"username=alice\npassword==a=b= \n", ["-", "-", "alice", "=a=b= "]),
            (b"username=\xc3\xbc\n", ["-", "-", "\u{fc}", "-"]),
            // What is not known, or has no part in the answer.
            (
                b"capability[]=authtype\nwwwauth[]=Basic realm=\"a\tb\"\nwwwauth[]=\xff\nstate[]=x.y=z\nurl=https://b\npath=\xff\t/x\nHost=b\n=\nhost=a\n",
                ["-", "a", "-", "-"],
            ),
        ];
        for (input, want) in table {
            assert_eq!(&read(input).unwrap(), want, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_request_is_refused_without_quoting_it() {
        let table: &[(&[u8], &str)] = &[
            (b"hunter2\n", "a line without an equals sign"),
            (b"host=a\nhunter2", "a line without an equals sign"),
            (b"password=hunter2\0\n", "a NUL"),
            (b"wwwauth[]=hunter2\0\n", "a NUL"),
            (b"password=hunter2\r\n", "a password with control characters"),
            (b"host=hunter2\r\n", "a host with control characters"),
            (b"host=hunter2\x1b[1m\n", "a host with control characters"),
            (b"protocol=hunter2\t\n", "a protocol with control characters"),
            (b"username=hunter2\xc2\x85\n", "a username with control characters"),
            (b"host=hunter2\xff\n", "a host that is not UTF-8"),
            (b"password=hunter2\xff\n", "a password that is not UTF-8"),
        ];
        for (input, problem) in table {
            let failure = read(input).unwrap_err();
            assert_eq!(failure.exit_code(), 65);
            assert!(failure.message().contains(problem), "{}", failure.message());
            assert!(!failure.message().contains("hunter2"), "{}", failure.message());
        }
    }

    #[test]
    fn size_and_lines_are_bounded() {
        let sized = |bytes: usize| [b"host=a\npath=", "x".repeat(bytes - 13).as_bytes(), b"\n"].concat();
        let lined = |lines: usize| "host=a\n".repeat(lines).into_bytes();
        assert_eq!(sized(MAX_INPUT).len(), MAX_INPUT);
        for fits in [sized(MAX_INPUT), lined(MAX_LINES)] {
            assert_eq!(read(&fits).unwrap()[1], "a");
        }
        for (over, problem) in [
            (sized(MAX_INPUT + 1), "longer than 262144 bytes"),
            (vec![b'x'; MAX_INPUT + 1], "longer than 262144 bytes"),
            (lined(MAX_LINES + 1), "more than 1000 lines"),
        ] {
            let failure = read(&over).unwrap_err();
            assert!(failure.message().contains(problem), "{}", failure.message());
        }
        // What never ends is not read for ever.
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        assert_eq!(Request::read(endless).err().unwrap().exit_code(), 65);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_refused(
            input in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..20),
                    "(protocol|host|username|password|x)=.{0,10}\n".prop_map(String::into_bytes),
                ],
                0..8,
            )
        ) {
            match read(&input.concat()) {
                Ok(values) => prop_assert!(values.iter().all(|value| !value.contains(char::is_control))),
                Err(failure) => prop_assert_eq!(failure.exit_code(), 65),
            }
        }
    }
}
