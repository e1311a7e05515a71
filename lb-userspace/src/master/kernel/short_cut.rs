//! The short-cut between worker and local backends: attached, fed with ports, and proven before use.
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::layout::Layout;
use super::object::{CounterTable, Object, Table};
use super::off;
use crate::config::model::Switch;
use crate::control::protocol::Capability;

/// The ports whose connections may take the short-cut.
pub struct ShortCut {
    ports: Mutex<Table<4, 4>>,
}

impl ShortCut {
    /// Proves and attaches.
    pub fn load(
        _switch: Switch,
        _layout: &Layout,
        _product_cgroup: Option<&Path>,
        _object: &mut Object,
        _counters: &CounterTable,
        capabilities: &mut Vec<Capability>,
    ) -> anyhow::Result<Option<Self>> {
        capabilities.push(off("short_cut", "is not attached", ""));
        Ok(None)
    }

    /// See [`super::KernelHalf::enrol_port`].
    pub fn enrol_port(&self, port: u16) {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = ports.insert(&u32::from(port), &1u32) {
            log::warn!("short-cut not for port={port}: {error:#}");
        }
    }

    /// See [`super::KernelHalf::withdraw_port`].
    pub fn withdraw_port(&self, port: u16) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).remove(&u32::from(port));
    }
}
