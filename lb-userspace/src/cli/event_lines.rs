//! What `lbctl events` shows: one line for each change.

use anstyle::{AnsiColor, Style};

use super::spans::{took, wall};
use crate::control::protocol::EventRecord;
use crate::printable::printable;

/// `time  subject  what  cause  by actor  took`, without line end.
pub fn event(record: &EventRecord) -> String {
    let dim = Style::new().dimmed();
    let style = style(&record.what);
    let mut line = format!(
        "{dim}{}{dim:#}  {:<16}  {style}{}{style:#}",
        wall(record.wall_ms),
        printable(&record.subject),
        printable(&record.what)
    );
    if !record.cause.is_empty() {
        line.push_str(&format!("  {}", printable(&record.cause)));
    }
    if !record.actor.is_empty() {
        line.push_str(&format!("  {dim}by {}{dim:#}", printable(&record.actor)));
    }
    if let Some(span_ns) = record.took_ns {
        line.push_str(&format!("  {dim}took {}{dim:#}", took(span_ns)));
    }
    line
}

/// Good news green, bad news red, the rest plain.
fn style(what: &str) -> Style {
    match what.rsplit(' ').next().unwrap_or_default() {
        "in" | "readmitted" | "running" => AnsiColor::Green.on_default(),
        "out" | "ejected" | "exited" | "failed" | "fatal" | "backoff" | "killed" => {
            AnsiColor::Red.on_default()
        }
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let record = EventRecord {
            wall_ms: 1_773_043_626_005,
            subject: "docs:0".into(),
            what: "process exited".into(),
            cause: "signal=9".into(),
            actor: "kernel".into(),
            took_ns: Some(83_400),
            ..EventRecord::default()
        };
        assert_eq!(
            strip_str(&event(&record)).to_string(),
            "2026-03-09 08:07:06.005  docs:0            process exited  signal=9  by kernel  took 83 µs"
        );
    }

    #[test]
    fn cause_cannot_write_to_the_terminal() {
        let record = EventRecord { cause: "probe: \x1b[2J\n".into(), ..EventRecord::default() };
        assert!(event(&record).ends_with("probe: \u{fffd}[2J\u{fffd}"));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let record = EventRecord { subject: "master".into(), what: "up".into(), ..EventRecord::default() };
        assert_eq!(strip_str(&event(&record)).to_string(), "1970-01-01 00:00:00.000  master            up");
    }
}
