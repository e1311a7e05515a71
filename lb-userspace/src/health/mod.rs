//! Probe and passive state machines, back-off. Pure: time and randomness come in as arguments.

pub mod back_off;
pub mod counter;
pub mod passive;
pub mod warming;
