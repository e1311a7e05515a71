//! The configuration: file as written → validated model.

pub mod model;
