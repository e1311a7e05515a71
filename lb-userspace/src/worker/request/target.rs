//! Whom and what a request asks for: host, path and query, however the target is written (RFC 9112 §3.2). Pure.

use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri, Version};

use crate::reason::Reason;

/// Reads the target, makes `Host` agree with it, and returns what goes into the request line for the backend.
///
/// # Errors
/// The reason of the answer, where the target or `Host` is missing, ambiguous or not for us.
pub fn normalise(parts: &mut Parts) -> Result<Uri, Reason> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        return Err(Reason::MethodNotAllowed);
    }
    check_host_lines(parts)?;
    if let Some(authority) = parts.uri.authority() {
        // RFC 9112 §3.2.2: the target of an absolute-form request counts, not its Host.
        if !matches!(parts.uri.scheme_str(), Some("http" | "https")) || authority.as_str().contains('@') {
            return Err(Reason::BadRequest);
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::BadRequest)?;
        parts.headers.insert(HOST, host);
    }
    let target = match parts.uri.path_and_query() {
        // RFC 9112 §3.2.4: OPTIONS for a whole server, asked through a proxy.
        Some(target) if parts.method == Method::OPTIONS && is_empty_absolute(&parts.uri, target) => {
            PathAndQuery::from_static("*")
        }
        Some(target) if target.path() == "*" && parts.method != Method::OPTIONS => {
            return Err(Reason::BadRequest);
        }
        Some(target) if target.path() == "*" || target.path().starts_with('/') => target.clone(),
        _ => return Err(Reason::BadRequest),
    };
    Ok(Uri::from(target))
}

fn is_empty_absolute(uri: &Uri, target: &PathAndQuery) -> bool {
    uri.authority().is_some() && target.as_str() == "/"
}

fn check_host_lines(parts: &Parts) -> Result<(), Reason> {
    let mut lines = parts.headers.get_all(HOST).iter();
    match (lines.next(), lines.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (None, None) if parts.version < Version::HTTP_11 => Ok(()),
        _ => Err(Reason::BadRequest),
    }
}

/// Whether `host` has only characters that `uri-host [ ":" port ]` may have. Which of them make sense together does not
/// matter: what matches no route is refused.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(byte))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn check(method: &str, target: &str, hosts: &[&str], expect: Result<(&str, &str), Reason>) {
        let mut request = Request::builder().method(method).uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        let uri = normalise(&mut parts);
        let host = parts.headers.get(HOST).map_or("", |host| host.to_str().unwrap());
        assert_eq!(
            uri.as_ref().map(|uri| (uri.to_string(), host)).map_err(|reason| *reason),
            expect.map(|(target, host)| (target.to_string(), host)),
            "{method} {target} {hosts:?}"
        );
    }

    #[test]
    fn target_and_host_are_read_as_the_rfc_says() {
        check("GET", "/a?b=c", &["h"], Ok(("/a?b=c", "h")));
        check("GET", "http://x:81/a?b", &["h"], Ok(("/a?b", "x:81")));
        check("OPTIONS", "*", &["h"], Ok(("*", "h")));
        check("OPTIONS", "http://x", &["h"], Ok(("*", "x")));
        check("GET", "http://x", &["h"], Ok(("/", "x")));
    }

    #[test]
    fn ambiguous_or_foreign_targets_are_refused() {
        check("GET", "/", &[], Err(Reason::BadRequest));
        check("GET", "/", &["a", "b"], Err(Reason::BadRequest));
        check("GET", "/", &["a b"], Err(Reason::BadRequest));
        check("GET", "/", &["a,b"], Err(Reason::BadRequest));
        check("GET", "*", &["h"], Err(Reason::BadRequest));
        check("GET", "ftp://x/", &["h"], Err(Reason::BadRequest));
        check("GET", "http://u@x/", &["h"], Err(Reason::BadRequest));
        check("CONNECT", "x:1", &["h"], Err(Reason::MethodNotAllowed));
        check("TRACE", "/", &["h"], Err(Reason::MethodNotAllowed));
    }
}
