//! A bounded table that is written through a shared reference and gives out references, as a map of the kernel does.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::rc::Rc;
use std::vec::Vec;

/// What happens to a new entry when the table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// It is refused: a hash map.
    Refuses,
    /// It takes the place of one that was not used for long: an LRU map.
    Evicts,
}

/// The table. A value is never changed: it is replaced, and the one before is kept until [`Memory::settle`].
#[derive(Debug)]
pub struct Memory<K, V> {
    entries: RefCell<HashMap<K, Entry<V>>>,
    /// Oldest first; a key that was used since it was written gets a second turn.
    turns: RefCell<VecDeque<K>>,
    /// Replaced or removed, but perhaps still referred to.
    replaced: RefCell<Vec<Rc<V>>>,
    entries_max: usize,
    full: Full,
}

#[derive(Debug)]
struct Entry<V> {
    value: Rc<V>,
    was_used: Cell<bool>,
}

impl<K: Copy + Eq + Hash, V> Memory<K, V> {
    /// A table that refuses what exceeds `entries_max`.
    pub fn refusing(entries_max: u32) -> Self {
        Self::new(entries_max, Full::Refuses)
    }

    /// A table whose least recently used entries go.
    pub fn evicting(entries_max: u32) -> Self {
        Self::new(entries_max, Full::Evicts)
    }

    fn new(entries_max: u32, full: Full) -> Self {
        Self {
            entries: RefCell::default(),
            turns: RefCell::default(),
            replaced: RefCell::default(),
            entries_max: entries_max as usize,
            full,
        }
    }

    /// The value, valid until the table is borrowed as mutable.
    pub fn get(&self, key: &K) -> Option<&V> {
        let entries = self.entries.borrow();
        let entry = entries.get(key)?;
        entry.was_used.set(true);
        let value = Rc::as_ptr(&entry.value);
        // SAFETY: no value is written while it is in an `Rc` of ours, and one that leaves `entries` stays alive in
        // `replaced`, which only `settle` empties, through a mutable reference that no result of `get` survives.
        Some(unsafe { &*value })
    }

    /// Writes an entry, whether there was one or not; false when there is no room.
    pub fn set(&self, key: &K, value: V) -> bool {
        let mut entries = self.entries.borrow_mut();
        if let Some(entry) = entries.get_mut(key) {
            let before = std::mem::replace(&mut entry.value, Rc::new(value));
            self.replaced.borrow_mut().push(before);
            return true;
        }
        if entries.len() >= self.entries_max && (self.full == Full::Refuses || !self.evict(&mut entries)) {
            return false;
        }
        entries.insert(*key, Entry { value: Rc::new(value), was_used: Cell::new(false) });
        self.turns.borrow_mut().push_back(*key);
        true
    }

    /// Writes an entry where there is none; false when there is one, or no room.
    pub fn add(&self, key: &K, value: V) -> bool {
        !self.entries.borrow().contains_key(key) && self.set(key, value)
    }

    /// Removes an entry; false when there is none.
    pub fn remove(&self, key: &K) -> bool {
        let Some(entry) = self.entries.borrow_mut().remove(key) else { return false };
        self.replaced.borrow_mut().push(entry.value);
        true
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every entry.
    pub fn entries(&self) -> Vec<(K, V)>
    where
        V: Copy,
    {
        self.entries.borrow().iter().map(|(key, entry)| (*key, *entry.value)).collect()
    }

    /// Frees what was replaced. Call it between frames.
    pub fn settle(&mut self) {
        self.replaced.get_mut().clear();
        // Keys of entries that were removed wait for their turn, but not without bound.
        let (turns, entries) = (self.turns.get_mut(), self.entries.get_mut());
        if turns.len() > 2 * entries.len() + 64 {
            let mut seen = std::collections::HashSet::new();
            turns.retain(|key| entries.contains_key(key) && seen.insert(*key));
        }
    }

    fn evict(&self, entries: &mut HashMap<K, Entry<V>>) -> bool {
        let mut turns = self.turns.borrow_mut();
        while let Some(key) = turns.pop_front() {
            let Some(entry) = entries.get(&key) else { continue };
            if entry.was_used.take() {
                turns.push_back(key);
            } else if let Some(entry) = entries.remove(&key) {
                self.replaced.borrow_mut().push(entry.value);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_keeps_the_value_it_was_taken_of() {
        let memory = Memory::refusing(1);
        assert!(memory.set(&1, 10));
        let first = memory.get(&1).expect("was just written");
        assert!(memory.set(&1, 20) && memory.remove(&1));
        assert_eq!((*first, memory.get(&1)), (10, None));
    }

    #[test]
    fn full_table_refuses_or_evicts_who_was_not_used() {
        let memory = Memory::refusing(1);
        assert!(memory.add(&1, 10) && !memory.add(&1, 11) && !memory.add(&2, 20));
        let memory = Memory::evicting(2);
        assert!(memory.add(&1, 10) && memory.add(&2, 20) && memory.get(&1) == Some(&10));
        assert!(memory.add(&3, 30));
        assert_eq!((memory.get(&1), memory.get(&2), memory.get(&3)), (Some(&10), None, Some(&30)));
    }

    #[test]
    fn table_is_bounded_when_entries_come_and_go() {
        let mut memory = Memory::evicting(4);
        for key in 0..10_000 {
            assert!(memory.set(&key, key) && memory.remove(&key));
            memory.settle();
        }
        assert!(memory.is_empty() && memory.turns.borrow().len() <= 64);
    }
}
