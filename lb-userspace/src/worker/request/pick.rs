//! Which backend gets the request: those of the snapshot that the table lets take new ones, chosen by the upstream's policy.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use crate::balance::Candidate;
use crate::snapshot::ServedBackend;
use crate::state::event::{InstanceId, Slot};
use crate::table::BackendTable;
use crate::worker::served::LocalUpstream;
use crate::worker::shared::Shared;
use crate::worker::thread::Thread;

/// Scratch space, kept so that a pick allocates nothing.
pub type Candidates = Vec<Candidate>;

/// How often a pick starts again because its choice left the rotation between the choice and the count.
const RACES_MAX: u32 = 8;

/// A backend, chosen and counted as active.
pub struct Picked {
    /// Index in the upstream's backends.
    pub index: usize,
    /// Its row.
    pub slot: Slot,
    /// The life that was IN.
    pub instance: InstanceId,
    /// Its place in the count of active requests.
    pub active: Active,
}

/// Why nobody was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// No backend may take new requests.
    NoneIn,
    /// Those that may have been tried already.
    AllTried,
}

/// Backends that this request has failed on, by row and life: a new life may be tried again.
pub type Tried = Vec<(Slot, InstanceId)>;

/// Picks a backend and counts the request as active on it.
///
/// # Errors
/// When nobody can be picked.
pub fn pick(
    thread: &Rc<Thread>,
    upstream: &LocalUpstream,
    client_ip: IpAddr,
    tried: &Tried,
) -> Result<Picked, Nobody> {
    let shared = &thread.shared;
    for _ in 0..RACES_MAX {
        let mut candidates = thread.candidates.borrow_mut();
        let mut someone_in = collect(&mut candidates, shared, upstream, Tier::Primary, tried);
        if candidates.is_empty() {
            someone_in |= collect(&mut candidates, shared, upstream, Tier::Backup, tried);
        }
        let mut chooser = upstream.chooser.borrow_mut();
        let Some(index) = chooser.choose(&candidates, client_ip, &mut thread.rng.borrow_mut()) else {
            return Err(if someone_in { Nobody::AllTried } else { Nobody::NoneIn });
        };
        drop(candidates);
        if let Some(picked) = claim(thread, index, &upstream.shared.served.backends[index], tried) {
            return Ok(picked);
        }
    }
    Err(Nobody::NoneIn)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    Primary,
    Backup,
}

/// Fills in the backends of a tier that may take the request; tells whether any may take new ones at all.
fn collect(
    candidates: &mut Candidates,
    shared: &Shared,
    upstream: &LocalUpstream,
    tier: Tier,
    tried: &Tried,
) -> bool {
    candidates.clear();
    let mut someone_in = false;
    for (index, backend) in upstream.shared.served.backends.iter().enumerate() {
        if backend.backup != (tier == Tier::Backup) {
            continue;
        }
        let slot = Slot(backend.slot);
        let row = shared.table.read(slot);
        if !row.traffic().takes_new() {
            continue;
        }
        someone_in = true;
        if !tried.contains(&(slot, InstanceId(row.instance))) {
            let active = shared.activity.row(slot).active.load(Ordering::Relaxed);
            candidates.push(Candidate {
                index,
                key: upstream.shared.keys[index],
                weight: row.weight,
                active,
            });
        }
    }
    someone_in
}

/// Counts first, then looks again: the master writes DRAINING before it reads the count, so one of the two sees the other
/// (invariant 5).
fn claim(thread: &Rc<Thread>, index: usize, backend: &ServedBackend, tried: &Tried) -> Option<Picked> {
    let slot = Slot(backend.slot);
    let active = Active::count(thread.clone(), slot);
    let row = thread.shared.table.read(slot);
    let instance = InstanceId(row.instance);
    (row.traffic().takes_new() && !tried.contains(&(slot, instance))).then_some(Picked {
        index,
        slot,
        instance,
        active,
    })
}

/// Whether the instance that was picked is not the one in rotation any more.
pub fn is_gone(table: &BackendTable, slot: Slot, instance: InstanceId) -> bool {
    let row = table.read(slot);
    row.instance != instance.0 || !row.traffic().takes_new()
}

/// Whether any backend of the upstream may take new requests.
pub fn anyone_in(table: &BackendTable, upstream: &LocalUpstream) -> bool {
    upstream.shared.served.backends.iter().any(|backend| table.traffic(Slot(backend.slot)).takes_new())
}

/// Whether nobody of the upstream is to be waited for: every backend rests for good, and none is about to be placed.
pub fn all_given_up(table: &BackendTable, upstream: &LocalUpstream) -> bool {
    let served = &upstream.shared.served;
    served.unplaced == 0 && served.backends.iter().all(|backend| table.read(Slot(backend.slot)).is_given_up())
}

/// Whether a program of ours is to bring a backend of the upstream, now or soon.
pub fn anyone_starting(table: &BackendTable, upstream: &LocalUpstream) -> bool {
    let is_ours = |slot| {
        let row = table.read(slot);
        row.instance != 0 && row.identity == 0 && !row.is_given_up()
    };
    let served = &upstream.shared.served;
    served.unplaced > 0 || served.backends.iter().any(|backend| is_ours(Slot(backend.slot)))
}

/// One request or tunnel in a backend's count of active ones; uncounted when dropped.
pub struct Active {
    thread: Rc<Thread>,
    slot: Slot,
}

impl Active {
    fn count(thread: Rc<Thread>, slot: Slot) -> Self {
        thread.shared.activity.row(slot).active.fetch_add(1, Ordering::SeqCst);
        Self { thread, slot }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.thread.shared.activity.row(self.slot).active.fetch_sub(1, Ordering::SeqCst);
    }
}
