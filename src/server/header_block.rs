//! The size of a request's header block, as HTTP/2 counts it.

use http::Request;

use crate::broker::Error;

/// The largest header block of a request: names, values and 32 bytes for each field, as HTTP/2 counts it (RFC 9113
/// section 6.5.2).
const MAX_HEADER_BLOCK: usize = 16 * 1024;

/// Whether it is small enough.
pub(super) fn header_block<B>(request: &Request<B>) -> Result<(), Error> {
    let uri = request.uri();
    let pseudo = [
        (":method", request.method().as_str().len()),
        (":scheme", uri.scheme_str().map_or(0, str::len)),
        (
            ":authority",
            uri.authority().map_or(0, |authority| authority.as_str().len()),
        ),
        (":path", uri.path_and_query().map_or(0, |path| path.as_str().len())),
    ];
    let fields = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.len()));
    let size: usize = fields.chain(pseudo).map(|(name, value)| name.len() + value + 32).sum();
    if size > MAX_HEADER_BLOCK {
        return Err(Error::MessageTooLarge {
            what: "the header block",
            limit: MAX_HEADER_BLOCK,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_block_is_counted_as_http2_counts_it() {
        let pseudo = [
            ":method",
            "POST",
            ":scheme",
            "http",
            ":authority",
            "localhost",
            ":path",
            "/a/b",
        ];
        let pseudo = pseudo.concat().len() + 4 * 32;
        let request = |value: usize| {
            let request = Request::post("http://localhost/a/b").header("k", "v".repeat(value));
            header_block(&request.body(()).unwrap())
        };
        assert!(request(16 * 1024 - 33 - pseudo).is_ok());
        assert!(request(16 * 1024 - 32 - pseudo).is_err());
    }
}
