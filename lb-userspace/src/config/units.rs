//! Durations, sizes and shares as people write them: `"250ms"`, `"100MiB"`, `"50%"`. Display and parse are inverse.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// The longest duration that a file may hold: 30 days.
pub const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A duration in whole milliseconds of at least `MIN_MS` and at most `DURATION_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timespan<const MIN_MS: u64>(Duration);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A share in whole per cent, 0–100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percentage(u8);

/// Why a text is none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// It does not begin with a number, or holds something else than numbers and units.
    #[error("not a number with a unit")]
    Form,
    /// There is no unit.
    #[error("the unit is missing")]
    NoUnit,
    /// The unit is unknown.
    #[error("the unit is unknown")]
    Unit,
    /// Smaller than allowed: zero where a zero makes no sense.
    #[error("zero makes no sense here")]
    Zero,
    /// Greater than allowed.
    #[error("too great")]
    TooGreat,
}

const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl<const MIN_MS: u64> Timespan<MIN_MS> {
    /// So many milliseconds; for constants, where a value out of bounds fails to compile.
    pub const fn from_millis(millis: u64) -> Self {
        assert!(millis >= MIN_MS && millis as u128 <= DURATION_MAX.as_millis());
        Self(Duration::from_millis(millis))
    }

    /// So many seconds; for constants.
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_millis(secs * 1000)
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl<const MIN_MS: u64> FromStr for Timespan<MIN_MS> {
    type Err = UnitError;

    /// One or more numbers with units, such as `1m30s`; a bare `0` needs none.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let mut millis = 0u64;
        let mut rest = if text == "0" { "0s" } else { text };
        if rest.is_empty() {
            return Err(UnitError::Form);
        }
        while !rest.is_empty() {
            let (number, after) = leading_number(rest)?;
            let unit_length = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_length);
            let part = number.checked_mul(unit_value(unit, &DURATION_UNITS)?).ok_or(UnitError::TooGreat)?;
            millis = millis.checked_add(part).ok_or(UnitError::TooGreat)?;
            rest = after;
        }
        match Duration::from_millis(millis) {
            _ if millis < MIN_MS => Err(UnitError::Zero),
            duration if duration > DURATION_MAX => Err(UnitError::TooGreat),
            duration => Ok(Self(duration)),
        }
    }
}

impl<const MIN_MS: u64> fmt::Display for Timespan<MIN_MS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis() as u64;
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, value) in DURATION_UNITS {
            if millis >= value {
                write!(f, "{}{unit}", millis / value)?;
                millis %= value;
            }
        }
        Ok(())
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = leading_number(text)?;
        if unit.is_empty() && number == 0 {
            return Ok(Self(0));
        }
        number.checked_mul(unit_value(unit.trim_start(), &SIZE_UNITS)?).map(Self).ok_or(UnitError::TooGreat)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |value: u64| self.0 != 0 && self.0.is_multiple_of(value);
        let (unit, value) = SIZE_UNITS.into_iter().find(|(_, value)| fits(*value)).unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / value)
    }
}

impl Percentage {
    /// So many per cent; for constants.
    pub const fn new(percent: u8) -> Self {
        assert!(percent <= 100);
        Self(percent)
    }

    /// As a share of 1.
    pub fn share(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl FromStr for Percentage {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match leading_number(text)? {
            (0..=100, "") => Err(UnitError::NoUnit),
            (number @ 0..=100, "%") => Ok(Self(number as u8)),
            (0..=100, _) => Err(UnitError::Unit),
            _ => Err(UnitError::TooGreat),
        }
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl<const MIN_MS: u64> Serialize for Timespan<MIN_MS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Percentage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn leading_number(text: &str) -> Result<(u64, &str), UnitError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::Form);
    }
    Ok((number.parse().map_err(|_| UnitError::TooGreat)?, rest))
}

fn unit_value(unit: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, value)) => Ok(*value),
        None if unit.is_empty() => Err(UnitError::NoUnit),
        None if unit.chars().all(|c| c.is_ascii_alphabetic()) => Err(UnitError::Unit),
        None => Err(UnitError::Form),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        let check = |text: &str, expect: Result<u64, UnitError>| {
            let parsed = text.parse::<Timespan<1>>().map(|span| span.get().as_millis() as u64);
            assert_eq!(parsed, expect, "{text:?}");
        };
        check("250ms", Ok(250));
        check("1s", Ok(1_000));
        check("2m", Ok(120_000));
        check("1h", Ok(3_600_000));
        check("1m30s", Ok(90_000));
        check("30d", Ok(30 * 86_400_000));
        check("0s", Err(UnitError::Zero));
        check("0", Err(UnitError::Zero));
        check("5", Err(UnitError::NoUnit));
        check("5 s", Err(UnitError::NoUnit));
        check("1.5s", Err(UnitError::NoUnit));
        check("5 parsecs", Err(UnitError::NoUnit));
        check("5parsecs", Err(UnitError::Unit));
        check("-1s", Err(UnitError::Form));
        check("", Err(UnitError::Form));
        check("31d", Err(UnitError::TooGreat));
        check("99999999999999999999s", Err(UnitError::TooGreat));
        check("18446744073709551615h", Err(UnitError::TooGreat));
    }

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        let check = |text: &str, expect: Result<u64, UnitError>| {
            assert_eq!(text.parse::<ByteSize>().map(|size| size.0), expect, "{text:?}");
        };
        check("100MiB", Ok(100 << 20));
        check("1GiB", Ok(1 << 30));
        check("64KB", Ok(64_000));
        check("64 KiB", Ok(65_536));
        check("12B", Ok(12));
        check("0", Ok(0));
        check("12", Err(UnitError::NoUnit));
        check("12k", Err(UnitError::Unit));
        check("99999999TiB", Err(UnitError::TooGreat));
    }

    #[test]
    fn percentages_end_at_a_hundred() {
        assert_eq!("50%".parse::<Percentage>().map(Percentage::share), Ok(0.5));
        assert_eq!("101%".parse::<Percentage>(), Err(UnitError::TooGreat));
        assert_eq!("50".parse::<Percentage>(), Err(UnitError::NoUnit));
    }

    proptest! {
        #[test]
        fn a_duration_reads_as_it_is_shown(millis in 0..=DURATION_MAX.as_millis() as u64) {
            let span = Timespan::<0>::from_millis(millis);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn a_size_reads_as_it_is_shown(bytes: u64, shift in 0u32..41) {
            let size = ByteSize((bytes >> shift) << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
