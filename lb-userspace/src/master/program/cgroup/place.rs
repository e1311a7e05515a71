//! Where cgroup v2 is mounted, where we are in it and may make our own, and the controllers that can be handed down.
//!
//! Effectful: reads `/proc`, writes the cgroup file system.

#![expect(clippy::disallowed_methods, reason = "/proc and the cgroup file system are read and written here")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::make_folder;

/// The controllers that limits need.
pub const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Where cgroup v2 is and where we are in it.
pub struct Place {
    mount: PathBuf,
    own: PathBuf,
}

impl Place {
    /// `None` where no cgroup v2 is mounted.
    pub fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mount = mounts.lines().find_map(cgroup2_mount)?;
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let below = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let own = mount.join(below);
        Some(Self { own: if own.is_dir() { own } else { mount.clone() }, mount })
    }

    /// What was delegated to us; else the top for root, and our own cgroup for others.
    pub fn parents(&self) -> Vec<PathBuf> {
        match delegated(&self.own, is_delegated) {
            Some(ours) => vec![ours.to_owned()],
            None if rustix::process::geteuid().is_root() => vec![self.mount.clone(), self.own.clone()],
            None => vec![self.own.clone()],
        }
    }
}

/// The mount point, if a line of mountinfo is a cgroup v2 mount (proc(5): fields, ` - `, type).
fn cgroup2_mount(line: &str) -> Option<PathBuf> {
    let (fields, kind) = line.split_once(" - ")?;
    if kind.split(' ').next() != Some("cgroup2") {
        return None;
    }
    let point = fields.split(' ').nth(4)?;
    Some(PathBuf::from(point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
}

/// Our own cgroup, or the one around it where systemd put us in a part of what it delegates (`DelegateSubgroup=`).
fn delegated(own: &Path, is_delegated: impl Fn(&Path) -> bool) -> Option<&Path> {
    own.ancestors().take(2).find(|folder| is_delegated(folder))
}

/// systemd marks what it delegates (`Delegate=yes`) with an extended attribute.
fn is_delegated(own: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(own, *name, &mut value).is_ok_and(|length| value[..length] == *b"1")
    })
}

/// Turns on what limits need, from the parent down; says what is on, and why others are not.
pub fn enable_controllers(parent: &Path, product: &Path) -> (Vec<&'static str>, String) {
    let available = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
    let mut why = String::new();
    let mut enabled = Vec::new();
    for name in CONTROLLERS {
        if !available.split_whitespace().any(|other| other == name) {
            why = format!(
                "this machine's cgroup v2 offers only: {}",
                listed(&available.split_whitespace().collect::<Vec<_>>())
            );
            continue;
        }
        match enable(parent, name).and_then(|()| enable(product, name)) {
            Ok(()) => enabled.push(name),
            Err(error) => why = format!("enable {name} in {}: {error}", parent.display()),
        }
    }
    (enabled, why)
}

fn enable(folder: &Path, controller: &str) -> io::Result<()> {
    let control = folder.join("cgroup.subtree_control");
    match fs::write(&control, format!("+{controller}")) {
        // "No internal processes": a cgroup that has processes cannot hand controllers to its children.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && holds_only_us(folder) => {
            let leaf = folder.join("master");
            make_folder(&leaf)?;
            fs::write(leaf.join("cgroup.procs"), "0")?;
            fs::write(&control, format!("+{controller}"))
        }
        other => other,
    }
}

fn holds_only_us(folder: &Path) -> bool {
    let ours = std::process::id().to_string();
    fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|pids| pids.lines().all(|pid| pid == ours))
}

/// `memory cpu`, or `none`.
pub fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_is_found_from_the_subgroup_that_systemd_puts_us_in() {
        let unit = Path::new("/sys/fs/cgroup/system.slice/lbctl.service");
        let found = |own: &str| delegated(Path::new(own), |folder| folder == unit).map(Path::to_owned);
        assert_eq!(found("/sys/fs/cgroup/system.slice/lbctl.service").as_deref(), Some(unit));
        assert_eq!(found("/sys/fs/cgroup/system.slice/lbctl.service/master").as_deref(), Some(unit));
        assert_eq!(found("/sys/fs/cgroup/system.slice/lbctl.service/a/b"), None);
        assert_eq!(found("/sys/fs/cgroup/system.slice"), None);
    }

    #[test]
    fn cgroup2_is_found_beside_and_instead_of_version_1() {
        let hybrid = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let shared = "35 25 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount(shared), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_mount("39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"), None);
        assert_eq!(cgroup2_mount("1 1 0:1 / /my\\040cgroup rw - cgroup2 none rw"), Some("/my cgroup".into()));
    }
}
