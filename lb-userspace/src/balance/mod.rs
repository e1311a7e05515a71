//! How a backend is chosen. Pure.
