//! Ways to make two parsers disagree, from the RFCs and from published attacks, each with our verdict.

use super::*;

const GOOD: Option<Reason> = None;
const BAD: Option<Reason> = Some(Reason::BadRequest);
const URI: Option<Reason> = Some(Reason::UriTooLong);
const LARGE: Option<Reason> = Some(Reason::HeadersTooLarge);
const UNSUPPORTED: Option<Reason> = Some(Reason::NotImplemented);
const VERSION: Option<Reason> = Some(Reason::VersionNotSupported);

fn reason(stream: &[u8]) -> Option<Reason> {
    match judge(stream).1 {
        Some(Pause::BadHead(reason) | Pause::BadBody(reason)) => Some(reason),
        _ => None,
    }
}

fn check(name: &str, stream: &[u8], expect: Option<Reason>) {
    assert_eq!(reason(stream), expect, "{name}: {}", stream.escape_ascii());
}

#[test]
fn heads_are_judged() {
    // `lines` stands after a good POST request line and Host.
    let cases: &[(&str, &[u8], Option<Reason>)] = &[
        ("F1 length and chunked", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", BAD),
        ("F1 chunked and length", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", BAD),
        ("F1 chunked and zero length", b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", BAD),
        ("F1 other coding and length", b"Transfer-Encoding: gzip, chunked\r\nContent-Length: 5\r\n", BAD),
        ("F2 two lengths", b"Content-Length: 5\r\nContent-Length: 6\r\n", BAD),
        ("F2 list of lengths", b"Content-Length: 5, 6\r\n", BAD),
        ("F3 repeated length", b"Content-Length: 0\r\nContent-Length: 0\r\n", BAD),
        ("F3 list of equal lengths", b"Content-Length: 0, 0\r\n", BAD),
        ("F4 plus", b"Content-Length: +5\r\n", BAD),
        ("F4 minus", b"Content-Length: -5\r\n", BAD),
        ("F4 hex", b"Content-Length: 0x5\r\n", BAD),
        ("F4 space within", b"Content-Length: 1 0\r\n", BAD),
        ("F4 underscore", b"Content-Length: 1_0\r\n", BAD),
        ("F4 fraction", b"Content-Length: 5.0\r\n", BAD),
        ("F4 empty", b"Content-Length:\r\n", BAD),
        ("F4 overflow of 64 bits", b"Content-Length: 18446744073709551621\r\n", BAD),
        ("F4 overflow of 63 bits", b"Content-Length: 9223372036854775808\r\n", BAD),
        ("F4 octal look", b"Content-Length: 010\r\n", BAD),
        ("F4 quoted", b"Content-Length: \"5\"\r\n", BAD),
        ("F4 vertical tab", b"Content-Length: \x0b0\r\n", BAD),
        ("F4 look-alike name", b"Content_Length: 5\r\n", BAD),
        ("F4 tab around", b"Content-Length:\t0\t\r\n", GOOD),
        ("F5 gzip", b"Transfer-Encoding: gzip\r\n", BAD),
        ("F5 chunked not last", b"Transfer-Encoding: chunked, gzip\r\n", BAD),
        ("F6 gzip and chunked", b"Transfer-Encoding: gzip, chunked\r\n", UNSUPPORTED),
        ("F6 chunked twice", b"Transfer-Encoding: chunked, chunked\r\n", BAD),
        ("F6 identity", b"Transfer-Encoding: identity\r\n", BAD),
        ("F6 identity and chunked", b"Transfer-Encoding: identity, chunked\r\n", BAD),
        ("F7 prefix", b"Transfer-Encoding: xchunked\r\n", BAD),
        ("F7 suffix", b"Transfer-Encoding: chunkedx\r\n", BAD),
        ("F7 vertical tab", b"Transfer-Encoding: chunked\x0b\r\n", BAD),
        ("F7 form feed", b"Transfer-Encoding:\x0cchunked\r\n", BAD),
        ("F7 folded", b"Transfer-Encoding:\r\n chunked\r\n", BAD),
        ("F7 two lines", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", BAD),
        ("F7 second line differs", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", BAD),
        ("F7 quoted", b"Transfer-Encoding: \"chunked\"\r\n", BAD),
        ("F7 parameter", b"Transfer-Encoding: chunked;q=1\r\n", BAD),
        ("F7 leading comma", b"Transfer-Encoding: ,chunked\r\n", BAD),
        ("F7 trailing comma", b"Transfer-Encoding: chunked,\r\n", BAD),
        ("F7 empty", b"Transfer-Encoding:\r\n", BAD),
        ("F7 byte above ASCII", b"Transfer-Encoding: chunked\xff\r\n", BAD),
        ("F7 look-alike name", b"Transfer_Encoding: chunked\r\n", BAD),
        ("F13 bare CR in a value", b"X: a\rb\r\n", BAD),
        ("F13 bare CR hides a field", b"X: a\rContent-Length: 5\r\n", BAD),
        ("F13 CR CR LF", b"X: a\r\r\n", BAD),
        ("F14 bare LF", b"X: a\n", BAD),
        ("F14 bare LF hides a field", b"X: a\nContent-Length: 5\r\n", BAD),
        ("F15 space before colon", b"Content-Length : 5\r\n", BAD),
        ("F15 tab before colon", b"Content-Length\t: 5\r\n", BAD),
        ("F16 folded by space", b"X: a\r\n b\r\n", BAD),
        ("F16 folded by tab", b"X: a\r\n\tb\r\n", BAD),
        ("F17 NUL in a value", b"X: a\0b\r\n", BAD),
        ("F17 DEL in a value", b"X: a\x7fb\r\n", BAD),
        ("F17 escape in a value", b"X: a\x1bb\r\n", BAD),
        ("F17 NUL in a name", b"X\0: a\r\n", BAD),
        ("F17 empty name", b": a\r\n", BAD),
        ("F17 name in brackets", b"(X): a\r\n", BAD),
        ("F17 name above ASCII", b"X\xe9: a\r\n", BAD),
        ("F17 no colon", b"Content-Length\r\n", BAD),
        ("F17 byte above ASCII in a value", b"X: \xe9\r\n", GOOD),
        ("T1 two Hosts", b"Host: a\r\n", BAD),
        ("T1 other second Host", b"Host: b\r\n", BAD),
        ("H1 Connection takes Host away", b"Connection: close, Host\r\n", BAD),
        ("H1 Connection takes a length away", b"Connection: Content-Length\r\n", BAD),
        ("H1 Connection takes credentials away", b"Connection: authorization\r\n", BAD),
        ("H1 Connection takes the client's address away", b"Connection: X-Forwarded-For\r\n", BAD),
        ("H1 Connection takes Transfer-Encoding away", b"Connection: Transfer-Encoding\r\n", BAD),
        ("H1 Connection takes another field away", b"Connection: X-Own\r\nX-Own: a\r\n", GOOD),
        (
            "H4 websocket by POST is no upgrade",
            b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n",
            GOOD,
        ),
        ("H5 h2c", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", GOOD),
        ("H6 expectation", b"Expect: 100-continue\r\nContent-Length: 0\r\n", GOOD),
        ("no value", b"X:\r\n", GOOD),
        ("no space after colon", b"X:a\r\n", GOOD),
    ];
    for (name, lines, expect) in cases {
        let head = [b"POST / HTTP/1.1\r\nHost: a\r\n", *lines, b"\r\n"].concat();
        check(name, &head, *expect);
    }
}

#[test]
fn request_lines_are_judged() {
    let cases: &[(&str, &[u8], Option<Reason>)] = &[
        ("plain", b"GET /a/b;c=d?e=f HTTP/1.1", GOOD),
        ("F23 version 1.2", b"GET / HTTP/1.2", VERSION),
        ("F23 version 2.0", b"GET / HTTP/2.0", VERSION),
        ("F23 version 0.9", b"GET / HTTP/0.9", VERSION),
        ("F23 version 11", b"GET / HTTP/11", BAD),
        ("F23 version 1.10", b"GET / HTTP/1.10", BAD),
        ("F23 version with zero", b"GET / HTTP/01.1", BAD),
        ("F23 lower case", b"GET / http/1.1", BAD),
        ("F23 no version", b"GET /", BAD),
        ("F23 other protocol", b"GET / ICY/1.1", BAD),
        ("F23 HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n", VERSION),
        ("F24 two spaces", b"GET  / HTTP/1.1", BAD),
        ("F24 tab", b"GET\t/ HTTP/1.1", BAD),
        ("F24 space at the end", b"GET / HTTP/1.1 ", BAD),
        ("F24 space before the version", b"GET /  HTTP/1.1", BAD),
        ("F24 leading space", b" GET / HTTP/1.1", BAD),
        ("F24 space within the target", b"GET /a b HTTP/1.1", BAD),
        ("F22 one blank line before", b"\r\nGET / HTTP/1.1", GOOD),
        ("F22 two blank lines before", b"\r\n\r\nGET / HTTP/1.1", BAD),
        ("F22 bare LF before", b"\nGET / HTTP/1.1", BAD),
        ("F13 CR in the target", b"GET /\rX HTTP/1.1", BAD),
        ("method with a bracket", b"G(T / HTTP/1.1", BAD),
        ("no method", b" / HTTP/1.1", BAD),
        ("method of our own", b"PURGE / HTTP/1.1", GOOD),
        ("TRACE is for the handler", b"TRACE / HTTP/1.1", GOOD),
        ("CONNECT is for the handler", b"CONNECT a:443 HTTP/1.1", GOOD),
        ("T3 CONNECT without port", b"CONNECT a HTTP/1.1", BAD),
        ("T3 CONNECT with a path", b"CONNECT / HTTP/1.1", BAD),
        ("T3 authority for GET", b"GET a:80 HTTP/1.1", BAD),
        ("T3 authority without port", b"GET a HTTP/1.1", BAD),
        ("T3 asterisk for GET", b"GET * HTTP/1.1", BAD),
        ("T3 asterisk for OPTIONS", b"OPTIONS * HTTP/1.1", GOOD),
        ("T2 absolute", b"GET http://b:80/x HTTP/1.1", GOOD),
        ("T2 absolute without path", b"GET http://b HTTP/1.1", GOOD),
        ("T2 absolute with query only", b"GET http://b?x HTTP/1.1", GOOD),
        ("T2 absolute, other scheme", b"GET ftp://b/ HTTP/1.1", BAD),
        ("T2 absolute without authority", b"GET http:///x HTTP/1.1", BAD),
        ("T5 user information", b"GET http://u:p@b/ HTTP/1.1", BAD),
        ("T5 user information hides the host", b"GET http://a@b/ HTTP/1.1", BAD),
        ("T5 fragment", b"GET /a#b HTTP/1.1", BAD),
        ("T5 backslash", b"GET /a\\b HTTP/1.1", BAD),
        ("T5 NUL", b"GET /a\0b HTTP/1.1", BAD),
        ("T5 encoded NUL", b"GET /a%00b HTTP/1.1", BAD),
        ("T5 half an escape", b"GET /a%4 HTTP/1.1", BAD),
        ("T5 no hex", b"GET /a%zz HTTP/1.1", BAD),
        ("T5 stray percent in the query", b"GET /a?b=100% HTTP/1.1", GOOD),
        ("T5 above ASCII", b"GET /\xc3\xa9 HTTP/1.1", BAD),
        ("T5 dots are for routing", b"GET /a/../b HTTP/1.1", GOOD),
        ("relative", b"GET a/b HTTP/1.1", BAD),
        ("braces and bars as browsers send them", b"GET /a{b}|c?d=[e] HTTP/1.1", GOOD),
        ("TLS handshake", b"\x16\x03\x01\x02\x00\x01", BAD),
    ];
    for (name, line, expect) in cases {
        check(name, &[*line, b"\r\nHost: a\r\n\r\n"].concat(), *expect);
    }
    check("F21 long target", format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000)).as_bytes(), URI);
    check("F21 long target without end", format!("GET /{}", "a".repeat(9000)).as_bytes(), URI);
    check(
        "F21 long head without end",
        format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(40_000)).as_bytes(),
        LARGE,
    );
}

#[test]
fn hosts_are_judged() {
    let cases: &[(&str, Option<Reason>)] = &[
        ("a", GOOD),
        ("a.example.com:80", GOOD),
        ("a.example.com.", GOOD),
        ("192.0.2.1:80", GOOD),
        ("[2001:db8::1]", GOOD),
        ("[2001:db8::1]:443", GOOD),
        ("a_b.example", GOOD),
        ("xn--bcher-kva.example", GOOD),
        ("a:", GOOD),
        ("", BAD),
        (":80", BAD),
        ("a b", BAD),
        ("a,b", BAD),
        ("a/b", BAD),
        ("a?b", BAD),
        ("a#b", BAD),
        ("a@b", BAD),
        ("a\\b", BAD),
        ("u:p@a", BAD),
        ("a:b", BAD),
        ("a:80:80", BAD),
        ("a:65536", BAD),
        ("a:+80", BAD),
        ("a:-1", BAD),
        ("a:000080", BAD),
        ("::1", BAD),
        ("[::1", BAD),
        ("::1]", BAD),
        ("[a]", BAD),
        ("[::1]a", BAD),
        ("[fe80::1%eth0]", BAD),
        ("a%00", BAD),
        ("a<b", BAD),
        ("a\"", BAD),
        ("[]", BAD),
    ];
    for (host, expect) in cases {
        check("1.1", format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), *expect);
        check("1.0", format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes(), *expect);
        check(
            "absolute",
            format!("GET http://{host}/ HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
            match *host {
                // There the character ends the authority.
                "a/b" | "a?b" => GOOD,
                _ => *expect,
            },
        );
    }
    check("T1 no Host", b"GET / HTTP/1.1\r\n\r\n", BAD);
    check("T1 no Host in absolute form", b"GET http://a/ HTTP/1.1\r\n\r\n", BAD);
    check("T1 no Host before it was required", b"GET / HTTP/1.0\r\n\r\n", GOOD);
    check("T1 two Hosts before it was required", b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", BAD);
}

#[test]
fn requests_that_must_not_have_a_body_are_judged() {
    let head = |method: &str, version: &str, lines: &str| {
        format!("{method} HTTP/{version}\r\nHost: a\r\n{lines}\r\n")
    };
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    check("F8 chunked in 1.0", head("POST /", "1.0", "Transfer-Encoding: chunked\r\n").as_bytes(), BAD);
    check("H4 upgrade", head("GET /", "1.1", upgrade).as_bytes(), GOOD);
    check(
        "H4 upgrade with length",
        head("GET /", "1.1", &format!("{upgrade}Content-Length: 5\r\n")).as_bytes(),
        BAD,
    );
    check(
        "H4 upgrade with chunks",
        head("GET /", "1.1", &format!("{upgrade}Transfer-Encoding: chunked\r\n")).as_bytes(),
        BAD,
    );
    check(
        "H4 upgrade with no bytes",
        head("GET /", "1.1", &format!("{upgrade}Content-Length: 0\r\n")).as_bytes(),
        GOOD,
    );
    check("CONNECT with a body", head("CONNECT a:1", "1.1", "Content-Length: 5\r\n").as_bytes(), BAD);
    check("F18 GET with a body", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", GOOD);
    check(
        "F20 second request is judged",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost:\r\n\r\n",
        BAD,
    );
    check(
        "F20 bytes after a body are a head",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx\x01",
        BAD,
    );
}

#[test]
fn chunked_bodies_are_judged() {
    let cases: &[(&str, &[u8], Option<Reason>)] = &[
        ("plain", b"5\r\nhello\r\n0\r\n\r\n", GOOD),
        ("upper and lower case hex", b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", GOOD),
        ("leading zeros within bounds", b"0000000000000005\r\nhello\r\n0\r\n\r\n", GOOD),
        ("F9 seventeen digits", b"00000000000000005\r\nhello\r\n0\r\n\r\n", BAD),
        ("F9 64 bits", b"ffffffffffffffff\r\n", BAD),
        ("F9 64 bits and more", b"10000000000000005\r\n", BAD),
        ("F9 no hex", b"g\r\n", BAD),
        ("F9 0x", b"0x5\r\nhello\r\n", BAD),
        ("F9 plus", b"+5\r\nhello\r\n", BAD),
        ("F9 minus", b"-5\r\nhello\r\n", BAD),
        ("F9 underscore", b"5_\r\nhello\r\n", BAD),
        ("F9 empty size", b"\r\nhello\r\n", BAD),
        ("F9 leading space", b" 5\r\nhello\r\n", BAD),
        ("F9 space after the size", b"5 \r\nhello\r\n", BAD),
        ("F9 comma", b"5,\r\nhello\r\n", BAD),
        ("F10 extension", b"5;a=b\r\nhello\r\n0;c\r\n\r\n", GOOD),
        ("F10 quoted extension", b"5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", GOOD),
        ("F10 space before an extension", b"5 ;a\r\nhello\r\n0\r\n\r\n", GOOD),
        ("F10 bare LF in an extension", b"5;a\nhello\r\n0\r\n\r\n", BAD),
        ("F10 bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n", BAD),
        ("F10 NUL in an extension", b"5;a\0\r\nhello\r\n0\r\n\r\n", BAD),
        ("F11 bare LF after the size", b"5\nhello\r\n0\r\n\r\n", BAD),
        ("F11 CR X after the size", b"5\rXhello\r\n0\r\n\r\n", BAD),
        ("F11 bare LF after data", b"5\r\nhello\n0\r\n\r\n", BAD),
        ("F11 no end of data", b"5\r\nhello0\r\n\r\n", BAD),
        ("F11 two bytes of anything after data", b"5\r\nhelloXX0\r\n\r\n", BAD),
        ("F11 data longer than the size", b"3\r\nhello\r\n0\r\n\r\n", BAD),
        ("F11 bare LF at the end", b"0\r\n\n", BAD),
        ("F12 trailer", b"0\r\nX-Checksum: 1\r\n\r\n", GOOD),
        ("F12 trailer sets a length", b"0\r\nContent-Length: 5\r\n\r\n", BAD),
        ("F12 trailer sets a coding", b"0\r\nTransfer-Encoding: chunked\r\n\r\n", BAD),
        ("F12 trailer sets Host", b"0\r\nHost: b\r\n\r\n", BAD),
        ("F12 trailer sets credentials", b"0\r\nAuthorization: Basic x\r\n\r\n", BAD),
        ("F12 trailer sets the client's address", b"0\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", BAD),
        ("F12 folded trailer", b"0\r\nX: a\r\n b\r\n\r\n", BAD),
        ("F12 space before colon in a trailer", b"0\r\nX : a\r\n\r\n", BAD),
        ("F12 request in the trailers", b"0\r\nGET / HTTP/1.1\r\n\r\n", BAD),
        ("F12 bare LF in a trailer", b"0\r\nX: a\n\r\n", BAD),
    ];
    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (name, body, expect) in cases {
        check(name, &[HEAD, *body].concat(), *expect);
    }
    let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(4096));
    check("F10 long extension", &[HEAD, long_extension.as_bytes()].concat(), BAD);
    let extensions = "1;aaaaaaa\r\nx\r\n".repeat(1000);
    check("F10 many extensions", &[HEAD, extensions.as_bytes()].concat(), BAD);
    let long_trailer = format!("0\r\nX: {}\r\n\r\n", "a".repeat(16 * 1024));
    check("F12 long trailers", &[HEAD, long_trailer.as_bytes()].concat(), LARGE);
    check("F12 long trailers without end", &[HEAD, &long_trailer.as_bytes()[..16_387 + 3]].concat(), LARGE);
    let many_trailers = format!("0\r\n{}\r\n", "X: a\r\n".repeat(101));
    check("F12 many trailers", &[HEAD, many_trailers.as_bytes()].concat(), LARGE);
}
