//! How many retries an upstream may cause: a share of its requests, so that retries cannot multiply an outage. Pure.

use crate::time::Time;

/// Retries that can be saved up, and the number at the start.
const SAVED_MAX: f64 = 50.0;
/// Retries that are always allowed: ten per ten seconds.
const FLOOR_PER_SECOND: f64 = 1.0;

/// A token bucket: each request adds its share of a retry, each retry takes one.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    share: f64,
    saved: f64,
    floor_paid_at: Option<Time>,
}

impl RetryBudget {
    /// `share` is retries per request, 0.0–1.0.
    pub fn new(share: f64) -> Self {
        Self { share, saved: SAVED_MAX, floor_paid_at: None }
    }

    /// A request began.
    pub fn earn(&mut self) {
        self.saved = (self.saved + self.share).min(SAVED_MAX);
    }

    /// Whether a retry may be made; it is then spent.
    pub fn spend(&mut self, now: Time) -> bool {
        let waited = self.floor_paid_at.map_or(0.0, |at| now.since(at).as_secs_f64());
        self.floor_paid_at = Some(now);
        self.saved = (self.saved + waited * FLOOR_PER_SECOND).min(SAVED_MAX);
        if self.saved < 1.0 {
            return false;
        }
        self.saved -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn spent_budget_refuses_until_requests_or_time_refill_it() {
        let mut budget = RetryBudget::new(0.5);
        let now = Time(1);
        let granted = (0..100).filter(|_| budget.spend(now)).count();
        assert_eq!(granted, SAVED_MAX as usize);
        budget.earn();
        assert!(!budget.spend(now));
        budget.earn();
        assert!(budget.spend(now));
        assert!(!budget.spend(now));
        assert!(budget.spend(now + Duration::from_secs(1)));
    }
}
