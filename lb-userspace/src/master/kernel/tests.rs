//! The programs on the running kernel. These need root.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "real processes, sockets and clocks"
)]

mod short_cut;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lb_common::backend::TrafficState;
use lb_common::exit::{NoticeKind, Watched};

use super::*;
use crate::free_port;
use crate::state::event::{InstanceId, Slot};

const WATCH_ONLY: Kernel = Kernel { short_cut: Switch::Off, exit_watch: Switch::On };

fn load(switches: &Kernel, cgroup: Option<&Path>) -> KernelHalf {
    KernelHalf::load(switches, cgroup, &TablePlace::Anywhere)
        .expect("kernel programs load; these tests need root: run `sudo cargo xtask test`")
}

fn in_rotation(half: &KernelHalf, slot: u32, instance: u64) -> Watched {
    half.table().write(Slot(slot), InstanceId(instance), TrafficState::In, 1, 1);
    Watched { instance, slot, port: 0 }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap()
}

#[test]
fn killed_process_is_out_at_once_and_the_master_is_told() {
    let mut half = load(&WATCH_ONLY, None);
    let mut notices = half.take_notices();
    let mut micros = Vec::new();
    for life in 1..=50 {
        let mut child = sleeper();
        let watched = in_rotation(&half, 3, life);
        half.watch_process(child.id(), watched).unwrap();
        assert_eq!(half.table().traffic(Slot(3)), TrafficState::In);
        let killed = Instant::now();
        child.kill().unwrap();
        while half.table().traffic(Slot(3)) != TrafficState::Out {
            assert!(killed.elapsed() < Duration::from_secs(5), "never taken out");
        }
        micros.push(killed.elapsed().as_micros());
        child.wait().unwrap();
        half.unwatch(child.id(), None);
        let told = notices.take();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].instance, told[0].slot, told[0].kind), (life, 3, NoticeKind::Exited as u32));
        assert_eq!(told[0].at_ns, half.table().read(Slot(3)).exited_at_ns);
    }
    micros.sort_unstable();
    println!("kill to OUT: median {} µs, slowest {} µs of {}", micros[25], micros[49], micros.len());
    // A busy or emulated machine takes long to deliver a signal; the bench measures, this sees that nothing polls.
    assert!(micros[0] < 20_000, "{micros:?}");
    assert_eq!(half.counters().exits, 50);
}

#[test]
fn process_with_living_threads_is_not_out() {
    let half = load(&WATCH_ONLY, None);
    // The first thread ends, the second sleeps: the process lives.
    let script = "import threading,time,ctypes\nthreading.Thread(target=time.sleep,args=(60,)).start()\n\
                  ctypes.CDLL(None).syscall(60,0)";
    let mut child = Command::new("python3").args(["-c", script]).spawn().unwrap();
    half.watch_process(child.id(), in_rotation(&half, 4, 9)).unwrap();
    let first_thread = format!("/proc/{}/stat", child.id());
    wait_for("the first thread to end", || {
        std::fs::read_to_string(&first_thread).is_ok_and(|stat| stat.contains(") Z "))
    });
    assert_eq!(half.table().traffic(Slot(4)), TrafficState::In);
    child.kill().unwrap();
    wait_for("the process to be taken out", || half.table().traffic(Slot(4)) == TrafficState::Out);
    child.wait().unwrap();
}

#[test]
fn closed_listener_is_out_and_back_when_it_listens_again() {
    let mut half = load(&WATCH_ONLY, None);
    let mut notices = half.take_notices();
    for ip in ["127.0.0.1", "::1"] {
        let address = free_port::at(ip.parse().unwrap());
        let watched =
            Watched { port: address.port().into(), ..in_rotation(&half, 5, u64::from(address.port())) };
        // Ourselves: no cgroup is watched here, so that the process counts.
        half.watch_process(std::process::id(), watched).unwrap();
        assert_eq!(
            half.table().traffic(Slot(5)),
            TrafficState::In,
            "not listening yet is for the probes to see"
        );
        for opened in 1..=3 {
            let listener = TcpListener::bind(address).unwrap();
            assert_eq!(half.table().traffic(Slot(5)), TrafficState::In);
            drop(listener);
            assert_eq!(half.table().traffic(Slot(5)), TrafficState::Out);
            assert_eq!(half.table().read(Slot(5)).listens_closed, opened);
        }
        let _other_port = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(half.table().read(Slot(5)).listens_opened, 3);
        half.unwatch(std::process::id(), None);
        let kinds: Vec<u32> = notices.take().iter().map(|notice| notice.kind).collect();
        assert_eq!(kinds, [2, 3, 2, 3, 2, 3], "opened, closed, three times");
    }
}

#[test]
fn listener_of_a_watched_cgroup_is_counted_before_the_process_is_known() {
    let half = load(&WATCH_ONLY, None);
    let cgroup = own_cgroup();
    let address = free_port::at("127.0.0.1".parse().unwrap());
    let watched = Watched { port: address.port().into(), ..in_rotation(&half, 6, 77) };
    half.watch_cgroup(cgroup_id(&cgroup).unwrap(), watched).unwrap();
    let _listener = TcpListener::bind(address).unwrap();
    assert_eq!(half.table().read(Slot(6)).listens_opened, 1);
}

#[test]
fn worker_reads_the_same_table_and_cannot_write_it_once_the_descriptor_is_closed() {
    let half = load(&WATCH_ONLY, None);
    let descriptor = half.table_for_worker().unwrap();
    let pages = memmap2::MmapOptions::new().len(table::TABLE_BYTES).map_raw_read_only(&descriptor).unwrap();
    let view = BackendTable::map_read_only(descriptor).unwrap();
    in_rotation(&half, 7, 1);
    assert_eq!(view.traffic(Slot(7)), TrafficState::In);
    // SAFETY: asks to change the protection of our own mapping, which nothing else uses.
    let result =
        unsafe { libc::mprotect(pages.as_mut_ptr().cast(), pages.len(), libc::PROT_READ | libc::PROT_WRITE) };
    assert_eq!(result, -1, "made writable");
}

#[test]
fn switched_off_half_has_a_table_and_says_why() {
    let mut half = load(&Kernel { short_cut: Switch::Off, exit_watch: Switch::Off }, None);
    assert!(!half.exit_watch_is_on() && !half.listen_watch_is_on() && !half.short_cut_is_on());
    assert!(half.capabilities().iter().all(|row| !row.on && row.why.contains("switched off")));
    let view = BackendTable::map_read_only(half.table_for_worker().unwrap()).unwrap();
    in_rotation(&half, 8, 1);
    assert_eq!(view.traffic(Slot(8)), TrafficState::In);
    half.watch(1, Some(1), Watched::default()).unwrap();
    half.unwatch(1, Some(1));
    assert!(half.take_notices().take().is_empty());
}

#[tokio::test]
async fn notice_wakes_the_master() {
    let mut half = load(&WATCH_ONLY, None);
    let mut notices = half.take_notices();
    for life in 1..=2 {
        let mut child = sleeper();
        half.watch_process(child.id(), in_rotation(&half, 9, life)).unwrap();
        child.kill().unwrap();
        let told = tokio::time::timeout(Duration::from_secs(5), notices.next()).await.expect("a notice");
        assert_eq!(told[0].instance, life);
        child.wait().unwrap();
    }
}

/// This process's own cgroup v2 folder.
fn own_cgroup() -> std::path::PathBuf {
    self_probe::own_cgroup().expect("cgroup v2 is mounted")
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "waited too long for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_cause_is_told_once() {
    let cause = || anyhow::anyhow!("create map `M`: not permitted");
    assert_eq!(object::told(&cause().context("map error")), "map error: create map `M`: not permitted");
    assert_eq!(
        object::told(&cause().context("map error: create map `M`")),
        "map error: create map `M`: not permitted"
    );
    assert_eq!(object::told(&cause()), "create map `M`: not permitted");
}
