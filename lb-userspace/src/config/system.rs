//! What validation asks of the machine: users, folders, cores. Effectful; tests answer from a table instead.

#![expect(clippy::disallowed_methods, reason = "validation must know which users, folders and files exist")]

use std::ffi::{CStr, CString};
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::model::User;
use crate::append;
use crate::limits::NAMED_FILE_BYTES_MAX;

/// Answers about the machine that the configuration is for.
pub trait System {
    /// The user called `name`.
    ///
    /// # Errors
    /// When the user database cannot be asked.
    fn user(&self, name: &str) -> std::io::Result<Option<User>>;
    /// The user id that we run as.
    fn uid(&self) -> u32;
    /// Whether `path` is a folder.
    fn is_folder(&self, path: &Path) -> bool;
    /// Whether anything is at `path`.
    fn exists(&self, path: &Path) -> bool;
    /// Why we could not append to the file `path`; `None` where we could.
    fn append_refused(&self, path: &Path) -> Option<String>;
    /// Why we could not move the file `path` away for another; `None` where we could.
    fn rotation_refused(&self, path: &Path) -> Option<String>;
    /// Processor cores that we may use.
    fn cores(&self) -> usize;
    /// The host name.
    fn host_name(&self) -> String;
    /// The lowest port that an unprivileged user may listen on.
    fn unprivileged_port_min(&self) -> u16;
    /// The text of a file that the configuration names, of which too much is not read.
    ///
    /// # Errors
    /// When it cannot be read, is larger than [`NAMED_FILE_BYTES_MAX`] or no text.
    fn text(&self, path: &Path) -> std::io::Result<String>;
    /// Whether there is a network interface called `name`.
    fn has_interface(&self, name: &str) -> bool;
    /// Whether `address` is one of this machine.
    fn has_address(&self, address: IpAddr) -> bool;
    /// First and last of the ports that connections of this machine get.
    fn local_ports(&self) -> (u16, u16);
}

/// The machine that we run on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Running;

impl System for Running {
    fn user(&self, name: &str) -> std::io::Result<Option<User>> {
        user_by_name(name)
    }

    fn uid(&self) -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn exists(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }

    fn append_refused(&self, path: &Path) -> Option<String> {
        append::refused(path)
    }

    fn rotation_refused(&self, path: &Path) -> Option<String> {
        append::rotation_refused(path)
    }

    fn cores(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn host_name(&self) -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    fn unprivileged_port_min(&self) -> u16 {
        const DEFAULT: u16 = 1024;
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT)
    }

    fn text(&self, path: &Path) -> std::io::Result<String> {
        let mut text = String::new();
        // Not blocking: a pipe without a writer must not hold us up.
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        file.take(NAMED_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > NAMED_FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!("larger than {} MiB", NAMED_FILE_BYTES_MAX >> 20)));
        }
        Ok(text)
    }

    fn has_interface(&self, name: &str) -> bool {
        let Ok(name) = CString::new(name) else { return false };
        // SAFETY: `name` is terminated, and lives until the call returns.
        unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
    }

    fn has_address(&self, address: IpAddr) -> bool {
        std::net::UdpSocket::bind((address, 0)).is_ok()
    }

    fn local_ports(&self) -> (u16, u16) {
        const DEFAULT: (u16, u16) = (32_768, 60_999);
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let mut ports = text.split_ascii_whitespace().map_while(|port| port.parse().ok());
        ports.next().zip(ports.next()).unwrap_or(DEFAULT)
    }
}

/// Asks the C library, so that users from LDAP and the like (nsswitch.conf) are found too.
fn user_by_name(name: &str) -> std::io::Result<Option<User>> {
    const BUFFER_BYTES_MIN: usize = 4 * 1024;
    const BUFFER_BYTES_MAX: usize = 1024 * 1024;
    let Ok(c_name) = CString::new(name) else { return Ok(None) };
    let mut buffer = vec![0u8; BUFFER_BYTES_MIN];
    loop {
        // SAFETY: `passwd` is plain C data for which all zeroes is a valid value.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found: *mut libc::passwd = std::ptr::null_mut();
        // SAFETY: every pointer is to a live local, and the length is that of the buffer.
        let code = unsafe {
            libc::getpwnam_r(
                c_name.as_ptr(),
                &mut entry,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut found,
            )
        };
        match code {
            0 if found.is_null() => return Ok(None),
            0 => return Ok(Some(user(name, &c_name, &entry))),
            libc::ERANGE if buffer.len() < BUFFER_BYTES_MAX => buffer.resize(buffer.len() * 2, 0),
            libc::EINTR => {}
            // getpwnam(3): these all mean that there is no such name.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            code => return Err(std::io::Error::from_raw_os_error(code)),
        }
    }
}

fn user(name: &str, c_name: &CStr, entry: &libc::passwd) -> User {
    // SAFETY: getpwnam_r succeeded, so `pw_dir` is a terminated string in the buffer, which lives in the caller.
    let home = unsafe { CStr::from_ptr(entry.pw_dir) };
    let home = PathBuf::from(std::ffi::OsStr::from_bytes(home.to_bytes()));
    let groups = groups(c_name, entry.pw_gid);
    User { name: name.to_owned(), uid: entry.pw_uid, gid: entry.pw_gid, groups, home }
}

/// Supplementary groups, the primary one among them as the C library gives it.
fn groups(name: &CStr, gid: u32) -> Vec<u32> {
    const GROUPS_MAX: libc::c_int = 65_536;
    let mut count: libc::c_int = 64;
    loop {
        let mut groups = vec![0u32; count as usize];
        let before = count;
        // SAFETY: `groups` has room for `count` entries, and the name is terminated.
        let code = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &mut count) };
        if code >= 0 {
            groups.truncate(count.max(0) as usize);
            return groups;
        }
        if before >= GROUPS_MAX {
            return vec![gid];
        }
        count = count.max(before * 2).min(GROUPS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_with_its_groups() {
        let root = Running.user("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert!(root.home.is_absolute());
    }

    #[test]
    fn an_unknown_user_is_none() {
        assert_eq!(Running.user("nobody-has-this-name").unwrap(), None);
        assert_eq!(Running.user("with\0nul").unwrap(), None);
    }

    #[test]
    fn a_missing_folder_is_the_reason() {
        let reason = Running.append_refused(Path::new("/nonexistent/folder/app.log")).unwrap();
        assert_eq!(reason, "the folder /nonexistent/folder does not exist");
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Running.append_refused(&folder.path().join("app.log")), None);
        assert!(Running.append_refused(folder.path()).unwrap().contains("folder"));
    }
}
