//! Steering in the kernel: loads the XDP programs, keeps their maps as `crate::steer` plans them, and follows routes and neighbours.
//!
//! Nothing here decides: rows of backends are written by the master's loop, and everything else follows from them, the configuration and
//! the network. Work is done in turns of the loop, each bounded, so that taking a backend out never waits for a long list.
//!
//! Maps and links are pinned: packets go on when the master dies, and the next one with the same run folder takes them over. Told to
//! end, the master removes them.
//!
//! Effectful throughout.

pub mod attach;
pub mod capture;
mod expiry;
#[cfg(test)]
mod lab;
mod maps;
pub mod next_hop;
mod object;
pub mod pins;
mod report;
pub mod sys;
#[cfg(test)]
mod tests;
mod ways;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lb_common::CONTRACT;

use self::attach::Attachment;
use self::expiry::Expiry;
use self::maps::Maps;
use self::next_hop::netlink::{News, Told};
use self::next_hop::{Mode, Network, NoWay};
use self::object::Steering as Programs;
use self::pins::Pins;
use self::ways::Ways;
use super::kernel::KernelHalf;
use crate::config::model::steering::{Forward, Guard, Vip, XdpMode};
use crate::config::model::{Address, Model, Switch};
use crate::control::protocol::Capability;
use crate::snapshot::Snapshot;
use crate::state::event::{InstanceId, Slot};
use crate::steer::change::{Change, changes};
use crate::steer::contents::{Contents, Networks};
use crate::steer::plan::{self, Backend, Capture, Inputs, Plan, Port};
use crate::steer::room;
use crate::table::BackendTable;
use crate::time::Time;

pub use object::pinned_backends;

/// Changes written in one turn, some microseconds each.
const CHANGES_PER_TURN_MAX: usize = 1024;
/// Time that the first plan waits for neighbours to answer: until then packets go the ways that an earlier master found.
const SETTLE_WITHIN: Duration = Duration::from_secs(1);
/// Period of trying again what the kernel refused.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Period of trying interfaces again that were refused.
const REFUSED_EVERY: Duration = Duration::from_secs(5);

/// Steering, loaded or not.
pub struct Steer {
    run_dir: PathBuf,
    pins: Pins,
    model: Option<Arc<Model>>,
    loaded: Option<Box<Loaded>>,
    /// Why there is none although there are VIPs.
    trouble: Option<String>,
    /// Backends with an IP address that have a row, those that leave included.
    known: BTreeMap<Slot, Known>,
    /// A picture was published: the backends are known.
    has_backends: bool,
    capture: Option<Capture>,
    news: Option<News>,
    notes: Vec<Note>,
}

/// Something for the event log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub subject: String,
    /// What happened.
    pub what: &'static str,
    /// Why.
    pub cause: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    upstream: String,
    name: String,
    address: SocketAddr,
    instance: InstanceId,
}

struct Loaded {
    programs: Programs,
    maps: Maps,
    ring: capture::Ring,
    ways: Ways,
    expiry: Expiry,
    /// What the maps hold.
    applied: Contents,
    plan: Plan,
    /// From what they hold to the plan.
    changes: VecDeque<Change>,
    guard: Guard,
    networks: Arc<Networks>,
    /// Programs by interface.
    steered: BTreeMap<String, Attachment>,
    /// Interfaces that only send, with a program that passes everything.
    sending: BTreeMap<String, Attachment>,
    /// Why an interface has no program.
    refused: BTreeMap<String, String>,
    due: Due,
}

/// What has to be done, and when.
#[derive(Clone, Copy, Debug)]
struct Due {
    /// The first plan waits for neighbours…
    is_settling: bool,
    /// … until then.
    settled_by: Option<Time>,
    plan: bool,
    interfaces: bool,
    plan_at: Option<Time>,
    retry_at: Option<Time>,
    /// Interfaces that were refused are tried again: what was in the way may be gone.
    interfaces_at: Option<Time>,
}

impl Steer {
    /// For a run folder; nothing is loaded.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            pins: Pins::of(run_dir, CONTRACT),
            model: None,
            loaded: None,
            trouble: None,
            known: BTreeMap::new(),
            has_backends: false,
            capture: None,
            news: None,
            notes: Vec::new(),
        }
    }

    /// Loads what a configuration needs, or takes off what it does not. To be called within a tokio runtime.
    ///
    /// # Errors
    /// `[kernel] xdp = "on"`, and VIPs cannot be steered.
    pub fn configure(&mut self, model: &Arc<Model>, kernel: &KernelHalf) -> anyhow::Result<()> {
        self.model = Some(model.clone());
        let steering = &model.steering;
        let wanted = !steering.vips.is_empty() && steering.xdp != Switch::Off;
        match (&mut self.loaded, wanted) {
            (Some(loaded), true) => loaded.due.plan = true,
            (None, true) => match self.load(model, kernel) {
                Ok(loaded) => {
                    self.loaded = Some(Box::new(loaded));
                    self.trouble = None;
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if steering.xdp == Switch::On {
                        bail!("[kernel] xdp = \"on\": {why}");
                    }
                    log::error!("vips are not answered reason=\"{why}\"");
                    // What an earlier master left goes on as it is.
                    if self.pins.links().is_empty() {
                        let _ = self.pins.remove();
                    }
                    self.note("steering", "steering off", &why);
                    self.trouble = Some(why);
                }
            },
            (_, false) => self.unload(),
        }
        self.advise(model);
        Ok(())
    }

    fn load(&mut self, model: &Model, kernel: &KernelHalf) -> anyhow::Result<Loaded> {
        if !rustix::process::geteuid().is_root() {
            bail!("XDP needs root: run lbctl up as root");
        }
        let backends = kernel.backends_map().context(
            "the backend table is not in a BPF map, because this master began without VIPs or without BPF: restart lbctl",
        )?;
        let now = Time::now();
        // Before the first question, so that nothing is missed in between.
        let news = News::open().context("listen to the network")?;
        let ways = Ways::open(now).context("ask for the network")?;
        self.pins.make_home(&self.run_dir)?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error).context("count CPUs")?;
        let room = room::entries(&model.steering, u32::try_from(cpus).unwrap_or(u32::MAX));
        let mut programs = Programs::load(&self.pins, backends, room)?;
        let maps = Maps::of(&mut programs)?;
        let ring = capture::Ring::of(&mut programs)?;
        let applied = maps.contents().context("read the maps that an earlier master left")?;
        let expiry =
            Expiry::begin(programs.folder(), kernel.table().clone()).context("expire translated flows")?;
        if !applied.vips.is_empty() {
            let cause = format!("{} VIP entries, {} maps", applied.vips.len(), programs.reused.len());
            self.note("steering", "steering taken over", &cause);
        }
        self.news = Some(news);
        Ok(Loaded {
            programs,
            maps,
            ring,
            ways,
            expiry,
            applied,
            plan: Plan::default(),
            changes: VecDeque::new(),
            networks: Arc::new(plan::networks(&model.steering.guard)),
            guard: model.steering.guard.clone(),
            steered: BTreeMap::new(),
            sending: BTreeMap::new(),
            refused: BTreeMap::new(),
            due: Due {
                is_settling: true,
                settled_by: None,
                plan: true,
                interfaces: false,
                plan_at: None,
                retry_at: None,
                interfaces_at: None,
            },
        })
    }

    /// Takes everything out of the kernel that this run folder has there.
    fn unload(&mut self) {
        let was_loaded = self.loaded.take().is_some();
        self.news = None;
        self.trouble = None;
        if let Err(error) = self.pins.remove() {
            log::error!("pins not removed home={} reason=\"{error}\"", self.pins.home().display());
        }
        if was_loaded {
            self.note("steering", "steering off", "no VIP is configured");
        }
    }

    /// The end of the master: nothing stays in the kernel unless VIPs are to be answered on.
    pub fn end(&mut self) {
        let outlives = self.model.as_ref().is_some_and(|model| model.steering.vips_outlive);
        if outlives && self.loaded.take().is_some() {
            log::info!("vips are answered on home={}", self.pins.home().display());
        } else {
            self.unload();
        }
    }

    /// A row of the backend table was written.
    pub fn row_written(&mut self, slot: Slot, instance: InstanceId) {
        if self.known.get(&slot).is_some_and(|known| known.instance != instance) {
            self.known.remove(&slot);
        }
        self.plan_again();
    }

    /// A picture with the backends of all upstreams was published; their rows are written.
    pub fn published(&mut self, snapshot: &Snapshot, table: &BackendTable) {
        self.has_backends = true;
        for upstream in &snapshot.upstreams {
            for backend in &upstream.backends {
                let (slot, Address::Tcp(address)) = (Slot(backend.slot), &backend.address) else { continue };
                let known = Known {
                    upstream: upstream.name.clone(),
                    name: backend.name.clone(),
                    address: *address,
                    instance: InstanceId(table.read(slot).instance),
                };
                self.known.insert(slot, known);
            }
        }
        self.know_left(table);
        self.plan_again();
    }

    /// Backends that nobody names any more, and that flows went to under an earlier master: they have their time as any that is removed.
    fn know_left(&mut self, table: &BackendTable) {
        let Some(loaded) = &self.loaded else { return };
        for (slot, hop) in &loaded.applied.hops {
            let slot = Slot(*slot);
            let instance = InstanceId(table.read(slot).instance);
            if instance == InstanceId::default() || self.known.contains_key(&slot) {
                continue;
            }
            let ip = IpAddr::from(hop.address).to_canonical();
            let address = SocketAddr::new(ip, u16::from_be_bytes(hop.port));
            let (upstream, name) = (String::new(), address.to_string());
            self.known.insert(slot, Known { upstream, name, address, instance });
        }
    }

    fn plan_again(&mut self) {
        if let Some(loaded) = &mut self.loaded {
            loaded.due.plan = true;
        }
    }

    /// What the kernel tells of the network, to be waited for; taken once each time that steering is loaded.
    pub fn take_news(&mut self) -> Option<News> {
        self.news.take()
    }

    /// The kernel told something.
    pub fn hear(&mut self, told: Told) {
        if let Some(loaded) = &mut self.loaded {
            loaded.due.plan |= loaded.ways.hear(told);
            // An interface or an address may have come, or gone.
            let has_moved = loaded.ways.take_moved();
            loaded.due.interfaces |= has_moved;
            loaded.due.plan |= has_moved;
        }
    }

    /// Whether VIPs are steered.
    pub fn is_loaded(&self) -> bool {
        self.loaded.is_some()
    }

    /// Whether packets of VIPs may go to this row: a way to it is known.
    pub fn leads_to(&self, slot: Slot) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| loaded.applied.hops.contains_key(&slot.0))
    }

    /// What happened since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    fn note(&mut self, subject: &str, what: &'static str, cause: &str) {
        self.notes.push(Note { subject: subject.to_owned(), what, cause: cause.to_owned() });
    }

    /// When the next turn is due; `None` when nothing is to be done.
    pub fn due(&self, now: Time) -> Option<Time> {
        let loaded = self.loaded.as_ref().filter(|_| self.has_backends)?;
        let due = &loaded.due;
        let has_work = !loaded.changes.is_empty() || due.plan || due.interfaces;
        let is_settling = due.is_settling && due.settled_by.is_some();
        if has_work && !is_settling {
            return Some(now);
        }
        let times = [due.settled_by, due.plan_at, due.retry_at, due.interfaces_at, loaded.ways.due(now)];
        times.into_iter().flatten().min()
    }

    /// Does a bounded part of what is to be done.
    pub fn turn(&mut self, table: &BackendTable) {
        let now = Time::now();
        let is_waiting = |loaded: &Loaded| loaded.due.is_settling && loaded.due.settled_by.is_some();
        let is_due =
            self.due(now).is_some_and(|at| at <= now) || self.loaded.as_deref().is_some_and(is_waiting);
        let Some(model) = self.model.clone().filter(|_| is_due) else { return };
        let backends = self.backends(&model, table);
        let Some(loaded) = &mut self.loaded else { return };
        loaded.ways.want(&backends.iter().map(|backend| backend.address.ip()).collect());
        loaded.due.plan |= loaded.ways.turn(now);
        if loaded.due.is_settling {
            let settled_by = *loaded.due.settled_by.get_or_insert(now + SETTLE_WITHIN);
            if !loaded.ways.is_settled() && now < settled_by {
                return;
            }
            (loaded.due.is_settling, loaded.due.settled_by) = (false, None);
        }
        let is_due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if loaded.due.plan || is_due(loaded.due.plan_at) || is_due(loaded.due.retry_at) {
            loaded.make_plan(&model, &backends, self.capture.as_ref(), now);
        }
        loaded.write(now);
        let interfaces_due = loaded.due.interfaces || is_due(loaded.due.interfaces_at);
        if loaded.changes.is_empty() && interfaces_due {
            loaded.due.interfaces = false;
            let notes = loaded.attach(&model, &self.pins);
            loaded.due.interfaces_at = (!loaded.refused.is_empty()).then_some(now + REFUSED_EVERY);
            self.notes.extend(notes);
        }
    }

    /// Backends of upstreams that VIPs lead to, and those that flows may still go to since VIPs have led there, with what their rows say.
    fn backends(&self, model: &Model, table: &BackendTable) -> Vec<Backend> {
        let is_steered = |upstream: &str| {
            model
                .steering
                .vips
                .iter()
                .any(|vip| matches!(&vip.forward, Forward::Remote { upstream: of, .. } if of == upstream))
        };
        let upstreams: BTreeSet<&str> = self.known.values().map(|known| known.upstream.as_str()).collect();
        let steered: BTreeSet<&str> = upstreams.into_iter().filter(|upstream| is_steered(upstream)).collect();
        let known = self
            .known
            .iter()
            .filter(|(slot, known)| steered.contains(known.upstream.as_str()) || self.leads_to(**slot));
        known
            .map(|(slot, known)| {
                let row = table.read(*slot);
                Backend {
                    upstream: known.upstream.clone(),
                    slot: slot.0 as u16,
                    instance: known.instance.0,
                    address: known.address,
                    state: row.traffic(),
                    weight: row.weight,
                }
            })
            .collect()
    }

    /// The ring that captured frames come by; `None` where nothing is steered.
    pub fn ring(&self) -> Option<&capture::Ring> {
        self.loaded.as_ref().map(|loaded| &loaded.ring)
    }

    /// Frames of a VIP are captured from now on, one in `mask` + 1; `None`: no more.
    pub fn capture(&mut self, capture: Option<Capture>) {
        self.capture = capture;
        self.plan_again();
    }

    /// What of steering is in use: a row for each interface, and one for what keeps it from working.
    pub fn capabilities(&self) -> Vec<Capability> {
        let Some(model) = self.model.as_ref().filter(|model| !model.steering.vips.is_empty()) else {
            return vec![capability("xdp", false, "no VIP is configured", "")];
        };
        let Some(loaded) = &self.loaded else {
            let (why, remedy) = match &self.trouble {
                Some(why) => (why.as_str(), "VIPs are not answered; see why"),
                None => ("switched off in [kernel]", "VIPs are not answered"),
            };
            return vec![capability("xdp", false, why, remedy)];
        };
        let steered = loaded.steered.values().map(|attachment| {
            let remedy = match (attachment.mode, model.steering.xdp_mode) {
                (Mode::Generic, XdpMode::Auto) => "slower than native: a driver with XDP, or a smaller MTU",
                _ => "",
            };
            let why = format!("{}, by a pinned link", attachment.mode.name());
            capability(&format!("xdp {}", attachment.name), true, &why, remedy)
        });
        let refused = loaded
            .refused
            .iter()
            .map(|(name, why)| capability(&format!("xdp {name}"), false, why, "see why"));
        steered.chain(refused).collect()
    }

    /// Tells what a configuration has that this host does not.
    fn advise(&mut self, model: &Model) {
        let Some(loaded) = &self.loaded else { return };
        let network = loaded.ways.network();
        let mut missing = Vec::new();
        for vip in &model.steering.vips {
            let is_local = matches!(vip.forward, Forward::Local { .. });
            let address = vip.address.network.addr();
            if is_local && vip.address.single().is_some() && network.interfaces_with(address).next().is_none()
            {
                let device =
                    if network.interface_named("lo").is_some() { "lo" } else { vip.interface.as_str() };
                let cause = format!(
                    "{address} is not an address of this host, so that nobody answers: ip address add {address}/{} dev {device}",
                    vip.address.network.max_prefix_len()
                );
                missing.push((vip.name.clone(), cause));
            }
            missing.extend(vlan_of_nat(vip, network).map(|cause| (vip.name.clone(), cause)));
        }
        for (name, cause) in missing {
            log::warn!("vip not answered vip={name} reason=\"{cause}\"");
            self.note(&name, "vip not answered", &cause);
        }
    }
}

/// Why answers of backends may not get back to the clients of a VIP: frames are sent into a VLAN's interface by no program but its own.
fn vlan_of_nat(vip: &Vip, network: &Network) -> Option<String> {
    let Forward::Remote { mode, .. } = &vip.forward else { return None };
    let below = network.below(&vip.interface).filter(|_| !mode.is_direct())?;
    Some(format!(
        "{} is a VLAN, which takes no frames of programs of other interfaces: write interface = \"{}\", where tags are read, too",
        vip.interface, below.name
    ))
}

impl Loaded {
    fn make_plan(&mut self, model: &Model, backends: &[Backend], capture: Option<&Capture>, now: Time) {
        if self.guard != model.steering.guard {
            self.guard = model.steering.guard.clone();
            self.networks = Arc::new(plan::networks(&self.guard));
        }
        let names = model.steering.vips.iter().map(|vip| vip.interface.as_str());
        let network = self.ways.network();
        let port = |name: &str| {
            let (index, interface) = network.interface_named(name)?;
            let members = network.members(index).collect();
            Some((name.to_owned(), Port { index, mtu: interface.mtu, members }))
        };
        let interfaces: BTreeMap<String, Port> = names.filter_map(port).collect();
        let addresses = model.steering.vips.iter().filter_map(|vip| vip.address.single());
        let own: BTreeSet<IpAddr> =
            addresses.filter(|address| network.interfaces_with(*address).next().is_some()).collect();
        let inputs = Inputs {
            model,
            networks: &self.networks,
            backends,
            hops: self.ways.hops(),
            interfaces: &interfaces,
            own: &own,
            tables: &self.plan.tables,
            capture,
            now_ns: now.0,
        };
        let plan = plan::plan(&inputs, &self.applied);
        self.changes = changes(&self.applied, &plan.contents).into();
        self.due.plan = false;
        self.due.interfaces = true;
        self.due.retry_at = None;
        self.due.plan_at = plan.due_at_ns.map(Time);
        self.plan = plan;
    }

    /// Writes some changes. One that fails is tried again later, by a plan that starts from what is there.
    fn write(&mut self, now: Time) {
        for _ in 0..CHANGES_PER_TURN_MAX {
            let Some(change) = self.changes.pop_front() else { break };
            self.forget_counts(&change);
            match self.maps.perform(&change) {
                Ok(()) => self.applied.apply(change),
                Err(error) => {
                    log::error!("steering not changed change={} reason=\"{error:#}\"", name_of(&change));
                    self.due.retry_at = Some(now + RETRY_EVERY);
                    // What follows may lead to what was not written. To a network of the lists nothing leads, but the next would fail as well.
                    let is_kept = |later: &Change| is_network(&change) && !is_network(later);
                    self.changes.retain(is_kept);
                }
            }
        }
        if self.changes.is_empty() && self.applied.networks == self.plan.contents.networks {
            // The same map, so that the next plan need not compare a million networks.
            self.applied.networks = self.plan.contents.networks.clone();
        }
    }

    /// Counts begin anew where a row becomes another's.
    fn forget_counts(&mut self, change: &Change) {
        match change {
            Change::SetVipRow { vip, row } => {
                let same =
                    self.applied.vip_rows.get(vip).is_some_and(|before| before.identity == row.identity);
                if !same {
                    self.maps.forget_traffic(&[*vip], &[]);
                }
            }
            Change::SetHop { slot, row } => {
                let same = self.applied.hops.get(slot).is_some_and(|before| before.address == row.address);
                if !same {
                    self.maps.forget_traffic(&[], &[*slot]);
                }
            }
            _ => {}
        }
    }

    /// Brings the programs to the interfaces that need them, and takes them off others. The maps are as planned.
    fn attach(&mut self, model: &Model, pins: &Pins) -> Vec<Note> {
        let mut notes = Vec::new();
        let wanted = self.wanted(model);
        if self.is_attached(&wanted) {
            return notes;
        }
        match self.ways.look_again() {
            Ok(changed) => self.due.plan |= changed,
            Err(error) => {
                log::error!("interfaces not known reason=\"{error}\"");
                return notes;
            }
        }
        let mode = model.steering.xdp_mode;
        for name in &wanted.steer {
            match self.attach_one(name, mode, pins) {
                Ok(None) => {}
                Ok(Some(cause)) => {
                    notes.push(Note { subject: name.clone(), what: "interface steered", cause });
                }
                Err(why) if self.refused.get(name) == Some(&why) => {}
                Err(why) => {
                    // It may be another interface of this name, or none.
                    self.steered.remove(name);
                    log::error!("interface not steered interface={name} reason=\"{why}\"");
                    notes.push(Note {
                        subject: name.clone(),
                        what: "interface not steered",
                        cause: why.clone(),
                    });
                    self.refused.insert(name.clone(), why);
                }
            }
        }
        for name in &wanted.send {
            self.attach_pass(name, pins);
        }
        self.take_off(&wanted, pins, &mut notes);
        if let Err(error) = self.programs.keep_stages() {
            log::error!("programs will not outlive this master reason=\"{error:#}\"");
        }
        pins.remove_folders_but(self.programs.folder());
        notes
    }

    /// `Ok(Some)`: newly attached, and how.
    fn attach_one(&mut self, name: &str, mode: XdpMode, pins: &Pins) -> Result<Option<String>, String> {
        let there = self.ways.network().interface_named(name).map(|(index, one)| (index, one.xdp));
        if let (Some(attachment), Some((index, Some(_)))) = (self.steered.get(name), there)
            && attachment.interface == index
        {
            return Ok(None);
        }
        self.sending.remove(name);
        let pin = pins.link(there.map_or(0, |(index, _)| index));
        let program = self.programs.entry().map_err(|error| error.to_string())?;
        let attachment = attach::attach(program, self.ways.network(), name, &pin, mode)
            .map_err(|error| error.to_string())?;
        let before = if attachment.taken_over { ", program exchanged" } else { "" };
        let cause = format!("{}{before}", attachment.mode.name());
        self.refused.remove(name);
        self.steered.insert(name.to_owned(), attachment);
        Ok(Some(cause))
    }

    /// Some drivers take redirected frames only where a program is on. Where none can be, frames may be sent all the same.
    fn attach_pass(&mut self, name: &str, pins: &Pins) {
        let Some((index, there)) = self.ways.network().interface_named(name) else { return };
        let ours = self.sending.get(name).is_some_and(|one| one.interface == index);
        if ours || there.xdp.is_some() && !pins.link(index).exists() {
            return;
        }
        let pin = pins.link(index);
        let Ok(program) = self.programs.pass() else { return };
        match attach::attach(program, self.ways.network(), name, &pin, XdpMode::Native) {
            Ok(attachment) => drop(self.sending.insert(name.to_owned(), attachment)),
            Err(error) => {
                log::debug!("sending interface without a program interface={name} reason=\"{error}\"")
            }
        }
    }

    /// Takes programs off interfaces that do not need them any more, those of an earlier master included.
    fn take_off(&mut self, wanted: &Wanted, pins: &Pins, notes: &mut Vec<Note>) {
        self.refused.retain(|name, _| wanted.steer.contains(name));
        self.steered.retain(|name, _| {
            let keep = wanted.steer.contains(name);
            if !keep {
                notes.push(Note {
                    subject: name.clone(),
                    what: "interface not steered any more",
                    cause: "no VIP needs it".into(),
                });
            }
            keep
        });
        self.sending.retain(|name, _| wanted.send.contains(name));
        let kept: BTreeSet<u32> =
            self.steered.values().chain(self.sending.values()).map(|one| one.interface).collect();
        for (interface, pin) in pins.links() {
            // Where it was refused, an earlier master's program still answers.
            let name = self.ways.network().interface(interface).map(|one| one.name.as_str());
            let is_wanted = name.is_some_and(|name| wanted.steer.contains(name));
            if !kept.contains(&interface)
                && !is_wanted
                && let Err(error) = attach::detach_pinned(&pin)
            {
                log::error!("program not taken off interface={interface} reason=\"{error}\"");
            }
        }
    }

    /// The interfaces that packets come in by, answers of backends included, and those that they only leave by.
    fn wanted(&self, model: &Model) -> Wanted {
        let network = self.ways.network();
        let is_nat = |mode: &crate::config::model::steering::Mode| !mode.is_direct();
        let mut wanted = Wanted::default();
        wanted.steer.extend(model.steering.vips.iter().map(|vip| vip.interface.clone()));
        let has_nat = model
            .steering
            .vips
            .iter()
            .any(|vip| matches!(&vip.forward, Forward::Remote { mode, .. } if is_nat(mode)));
        let leaving = self.applied.hops.values().map(|hop| hop.interface).collect::<BTreeSet<_>>();
        let names =
            leaving.into_iter().filter_map(|index| network.interface(index)).map(|one| one.name.clone());
        let names = names.collect::<Vec<_>>();
        // Answers come where requests leave.
        if has_nat {
            wanted.steer.extend(names)
        } else {
            wanted.send.extend(names)
        }
        wanted.send.retain(|name| !wanted.steer.contains(name));
        wanted
    }

    fn is_attached(&self, wanted: &Wanted) -> bool {
        let network = self.ways.network();
        let is_on = |attached: &BTreeMap<String, Attachment>, name: &String| {
            let there = network.interface_named(name).map(|(index, _)| index);
            attached.get(name).is_some_and(|one| Some(one.interface) == there)
        };
        wanted.steer.iter().all(|name| is_on(&self.steered, name))
            && wanted.send.iter().all(|name| is_on(&self.sending, name))
            && self.steered.keys().all(|name| wanted.steer.contains(name))
            && self.sending.keys().all(|name| wanted.send.contains(name))
    }

    /// Why packets do not reach an address.
    fn trouble(&self, target: IpAddr) -> Option<&NoWay> {
        self.ways.trouble(target)
    }
}

/// Interfaces by what they have to do.
#[derive(Debug, Default)]
struct Wanted {
    steer: BTreeSet<String>,
    send: BTreeSet<String>,
}

fn capability(name: &str, on: bool, why: &str, remedy: &str) -> Capability {
    Capability { name: name.to_owned(), on, why: why.to_owned(), remedy: remedy.to_owned() }
}

const fn is_network(change: &Change) -> bool {
    matches!(change, Change::SetNetwork { .. } | Change::RemoveNetwork { .. })
}

/// The kind of change, without its content.
fn name_of(change: &Change) -> String {
    let text = format!("{change:?}");
    text.split([' ', '(']).next().unwrap_or_default().to_owned()
}
