//! How a backend is chosen. Pure.
//!
//! The caller has joined table and configuration already: candidates take new traffic and are of one tier. Every worker
//! thread has a chooser of its own for each upstream.

mod ip_hash;
mod least_connections;
mod round_robin;

use std::net::IpAddr;

use crate::config::model::Balance;
use least_connections::LeastConnections;
use round_robin::RoundRobin;

/// A backend that may take the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What [`Chooser::choose`] returns.
    pub index: usize,
    /// Which backend it is, for as long as it exists, in every worker: its slot, or a hash of its name (see [`key`]).
    pub key: u64,
    /// Its share relative to the others. Zero gets requests only where all have zero.
    pub weight: u32,
    /// Requests and tunnels in progress.
    pub active: u32,
}

/// A balancing policy with its state.
#[derive(Clone, Debug)]
pub enum Chooser {
    /// Smooth weighted round robin.
    RoundRobin(RoundRobin),
    /// Fewest active requests per weight; equals take turns.
    LeastConnections(LeastConnections),
    /// The same client goes to the same backend.
    IpHash,
}

impl Chooser {
    /// A chooser without history.
    pub fn new(balance: Balance) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(RoundRobin::default()),
            Balance::LeastConnections => Self::LeastConnections(LeastConnections::default()),
            Balance::IpHash => Self::IpHash,
        }
    }

    /// The `index` of the chosen candidate; `None` where there is none.
    pub fn choose(
        &mut self,
        candidates: &[Candidate],
        client: IpAddr,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(turns) => turns.choose(candidates, rng),
            Self::LeastConnections(least) => least.choose(candidates, rng),
            Self::IpHash => ip_hash::choose(candidates, client),
        }
    }
}

/// A [`Candidate::key`] from a backend's name: equal in every process and after every restart (FNV-1a).
pub fn key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
