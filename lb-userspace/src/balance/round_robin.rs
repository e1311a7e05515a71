//! Smooth weighted round robin: in a row of as many choices as the weights sum up to, each backend gets exactly its weight, and
//! heavy ones are spread out. The method is the one that nginx made known: everybody gains its weight, the richest is chosen and pays the sum.

use super::Candidate;

/// Whose turn it is. The credit of a backend that leaves for a while is kept, so that a change of the set does not start
/// the round anew for the others.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    credits: Vec<Credit>,
}

#[derive(Clone, Copy, Debug)]
struct Credit {
    key: u64,
    amount: i64,
}

impl RoundRobin {
    /// The `index` of the next in turn.
    pub(super) fn choose(&mut self, candidates: &[Candidate], rng: &mut fastrand::Rng) -> Option<usize> {
        if candidates.len() < 2 {
            return candidates.first().map(|candidate| candidate.index);
        }
        if self.credits.is_empty() {
            // Threads that start together would all begin with the same backend.
            for _ in 0..rng.usize(..candidates.len()) {
                self.step(candidates);
            }
        }
        Some(self.step(candidates))
    }

    fn step(&mut self, candidates: &[Candidate]) -> usize {
        self.forget_strangers(candidates);
        let correction = self.correction(candidates);
        let floor = u32::from(candidates.iter().all(|candidate| candidate.weight == 0));
        let mut total = 0;
        let mut best: Option<(i64, usize, usize)> = None;
        for (hint, candidate) in candidates.iter().enumerate() {
            let weight = i64::from(candidate.weight.max(floor));
            total += weight;
            let place = self.place(candidate.key, hint);
            self.credits[place].amount += weight - correction;
            let amount = self.credits[place].amount;
            if weight > 0 && best.is_none_or(|(richest, ..)| amount > richest) {
                best = Some((amount, place, candidate.index));
            }
        }
        let (_, place, index) = best.expect("the floor gives somebody a weight");
        self.credits[place].amount -= total;
        index
    }

    /// What each candidate has too much. The credits of a steady set sum up to nothing; those of a set that lost or gained members
    /// do not, and without correction what is left over would grow with every change.
    fn correction(&mut self, candidates: &[Candidate]) -> i64 {
        let mut sum = 0;
        for (hint, candidate) in candidates.iter().enumerate() {
            let place = self.place(candidate.key, hint);
            sum += self.credits[place].amount;
        }
        sum / candidates.len() as i64
    }

    /// Where the credit of `key` is: at `hint` while the set is steady.
    fn place(&mut self, key: u64, hint: usize) -> usize {
        if self.credits.get(hint).is_some_and(|credit| credit.key == key) {
            return hint;
        }
        self.credits.iter().position(|credit| credit.key == key).unwrap_or_else(|| {
            self.credits.push(Credit { key, amount: 0 });
            self.credits.len() - 1
        })
    }

    /// Bounds what is remembered by twice the set.
    fn forget_strangers(&mut self, candidates: &[Candidate]) {
        if self.credits.len() > 2 * candidates.len() + 8 {
            self.credits.retain(|credit| candidates.iter().any(|candidate| candidate.key == credit.key));
        }
    }
}
