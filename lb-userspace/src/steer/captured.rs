//! A captured frame as operators get it: with names for numbers, and wall time.

use lb_common::capture::{Captured, Outcome};

use crate::control::protocol::steering::CapturedFrame;

/// The record with its names. `wall_offset_ns` is what `CLOCK_MONOTONIC` is short of the nanoseconds since 1970.
pub fn frame(
    record: &Captured,
    wall_offset_ns: u64,
    interface: impl Fn(u32) -> String,
    backend: impl Fn(u32) -> Option<String>,
) -> CapturedFrame {
    let outcome = Outcome::from_raw(record.outcome);
    CapturedFrame {
        wall_ns: record.at_ns.saturating_add(wall_offset_ns),
        interface: interface(record.ingress),
        original_bytes: record.frame_bytes,
        bytes: record.kept().to_vec(),
        verdict: outcome
            .map_or_else(|| format!("outcome {}", record.outcome), |outcome| outcome.name().to_owned()),
        reason: record.reason().map(|reason| reason.name().to_owned()),
        backend: record.backend().map(|slot| backend(slot).unwrap_or_else(|| format!("slot {slot}"))),
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use lb_common::flow::HandOver;
    use lb_common::verdict::Reason;

    use super::*;

    fn named(record: &Captured) -> CapturedFrame {
        frame(
            record,
            1_000,
            |index| format!("eth{index}"),
            |slot| (slot == 7).then(|| "10.0.0.7:80".to_owned()),
        )
    }

    #[test]
    fn numbers_become_names() {
        let mut record = Captured {
            at_ns: 5,
            slot: 7,
            ingress: 2,
            frame_bytes: 1500,
            kept_bytes: 3,
            ..Captured::zeroed()
        };
        record.outcome = Outcome::Redirect as u32;
        record.reason = Captured::NO_REASON;
        record.frame[..4].copy_from_slice(b"abcd");
        let expect = CapturedFrame {
            wall_ns: 1_005,
            interface: "eth2".into(),
            original_bytes: 1500,
            bytes: b"abc".to_vec(),
            verdict: "redirect".into(),
            reason: None,
            backend: Some("10.0.0.7:80".into()),
        };
        assert_eq!(named(&record), expect);
        let dropped = Captured {
            outcome: Outcome::Drop as u32,
            reason: Reason::Denied as u32,
            slot: HandOver::NO_SLOT,
            ..record
        };
        let dropped = named(&dropped);
        assert_eq!((dropped.reason.as_deref(), dropped.backend), (Some("denied"), None));
        assert_eq!(named(&Captured { slot: 9, ..record }).backend.as_deref(), Some("slot 9"));
    }
}
