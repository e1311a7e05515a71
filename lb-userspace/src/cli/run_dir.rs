//! Where the master keeps its control socket and what it remembers.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The run folder: the one asked for, else the default of the user. `runtime_dir` is `$XDG_RUNTIME_DIR`.
pub fn run_dir(asked: Option<&Path>, uid: u32, runtime_dir: Option<&OsStr>) -> PathBuf {
    match (asked, runtime_dir) {
        (Some(asked), _) => asked.to_owned(),
        (None, _) if uid == 0 => PathBuf::from("/run/lbctl"),
        (None, Some(folder)) if !folder.is_empty() => Path::new(folder).join("lbctl"),
        (None, _) => PathBuf::from(format!("/tmp/lbctl-{uid}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(asked: Option<&str>, uid: u32, runtime_dir: Option<&str>, expect: &str) {
        assert_eq!(run_dir(asked.map(Path::new), uid, runtime_dir.map(OsStr::new)), Path::new(expect));
    }

    #[test]
    fn the_folder_depends_on_who_asks() {
        check(Some("/a"), 0, Some("/run/user/0"), "/a");
        check(None, 0, Some("/run/user/0"), "/run/lbctl");
        check(None, 1000, Some("/run/user/1000"), "/run/user/1000/lbctl");
        check(None, 1000, Some(""), "/tmp/lbctl-1000");
        check(None, 1000, None, "/tmp/lbctl-1000");
    }
}
