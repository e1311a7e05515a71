//! The kernel half: loads, attaches and feeds the BPF programs, and says what of it works here.
