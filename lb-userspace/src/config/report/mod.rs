//! What is wrong with a configuration, as a list that renders with file, line, caret and hint.
//!
//! All mistakes are collected before anything is shown, so a user repairs a file once and not once per mistake.

mod render;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::limits::CONFIG_PROBLEMS_MAX;

/// Every problem of a configuration with the texts they point into. It is an error only where it holds one.
#[derive(Clone, Default)]
pub struct Report {
    problems: Vec<Problem>,
    sources: Arc<Vec<Source>>,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// Legal, but surely not what was meant.
    Warning,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: lower case, names the object.
    pub message: String,
    /// Where, and what stands under the caret; `None` for a problem of a whole file or of none.
    pub place: Option<(Place, String)>,
    /// A second place that has to do with it.
    pub other_place: Option<(Place, String)>,
    /// What to do about it.
    pub hint: String,
}

/// Some bytes of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index of the file in the order of reading.
    pub file: usize,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// A file as the report shows it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name as given by the user, or as found by an `include`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A problem in plain data, for `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// The file, where one is at fault.
    pub file: Option<String>,
    /// Line, counted from 1.
    pub line: Option<usize>,
    /// Column in characters, counted from 1.
    pub column: Option<usize>,
    /// The offending text.
    pub text: Option<String>,
    /// What to do about it.
    pub hint: String,
}

impl Report {
    /// A report of `problems` in `sources`, in the order of the files.
    pub(super) fn new(mut problems: Vec<Problem>, sources: Arc<Vec<Source>>) -> Self {
        problems.sort_by_key(|problem| (problem.place.as_ref().map(|(place, _)| *place), problem.severity));
        problems.dedup();
        Self { problems, sources }
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// How many problems there are.
    pub fn len(&self) -> usize {
        self.problems.len()
    }

    /// Whether one of the problems is an error.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// The problems in the order of the files.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The problems as plain data.
    pub fn entries(&self) -> Vec<Entry> {
        self.problems.iter().map(|problem| self.entry(problem)).collect()
    }

    /// `3 errors, 1 warning`.
    pub fn summary(&self) -> String {
        let errors = counted(self.count(Severity::Error), "error");
        let warnings = counted(self.count(Severity::Warning), "warning");
        let counts = [errors, warnings].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let hidden = self.problems.len().saturating_sub(CONFIG_PROBLEMS_MAX);
        match (counts.is_empty(), hidden) {
            (true, _) => "no problems".to_owned(),
            (false, 0) => counts,
            (false, _) => format!("{counts}; the last {hidden} are not shown"),
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }

    fn entry(&self, problem: &Problem) -> Entry {
        let place = problem.place.as_ref().map(|(place, _)| *place);
        let source = place.and_then(|place| self.sources.get(place.file));
        let position = place.map(|place| self.line_and_column(place));
        let text = place.zip(source).and_then(|(place, source)| source.text.get(place.start..place.end));
        Entry {
            severity: problem.severity,
            message: problem.message.clone(),
            file: source.map(|source| source.name.clone()),
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            text: text.map(str::to_owned),
            hint: problem.hint.clone(),
        }
    }

    /// Both counted from 1.
    fn line_and_column(&self, place: Place) -> (usize, usize) {
        let text = self.sources.get(place.file).map_or("", |source| source.text.as_str());
        let before = text.get(..place.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false, 100).trim_end())
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Report {}

impl From<Severity> for miette::Severity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Error => Self::Error,
            Severity::Warning => Self::Warning,
        }
    }
}

impl Problem {
    /// An error at `place`.
    pub fn error(
        place: Place,
        message: impl Into<String>,
        label: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            place: Some((place, label.into())),
            other_place: None,
            hint: hint.into(),
        }
    }

    /// A warning at `place`.
    pub fn warning(
        place: Place,
        message: impl Into<String>,
        label: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, message, label, hint) }
    }

    /// An error of a whole file.
    pub fn of_file(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            place: None,
            other_place: None,
            hint: hint.into(),
        }
    }

    /// The same with a second place.
    pub fn with_other(mut self, place: Place, label: impl Into<String>) -> Self {
        self.other_place = Some((place, label.into()));
        self
    }
}

/// `text` in quotes on one line, cut where it is long, for a message.
pub fn quote(text: &str) -> String {
    const CHARACTERS_SHOWN: usize = 60;
    let mut shown = String::new();
    for character in text.chars().take(CHARACTERS_SHOWN) {
        if character.is_control() { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    let ellipsis = if text.chars().nth(CHARACTERS_SHOWN).is_some() { "…" } else { "" };
    format!("\"{shown}{ellipsis}\"")
}

fn counted(count: usize, word: &str) -> Option<String> {
    match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        _ => Some(format!("{count} {word}s")),
    }
}
