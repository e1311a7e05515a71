//! The processes of the simulated world, and what probes find of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::world::{Happening, Probing, Process, World};
use crate::config::model::{Address, Program};
use crate::state::event::{Ending, Event, InstanceId, ProbeRole, Slot};

impl World {
    pub(super) fn spawn(
        &mut self,
        id: InstanceId,
        slot: Option<Slot>,
        index: u32,
        program: Arc<Program>,
        kept: Option<Address>,
    ) {
        let accident = if self.healthy { 50 } else { self.rng.u8(..50) };
        let probe = program.upstream.as_ref().and_then(|name| self.model.upstreams.get(name)?.probe.as_ref());
        let process = Process {
            slot,
            alive: accident != 0,
            had_readiness_probe: probe.is_some() && program.address.is_some(),
            frozen: false,
            listening: false,
            sick: accident == 1,
            address: self.address_for(&program, index, kept),
            passed_startup: false,
            passed_readiness: false,
            was_in: false,
            signalled: false,
            program: program.clone(),
        };
        let address = process.address.clone();
        self.processes.insert(id, process);
        if accident == 0 {
            self.soon(Event::SpawnFailed { instance: id, error: "no such file".to_owned() });
            return;
        }
        self.after_ms(1, Happening::Event(Event::Spawned { instance: id, pid: id.0 as u32, address }));
        let start = self.rng.u64(2..700);
        match accident {
            2..5 => self.after_ms(start, Happening::Dies(id, Ending::Code(1))),
            5 => {}
            _ if program.address.is_some() => self.after_ms(start, Happening::Listens(id)),
            6..15 => self.after_ms(start * 10, Happening::Dies(id, Ending::Code(0))),
            _ => {}
        }
    }

    /// Mostly the same port again; sometimes that is taken by somebody else.
    fn address_for(&mut self, program: &Program, index: u32, kept: Option<Address>) -> Option<Address> {
        program.address.as_ref()?;
        let port = 20_000 + (index as u16) * 100 + self.rng.u16(..100) + program.name.len() as u16 * 1_000;
        let fresh = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Some(kept.filter(|_| self.rng.u8(..10) > 0).unwrap_or(fresh))
    }

    pub(super) fn signal(&mut self, id: InstanceId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.signalled = true;
        if !process.frozen && self.rng.u8(..10) > 0 {
            let after = self.rng.u64(1..300);
            self.after_ms(after, Happening::Dies(id, Ending::Signal(15)));
        }
    }

    /// The kernel marks its row at once; the master hears of it a little later.
    pub(super) fn die(&mut self, id: InstanceId, ending: Ending) {
        let Some(process) = self.processes.get_mut(&id).filter(|each| each.alive) else { return };
        process.alive = false;
        if let Some(slot) = process.slot
            && let Some(row) = self.rows.get_mut(&slot)
            && row.instance == id
        {
            row.exited = id;
            row.active = 0;
        }
        let after = self.rng.u64(1..4);
        let exited = Event::Exited { instance: id, ending, last_line: None };
        self.after_ms(after.max(2), Happening::Event(exited));
    }

    pub(super) fn listen(&mut self, id: InstanceId) {
        let Some(process) = self.processes.get_mut(&id).filter(|each| each.alive && !each.listening) else {
            return;
        };
        process.listening = true;
        self.set_closed(id, false);
        self.soon(Event::ListenOpened(id));
    }

    pub(super) fn set_closed(&mut self, id: InstanceId, closed: bool) {
        let Some(slot) = self.processes[&id].slot else { return };
        if let Some(row) = self.rows.get_mut(&slot).filter(|row| row.instance == id) {
            row.closed = closed;
        }
    }

    pub(super) fn start_probe(
        &mut self,
        id: InstanceId,
        role: ProbeRole,
        address: Address,
        every_ms: u64,
        first_ms: u64,
    ) {
        if !self.processes.contains_key(&id) {
            self.statics.insert(id, address);
        }
        self.happenings += 1;
        let probing = Probing { generation: self.happenings, every_ms, gap_ms: first_ms };
        self.probes.insert((id, role), probing);
        self.after_ms(1, Happening::Probe(id, role, probing.generation));
    }

    pub(super) fn run_probe(&mut self, id: InstanceId, role: ProbeRole, generation: u64) {
        let Some(probing) = self.probes.get_mut(&(id, role)).filter(|each| each.generation == generation)
        else {
            return;
        };
        let gap = probing.gap_ms;
        probing.gap_ms = (gap * 2).min(probing.every_ms);
        self.happenings += 1;
        probing.generation = self.happenings;
        let next = Happening::Probe(id, role, probing.generation);
        self.after_ms(gap, next);
        let passes = self.passes(id, role);
        if let Some(process) = self.processes.get_mut(&id).filter(|_| passes) {
            process.passed_startup |= role == ProbeRole::Startup;
            process.passed_readiness |= role == ProbeRole::Readiness;
        }
        let result = if passes { Ok(()) } else { Err("connection refused".to_owned()) };
        self.take(Event::Probed { instance: id, role, result });
    }

    fn passes(&mut self, id: InstanceId, role: ProbeRole) -> bool {
        if let Some(address) = self.statics.get(&id) {
            return !self.sick.contains(address);
        }
        let flaky = !self.healthy && self.rng.u8(..30) == 0;
        let Some(process) = self.processes.get(&id) else { return false };
        let answers = process.alive && process.listening && !process.frozen;
        answers && !flaky && (role != ProbeRole::Readiness || !process.sick)
    }
}
