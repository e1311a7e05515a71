//! Reads the facts of [`Host`] from `/proc` and `/sys`. Changes nothing; what cannot be read is left as unknown.
#![expect(clippy::disallowed_methods, reason = "the host's facts are read here, for `lbctl doctor`")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};

use super::ethtool;
use super::host::Host;
use super::steering_host::SteeringHost;
use crate::control::protocol::steering::{VipReport, VipStatus};
use crate::master::steer::pins::{self, Orphan};

/// The facts now.
pub fn read() -> Host {
    let cgroup2 = std::fs::read_to_string("/proc/self/mountinfo").ok().and_then(|text| cgroup2_mount(&text));
    let files = getrlimit(Resource::Nofile);
    let unlimited = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    Host {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        uid: rustix::process::geteuid().as_raw(),
        capabilities: capabilities(&text("/proc/self/status")),
        cgroup2_writable: cgroup2.as_deref().is_some_and(|path| access(path, Access::WRITE_OK).is_ok()),
        controllers: cgroup2.as_deref().map(controllers).unwrap_or_default(),
        cgroup2,
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        open_files: (unlimited(files.current), unlimited(files.maximum)),
        local_ports: pair(&text("/proc/sys/net/ipv4/ip_local_port_range")),
        unprivileged_port_start: text("/proc/sys/net/ipv4/ip_unprivileged_port_start").trim().parse().ok(),
    }
}

/// The facts that matter to what is steered.
pub fn read_for_steering(report: &VipReport) -> SteeringHost {
    let strange = |vip: &&VipStatus| vip.forward == "local" && !has_address(&vip.address);
    SteeringHost {
        jit: text("/proc/sys/net/core/bpf_jit_enable").trim().parse().ok(),
        ip_forward: text("/proc/sys/net/ipv4/ip_forward").trim().parse().ok().map(|on: u8| on != 0),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        interfaces: report.interfaces.iter().map(|interface| ethtool::read(&interface.name)).collect(),
        strange_addresses: report.vips.iter().filter(strange).map(|vip| vip.name.clone()).collect(),
    }
}

/// Whether this host has the (first) address of a VIP: only then can a socket be bound to it.
fn has_address(vip: &str) -> bool {
    first_address(vip).is_none_or(|address| std::net::UdpSocket::bind((address, 0)).is_ok())
}

/// The address of `203.0.113.10:443`, `[2001:db8::/64]:443`, `203.0.113.0/28`.
fn first_address(vip: &str) -> Option<IpAddr> {
    let host = match vip.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => vip.split(':').next()?,
    };
    host.split('/').next()?.parse().ok()
}

/// Pins of steering whose master is gone.
pub fn orphaned_pins() -> Vec<Orphan> {
    pins::orphans(has_master)
}

/// Whether a master holds the lock of this run folder.
fn has_master(run_dir: &Path) -> bool {
    let Ok(lock) = std::fs::File::open(run_dir.join("lock")) else { return false };
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared).is_err()
}

/// A small file; empty where it cannot be read.
fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The controllers of the hierarchy at `mount`.
fn controllers(mount: &Path) -> Vec<String> {
    let listed = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    listed.split_whitespace().map(str::to_owned).collect()
}

/// `CapEff` of `/proc/self/status`.
fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Where `/proc/self/mountinfo` shows cgroup v2 (proc_pid_mountinfo(5): the type follows the dash).
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Two numbers.
fn pair(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_where_it_is_mounted() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(text), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }

    #[test]
    fn capabilities_are_read_as_bits() {
        assert_eq!(capabilities("Name:\tx\nCapEff:\t0000000000000400\n"), 0x400);
        assert_eq!(capabilities(""), 0);
    }

    #[test]
    fn addresses_of_this_host_are_told_from_others() {
        assert!(has_address("127.0.0.1:443"));
        assert!(!has_address("203.0.113.10:443"));
        assert_eq!(first_address("[2001:db8::/64]:443"), "2001:db8::".parse().ok());
        assert_eq!(first_address("203.0.113.0/28"), "203.0.113.0".parse().ok());
    }

    #[test]
    fn port_ranges_are_two_numbers() {
        assert_eq!(pair("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(pair("32768"), None);
    }
}
