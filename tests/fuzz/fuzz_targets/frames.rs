//! Frames through the decisions of steering: `cargo xtask fuzz`, or `cargo fuzz run frames` in this folder.
//!
//! An input is a node's number and then, frame by frame, either what the generated traffic sends next, spoilt at the places that
//! the input says, or bytes of the input itself. So flows and their tables are reached without a corpus.
#![no_main]

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::host::{FRAME_BYTES_MAX, HostTables};
use lb_tests::steer::agreement::frame_alone;
use lb_tests::steer::traffic::{Step, Traffic};
use libfuzzer_sys::fuzz_target;

/// Frames after which the count is shown.
const SHOWN_EVERY: u64 = 1_000_000;
const FRAME_BYTES_MIN: usize = 14;
/// Frames of one input.
const FRAMES_MAX: u32 = 200;

static FRAMES: AtomicU64 = AtomicU64::new(0);

fuzz_target!(|input: &[u8]| {
    let Some((node, mut rest)) = input.split_first() else { return };
    let mut traffic = Traffic::new(u64::from(*node));
    let mut tables = HostTables::new(traffic.world().clone());
    for _ in 0..FRAMES_MAX {
        let Some((kind, after)) = rest.split_first() else { return };
        let frame = match kind {
            0..192 => {
                let (spoilt, after) = after.split_at(after.len().min(usize::from(kind % 4) * 2));
                rest = after;
                generated(&mut traffic, &mut tables, spoilt)
            }
            _ => {
                let bytes = usize::from(*kind - 192) * 8 + FRAME_BYTES_MIN;
                let (frame, after) = after.split_at(after.len().min(bytes));
                rest = after;
                Some(frame.to_vec())
            }
        };
        let Some(mut frame) = frame else { continue };
        frame.resize(frame.len().clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX), 0);
        tables.now_ns += 1 << (kind % 40);
        let (_, after) = frame_alone(&frame, &mut tables).unwrap_or_else(|error| panic!("{error:#}"));
        traffic.saw(&after);
        if FRAMES.fetch_add(1, Ordering::Relaxed) % SHOWN_EVERY == SHOWN_EVERY - 1 {
            eprintln!("{} frames", FRAMES.load(Ordering::Relaxed));
        }
    }
});

/// The next frame of the traffic, changed at each (place, bits) of `spoilt`.
fn generated(traffic: &mut Traffic, tables: &mut HostTables, spoilt: &[u8]) -> Option<Vec<u8>> {
    match traffic.step() {
        Step::State(slot, state) => tables.world.set_state(slot, state),
        Step::Generation(table, slots) => tables.world.next_generation(table, &slots, tables.now_ns),
        Step::Frame(mut frame) => {
            for change in spoilt.chunks_exact(2) {
                let at = usize::from(change[0]) % frame.len();
                frame[at] ^= change[1];
            }
            return Some(frame);
        }
    }
    None
}
