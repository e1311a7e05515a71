//! What a worker gives up before it reads a client's first byte.
//!
//! Effectful: changes the process.

use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs};

/// Gives up ever gaining privileges again. What cannot be given up (because we have no right to it) is none we hold.
pub fn give_up_privileges() {
    if let Err(error) = set_no_new_privs(true) {
        log::warn!("worker no_new_privs failed error={error}");
    }
    for capability in CapabilitySet::all() {
        // EPERM: we have no CAP_SETPCAP, so nothing can come out of the bounding set with no_new_privs either.
        let _ = remove_capability_from_bounding_set(capability);
    }
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        log::warn!("worker dumpable failed error={error}");
    }
}
