//! Steering against the running kernel, in namespaces of the test's own.

use std::future::Future;
use std::net::SocketAddr;

use lb_common::backend::TrafficState;

use super::lab::{Neighbourhood, in_namespace, ip};
use super::next_hop::netlink::Kernel as Asked;
use super::next_hop::{Attached, LinkAddress};
use super::*;
use crate::config::model::Kernel;
use crate::config::read_text;
use crate::master::kernel::TablePlace;
use crate::snapshot::{ServedBackend, ServedUpstream};
use crate::state::identity;

/// A host with the interfaces `front` and `back`, and two backends behind the latter.
struct Host {
    _clients: Neighbourhood,
    servers: Neighbourhood,
    run_dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let (clients, servers) = (Neighbourhood::new(), Neighbourhood::new());
        clients.join(("front", "10.1.0.1/24"), ("clients", "10.1.0.2/24"));
        servers.join(("back", "10.2.0.1/24"), ("servers", "10.2.0.2/24"));
        servers.within(|| ip("address add 10.2.0.3/24 dev servers"));
        Self { _clients: clients, servers, run_dir: tempfile::tempdir().unwrap() }
    }

    fn pins(&self) -> Pins {
        Pins::of(self.run_dir.path(), CONTRACT)
    }

    fn xdp(&self, name: &str) -> Option<Attached> {
        Asked::open().unwrap().network().unwrap().interface_named(name).unwrap().1.xdp
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.pins().remove().unwrap();
    }
}

fn vip(forward: &str, interface: &str) -> String {
    format!(
        "[kernel]\nlookup_rows = 251\n[[vip]]\nname = \"web\"\naddress = \"203.0.113.10:80\"\n\
         interface = \"{interface}\"\nupstream = \"web\"\nforward = \"{forward}\"\n\
         [upstream.web]\nbackends = [{{ address = \"10.2.0.2:80\" }}, {{ address = \"10.2.0.3:80\" }}]\n"
    )
}

fn model(text: &str) -> Arc<Model> {
    match read_text("lb.toml", text, Path::new("/")) {
        Ok(loaded) => Arc::new(loaded.model),
        Err(report) => panic!("{}", report.render(false, 100)),
    }
}

/// A master, as far as steering goes.
struct Master {
    kernel: KernelHalf,
    steer: Steer,
    news: Option<News>,
    /// Rows that the master before left.
    left: Vec<(Slot, lb_common::backend::BackendRow)>,
}

impl Master {
    fn begin(host: &Host, model: &Arc<Model>) -> Self {
        let pin = pinned_backends(host.run_dir.path()).unwrap();
        let off = Kernel { short_cut: Switch::Off, exit_watch: Switch::Off };
        let kernel = KernelHalf::load(&off, None, &TablePlace::Steering { pin }).unwrap();
        let left = kernel.table().take_over(1);
        let mut steer = Steer::new(host.run_dir.path());
        steer.configure(model, &kernel).unwrap();
        assert!(steer.is_loaded(), "{:?}: run the tests as root", steer.trouble);
        Self { kernel, steer, news: None, left }
    }

    /// Both backends in rows 5 and 6, in this state, and told to be there.
    fn publish(&mut self, state: TrafficState) {
        let addresses: [SocketAddr; 2] = ["10.2.0.2:80".parse().unwrap(), "10.2.0.3:80".parse().unwrap()];
        let mut backends = Vec::new();
        for (slot, address) in (5..).zip(addresses) {
            let address = Address::Tcp(address);
            self.set(slot, state);
            self.kernel.table().identify(Slot(slot), identity("web", &address));
            let name = address.to_string();
            backends.push(ServedBackend { slot, name, address, backup: false, drain_timeout_ms: 1 });
        }
        let web = ServedUpstream { name: "web".into(), backends, ..served() };
        let snapshot = Snapshot { upstreams: vec![web], ..Snapshot::default() };
        self.steer.published(&snapshot, self.kernel.table());
    }

    fn set(&mut self, slot: u32, state: TrafficState) {
        let instance = InstanceId(100 + u64::from(slot));
        self.kernel.table().write(Slot(slot), instance, state, 1, 1);
        self.steer.row_written(Slot(slot), instance);
    }

    /// Takes turns until it is so, for ten seconds at most.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Steer) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                self.steer.turn(self.kernel.table());
                if let Some(news) = self.steer.take_news() {
                    self.news = Some(news);
                }
                if is_so(&self.steer) {
                    return;
                }
                let due =
                    self.steer.due(Time::now()).map_or(Duration::from_secs(9), |at| at.since(Time::now()));
                let news = self.news.as_mut().unwrap();
                if let Ok(told) = tokio::time::timeout(due, news.next()).await {
                    self.steer.hear(told);
                }
            }
        });
        let is_late = waited.await.is_err();
        assert!(!is_late, "not within ten seconds: {what}; {:?}", self.steer.capabilities());
    }

    fn loaded(&self) -> &Loaded {
        self.steer.loaded.as_ref().unwrap()
    }

    /// What the kernel holds, read back.
    fn contents(&self) -> Contents {
        self.loaded().maps.contents().unwrap()
    }
}

fn served() -> ServedUpstream {
    let text = "[upstream.web]\nbackends = [{ address = \"10.2.0.2:80\" }]\n";
    let upstream = model(text).upstreams["web"].clone();
    ServedUpstream {
        name: upstream.name.clone(),
        balance: upstream.balance,
        keepalive: upstream.keepalive,
        connect_timeout_ms: 1,
        send_timeout_ms: 1,
        read_timeout_ms: 1,
        hold_timeout_ms: 1,
        retry_budget: upstream.retry_budget,
        backends: Vec::new(),
        unplaced: 0,
    }
}

fn has_ways(steer: &Steer) -> bool {
    let loaded = steer.loaded.as_ref().unwrap();
    loaded.changes.is_empty()
        && !loaded.due.plan
        && loaded.applied.hops.len() == 2
        && loaded.applied.hops.values().all(|hop| hop.interface != 0)
}

fn is_steered(steer: &Steer) -> bool {
    has_ways(steer) && steer.loaded.as_ref().unwrap().steered.contains_key("front")
}

fn hop_to(contents: &Contents, slot: u32) -> LinkAddress {
    contents.hops[&slot].link[..6].try_into().unwrap()
}

fn slots(contents: &Contents) -> BTreeSet<u16> {
    contents.tables[&0].shares().into_keys().collect()
}

fn test<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send + 'static) {
    in_namespace(body);
}

#[test]
fn maps_hold_what_is_planned_and_the_last_vip_takes_all_with_it() {
    test(|| async {
        let host = Host::new();
        let mut master = Master::begin(&host, &model(&vip("ipip", "front")));
        assert_eq!(host.xdp("front"), None, "nothing is attached before the maps are filled");
        master.publish(TrafficState::In);
        master.until("steered", is_steered).await;
        let contents = master.contents();
        assert_eq!(contents.vips, master.loaded().plan.contents.vips);
        assert_eq!(contents.hops, master.loaded().plan.contents.hops);
        assert_eq!(contents.settings, master.loaded().plan.contents.settings);
        assert!(contents.tables[&0].holds_same(&master.loaded().plan.contents.tables[&0]));
        assert_eq!(slots(&contents), [5, 6].into());
        assert_eq!(host.xdp("front").map(|attached| attached.mode), Some(Mode::Native));
        assert!(
            host.xdp("back").is_some(),
            "an interface that only sends has a program that passes everything"
        );
        let report = master.steer.report(master.kernel.table());
        assert_eq!((report.vips[0].mode.as_str(), report.vips[0].rows), ("native", 251));
        master
            .steer
            .configure(&model("[upstream.web]\nbackends = [{ address = \"10.2.0.2:80\" }]\n"), &master.kernel)
            .unwrap();
        assert_eq!((host.xdp("front"), host.xdp("back")), (None, None));
        assert!(!host.pins().home().exists());
    });
}

#[test]
fn next_master_takes_over_rows_tables_and_links() {
    test(|| async {
        let host = Host::new();
        let config = model(&vip("nat", "front"));
        let mut first = Master::begin(&host, &config);
        first.publish(TrafficState::In);
        // A program's instance, which ends with its master.
        first.kernel.table().write(Slot(9), InstanceId(999), TrafficState::In, 1, 1);
        first.until("steered", is_steered).await;
        let (before, program) = (first.contents(), host.xdp("front").unwrap().program);
        drop(first);
        assert_eq!(host.xdp("front").map(|attached| attached.program), Some(program), "packets go on");
        let mut second = Master::begin(&host, &config);
        let left: Vec<(u32, u64)> = second.left.iter().map(|(slot, row)| (slot.0, row.instance)).collect();
        assert_eq!(left, [(5, 105), (6, 106)]);
        assert_eq!(second.kernel.table().read(Slot(9)).instance, 0);
        assert_eq!(second.contents(), before);
        second.publish(TrafficState::In);
        second.until("steered", is_steered).await;
        assert_eq!(second.contents(), before, "lookup tables are not disturbed");
        assert_ne!(
            host.xdp("front").map(|attached| attached.program),
            Some(program),
            "the program is exchanged"
        );
        assert!(second.loaded().steered["front"].taken_over);
        second.steer.end();
        assert_eq!((host.xdp("front"), host.pins().home().exists()), (None, false));
    });
}

#[test]
fn vips_outlive_the_master_where_the_configuration_says_so() {
    test(|| async {
        let host = Host::new();
        let text = vip("ipip", "front").replace("[kernel]\n", "[kernel]\nvips_outlive = true\n");
        let mut master = Master::begin(&host, &model(&text));
        master.publish(TrafficState::In);
        master.until("steered", is_steered).await;
        master.steer.end();
        drop(master);
        assert!(host.xdp("front").is_some());
    });
}

#[test]
fn backend_that_goes_out_loses_its_rows_and_gets_them_back() {
    test(|| async {
        let host = Host::new();
        let mut master = Master::begin(&host, &model(&vip("l2dsr", "front")));
        master.publish(TrafficState::In);
        master.until("steered", is_steered).await;
        let generation = master.contents().tables[&0].generation;
        master.set(5, TrafficState::Out);
        // One of two is more than an eighth: no wait, one turn.
        master.steer.turn(master.kernel.table());
        let contents = master.contents();
        assert_eq!(slots(&contents), [6].into());
        assert_eq!(contents.tables[&0].generation, generation + 1);
        master.set(5, TrafficState::In);
        let is_back = |steer: &Steer| {
            let applied = &steer.loaded.as_ref().unwrap().applied;
            applied.tables[&0].shares().len() == 2
        };
        master.until("back in the table", is_back).await;
        assert_eq!(slots(&master.contents()), [5, 6].into());
    });
}

#[test]
fn neighbour_that_changes_is_obeyed_and_one_that_is_silent_is_believed() {
    test(|| async {
        let host = Host::new();
        let mut master = Master::begin(&host, &model(&vip("ipip", "front")));
        master.publish(TrafficState::In);
        master.until("steered", is_steered).await;
        let before = hop_to(&master.contents(), 5);
        ip("neighbour replace 10.2.0.2 lladdr 02:00:00:00:00:99 dev back");
        let moved = |steer: &Steer| {
            let applied = &steer.loaded.as_ref().unwrap().applied;
            hop_to(applied, 5) == [2, 0, 0, 0, 0, 0x99]
        };
        master.until("the new link address", moved).await;
        assert_eq!(hop_to(&master.contents(), 6), before, "the same machine by its other address");
        host.servers.within(|| ip("link set servers down"));
        ip("neighbour flush dev back");
        master.steer.hear(Told::Messages(Vec::new()));
        master.until("a turn", |_| true).await;
        assert_eq!(hop_to(&master.contents(), 6), before);
    });
}

#[test]
fn interface_that_comes_later_is_steered_then() {
    test(|| async {
        let host = Host::new();
        let mut master = Master::begin(&host, &model(&vip("ipip", "later")));
        master.publish(TrafficState::In);
        let is_told = |steer: &Steer| {
            let rows = steer.capabilities();
            rows.iter().any(|row| row.name == "xdp later" && !row.on && row.why.contains("does not exist"))
        };
        master.until("told that it is missing", is_told).await;
        assert!(
            master.steer.due(Time::now()).is_some_and(|at| at > Time::now()),
            "nothing is asked in a circle"
        );
        ip("link add later type veth peer name other");
        ip("link set later up");
        let is_there = |steer: &Steer| steer.loaded.as_ref().unwrap().steered.contains_key("later");
        master.until("steered", is_there).await;
        assert!(host.xdp("later").is_some());
        assert!(master.steer.take_notes().iter().any(|note| note.what == "interface not steered"));
    });
}

#[test]
fn interface_that_another_program_leaves_is_steered_then() {
    test(|| async {
        let host = Host::new();
        let mut other = aya::EbpfLoader::new().btf(None).load(object::OBJECT).unwrap();
        let program: &mut aya::programs::Xdp = other.program_mut("steer_pass").unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach("front", aya::programs::XdpMode::Driver).unwrap();
        let mut master = Master::begin(&host, &model(&vip("ipip", "front")));
        master.publish(TrafficState::In);
        let is_told = |steer: &Steer| {
            let rows = steer.capabilities();
            rows.iter().any(|row| !row.on && row.why.contains("named \"steer_pass\""))
        };
        master.until("told that it is taken", is_told).await;
        drop(other);
        master.until("steered", is_steered).await;
    });
}

#[test]
fn local_vip_whose_address_is_missing_is_told() {
    test(|| async {
        let host = Host::new();
        let text = "[[vip]]\nname = \"web\"\naddress = \"203.0.113.10:80\"\ninterface = \"front\"\nforward = \"local\"\n";
        let mut master = Master::begin(&host, &model(text));
        let notes = master.steer.take_notes();
        let told = notes.iter().find(|note| note.subject == "web").unwrap();
        assert!(told.cause.contains("ip address add 203.0.113.10/32 dev lo"), "{told:?}");
        ip("address add 203.0.113.10/32 dev lo");
        let mut again = Master::begin(&host, &model(text));
        assert!(!again.steer.take_notes().iter().any(|note| note.subject == "web"));
    });
}
