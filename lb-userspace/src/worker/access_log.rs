//! The access log: one record per request, as JSON or by a template.
//!
//! What clients control is escaped for the format and cut at a bound: a record is always one line.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::request::variables::Variables;
use crate::cli::spans;
use crate::config::model::{AccessFormat, AccessPart, AccessVariable};
use crate::limits::LOG_TEXT_BYTES_MAX;
use crate::reason::Reason;

/// What is known of a request when it has ended.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// Milliseconds since 1970 at its end.
    pub wall_ms: u64,
    /// Its variables.
    pub variables: &'a Variables<'a>,
    /// `HTTP/1.1` or `HTTP/1.0`, as the client has it.
    pub protocol: &'a str,
    /// The status that was sent, or that would have been sent (499).
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes_sent: u64,
    /// Bytes of the request's body.
    pub bytes_received: u64,
    /// From its head to the end of the answer.
    pub duration: Duration,
    /// From the first attempt to the backend's head; `None` where no backend answered.
    pub upstream: Option<Duration>,
    /// Why we answered ourselves, if we did.
    pub reason: Option<Reason>,
    /// Attempts at backends.
    pub attempts: u32,
    /// `User-Agent`; empty where there is none.
    pub user_agent: &'a [u8],
    /// `Referer`; empty where there is none.
    pub referer: &'a [u8],
}

/// [`AccessFormat`] made ready.
#[derive(Clone, Debug, Default)]
pub enum AccessLogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// Text and variables.
    Template(Vec<AccessPart>),
}

impl AccessLogFormat {
    /// Prepares `format`.
    pub fn new(format: &AccessFormat) -> Self {
        match format {
            AccessFormat::Json => Self::Json,
            AccessFormat::Template(parts) => Self::Template(parts.clone()),
        }
    }

    /// Appends a record with its line end to `line`.
    pub fn write(&self, record: &AccessRecord<'_>, line: &mut Vec<u8>) {
        match self {
            Self::Json => write_json_line(&JsonRecord::new(record), line),
            Self::Template(parts) => write_template(parts, record, line),
        }
    }
}

/// Appends `record` as JSON and a line end.
pub(super) fn write_json_line(record: &impl Serialize, line: &mut Vec<u8>) {
    serde_json::to_writer(&mut *line, record).expect("plain structures become JSON, and a Vec takes all");
    line.push(b'\n');
}

/// `2026-03-09T08:07:06.005Z`.
pub(super) fn iso8601(wall_ms: u64) -> String {
    let mut text = spans::wall(wall_ms).replacen(' ', "T", 1);
    text.push('Z');
    text
}

/// `text`, cut at [`LOG_TEXT_BYTES_MAX`].
pub(super) fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(LOG_TEXT_BYTES_MAX)]
}

/// Milliseconds with three decimals.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Names and order of a JSON record.
#[derive(Serialize)]
struct JsonRecord<'a> {
    time: String,
    request_id: &'a str,
    client_ip: std::net::IpAddr,
    client_port: u16,
    listener: &'a str,
    scheme: &'a str,
    host: &'a str,
    method: &'a str,
    path: &'a str,
    query: &'a str,
    protocol: &'a str,
    status: u16,
    reason: Option<&'static str>,
    bytes_received: u64,
    bytes_sent: u64,
    duration_ms: f64,
    upstream_ms: Option<f64>,
    upstream: &'a str,
    backend: &'a str,
    attempts: u32,
    user_agent: String,
    referer: String,
}

impl<'a> JsonRecord<'a> {
    fn new(record: &AccessRecord<'a>) -> Self {
        let variables = record.variables;
        Self {
            time: iso8601(record.wall_ms),
            request_id: bounded(variables.request_id),
            client_ip: variables.client_ip,
            client_port: variables.client_port,
            listener: variables.listener,
            scheme: variables.scheme,
            host: bounded(variables.host),
            method: bounded(variables.method),
            path: bounded(variables.path),
            query: bounded(variables.query),
            protocol: record.protocol,
            status: record.status,
            reason: record.reason.map(Reason::name),
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            duration_ms: milliseconds(record.duration),
            upstream_ms: record.upstream.map(milliseconds),
            upstream: variables.upstream,
            backend: variables.backend,
            attempts: record.attempts,
            user_agent: lossy(record.user_agent),
            referer: lossy(record.referer),
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(LOG_TEXT_BYTES_MAX)]).into_owned()
}

fn write_template(parts: &[AccessPart], record: &AccessRecord<'_>, line: &mut Vec<u8>) {
    let mut text = String::new();
    for part in parts {
        text.clear();
        match part {
            AccessPart::Text(text) => {
                line.extend_from_slice(text.as_bytes());
                continue;
            }
            AccessPart::Request(variable) => record.variables.write_to(*variable, &mut text),
            AccessPart::Record(AccessVariable::UserAgent) => {
                escape(record.user_agent, line);
                continue;
            }
            AccessPart::Record(AccessVariable::Referer) => {
                escape(record.referer, line);
                continue;
            }
            AccessPart::Record(field) => write_field(*field, record, &mut text),
        }
        escape(text.as_bytes(), line);
    }
    line.push(b'\n');
}

fn write_field(field: AccessVariable, record: &AccessRecord<'_>, text: &mut String) {
    let written = match field {
        AccessVariable::Status => write!(text, "{}", record.status),
        AccessVariable::BytesSent => write!(text, "{}", record.bytes_sent),
        AccessVariable::BytesReceived => write!(text, "{}", record.bytes_received),
        AccessVariable::DurationMs => write!(text, "{:.3}", milliseconds(record.duration)),
        AccessVariable::UpstreamMs => {
            record.upstream.map_or(Ok(()), |span| write!(text, "{:.3}", milliseconds(span)))
        }
        AccessVariable::Reason => write!(text, "{}", record.reason.map_or("", Reason::name)),
        AccessVariable::TimeIso8601 => write!(text, "{}", iso8601(record.wall_ms)),
        AccessVariable::Protocol => write!(text, "{}", record.protocol),
        AccessVariable::Attempts => write!(text, "{}", record.attempts),
        AccessVariable::UserAgent | AccessVariable::Referer => Ok(()),
    };
    written.expect("writing to a String cannot fail");
}

/// Appends a value: `-` for an empty one; quote, backslash and everything that is not printable ASCII as `\xHH`.
fn escape(value: &[u8], line: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if value.is_empty() {
        line.push(b'-');
    }
    for &byte in &value[..value.len().min(LOG_TEXT_BYTES_MAX)] {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => {
                line.extend([b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            _ => line.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Variable;
    use crate::config::reading::FromText;
    use crate::worker::request::variables::tests::example;

    fn record<'a>(variables: &'a Variables<'a>) -> AccessRecord<'a> {
        AccessRecord {
            wall_ms: 951_782_400_007,
            variables,
            protocol: "HTTP/1.1",
            status: 502,
            bytes_sent: 12,
            bytes_received: 3,
            duration: Duration::from_micros(1234),
            upstream: None,
            reason: Some(Reason::ConnectRefused),
            attempts: 2,
            user_agent: b"evil\" \\\r\n\xff",
            referer: b"",
        }
    }

    fn line(format: &AccessLogFormat, record: &AccessRecord<'_>) -> String {
        let mut line = Vec::new();
        format.write(record, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn json_record_is_one_line_with_every_value() {
        let variables = example();
        let line = line(&AccessLogFormat::Json, &record(&variables));
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["time"], "2000-02-29T00:00:00.007Z");
        assert_eq!(value["status"], 502);
        assert_eq!(value["reason"], "connect_refused");
        assert_eq!(value["duration_ms"], 1.234);
        assert_eq!(value["upstream_ms"], serde_json::Value::Null);
        assert_eq!(value["user_agent"], "evil\" \\\r\n\u{fffd}");
        assert_eq!(value["client_ip"], "192.0.2.7");
    }

    #[test]
    fn template_is_filled_and_escaped() {
        let variables = example();
        let check = |template: &str, expect: &str| {
            let format = AccessLogFormat::new(&AccessFormat::from_text(template).unwrap());
            assert_eq!(line(&format, &record(&variables)), format!("{expect}\n"), "{template}");
        };
        check("$client_ip \"$method $path\" $status", "192.0.2.7 \"GET /a\" 502");
        check("${status}x $time_iso8601", "502x 2000-02-29T00:00:00.007Z");
        check("\"$user_agent\" $referer", "\"evil\\x22 \\x5C\\x0D\\x0A\\xFF\" -");
        check("$upstream_ms $duration_ms $reason $attempts", "- 1.234 connect_refused 2");
        check("$$5 $status", "$5 502");
        check("$bytes_sent/$bytes_received $protocol", "12/3 HTTP/1.1");
    }

    #[test]
    fn long_values_are_cut() {
        let long = "é".repeat(LOG_TEXT_BYTES_MAX);
        let variables = Variables { path: &long, ..example() };
        for format in
            [AccessLogFormat::Json, AccessLogFormat::Template(vec![AccessPart::Request(Variable::Path)])]
        {
            assert!(line(&format, &record(&variables)).len() < 5 * LOG_TEXT_BYTES_MAX);
        }
    }
}
