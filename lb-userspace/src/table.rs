//! The backend table and the activity tables as userspace sees them: shared memory behind atomic reads and writes.
//!
//! Effectful: maps memory. The kernel's copy of the table is an mmap-able BPF array; where BPF is not allowed a memfd has
//! the same layout.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use lb_common::backend::{ActivityRow, BackendRow, TrafficState};
use lb_common::limits::BACKENDS_MAX;
use memmap2::{MmapOptions, MmapRaw};

use crate::state::event::{InstanceId, Slot};

/// Bytes of the whole backend table.
pub const TABLE_BYTES: usize = BACKENDS_MAX as usize * size_of::<BackendRow>();
/// Bytes of a whole activity table.
pub const ACTIVITY_BYTES: usize = BACKENDS_MAX as usize * size_of::<ActivityRow>();

/// [`BackendRow`] with atomic fields, in the same places.
#[repr(C)]
struct SharedRow {
    instance: AtomicU64,
    state: AtomicU32,
    weight: AtomicU32,
    exited_instance: AtomicU64,
    exited_at_ns: AtomicU64,
    listens_opened: AtomicU32,
    listens_closed: AtomicU32,
    listen_changed_at_ns: AtomicU64,
    state_changed_at_ns: AtomicU64,
    identity: AtomicU64,
}

const _: () = assert!(size_of::<SharedRow>() == size_of::<BackendRow>());

/// [`ActivityRow`] with atomic fields, in the same places.
#[repr(C)]
pub struct SharedActivity {
    /// Requests, tunnels and streams in progress.
    pub active: AtomicU32,
    /// Open connections, idle ones included.
    pub connections: AtomicU32,
    /// Requests ever sent.
    pub requests: AtomicU64,
    reserved: [AtomicU64; 6],
}

const _: () = assert!(size_of::<SharedActivity>() == size_of::<ActivityRow>());

/// A memfd of `bytes` zero bytes.
///
/// # Errors
/// What the operating system says.
pub fn shared_memory(name: &str, bytes: usize) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, bytes as u64)?;
    Ok(file)
}

/// A read-only descriptor of the same memfd, for a process that must not write it.
///
/// # Errors
/// What the operating system says; `/proc` must be mounted.
pub fn read_only(memory: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

/// The backend table, mapped.
pub struct BackendTable {
    map: MmapRaw,
    writable: bool,
}

impl BackendTable {
    /// Maps the table for reading and writing: the master's view.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn map(memory: impl AsFd) -> io::Result<Self> {
        let map = MmapOptions::new().len(TABLE_BYTES).map_raw(memory.as_fd().as_raw_fd())?;
        Ok(Self { map, writable: true })
    }

    /// Maps the table for reading: a worker's view.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn map_read_only(memory: impl AsFd) -> io::Result<Self> {
        let map = MmapOptions::new().len(TABLE_BYTES).map_raw_read_only(memory.as_fd().as_raw_fd())?;
        Ok(Self { map, writable: false })
    }

    fn row(&self, slot: Slot) -> Option<&SharedRow> {
        (slot.0 < BACKENDS_MAX).then(|| {
            let row = self.map.as_ptr().wrapping_add(slot.0 as usize * size_of::<SharedRow>());
            // SAFETY: the row lies within the mapping of TABLE_BYTES (checked above), is page- and so 8-byte-aligned,
            // lives as long as `self.map`, and other writers (kernel, other processes) only ever race with atomics.
            unsafe { &*row.cast::<SharedRow>() }
        })
    }

    /// The row now, of one instance: reading starts again when the instance changes meanwhile. A row that keeps changing
    /// reads as empty, which is OUT.
    pub fn read(&self, slot: Slot) -> BackendRow {
        let Some(row) = self.row(slot) else { return BackendRow::default() };
        for _ in 0..4 {
            let instance = row.instance.load(Ordering::SeqCst);
            let read = BackendRow {
                instance,
                state: row.state.load(Ordering::SeqCst),
                weight: row.weight.load(Ordering::SeqCst),
                exited_instance: row.exited_instance.load(Ordering::SeqCst),
                exited_at_ns: row.exited_at_ns.load(Ordering::SeqCst),
                // Closed before opened: a listener that opens in between reads as listening, one that closes is seen next time.
                listens_closed: row.listens_closed.load(Ordering::SeqCst),
                listens_opened: row.listens_opened.load(Ordering::SeqCst),
                listen_changed_at_ns: row.listen_changed_at_ns.load(Ordering::SeqCst),
                state_changed_at_ns: row.state_changed_at_ns.load(Ordering::SeqCst),
                identity: row.identity.load(Ordering::SeqCst),
            };
            if row.instance.load(Ordering::SeqCst) == instance {
                return read;
            }
        }
        BackendRow::default()
    }

    /// The state that counts (see [`BackendRow::traffic`]).
    pub fn traffic(&self, slot: Slot) -> TrafficState {
        self.read(slot).traffic()
    }

    /// Writes what the master decided. A new instance is written while the row is OUT, so nobody sees it half changed.
    ///
    /// # Panics
    /// When the table was mapped read-only: our own mistake, not an input's.
    pub fn write(&self, slot: Slot, instance: InstanceId, state: TrafficState, weight: u32, now_ns: u64) {
        assert!(self.writable, "only the master writes the backend table");
        let Some(row) = self.row(slot) else { return };
        if row.instance.load(Ordering::SeqCst) != instance.0 {
            row.state.store(TrafficState::Out as u32, Ordering::SeqCst);
            row.listens_opened.store(0, Ordering::SeqCst);
            row.listens_closed.store(0, Ordering::SeqCst);
            row.instance.store(instance.0, Ordering::SeqCst);
        }
        row.weight.store(weight, Ordering::SeqCst);
        row.state_changed_at_ns.store(now_ns, Ordering::SeqCst);
        row.state.store(state as u32, Ordering::SeqCst);
    }

    /// Writes what the backend of a row is (see [`BackendRow::identity`]); to be done before its instance is written.
    ///
    /// # Panics
    /// When the table was mapped read-only.
    pub fn identify(&self, slot: Slot, identity: u64) {
        assert!(self.writable, "only the master writes the backend table");
        if let Some(row) = self.row(slot) {
            row.identity.store(identity, Ordering::SeqCst);
        }
    }

    /// The rows that an earlier master left in this table: those of configured backends. Those of its instances, which have ended
    /// with it, are emptied.
    ///
    /// # Panics
    /// When the table was mapped read-only.
    pub fn take_over(&self, now_ns: u64) -> Vec<(Slot, BackendRow)> {
        let mut left = Vec::new();
        for slot in (0..BACKENDS_MAX).map(Slot) {
            let row = self.read(slot);
            match (row.instance, row.identity) {
                (0, _) => {}
                (_, 0) => self.write(slot, InstanceId(0), TrafficState::Out, 0, now_ns),
                _ => left.push((slot, row)),
            }
        }
        left
    }

    /// Marks an instance as exited where no kernel program does (exit watch off): the same store the kernel would make.
    ///
    /// # Panics
    /// When the table was mapped read-only.
    pub fn mark_exited(&self, slot: Slot, instance: InstanceId, at_ns: u64) {
        assert!(self.writable, "only the master writes the backend table");
        let Some(row) = self.row(slot) else { return };
        row.exited_at_ns.store(at_ns, Ordering::SeqCst);
        row.exited_instance.store(instance.0, Ordering::SeqCst);
    }
}

/// One worker's activity table, mapped for reading and writing.
pub struct ActivityTable {
    map: MmapRaw,
}

impl ActivityTable {
    /// Maps the table.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn map(memory: impl AsFd) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(ACTIVITY_BYTES).map_raw(memory.as_fd().as_raw_fd())? })
    }

    /// The row of a backend; slots beyond the table share the last row.
    pub fn row(&self, slot: Slot) -> &SharedActivity {
        let index = slot.0.min(BACKENDS_MAX - 1) as usize;
        let row = self.map.as_ptr().wrapping_add(index * size_of::<SharedActivity>());
        // SAFETY: the row lies within the mapping of ACTIVITY_BYTES (index is clamped), is 8-byte-aligned, lives as
        // long as `self.map`, and every access to it is atomic.
        unsafe { &*row.cast::<SharedActivity>() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_sees_what_the_writer_wrote() {
        let memory = shared_memory("test", TABLE_BYTES).unwrap();
        let writer = BackendTable::map(&memory).unwrap();
        let reader = BackendTable::map_read_only(read_only(&memory).unwrap()).unwrap();
        writer.write(Slot(5), InstanceId(9), TrafficState::In, 3, 1);
        assert_eq!(reader.traffic(Slot(5)), TrafficState::In);
        assert_eq!(reader.read(Slot(5)).weight, 3);
        writer.mark_exited(Slot(5), InstanceId(9), 2);
        assert_eq!(reader.traffic(Slot(5)), TrafficState::Out);
        writer.write(Slot(5), InstanceId(10), TrafficState::In, 3, 3);
        assert_eq!(reader.traffic(Slot(5)), TrafficState::In);
    }

    #[test]
    fn next_master_finds_configured_backends_and_no_instances() {
        let memory = shared_memory("test", TABLE_BYTES).unwrap();
        let first = BackendTable::map(&memory).unwrap();
        first.write(Slot(1), InstanceId(9), TrafficState::In, 3, 1);
        first.identify(Slot(2), 77);
        first.write(Slot(2), InstanceId(10), TrafficState::In, 3, 1);
        let second = BackendTable::map(&memory).unwrap();
        let left = second.take_over(2);
        assert_eq!(
            left.iter().map(|(slot, row)| (*slot, row.instance, row.identity)).collect::<Vec<_>>(),
            [(Slot(2), 10, 77)]
        );
        assert_eq!(second.traffic(Slot(1)), TrafficState::Out);
        assert_eq!(second.traffic(Slot(2)), TrafficState::In);
    }

    #[test]
    fn slot_beyond_the_table_is_out() {
        let table = BackendTable::map(shared_memory("test", TABLE_BYTES).unwrap()).unwrap();
        table.write(Slot(BACKENDS_MAX), InstanceId(1), TrafficState::In, 1, 1);
        assert_eq!(table.traffic(Slot(BACKENDS_MAX)), TrafficState::Out);
    }

    #[test]
    fn read_only_descriptor_cannot_be_mapped_for_writing() {
        let memory = shared_memory("test", TABLE_BYTES).unwrap();
        assert!(BackendTable::map(read_only(&memory).unwrap()).is_err());
    }
}
