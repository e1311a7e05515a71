//! The steering programs in the running kernel, by `BPF_PROG_TEST_RUN`: they load, forward, and decide as the host does.

use lb_common::capture::{Captured, Outcome};
use lb_common::host::Packet;
use lb_common::limits::CAPTURE_BYTES_MAX;
use lb_common::verdict::Reason;
use lb_common::vip::Forward;
use lb_tests::steer::agreement::{self, Plan, STEPS_PER_NODE};
use lb_tests::steer::cost::INSTRUCTIONS_BAR;
use lb_tests::steer::kernel::Kernel;
use lb_tests::steer::smoke;

/// Frames that both sides are given.
const FRAMES: u64 = 100_000;

fn kernel() -> Kernel {
    Kernel::load().expect("loading the steering object; the tests run as root")
}

#[test]
fn host_and_kernel_decide_alike() {
    let seed = std::env::var("LBCTL_SEED").map_or(1, |seed| seed.parse().expect("LBCTL_SEED is a number"));
    println!("LBCTL_SEED={seed}");
    let plan = Plan { frames: FRAMES, seed, steps_per_node: STEPS_PER_NODE };
    let figures = agreement::compare(&mut kernel(), plan).unwrap_or_else(|error| panic!("{error:#}"));
    figures.print();
    let missing: Vec<_> =
        figures.by_reason.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    // What needs a full table, a driver without headroom or a missing program does not come about in a test run.
    assert_eq!(missing, ["nat_table_full", "no_headroom", "program_fault"], "reasons that no frame met");
    assert!(figures.by_action.iter().all(|count| *count > FRAMES / 100), "some verdict hardly came");
    assert!(figures.established > 100 && figures.known > 1_000, "flows hardly last");
}

#[test]
fn every_mode_forwards_both_families() {
    smoke::every_mode(&mut kernel()).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn later_fragments_follow_the_first() {
    smoke::fragments(&mut kernel()).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn handshakes_by_cookie_end_in_flows() {
    smoke::handshakes_by_cookie(&mut kernel()).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn captured_frames_are_as_they_came() {
    let mut kernel = kernel();
    let mut world = smoke::one_vip(true, Forward::IpIp);
    let (client, vip) = smoke::ends(true);
    let mut captured = |settings: (u32, u32), frame: &[u8]| -> Vec<Captured> {
        (world.settings.captured_vip, world.settings.capture_mask) = settings;
        kernel.describe(&world).expect("the tables are written");
        for _ in 0..8 {
            kernel.run(frame).expect("the program runs");
        }
        kernel.captured().expect("there is a ring")
    };
    for payload in [0, 100, 201, 202, 203, 1000] {
        let frame = Packet::tcp(client, vip, Packet::ACK, &vec![7; payload]).frame();
        let records = captured((1, 0), &frame);
        assert_eq!(records.len(), 8);
        for record in records {
            assert_eq!(record.kept(), &frame[..frame.len().min(CAPTURE_BYTES_MAX)]);
            assert_eq!(record.frame_bytes as usize, frame.len());
            assert_eq!((record.vip, record.backend(), record.reason()), (0, Some(0), None));
            assert_eq!(Outcome::from_raw(record.outcome), Some(Outcome::Transmit));
            assert!(record.at_ns > 0);
        }
    }
    let opening = Packet::tcp(client, vip, Packet::SYN, b"").frame();
    assert_eq!(captured((1, 3), &opening).len(), 2, "every fourth");
    assert_eq!(captured((2, 0), &opening).len(), 0, "another VIP");
    assert_eq!(captured((0, 0), &opening).len(), 0, "off");
    let nonsense = Packet::tcp(client, vip, Packet::SYN | Packet::FIN, b"").frame();
    for record in captured((1, 0), &nonsense) {
        assert_eq!((record.backend(), record.reason()), (None, Some(Reason::BadTcpFlags)));
        assert_eq!(Outcome::from_raw(record.outcome), Some(Outcome::Drop));
    }
    let mut other = vip;
    other.set_port(1);
    assert_eq!(captured((1, 0), &Packet::tcp(client, other, Packet::ACK, b"").frame()).len(), 0, "no VIP");
}

#[test]
fn programs_are_small_for_the_verifier() {
    for program in kernel().verified() {
        assert!(program.instructions < INSTRUCTIONS_BAR, "{program:?}");
    }
}
