//! The same frames through the host's `forward` and through the kernel's programs: same verdict, same bytes, same memory.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use lb_common::counter::Traffic as Counted;
use lb_common::forward::forward;
use lb_common::host::{HostFrame, HostTables, verify};
use lb_common::verdict::{Reason, Verdict};

use super::kernel::{Counts, INGRESS, Kernel, Learned, action};
use super::traffic::{Step, Traffic, cookie};

/// Steps on one node where a test run takes microseconds.
pub const STEPS_PER_NODE: u32 = 500;
/// On the host alone.
const STEPS_PER_NODE_ALONE: u32 = 20_000;

/// What was compared.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Frames on which both sides agreed.
    pub frames: u64,
    /// Nodes that they went through.
    pub nodes: u64,
    /// Of them, those left early because the clock ticked during a frame.
    pub ticked: u64,
    /// Frames by verdict: dropped, passed, transmitted, redirected.
    pub by_action: [u64; 4],
    /// Frames dropped and answered, by reason.
    pub by_reason: std::collections::BTreeMap<&'static str, u64>,
    /// Translated flows that were established when their node was left.
    pub established: u64,
    /// Flows of other modes that were known then.
    pub known: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Prints how many frames the host decided on alone, and how many alike with the kernel.
///
/// # Errors
/// As [`compare`] and [`host_alone`].
pub fn run(frames: u64, host_frames: u64, seed: u64) -> anyhow::Result<()> {
    println!("seed {seed}");
    if host_frames > 0 {
        println!("host alone:");
        host_alone(host_frames, seed)?.print();
    }
    if frames > 0 {
        println!("host and kernel:");
        compare(&mut Kernel::load()?, Plan { frames, seed, steps_per_node: STEPS_PER_NODE })?.print();
    }
    Ok(())
}

/// What to compare.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many frames, at least.
    pub frames: u64,
    /// Of the first node and its traffic; each following one has the next.
    pub seed: u64,
    /// Steps on one node before another is made; few where a test run is slow, so that some end before the clock ticks.
    pub steps_per_node: u32,
}

/// Compares.
///
/// # Errors
/// At the first frame on which the sides do not agree; names the seed that makes it alone.
pub fn compare(kernel: &mut Kernel, plan: Plan) -> anyhow::Result<Figures> {
    let begun = Instant::now();
    let mut figures = Figures::default();
    while figures.frames < plan.frames {
        let seed = plan.seed.wrapping_add(figures.nodes);
        let mut traffic = Traffic::new(seed);
        let mut tables = HostTables::new(traffic.world().clone());
        compare_node(kernel, &mut traffic, &mut tables, plan.steps_per_node, &mut figures)
            .with_context(|| format!("node of seed {seed}: LBCTL_SEED={seed} makes it the first"))?;
        figures.add_node(&tables);
    }
    figures.elapsed = begun.elapsed();
    Ok(figures)
}

/// Sends at least `frames` frames, made from `seed`, through the host alone.
///
/// # Errors
/// At the first that comes out as none may.
pub fn host_alone(frames: u64, seed: u64) -> anyhow::Result<Figures> {
    let begun = Instant::now();
    let mut figures = Figures::default();
    while figures.frames < frames {
        let seed = seed.wrapping_add(figures.nodes);
        let mut traffic = Traffic::new(seed);
        let mut tables = HostTables::new(traffic.world().clone());
        for number in 0..STEPS_PER_NODE_ALONE {
            // Time runs here as it likes: idle flows end, buckets fill.
            tables.now_ns += 1_000_000 * u64::from(number % 100);
            step_alone(&mut traffic, &mut tables, &mut figures)
                .with_context(|| format!("step {number} of the node of seed {seed}"))?;
        }
        figures.add_node(&tables);
    }
    figures.elapsed = begun.elapsed();
    Ok(figures)
}

/// One step of the traffic through the host.
///
/// # Errors
/// When a frame comes out as none may.
pub fn step_alone(
    traffic: &mut Traffic,
    tables: &mut HostTables,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    match traffic.step() {
        Step::State(slot, state) => tables.world.set_state(slot, state),
        Step::Generation(table, slots) => tables.world.next_generation(table, &slots, tables.now_ns),
        Step::Frame(frame) => {
            let (verdict, after) = frame_alone(&frame, tables)?;
            traffic.saw(&after);
            figures.add(verdict);
        }
    }
    Ok(())
}

/// One frame through the host: what became of it.
///
/// # Errors
/// When it comes out as none may.
pub fn frame_alone(frame: &[u8], tables: &mut HostTables) -> anyhow::Result<(Verdict, Vec<u8>)> {
    tables.settle();
    let mut host = HostFrame::new(frame, INGRESS);
    let verdict = forward(&mut host, tables);
    check_alone(verdict, frame, host.as_slice()).with_context(|| {
        format!("{verdict:?}\n  frame  {}\n  became {}", hex(frame), hex(host.as_slice()))
    })?;
    Ok((verdict, host.as_slice().to_vec()))
}

fn compare_node(
    kernel: &mut Kernel,
    traffic: &mut Traffic,
    tables: &mut HostTables,
    steps: u32,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    kernel.describe(traffic.world())?;
    kernel.forget()?;
    for number in 0..steps {
        let frame = match traffic.step() {
            Step::Frame(frame) => frame,
            change => {
                apply(&change, kernel, tables)?;
                continue;
            }
        };
        tables.settle();
        tables.now_ns = coarse_ns()?;
        let seen = kernel.run(&frame)?;
        tables.tell_cookie(cookie(&frame, &seen.bytes));
        let has_ticked = coarse_ns()? != tables.now_ns;
        let mut host = HostFrame::new(&frame, INGRESS);
        let verdict = forward(&mut host, tables);
        let agrees = action(verdict) == seen.action
            && (matches!(verdict, Verdict::Drop(_)) || host.as_slice() == seen.bytes);
        if has_ticked {
            // Either side may have seen another time, and remembers it.
            figures.ticked += 1;
            return Ok(());
        }
        if !agrees {
            bail!(
                "step {number}: the host says {verdict:?}, the kernel action {}{}\n  frame  {}\n  host   {}\n  kernel {}",
                seen.action,
                difference(host.as_slice(), &seen.bytes),
                hex(&frame),
                hex(host.as_slice()),
                hex(&seen.bytes)
            );
        }
        check_alone(verdict, &frame, host.as_slice()).with_context(|| {
            format!("step {number}: {verdict:?}\n  frame  {}\n  became {}", hex(&frame), hex(host.as_slice()))
        })?;
        traffic.saw(host.as_slice());
        figures.add(verdict);
    }
    let (counted, learned) = (counts(tables), learned(tables));
    ensure!(counted == kernel.counts()?, "the host counted {counted:?}, the kernel {:?}", kernel.counts()?);
    let in_kernel = kernel.learned()?;
    ensure!(learned == in_kernel, "the host remembers {learned:#?}, the kernel {in_kernel:#?}");
    Ok(())
}

/// What must hold for any frame, whoever decided on it.
///
/// # Errors
/// When it does not.
pub fn check_alone(verdict: Verdict, before: &[u8], after: &[u8]) -> anyhow::Result<()> {
    match verdict {
        Verdict::Pass => ensure!(before == after, "passed, and not untouched"),
        Verdict::Transmit | Verdict::Redirect(_) => {
            let was_right = verify(before).is_ok();
            let is_right = verify(after);
            ensure!(!was_right || is_right.is_ok(), "was right and is not: {is_right:?}");
        }
        Verdict::Drop(_) => {}
    }
    Ok(())
}

fn apply(change: &Step, kernel: &mut Kernel, tables: &mut HostTables) -> anyhow::Result<()> {
    match change {
        Step::Frame(_) => {}
        Step::State(slot, state) => {
            tables.world.set_state(*slot, *state);
            kernel.set_backend(*slot, tables.world.backends[*slot as usize])?;
        }
        Step::Generation(table, slots) => {
            tables.world.next_generation(*table, slots, coarse_ns()?);
            let (head, rows) = &tables.world.tables[*table as usize];
            kernel.set_table(*table, head, rows)?;
        }
    }
    Ok(())
}

fn counts(tables: &HostTables) -> Counts {
    let mut counts = Counts::default();
    let traffic =
        |rows: usize, count: &dyn Fn(u32) -> Counted| (0..rows as u32).map(|row| (row, count(row))).collect();
    counts.vips = traffic(tables.world.vip_rows.len(), &|row| tables.vip_count(row));
    counts.backends = traffic(tables.world.backends.len(), &|row| tables.backend_count(row));
    counts.reasons = Reason::ALL.iter().map(|reason| (reason.name(), tables.reason_count(*reason))).collect();
    counts.drop_zeros();
    counts
}

fn learned(tables: &HostTables) -> Learned {
    let mut learned = Learned {
        flows: tables.flows.entries().into_iter().collect(),
        nat: tables.nat.entries().into_iter().collect(),
        half_open: tables.half_open.entries().into_iter().collect(),
        affinity: tables.affinity.entries().into_iter().collect(),
    };
    learned.forget_times();
    learned
}

/// The clock that the programs ask.
fn coarse_ns() -> anyhow::Result<u64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    Ok(u64::try_from(now.tv_sec)? * 1_000_000_000 + u64::try_from(now.tv_nsec)?)
}

fn difference(host: &[u8], kernel: &[u8]) -> String {
    let at = host.iter().zip(kernel).position(|(one, other)| one != other);
    match at {
        Some(at) => format!(", and byte {at} differs"),
        None if host.len() != kernel.len() => format!(", and {} bytes are not {}", host.len(), kernel.len()),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(160).map(|byte| format!("{byte:02x}")).collect()
}

impl Figures {
    fn add(&mut self, verdict: Verdict) {
        self.frames += 1;
        self.by_action[action(verdict) as usize - 1] += 1;
    }

    fn add_node(&mut self, tables: &HostTables) {
        self.nodes += 1;
        self.established += tables.nat.len() as u64 / 2;
        self.known += tables.flows.len() as u64;
        for reason in Reason::ALL {
            *self.by_reason.entry(reason.name()).or_default() += tables.reason_count(reason);
        }
    }

    /// Everything on a few lines.
    pub fn print(&self) {
        let [dropped, passed, transmitted, redirected] = self.by_action;
        println!(
            "{} frames on {} nodes ({} left at a tick of the clock) in {:.1} s, {:.0} frames/s",
            self.frames,
            self.nodes,
            self.ticked,
            self.elapsed.as_secs_f64(),
            self.frames as f64 / self.elapsed.as_secs_f64()
        );
        println!("  dropped {dropped}, passed {passed}, transmitted {transmitted}, redirected {redirected}");
        let reasons: Vec<_> = self.by_reason.iter().map(|(name, count)| format!("{name} {count}")).collect();
        println!("  {}", reasons.join(", "));
        println!("  flows left: {} established by NAT, {} known otherwise", self.established, self.known);
    }
}
