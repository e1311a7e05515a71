//! Probe and passive state machines, back-off. Pure.
