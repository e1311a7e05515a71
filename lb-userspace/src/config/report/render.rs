//! A report as text: message, the lines at fault with carets and labels, hint.

use std::ops::Range;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource};

use super::{Place, Problem, Report};
use crate::limits::{CONFIG_LINE_BYTES_MAX, CONFIG_PROBLEMS_MAX};

/// Columns that a report needs at least.
const WIDTH_MIN: usize = 40;

impl Report {
    /// The text that a user reads, at most `width` columns wide where that can be; ends with a line that counts.
    pub fn render(&self, color: bool, width: usize) -> String {
        let width = width.max(WIDTH_MIN);
        let handler = GraphicalReportHandler::new_themed(theme(color))
            .with_width(width)
            .with_wrap_lines(false)
            .with_context_lines(1)
            .with_links(false)
            .without_syntax_highlighting();
        let mut text = String::new();
        for problem in self.problems.iter().take(CONFIG_PROBLEMS_MAX) {
            self.render_problem(problem, width, &handler, &mut text);
        }
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    fn render_problem(
        &self,
        problem: &Problem,
        width: usize,
        handler: &GraphicalReportHandler,
        text: &mut String,
    ) {
        let message = wrapped(&printable(&problem.message), width - "  × ".len());
        let hint = wrapped(&printable(&self.full_hint(problem)), width - "  help: ".len());
        let diagnostic =
            MietteDiagnostic::new(message).with_severity(problem.severity.into()).with_help(hint);
        let shown = problem.place.as_ref().and_then(|(place, label)| self.shown(*place, label));
        let rendered = match (&problem.place, shown) {
            (Some((place, _)), Some(label)) => {
                let source = &self.sources[place.file];
                let labels = std::iter::once(label).chain(self.other_label(problem));
                let source = NamedSource::new(&source.name, printable(&source.text));
                let report = miette::Report::new(diagnostic.with_labels(labels)).with_source_code(source);
                handler.render_report(text, report.as_ref())
            }
            (Some((place, _)), None) => {
                let (line, column) = self.line_and_column(*place);
                let name = self.sources.get(place.file).map_or("", |source| source.name.as_str());
                let message = format!("{name}:{line}:{column}: {}", diagnostic.message);
                handler.render_report(text, &MietteDiagnostic { message, ..diagnostic })
            }
            (None, _) => handler.render_report(text, &diagnostic),
        };
        rendered.expect("writing to a string cannot fail");
        text.push('\n');
    }

    /// The caret and its label; `None` where the line is too long to be shown.
    fn shown(&self, place: Place, label: &str) -> Option<LabeledSpan> {
        let text = &self.sources.get(place.file)?.text;
        let line = line_range(text, place.start);
        if line.len() > CONFIG_LINE_BYTES_MAX {
            return None;
        }
        let end = place.end.clamp(place.start, line.end.max(place.start));
        Some(LabeledSpan::new(Some(printable(label)), place.start, (end - place.start).max(1)))
    }

    fn other_label(&self, problem: &Problem) -> Option<LabeledSpan> {
        let ((place, _), (other, label)) = (problem.place.as_ref()?, problem.other_place.as_ref()?);
        let shown = self.shown(*other, label)?;
        (other.file == place.file).then_some(shown)
    }

    /// The hint, with the other place where that one is in another file.
    fn full_hint(&self, problem: &Problem) -> String {
        match (&problem.place, &problem.other_place) {
            (Some((place, _)), Some((other, label))) if place.file != other.file => {
                let (line, _) = self.line_and_column(*other);
                let name = self.sources.get(other.file).map_or("", |source| source.name.as_str());
                format!("{}\n{name}:{line}: {label}", problem.hint)
            }
            _ => problem.hint.clone(),
        }
    }
}

/// Control characters replaced by as many `?` as they have bytes, so that offsets stay and no terminal is driven.
fn printable(text: &str) -> String {
    let is_plain = |character: char| !character.is_control() || matches!(character, '\n' | '\t');
    let replaced = |character: char| {
        if is_plain(character) { character.to_string() } else { "?".repeat(character.len_utf8()) }
    };
    if text.chars().all(is_plain) { text.to_owned() } else { text.chars().map(replaced).collect() }
}

/// `text` with line breaks at spaces: a path, or a command in backquotes, stays in one piece to be copied.
fn wrapped(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for piece in pieces(paragraph) {
            let length = line.chars().count() + 1 + piece.chars().count();
            if line.is_empty() {
                line.push_str(piece);
            } else if length <= width {
                line.push(' ');
                line.push_str(piece);
            } else {
                lines.push(std::mem::replace(&mut line, piece.to_owned()));
            }
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// `text` cut at the spaces outside of backquotes.
fn pieces(text: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let is_cut = |character: char| {
        is_quoted ^= character == '`';
        character == ' ' && !is_quoted
    };
    text.split(is_cut).collect()
}

fn line_range(text: &str, offset: usize) -> Range<usize> {
    let offset = offset.min(text.len());
    let bytes = text.as_bytes();
    let start = bytes[..offset].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let end =
        bytes[offset..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |length| offset + length);
    start..end
}

fn theme(color: bool) -> GraphicalTheme {
    if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_outside_of_backquotes() {
        let check = |text: &str, expect: &str| assert_eq!(wrapped(text, 20), expect);
        check("short", "short");
        check("", "");
        check("one two three four five", "one two three four\nfive");
        check("a command `-b 127.0.0.1:8081` here", "a command\n`-b 127.0.0.1:8081`\nhere");
        check("a/path/longer/than/the/whole/line", "a/path/longer/than/the/whole/line");
        check("first\nsecond", "first\nsecond");
    }
}
