//! The short-cut between worker and local backends: proven by a self-probe, attached to the product's cgroup, fed with ports.
//!
//! Effectful: loads and attaches BPF programs, updates their maps.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, anyhow};
use aya::maps::{MapData, SockHash};
use aya::programs::links::CgroupAttachMode;
use aya::programs::{SkMsg, SkSkb, SockOps};

use super::layout::Layout;
use super::object::{CounterTable, Object, Table, reason};
use super::self_probe::{self, Report};
use super::{off, on, switched_off};
use crate::config::model::Switch;
use crate::control::protocol::Capability;

/// What the self-probe must gain for `auto` to use the short-cut.
const GAIN_MIN: f64 = 1.03;

/// A link attaches beside others always; the kernel takes no flag that says so.
const LINK: CgroupAttachMode = CgroupAttachMode::Single;

/// The ports whose connections may take the short-cut. The programs are attached as long as the [`Object`] lives.
pub struct ShortCut {
    ports: Mutex<Table<4, 4>>,
    /// Enrolled sockets. While a descriptor of it is open the message program is given to new ones.
    _sockets: SockHash<MapData, u64>,
}

impl ShortCut {
    /// Proves the short-cut on private sockets, attaches it to the product's cgroup, and writes its row of the capability
    /// matrix. `None` when it is off.
    ///
    /// # Errors
    /// The switch is `on`, and it cannot be had or fails the proof. That it gains nothing is no error.
    pub fn load(
        switch: Switch,
        layout: &Layout,
        product_cgroup: Option<&Path>,
        object: &mut Object,
        counters: &CounterTable,
        capabilities: &mut Vec<Capability>,
    ) -> anyhow::Result<Option<Self>> {
        if switch == Switch::Off {
            capabilities.push(switched_off("short_cut"));
            return Ok(None);
        }
        match Self::prove_and_attach(switch, layout, product_cgroup, object, counters) {
            Ok((short_cut, why)) => {
                let row =
                    if short_cut.is_some() { on("short_cut", why) } else { off("short_cut", &why, FORCE) };
                capabilities.push(row);
                Ok(short_cut)
            }
            Err(error) if switch == Switch::On => Err(error.context("[kernel] short_cut = \"on\"")),
            Err(error) => {
                capabilities.push(off("short_cut", &format!("{error:#}"), ""));
                Ok(None)
            }
        }
    }

    fn prove_and_attach(
        switch: Switch,
        layout: &Layout,
        product_cgroup: Option<&Path>,
        object: &mut Object,
        counters: &CounterTable,
    ) -> anyhow::Result<(Option<Self>, String)> {
        layout.short_cut.clone().map_err(|error| anyhow!(error))?;
        let product_cgroup = product_cgroup.context("there is no cgroup v2 folder of our own")?;
        let short_cut = Self::new(object)?;
        let report = short_cut.prove(object, counters)?;
        let why = report.to_string();
        if switch == Switch::Auto && report.gain() < GAIN_MIN {
            return Ok((None, format!("gains nothing here: {why}")));
        }
        attach_established(object, product_cgroup)?;
        Ok((Some(short_cut), why))
    }

    /// Loads the programs. The verdict program comes first: a socket gets the programs that its map has when it enters.
    fn new(object: &mut Object) -> anyhow::Result<Self> {
        let sockets: SockHash<MapData, u64> = SockHash::try_from(object.take("SOCKETS")?)?;
        let ports = Mutex::new(Table::new(object.take("SHORT_CUT_PORTS")?)?);
        let verdict: &mut SkSkb = object.program("bytes_received")?;
        verdict.load().map_err(reason).context("sk_skb program")?;
        verdict.attach(sockets.fd()).map_err(reason).context("sk_skb program")?;
        let message: &mut SkMsg = object.program("message_sent")?;
        message.load().map_err(reason).context("sk_msg program")?;
        message.attach(sockets.fd()).map_err(reason).context("sk_msg program")?;
        let established: &mut SockOps = object.program("connection_established")?;
        established.load().map_err(reason).context("sock_ops program")?;
        Ok(Self { ports, _sockets: sockets })
    }

    /// Runs the self-probe in a cgroup of its own that sees the programs, so that no other socket does meanwhile.
    fn prove(&self, object: &mut Object, counters: &CounterTable) -> anyhow::Result<Report> {
        let private = self_probe::PrivateCgroup::create("probe").context("a cgroup for the self-probe")?;
        let folder = private.open().context("a cgroup for the self-probe")?;
        let established: &mut SockOps = object.program("connection_established")?;
        let link = established.attach(&folder, LINK).map_err(reason)?;
        let report = self_probe::run(&private, self, counters);
        established.detach(link).map_err(reason)?;
        Ok(report?)
    }

    /// See [`super::KernelHalf::enrol_port`].
    pub fn enrol_port(&self, port: u16) {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = ports.insert(&u32::from(port), &1u32) {
            log::warn!("short-cut refused port={port}: {error:#}");
        }
    }

    /// See [`super::KernelHalf::withdraw_port`].
    pub fn withdraw_port(&self, port: u16) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).remove(&u32::from(port));
    }
}

/// What to change when the probe found no gain.
const FORCE: &str = "[kernel] short_cut = \"on\" uses it all the same";

#[expect(clippy::disallowed_methods, reason = "opens the cgroup folder")]
fn attach_established(object: &mut Object, cgroup: &Path) -> anyhow::Result<()> {
    let folder = std::fs::File::open(cgroup).with_context(|| format!("cgroup {}", cgroup.display()))?;
    let established: &mut SockOps = object.program("connection_established")?;
    established.attach(folder, LINK).map_err(reason).context("sock_ops program")?;
    Ok(())
}
