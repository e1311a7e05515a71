//! TOML values into typed fields, with every mistake recorded instead of the first one returned.
//!
//! serde stops at the first error, so this walks the parsed tree itself. [`section!`] makes a section's struct, its
//! reader, the list of its keys and its JSON Schema from one list of fields.

use std::borrow::Cow;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::report::{Place, Problem, quote};

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

/// An integer between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: u32, const MAX: u32>(pub u32);

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

impl<const MIN: u32, const MAX: u32> From<u32> for Whole<MIN, MAX> {
    fn from(number: u32) -> Self {
        Self(number)
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

/// An integer; `None` where it does not fit.
pub fn integer(value: &DeValue<'_>) -> Option<i64> {
    let DeValue::Integer(integer) = value else { return None };
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
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

impl FromToml for bool {
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self> {
        let DeValue::Boolean(boolean) = value else {
            reading.wrong_type(value, place, "true or false", "true or false, without quotes");
            return None;
        };
        Some(*boolean)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

impl<const MIN: u32, const MAX: u32> FromToml for Whole<MIN, MAX> {
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self> {
        let DeValue::Integer(written) = value else {
            reading.wrong_type(value, place, "an integer", &format!("{}, without quotes", MIN.max(1)));
            return None;
        };
        match integer(value).and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (MIN..=MAX).contains(&number) => Some(Self(number)),
            _ => {
                let message = format!("{written} is out of range");
                let hint = format!("a number from {MIN} to {MAX} is allowed here");
                reading.refuse(place, Refusal::new(message, format!("not in {MIN}–{MAX}"), hint));
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

impl<T: FromToml> FromToml for Vec<Located<T>> {
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self> {
        let DeValue::Array(array) = value else {
            let example = match value {
                DeValue::String(text) => format!("[{}]", quote(text)),
                DeValue::Table(_) => "a section in double brackets: [[…]]".to_owned(),
                _ => "[ … ]".to_owned(),
            };
            reading.wrong_type(value, place, "an array", &example);
            return None;
        };
        let elements = array.iter().enumerate();
        Some(elements.filter_map(|(index, value)| reading.below(format!("[{index}]"), value)).collect())
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": T::schema(generator) })
    }
}

impl<T: FromToml> FromToml for Names<T> {
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self> {
        let table = table(value, place, reading)?;
        let mut names = Vec::with_capacity(table.len());
        for (key, value) in table {
            let name = Located { value: key.get_ref().to_string(), place: reading.place(key.span()) };
            let read = reading.below(name.value.clone(), value);
            names.push((name, read));
        }
        names.sort_by_key(|(name, _)| name.place);
        Some(names)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": T::schema(generator) })
    }
}

/// The table that `value` is.
pub fn table<'t, 'i>(
    value: &'t DeValue<'i>,
    place: Place,
    reading: &mut Reading<'_>,
) -> Option<&'t DeTable<'i>> {
    let DeValue::Table(table) = value else {
        reading.wrong_type(value, place, "a table", "a section or { key = value }");
        return None;
    };
    Some(table)
}

/// What [`section!`] knows of one key.
#[derive(Debug)]
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// Its documentation.
    pub about: &'static str,
}

/// The JSON Schema of a section.
pub fn section_schema(about: &str, keys: Vec<(Key, Schema, Option<serde_json::Value>)>) -> Schema {
    let required: Vec<&str> =
        keys.iter().filter(|(key, ..)| key.required).map(|(key, ..)| key.name).collect();
    let mut properties = serde_json::Map::new();
    for (key, mut schema, default) in keys.iter().map(|(key, schema, default)| (key, schema.clone(), default))
    {
        schema.insert("description".to_owned(), key.about.trim().into());
        if let Some(default) = default {
            schema.insert("default".to_owned(), default.clone());
        }
        properties.insert(key.name.to_owned(), schema.to_value());
    }
    let mut schema = json_schema!({
        "type": "object",
        "description": about.trim(),
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
    schema
}

/// A section: `must` keys are required, `may` keys are not, `later` keys are not implemented yet.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $Name:ident {
            $( $(#[doc = $key_about:literal])+ $need:ident $key:ident: $Type:ty $(= $default:expr)?, )*
        }
        $( later $later:ident: $meanwhile:literal; )*
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug)]
        pub struct $Name {
            $( $(#[doc = $key_about])+ pub $key: $crate::config::reading::Field<$Type>, )*
        }

        impl $crate::config::reading::FromToml for $Name {
            fn from_toml(
                value: &toml::de::DeValue<'_>,
                place: $crate::config::report::Place,
                reading: &mut $crate::config::reading::Reading<'_>,
            ) -> Option<Self> {
                use $crate::config::reading::Field;
                const KEYS: &[&str] = &[$(stringify!($key)),*];
                let mut section = Self { $($key: Field::Absent),* };
                for (key, value) in $crate::config::reading::table(value, place, reading)? {
                    match key.get_ref().as_ref() {
                        $( stringify!($key) => section.$key = reading.field(stringify!($key), value), )*
                        $( stringify!($later) => reading.not_yet_key(key, $meanwhile), )*
                        _ => reading.unknown_key(key, KEYS),
                    }
                }
                $( if section!(@required $need) && section.$key.is_absent() {
                    section.$key = reading.missing_key(place, stringify!($key), concat!($($key_about),+).trim());
                } )*
                Some(section)
            }

            fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                use $crate::config::reading::{Key, section_schema};
                section_schema(concat!($($about),+), vec![$((
                    Key {
                        name: stringify!($key),
                        required: section!(@required $need),
                        about: concat!($($key_about),+),
                    },
                    <$Type as $crate::config::reading::FromToml>::schema(generator),
                    section!(@default $($default)?),
                )),*])
            }
        }
    };
    (@required must) => { true };
    (@required may) => { false };
    (@default) => { None };
    (@default $default:expr) => { Some(serde_json::json!($default)) };
}
pub(crate) use section;

/// A choice of words: `later` words are not implemented yet.
macro_rules! choice {
    ($Type:ty, $expected:literal { $($word:literal => $value:expr),+ $(,)? } $(later { $($later:literal: $meanwhile:literal),+ $(,)? })?) => {
        impl $crate::config::reading::FromText for $Type {
            const EXPECTED: &'static str = $expected;
            const EXAMPLE: &'static str = choice!(@first $($word)+);
            fn from_text(text: &str) -> Result<Self, $crate::config::reading::Refusal> {
                match text {
                    $( $word => Ok($value), )+
                    $( $( $later => Err($crate::config::reading::not_yet(text, $meanwhile)), )+ )?
                    _ => Err($crate::config::reading::unknown_word(text, $expected, &[$($word),+])),
                }
            }
            fn text_schema() -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($word),+] })
            }
        }
    };
    (@first $word:literal $($rest:literal)*) => { $word };
}
pub(crate) use choice;

/// The refusal of a word that is not one of `known`.
pub fn unknown_word(text: &str, expected: &str, known: &[&str]) -> Refusal {
    let all = known.join(", ");
    let hint = match nearest(text, known) {
        Some(near) => format!("did you mean \"{near}\"? Allowed are {all}"),
        None => format!("allowed are {all}"),
    };
    Refusal::new(format!("{} is not {expected}", quote(text)), "not one of the allowed words", hint)
}

/// Makes schemars' generator take a section as the root.
#[derive(Debug)]
pub struct Root<T>(std::marker::PhantomData<T>);

impl<T: FromToml> JsonSchema for Root<T> {
    fn schema_name() -> Cow<'static, str> {
        "lbctl configuration".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::schema(generator)
    }
}
