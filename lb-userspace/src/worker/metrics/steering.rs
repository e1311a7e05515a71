//! Prometheus text of what the kernel steers.

use std::fmt;

use prometheus_client::registry::Unit;

use super::render::Families;
use crate::control::protocol::steering::{VipBackend, VipReport, VipStatus};

/// Nothing where nothing is steered.
pub fn encode(report: &VipReport, families: &mut Families<'_>) -> fmt::Result {
    if report.vips.is_empty() {
        return Ok(());
    }
    encode_vips(report, families)?;
    encode_backends(report, families)?;
    families.counter(
        "steering_not_forwarded",
        "Packets to VIPs that were dropped, or answered in the backend's stead, by reason.",
        |counts| {
            report.reasons.iter().try_for_each(|one| {
                let what = if one.is_answer { "answered" } else { "dropped" };
                counts.add(&[("reason", &one.reason), ("what", what)], one.packets)
            })
        },
    )?;
    families.gauge("steering_interface", "1, with how the program is attached.", |gauges| {
        report.interfaces.iter().try_for_each(|one| {
            let outlives = if one.outlives { "true" } else { "false" };
            gauges.add(&[("interface", &one.name), ("mode", &one.mode), ("outlives_master", outlives)], 1.0)
        })
    })?;
    families.gauge("steering_table_entries", "Entries of a table of flows.", |gauges| {
        let mut counted = report.tables.iter().filter_map(|one| Some((one, one.entries?)));
        counted.try_for_each(|(one, entries)| gauges.add(&[("table", &one.name)], entries as f64))
    })?;
    families.gauge("steering_table_entries_max", "Room of a table of flows.", |gauges| {
        report.tables.iter().try_for_each(|one| gauges.add(&[("table", &one.name)], one.entries_max as f64))
    })
}

fn encode_vips(report: &VipReport, families: &mut Families<'_>) -> fmt::Result {
    let vips = &report.vips;
    families.gauge("vip", "1, with how the VIP is forwarded and where.", |gauges| {
        vips.iter().try_for_each(|one| {
            let labels = [
                ("vip", &*one.name),
                ("address", &*one.address),
                ("protocol", &*one.protocol),
                ("forward", &*one.forward),
                ("interface", &*one.interface),
                ("mode", &*one.mode),
            ];
            gauges.add(&labels, 1.0)
        })
    })?;
    type Part = (&'static str, &'static str, Option<Unit>, fn(&VipStatus) -> u64);
    let counters: [Part; 4] = [
        ("vip_forwarded_packets", "Packets forwarded to backends.", None, |one| one.packets),
        ("vip_forwarded", "Bytes of IP packets forwarded.", Some(Unit::Bytes), |one| one.bytes),
        ("vip_flows_begun", "Flows that began.", None, |one| one.new_flows),
        ("vip_dropped_packets", "Packets dropped, or answered in the backend's stead.", None, |one| {
            one.dropped
        }),
    ];
    for (name, help, unit, count) in counters {
        families.counter_in(name, help, unit.as_ref(), |counts| {
            vips.iter().try_for_each(|one| counts.add(&[("vip", &one.name)], count(one)))
        })?;
    }
    families.gauge("vip_flows_known", "Translated flows that are known.", |gauges| {
        let mut counted = vips.iter().filter_map(|one| Some((one, one.flows?)));
        counted.try_for_each(|(one, flows)| gauges.add(&[("vip", &one.name)], flows as f64))
    })?;
    families.gauge("vip_lookup_generation", "Changes of the VIP's lookup table.", |gauges| {
        vips.iter().try_for_each(|one| gauges.add(&[("vip", &one.name)], f64::from(one.generation)))
    })
}

fn encode_backends(report: &VipReport, families: &mut Families<'_>) -> fmt::Result {
    let rows = || report.vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| (vip, backend)));
    families.gauge("vip_backend_share", "Part of new flows that the backend gets; 0-1.", |gauges| {
        rows().filter(|(vip, _)| vip.rows > 0).try_for_each(|(vip, backend)| {
            let share = f64::from(backend.rows) / f64::from(vip.rows);
            gauges.add(&[("vip", &vip.name), ("backend", &backend.name)], share)
        })
    })?;
    families.gauge("vip_backend_reachable", "1 where the way to the backend is known.", |gauges| {
        rows().try_for_each(|(vip, backend)| {
            let reachable = f64::from(u8::from(backend.trouble.is_empty()));
            gauges.add(&[("vip", &vip.name), ("backend", &backend.name)], reachable)
        })
    })?;
    type Part = (&'static str, &'static str, Option<Unit>, fn(&VipBackend) -> u64);
    let counters: [Part; 3] = [
        ("steered_packets", "Packets forwarded to the backend, for all VIPs.", None, |one| one.packets),
        (
            "steered",
            "Bytes of IP packets forwarded to the backend, for all VIPs.",
            Some(Unit::Bytes),
            |one| one.bytes,
        ),
        ("steered_flows_begun", "Flows that began on the backend, for all VIPs.", None, |one| one.new_flows),
    ];
    // VIPs that share an upstream share its backends and their counts.
    let mut seen = std::collections::BTreeSet::new();
    let once: Vec<_> = rows().filter(|(_, backend)| seen.insert(backend.slot)).collect();
    for (name, help, unit, count) in counters {
        families.counter_in(name, help, unit.as_ref(), |counts| {
            once.iter().try_for_each(|(vip, backend)| {
                counts.add(&[("upstream", &vip.upstream), ("backend", &backend.name)], count(backend))
            })
        })?;
    }
    Ok(())
}
