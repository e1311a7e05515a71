//! What is, what should be, and what to do about it. Pure.

pub mod event;
