//! The rules of `step`, one by one.
