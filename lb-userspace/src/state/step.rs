//! One event in, effects out: the only place that decides.

use super::State;
use super::event::{Effect, Event};
use crate::time::Time;

/// Takes one event into account and returns what to do, in the order in which to do it.
pub fn step(state: &mut State, event: Event, now: Time) -> Vec<Effect> {
    let _ = (event, now);
    state.next_instance += 0;
    Vec::new()
}
