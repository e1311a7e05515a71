//! Translated flows that are over: found by walking through the table in batches, and removed.
//!
//! `NAT` is no table that forgets by itself: a flood must not push out what is established. A thread of its own walks, so that half a
//! million entries never keep the master's loop; it counts them on the way.
//!
//! Effectful: a thread, BPF maps, the clock.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use lb_common::flow::{FlowKey, NatFlow};
use lb_common::vip::{Settings, VipRow};

use super::sys::{self, Cursor};
use crate::master::kernel::reason;
use crate::state::event::Slot;
use crate::table::BackendTable;
use crate::time::Time;

/// Period of the walk.
const EVERY: Duration = Duration::from_secs(1);
/// Entries read by one call. A bucket with more would be an error; with as many buckets as entries it has a handful.
const BATCH: usize = 4096;
/// A flow that its backend has reset (conntrack: `nf_conntrack_tcp_timeout_close`).
const RESET_IDLE: Duration = Duration::from_secs(10);
/// A flow whose backend is gone: whoever comes back within this time is told so, instead of waiting.
const GONE_IDLE: Duration = Duration::from_secs(300);
/// Both sides have finished: as long as Linux keeps a connection in TIME-WAIT. Conntrack waits for twice as long, which with a port of ours for each
/// flow costs too many.
const FINISHED_IDLE: Duration = Duration::from_secs(60);
/// One side has finished (conntrack: `nf_conntrack_tcp_timeout_fin_wait`), or the client's has reset, which anybody can make up.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(120);
/// An entry whose other direction is not there: it may be being made.
const ALONE_IDLE: Duration = Duration::from_secs(10);

/// What the last walk saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Entries, two for each flow.
    pub entries: u64,
    /// Flows by row of `VIP_ROWS`.
    pub flows: BTreeMap<u16, u64>,
    /// Whether there was one.
    pub is_counted: bool,
}

/// The walking thread; it ends with this.
pub struct Expiry {
    census: Arc<Mutex<Census>>,
    /// Closed to tell the thread to end.
    _alive: mpsc::Sender<()>,
}

impl Expiry {
    /// Begins to walk through the maps that are pinned in `folder`.
    ///
    /// # Errors
    /// A map or the thread cannot be had.
    pub fn begin(folder: &Path, backends: Arc<BackendTable>) -> anyhow::Result<Self> {
        let walk = Walk::open(folder, backends)?;
        let census = Arc::new(Mutex::new(Census::default()));
        let (alive, ended) = mpsc::channel::<()>();
        let shared = census.clone();
        std::thread::Builder::new().name("nat-expiry".into()).spawn(move || walk.go_on(&shared, &ended))?;
        Ok(Self { census, _alive: alive })
    }

    /// What the last walk saw.
    pub fn census(&self) -> Census {
        self.census.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Walk {
    nat: MapData,
    entries: HashMap<MapData, [u8; 40], [u8; 88]>,
    settings: Array<MapData, [u8; 64]>,
    vips: Array<MapData, [u8; 64]>,
    backends: Arc<BackendTable>,
    entries_max: usize,
}

impl Walk {
    fn open(folder: &Path, backends: Arc<BackendTable>) -> anyhow::Result<Self> {
        let entries_max = MapInfo::from_pin(folder.join("NAT")).map_err(reason)?.max_entries() as usize;
        let open = |name: &str| MapData::from_pin(folder.join(name)).map_err(reason);
        let typed = |name: &str| Map::from_map_data(open(name)?).map_err(reason);
        Ok(Self {
            nat: open("NAT")?,
            entries: typed("NAT")?.try_into().map_err(reason)?,
            settings: typed("SETTINGS")?.try_into().map_err(reason)?,
            vips: typed("VIP_ROWS")?.try_into().map_err(reason)?,
            backends,
            entries_max,
        })
    }

    fn go_on(mut self, census: &Mutex<Census>, ended: &mpsc::Receiver<()>) {
        let mut had_failed = false;
        while ended.recv_timeout(EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            match self.walk(Time::now()) {
                Ok(seen) => *census.lock().unwrap_or_else(PoisonError::into_inner) = seen,
                Err(error) if !had_failed => {
                    had_failed = true;
                    log::error!("translated flows are not expired reason=\"{error:#}\"");
                }
                Err(_) => {}
            }
        }
    }

    /// Once through the table.
    fn walk(&mut self, now: Time) -> anyhow::Result<Census> {
        let times = self.times();
        let mut keys = vec![FlowKey::default(); BATCH];
        let mut flows = vec![NatFlow::default(); BATCH];
        let (mut cursor, mut seen) = (Cursor::Begin, Census { is_counted: true, ..Census::default() });
        // Entries that come meanwhile may be seen as well; the walk ends all the same.
        for _ in 0..=(self.entries_max / BATCH + 1) * 64 {
            let count = sys::look_up_batch(&self.nat, &mut cursor, &mut keys, &mut flows)?;
            for (key, flow) in keys.iter().zip(&flows).take(count) {
                if !self.is_over(key, flow, &times, now) {
                    seen.entries += 1;
                    if flow.flags & NatFlow::TO_CLIENT == 0 {
                        *seen.flows.entry(flow.vip).or_default() += 1;
                    }
                }
            }
            if cursor == Cursor::End {
                break;
            }
        }
        Ok(seen)
    }

    /// Removes the flow, both directions, if it is over.
    fn is_over(&mut self, key: &FlowKey, flow: &NatFlow, times: &Times, now: Time) -> bool {
        let is_gone = self.backends.read(Slot(flow.slot)).instance != flow.instance;
        let allowed = |flags: u16| {
            let allowed = times.allowed(key, flow, flags);
            if is_gone { allowed.min(GONE_IDLE) } else { allowed }
        };
        // The other direction is looked up only where this one alone would end the flow. What ends one is noted in both.
        if idle(flow, now) < allowed(flow.flags) {
            return false;
        }
        let other_key = other_direction(key, flow);
        let other = self.entries.get(&bytemuck::cast(other_key), 0).ok();
        let other: Option<NatFlow> = other.map(bytemuck::cast::<[u8; 88], NatFlow>);
        let over = match &other {
            None => idle(flow, now) >= ALONE_IDLE,
            Some(other) => idle(flow, now).min(idle(other, now)) >= allowed(flow.flags | other.flags),
        };
        if over {
            // Either may be gone already: the program forgets flows too.
            let _ = self.entries.remove(&bytemuck::cast(*key));
            if other.is_some() {
                let _ = self.entries.remove(&bytemuck::cast(other_key));
            }
        }
        over
    }

    fn times(&self) -> Times {
        let settings: Settings = self.settings.get(&0, 0).map(bytemuck::cast).unwrap_or_default();
        let idle = |vip: u32| {
            let row: VipRow = self.vips.get(&vip, 0).map(bytemuck::cast).unwrap_or_default();
            Duration::from_millis(row.idle_ms.into())
        };
        let vips = (0..self.vips.len()).map(idle).collect();
        Times { tcp: Duration::from_millis(settings.tcp_idle_ms.into()), vips }
    }
}

/// How long flows may be idle.
struct Times {
    tcp: Duration,
    /// By row of `VIP_ROWS`, for UDP.
    vips: Vec<Duration>,
}

impl Times {
    fn allowed(&self, key: &FlowKey, flow: &NatFlow, flags: u16) -> Duration {
        const FINISHED: u16 = NatFlow::FINISHED;
        if key.protocol != 6 {
            return self.vips.get(usize::from(flow.vip)).copied().unwrap_or_default();
        }
        match flags {
            _ if flags & NatFlow::RESET != 0 => RESET_IDLE,
            _ if flags & FINISHED == FINISHED => FINISHED_IDLE,
            _ if flags & (FINISHED | NatFlow::CLIENT_RESET) != 0 => HALF_CLOSED_IDLE,
            _ => self.tcp,
        }
    }
}

fn idle(flow: &NatFlow, now: Time) -> Duration {
    now.since(Time(flow.seen_at_ns))
}

/// The key of what answers the rewritten packets.
pub(super) fn other_direction(key: &FlowKey, flow: &NatFlow) -> FlowKey {
    FlowKey {
        source: flow.target,
        target: flow.source,
        source_port: flow.target_port,
        target_port: flow.source_port,
        protocol: key.protocol,
        zero: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use lb_common::backend::TrafficState;

    use super::*;
    use crate::state::event::InstanceId;
    use crate::table::{TABLE_BYTES, shared_memory};

    const NOW: Time = Time(100_000_000_000_000);

    fn map(entries: u32) -> HashMap<MapData, [u8; 40], [u8; 88]> {
        HashMap::create(entries, 0).expect("maps need root: run the tests as root")
    }

    /// Backend 1 is instance 7; TCP may be idle for an hour, UDP to VIP 2 for 30 s.
    struct Desk {
        walk: Walk,
    }

    impl Desk {
        fn new() -> Self {
            let backends = Arc::new(BackendTable::map(shared_memory("test", TABLE_BYTES).unwrap()).unwrap());
            backends.write(Slot(1), InstanceId(7), TrafficState::In, 1, 1);
            let entries = map(1000);
            let nat = MapData::from_id(id(&entries)).unwrap();
            let mut settings = Array::<MapData, [u8; 64]>::create(1, 0).unwrap();
            settings
                .set(
                    0,
                    bytemuck::cast::<_, [u8; 64]>(Settings { tcp_idle_ms: 3_600_000, ..Settings::default() }),
                    0,
                )
                .unwrap();
            let mut vips = Array::<MapData, [u8; 64]>::create(4, 0).unwrap();
            vips.set(2, bytemuck::cast::<_, [u8; 64]>(VipRow { idle_ms: 30_000, ..VipRow::default() }), 0)
                .unwrap();
            Self { walk: Walk { nat, entries, settings, vips, backends, entries_max: 1000 } }
        }

        /// A flow of client port `port`, its directions idle for so many seconds.
        fn add(&mut self, port: u8, protocol: u8, idle: (u64, u64), flags: (u16, u16), instance: u64) {
            let (client, vip, ours, backend) = ([1; 16], [2; 16], [3; 16], [4; 16]);
            let seen = |idle: u64| NOW.0 - idle * 1_000_000_000;
            let key = FlowKey {
                source: client,
                target: vip,
                source_port: [9, port],
                target_port: [0, 80],
                protocol,
                zero: [0; 3],
            };
            let flow = NatFlow {
                source: ours,
                target: backend,
                source_port: [7, port],
                target_port: [0, 81],
                instance,
                seen_at_ns: seen(idle.0),
                slot: 1,
                vip: 2,
                flags: flags.0,
                ..NatFlow::default()
            };
            let back = NatFlow {
                source: vip,
                target: client,
                source_port: [0, 80],
                target_port: [9, port],
                seen_at_ns: seen(idle.1),
                flags: flags.1 | NatFlow::TO_CLIENT,
                ..flow
            };
            let entries = &mut self.walk.entries;
            entries
                .insert(bytemuck::cast::<_, [u8; 40]>(key), bytemuck::cast::<_, [u8; 88]>(flow), 0)
                .unwrap();
            let back_key: [u8; 40] = bytemuck::cast(other_direction(&key, &flow));
            assert_eq!(
                bytemuck::cast::<FlowKey, [u8; 40]>(other_direction(&other_direction(&key, &flow), &back)),
                { bytemuck::cast::<_, [u8; 40]>(key) }
            );
            entries.insert(back_key, bytemuck::cast::<_, [u8; 88]>(back), 0).unwrap();
        }

        fn left(&mut self) -> (u64, u64) {
            let seen = self.walk.walk(NOW).unwrap();
            let again = self.walk.walk(NOW).unwrap();
            assert_eq!(seen.flows, again.flows);
            (again.entries, again.flows.values().sum())
        }
    }

    fn id(map: &HashMap<MapData, [u8; 40], [u8; 88]>) -> u32 {
        aya::maps::IterableMap::map(map).info().unwrap().id()
    }

    fn check(protocol: u8, idle: (u64, u64), flags: (u16, u16), instance: u64, stays: bool) {
        let mut desk = Desk::new();
        desk.add(1, protocol, idle, flags, instance);
        desk.add(2, 6, (0, 0), (0, 0), 7);
        let flows = if stays { 2 } else { 1 };
        assert_eq!(desk.left(), (2 * flows, flows), "{protocol} {idle:?} {flags:?} {instance}");
    }

    #[test]
    fn flow_is_over_when_both_directions_are_idle_for_as_long_as_its_state_allows() {
        let (client, backend, reset) = (NatFlow::CLIENT_FINISHED, NatFlow::BACKEND_FINISHED, NatFlow::RESET);
        check(6, (3599, 9999), (0, 0), 7, true);
        check(6, (9999, 3599), (0, 0), 7, true);
        check(6, (3601, 3601), (0, 0), 7, false);
        let both = client | backend;
        check(6, (119, 119), (client, client), 7, true);
        check(6, (121, 121), (client, client), 7, false);
        check(6, (121, 5), (backend, backend), 7, true);
        check(6, (61, 61), (both, both), 7, false);
        check(6, (59, 61), (both, both), 7, true);
        check(6, (11, 12), (reset, reset), 7, false);
        check(6, (11, 9), (reset, reset), 7, true);
        check(17, (29, 31), (0, 0), 7, true);
        check(17, (31, 31), (0, 0), 7, false);
    }

    #[test]
    fn what_only_the_client_is_said_to_have_reset_stays_for_a_while() {
        let reset = NatFlow::CLIENT_RESET;
        check(6, (119, 119), (reset, reset), 7, true);
        check(6, (121, 121), (reset, reset), 7, false);
    }

    #[test]
    fn flow_of_a_backend_that_is_gone_waits_for_its_client_for_a_while() {
        check(6, (299, 299), (0, 0), 6, true);
        check(6, (301, 301), (0, 0), 6, false);
        check(17, (31, 31), (0, 0), 6, false);
    }
}
