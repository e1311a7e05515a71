//! The embedded demonstration: its configuration and its backend program.
