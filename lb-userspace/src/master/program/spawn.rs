//! The processes of programs: start, signal, kill, and the events of their lives.
//!
//! Effectful: forks. A process is watched by the kernel half before its shim is told what to run, so its death cannot be missed.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::sync::Arc;

use super::address::{self, Ports};
use super::cgroup::Cgroups;
use super::fork::{Released, Shim};
use super::life::Process;
use super::order::{self, Surroundings};
use super::output::{Capture, Outputs, SharedRing};
use crate::config::model::{Address, Program};
use crate::master::inbox::{Inbox, Input};
use crate::state::event::{Event, InstanceId, Slot};
use crate::table::BackendTable;
use crate::time::Time;

/// All processes of programs.
pub struct Programs {
    processes: HashMap<InstanceId, Running>,
    ports: Ports,
    /// What they write.
    pub outputs: Outputs,
    shim: Shim,
    surroundings: Surroundings,
    inbox: Inbox,
}

/// A process and what it is.
pub struct Running {
    /// `program:index`.
    pub name: String,
    /// Where it listens.
    pub address: Option<Address>,
    /// Its row.
    pub slot: Option<Slot>,
    /// The process.
    pub process: Arc<Process>,
}

/// What is to be started: [`crate::state::event::Effect::Spawn`].
pub struct Start<'a> {
    /// Which life.
    pub instance: InstanceId,
    /// Its row.
    pub slot: Option<Slot>,
    /// Which instance of the program.
    pub index: u32,
    /// The program.
    pub program: &'a Program,
    /// Where it listened before.
    pub address: Option<&'a Address>,
}

/// The table to mark exits in, where no kernel program does.
pub type MarkExits = Option<Arc<BackendTable>>;

impl Programs {
    /// Nothing runs.
    pub fn new(shim: Shim, surroundings: Surroundings, seed: u64, outputs: Outputs, inbox: Inbox) -> Self {
        let ports = Ports::new(seed);
        Self { processes: HashMap::new(), ports, outputs, shim, surroundings, inbox }
    }

    /// Starts an instance. `watch` is called when the process exists and does nothing yet. What becomes of it comes as events.
    ///
    /// # Errors
    /// Why there is no process, in words for operators. No event comes then; [`Self::gone`] may give what was to be one.
    pub fn start(
        &mut self,
        cgroups: &Cgroups,
        start: &Start<'_>,
        mark_exits: MarkExits,
        watch: impl FnOnce(&Running),
    ) -> Result<(), String> {
        let program = start.program;
        let name = format!("{}:{}", program.name, start.index);
        let address = match &program.address {
            Some(configured) => Some(self.ports.address(&name, start.index, configured, start.address)?),
            None => None,
        };
        let leaf = cgroups
            .leaf(&format!("{}.{}.{}", program.name, start.index, start.instance.0))
            .map_err(|error| format!("create cgroup: {error}"))?;
        if let Some(leaf) = &leaf {
            leaf.limit(&program.limits).map_err(|error| format!("set limits: {error}"))?;
        }
        let owner = program.user.as_ref().map(|user| (user.uid, user.gid));
        let capture = self
            .outputs
            .capture(&name, &program.log, owner)
            .map_err(|error| format!("open output pipes: {error}"))?;
        let forked = self
            .shim
            .fork([capture.stdout.as_fd(), capture.stderr.as_fd()], leaf.as_ref())
            .map_err(|error| format!("fork: {error}"))?;
        let spec = order::spec(program, start.index, address.as_ref(), &self.surroundings);
        let process = Process::new(forked.pid, forked.pidfd, leaf)
            .map_err(|error| format!("watch the process: {error}"))?;
        let running = Running { name, address, slot: start.slot, process };
        watch(&running);
        // In the list whatever comes now: who hears that the start failed takes it out, and ends the watching.
        let running = self.processes.entry(start.instance).insert_entry(running).into_mut();
        let released = forked.waiting.release(&spec, &[]).map_err(|error| {
            running.process.clone().abandon();
            format!("release the exec shim: {error}")
        })?;
        let mark = running.slot.zip(mark_exits).map(|(slot, table)| (slot, table, start.instance));
        let life = Life {
            instance: start.instance,
            process: running.process.clone(),
            address: running.address.clone(),
            ring: capture.ring.clone(),
            mark,
            inbox: self.inbox.clone(),
        };
        tokio::spawn(life.run(released, capture));
        Ok(())
    }

    /// A process that has not been forgotten by [`Self::gone`].
    pub fn get(&self, instance: InstanceId) -> Option<&Running> {
        self.processes.get(&instance)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&InstanceId, &Running)> {
        self.processes.iter()
    }

    /// Takes a process that has ended out of the list, with the socket file that it left.
    pub fn gone(&mut self, instance: InstanceId) -> Option<Running> {
        let running = self.processes.remove(&instance)?;
        if let Some(Address::Unix(path)) = &running.address
            && let Err(error) = address::remove_stale_socket(path)
        {
            log::debug!("socket file not removed instance={} reason=\"{error}\"", running.name);
        }
        Some(running)
    }

    /// Forgets output and ports of all instances but these.
    pub fn keep(&mut self, names: &BTreeSet<String>) {
        self.outputs.keep(names);
        self.ports.keep(|name| names.contains(name));
    }
}

/// What the task that follows one process knows.
struct Life {
    instance: InstanceId,
    process: Arc<Process>,
    address: Option<Address>,
    ring: SharedRing,
    mark: Option<(Slot, Arc<BackendTable>, InstanceId)>,
    inbox: Inbox,
}

impl Life {
    async fn run(self, released: Released, capture: Capture) {
        // The write ends must go, or the pipes never end.
        let Capture { readers, stdout, stderr, .. } = capture;
        drop((stdout, stderr));
        match self.process.executed(released).await {
            Ok(()) => {
                let (instance, pid, address) = (self.instance, self.process.pid, self.address.clone());
                self.send(Event::Spawned { instance, pid, address }).await;
                let ending = self.end(readers).await;
                let last_line = self.ring.lock().last_error_line.take();
                self.send(Event::Exited { instance, ending, last_line }).await;
            }
            Err(error) => {
                self.process.kill();
                let _ = self.end(readers).await;
                self.send(Event::SpawnFailed { instance: self.instance, error }).await;
            }
        }
    }

    async fn end(&self, readers: Vec<tokio::task::JoinHandle<()>>) -> crate::state::event::Ending {
        let noticed = || {
            if let Some((slot, table, instance)) = &self.mark {
                table.mark_exited(*slot, *instance, Time::now().0);
            }
        };
        if let Err(error) = self.process.ended(noticed).await {
            log::error!("pidfd not watched pid={} reason=\"{error}\"", self.process.pid);
        }
        let ending = self.process.reap().await;
        // Its last words are in the pipe already; a process that inherited the pipe may keep it open for ever.
        let words = async {
            for reader in readers {
                let _ = reader.await;
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_millis(5), words).await;
        ending
    }

    async fn send(&self, event: Event) {
        // The loop only goes away when everything has ended.
        let _ = self.inbox.send(Input::Event(event)).await;
    }
}
