//! The capability matrix: what of this machine is in use, what is not, why, and what to change.

use super::node::Master;
use crate::control::protocol::Capability;

/// Open files below which a busy node runs out of descriptors.
const OPEN_FILES_WANTED: u64 = 65_536;

impl Master<'_> {
    /// All rows.
    pub fn capabilities(&self) -> Vec<Capability> {
        let mut rows = self.kernel.capabilities().to_vec();
        rows.extend(self.steer.capabilities());
        rows.extend(self.cgroups.capabilities());
        rows.push(self.user_switch());
        rows.push(open_files());
        rows.push(low_ports());
        rows.extend(self.lost_limits());
        rows
    }

    fn user_switch(&self) -> Capability {
        let on = rustix::process::geteuid().is_root();
        let (_, user) = self.workers.user();
        Capability {
            name: "user_switch".into(),
            on,
            why: if on {
                format!("workers run as {user}")
            } else {
                "not root: everything runs as the same user".into()
            },
            remedy: if on { String::new() } else { "run lbctl up as root".into() },
        }
    }

    /// Limits that the configuration asks for and this machine cannot keep.
    fn lost_limits(&self) -> Vec<Capability> {
        let lost = |program: &crate::config::model::Program| {
            let lost = self.cgroups.lost_limits(&program.limits);
            (!lost.is_empty()).then(|| Capability {
                name: format!("limits of {}", program.name),
                on: false,
                why: format!("not kept: {}", lost.join(", ")),
                remedy: "see limits".into(),
            })
        };
        self.model.programs.values().filter_map(lost).collect()
    }
}

fn open_files() -> Capability {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let on = limit >= OPEN_FILES_WANTED;
    Capability {
        name: "open_files".into(),
        on,
        why: format!("master and workers may each open {limit} files"),
        remedy: if on {
            String::new()
        } else {
            format!("raise the hard limit (ulimit -Hn) to {OPEN_FILES_WANTED} or more")
        },
    }
}

fn low_ports() -> Capability {
    let on = rustix::process::geteuid().is_root();
    Capability {
        name: "low_ports".into(),
        on,
        why: if on {
            "listeners may use ports below 1024".into()
        } else {
            "not root: ports below 1024 are refused".into()
        },
        remedy: if on {
            String::new()
        } else {
            "run as root, or lower net.ipv4.ip_unprivileged_port_start".into()
        },
    }
}
