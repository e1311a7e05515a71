//! TOML values into typed fields, with every mistake recorded instead of the first one returned.
//!
//! serde stops at the first error, so this walks the parsed tree itself. `section!` makes a section's struct, its
//! reader, the list of its keys and its JSON Schema from one list of fields.

mod section;
mod value;

use std::ops::Range;

use schemars::{Schema, SchemaGenerator, json_schema};
use toml::Spanned;
use toml::de::{DeString, DeValue};

use super::report::{Place, Problem, quote};
pub use section::{Key, Root, section_schema};
pub(crate) use section::{choice, section};
pub use value::{Whole, integer, table};

/// Reads one file.
#[derive(Debug)]
pub struct Reading<'a> {
    file: usize,
    /// The keys that lead to the value being read.
    path: Vec<String>,
    problems: &'a mut Vec<Problem>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// A key of a section.
#[derive(Clone, Debug)]
pub enum Field<T> {
    /// The file does not have it.
    Absent,
    /// It is there, or should be, and the mistake is already recorded.
    Invalid,
    /// As read.
    Given(Located<T>),
}

/// A table whose keys are names that the user chose, in file order.
pub type Names<T> = Vec<(Located<String>, Option<Located<T>>)>;

/// Why a value is refused: message, what stands under the caret, hint.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What is wrong; begins with the value.
    pub message: String,
    /// Under the caret.
    pub label: String,
    /// What to write instead.
    pub hint: String,
}

/// What a TOML value can be read as. Mistakes go to `reading`; `None` means that there was at least one.
pub trait FromToml: Sized {
    /// Reads `value`, which stands at `place`.
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self>;
    /// The JSON Schema of what is accepted.
    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

/// What a TOML string can be read as.
pub trait FromText: Sized {
    /// `an address`: completes "expected …".
    const EXPECTED: &'static str;
    /// An example, for hints.
    const EXAMPLE: &'static str;
    /// Reads `text`.
    ///
    /// # Errors
    /// When `text` is not what is expected.
    fn from_text(text: &str) -> Result<Self, Refusal>;
    /// The JSON Schema of what is accepted.
    fn text_schema() -> Schema {
        json_schema!({ "type": "string", "examples": [Self::EXAMPLE] })
    }
}

impl Refusal {
    /// All three parts.
    pub fn new(message: impl Into<String>, label: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), label: label.into(), hint: hint.into() }
    }
}

impl<T> Field<T> {
    /// The value, where it is given and valid.
    pub fn get(&self) -> Option<&T> {
        self.located().map(|located| &located.value)
    }

    /// The value and its place.
    pub fn located(&self) -> Option<&Located<T>> {
        match self {
            Self::Given(located) => Some(located),
            Self::Absent | Self::Invalid => None,
        }
    }

    /// Whether the file says nothing about it.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<T: Clone> Field<T> {
    /// The value, or `default`.
    pub fn or(&self, default: impl Into<T>) -> T {
        self.get().cloned().unwrap_or_else(|| default.into())
    }
}

impl<'a> Reading<'a> {
    /// Reads file number `file` of a report.
    pub fn new(file: usize, problems: &'a mut Vec<Problem>) -> Self {
        Self { file, path: Vec::new(), problems }
    }

    /// The place of a span of this file.
    pub fn place(&self, span: Range<usize>) -> Place {
        Place { file: self.file, start: span.start, end: span.end }
    }

    /// Records that the text is not TOML.
    pub fn syntax_error(&mut self, span: Range<usize>, message: &str) {
        let hint = "see https://toml.io/en/v1.0.0; the rest of the file is checked once this is right";
        self.problems.push(Problem::error(self.place(span), format!("not TOML: {message}"), "here", hint));
    }

    /// Records that the value at `place` is refused.
    pub fn refuse(&mut self, place: Place, refusal: Refusal) {
        let message = format!("{}: {}", self.path_text(), refusal.message);
        self.problems.push(Problem::error(place, message, refusal.label, refusal.hint));
    }

    /// Records that `value` is of the wrong type.
    pub fn wrong_type(&mut self, value: &DeValue<'_>, place: Place, expected: &str, example: &str) {
        let found = type_name(value);
        let message = format!("expected {expected}, found {found}");
        self.refuse(
            place,
            Refusal::new(message, format!("this is {found}"), format!("write it as {example}")),
        );
    }

    /// Reads `value` one step further down the path.
    pub fn below<T: FromToml>(&mut self, step: String, value: &Spanned<DeValue<'_>>) -> Option<Located<T>> {
        self.path.push(step);
        let place = self.place(value.span());
        let read = T::from_toml(value.get_ref(), place, self).map(|value| Located { value, place });
        self.path.pop();
        read
    }

    /// Reads the value of `key`.
    pub fn field<T: FromToml>(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Field<T> {
        self.below(key.to_owned(), value).map_or(Field::Invalid, Field::Given)
    }

    /// Records a key that no section has.
    pub fn unknown_key(&mut self, key: &Spanned<DeString<'_>>, known: &[&str]) {
        let written = key.get_ref();
        let hint = match nearest(written, known) {
            Some(near) => format!("did you mean `{near}`? The keys here are {}", known.join(", ")),
            None => format!("the keys here are {}", known.join(", ")),
        };
        let message = format!("unknown key {}{}", quote(written), self.within());
        self.problems.push(Problem::error(
            self.place(key.span()),
            message,
            "not a key of this section",
            hint,
        ));
    }

    /// Records a key that the documentation has and the program has not.
    pub fn not_yet_key(&mut self, key: &Spanned<DeString<'_>>, meanwhile: &str) {
        let message = format!("`{}`{} is not implemented yet", key.get_ref(), self.within());
        self.problems.push(Problem::error(self.place(key.span()), message, "not implemented yet", meanwhile));
    }

    /// Records that `key` is missing in the section at `place`.
    pub fn missing_key<T>(&mut self, place: Place, key: &str, purpose: &str) -> Field<T> {
        let message = format!("missing key `{key}`{}", self.within());
        let hint = format!("add `{key} = …`: {}", purpose.trim_end_matches('.'));
        self.problems.push(Problem::error(place, message, format!("`{key}` is missing here"), hint));
        Field::Invalid
    }

    fn path_text(&self) -> String {
        self.path.join(".").replace(".[", "[")
    }

    fn within(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path_text()) }
    }
}

/// `"…" is not implemented yet`.
pub fn not_yet(text: &str, meanwhile: &str) -> Refusal {
    Refusal::new(format!("{} is not implemented yet", quote(text)), "not implemented yet", meanwhile)
}

/// The known word that `written` most likely means.
pub fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    const WORD_BYTES_MAX: usize = 64;
    const SIMILARITY_MIN: f64 = 0.8;
    if written.len() > WORD_BYTES_MAX {
        return None;
    }
    let written = written.to_lowercase().replace('-', "_");
    let likeness = |word: &str| {
        let word = word.to_lowercase().replace('-', "_");
        let edits = strsim::osa_distance(&written, &word);
        // Short words differ in a large share of their letters after one slip of the finger.
        let is_slip = edits <= (word.chars().count() / 3).clamp(1, 3);
        let similarity = strsim::jaro_winkler(&written, &word);
        (is_slip || similarity >= SIMILARITY_MIN).then_some(similarity)
    };
    let likely = known.iter().filter_map(|word| Some((likeness(word)?, *word)));
    likely.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, word)| word)
}

/// The type of a TOML value with its article.
pub fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

impl<T: FromText> FromToml for T {
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self> {
        let DeValue::String(text) = value else {
            reading.wrong_type(value, place, T::EXPECTED, &format!("\"{}\"", T::EXAMPLE));
            return None;
        };
        T::from_text(text).map_err(|refusal| reading.refuse(place, refusal)).ok()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        T::text_schema()
    }
}

/// The refusal of a word that is not one of `known`.
pub fn unknown_word(text: &str, expected: &str, known: &[&str]) -> Refusal {
    let all = known.join(", ");
    let hint = match nearest(text, known) {
        Some(near) => format!("did you mean \"{near}\"? Allowed are {all}"),
        None => format!("allowed are {all}"),
    };
    Refusal::new(format!("{} is not {expected}", quote(text)), "not one of the allowed words", hint)
}
