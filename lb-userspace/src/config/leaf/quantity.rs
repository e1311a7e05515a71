//! Durations, sizes and shares: text, or an integer where that has one meaning only.

use schemars::{Schema, SchemaGenerator, json_schema};
use toml::de::DeValue;

use crate::config::reading::{FromText, FromToml, Reading, Refusal, integer};
use crate::config::report::{Place, quote};
use crate::config::units::{ByteSize, DURATION_MAX, Percentage, Timespan, UnitError};

impl<const MIN_MS: u64> FromToml for Timespan<MIN_MS> {
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self> {
        let parsed = match value {
            DeValue::String(text) => {
                text.parse().map_err(|error| duration_refusal(&quote(text), text, error))
            }
            DeValue::Integer(number) => {
                let text = number.to_string();
                text.parse().map_err(|error| duration_refusal(&text, &text, error))
            }
            _ => {
                reading.wrong_type(value, place, "a duration", "\"250ms\", \"1s\", \"2m\" or \"1h\"");
                return None;
            }
        };
        parsed.map_err(|refusal| reading.refuse(place, refusal)).ok()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "pattern": "^(0|([0-9]+(ms|s|m|h|d))+)$",
            "maximum": 0,
            "minimum": 0,
            "examples": ["250ms", "1s", "1m30s"],
        })
    }
}

fn duration_refusal(shown: &str, text: &str, error: UnitError) -> Refusal {
    let digits: String = text.chars().take_while(char::is_ascii_digit).take(12).collect();
    match error {
        UnitError::NoUnit if digits.len() == text.len() => Refusal::new(
            format!("{shown} has no unit"),
            "a number without a unit",
            format!("write \"{digits}s\" for seconds or \"{digits}ms\" for milliseconds"),
        ),
        UnitError::Unit => Refusal::new(
            format!("{shown} has a unit that is not known"),
            "this unit is not known",
            "the units are ms, s, m, h and d: \"250ms\", \"1m30s\"",
        ),
        UnitError::Zero => Refusal::new(
            format!("{shown} makes no sense here"),
            "must be longer than zero",
            "leave the key out for the default",
        ),
        UnitError::TooGreat => Refusal::new(
            format!("{shown} is too long"),
            format!("longer than {}", Timespan::<0>::from_millis(DURATION_MAX.as_millis() as u64)),
            "the longest duration is \"30d\"",
        ),
        UnitError::Form | UnitError::NoUnit => Refusal::new(
            format!("{shown} is not a duration"),
            "not whole numbers with units",
            "write whole numbers with units: \"250ms\", \"1s\", \"1m30s\", \"1h\"",
        ),
    }
}

impl FromToml for ByteSize {
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self> {
        let parsed = match value {
            DeValue::String(text) => text.parse().map_err(|error| size_refusal(&quote(text), error)),
            DeValue::Integer(number) => {
                let bytes = integer(value).and_then(|bytes| u64::try_from(bytes).ok());
                bytes.map(Self).ok_or_else(|| size_refusal(&number.to_string(), UnitError::Form))
            }
            _ => {
                reading.wrong_type(value, place, "a size", "\"100MiB\", or a number of bytes");
                return None;
            }
        };
        parsed.map_err(|refusal| reading.refuse(place, refusal)).ok()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "pattern": "^(0|[0-9]+ *(B|KB|MB|GB|KiB|MiB|GiB|TiB))$",
            "minimum": 0,
            "examples": ["100MiB", "1GiB", "64KB"],
        })
    }
}

fn size_refusal(shown: &str, error: UnitError) -> Refusal {
    let label = match error {
        UnitError::NoUnit => "a number in quotes without a unit",
        UnitError::Unit => "this unit is not known",
        UnitError::TooGreat => "more bytes than 64 bits hold",
        UnitError::Form | UnitError::Zero => "not a number with a unit",
    };
    let hint = "the units are B, KB, MB, GB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024): \"100MiB\"; \
                a number without quotes is bytes";
    Refusal::new(format!("{shown} is not a size"), label, hint)
}

impl FromText for Percentage {
    const EXPECTED: &'static str = "a percentage";
    const EXAMPLE: &'static str = "50%";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        text.parse().map_err(|error| {
            let label = match error {
                UnitError::NoUnit => "the % is missing",
                UnitError::TooGreat => "more than 100%",
                _ => "not a whole number with %",
            };
            Refusal::new(format!("{} is not a percentage", quote(text)), label, "write \"0%\" to \"100%\"")
        })
    }
}
