//! How many entries the maps have whose size is not fixed.

use lb_common::limits::{NAT_HALF_OPEN_MAX, NAT_HALF_OPEN_PER_CPU_MIN};

use crate::config::model::steering::Steering;

/// Known flows of modes in which backends answer directly; each CPU has its part.
pub const FLOWS: &str = "FLOWS";
/// Translated flows, two entries each.
pub const NAT: &str = "NAT";
/// Translated flows that both sides have not yet agreed on, two entries each; each CPU has its part.
pub const NAT_HALF_OPEN: &str = "NAT_HALF_OPEN";

/// Entries by map, on a machine that can have so many CPUs: the kernel divides what forgets by itself among all that there might be.
pub fn entries(steering: &Steering, cpus: u32) -> [(&'static str, u32); 3] {
    let half_open = NAT_HALF_OPEN_MAX.max(NAT_HALF_OPEN_PER_CPU_MIN.saturating_mul(cpus));
    [(FLOWS, steering.flows), (NAT, 2 * steering.nat_flows), (NAT_HALF_OPEN, half_open)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_many_cpus_has_room_for_handshakes() {
        let of = |cpus| entries(&Steering::default(), cpus)[2].1;
        assert_eq!(of(2), NAT_HALF_OPEN_MAX);
        assert_eq!(of(256) / 256, NAT_HALF_OPEN_PER_CPU_MIN);
    }
}
