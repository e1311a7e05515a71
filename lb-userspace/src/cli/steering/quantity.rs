//! Counts and rates with three digits and a prefix: `950`, `12.3k`, `4.56M`.

/// A count as people read it. Prefixes are decimal, as for packets and bits everywhere.
pub fn quantity(value: f64) -> String {
    const PREFIXES: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let mut scaled = value;
    let mut prefix = 0;
    // From here on `{:.0}` shows four digits.
    while scaled >= 999.5 && prefix + 1 < PREFIXES.len() {
        scaled /= 1000.0;
        prefix += 1;
    }
    let digits = match scaled {
        _ if prefix == 0 => 0,
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{}", PREFIXES[prefix])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_kept() {
        for (value, expect) in [
            (0.0, "0"),
            (7.0, "7"),
            (999.0, "999"),
            (999.6, "1.00k"),
            (1_000.0, "1.00k"),
            (9_994.0, "9.99k"),
            (9_996.0, "10.0k"),
            (12_345.0, "12.3k"),
            (99_960.0, "100k"),
            (999_600.0, "1.00M"),
            (4_560_000.0, "4.56M"),
            (1e18, "1000P"),
        ] {
            assert_eq!(quantity(value), expect, "{value}");
        }
    }
}
