//! Fewest active requests per weight; equals take turns, so that an idle upstream is not always entered at its first backend.

use super::Candidate;
use super::round_robin::RoundRobin;

/// Whose turn it is among equals.
#[derive(Clone, Debug, Default)]
pub struct LeastConnections {
    turns: RoundRobin,
    /// The equals of a choice; kept so that a choice allocates nothing.
    equals: Vec<Candidate>,
}

impl LeastConnections {
    /// The `index` of the least loaded.
    pub(super) fn choose(&mut self, candidates: &[Candidate], rng: &mut fastrand::Rng) -> Option<usize> {
        let weighted = || candidates.iter().filter(|candidate| candidate.weight > 0);
        let Some(least) = weighted().min_by(|a, b| load_order(a, b)) else {
            return self.turns.choose(candidates, rng);
        };
        self.equals.clear();
        self.equals.extend(weighted().filter(|candidate| load_order(candidate, least).is_eq()));
        self.turns.choose(&self.equals, rng)
    }
}

/// Compares active/weight without division.
fn load_order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let left = u64::from(a.active) * u64::from(b.weight);
    left.cmp(&(u64::from(b.active) * u64::from(a.weight)))
}
