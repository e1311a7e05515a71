//! A seeded world around `step`: processes that start, crash, freeze and ignore signals; probes, late acknowledgements, requests in
//! progress, an operator who changes his mind, configurations that change. After each event the invariants of the design are
//! checked; in the end everything must have come to rest, every request be answered, and every process be gone.
//!
//! `LBCTL_SEED=n` runs one seed, and says what happened.

mod accidents;
mod invariants;
pub(super) mod models;
mod processes;
mod world;

use world::World;

/// Seeds of a plain run, and events in each.
const SEEDS: u64 = 300;
const EVENTS: u32 = 2_000;

#[test]
fn invariants_hold_after_every_event_and_everything_comes_to_rest() {
    let chosen = std::env::var("LBCTL_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    if let Some(seed) = chosen {
        run(seed, true);
        return;
    }
    // Two threads: the seeds are independent.
    std::thread::scope(|scope| {
        let halves = [0, 1].map(|rest| {
            scope.spawn(move || (0..SEEDS).filter(|seed| seed % 2 == rest).for_each(|seed| run(seed, false)))
        });
        for half in halves {
            half.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

fn run(seed: u64, tells: bool) {
    let mut world = World::new(seed, tells);
    world.start();
    for _ in 0..EVENTS {
        world.live();
        if world.has_finished() {
            break;
        }
    }
    if !world.is_ending() {
        world.heal();
        world.assert_rest();
    }
    world.end();
}
