//! VIPs in a laboratory: real clients, real backends, lbctl in between.

use std::time::Duration;

use lb_tests::lab::steer::Mode;
use lb_tests::lab::{Arms, Plan};
use lb_tests::scenario::vip_change::{self, ChangePlan};
use lb_tests::scenario::vip_flood::{self, FloodPlan};
use lb_tests::scenario::vip_load::LoadPlan;
use lb_tests::scenario::vip_modes::{self, ModePlan};

/// Every kind of traffic, both families.
fn check_mode(mode: Mode, lab: Plan) {
    let plan = ModePlan { mode, lab, bytes: 10 << 20, connections: 100 };
    for figures in vip_modes::run(plan).unwrap_or_else(|error| panic!("{error:#}")) {
        figures.print(&plan);
    }
}

fn one_armed() -> Plan {
    Plan { arms: Arms::One, ..Plan::two_armed(3) }
}

#[test]
fn nat_carries_all_traffic() {
    check_mode(Mode::Nat, Plan::two_armed(3));
}

#[test]
fn nat_carries_all_traffic_on_one_arm() {
    check_mode(Mode::Nat, one_armed());
}

#[test]
fn nat_carries_all_traffic_of_a_vlan() {
    check_mode(Mode::Nat, Plan { tagged: true, ..Plan::two_armed(3) });
}

#[test]
fn nat_that_keeps_the_client_carries_all_traffic() {
    check_mode(Mode::NatClient, Plan::two_armed(3));
}

#[test]
fn l2dsr_carries_all_traffic() {
    check_mode(Mode::L2Dsr, Plan::two_armed(3));
}

#[test]
fn l2dsr_carries_all_traffic_on_one_arm() {
    check_mode(Mode::L2Dsr, one_armed());
}

#[test]
fn ipip_carries_all_traffic() {
    check_mode(Mode::IpIp, Plan::two_armed(3));
}

#[test]
fn ipip_carries_all_traffic_on_one_arm() {
    check_mode(Mode::IpIp, one_armed());
}

#[test]
fn gue_carries_all_traffic() {
    check_mode(Mode::Gue, Plan::two_armed(3));
}

#[test]
fn gue_carries_all_traffic_of_a_vlan() {
    check_mode(Mode::Gue, Plan { tagged: true, ..Plan::two_armed(3) });
}

/// 200 connections and new ones while backends come and go.
fn check_change(mode: Mode, restarts: u32) {
    let load = LoadPlan { lasting: 200, every: Duration::from_millis(100), newcomers: 4 };
    let (time, every) = (Duration::from_secs(5), Duration::from_millis(200));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let figures = vip_change::run(ChangePlan { mode, backends: 6, load, time, every, restarts, seed });
    let figures = figures.unwrap_or_else(|error| panic!("{error:#}"));
    figures.print();
    assert!(figures.noticed.messages > 1_000 && figures.noticed.short > 100);
    assert!(
        figures.lost.is_empty(),
        "{} connections were lost though their backend lived",
        figures.lost.len()
    );
}

#[test]
fn changes_cost_no_translated_connection_of_a_living_backend() {
    check_change(Mode::Nat, 0);
}

#[test]
fn changes_cost_no_tunnelled_connection_of_a_living_backend() {
    check_change(Mode::IpIp, 0);
}

#[test]
fn kills_of_lbctl_cost_no_translated_connection() {
    check_change(Mode::Nat, 3);
}

#[test]
fn kills_of_lbctl_cost_no_tunnelled_connection() {
    check_change(Mode::IpIp, 3);
}

#[test]
fn exhausted_ports_are_refused_counted_and_used_again() {
    let open = vip_flood::exhaust_ports(32).unwrap();
    assert!((24..=32).contains(&open), "{open} connections with 32 ports");
}

/// Nobody who behaves notices.
fn check_flood(plan: FloodPlan) {
    let figures = vip_flood::run(plan).unwrap_or_else(|error| panic!("{error:#}"));
    figures.print("flood");
    assert_eq!(figures.lost, 0, "established connections were lost");
    assert!(figures.went_well() >= 0.99, "only {} of the handshakes went well", figures.went_well());
}

#[test]
fn more_flows_than_room_cost_no_established_connection() {
    check_flood(vip_flood::pressure(4_096, 2));
}

#[test]
fn syn_flood_costs_no_translated_connection() {
    check_flood(vip_flood::syns(Mode::Nat, 200_000));
}

#[test]
fn syn_flood_costs_no_translated_connection_without_cookies() {
    check_flood(vip_flood::syns_without_cookies(200_000));
}

#[test]
fn syn_flood_that_takes_every_port_costs_no_translated_connection() {
    check_flood(vip_flood::syns_for_all_ports(200_000));
}

#[test]
fn syn_flood_costs_no_tunnelled_connection() {
    check_flood(vip_flood::syns(Mode::IpIp, 200_000));
}
