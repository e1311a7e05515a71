//! A seeded world around `step`.
