//! Who listens on a port: for the message that says why we cannot.
//!
//! Effectful: reads `/proc`.

#![expect(clippy::disallowed_methods, reason = "/proc is read here")]

use std::fs;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// `pid 412, nginx`, if it can be found out.
pub fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|file| listening_inode(file, port))?;
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| has_open(*pid, &socket))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("pid {pid}, {}", name.trim()))
}

fn listening_inode(file: &str, port: u16) -> Option<String> {
    let table = fs::read_to_string(file).ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields = line.split_whitespace().collect::<Vec<_>>();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_it = *fields.get(3)? == LISTENING && u16::from_str_radix(local_port, 16).ok()? == port;
        is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

fn has_open(pid: u32, socket: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == socket))
}
