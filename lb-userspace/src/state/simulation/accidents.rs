//! What happens to the simulated world from outside: requests, crashes, frozen processes, reloads, commands.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::models::random_model;
use super::world::{Happening, World};
use crate::control::protocol::Command;
use crate::reason::Reason;
use crate::state::event::{Ending, Event, InstanceId, Slot};
use lb_common::backend::TrafficState;

impl World {
    /// Somebody does something: clients, processes, the operator.
    pub(super) fn meddle(&mut self) {
        match self.rng.u8(..100) {
            0..35 => self.send_request(),
            35..45 => self.fail_request(),
            45..55 => self.kill_a_process(),
            55..60 => self.freeze_a_process(),
            60..64 => self.close_a_listener(),
            64..68 => self.make_sick(),
            68..71 => self.outside_is_up = !self.outside_is_up,
            71..80 => self.reload(),
            80..99 => self.operate(),
            _ if self.rng.u8(..5) == 0 => self.terminate(),
            _ => {}
        }
    }

    fn some_in(&mut self) -> Option<(Slot, InstanceId)> {
        let served = self.snapshots.first()?;
        let known: BTreeSet<u32> =
            served.upstreams.iter().flat_map(|each| &each.backends).map(|each| each.slot).collect();
        let rows: Vec<(Slot, InstanceId)> = self
            .rows
            .iter()
            .filter(|(slot, row)| row.traffic() == TrafficState::In && known.contains(&slot.0))
            .map(|(&slot, row)| (slot, row.instance))
            .collect();
        if rows.is_empty() { None } else { Some(rows[self.rng.usize(..rows.len())]) }
    }

    fn send_request(&mut self) {
        let Some((slot, id)) = self.some_in() else { return };
        if let Some(row) = self.rows.get_mut(&slot) {
            row.active += 1;
        }
        let takes = if self.rng.u8(..10) == 0 { 8_000 } else { 400 };
        let after = self.rng.u64(1..takes);
        self.after_ms(after, Happening::RequestEnds(slot, id));
        if self.rng.bool() {
            self.take(Event::BackendSucceeded { slot, instance: id });
        }
    }

    fn fail_request(&mut self) {
        let Some((slot, instance)) = self.some_in() else { return };
        let reason = Reason::ALL[self.rng.usize(..Reason::ALL.len())];
        self.take(Event::BackendFailed { slot, instance, reason });
    }

    fn some_process(&mut self) -> Option<InstanceId> {
        let living: Vec<InstanceId> = self
            .processes
            .iter()
            .filter(|(_, each)| each.alive && each.listening)
            .map(|(&id, _)| id)
            .collect();
        if living.is_empty() { None } else { Some(living[self.rng.usize(..living.len())]) }
    }

    fn kill_a_process(&mut self) {
        let endings = [Ending::Signal(9), Ending::OutOfMemory, Ending::Code(1), Ending::Code(0)];
        let ending = endings[self.rng.usize(..4)];
        if let Some(id) = self.some_process() {
            self.die(id, ending);
        }
    }

    fn freeze_a_process(&mut self) {
        if let Some(id) = self.some_process()
            && let Some(process) = self.processes.get_mut(&id)
        {
            process.frozen = true;
        }
    }

    fn close_a_listener(&mut self) {
        let Some(id) = self.some_process() else { return };
        if let Some(process) = self.processes.get_mut(&id) {
            process.listening = false;
        }
        self.set_closed(id, true);
        self.soon(Event::ListenClosed(id));
        if self.rng.bool() {
            let after = self.rng.u64(5..500);
            self.after_ms(after, Happening::Listens(id));
        }
    }

    fn make_sick(&mut self) {
        let sick = self.rng.bool();
        if let Some(address) = self.statics.values().next().cloned() {
            if !self.sick.remove(&address) {
                self.sick.insert(address);
            }
        } else if let Some(id) = self.some_process()
            && let Some(process) = self.processes.get_mut(&id)
        {
            process.sick = sick;
        }
    }

    fn reload(&mut self) {
        if self.ending {
            return;
        }
        let model = Arc::new(random_model(&mut self.rng));
        self.model = model.clone();
        let request = self.new_request();
        self.take(Event::Apply { model, request: Some(request) });
        self.note_probes_removed();
    }

    /// Whose upstream has no probe any more need not pass one, even if a later configuration has one again.
    fn note_probes_removed(&mut self) {
        for process in self.processes.values_mut().filter(|each| each.alive) {
            let backend = process.slot.and_then(|slot| self.state.backends.get(&slot));
            let upstream = backend.and_then(|backend| self.model.upstreams.get(&backend.upstream));
            process.had_readiness_probe &= upstream.is_some_and(|upstream| upstream.probe.is_some());
        }
    }

    fn operate(&mut self) {
        let names = self.random_names();
        let now = self.rng.u8(..10) == 0;
        let command = match self.rng.u8(..10) {
            0..3 => Command::Start { names },
            3..5 => Command::Stop { names, now },
            5..8 => Command::Restart { names, now },
            8 => Command::Drain { names },
            _ => Command::Undrain { names },
        };
        self.hasty |= now;
        self.command(command);
    }

    fn random_names(&mut self) -> Vec<String> {
        let pool = ["web", "db", "job", "green", "web:0", "web:1", "green:0", "a/10.0.0.1:8001", "nobody"];
        match self.rng.u8(..4) {
            0 => Vec::new(),
            _ => vec![pool[self.rng.usize(..pool.len())].to_owned()],
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        let request = self.new_request();
        self.take(Event::Command { request, command, actor: "uid=0".to_owned() });
    }

    fn new_request(&mut self) -> u64 {
        let request = self.asked.len() as u64 + 1;
        self.asked.insert(request);
        request
    }
}
