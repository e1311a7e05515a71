//! What this host allows, judged from facts that anybody may read: the part of `lbctl doctor` that needs no master.

use std::path::PathBuf;

use crate::control::protocol::Capability;

/// Descriptors for every client with a backend connection, and some for everything else.
const OPEN_FILES_WANTED: u64 = 2 * crate::limits::CONNECTIONS_MAX as u64 + 1024;

/// Ports that the master chooses from for `address = "HOST:0"`.
const CHOSEN_PORTS: std::ops::Range<u32> = 20_000..32_768;

/// Facts of the host, as far as they could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// `6.1.0-18-amd64`.
    pub kernel: String,
    /// Effective user id.
    pub uid: u32,
    /// Effective capabilities of this process (`CapEff`).
    pub capabilities: u64,
    /// Where cgroup v2 is mounted.
    pub cgroup2: Option<PathBuf>,
    /// Whether we may make folders there.
    pub cgroup2_writable: bool,
    /// Controllers that cgroup v2 has.
    pub controllers: Vec<String>,
    /// Whether the kernel describes its types (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// Soft and hard limit of open descriptors.
    pub open_files: (u64, u64),
    /// `net.ipv4.ip_local_port_range`.
    pub local_ports: Option<(u32, u32)>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub unprivileged_port_start: Option<u32>,
}

/// Bits of `CapEff` (linux/capability.h).
mod capability {
    pub const SETUID: u32 = 7;
    pub const NET_BIND_SERVICE: u32 = 10;
    pub const NET_ADMIN: u32 = 12;
    pub const SYS_ADMIN: u32 = 21;
    pub const PERFMON: u32 = 38;
    pub const BPF: u32 = 39;
}

impl Host {
    /// Whether this process has a capability.
    fn may(&self, bit: u32) -> bool {
        self.capabilities & (1 << bit) != 0
    }

    /// The matrix, in the order in which one thing needs the other.
    pub fn matrix(&self) -> Vec<Capability> {
        vec![
            self.kernel_version(),
            self.user_switch(),
            self.bpf(),
            self.btf(),
            self.cgroup(),
            self.limits(),
            self.low_ports(),
            self.open_files(),
            self.chosen_ports(),
        ]
    }

    fn kernel_version(&self) -> Capability {
        let new_enough = version(&self.kernel).is_some_and(|version| version >= (5, 14));
        row(
            "kernel",
            new_enough,
            format!("Linux {}", self.kernel),
            "Linux 5.14 or newer (cgroup.kill, BPF ring buffer)",
        )
    }

    fn user_switch(&self) -> Capability {
        let may = self.may(capability::SETUID);
        let why = match may {
            true => format!("uid {} may become other users", self.uid),
            false => format!("uid {} cannot become another user: worker and programs run as it", self.uid),
        };
        row("user_switch", may, why, "start as root")
    }

    fn bpf(&self) -> Capability {
        let needed = [capability::BPF, capability::PERFMON, capability::NET_ADMIN];
        let may = self.may(capability::SYS_ADMIN) || needed.iter().all(|bit| self.may(*bit));
        let why = match may {
            true => "this user may load BPF programs",
            false => "this user may not load BPF programs: no exit_watch, no short_cut",
        };
        row("bpf", may, why.to_owned(), "start as root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN)")
    }

    fn btf(&self) -> Capability {
        let why = if self.btf { "/sys/kernel/btf/vmlinux" } else { "/sys/kernel/btf/vmlinux is not there" };
        row("btf", self.btf, why.to_owned(), "a kernel built with CONFIG_DEBUG_INFO_BTF (Debian's are)")
    }

    fn cgroup(&self) -> Capability {
        match &self.cgroup2 {
            None => row(
                "cgroup",
                false,
                "cgroup v2 is not mounted: instances are process groups".to_owned(),
                "mount -t cgroup2 none /sys/fs/cgroup/unified",
            ),
            Some(path) if !self.cgroup2_writable => {
                let why = format!("{} is not writable: instances are process groups", path.display());
                row("cgroup", false, why, "start as root, or delegate a cgroup to this user")
            }
            Some(path) => row("cgroup", true, format!("cgroup v2 at {}", path.display()), ""),
        }
    }

    fn limits(&self) -> Capability {
        let missing: Vec<_> = ["cpu", "memory", "pids"]
            .into_iter()
            .filter(|wanted| !self.controllers.iter().any(|has| has == wanted))
            .collect();
        let why = match missing.as_slice() {
            [] => "cpu, memory and pids can be limited".to_owned(),
            missing => format!("cgroup v2 has no controller for {}", missing.join(", ")),
        };
        let on = missing.is_empty() && self.cgroup2_writable;
        row(
            "limits",
            on,
            why,
            "boot with systemd.unified_cgroup_hierarchy=1, so that cgroup v1 lets go of them",
        )
    }

    fn low_ports(&self) -> Capability {
        let start = self.unprivileged_port_start.unwrap_or(1024);
        let on = self.may(capability::NET_BIND_SERVICE) || start <= 80;
        let why = match on {
            true => "may listen on ports 80 and 443".to_owned(),
            false => format!("this user may listen on ports from {start} only"),
        };
        row("low_ports", on, why, "start as root, or sysctl net.ipv4.ip_unprivileged_port_start=80")
    }

    fn open_files(&self) -> Capability {
        let (soft, hard) = self.open_files;
        let why =
            format!("{soft} now, at most {hard}; {OPEN_FILES_WANTED} serve every client that a worker takes");
        row("open_files", hard >= OPEN_FILES_WANTED, why, "raise LimitNOFILE= of the unit, or `ulimit -Hn`")
    }

    fn chosen_ports(&self) -> Capability {
        let (low, high) = self.local_ports.unwrap_or((32_768, 60_999));
        let apart = low >= CHOSEN_PORTS.end || high < CHOSEN_PORTS.start;
        let why = match apart {
            true => format!("ports for instances never meet those of outgoing connections ({low}-{high})"),
            false => format!("outgoing connections ({low}-{high}) may take a port that an instance needs"),
        };
        row("chosen_ports", apart, why, "sysctl net.ipv4.ip_local_port_range=\"32768 60999\"")
    }
}

/// A row whose remedy is only said where it is off.
fn row(name: &str, on: bool, why: String, remedy: &str) -> Capability {
    Capability { name: name.to_owned(), on, why, remedy: if on { String::new() } else { remedy.to_owned() } }
}

/// Major and minor of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Host {
        Host {
            kernel: "6.1.0-18-amd64".into(),
            uid: 0,
            capabilities: u64::MAX,
            cgroup2: Some("/sys/fs/cgroup".into()),
            cgroup2_writable: true,
            controllers: ["cpu", "memory", "pids"].map(String::from).to_vec(),
            btf: true,
            open_files: (1024, 1_048_576),
            local_ports: Some((32_768, 60_999)),
            unprivileged_port_start: Some(1024),
        }
    }

    fn off(host: &Host) -> Vec<String> {
        host.matrix().into_iter().filter(|row| !row.on).map(|row| row.name).collect()
    }

    #[test]
    fn root_on_debian_has_everything() {
        assert_eq!(off(&root()), [""; 0]);
        assert!(root().matrix().iter().all(|row| row.remedy.is_empty() && !row.why.is_empty()));
    }

    #[test]
    fn an_ordinary_user_is_told_each_loss_and_its_remedy() {
        let host = Host { uid: 1000, capabilities: 0, cgroup2_writable: false, ..root() };
        assert_eq!(off(&host), ["user_switch", "bpf", "cgroup", "limits", "low_ports"]);
        assert!(host.matrix().iter().filter(|row| !row.on).all(|row| !row.remedy.is_empty()));
    }

    #[test]
    fn a_hybrid_hierarchy_has_no_limits() {
        assert_eq!(off(&Host { controllers: Vec::new(), ..root() }), ["limits"]);
    }

    #[test]
    fn overlapping_ports_and_few_descriptors_are_seen() {
        let host = Host { local_ports: Some((1024, 65_535)), open_files: (1024, 20_000), ..root() };
        assert_eq!(off(&host), ["open_files", "chosen_ports"]);
    }

    #[test]
    fn kernel_releases_are_compared_as_numbers() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.9.0"), Some((5, 9)));
        assert_eq!(version("x"), None);
        assert_eq!(off(&Host { kernel: "5.9.0".into(), ..root() }), ["kernel"]);
    }
}
