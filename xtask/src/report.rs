//! What passed, what failed and how long it took: the summary that ends `ci` and `test`.
#![expect(clippy::disallowed_methods, reason = "reads the clock to say how long a step took")]

use std::time::Instant;

/// Counts of one chore.
#[derive(Default)]
pub struct Report {
    /// Tests and steps that passed.
    pub passed: u64,
    /// Tests and steps that failed.
    pub failed: u64,
    lines: Vec<String>,
}

impl Report {
    /// Runs a step that counts as one.
    pub fn step(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<()>) {
        self.counted(name, || step().map(|()| Counts { passed: 1, failed: 0 }));
    }

    /// Runs a step that counts for itself; an error counts as one failure.
    pub fn counted(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<Counts>) {
        eprintln!("== {name}");
        let begun = Instant::now();
        let counts = step().unwrap_or_else(|error| {
            eprintln!("{name}: {error:#}");
            Counts { passed: 0, failed: 1 }
        });
        self.passed += counts.passed;
        self.failed += counts.failed;
        let seconds = begun.elapsed().as_secs_f64();
        self.lines
            .push(format!("{seconds:7.1} s  {:5} passed {:3} failed  {name}", counts.passed, counts.failed));
    }

    /// Says that a step could not be done here; it counts as nothing, and the summary names it.
    pub fn skip(&mut self, name: &str, reason: &str) {
        eprintln!("== {name}: SKIPPED: {reason}");
        self.lines.push(format!("SKIPPED                           {name}: {reason}"));
    }

    /// Prints the steps and, last, the line that counts everything.
    ///
    /// # Errors
    /// When something failed or nothing ran.
    pub fn finish(self) -> anyhow::Result<()> {
        for line in &self.lines {
            eprintln!("{line}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 || self.passed == 0 {
            std::process::exit(1);
        }
        Ok(())
    }
}

/// Of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
}

impl Counts {
    /// Adds what a line of `cargo test` says, if it is a result line.
    pub fn add_line(&mut self, line: &str) {
        let Some(rest) = line.trim_start().strip_prefix("test result: ") else { return };
        for part in rest.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(word)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, passed: u64, failed: u64) {
        let mut counts = Counts::default();
        counts.add_line(line);
        assert_eq!(counts, Counts { passed, failed }, "{line}");
    }

    #[test]
    fn result_lines_of_cargo_test_are_counted_and_others_are_not() {
        check(
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.02s",
            12,
            0,
        );
        check("test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out", 5, 2);
        check("running 12 tests", 0, 0);
        check("12 passed, 3 failed", 0, 0);
    }
}
