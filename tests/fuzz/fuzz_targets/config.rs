//! Any text is either a configuration or a report that renders; nothing panics, and a model survives its journey.
//!
//! `cargo xtask fuzz`, or by hand in the top folder:
//! `cargo +nightly fuzz run --sanitizer none --fuzz-dir tests/fuzz config tests/fuzz/corpus/config tests/fixtures/config -- -max_total_time=60`
//! (the second folder gives the wrong files of the golden tests as seeds). The release profile links slowly: set
//! `CARGO_PROFILE_RELEASE_LTO=off` on a small machine.

#![no_main]

use std::path::Path;

use lb_userspace::config::{model::Model, read_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The folder does not exist, so that an `include` finds nothing of this machine.
    let text = String::from_utf8_lossy(bytes);
    match read_text("lb.toml", &text, Path::new("/nonexistent/folder")) {
        Ok(loaded) => {
            let json = serde_json::to_string(&loaded.model).expect("a model is plain data");
            assert_eq!(serde_json::from_str::<Model>(&json).expect("it was written by us"), loaded.model);
            assert!(!loaded.warnings.render(false, 100).is_empty());
        }
        Err(report) => {
            assert!(report.has_errors());
            assert!(!report.render(true, 80).is_empty());
            assert_eq!(report.entries().len(), report.len());
        }
    }
});
