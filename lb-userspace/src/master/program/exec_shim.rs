//! The step between fork and the real program: `lbctl __exec`.
//!
//! Effectful. Runs before any runtime or thread exists, because it changes what belongs to the whole process.

use std::convert::Infallible;

/// The body of `lbctl __exec`: `main` calls it before anything else. Returns only when the program could not be started;
/// the master has been told then.
///
/// # Errors
/// What failed.
pub fn exec_shim() -> anyhow::Result<Infallible> {
    anyhow::bail!("the exec shim has not landed yet")
}
