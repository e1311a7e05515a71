//! The object of the steering programs: loaded with its pinned maps, its stages linked.
//!
//! Effectful: loads BPF.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, anyhow};
use aya::maps::{Map, MapData, ProgramArray};
use aya::programs::{Program, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;
use lb_common::CONTRACT;
use lb_common::forward::{ENTRY_PROGRAM, Stage};

use super::pins::{self, Layouts, Pins};
use crate::master::kernel::reason;
use crate::steer::programs;

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf/prebuilt/lb-steer.o"));

/// The program that passes everything, for interfaces that only send.
const PASS_PROGRAM: &str = "steer_pass";
/// The table shared with the other object.
const BACKENDS: &str = "BACKENDS";
/// The programs that follow the first: of one load, and pinned only so that the kernel does not empty it when a master ends.
const STAGES: &str = "STAGES";
/// Its pin until no interface runs an older program.
const STAGES_NEW: &str = "STAGES_NEW";
/// Threads that verify programs at once.
const VERIFYING_MAX: usize = 4;
/// Between stages of one packet: holds nothing.
const HAND_OVER: &str = "HAND_OVER";

/// The object, its programs loaded.
pub struct Steering {
    ebpf: Ebpf,
    folder: PathBuf,
    /// Held: the kernel empties the array with its last descriptor.
    stages: Option<ProgramArray<MapData>>,
    /// Maps that an earlier master made.
    pub reused: Vec<String>,
    room: Room,
}

/// Entries of the maps whose size is not fixed, by name.
pub type Room = [(&'static str, u32); 3];

/// Where an earlier master of this run folder pinned the backend table, if it is one that may be used.
///
/// # Errors
/// The committed object cannot be read: our own mistake.
pub fn pinned_backends(run_dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    let layouts = pins::layouts(&Object::parse(OBJECT).map_err(reason)?, &[])?;
    let layout = layouts.get(BACKENDS).context("the steering object has no map BACKENDS")?;
    Ok(Pins::of(run_dir, CONTRACT).find(BACKENDS, *layout))
}

impl Steering {
    /// Loads the programs with the maps of this run folder, and `backends` among them.
    ///
    /// # Errors
    /// What the kernel says; without root that it is not allowed.
    pub fn load(pins: &Pins, backends: &MapData, room: Room) -> anyhow::Result<Self> {
        let object = Object::parse(OBJECT).map_err(reason)?;
        let mut layouts = pins::layouts(&object, &room)?;
        layouts.retain(|name, _| name != STAGES && name != HAND_OVER);
        let ready = pins.prepare(&layouts)?;
        pin_backends(&ready.folder.join(BACKENDS), backends)?;
        let ebpf = load_maps(&ready.folder, &layouts, &room)?;
        let mut steering = Self { ebpf, folder: ready.folder, stages: None, reused: ready.reused, room };
        steering.load_programs(&object)?;
        Ok(steering)
    }

    fn load_programs(&mut self, object: &Object) -> anyhow::Result<()> {
        let stages = self.take(STAGES)?;
        let pin = self.folder.join(STAGES_NEW);
        let _ = std::fs::remove_file(&pin);
        stages.pin(&pin).map_err(reason)?;
        let mut stages = ProgramArray::try_from(stages).map_err(reason)?;
        verify(programs::longest_last(&mut self.ebpf, object))?;
        for stage in Stage::ALL {
            stages.set(stage as u32, self.program(stage.program())?.fd()?, 0).map_err(reason)?;
        }
        self.stages = Some(stages);
        Ok(())
    }

    /// Makes the stages of this load outlive this process. To be called when no interface runs an older program any more: those of
    /// an earlier load go with their pin.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn keep_stages(&self) -> anyhow::Result<()> {
        let (pin, new) = (self.folder.join(STAGES), self.folder.join(STAGES_NEW));
        if new.exists() {
            std::fs::rename(&new, &pin).with_context(|| format!("pin {}", pin.display()))?;
        }
        Ok(())
    }

    /// How many entries a map of [`Room`] has room for.
    pub fn room(&self, map: &str) -> u32 {
        self.room.iter().find(|(name, _)| *name == map).map_or(0, |(_, entries)| *entries)
    }

    /// The folder of the maps.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes the descriptor of a map out of the object.
    ///
    /// # Errors
    /// The committed object has no such map.
    pub fn take(&mut self, name: &str) -> anyhow::Result<Map> {
        self.ebpf.take_map(name).with_context(|| format!("the steering object has no map {name}"))
    }

    /// The program that steers.
    ///
    /// # Errors
    /// The committed object has none.
    pub fn entry(&mut self) -> anyhow::Result<&mut Xdp> {
        self.program(ENTRY_PROGRAM)
    }

    /// The program that passes everything.
    ///
    /// # Errors
    /// The committed object has none.
    pub fn pass(&mut self) -> anyhow::Result<&mut Xdp> {
        self.program(PASS_PROGRAM)
    }

    fn program(&mut self, name: &str) -> anyhow::Result<&mut Xdp> {
        let program: &mut Program = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("the steering object has no program {name}"))?;
        Ok(program.try_into()?)
    }
}

/// Loads every program, the last one first and several at a time: the kernel verifies each on the core that asks, and that is nearly all of
/// the work.
fn verify(programs: Vec<(&str, &mut Program)>) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(VERIFYING_MAX);
    let waiting = Mutex::new(programs);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let load = || -> anyhow::Result<()> {
        while let Some((name, program)) = next() {
            let program: &mut Xdp = program.try_into()?;
            program.load().map_err(reason).with_context(|| format!("program {name}"))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(load)).collect();
        let ours = load();
        let theirs =
            others.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("verifying panicked"))?);
        theirs.fold(ours, |before, each| before.and(each))
    })
}

fn load_maps(folder: &Path, layouts: &Layouts, room: &Room) -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    // The programs need no relocation by type.
    loader.btf(None);
    for (name, entries) in room {
        loader.map_max_entries(name, *entries);
    }
    for name in layouts.keys() {
        loader.map_pin_path(name.as_str(), folder.join(name));
    }
    loader.load(OBJECT).map_err(reason)
}

/// Pins the backend table that this process uses; another one there is of no use to anybody.
fn pin_backends(pin: &Path, backends: &MapData) -> anyhow::Result<()> {
    let ours = backends.info().map_err(reason)?.id();
    match aya::maps::MapInfo::from_pin(pin) {
        Ok(info) if info.id() == ours => return Ok(()),
        Ok(_) => std::fs::remove_file(pin).with_context(|| format!("remove {}", pin.display()))?,
        Err(_) => {}
    }
    backends.pin(pin).map_err(reason)
}
