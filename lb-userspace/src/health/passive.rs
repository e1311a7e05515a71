//! What workers see of a backend: failures within a window eject it for a while; afterwards it is on trial.
//!
//! Whether an ejection is allowed at all (share, last one) is decided by whoever knows the other backends.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::model::Passive;
use crate::reason::Reason;
use crate::time::Time;

/// Failures of one backend that still count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    failures: VecDeque<Time>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Trusted,
    Ejected {
        until: Time,
    },
    /// Back after an ejection: the first failure ejects again, the first success ends the trial.
    OnTrial,
}

/// Whether a failure for this reason is the backend's: workers report it, the master counts it. A stale pooled connection and what the client did wrong never are
/// (invariant 7), nor is an answer that came but was not HTTP.
pub fn counts(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectReset
            | Reason::SendTimeout
            | Reason::ResponseTimeout
            | Reason::ResponseReset
    )
}

/// How many of `backends` may be ejected at once: their share, but one where there are two or more, and never all.
pub fn ejected_max(backends: usize, share: f64) -> usize {
    if backends < 2 {
        return 0;
    }
    let allowed = (backends as f64 * share.clamp(0.0, 1.0)).floor() as usize;
    allowed.clamp(1, backends - 1)
}

impl Watch {
    /// Counts a failure; how many count now if they are enough to eject.
    pub fn fail(&mut self, now: Time, passive: &Passive) -> Option<u32> {
        if passive.max_fails == 0 || self.is_ejected() {
            return None;
        }
        let window_start = now - passive.fail_window;
        self.failures.retain(|&at| at >= window_start);
        self.failures.push_back(now);
        // More than max_fails say nothing more: bounded.
        while self.failures.len() > passive.max_fails as usize {
            self.failures.pop_front();
        }
        let counted = self.failures.len() as u32;
        (self.phase == Phase::OnTrial || counted >= passive.max_fails).then_some(counted)
    }

    /// A request succeeded: ends a trial. Failures in the window stay: every second request failing is a failing backend.
    pub fn succeed(&mut self) {
        if self.phase == Phase::OnTrial {
            *self = Self::default();
        }
    }

    /// Takes the backend out for a while.
    pub fn eject(&mut self, now: Time, eject_for: Duration) {
        self.failures.clear();
        self.phase = Phase::Ejected { until: now + eject_for };
    }

    /// Brings an ejected backend back, on trial.
    pub fn readmit(&mut self) {
        if self.is_ejected() {
            self.phase = Phase::OnTrial;
        }
    }

    /// Whether it is out now.
    pub fn is_ejected(&self) -> bool {
        matches!(self.phase, Phase::Ejected { .. })
    }

    /// When it is to be readmitted.
    pub fn until(&self) -> Option<Time> {
        match self.phase {
            Phase::Ejected { until } => Some(until),
            Phase::Trusted | Phase::OnTrial => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passive() -> Passive {
        Passive {
            max_fails: 2,
            fail_window: Duration::from_secs(30),
            eject_for: Duration::from_secs(10),
            max_ejected: 0.5,
        }
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn failures_outside_of_the_window_do_not_count() {
        let mut watch = Watch::default();
        assert_eq!(watch.fail(at(100), &passive()), None);
        assert_eq!(watch.fail(at(131), &passive()), None);
        assert_eq!(watch.fail(at(140), &passive()), Some(2));
    }

    #[test]
    fn success_between_failures_does_not_forget_them() {
        let mut watch = Watch::default();
        assert_eq!(watch.fail(at(1), &passive()), None);
        watch.succeed();
        assert_eq!(watch.fail(at(2), &passive()), Some(2));
    }

    #[test]
    fn first_failure_on_trial_ejects_again_and_a_success_ends_the_trial() {
        let mut watch = Watch::default();
        watch.eject(at(1), passive().eject_for);
        assert_eq!(watch.fail(at(2), &passive()), None);
        assert_eq!(watch.until(), Some(at(11)));
        watch.readmit();
        let mut trusted = watch.clone();
        assert_eq!(watch.fail(at(12), &passive()), Some(1));
        trusted.succeed();
        assert_eq!(trusted.fail(at(12), &passive()), None);
    }

    #[test]
    fn only_failures_of_the_backend_count() {
        let counted: Vec<_> = Reason::ALL.into_iter().filter(|&reason| counts(reason)).collect();
        let backends = [
            Reason::ConnectRefused,
            Reason::ConnectTimeout,
            Reason::ConnectReset,
            Reason::SendTimeout,
            Reason::ResponseTimeout,
            Reason::ResponseReset,
        ];
        assert_eq!(counted, backends);
    }

    #[test]
    fn share_allows_one_of_two_and_never_all() {
        let check = |backends, share, expect| assert_eq!(ejected_max(backends, share), expect);
        check(0, 1.0, 0);
        check(1, 1.0, 0);
        check(2, 0.0, 1);
        check(3, 0.5, 1);
        check(10, 0.5, 5);
        check(10, 1.0, 9);
        check(10, f64::NAN, 1);
    }

    proptest! {
        #[test]
        fn ejects_exactly_when_the_window_holds_enough(
            gaps in proptest::collection::vec(0u64..40, 1..40), max_fails in 1u32..5,
        ) {
            let passive = Passive { max_fails, ..passive() };
            let mut watch = Watch::default();
            let mut seen: Vec<u64> = Vec::new();
            let mut now = 100;
            for gap in gaps {
                now += gap;
                seen.push(now);
                let in_window = seen.iter().filter(|&&each| each + 30 >= now).count();
                let tripped = watch.fail(at(now), &passive).is_some();
                prop_assert_eq!(tripped, in_window >= max_fails as usize);
            }
        }
    }
}
