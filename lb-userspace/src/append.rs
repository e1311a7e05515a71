//! Files under names in which others may have a hand, above all those that are appended to: a program's log lies in a folder of the
//! program's user, and root opens it.
//!
//! Effectful: opens, renames and removes files. The way to a file is walked folder by folder. A symbolic link is followed only where
//! it and the folder that holds it belong to root or to us, so that nobody else can lead us to a file of ours; and what is opened at
//! the end must be a file of one name, so that it is not the other name (hard link) of such a file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, Stat};

use crate::limits::PATH_LINKS_MAX;

/// Mode of files that are made.
const MODE: u32 = 0o640;
/// Mode of files that are made for nobody else.
const MODE_PRIVATE: u32 = 0o600;

/// Opens a file for appending; makes it where there is none. Never waits.
///
/// Devices that belong to root or us are opened too (`/dev/null`), and `/dev/stdout` and its like are our own standard output or error,
/// whatever those are.
///
/// # Errors
/// What the operating system says, or in words what is not opened.
pub fn open(path: &Path) -> io::Result<File> {
    open_as(path, MODE)
}

/// [`open`], readable by nobody else where it is made.
///
/// # Errors
/// As [`open`].
pub fn open_private(path: &Path) -> io::Result<File> {
    open_as(path, MODE_PRIVATE)
}

fn open_as(path: &Path, mode: u32) -> io::Result<File> {
    match standard_stream(path) {
        Some(stream) => Ok(rustix::io::fcntl_dupfd_cloexec(stream, 3)?.into()),
        None => Place::of(path)?.open(mode),
    }
}

/// Why [`open`] would fail; `None` where it would not. Makes nothing.
pub fn refused(path: &Path) -> Option<String> {
    if is_standard_stream(path) {
        return None;
    }
    match Place::of(path) {
        Ok(place) => place.refused(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(path);
            Some(format!("the folder {} does not exist", folder.display()))
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Why a file that can be appended to could not be moved away for another; `None` where it could, or never is.
pub fn rotation_refused(path: &Path) -> Option<String> {
    let place = Place::of(path).ok().filter(|_| !is_standard_stream(path))?;
    let found = rustix::fs::statat(&place.folder, &place.name, AtFlags::SYMLINK_NOFOLLOW);
    let is_file = found.map_or(true, |found| kind(&found) == FileType::RegularFile);
    if is_file { place.folder_refused() } else { None }
}

/// Whether [`open`] gives what `path` names another way: it cannot be moved and opened again.
pub fn is_standard_stream(path: &Path) -> bool {
    standard_stream(path).is_some()
}

/// What our own starter gave us, by the names that people know it by.
fn standard_stream(path: &Path) -> Option<BorrowedFd<'static>> {
    match path.to_str()? {
        "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => Some(rustix::stdio::stdout()),
        "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => Some(rustix::stdio::stderr()),
        _ => None,
    }
}

/// A name in a folder that is open: it stays that folder, whatever becomes of the way to it.
pub struct Place {
    folder: OwnedFd,
    name: OsString,
}

impl Place {
    /// Where `path` leads to. Nothing need be there, but the folder must.
    ///
    /// # Errors
    /// What the operating system says, or a link that is not followed.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut folder = start(path)?;
        let mut steps = steps(path);
        let mut links = 0;
        while let Some(name) = steps.pop() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let entry = match rustix::fs::openat(&folder, &name, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) if steps.is_empty() => return Ok(Self { folder, name }),
                entry => entry?,
            };
            let found = rustix::fs::fstat(&entry)?;
            match kind(&found) {
                FileType::Symlink => {
                    links += 1;
                    let target = followed(&folder, &entry, &found, &name, links)?;
                    steps.extend(self::steps(&target));
                    if target.is_absolute() {
                        folder = start(&target)?;
                    }
                }
                FileType::Directory => folder = entry,
                _ if steps.is_empty() => return Ok(Self { folder, name }),
                _ => return Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"))
    }

    fn open(&self, mode: u32) -> io::Result<File> {
        // Not blocking: a pipe would make us wait for its reader.
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let safely = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::openat(&self.folder, &self.name, flags | safely, Mode::from_raw_mode(mode))?;
        if let Some(why) = unfit(&rustix::fs::fstat(&file)?) {
            return Err(io::Error::other(why));
        }
        rustix::io::ioctl_fionbio(&file, false)?;
        Ok(file.into())
    }

    fn refused(&self, path: &Path) -> Option<String> {
        match rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => unfit(&found).or_else(|| self.denied(&self.name, Access::WRITE_OK)),
            Err(_) => self.folder_refused().map(|reason| {
                let folder = path.parent().unwrap_or(path);
                format!("it does not exist, and in the folder {}: {reason}", folder.display())
            }),
        }
    }

    /// Why nothing can be made or renamed in its folder; `None` where it can.
    fn folder_refused(&self) -> Option<String> {
        self.denied(OsStr::new("."), Access::WRITE_OK | Access::EXEC_OK)
    }

    /// What `access(2)` says, with the effective user.
    fn denied(&self, name: &OsStr, access: Access) -> Option<String> {
        let answer = rustix::fs::accessat(&self.folder, name, access, AtFlags::EACCESS);
        answer.err().map(|error| io::Error::from(error).to_string())
    }

    /// `x` → `x.1` → `x.2` … and away beyond `keep`.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn rotate(&self, keep: u64) -> io::Result<()> {
        if keep == 0 {
            return self.remove();
        }
        for number in (1..keep).rev() {
            match self.rename(&self.numbered(number), &self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.rename(&self.name, &self.numbered(1))
    }

    /// Removes what has the name.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn remove(&self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty())?)
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    fn numbered(&self, number: u64) -> OsString {
        let mut name = self.name.clone();
        name.push(format!(".{number}"));
        name
    }
}

/// The folder that a path starts from.
fn start(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = if path.is_absolute() { "/" } else { "." };
    Ok(rustix::fs::open(from, flags, Mode::empty())?)
}

/// The names on the way, the first one last.
fn steps(path: &Path) -> Vec<OsString> {
    let named = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    named.map(|part| part.as_os_str().to_owned()).rev().collect()
}

/// Where a link leads to, if it may lead us.
fn followed(
    folder: &OwnedFd,
    link: &OwnedFd,
    found: &Stat,
    name: &OsStr,
    links: usize,
) -> io::Result<PathBuf> {
    if links > PATH_LINKS_MAX {
        return Err(rustix::io::Errno::LOOP.into());
    }
    let holder = rustix::fs::fstat(folder)?;
    if let Some(stranger) = [found, &holder].iter().find(|each| !is_ours(each)) {
        let name = Path::new(name).display();
        let why = format!(
            "the symbolic link {name} is not followed: it is in the hands of uid {}",
            stranger.st_uid
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let target = rustix::fs::readlinkat(link.as_fd(), "", Vec::new())?;
    Ok(OsStr::from_bytes(target.as_bytes()).into())
}

fn is_ours(found: &Stat) -> bool {
    found.st_uid == 0 || found.st_uid == rustix::process::geteuid().as_raw()
}

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

/// Why this is nothing to append to.
fn unfit(found: &Stat) -> Option<String> {
    match kind(found) {
        FileType::RegularFile if found.st_nlink > 1 => Some(format!(
            "it has {} names (hard links): which file it is meant to be is not known",
            found.st_nlink
        )),
        FileType::RegularFile => None,
        FileType::CharacterDevice if is_ours(found) => None,
        FileType::CharacterDevice => Some(format!("it is a device of uid {}", found.st_uid)),
        FileType::Directory => Some("it is a folder".to_owned()),
        FileType::Symlink => Some("it is a symbolic link".to_owned()),
        FileType::Fifo => Some("it is a pipe".to_owned()),
        _ => Some("it is no file".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "looks at what was written")]

    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    const NOBODY: u32 = 65_534;

    struct Scene {
        folder: tempfile::TempDir,
    }

    impl Scene {
        /// A folder of ours with `secret`, and in it `theirs`, which belongs to somebody else.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::File::create(folder.path().join("secret")).unwrap();
            std::fs::create_dir(folder.path().join("theirs")).unwrap();
            let scene = Self { folder };
            scene.give("theirs");
            scene
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn give(&self, name: &str) {
            std::os::unix::fs::lchown(self.path(name), Some(NOBODY), Some(NOBODY))
                .expect("needs root: run `cargo xtask test`");
        }

        /// Is refused, with these words, before and when it is tried; nothing has become of the secret.
        fn check_refused(&self, name: &str, words: &str) {
            let told = refused(&self.path(name)).unwrap_or_default();
            assert!(told.contains(words), "{name}: {told}");
            let error = open(&self.path(name)).unwrap_err();
            assert!(error.to_string().contains(words), "{name}: {error}");
            assert_eq!(self.path("secret").metadata().unwrap().len(), 0);
        }
    }

    fn write(path: &Path, text: &str) {
        open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn link_of_somebody_else_leads_to_no_file_of_ours() {
        let scene = Scene::new();
        symlink(scene.path("secret"), scene.path("theirs/out.log")).unwrap();
        // One of ours that they moved to a folder of theirs is theirs to use, too.
        scene.check_refused("theirs/out.log", "uid 65534");
        scene.give("theirs/out.log");
        scene.check_refused("theirs/out.log", "uid 65534");
        symlink(scene.folder.path(), scene.path("theirs/logs")).unwrap();
        scene.give("theirs/logs");
        scene.check_refused("theirs/logs/secret", "uid 65534");
        scene.check_refused("theirs/logs/new", "uid 65534");
        assert!(!scene.path("new").exists());
    }

    #[test]
    fn links_of_root_are_followed() {
        let scene = Scene::new();
        std::fs::create_dir(scene.path("data")).unwrap();
        symlink("data", scene.path("logs")).unwrap();
        symlink(scene.path("logs/../data/real.log"), scene.path("data/out.log")).unwrap();
        assert_eq!(refused(&scene.path("logs/out.log")), None);
        write(&scene.path("logs/out.log"), "a");
        write(&scene.path("theirs/out.log"), "b");
        assert_eq!(std::fs::read_to_string(scene.path("data/real.log")).unwrap(), "a");
        assert_eq!(std::fs::read_to_string(scene.path("theirs/out.log")).unwrap(), "b");
        symlink("round", scene.path("round")).unwrap();
        assert_eq!(open(&scene.path("round")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn second_name_of_a_file_is_refused() {
        let scene = Scene::new();
        std::fs::hard_link(scene.path("secret"), scene.path("theirs/out.log")).unwrap();
        scene.check_refused("theirs/out.log", "2 names");
    }

    #[test]
    fn pipe_is_refused_and_not_waited_for() {
        let scene = Scene::new();
        let pipe = scene.path("out.log");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(refused(&pipe).as_deref(), Some("it is a pipe"));
        open(&pipe).unwrap_err();
        let _reader = rustix::fs::open(&pipe, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        assert_eq!(open(&pipe).unwrap_err().to_string(), "it is a pipe");
    }

    #[test]
    fn devices_and_standard_streams_can_be_written() {
        write(Path::new("/dev/null"), "away");
        assert_eq!(refused(Path::new("/dev/null")), None);
        let error = open(Path::new("/dev/stderr")).unwrap().metadata().unwrap();
        let own = rustix::fs::fstat(std::io::stderr()).unwrap();
        assert_eq!((error.ino(), error.dev()), (own.st_ino, own.st_dev));
    }

    #[test]
    fn only_files_are_rotated() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(rotation_refused(&folder.path().join("out.log")), None);
        assert_eq!(rotation_refused(Path::new("/dev/null")), None);
        // Nobody makes files there, root neither.
        assert!(rotation_refused(Path::new("/proc/self/status")).is_some());
    }

    #[test]
    fn missing_folder_is_said_to_be_missing() {
        let error = open(Path::new("/nonexistent/folder/app.log")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let reason = refused(Path::new("/nonexistent/folder/app.log")).unwrap();
        assert_eq!(reason, "the folder /nonexistent/folder does not exist");
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(open(folder.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
