//! The short-cut on the running kernel: what must hold of bytes, memory and ends of connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;

use super::*;
use crate::master::kernel::self_probe::PrivateCgroup;

const FAMILIES: [(&str, Option<[u8; 4]>); 3] =
    [("127.0.0.1:0", None), ("[::1]:0", None), ("[::]:0", Some([127, 0, 0, 1]))];

/// The calling thread in a cgroup that has the short-cut.
struct Lane {
    half: KernelHalf,
    /// Left, then removed, after the programs are gone from it.
    seat: Seat,
}

struct Seat(PrivateCgroup);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.leave().unwrap();
        // Joined threads are still members for a moment, and a cgroup with members cannot be removed.
        let events = self.0.folder().join("cgroup.events");
        wait_for("threads to leave", || std::fs::read_to_string(&events).unwrap().contains("populated 0"));
    }
}

impl Lane {
    fn open(name: &str) -> Self {
        let cgroup = PrivateCgroup::create(name).expect("a cgroup can be made; these tests need root");
        let half = load(&Kernel { short_cut: Switch::On, exit_watch: Switch::Off }, Some(cgroup.folder()));
        cgroup.enter().unwrap();
        Self { half, seat: Seat(cgroup) }
    }

    fn pair(&self, family: (&str, Option<[u8; 4]>)) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(family.0).unwrap();
        let mut address = listener.local_addr().unwrap();
        if let Some(v4) = family.1 {
            address = SocketAddr::from((v4, address.port()));
        }
        let before = self.half.counters().enrolled;
        self.half.enrol_port(address.port());
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        self.half.withdraw_port(address.port());
        assert_eq!(self.half.counters().enrolled, before + 2, "{family:?}");
        for end in [&client, &server] {
            end.set_nodelay(true).unwrap();
            end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            end.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        (client, server)
    }

    fn v4(&self) -> (TcpStream, TcpStream) {
        self.pair(FAMILIES[0])
    }
}

/// Sends a stream of random bytes in messages of random sizes, most of them small, with pauses.
fn sender(mut to: &TcpStream, seed: u64, total: usize) {
    let (mut bytes, mut sizes) = (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(!seed));
    let mut message = Vec::new();
    let mut sent = 0;
    while sent < total {
        let longest = 1 << sizes.u32(1..19);
        message.resize(sizes.usize(1..longest).min(total - sent), 0);
        for byte in &mut message {
            *byte = bytes.u8(..);
        }
        to.write_all(&message).unwrap();
        sent += message.len();
        pause(&mut sizes);
    }
}

/// Reads it in pieces of random sizes, with pauses.
fn reader(mut from: &TcpStream, seed: u64, total: usize) {
    let (mut bytes, mut sizes) = (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(seed ^ 1));
    let mut buffer = vec![0; 1 << 18];
    let mut read = 0;
    while read < total {
        let longest = 1 << sizes.u32(1..18);
        let count = from.read(&mut buffer[..longest]).unwrap();
        assert_ne!(count, 0, "ended after {read} of {total} (seed {seed})");
        for (at, byte) in buffer[..count].iter().enumerate() {
            assert_eq!(*byte, bytes.u8(..), "byte {} of {total} (seed {seed})", read + at);
        }
        read += count;
        pause(&mut sizes);
    }
}

fn pause(random: &mut fastrand::Rng) {
    match random.u8(..64) {
        0 => std::thread::sleep(Duration::from_micros(random.u64(1..500))),
        1..4 => std::thread::yield_now(),
        _ => {}
    }
}

#[test]
fn both_directions_are_exact_at_any_sizes_and_speeds() {
    const BYTES: usize = 2 << 20;
    let lane = Lane::open("exact");
    let first_seed = fastrand::u64(..);
    for (number, family) in FAMILIES.into_iter().enumerate() {
        let seed = first_seed.wrapping_add(number as u64);
        println!("seed {seed}");
        let before = lane.half.counters();
        let (client, server) = lane.pair(family);
        std::thread::scope(|scope| {
            scope.spawn(|| sender(&client, seed, BYTES));
            scope.spawn(|| sender(&server, seed ^ 2, BYTES));
            scope.spawn(|| reader(&client, seed ^ 2, BYTES));
            reader(&server, seed, BYTES);
        });
        let after = lane.half.counters();
        let redirected = after.redirected_bytes - before.redirected_bytes;
        println!("{family:?}: {redirected} of {} bytes took the short-cut", 2 * BYTES);
        assert!(redirected > 0 && after.passed > before.passed, "both ways were taken");
    }
}

#[test]
fn keep_alive_exchanges_of_random_sizes_are_exact() {
    let lane = Lane::open("alive");
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for family in FAMILIES {
        let (client, server) = lane.pair(family);
        let mut random = fastrand::Rng::with_seed(seed);
        let before = lane.half.counters();
        for _ in 0..2000 {
            for (mut from, mut to) in [(&client, &server), (&server, &client)] {
                let longest = 1 << random.u32(1..15);
                let mut message = vec![0; random.usize(1..longest)];
                random.fill(&mut message);
                from.write_all(&message).unwrap();
                let mut got = vec![0; message.len()];
                to.read_exact(&mut got).unwrap();
                assert_eq!(got, message);
            }
        }
        let after = lane.half.counters();
        assert_eq!(after.passed, before.passed, "a message that is awaited takes the short-cut");
        assert_eq!(after.redirected, before.redirected + 4000);
    }
}

#[test]
fn sender_waits_for_a_sleeping_reader_and_nothing_is_lost() {
    let lane = Lane::open("waits");
    for size in [1, 700, 60_000] {
        let (mut client, mut server) = lane.v4();
        client.set_nonblocking(true).unwrap();
        let message: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let mut sent = 0;
        let stopped = loop {
            match client.write(&message[sent % size..]) {
                Ok(count) => sent += count,
                Err(error) => break error,
            }
            assert!(sent < 64 << 20, "never stopped");
        };
        assert_eq!(stopped.kind(), ErrorKind::WouldBlock);
        println!("messages of {size}: stopped after {sent} bytes");
        let mut got = vec![0; sent];
        server.read_exact(&mut got).unwrap();
        assert!(got.iter().enumerate().all(|(at, byte)| *byte == (at % size) as u8));
    }
}

#[test]
fn end_of_one_direction_comes_after_its_bytes() {
    let lane = Lane::open("end");
    let (mut client, mut server) = lane.v4();
    client.write_all(&[1; 3000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert_eq!(got, [1; 3000]);
    server.write_all(&[2; 3000]).unwrap();
    drop(server);
    got.clear();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, [2; 3000]);
}

#[test]
fn sending_to_a_closed_peer_fails() {
    let lane = Lane::open("closed");
    let (mut client, server) = lane.v4();
    client.write_all(&[1; 100]).unwrap();
    drop(server);
    let started = Instant::now();
    while client.write_all(&[1; 100]).is_ok() {
        assert!(started.elapsed() < Duration::from_secs(5), "the peer is gone and nobody says so");
        std::thread::yield_now();
    }
}

#[test]
fn sendfile_is_exact() {
    let lane = Lane::open("sendfile");
    let (client, mut server) = lane.v4();
    let content: Vec<u8> = (0..100_000u32).map(|at| (at % 253) as u8).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &content).unwrap();
    let opened = std::fs::File::open(file.path()).unwrap();
    let mut offset = 0;
    while offset < content.len() as u64 {
        rustix::fs::sendfile(client.as_fd(), opened.as_fd(), Some(&mut offset), content.len()).unwrap();
    }
    let mut got = vec![0; content.len()];
    server.read_exact(&mut got).unwrap();
    assert!(got == content);
}

#[test]
fn connection_to_another_port_is_left_alone() {
    let lane = Lane::open("other");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let before = lane.half.counters();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    assert_eq!(lane.half.counters(), before);
}

#[test]
fn connections_outlive_the_master_and_then_nothing_is_left() {
    let lane = Lane::open("outlive");
    let programs = lane.half.program_ids();
    assert!(programs.len() >= 3, "{programs:?}");
    let (mut client, mut server) = lane.v4();
    client.write_all(&[1; 1000]).unwrap();
    let Lane { half, seat: _seat } = lane;
    drop(half);
    let mut got = [0; 1000];
    server.read_exact(&mut got).unwrap();
    assert_eq!(got, [1; 1000], "bytes that were on the way");
    for (mut from, mut to) in [(&client, &server), (&server, &client)] {
        from.write_all(&[2; 5000]).unwrap();
        let mut got = [0; 5000];
        to.read_exact(&mut got).unwrap();
        assert_eq!(got, [2; 5000]);
    }
    drop((client, server));
    wait_for("the programs to go", || loaded_of(&programs) == 0);
}

#[test]
fn self_probe_says_what_it_found() {
    let cgroup = TestCgroup::create("says");
    let half = load(&Kernel { short_cut: Switch::Auto, exit_watch: Switch::Off }, Some(&cgroup.0));
    let row = half.capabilities().iter().find(|row| row.name == "short_cut").unwrap();
    println!("auto: {row:?}");
    assert!(row.why.contains("over plain loopback") || !row.on);
    if row.on {
        // Both ways.
        let repeated = 2 * u64::from(self_probe::REPEATED_BYTES.iter().sum::<u32>());
        let counters = half.counters();
        assert!(counters.repeated_bytes >= repeated && counters.repeated_lost == 0, "{counters:?}");
    }
    // Insisting gives the same, or the reason as an error.
    match KernelHalf::load(
        &Kernel { short_cut: Switch::On, exit_watch: Switch::Off },
        Some(&cgroup.0),
        &TablePlace::Anywhere,
    ) {
        Ok(half) => assert!(half.short_cut_is_on()),
        Err(error) => assert!(format!("{error:#}").contains(&row.why), "{error:#}"),
    }
    let half = load(&Kernel { short_cut: Switch::Auto, exit_watch: Switch::Off }, None);
    assert!(!half.short_cut_is_on(), "without a cgroup there is nothing to attach to");
}

/// Names the product's cgroup for [`half_is_held_when_asked`].
const HOLD_CGROUP: &str = "LBCTL_TEST_HOLD_CGROUP";
/// A port to enrol, if any.
const HOLD_PORT: &str = "LBCTL_TEST_HOLD_PORT";

/// No test of its own: the process that the next one kills. Loads everything, says which programs, and waits.
#[test]
fn half_is_held_when_asked() {
    let Some(cgroup) = std::env::var_os(HOLD_CGROUP) else { return };
    let half = load(&Kernel { short_cut: Switch::On, exit_watch: Switch::On }, Some(Path::new(&cgroup)));
    if let Some(port) = std::env::var(HOLD_PORT).ok().and_then(|port| port.parse().ok()) {
        half.enrol_port(port);
    }
    println!("programs {}", half.program_ids().iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    println!("{:?}", half.counters());
}

#[test]
fn nothing_is_left_after_the_master_is_killed() {
    let cgroup = TestCgroup::create("killed");
    let mut master = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "master::kernel::tests::short_cut::half_is_held_when_asked", "--nocapture"])
        .env(HOLD_CGROUP, &cgroup.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(master.stdout.take().unwrap()));
    let programs: Vec<u32> = lines
        .find_map(|line| {
            let (_, ids) =
                line.unwrap().split_once("programs ").map(|(a, b)| (a.to_owned(), b.to_owned()))?;
            Some(ids.split(' ').map(|id| id.parse().unwrap()).collect())
        })
        .expect("the programs are named");
    assert_eq!(programs.len(), 5);
    master.kill().unwrap();
    master.wait().unwrap();
    wait_for("the programs to go", || loaded_of(&programs) == 0);
}

/// How many of these programs the kernel has.
fn loaded_of(programs: &[u32]) -> usize {
    aya::programs::loaded_programs().flatten().filter(|info| programs.contains(&info.id())).count()
}

/// A folder in the place of the product's cgroup.
struct TestCgroup(std::path::PathBuf);

impl TestCgroup {
    fn create(name: &str) -> Self {
        let folder = own_cgroup().join(format!("lbctl-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).expect("a cgroup can be made; these tests need root");
        Self(folder)
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).unwrap();
    }
}
