//! Slow start: a backend that comes back gets more and more until it has its whole share. Pure.
//!
//! Weights are whole numbers, mostly 1, so every weight of an upstream with slow start is multiplied: by [`STEPS`] in the end, by
//! less before.

use std::time::Duration;

use crate::time::Time;

/// What a backend that has warmed up counts its weight by.
pub const STEPS: u32 = 10;

/// How far one backend is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warming {
    /// How long it takes; zero: no slow start.
    takes: Duration,
    since: Option<Time>,
}

impl Warming {
    /// How long it takes from now on; one that has begun goes on.
    pub fn set(&mut self, takes: Duration) {
        self.takes = takes;
    }

    /// The backend is back.
    pub fn begin(&mut self, now: Time) {
        self.since = (!self.takes.is_zero()).then_some(now);
    }

    /// It is not there any more.
    pub fn end(&mut self) {
        self.since = None;
    }

    /// Whether it does not have its whole share yet.
    pub fn is_going_on(&self, now: Time) -> bool {
        self.step(now) < STEPS
    }

    /// What its weight is multiplied by, from 1 on.
    pub fn share(&self, now: Time) -> u32 {
        if self.takes.is_zero() { 1 } else { self.step(now) }
    }

    /// When it gets more; `None` where that is not to come.
    pub fn next(&self, now: Time) -> Option<Time> {
        let since = self.since.filter(|_| self.is_going_on(now))?;
        let nanos = (self.takes.as_nanos() * u128::from(self.step(now))).div_ceil(u128::from(STEPS - 1));
        Some(since + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// One step in each ninth of the time.
    fn step(&self, now: Time) -> u32 {
        let Some(since) = self.since.filter(|_| !self.takes.is_zero()) else { return STEPS };
        let steps = now.since(since).as_nanos() * u128::from(STEPS - 1) / self.takes.as_nanos();
        u32::try_from(steps).map_or(STEPS, |steps| STEPS.min(steps.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_grows_in_equal_steps_to_the_whole() {
        let mut warming = Warming::default();
        let mut now = Time(5);
        assert_eq!((warming.share(now), warming.is_going_on(now), warming.next(now)), (1, false, None));
        warming.set(Duration::from_secs(18));
        assert_eq!((warming.share(now), warming.next(now)), (STEPS, None), "it was there all along");
        warming.begin(now);
        let mut shares = vec![warming.share(now)];
        while let Some(next) = warming.next(now) {
            assert_eq!(next, now + Duration::from_secs(2));
            now = next;
            shares.push(warming.share(now));
        }
        assert_eq!(shares, (1..=STEPS).collect::<Vec<_>>());
        assert!(!warming.is_going_on(now));
    }

    #[test]
    fn odd_times_come_to_an_end() {
        let mut warming = Warming::default();
        for takes in [Duration::from_nanos(1), Duration::from_nanos(100), Duration::from_millis(77_777)] {
            let mut now = Time(3);
            warming.set(takes);
            warming.begin(now);
            for _ in 0..STEPS {
                let Some(next) = warming.next(now) else { break };
                assert!(next > now);
                now = next;
            }
            assert_eq!(warming.next(now), None, "{takes:?}");
            assert_eq!(warming.share(now), STEPS);
        }
    }
}
