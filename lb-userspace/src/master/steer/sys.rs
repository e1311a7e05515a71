//! The calls that the BPF library does not have: look-ups by the batch, detaching a link at once, filling an array through memory.
//!
//! Effectful. All `unsafe` of steering is here, one call each.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::bpf_cmd;
use bytemuck::{NoUninit, Pod};

/// The part of `union bpf_attr` for `BPF_OBJ_GET`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct ObjectGet {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The part for `BPF_LINK_DETACH`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct LinkDetach {
    link: u32,
}

/// The part for `BPF_MAP_LOOKUP_BATCH`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Batch {
    begin: u64,
    end: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Opens what is pinned at `path`.
///
/// # Errors
/// What the kernel says.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectGet { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    let size = size_of_val(&attributes);
    // SAFETY: the attributes are as long as said, and the path in them lives until the call is over.
    let descriptor = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, (&raw mut attributes).cast(), size) }?;
    // SAFETY: the kernel has made this descriptor for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Takes the program of a link off its hook before this returns. Removing the pin alone does so some time later.
///
/// # Errors
/// What the kernel says.
pub fn detach(link: impl AsFd) -> io::Result<()> {
    let mut attributes = LinkDetach { link: link.as_fd().as_raw_fd() as u32 };
    let size = size_of_val(&attributes);
    // SAFETY: the attributes are as long as said, and name a descriptor that is open until the call is over.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, (&raw mut attributes).cast(), size) }?;
    Ok(())
}

/// Where a walk through a hash map has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cursor {
    /// Before the first entry.
    #[default]
    Begin,
    /// At the bucket that the kernel named last.
    At(u32),
    /// After the last entry.
    End,
}

/// Reads the next entries of a hash map into `keys` and `values` and moves `cursor` behind them; returns how many. Entries that come
/// or go meanwhile may be seen or not; none is seen twice. Linux 5.6.
///
/// # Errors
/// `StorageFull`: a bucket holds more than the buffers. Else what the kernel says.
///
/// # Panics
/// When the buffers are of different length or the map's sizes are others: our own mistake.
pub fn look_up_batch<K: Pod, V: Pod>(
    map: &aya::maps::MapData,
    cursor: &mut Cursor,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<usize> {
    let info = map.info().map_err(io::Error::other)?;
    // The kernel writes so many bytes, whatever was given.
    assert_eq!((info.key_size() as usize, info.value_size() as usize), (size_of::<K>(), size_of::<V>()));
    assert_eq!(keys.len(), values.len(), "one value for each key");
    let (mut begin, mut end) = (0u32, 0u32);
    match cursor {
        Cursor::Begin => {}
        Cursor::At(bucket) => begin = *bucket,
        Cursor::End => return Ok(0),
    }
    let mut attributes = Batch {
        begin: if *cursor == Cursor::Begin { 0 } else { &raw mut begin as u64 },
        end: &raw mut end as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map: map.fd().as_fd().as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    let size = size_of_val(&attributes);
    // SAFETY: the attributes are as long as said; the buffers in them live until the call is over and have room for `count` entries of
    // the map's sizes, which were compared above, and any bytes are valid there.
    let outcome = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, (&raw mut attributes).cast(), size) };
    match outcome {
        Ok(_) => *cursor = Cursor::At(end),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => *cursor = Cursor::End,
        Err(error) => return Err(error),
    }
    Ok(attributes.count as usize)
}

/// Writes the values of an mmap-able array from its beginning on. For a map that nobody else uses yet.
///
/// # Errors
/// What `mmap` says.
///
/// # Panics
/// When the array is not as long: our own mistake.
pub fn fill(array: &aya::maps::MapData, bytes: &[u8]) -> io::Result<()> {
    let info = array.info().map_err(io::Error::other)?;
    assert!(bytes.len() as u64 <= u64::from(info.max_entries()) * u64::from(info.value_size()));
    let memory = memmap2::MmapOptions::new().len(bytes.len()).map_raw(array.fd().as_fd().as_raw_fd())?;
    // SAFETY: the mapping is as long as the slice, cannot overlap it, and is written by nobody else.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_mut_ptr(), bytes.len()) };
    Ok(())
}

/// The values of an mmap-able array, for one that is not being written.
///
/// # Errors
/// What `mmap` says.
pub fn read(array: &aya::maps::MapData) -> io::Result<Vec<u8>> {
    let info = array.info().map_err(io::Error::other)?;
    let length = info.max_entries() as usize * info.value_size() as usize;
    let memory = memmap2::MmapOptions::new().len(length).map_raw(array.fd().as_fd().as_raw_fd())?;
    let mut bytes = vec![0; length];
    // SAFETY: the mapping is as long as the slice, cannot overlap it, and any bytes are valid there.
    unsafe { std::ptr::copy_nonoverlapping(memory.as_ptr(), bytes.as_mut_ptr(), length) };
    Ok(bytes)
}

/// The call itself.
///
/// # Safety
/// `attributes` is the part of `union bpf_attr` that belongs to `command`, `size` bytes long; what it points to may be read or written as
/// the command does.
unsafe fn bpf(command: bpf_cmd, attributes: *mut u8, size: usize) -> io::Result<i32> {
    // SAFETY: the caller's.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attributes, size) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome as i32) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aya::maps::{HashMap, MapData};

    use super::*;

    #[test]
    fn batches_walk_through_every_entry_once() {
        let mut map =
            HashMap::<MapData, u32, [u8; 8]>::create(1000, 0).expect("maps need root: run the tests as root");
        for key in 0..777u32 {
            map.insert(key, u64::from(key).to_ne_bytes(), 0).unwrap();
        }
        let path = Path::new("/sys/fs/bpf").join(format!("lbctl-batch-{}", std::process::id()));
        map.pin(&path).unwrap();
        let map = MapData::from_pin(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (mut cursor, mut found, mut rounds) = (Cursor::Begin, BTreeMap::new(), 0);
        while cursor != Cursor::End {
            let (mut keys, mut values) = ([0u32; 100], [0u64; 100]);
            let count = look_up_batch(&map, &mut cursor, &mut keys, &mut values).unwrap();
            found.extend(keys.into_iter().zip(values).take(count));
            rounds += 1;
        }
        assert_eq!(found, (0..777).map(|key| (key, u64::from(key))).collect());
        assert!((8..100).contains(&rounds), "{rounds}");
    }
}
