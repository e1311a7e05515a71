//! The privileged process: one loop that turns what happens into events, asks `state::step`, and performs the effects.

pub mod kernel;
