//! Pins: what keeps maps and links in the kernel while no master runs, and what says whether they may be used again.
//!
//! Each run folder has a home of its own below [`ROOT`], named by a hash of its path. In it a folder for each layout of the maps
//! (`v1-…`), and the links (`link-2`). `run_dir` is a symbolic link that says whose it is.
//!
//! The loader reuses whatever map lies under the name it looks for, whatever its sizes; a value larger than expected would then
//! be written past the end of our buffers. So each pin is compared with what the object asks for before it is used.
//!
//! Effectful: mounts bpffs, makes and removes pins.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use aya::maps::{MapData, MapInfo};
use aya_obj::Object;
use aya_obj::generated::bpf_map_type;

use crate::master::kernel::reason;

/// Where bpffs stands on every distribution.
const BPFFS: &str = "/sys/fs/bpf";
/// Where our pins are.
pub const ROOT: &str = "/sys/fs/bpf/lbctl";
/// `BPF_FS_MAGIC` (`linux/magic.h`).
const BPFFS_MAGIC: u32 = 0xcafe_4a11;
/// `BPF_F_NO_COMMON_LRU`: the kernel then rounds the number of entries up to a multiple of the CPUs.
const FLAG_NO_COMMON_LRU: u32 = 1 << 1;
/// `BPF_F_RDONLY_PROG`, which the kernel adds to maps of devices by itself.
const FLAG_READ_ONLY_FOR_PROGRAMS: u32 = 1 << 7;
/// `struct bpf_devmap_val`, which the loader makes maps of devices of (Linux 5.8).
const DEVICE_BYTES: u32 = 8;
/// Begins the names of pinned links.
const LINK_PREFIX: &str = "link-";
/// The symbolic link that names the run folder.
const OWNER: &str = "run_dir";

/// The layout of a map, as the kernel shows it once it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries_max: u32,
    flags: u32,
}

/// The layouts of the maps of an object, by name.
pub type Layouts = BTreeMap<String, Layout>;

/// What the maps of an object will be like in this kernel, `sizes` replacing the entries that the object asks for. Maps that come
/// with each load anew (constants) are left out.
///
/// # Errors
/// The number of CPUs is not known.
pub fn layouts(object: &Object, sizes: &[(&str, u32)]) -> anyhow::Result<Layouts> {
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))? as u32;
    let maps = object.maps.iter().filter(|(name, _)| !name.starts_with('.'));
    Ok(maps
        .map(|(name, map)| {
            let size = sizes.iter().find(|(of, _)| of == name);
            let layout = Layout {
                kind: map.map_type(),
                key_bytes: map.key_size(),
                value_bytes: map.value_size(),
                entries_max: size.map_or(map.max_entries(), |(_, entries)| *entries),
                flags: map.map_flags(),
            };
            (name.clone(), layout.as_made(cpus))
        })
        .collect())
}

impl Layout {
    /// As the kernel shows it once it is made.
    fn as_made(self, cpus: u32) -> Self {
        let is = |kind: bpf_map_type| self.kind == kind as u32;
        let devices = is(bpf_map_type::BPF_MAP_TYPE_DEVMAP) || is(bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH);
        let per_cpu = self.flags & FLAG_NO_COMMON_LRU != 0;
        Self {
            value_bytes: if devices { DEVICE_BYTES } else { self.value_bytes },
            flags: if devices { self.flags | FLAG_READ_ONLY_FOR_PROGRAMS } else { self.flags },
            entries_max: if per_cpu { self.entries_max.next_multiple_of(cpus) } else { self.entries_max },
            ..self
        }
    }

    /// That of the map which is pinned at `path`.
    fn of_pin(path: &Path) -> anyhow::Result<Self> {
        let info = MapInfo::from_pin(path).map_err(reason)?;
        Ok(Self {
            kind: info.map_type().map_err(reason)? as u32,
            key_bytes: info.key_size(),
            value_bytes: info.value_size(),
            entries_max: info.max_entries(),
            flags: info.map_flags(),
        })
    }
}

/// The home of one run folder's pins.
#[derive(Clone, Debug)]
pub struct Pins {
    home: PathBuf,
    contract: u32,
}

/// A folder whose pins may be used.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The folder.
    pub folder: PathBuf,
    /// Maps that an earlier master made, in it now.
    pub reused: Vec<String>,
}

impl Pins {
    /// Of a run folder (canonical); `contract` is [`lb_common::CONTRACT`], which changes with the meaning of the maps. Nothing is
    /// made yet.
    pub fn of(run_dir: &Path, contract: u32) -> Self {
        Self { home: Path::new(ROOT).join(home_name(run_dir)), contract }
    }

    /// The folder of this run folder's pins.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Makes the home, and mounts bpffs where it is not.
    ///
    /// # Errors
    /// What the operating system says; without root that it is not allowed.
    pub fn make_home(&self, run_dir: &Path) -> anyhow::Result<()> {
        mount_bpffs()?;
        let mut folder = fs::DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(&self.home).with_context(|| format!("create {}", self.home.display()))?;
        match std::os::unix::fs::symlink(run_dir, self.home.join(OWNER)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The pin of a map that has this layout, whichever folder it is in.
    pub fn find(&self, name: &str, layout: Layout) -> Option<PathBuf> {
        let mut pins = self.folders().into_iter().map(|folder| folder.join(name));
        pins.find(|pin| pin.exists() && Layout::of_pin(pin).is_ok_and(|found| found == layout))
    }

    /// Prepares the folder of these layouts: what is pinned there under another layout is removed, and what an earlier layout
    /// of the same contract has in common with it is pinned there too, so that a table that is not concerned keeps its entries.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn prepare(&self, layouts: &Layouts) -> anyhow::Result<Ready> {
        let folder = self.folder(layouts);
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("create {}", folder.display()));
            }
            _ => {}
        }
        let mut reused = Vec::new();
        for (name, layout) in layouts {
            let pin = folder.join(name);
            if pin.exists() {
                if Layout::of_pin(&pin)? == *layout {
                    reused.push(name.clone());
                    continue;
                }
                log::warn!("pinned map replaced map={name} reason=\"it has another layout\"");
                fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
            }
            if let Some(other) = self.find(name, *layout) {
                MapData::from_pin(&other).map_err(reason)?.pin(&pin).map_err(reason)?;
                reused.push(name.clone());
            }
        }
        Ok(Ready { folder, reused })
    }

    /// The folder of these layouts.
    fn folder(&self, layouts: &Layouts) -> PathBuf {
        let mut hash = FNV_OFFSET;
        for (name, layout) in layouts {
            let Layout { kind, key_bytes, value_bytes, entries_max, flags } = *layout;
            hash = fnv(hash, name.as_bytes());
            for word in [kind, key_bytes, value_bytes, entries_max, flags] {
                hash = fnv(hash, &word.to_le_bytes());
            }
        }
        self.home.join(format!("v{}-{hash:016x}", self.contract))
    }

    /// The folders of maps of this contract.
    fn folders(&self) -> Vec<PathBuf> {
        let prefix = format!("v{}-", self.contract);
        entries(&self.home).filter(|(name, _)| name.starts_with(&prefix)).map(|(_, path)| path).collect()
    }

    /// Removes the maps of every layout but `keep`. What still uses them keeps them alive.
    pub fn remove_folders_but(&self, keep: &Path) {
        let folders = entries(&self.home).filter(|(name, path)| name.starts_with('v') && path != keep);
        for (_, folder) in folders.collect::<Vec<_>>() {
            if let Err(error) = remove_folder(&folder) {
                log::warn!("pins not removed folder={} reason=\"{error}\"", folder.display());
            }
        }
    }

    /// Pinned links, by the number of their interface.
    pub fn links(&self) -> BTreeMap<u32, PathBuf> {
        let number = |name: &str| name.strip_prefix(LINK_PREFIX)?.parse().ok();
        entries(&self.home).filter_map(|(name, path)| Some((number(&name)?, path))).collect()
    }

    /// Where the link of an interface is pinned.
    pub fn link(&self, interface: u32) -> PathBuf {
        self.home.join(format!("{LINK_PREFIX}{interface}"))
    }

    /// Removes everything: programs are detached, and maps go with whoever still uses them. What is not there is no error.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn remove(&self) -> io::Result<()> {
        // Programs first: one whose maps went before it would still answer.
        for link in self.links().into_values() {
            super::attach::detach_pinned(&link)?;
        }
        for (_, path) in entries(&self.home).collect::<Vec<_>>() {
            if path.is_dir() && !path.is_symlink() { remove_folder(&path)? } else { fs::remove_file(path)? }
        }
        match fs::remove_dir(&self.home) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Another run folder may have its home there.
        let _ = fs::remove_dir(ROOT);
        Ok(())
    }
}

/// Pins whose run folder is gone, or has no master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Their home.
    pub home: PathBuf,
    /// The run folder that they were made for.
    pub run_dir: Option<PathBuf>,
    /// The interfaces on which packets are still steered.
    pub interfaces: Vec<u32>,
}

/// Homes below [`ROOT`] for which `is_alive` does not know a master.
pub fn orphans(is_alive: impl Fn(&Path) -> bool) -> Vec<Orphan> {
    let homes = entries(Path::new(ROOT));
    homes
        .filter_map(|(_, home)| {
            let run_dir = fs::read_link(home.join(OWNER)).ok();
            if run_dir.as_deref().is_some_and(&is_alive) {
                return None;
            }
            let interfaces = Pins { home: home.clone(), contract: 0 }.links().into_keys().collect();
            Some(Orphan { home, run_dir, interfaces })
        })
        .collect()
}

/// Mounts bpffs where every tool looks for it.
fn mount_bpffs() -> anyhow::Result<()> {
    let is_there = || rustix::fs::statfs(BPFFS).is_ok_and(|stat| stat.f_type as u32 == BPFFS_MAGIC);
    if is_there() {
        return Ok(());
    }
    let flags = rustix::mount::MountFlags::NOSUID
        | rustix::mount::MountFlags::NODEV
        | rustix::mount::MountFlags::NOEXEC;
    let mounted = rustix::mount::mount("bpf", BPFFS, "bpf", flags, c"mode=0700");
    if let Err(error) = mounted {
        let how = if error == rustix::io::Errno::PERM {
            "run lbctl up as root"
        } else {
            "is CONFIG_BPF_SYSCALL on?"
        };
        bail!("bpffs is not mounted at {BPFFS} and cannot be: {error}; {how}");
    }
    log::info!("bpffs mounted at={BPFFS}");
    Ok(())
}

/// Names and paths in a folder; none where it is not there.
fn entries(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let read = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    read.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
}

/// A folder of pins, which has no folders in it.
fn remove_folder(folder: &Path) -> io::Result<()> {
    for (_, path) in entries(folder).collect::<Vec<_>>() {
        fs::remove_file(path)?;
    }
    fs::remove_dir(folder)
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits: names must stay the same from version to version, which the standard library's hash does not promise.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// bpffs takes no dots in names, so a path is a hash here.
fn home_name(run_dir: &Path) -> String {
    format!("{:016x}", fnv(FNV_OFFSET, run_dir.as_os_str().as_encoded_bytes()))
}

#[cfg(test)]
mod tests {
    use aya::maps::Array;

    use super::*;

    static OBJECT: &[u8] =
        aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf/prebuilt/lb-ebpf.o"));

    /// A home of its own, gone at the end.
    struct Home {
        run_dir: tempfile::TempDir,
        pins: Pins,
    }

    impl Home {
        fn new() -> Self {
            let run_dir = tempfile::tempdir().unwrap();
            let pins = Pins::of(run_dir.path(), 1);
            pins.make_home(run_dir.path())
                .expect("pins need root and CONFIG_BPF_SYSCALL: run the tests as root");
            Self { run_dir, pins }
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            self.pins.remove().unwrap();
            assert!(!self.pins.home.exists());
        }
    }

    fn array(entries: u32) -> Array<MapData, [u8; 64]> {
        Array::create(entries, 0).unwrap()
    }

    fn layout(entries_max: u32) -> Layout {
        let kind = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        Layout { kind, key_bytes: 4, value_bytes: 64, entries_max, flags: 0 }
    }

    fn layouts_of(one: u32, two: u32) -> Layouts {
        [("ONE".to_owned(), layout(one)), ("TWO".to_owned(), layout(two))].into()
    }

    fn id(pin: &Path) -> u32 {
        MapInfo::from_pin(pin).unwrap().id()
    }

    #[test]
    fn pin_of_another_layout_is_refused_and_removed() {
        let home = Home::new();
        let folder = home.pins.prepare(&layouts_of(8, 8)).unwrap().folder;
        array(8).pin(folder.join("ONE")).unwrap();
        array(9).pin(folder.join("TWO")).unwrap();
        assert!(home.pins.find("TWO", layout(8)).is_none());
        let ready = home.pins.prepare(&layouts_of(8, 8)).unwrap();
        assert_eq!((ready.folder, ready.reused), (folder.clone(), vec!["ONE".to_owned()]));
        assert!(folder.join("ONE").exists() && !folder.join("TWO").exists());
    }

    #[test]
    fn map_that_another_layout_does_not_concern_keeps_its_entries() {
        let home = Home::new();
        let before = home.pins.prepare(&layouts_of(8, 8)).unwrap().folder;
        array(8).pin(before.join("ONE")).unwrap();
        array(8).pin(before.join("TWO")).unwrap();
        let after = home.pins.prepare(&layouts_of(8, 16)).unwrap();
        assert_ne!(before, after.folder);
        assert_eq!(after.reused, ["ONE"]);
        assert_eq!(id(&before.join("ONE")), id(&after.folder.join("ONE")));
        home.pins.remove_folders_but(&after.folder);
        assert!(!before.exists() && after.folder.join("ONE").exists());
        let other_contract = Pins::of(home.run_dir.path(), 2);
        assert_eq!(other_contract.prepare(&layouts_of(8, 16)).unwrap().reused, Vec::<String>::new());
    }

    fn check_layouts(object: &[u8], sizes: &[(&str, u32)]) {
        let expect = layouts(&Object::parse(object).unwrap(), sizes).unwrap();
        let home = Home::new();
        let folder = home.pins.prepare(&expect).unwrap().folder;
        let mut loader = aya::EbpfLoader::new();
        loader.btf(None);
        for (name, entries) in sizes {
            loader.map_max_entries(name, *entries);
        }
        for name in expect.keys() {
            loader.map_pin_path(name.as_str(), folder.join(name));
        }
        let _object = loader.load(object).unwrap();
        for (name, layout) in &expect {
            assert_eq!(Layout::of_pin(&folder.join(name)).unwrap(), *layout, "{name}");
        }
    }

    #[test]
    fn layouts_of_an_object_are_those_that_the_kernel_shows() {
        check_layouts(OBJECT, &[("WATCHED", 77)]);
        check_layouts(super::super::object::OBJECT, &[("FLOWS", 1001)]);
    }

    #[test]
    fn pins_without_a_master_are_found() {
        let home = Home::new();
        let run_dir = home.run_dir.path().to_owned();
        let ours = |found: Vec<Orphan>| found.into_iter().find(|orphan| orphan.home == home.pins.home);
        assert_eq!(ours(orphans(|path| path == run_dir)), None);
        assert_eq!(ours(orphans(|_| false)).unwrap().run_dir, Some(run_dir));
    }
}
