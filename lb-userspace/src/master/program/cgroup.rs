//! The product's cgroup (v2) and a leaf for each process in it: who belongs to an instance, what it may use, and its end.
//!
//! Effectful: writes the cgroup file system. Where there is none that we may write, process groups take its place and
//! [`Cgroups::capabilities`] says what is lost.

#![expect(clippy::disallowed_methods, reason = "the cgroup file system is read and written here")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::model::Limits;
use crate::control::protocol::Capability;

/// Microseconds of the period that `cpu.max` counts in; the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// The product's cgroup, if there is one.
pub struct Cgroups {
    product: Option<PathBuf>,
    controllers: Vec<&'static str>,
    why_no_cgroup: String,
    why_no_limits: String,
}

/// The cgroup of one life of one process.
pub struct Leaf {
    path: PathBuf,
    directory: OwnedFd,
    id: u64,
}

impl Cgroups {
    /// Makes the product's cgroup for this run folder, in the first place where that is allowed.
    pub fn set_up(run_dir: &Path) -> Self {
        let mut none = Self {
            product: None,
            controllers: Vec::new(),
            why_no_cgroup: "no cgroup v2 file system is mounted".into(),
            why_no_limits: "there is no cgroup".into(),
        };
        let Some(place) = Place::find() else { return none };
        for parent in place.parents() {
            let product = parent.join(product_name(run_dir));
            match make_folder(&product) {
                Ok(()) => {
                    let (controllers, why_no_limits) = enable_controllers(&parent, &product);
                    return Self {
                        product: Some(product),
                        controllers,
                        why_no_cgroup: String::new(),
                        why_no_limits,
                    };
                }
                Err(error) => none.why_no_cgroup = format!("create {}: {error}", product.display()),
            }
        }
        none
    }

    /// No cgroup at all, for a reason.
    pub fn none(why: &str) -> Self {
        Self {
            product: None,
            controllers: Vec::new(),
            why_no_cgroup: why.to_owned(),
            why_no_limits: "there is no cgroup".into(),
        }
    }

    /// The folder of the product's cgroup.
    pub fn product(&self) -> Option<&Path> {
        self.product.as_deref()
    }

    /// A new leaf; `None` where there are no cgroups.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn leaf(&self, name: &str) -> io::Result<Option<Leaf>> {
        self.product.as_ref().map(|product| Leaf::create(product.join(name))).transpose()
    }

    /// Ends whatever is in it and removes it.
    ///
    /// # Errors
    /// What the operating system says, when something is still in it after a second.
    pub async fn remove(&self) -> io::Result<()> {
        match &self.product {
            Some(product) => remove_tree(product).await,
            None => Ok(()),
        }
    }

    /// Rows of the capability matrix.
    pub fn capabilities(&self) -> Vec<Capability> {
        let cgroup = match &self.product {
            Some(product) => Capability {
                name: "cgroup".into(),
                on: true,
                why: format!("each process has a leaf in {}", product.display()),
                remedy: String::new(),
            },
            None => Capability {
                name: "cgroup".into(),
                on: false,
                why: format!(
                    "{}; process groups are used, a process that leaves its group is not ended",
                    self.why_no_cgroup
                ),
                remedy: "run as root, or under systemd with Delegate=yes, on a kernel with cgroup v2".into(),
            },
        };
        let all = self.controllers.len() == CONTROLLERS.len();
        let limits = Capability {
            name: "limits".into(),
            on: all,
            why: if all {
                format!("controllers {}", self.controllers.join(" "))
            } else {
                format!("controllers in use: {}; {}", listed(&self.controllers), self.why_no_limits)
            },
            remedy: if all {
                String::new()
            } else {
                "boot with all controllers in cgroup v2 (systemd.unified_cgroup_hierarchy=1)".into()
            },
        };
        vec![cgroup, limits]
    }

    /// The limits of a program that cannot be kept here.
    pub fn lost_limits(&self, limits: &Limits) -> Vec<&'static str> {
        let asked = [
            ("memory", limits.memory_bytes.is_some()),
            ("cpu", limits.cpu_cores.is_some()),
            ("pids", limits.pids.is_some()),
        ];
        asked
            .iter()
            .filter(|(name, asked)| *asked && !self.controllers.contains(name))
            .map(|(name, _)| *name)
            .collect()
    }
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

/// `lbctl-` and 64 bits of FNV-1a over the run folder: the same for the next master of the same run folder.
fn product_name(run_dir: &Path) -> String {
    let hash = run_dir.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("lbctl-{hash:016x}")
}

/// Where a master of this run folder may have left its cgroup.
pub fn product_folders(run_dir: &Path) -> Vec<PathBuf> {
    let parents = Place::find().map(|place| place.parents()).unwrap_or_default();
    parents.into_iter().map(|parent| parent.join(product_name(run_dir))).collect()
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Where cgroup v2 is and where we are in it.
struct Place {
    mount: PathBuf,
    own: PathBuf,
}

impl Place {
    fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mount = mounts.lines().find_map(cgroup2_mount)?;
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let below = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let own = mount.join(below);
        Some(Self { own: if own.is_dir() { own } else { mount.clone() }, mount })
    }

    /// Our own cgroup when it was delegated to us; the top for root; our own for others.
    fn parents(&self) -> Vec<PathBuf> {
        if is_delegated(&self.own) || !rustix::process::geteuid().is_root() {
            return vec![self.own.clone()];
        }
        vec![self.mount.clone(), self.own.clone()]
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

/// systemd marks what it delegates (`Delegate=yes`) with an extended attribute.
fn is_delegated(own: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(own, *name, &mut value).is_ok_and(|length| value[..length] == *b"1")
    })
}

/// Turns on what limits need, from the parent down; says what is on, and why others are not.
fn enable_controllers(parent: &Path, product: &Path) -> (Vec<&'static str>, String) {
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

/// Ends what is in a product cgroup that an earlier master left, or ours at the end, and removes it.
///
/// # Errors
/// What the operating system says, when something is still in it after a second.
pub async fn remove_tree(product: &Path) -> io::Result<()> {
    if !product.is_dir() {
        return Ok(());
    }
    // Ends everything below it too.
    fs::write(product.join("cgroup.kill"), "1")?;
    let mut last = Ok(());
    for _ in 0..200 {
        last = remove_leaves(product).and_then(|()| fs::remove_dir(product));
        match &last {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => break,
        }
    }
    last
}

fn remove_leaves(product: &Path) -> io::Result<()> {
    for entry in fs::read_dir(product)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_leaves(&entry.path())?;
            fs::remove_dir(entry.path())?;
        }
    }
    Ok(())
}

impl Leaf {
    fn create(path: PathBuf) -> io::Result<Self> {
        make_folder(&path)?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())?;
        // On a 64-bit kernel the inode number of a cgroup is its id, as `bpf_get_current_cgroup_id` gives it.
        let id = rustix::fs::fstat(&directory)?.st_ino;
        Ok(Self { path, directory, id })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its folder, for `CLONE_INTO_CGROUP`.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// What kernel programs call it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sets what can be limited here.
    ///
    /// # Errors
    /// What the operating system says; a controller that is not there is no error (see [`Cgroups::lost_limits`]).
    pub fn limit(&self, limits: &Limits) -> io::Result<()> {
        if let Some(bytes) = limits.memory_bytes {
            self.set("memory.max", &bytes.to_string())?;
            // Swapping a backend to death is no better than ending it.
            self.set("memory.swap.max", "0")?;
            self.set("memory.oom.group", "1")?;
        }
        if let Some(cores) = limits.cpu_cores {
            let quota_us = (cores * CPU_PERIOD_US as f64).max(1_000.0) as u64;
            self.set("cpu.max", &format!("{quota_us} {CPU_PERIOD_US}"))?;
        }
        if let Some(pids) = limits.pids {
            self.set("pids.max", &pids.to_string())?;
        }
        Ok(())
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        match fs::write(self.path.join(file), value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && !self.path.join(file).exists() =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Puts a process into it; the slow way, where `CLONE_INTO_CGROUP` does not work.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn take_in(&self, pid: u32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// Ends everything in it, forks in progress included.
    ///
    /// # Errors
    /// What the operating system says (Linux before 5.14 has no `cgroup.kill`).
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Whether a process, not yet reaped ones aside, is in it.
    pub fn is_populated(&self) -> bool {
        self.number("cgroup.events", "populated") == Some(1)
    }

    /// How often the kernel ended something in it for memory.
    pub fn oom_kills(&self) -> u64 {
        self.number("memory.events", "oom_kill").unwrap_or(0)
    }

    fn number(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    }

    /// Removes it.
    ///
    /// # Errors
    /// What the operating system says: `ResourceBusy` while something is in it.
    pub fn remove(&self) -> io::Result<()> {
        remove_leaves(&self.path)?;
        fs::remove_dir(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_beside_and_instead_of_version_1() {
        let hybrid = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let shared = "35 25 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount(shared), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_mount("39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"), None);
        assert_eq!(cgroup2_mount("1 1 0:1 / /my\\040cgroup rw - cgroup2 none rw"), Some("/my cgroup".into()));
    }

    #[test]
    fn product_name_depends_on_the_run_folder_alone() {
        assert_eq!(product_name(Path::new("/run/lbctl")), product_name(Path::new("/run/lbctl")));
        assert_ne!(product_name(Path::new("/run/lbctl")), product_name(Path::new("/run/lbctl2")));
    }
}
