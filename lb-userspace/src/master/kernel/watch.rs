//! The exit and listen watches: which processes and cgroups the kernel programs look at.
//!
//! Effectful: loads and attaches BPF programs, updates their maps.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, anyhow};
use aya::maps::{MapData, RingBuf};
use lb_common::exit::Watched;

use super::layout::Layout;
use super::object::{Object, Table};
use super::{off, on, switched_off};
use crate::config::model::Switch;
use crate::control::protocol::Capability;

/// The maps of the watches. The programs are attached as long as the [`Object`] lives.
pub struct Watch {
    processes: Mutex<Table<4, 16>>,
    cgroups: Mutex<Table<8, 16>>,
    ring: Option<RingBuf<MapData>>,
}

impl Watch {
    /// Attaches both programs and writes their rows of the capability matrix. `None` when neither is on.
    ///
    /// # Errors
    /// The switch is `on` and the exit watch cannot be had.
    pub fn load(
        switch: Switch,
        layout: &Layout,
        object: &mut Object,
        capabilities: &mut Vec<Capability>,
    ) -> anyhow::Result<Option<Self>> {
        if switch == Switch::Off {
            capabilities.extend([switched_off("exit_watch"), switched_off("listen_watch")]);
            return Ok(None);
        }
        let exit = attach_exit(layout, object);
        let listen = attach_listen(layout, object);
        if switch == Switch::On
            && let Err(error) = exit
        {
            return Err(error.context("[kernel] exit_watch = \"on\""));
        }
        let any = exit.is_ok() || listen.is_ok();
        capabilities.push(row(
            "exit_watch",
            "sched_process_exit takes a dead instance out before its sockets close",
            exit,
        ));
        capabilities.push(row(
            "listen_watch",
            "inet_sock_set_state takes out an instance that stops listening",
            listen,
        ));
        any.then(|| Self::new(object)).transpose()
    }

    fn new(object: &mut Object) -> anyhow::Result<Self> {
        Ok(Self {
            processes: Mutex::new(Table::new(object.take("WATCHED_PROCESSES")?)?),
            cgroups: Mutex::new(Table::new(object.take("WATCHED_CGROUPS")?)?),
            ring: Some(RingBuf::try_from(object.take("NOTICES")?).context("the ring of notices")?),
        })
    }

    /// Watches a process for its exit and, where it is in no watched cgroup, for its listening sockets.
    ///
    /// # Errors
    /// What the map update says.
    pub fn process(&self, pid: u32, watched: Watched) -> anyhow::Result<()> {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.insert(&pid, &watched).with_context(|| format!("watch process {pid}"))
    }

    /// Watches the listening sockets of a cgroup's tasks.
    ///
    /// # Errors
    /// What the map update says.
    pub fn cgroup(&self, id: u64, watched: Watched) -> anyhow::Result<()> {
        let mut cgroups = self.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        cgroups.insert(&id, &watched).with_context(|| format!("watch cgroup {id}"))
    }

    /// Forgets both.
    pub fn end(&self, pid: u32, cgroup_id: Option<u64>) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
        if let Some(id) = cgroup_id {
            self.cgroups.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
    }

    /// The ring of notices, once.
    pub fn take_ring(&mut self) -> Option<RingBuf<MapData>> {
        self.ring.take()
    }
}

fn attach_exit(layout: &Layout, object: &mut Object) -> anyhow::Result<()> {
    layout.exit.clone().map_err(|error| anyhow!(error))?;
    object.attach_tracepoint("process_exit", "sched_process_exit")
}

fn attach_listen(layout: &Layout, object: &mut Object) -> anyhow::Result<()> {
    layout.listen.clone().map_err(|error| anyhow!(error))?;
    object.attach_tracepoint("socket_state", "inet_sock_set_state")
}

fn row(name: &str, why: &str, result: anyhow::Result<()>) -> Capability {
    match result {
        Ok(()) => on(name, why.into()),
        Err(error) => off(name, &format!("{error:#}"), "run as root on a kernel of 5.12 or later"),
    }
}
