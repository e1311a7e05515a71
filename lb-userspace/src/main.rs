//! The `lbctl` program: chooses which of its roles this process plays. The roles themselves are in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("demo-backend") => lb_userspace::demo::backend::main(),
        _ => lb_userspace::cli::main(),
    }
}
