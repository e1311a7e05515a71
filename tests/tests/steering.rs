//! The steering programs in the running kernel, by `BPF_PROG_TEST_RUN`: they load, forward, and decide as the host does.

use lb_tests::steer::agreement::{self, Plan, STEPS_PER_NODE};
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
    assert!(figures.by_action.iter().all(|count| *count > FRAMES / 100), "some verdict hardly came");
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
