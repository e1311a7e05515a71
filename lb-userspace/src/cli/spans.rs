//! Spans and points of time as operators read them.

use std::time::Duration;

/// `0:00:07`, `5:12:09`, `3d 04:05:06`: as Supervisor shows up-times.
pub fn uptime(span_ms: u64) -> String {
    let seconds = span_ms / 1000;
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match days {
        0 => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}d {hours:02}:{minutes:02}:{seconds:02}"),
    }
}

/// A measured span with three digits at most: `83 µs`, `1.2 ms`, `31 ms`, `2.5 s`.
pub fn took(span_ns: u64) -> String {
    let span = Duration::from_nanos(span_ns);
    match span_ns {
        0..1_000 => format!("{span_ns} ns"),
        1_000..1_000_000 => format!("{} µs", span.as_micros()),
        1_000_000..10_000_000 => format!("{:.1} ms", span.as_secs_f64() * 1e3),
        10_000_000..1_000_000_000 => format!("{} ms", span.as_millis()),
        _ => format!("{:.1} s", span.as_secs_f64()),
    }
}

/// `2026-03-09 08:07:06.005` (UTC) of milliseconds since 1970.
///
/// The calendar is Howard Hinnant's `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>).
pub fn wall(wall_ms: u64) -> String {
    let (days, ms) = (wall_ms / 86_400_000, wall_ms % 86_400_000);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_read_as_supervisors() {
        assert_eq!(uptime(999), "0:00:00");
        assert_eq!(uptime(7_000), "0:00:07");
        assert_eq!(uptime(18_729_000), "5:12:09");
        assert_eq!(uptime(273_906_000), "3d 04:05:06");
    }

    #[test]
    fn measured_spans_keep_their_meaningful_digits() {
        assert_eq!(took(999), "999 ns");
        assert_eq!(took(83_400), "83 µs");
        assert_eq!(took(1_240_000), "1.2 ms");
        assert_eq!(took(31_900_000), "31 ms");
        assert_eq!(took(2_500_000_000), "2.5 s");
    }

    #[test]
    fn wall_times_follow_the_calendar() {
        assert_eq!(wall(0), "1970-01-01 00:00:00.000");
        assert_eq!(wall(951_782_399_999), "2000-02-28 23:59:59.999");
        assert_eq!(wall(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(wall(1_767_225_599_000), "2025-12-31 23:59:59.000");
        assert_eq!(wall(1_773_043_626_005), "2026-03-09 08:07:06.005");
    }
}
