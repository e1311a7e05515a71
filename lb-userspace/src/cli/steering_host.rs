//! How well this host is set for steering, judged from facts: the part of `lbctl doctor` about VIPs.

use super::ethtool::Device;
use crate::control::protocol::Capability;
use crate::control::protocol::steering::{SteeredInterface, VipReport, VipStatus};
use crate::master::steer::pins::Orphan;

/// A ring above this makes frames leave the cache before they are looked at: 69 → 43 Mpps from 256 to 1024 frames on six cores
/// (xdp-project/xdp-paper, 2018).
const RING_FRAMES_MAX: u32 = 1024;
/// Outer headers: IPv6 and UDP for GUE, IPv6 for IPIP.
const OVERHEAD_BYTES_MAX: u32 = 48;

/// Facts of the host, as far as they could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteeringHost {
    /// `net.core.bpf_jit_enable`.
    pub jit: Option<u32>,
    /// `net.ipv4.ip_forward`.
    pub ip_forward: Option<bool>,
    /// Cores that take packets.
    pub cores: usize,
    /// What the drivers of the report's interfaces say, in its order.
    pub interfaces: Vec<Device>,
    /// VIPs that go up the stack of this host and whose address it does not have.
    pub strange_addresses: Vec<String>,
}

/// The rows: the host first, then each interface.
pub fn matrix(report: &VipReport, host: &SteeringHost) -> Vec<Capability> {
    let mut rows = vec![jit(host)];
    rows.extend(forwarding(report, host));
    rows.extend(report.vips.iter().filter(|vip| vip.forward == "local").map(|vip| address(vip, host)));
    for (interface, device) in report.interfaces.iter().zip(&host.interfaces) {
        rows.extend(queues(interface, device, host.cores));
        rows.extend(ring(interface, device));
        rows.extend(merging(interface, device));
        rows.extend(vlan_stripping(interface, device));
        rows.extend(mtu(report, interface));
    }
    rows
}

/// Pins that no master looks after.
pub fn orphaned(orphan: &Orphan) -> Capability {
    let home = orphan.home.display();
    let of = orphan.run_dir.as_ref().map_or("a run folder that is not known".to_owned(), |run_dir| {
        format!("run folder {}", run_dir.display())
    });
    let what = match orphan.interfaces.as_slice() {
        [] => "maps of steering are left".to_owned(),
        // By number: the interface may be in another network namespace, or gone.
        some => format!("VIPs are still answered on the interfaces numbered {}", join(some)),
    };
    let again = orphan.run_dir.as_ref().filter(|run_dir| run_dir.is_dir());
    let remedy = match again {
        Some(run_dir) => format!("lbctl --run-dir {} up takes over; rm -r {home} ends it", run_dir.display()),
        None => format!("rm -r {home}"),
    };
    row("pins", false, format!("{what}, of {of}, in which no master runs"), remedy)
}

fn join(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

fn jit(host: &SteeringHost) -> Capability {
    let on = host.jit != Some(0);
    let why = match on {
        true => "BPF programs run as machine code",
        false => "BPF programs are interpreted: each packet costs many times as much",
    };
    row("bpf_jit", on, why.to_owned(), "sysctl -w net.core.bpf_jit_enable=1".to_owned())
}

/// Only where backends have us as their way out.
fn forwarding(report: &VipReport, host: &SteeringHost) -> Option<Capability> {
    let vip = report.vips.iter().find(|vip| vip.keeps_client)?;
    let on = host.ip_forward?;
    let why = match on {
        true => "backends that have this node as gateway reach the world".to_owned(),
        false => format!(
            "backends of \"{}\" have this node as gateway: answers of the VIP pass, anything else they send is dropped",
            vip.name
        ),
    };
    Some(row(
        "ip_forward",
        on,
        why,
        "sysctl -w net.ipv4.ip_forward=1, with a firewall that says what for".to_owned(),
    ))
}

fn address(vip: &VipStatus, host: &SteeringHost) -> Capability {
    let on = !host.strange_addresses.contains(&vip.name);
    let why = match on {
        true => format!("this host has the address of {}", vip.address),
        false => format!(
            "packets to {} go up the stack of this host, which does not have the address",
            vip.address
        ),
    };
    row(&format!("address {}", vip.name), on, why, format!("lbctl vip backend-setup {}", vip.name))
}

fn queues(interface: &SteeredInterface, device: &Device, cores: usize) -> Option<Capability> {
    let (name, queues) = (&interface.name, device.queues?);
    let why = format!("{queues} receive queues, {cores} cores");
    Some(row(
        &format!("queues {name}"),
        queues as usize >= cores,
        why,
        format!("ethtool -L {name} combined {cores}"),
    ))
}

fn ring(interface: &SteeredInterface, device: &Device) -> Option<Capability> {
    let frames = device.receive_ring?;
    let name = &interface.name;
    let why = match frames <= RING_FRAMES_MAX {
        true => format!("{frames} frames in each receive ring"),
        false => format!("{frames} frames in each receive ring: more than stay in the cache"),
    };
    Some(row(&format!("ring {name}"), frames <= RING_FRAMES_MAX, why, format!("ethtool -G {name} rx 512")))
}

/// Merged packets are larger than what may be sent on.
fn merging(interface: &SteeredInterface, device: &Device) -> Option<Capability> {
    let name = &interface.name;
    let (lro, gro) = (device.lro?, device.gro?);
    let is_generic = interface.mode == "generic";
    let (on, why, remedy) = match (lro, gro && is_generic) {
        (true, _) => (
            false,
            "the device merges packets before the program sees them",
            format!("ethtool -K {name} lro off"),
        ),
        (_, true) => (
            false,
            "packets are merged before a generic program sees them, and are then too big",
            format!("ethtool -K {name} gro off"),
        ),
        _ => (true, "packets are seen as they came", String::new()),
    };
    Some(row(&format!("merging {name}"), on, why.to_owned(), remedy))
}

fn vlan_stripping(interface: &SteeredInterface, device: &Device) -> Option<Capability> {
    let name = &interface.name;
    let stripped = device.vlan_stripping? && interface.mode == "native";
    let why = match stripped {
        true => {
            "the device takes VLAN tags off where the program cannot see them: frames of all VLANs look alike"
        }
        false => "VLAN tags are seen",
    };
    Some(row(&format!("vlan {name}"), !stripped, why.to_owned(), format!("ethtool -K {name} rxvlan off")))
}

/// Only where outer headers are added.
fn mtu(report: &VipReport, interface: &SteeredInterface) -> Option<Capability> {
    let tunnels =
        |vip: &&VipStatus| matches!(vip.forward.as_str(), "ipip" | "gue") && vip.interface == interface.name;
    report.vips.iter().find(tunnels)?;
    let inner = interface.mtu.saturating_sub(OVERHEAD_BYTES_MAX);
    let why = format!(
        "{}: with outer headers, packets from {inner} bytes on may be answered with \"too big\"; `lbctl vip backend-setup` has the segment size",
        interface.mtu
    );
    Some(row(&format!("mtu {}", interface.name), true, why, String::new()))
}

/// A row whose remedy is only said where it is off.
fn row(name: &str, on: bool, why: String, remedy: String) -> Capability {
    Capability { name: name.to_owned(), on, why, remedy: if on { String::new() } else { remedy } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_without_a_master_are_told_with_what_removes_them() {
        let orphan = Orphan {
            home: "/sys/fs/bpf/lbctl/00ff".into(),
            run_dir: Some("/gone".into()),
            interfaces: vec![2, 7],
        };
        let row = orphaned(&orphan);
        assert_eq!(row.remedy, "rm -r /sys/fs/bpf/lbctl/00ff");
        assert!(row.why.contains("numbered 2, 7") && row.why.contains("/gone"), "{row:?}");
        let row = orphaned(&Orphan { run_dir: Some("/".into()), interfaces: Vec::new(), ..orphan });
        assert_eq!(row.remedy, "lbctl --run-dir / up takes over; rm -r /sys/fs/bpf/lbctl/00ff ends it");
    }

    fn report(mode: &str, forward: &str) -> VipReport {
        let vip = VipStatus {
            name: "web".into(),
            address: "203.0.113.10:443".into(),
            forward: forward.into(),
            interface: "eth0".into(),
            keeps_client: forward == "nat",
            ..VipStatus::default()
        };
        let interface = SteeredInterface {
            name: "eth0".into(),
            mode: mode.into(),
            outlives: true,
            mtu: 1500,
            ..SteeredInterface::default()
        };
        VipReport { vips: vec![vip], interfaces: vec![interface], ..VipReport::default() }
    }

    fn well_set() -> SteeringHost {
        let device = Device {
            queues: Some(4),
            receive_ring: Some(512),
            gro: Some(true),
            lro: Some(false),
            vlan_stripping: Some(false),
        };
        SteeringHost {
            jit: Some(1),
            ip_forward: Some(true),
            cores: 4,
            interfaces: vec![device],
            strange_addresses: Vec::new(),
        }
    }

    fn off(report: &VipReport, host: &SteeringHost) -> Vec<String> {
        let rows = matrix(report, host);
        assert!(rows.iter().all(|row| row.on != row.remedy.contains(' ')), "{rows:#?}");
        rows.into_iter().filter(|row| !row.on).map(|row| row.name).collect()
    }

    #[test]
    fn a_host_that_is_well_set_has_nothing_to_change() {
        for forward in ["nat", "l2dsr", "ipip", "local"] {
            assert_eq!(off(&report("native", forward), &well_set()), [""; 0], "{forward}");
        }
    }

    #[test]
    fn each_wrong_setting_is_named_with_its_remedy() {
        let device = Device {
            queues: Some(1),
            receive_ring: Some(4096),
            gro: Some(true),
            lro: Some(true),
            vlan_stripping: Some(true),
        };
        let host = SteeringHost {
            jit: Some(0),
            ip_forward: Some(false),
            cores: 4,
            interfaces: vec![device],
            strange_addresses: vec!["web".into()],
        };
        let wrong = ["queues eth0", "ring eth0", "merging eth0", "vlan eth0"];
        assert_eq!(off(&report("native", "nat"), &host), [&["bpf_jit", "ip_forward"][..], &wrong].concat());
        assert_eq!(
            off(&report("native", "local"), &host),
            [&["bpf_jit", "address web"][..], &wrong].concat()
        );
    }

    #[test]
    fn generic_mode_suffers_from_merging_and_not_from_stripped_tags() {
        let mut host = well_set();
        host.interfaces[0].vlan_stripping = Some(true);
        assert_eq!(off(&report("generic", "ipip"), &host), ["merging eth0"]);
    }

    #[test]
    fn what_a_driver_does_not_say_is_left_out() {
        let host = SteeringHost { interfaces: vec![Device::default()], ..well_set() };
        let names: Vec<_> =
            matrix(&report("native", "ipip"), &host).into_iter().map(|row| row.name).collect();
        assert_eq!(names, ["bpf_jit", "mtu eth0"]);
    }
}
