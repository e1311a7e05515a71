//! What TOML itself knows: booleans, integers between bounds, arrays, tables.

use schemars::{Schema, SchemaGenerator, json_schema};
use toml::de::{DeTable, DeValue};

use super::{FromToml, Located, Names, Reading, Refusal};
use crate::config::report::{Place, quote};

/// An integer between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> From<u32> for Whole<MIN, MAX> {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

/// An integer; `None` where it does not fit.
pub fn integer(value: &DeValue<'_>) -> Option<i64> {
    let DeValue::Integer(integer) = value else { return None };
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
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
