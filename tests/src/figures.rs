//! Histograms and ratios, as benches print them.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Durations, kept in nanoseconds.
pub struct Durations {
    histogram: Histogram<u64>,
}

impl Default for Durations {
    fn default() -> Self {
        Self { histogram: Histogram::new(3).expect("three significant digits are allowed") }
    }
}

impl Durations {
    /// Adds one.
    pub fn add(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2);
        self.histogram.record(nanoseconds).expect("the histogram grows as needed");
    }

    /// Adds all of another.
    pub fn join(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("both grow as needed");
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The value that `percent` of all do not exceed; zero when there are none.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_percentile(percent))
    }

    /// The largest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.histogram.max())
    }

    /// Count, percentiles and a bar for each power of two.
    pub fn print(&self, name: &str) {
        println!(
            "{name}: {} values, p50 {}, p90 {}, p99 {}, max {}",
            self.count(),
            short(self.percentile(50.0)),
            short(self.percentile(90.0)),
            short(self.percentile(99.0)),
            short(self.max())
        );
        let mut from = 0;
        for bucket in self.histogram.iter_log(1_000, 2.0) {
            let count = bucket.count_since_last_iteration();
            let to = bucket.value_iterated_to();
            if count > 0 {
                let bar = "#".repeat(1 + (count * 40 / self.count().max(1)) as usize);
                let (low, high) = (short(Duration::from_nanos(from)), short(Duration::from_nanos(to)));
                println!("  {low:>9} – {high:<9} {count:>8} {bar}");
            }
            from = to;
        }
    }
}

/// Few digits, the unit that fits.
pub fn short(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos() as f64;
    match nanoseconds {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.1} µs", n / 1e3),
        n if n < 1e9 => format!("{:.1} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

/// The middle value, with the smallest and the largest.
pub struct Spread {
    /// Half are not larger.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    ///
    /// # Panics
    /// When there is none.
    pub fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "a spread needs a value");
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], min: values[0], max: values[values.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} (min {:.3}, max {:.3})", self.median, self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_spreads_are_those_of_the_values() {
        let mut durations = Durations::default();
        (1..=100).for_each(|ms| durations.add(Duration::from_millis(ms)));
        assert_eq!(durations.count(), 100);
        assert!(durations.percentile(50.0).abs_diff(Duration::from_millis(50)) < Duration::from_millis(1));
        let spread = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
    }
}
