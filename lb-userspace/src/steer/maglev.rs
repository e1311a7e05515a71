//! Maglev: which backend each row of a lookup table leads to (Eisenbud et al., NSDI 2016, section 3.4), with weights.
//!
//! A function of identities and weights alone, so that every node with the same configuration fills its table alike.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::identity::mixed;

/// A backend as the table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// [`super::identity::of_backend`]; no two members have the same.
    pub identity: u64,
    /// Its share relative to the others, up to [`WEIGHT_MAX`]; 0 gets nothing.
    pub weight: u32,
}

/// A row of a table without members.
pub const NO_MEMBER: u16 = u16::MAX;
/// The greatest weight that is told from a smaller one.
pub const WEIGHT_MAX: u32 = 1 << 16;

/// For each row the index of a member; [`NO_MEMBER`] where none has weight. `rows` is a prime.
///
/// Each member has an order of its own in which it wants rows, and takes the next free one of it whenever it is its turn. Turns
/// come at the times 1/w, 3/w, 5/w, … of a member of weight w, so the number of rows is as near to its share as whole rows
/// can be (Webster's method), and the turns of two members do not depend on a third: who leaves disturbs little.
pub fn table(members: &[Member], rows: u32) -> Vec<u16> {
    let mut table = vec![NO_MEMBER; rows as usize];
    let mut preferences: Vec<Preference> =
        members.iter().map(|member| Preference::of(member.identity, rows)).collect();
    let mut turns: BinaryHeap<Reverse<Turn>> =
        members.iter().enumerate().filter_map(|(index, member)| Turn::first(index, *member)).collect();
    for _ in 0..rows {
        let Some(mut turn) = turns.peek_mut() else { break };
        let index = turn.0.member as usize;
        if let (Some(preference), Some(member)) = (preferences.get_mut(index), members.get(index)) {
            preference.take_free(&mut table, turn.0.member);
            turn.0.follow(*member);
        }
    }
    table
}

/// The order in which a member wants rows: from an offset on in steps that are prime to the number of rows.
struct Preference {
    next: u32,
    step: u32,
    rows: u32,
}

impl Preference {
    fn of(identity: u64, rows: u32) -> Self {
        let below = |hash: u64, bound: u32| ((u128::from(hash) * u128::from(bound)) >> 64) as u32;
        let step = if rows > 1 { 1 + below(mixed(identity ^ STEP_SEED), rows - 1) } else { 1 };
        Self { next: below(mixed(identity), rows), step, rows }
    }

    /// Takes the first free row of those that are left. There is one: each row is met once in `rows` steps.
    fn take_free(&mut self, table: &mut [u16], member: u16) {
        for _ in 0..self.rows {
            let row = self.next;
            self.next =
                if row >= self.rows - self.step { row - (self.rows - self.step) } else { row + self.step };
            if let Some(free) = table.get_mut(row as usize).filter(|row| **row == NO_MEMBER) {
                *free = member;
                return;
            }
        }
    }
}

/// When a member takes a row. The earliest comes first, the lower identity at the same time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    at: u64,
    identity: u64,
    taken: u32,
    member: u16,
}

impl Turn {
    fn first(index: usize, member: Member) -> Option<Reverse<Self>> {
        let index = u16::try_from(index).ok().filter(|index| *index != NO_MEMBER && member.weight > 0)?;
        Some(Reverse(Self { at: at(0, member.weight), identity: member.identity, taken: 0, member: index }))
    }

    fn follow(&mut self, member: Member) {
        self.taken += 1;
        self.at = at(self.taken, member.weight);
    }
}

/// The time of a member's turn after `taken` others. 2 × 131,071 turns and 40 bits of fraction fit into 64 bits.
fn at(taken: u32, weight: u32) -> u64 {
    ((2 * u64::from(taken) + 1) << 40) / u64::from(weight.min(WEIGHT_MAX))
}

const STEP_SEED: u64 = 0x6d61_676c_6576_2121;

#[cfg(test)]
mod tests;
