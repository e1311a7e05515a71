//! The backend table of a running master, mapped for reading: what kernel and workers see, not what anybody tells.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use lb_common::backend::BackendRow;
use lb_common::limits::BACKENDS_MAX;
use lb_userspace::state::event::Slot;
use lb_userspace::table::{BackendTable, TABLE_BYTES};

use crate::wait::until_or;

/// The mapped table.
pub struct Table {
    table: BackendTable,
    /// Whether it is a BPF map (else shared memory).
    pub in_kernel: bool,
}

impl Table {
    /// The table of the master with this pid.
    ///
    /// # Errors
    /// When it holds none that we find, or we may not look.
    pub fn of(master: u32) -> anyhow::Result<Self> {
        if let Some(map) = map_descriptor(master)? {
            let table = BackendTable::map_read_only(map.as_fd()).context("mapping the backend table")?;
            return Ok(Self { table, in_kernel: true });
        }
        let memory = memory_descriptor(master).context("the master has no backend table")?;
        Ok(Self { table: BackendTable::map_read_only(&memory)?, in_kernel: false })
    }

    /// The row now.
    pub fn row(&self, slot: u32) -> BackendRow {
        self.table.read(Slot(slot))
    }

    /// Waits for a condition of a row.
    pub fn wait_row(
        &self,
        slot: u32,
        within: Duration,
        holds: impl Fn(&BackendRow) -> bool,
    ) -> Option<BackendRow> {
        until_or(within, || Some(self.row(slot)).filter(&holds))
    }
}

/// The BPF array with the shape of the backend table among the master's descriptors.
fn map_descriptor(master: u32) -> anyhow::Result<Option<OwnedFd>> {
    let shape = [
        "map_type:\t2".to_owned(),
        format!("value_size:\t{}", size_of::<BackendRow>()),
        format!("max_entries:\t{BACKENDS_MAX}"),
    ];
    for (_, text) in descriptors(master) {
        if !shape.iter().all(|line| text.lines().any(|found| found == line)) {
            continue;
        }
        let id = text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse::<u32>().ok());
        let id = id.context("a map without id")?;
        let map = aya::maps::MapData::from_id(id).context("opening the master's map")?;
        return Ok(Some(map.fd().as_fd().try_clone_to_owned()?));
    }
    Ok(None)
}

/// The memfd with the size of the backend table among the master's descriptors.
fn memory_descriptor(master: u32) -> Option<File> {
    descriptors(master).into_iter().find_map(|(path, _)| {
        let name = std::fs::read_link(&path).ok()?.to_string_lossy().into_owned();
        let is_table = name.starts_with("/memfd:") && !name.contains("activity");
        let file = is_table.then(|| File::open(&path).ok())??;
        (file.metadata().ok()?.len() == TABLE_BYTES as u64).then_some(file)
    })
}

/// `/proc/PID/fd/N` of each descriptor and the text of its `fdinfo`.
fn descriptors(pid: u32) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let text = std::fs::read_to_string(entry.path()).ok()?;
            Some((PathBuf::from(format!("/proc/{pid}/fd")).join(entry.file_name()), text))
        })
        .collect()
}
