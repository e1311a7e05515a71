//! What a row of probe results says: a verdict that flips only after the stated number of equal results in a row.

/// Up or down, and how far the results have come to turn it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    up: bool,
    against: u32,
    up_after: u32,
    down_after: u32,
}

/// What one result did to the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// Nothing.
    None,
    /// It is up now and was not.
    Up,
    /// It is down now and was not. Carries the failures that it took.
    Down(u32),
}

impl Counter {
    /// Down until `up_after` successes: readiness begins so.
    pub fn down(up_after: u32, down_after: u32) -> Self {
        Self { up: false, against: 0, up_after: up_after.max(1), down_after: down_after.max(1) }
    }

    /// Up until `down_after` failures: liveness begins so.
    pub fn up(up_after: u32, down_after: u32) -> Self {
        Self { up: true, ..Self::down(up_after, down_after) }
    }

    /// The verdict.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Other thresholds, the same verdict; what was counted against it starts again.
    pub fn with_thresholds(self, up_after: u32, down_after: u32) -> Self {
        Self { up: self.up, ..Self::down(up_after, down_after) }
    }

    /// Counts one result.
    pub fn count(&mut self, passed: bool) -> Flip {
        if passed == self.up {
            self.against = 0;
            return Flip::None;
        }
        self.against += 1;
        let needed = if self.up { self.down_after } else { self.up_after };
        if self.against < needed {
            return Flip::None;
        }
        let counted = self.against;
        self.up = passed;
        self.against = 0;
        if passed { Flip::Up } else { Flip::Down(counted) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn verdict_flips_after_the_stated_counts() {
        let mut counter = Counter::down(2, 3);
        assert_eq!(counter.count(true), Flip::None);
        assert_eq!(counter.count(true), Flip::Up);
        assert_eq!(counter.count(false), Flip::None);
        assert_eq!(counter.count(false), Flip::None);
        assert_eq!(counter.count(false), Flip::Down(3));
    }

    #[test]
    fn one_equal_result_forgets_what_was_counted_against() {
        let mut counter = Counter::up(1, 2);
        for passed in [false, true, false, true, false] {
            assert_eq!(counter.count(passed), Flip::None);
        }
        assert!(counter.is_up());
    }

    proptest! {
        #[test]
        fn verdict_is_that_of_the_last_complete_run(
            results in proptest::collection::vec(any::<bool>(), 0..60), up_after in 1u32..5, down_after in 1u32..5,
        ) {
            let mut counter = Counter::down(up_after, down_after);
            let mut expect = false;
            for end in 1..=results.len() {
                let last = results[end - 1];
                let run = results[..end].iter().rev().take_while(|&&each| each == last).count();
                let needed = if last { up_after } else { down_after } as usize;
                let before = expect;
                if run >= needed {
                    expect = last;
                }
                let flip = counter.count(last);
                prop_assert_eq!(counter.is_up(), expect);
                prop_assert_eq!(flip != Flip::None, before != expect);
            }
        }
    }
}
