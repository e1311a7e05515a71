//! The acceptance scenarios, shared by tests (short) and benches (full length).
