//! The head of a backend's answer, read strictly: a length that two parsers could read differently is never passed on.
//!
//! hyper decodes the body by `Transfer-Encoding` and leaves a `Content-Length` beside it in the map; its server then writes
//! that one as it is, and what follows of the body would be the client's next answer. Pure.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Version, response};

/// Checks how the body is framed (RFC 9112 §6.3). Afterwards there is at most one line of `Content-Length`, digits only: the length
/// of the body, or what HEAD and 304 say of it.
///
/// # Errors
/// What is wrong.
pub fn check_framing(head: &mut response::Parts) -> Result<(), &'static str> {
    let codings = head.headers.get_all(TRANSFER_ENCODING);
    let mut codings = codings.iter().map(|line| line.as_bytes().trim_ascii());
    match (codings.next(), codings.next()) {
        (None, _) => check_length(&mut head.headers),
        // hyper would pass any other coding on as if there were none.
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
            if head.version < Version::HTTP_11 {
                return Err("transfer-encoding in HTTP/1.0");
            }
            if head.headers.contains_key(CONTENT_LENGTH) {
                return Err("both content-length and transfer-encoding");
            }
            Ok(())
        }
        _ => Err("transfer-encoding other than chunked"),
    }
}

/// The same length several times is one (RFC 9112 §6.3), and written as one.
fn check_length(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return Ok(()) };
    if lines.next().is_none() && is_plain_number(first.as_bytes()) {
        return Ok(());
    }
    let length = common_length(headers).ok_or("content-length is not one number")?;
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(())
}

/// Digits without leading zeros, which some would read as octal, and not too many for 64 bits.
fn is_plain_number(text: &[u8]) -> bool {
    (text == b"0" || matches!(text, [b'1'..=b'9', ..]))
        && text.len() < 20
        && text.iter().all(u8::is_ascii_digit)
}

/// What all elements of all lines agree on.
fn common_length(headers: &HeaderMap) -> Option<u64> {
    let elements = headers.get_all(CONTENT_LENGTH).iter().flat_map(|line| {
        line.as_bytes().split(|&byte| byte == b',').map(|element| number(element.trim_ascii()))
    });
    elements.reduce(|one, other| if one == other { one } else { None }).flatten()
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    /// The Content-Length that is left.
    fn check(version: Version, lines: &[(&str, &str)], expect: Result<Option<&str>, ()>) {
        let mut response = Response::builder().version(version);
        for (name, value) in lines {
            response = response.header(*name, *value);
        }
        let mut head = response.body(()).unwrap().into_parts().0;
        let checked = check_framing(&mut head).map_err(drop);
        let left: Vec<&str> =
            head.headers.get_all(CONTENT_LENGTH).iter().map(|line| line.to_str().unwrap()).collect();
        assert_eq!(checked.map(|()| left), expect.map(Vec::from_iter), "{lines:?}");
    }

    #[test]
    fn one_length_is_left() {
        let check = |lines: &[&str], expect| {
            let lines: Vec<_> = lines.iter().map(|value| ("content-length", *value)).collect();
            check(Version::HTTP_11, &lines, expect);
        };
        check(&[], Ok(None));
        check(&["5"], Ok(Some("5")));
        check(&["0"], Ok(Some("0")));
        check(&["5, 5"], Ok(Some("5")));
        check(&["5", "5"], Ok(Some("5")));
        check(&["005"], Ok(Some("5")));
        check(&["18446744073709551615"], Ok(Some("18446744073709551615")));
        for wrong in ["", "+5", "5, 6", "5,", "0x5", "5 5", "18446744073709551616", "99999999999999999999999"]
        {
            check(&[wrong], Err(()));
        }
        check(&["5", "6"], Err(()));
    }

    #[test]
    fn chunked_is_the_only_coding_and_stands_alone() {
        let coding = |value| ("transfer-encoding", value);
        check(Version::HTTP_11, &[coding("Chunked")], Ok(None));
        for wrong in ["gzip", "gzip, chunked", "chunked, chunked", "identity", "", "xchunked"] {
            check(Version::HTTP_11, &[coding(wrong)], Err(()));
        }
        check(Version::HTTP_11, &[coding("chunked"), coding("chunked")], Err(()));
        check(Version::HTTP_11, &[coding("chunked"), ("content-length", "5")], Err(()));
        check(Version::HTTP_10, &[coding("chunked")], Err(()));
    }
}
