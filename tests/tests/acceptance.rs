//! The acceptance scenarios, shorter than `cargo xtask bench` runs them, with room for a debug build on a busy machine.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use lb_tests::scenario::{freeze, idle, kill, short_cut, transfer, websocket, worker_kill};

/// One load at a time: figures of two at once say nothing.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn demonstration_is_ready_soon_and_idles_cheaply() {
    let _alone = alone();
    let figures = idle::run(Duration::from_secs(5)).unwrap();
    figures.print();
    assert!(figures.ready_after < Duration::from_secs(1), "ready after {:?}", figures.ready_after);
    assert!(figures.cpu_share < 0.01, "idle costs {} of a core", figures.cpu_share);
    let headers = &figures.headers["headers"];
    assert_eq!(headers["x-real-ip"][0], "127.0.0.1", "{headers}");
    assert_eq!(headers["x-forwarded-for"][0], "127.0.0.1", "{headers}");
    assert_eq!(headers["x-forwarded-proto"][0], "http", "{headers}");
    assert_eq!(headers["x-forwarded-host"][0], "test.example", "{headers}");
}

#[test]
fn killed_instances_cost_no_request() {
    let _alone = alone();
    let (time, every) = (Duration::from_secs(10), Duration::from_millis(500));
    let figures = kill::run(kill::KillPlan { instances: 3, connections: 32, time, every }).unwrap();
    figures.print();
    figures.load.assert_none_failed();
    assert!(figures.kills >= 15, "only {} kills", figures.kills);
    assert!(figures.exit_to_out.percentile(99.0) <= Duration::from_millis(1), "withdrawn too late");
    assert!(figures.respawn.percentile(90.0) <= Duration::from_millis(50), "spawned too late");
}

#[test]
fn killing_the_only_instance_costs_no_request() {
    let _alone = alone();
    let (time, every) = (Duration::from_secs(8), Duration::from_millis(2_000));
    let figures = kill::run(kill::KillPlan { instances: 1, connections: 32, time, every }).unwrap();
    figures.print();
    figures.load.assert_none_failed();
    assert!(figures.kills >= 3, "only {} kills", figures.kills);
    let (slowest, start) = (figures.load.latency.max(), figures.back_in.max());
    assert!(slowest <= start + Duration::from_millis(200), "held for {slowest:?}, the start took {start:?}");
}

#[test]
fn frozen_instance_is_taken_out_and_replaced() {
    let _alone = alone();
    let figures = freeze::frozen(16).unwrap();
    figures.print("SIGSTOP");
    assert_eq!(figures.failed_after_out, 0);
}

#[test]
fn instance_that_stops_listening_is_taken_out_at_once() {
    let _alone = alone();
    let figures = freeze::deaf(16).unwrap();
    figures.print("listener closed");
    figures.load.assert_none_failed();
    assert!(figures.out_after < Duration::from_millis(500), "taken out after {:?}", figures.out_after);
}

#[test]
fn web_sockets_on_other_instances_do_not_notice_restart_and_reload() {
    let _alone = alone();
    let figures = websocket::run(200).unwrap();
    figures.print();
    figures.load.assert_none_failed();
    assert_eq!(figures.around_reload, (200, 200));
    assert!(
        figures.after_one >= 200 / 2,
        "only {} left after the restart of one of three",
        figures.after_one
    );
    assert!(figures.broken().is_empty(), "{:?}", figures.broken());
}

#[test]
fn worker_killed_under_load_is_replaced_and_listeners_never_refuse() {
    let _alone = alone();
    let figures = worker_kill::run(3).unwrap();
    figures.print();
    assert_eq!(figures.refused, 0);
    assert!(figures.fresh_failed_after.is_empty(), "{:?}", figures.fresh_failed_after);
    let slowest = figures.first_success.max();
    assert!(slowest <= Duration::from_millis(500), "a new request took {slowest:?}");
}

#[test]
fn gunicorn_and_nginx_move_large_bodies_exactly_and_the_worker_stays_small() {
    let _alone = alone();
    let transfers = transfer::run(100 << 20, 256 << 20).unwrap();
    for transfer in &transfers {
        transfer.print();
        assert!(transfer.exact, "{}: bytes differ", transfer.name);
        assert!(
            transfer.growth_bytes < 32 << 20,
            "{}: the worker grew by {}",
            transfer.name,
            transfer.growth_bytes
        );
    }
}

#[test]
fn short_cut_changes_no_byte() {
    let _alone = alone();
    let figures = short_cut::exact(16_000, fastrand::u64(..)).unwrap();
    println!("{figures:?}");
    assert_eq!(figures.messages, 16_000);
}
