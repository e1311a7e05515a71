//! How long to wait before a program that fails to start is started again: doubling, with a cap and jitter.

use std::time::Duration;

use crate::limits::{BACK_OFF_MAX, BACK_OFF_MIN};

/// Starts that failed in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    failures: u32,
}

impl BackOff {
    /// Counts a failed start and gives the wait before the next one. `chance` in 0.0–1.0 spreads it by ±10 %, so that programs
    /// that failed together do not start together.
    pub fn fail(&mut self, chance: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let doublings = (self.failures - 1).min(31);
        let wait = BACK_OFF_MIN.saturating_mul(1 << doublings).min(BACK_OFF_MAX);
        wait.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0)).min(BACK_OFF_MAX)
    }

    /// Starts that failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It started well, or an operator asks: the next failure waits the shortest time again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wait_doubles_up_to_the_cap_and_resets() {
        let mut back_off = BackOff::default();
        let waits: Vec<_> = (0..8).map(|_| back_off.fail(0.5).as_secs_f64().round() as u64).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        back_off.reset();
        assert_eq!(back_off.fail(0.5).as_secs_f64().round() as u64, 1);
    }

    proptest! {
        #[test]
        fn wait_stays_within_a_tenth_of_its_step_and_below_the_cap(failures in 1u32..200, chance in 0.0f64..=1.0) {
            let mut back_off = BackOff { failures: failures - 1 };
            let step = BACK_OFF_MAX.as_secs_f64().min(BACK_OFF_MIN.as_secs_f64() * 2f64.powi(failures as i32 - 1));
            let wait = back_off.fail(chance).as_secs_f64();
            prop_assert!(wait >= step * 0.899 && wait <= step * 1.101);
            prop_assert!(wait <= BACK_OFF_MAX.as_secs_f64());
        }
    }
}
