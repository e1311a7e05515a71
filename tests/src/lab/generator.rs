//! Packets in great number, made by XDP live frames inside the client's namespace.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions};

use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use super::address::{CLIENT_NET, Family, VIP_PORT, VIP_V4};
use super::frame::{Ends, smallest_datagram, syn};
use super::object::Object;
use super::wiring::{UPLINK, link_address};
use super::{Arms, Lab};

/// Frames in flight at once: fewer than the 256 that a veth's ring holds.
const BATCH: u32 = 64;

/// What is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP frames of 64 bytes of so many flows.
    Datagrams {
        /// Each with a source address and port of its own.
        flows: u32,
    },
    /// TCP SYNs, each from a random address.
    Syns,
}

/// Sends frames from the client's interface of a two-armed laboratory to the IPv4 VIP.
pub struct Generator<'a> {
    lab: &'a Lab,
    object: Object,
    program: &'static str,
    frame: Vec<u8>,
}

impl<'a> Generator<'a> {
    /// Gets ready.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(lab: &'a Lab, kind: Kind) -> anyhow::Result<Self> {
        assert_eq!(lab.plan.arms, Arms::Two, "frames go to the other end of the client's wire");
        let source = match Family::V4.host(CLIENT_NET, 2) {
            std::net::IpAddr::V4(address) => address,
            std::net::IpAddr::V6(_) => unreachable!("asked for IPv4"),
        };
        let ends = Ends {
            source_link: octets(&link_address(&lab.client, UPLINK)?)?,
            target_link: octets(&link_address(&lab.balancer, lab.front())?)?,
            source: (source, 1_024),
            target: (VIP_V4, VIP_PORT),
        };
        let (flows, program, frame) = match kind {
            Kind::Datagrams { flows } => (flows, "lab_generate_datagrams", smallest_datagram(&ends)),
            Kind::Syns => (1, "lab_generate_syns", syn(&ends)),
        };
        let mut object = Object::with_flows(flows)?;
        object.xdp(program)?;
        object.set_template(&frame)?;
        Ok(Self { lab, object, program, frame })
    }

    /// Sends so many frames, as fast as they go, from processor 0.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&mut self, frames: u32) -> anyhow::Result<Cost> {
        let Self { lab, object, program, frame } = self;
        let program = object.xdp(program)?;
        lab.client.run(|| {
            let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            let interface = netdevice::name_to_index(any, UPLINK)?;
            // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            let end = u32::try_from(frame.len())?;
            let context: Vec<u8> =
                [0, end, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
            let mut options = TestRunOptions::new();
            options.data_in = Some(frame);
            options.ctx_in = Some(&context);
            options.repeat = frames;
            options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
            let mut processor = CpuSet::new();
            processor.set(0);
            sched_setaffinity(None, &processor)?;
            let before = (Instant::now(), softirq_time()?);
            program.test_run(options).context("running live frames")?;
            // The thread was born for this, so all its time is the frames'.
            let own = clock_gettime(ClockId::ThreadCPUTime);
            let own = Duration::new(u64::try_from(own.tv_sec)?, u32::try_from(own.tv_nsec)?);
            Ok(Cost { elapsed: before.0.elapsed(), cpu: own + softirq_time()?.saturating_sub(before.1) })
        })
    }
}

/// What sending took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From the first frame to the last.
    pub elapsed: Duration,
    /// Processor time of everything that the frames went through: softirqs run in the sender's thread, or in the processor's own.
    pub cpu: Duration,
}

/// Processor time of the thread that runs processor 0's softirqs when there are too many.
fn softirq_time() -> anyhow::Result<Duration> {
    static PID: LazyLock<Option<u32>> = LazyLock::new(|| {
        let pids = std::fs::read_dir("/proc").ok()?.flatten();
        let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "ksoftirqd/0")
        })
    });
    let pid = PID.context("there is no ksoftirqd/0 here")?;
    Ok(crate::process::cpu_time(pid))
}

fn octets(text: &str) -> anyhow::Result<[u8; 6]> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
    bytes.try_into().ok().with_context(|| format!("{text} is no link-layer address"))
}
