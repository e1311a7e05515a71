//! The product's cgroup (v2) and a leaf for each process in it: who belongs to an instance, what it may use, and its end.
//!
//! Effectful: writes the cgroup file system. Where there is none that we may write, process groups take its place and
//! [`Cgroups::capabilities`] says what is lost.

#![expect(clippy::disallowed_methods, reason = "the cgroup file system is read and written here")]

mod leaf;
mod place;

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use leaf::Leaf;
use place::{CONTROLLERS, Place, enable_controllers, listed};

use crate::config::model::Limits;
use crate::control::protocol::Capability;

/// The product's cgroup, if there is one.
pub struct Cgroups {
    product: Option<PathBuf>,
    controllers: Vec<&'static str>,
    why_no_cgroup: String,
    why_no_limits: String,
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

    /// Removes its folder if nothing is in it: it was not put to use.
    pub fn leave_alone(&self) {
        let _ = self.product.as_ref().map(fs::remove_dir);
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

/// Ends what is in a product cgroup that an earlier master left, or ours at the end, and removes it.
///
/// # Errors
/// What the operating system says, when something is still in it after a second.
pub async fn remove_tree(product: &Path) -> io::Result<()> {
    empty_tree(product).await?;
    match fs::remove_dir(product) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Ends what is in a product cgroup, and removes all but its own folder.
///
/// # Errors
/// What the operating system says, when something is still in it after a second.
pub async fn empty_tree(product: &Path) -> io::Result<()> {
    if !product.is_dir() {
        return Ok(());
    }
    // Ends everything below it too.
    fs::write(product.join("cgroup.kill"), "1")?;
    let mut last = Ok(());
    for _ in 0..200 {
        last = remove_leaves(product);
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

/// Whether there is a leaf in it.
pub fn holds_leaves(product: &Path) -> bool {
    let mut entries = fs::read_dir(product).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_name_depends_on_the_run_folder_alone() {
        assert_eq!(product_name(Path::new("/run/lbctl")), product_name(Path::new("/run/lbctl")));
        assert_ne!(product_name(Path::new("/run/lbctl")), product_name(Path::new("/run/lbctl2")));
    }
}
