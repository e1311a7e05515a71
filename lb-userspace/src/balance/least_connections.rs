//! Fewest active requests per weight; equals take turns, so that an idle upstream is not always entered at its first backend.

use super::Candidate;
use super::round_robin::RoundRobin;

/// The `index` of the least loaded.
pub(super) fn choose(
    turns: &mut RoundRobin,
    candidates: &[Candidate],
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let least = candidates.iter().filter(|candidate| candidate.weight > 0).min_by(|a, b| load_order(a, b));
    let Some(least) = least else { return turns.choose(candidates, rng) };
    let is_least = |candidate: &&Candidate| candidate.weight > 0 && load_order(candidate, least).is_eq();
    let equals: Vec<Candidate> = candidates.iter().filter(is_least).copied().collect();
    turns.choose(&equals, rng)
}

/// Compares active/weight without division.
fn load_order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let left = u64::from(a.active) * u64::from(b.weight);
    left.cmp(&(u64::from(b.active) * u64::from(a.weight)))
}
