//! How the path of a request is compared with the paths of routes, and how else it could be read. Pure.
//!
//! Backends get the path as the client wrote it, and each reads it in its own way. Where another way than ours leads to another
//! route, a client could reach through one route what the operator meant to be reached through the other only.

use std::borrow::Cow;
use std::fmt::Write;

/// Separators that some decode before they split the path, as [`decoded`] writes them.
const SEPARATORS: [(&str, &str); 3] = [("%2F", "/"), ("%5C", "/"), ("%3B", ";")];

/// `path` as routes are compared with: percent-encoded characters decoded but for separators, `;` and what follows it in a segment
/// left out, empty segments left out, dot segments resolved.
pub fn ours(path: &str) -> Cow<'_, str> {
    if is_plain(path) { Cow::Borrowed(path) } else { Cow::Owned(resolved(&decoded(path), Dots::Merged)) }
}

/// What others may make of `path`; empty where everybody reads it like us. With dot segments: who resolves them by the letter of RFC 3986,
/// where `..` takes back an empty segment too, and who does not resolve them. With an encoded separator: who decodes it first.
pub fn other_readings(path: &str) -> Vec<String> {
    let mut readings = Vec::new();
    if is_plain(path) {
        return readings;
    }
    let text = decoded(path);
    let split = SEPARATORS.iter().fold(text.clone(), |text, (encoded, plain)| text.replace(encoded, plain));
    if split != text {
        readings.push(resolved(&split, Dots::Merged));
    }
    for text in [text, split] {
        if segments(&text).any(is_dots) {
            readings.extend([resolved(&text, Dots::AsWritten), resolved(&text, Dots::Kept)]);
        }
    }
    readings
}

/// Whether there is nothing in it that anybody could read in another way.
fn is_plain(path: &str) -> bool {
    let mut before = b' ';
    path.bytes().all(|byte| {
        let is_plain = !matches!((before, byte), (_, b'%' | b';') | (b'/', b'/' | b'.'));
        before = byte;
        is_plain
    })
}

/// What is done with dot segments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dots {
    /// Resolved after empty segments are gone, as most servers do.
    Merged,
    /// Resolved by RFC 3986 §5.2.4.
    AsWritten,
    /// They are names like others.
    Kept,
}

fn resolved(text: &str, dots: Dots) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut is_folder = false;
    for segment in segments(text).skip(1) {
        is_folder = segment.is_empty() || (is_dots(segment) && dots != Dots::Kept);
        match segment {
            "." if dots != Dots::Kept => {}
            ".." if dots != Dots::Kept => drop(kept.pop()),
            "" if dots != Dots::AsWritten => {}
            _ => kept.push(segment),
        }
    }
    let mut path = String::with_capacity(text.len());
    for segment in kept.iter().filter(|segment| !segment.is_empty()) {
        path.push('/');
        path.push_str(segment);
    }
    if is_folder || path.is_empty() {
        path.push('/');
    }
    path
}

/// The segments without their parameters; the first one is what stands before the first `/`.
fn segments(text: &str) -> impl Iterator<Item = &str> {
    text.split('/').map(|segment| segment.split(';').next().unwrap_or_default())
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// Every percent-encoded character decoded that is one of visible ASCII and no delimiter of URIs; the others in upper case.
fn decoded(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(percent) = rest.find('%') {
        decoded.push_str(&rest[..percent]);
        let hex =
            rest.get(percent + 1..percent + 3).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            decoded.push('%');
            rest = &rest[percent + 1..];
            continue;
        };
        if byte.is_ascii_graphic() && !b"/\\;%?#".contains(&byte) {
            decoded.push(char::from(byte));
        } else {
            write!(decoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
        rest = &rest[percent + 3..];
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_what_most_servers_make_of_it() {
        let check = |path: &str, expect: &str| assert_eq!(ours(path), expect, "{path}");
        check("/a/b/c/./../../g", "/a/g");
        check("/a/b/", "/a/b/");
        check("/a//b", "/a/b");
        check("/a/b/..", "/a/");
        check("/a%2fb%3f", "/a%2Fb%3F");
        check("/%7Euser%2D%28x", "/~user-(x");
        check("/..", "/");
        check("/%25%32%65", "/%252e");
        check("/.hidden", "/.hidden");
        check("/...", "/...");
        check("/caf%c3%a9", "/caf%C3%A9");
        check("/a;v=1/b;w", "/a/b");
        check("/a/;x", "/a/");
        check("/;", "/");
        check("/..;/a", "/a");
        check("/%2e%2E;x/a", "/a");
        check("/a%", "/a%");
        check("/%+1", "/%+1");
    }

    #[test]
    fn ordinary_paths_are_read_alike_by_all() {
        for path in
            ["/", "/a/b/", "/a//b", "/a;v=1/b", "/%7Euser", "/.well-known/x", "/caf%c3%a9", "/a%20b", "*"]
        {
            assert_eq!(other_readings(path), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn others_read_dots_and_separators_in_their_way() {
        let check = |path: &str, expect: &[&str]| {
            let mut readings = other_readings(path);
            readings.sort();
            readings.dedup();
            assert_eq!(readings, expect, "{path}");
        };
        check("/a/../b", &["/a/../b", "/b"]);
        check("/a//../b", &["/a/../b", "/a/b"]);
        check("/a%2fb", &["/a/b"]);
        check("/a%3bb/c", &["/a/c"]);
        check("/a/..%5cb", &["/a/../b", "/b"]);
    }

    proptest::proptest! {
        #[test]
        fn readings_are_absolute_and_stay_as_they_are(
            path in "(/(\\.|\\.\\.|%2[eEfF]|%|;|%3b|%5C|[a-zé]{0,3}|%41){0,3}){0,8}",
        ) {
            let once = ours(&path).into_owned();
            proptest::prop_assert!(path.is_empty() || once.starts_with('/'));
            proptest::prop_assert!(!once.split('/').any(is_dots));
            for reading in other_readings(&path) {
                proptest::prop_assert!(reading.starts_with('/'), "{}", reading);
            }
        }
    }
}
