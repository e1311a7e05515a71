//! The ways to all backends, kept as the kernel changes them.
//!
//! The XDP program sends past the stack, so that the stack never sees neighbours being used: they are asked for here, again and
//! again, and who does not answer keeps the address that it had until another is told. Probes decide about traffic.
//!
//! Effectful: asks the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::next_hop::netlink::{Kernel, Told};
use super::next_hop::{Heard, Network, NextHop, NoWay, Route};
use crate::time::Time;

/// Routes asked for in one turn, some 10 µs each.
const ROUTES_PER_TURN_MAX: usize = 128;
/// Period of asking again for neighbours that have answered: below the 30 s for which the kernel believes them.
const REFRESH_EVERY: Duration = Duration::from_secs(20);
/// Period of asking again for those that have not.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// The ways.
pub struct Ways {
    kernel: Kernel,
    network: Network,
    routes: BTreeMap<IpAddr, Result<Route, NoWay>>,
    hops: BTreeMap<IpAddr, NextHop>,
    /// The interface and neighbour that each hop is of.
    through: BTreeMap<IpAddr, (u32, IpAddr)>,
    trouble: BTreeMap<IpAddr, NoWay>,
    to_ask: BTreeSet<IpAddr>,
    /// Interfaces, addresses or routes changed since somebody asked.
    has_moved: bool,
    refresh_at: Time,
    retry_at: Time,
}

impl Ways {
    /// None yet.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(now: Time) -> io::Result<Self> {
        let mut kernel = Kernel::open()?;
        Ok(Self {
            network: kernel.network()?,
            kernel,
            routes: BTreeMap::new(),
            hops: BTreeMap::new(),
            through: BTreeMap::new(),
            trouble: BTreeMap::new(),
            to_ask: BTreeSet::new(),
            has_moved: false,
            refresh_at: now + REFRESH_EVERY,
            retry_at: now + RETRY_EVERY,
        })
    }

    /// Ways to these addresses are wanted, and to no others.
    pub fn want(&mut self, targets: &BTreeSet<IpAddr>) {
        self.routes.retain(|target, _| targets.contains(target));
        self.hops.retain(|target, _| targets.contains(target));
        self.through.retain(|target, _| targets.contains(target));
        self.trouble.retain(|target, _| targets.contains(target));
        self.to_ask.retain(|target| targets.contains(target));
        self.to_ask.extend(targets.iter().filter(|target| !self.routes.contains_key(target)));
    }

    /// Takes in what the kernel told. Whether a way changed.
    pub fn hear(&mut self, told: Told) -> bool {
        let messages = match told {
            Told::Messages(messages) => messages,
            Told::Lost => {
                log::warn!("news of the network lost: everything is asked for again");
                match self.kernel.network() {
                    Ok(network) => self.network = network,
                    Err(error) => log::error!("network not known reason=\"{error}\""),
                }
                self.ask_again();
                return false;
            }
        };
        let mut changed = false;
        for message in &messages {
            match self.network.hear(message) {
                Heard::Nothing => {}
                Heard::Routes => self.ask_again(),
                Heard::Neighbour(neighbour) => {
                    let through = |(target, route): (&IpAddr, &Result<Route, NoWay>)| match route {
                        Ok(route) if route.neighbour == neighbour => Some(*target),
                        _ => None,
                    };
                    let targets: Vec<IpAddr> = self.routes.iter().filter_map(through).collect();
                    for target in targets {
                        changed |= self.settle(target);
                    }
                }
            }
        }
        changed
    }

    /// Every route may have become another.
    fn ask_again(&mut self) {
        self.has_moved = true;
        self.to_ask.extend(self.routes.keys());
    }

    /// Whether more than neighbours changed since the last call.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    /// Asks for some of what has to be asked for. Whether a way changed.
    pub fn turn(&mut self, now: Time) -> bool {
        let mut changed = false;
        for _ in 0..ROUTES_PER_TURN_MAX {
            let Some(target) = self.to_ask.pop_first() else { break };
            match self.kernel.route(target) {
                Ok(route) => drop(self.routes.insert(target, route)),
                Err(error) => log::error!("route not known target={target} reason=\"{error}\""),
            }
            changed |= self.settle(target);
            if self.trouble.contains_key(&target) {
                self.resolve(target);
            }
        }
        if now >= self.retry_at {
            self.retry_at = now + RETRY_EVERY;
            self.trouble
                .keys()
                .copied()
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|target| self.resolve(target));
        }
        if now >= self.refresh_at {
            self.refresh_at = now + REFRESH_EVERY;
            self.hops.keys().copied().collect::<Vec<_>>().into_iter().for_each(|target| self.resolve(target));
        }
        changed
    }

    /// When the next turn is due.
    pub fn due(&self, now: Time) -> Option<Time> {
        if !self.to_ask.is_empty() {
            return Some(now);
        }
        let retry = (!self.trouble.is_empty()).then_some(self.retry_at);
        let refresh = (!self.hops.is_empty()).then_some(self.refresh_at);
        [retry, refresh].into_iter().flatten().min()
    }

    /// From the route and the neighbour to the next hop. Whether it changed.
    fn settle(&mut self, target: IpAddr) -> bool {
        let Some(route) = self.routes.get(&target) else { return false };
        let through = route.as_ref().ok().map(|route| (route.interface, route.neighbour));
        let found = route.clone().and_then(|route| self.network.next_hop(&route));
        match found {
            Ok(hop) => {
                let had_trouble = self.trouble.remove(&target).is_some();
                self.through.extend(through.map(|through| (target, through)));
                self.hops.insert(target, hop) != Some(hop) || had_trouble
            }
            Err(why @ NoWay::Unresolved(..)) if self.hops.contains_key(&target) => {
                // Either the kernel has forgotten a neighbour that it saw no use of, or the route has another now, which is asked for until it
                // answers. The old way may serve as long.
                if self.through.get(&target) != through.as_ref() {
                    self.trouble.insert(target, why);
                }
                self.resolve(target);
                false
            }
            Err(why) => {
                let had_way = self.hops.remove(&target).is_some();
                self.trouble.insert(target, why.clone()) != Some(why) || had_way
            }
        }
    }

    fn resolve(&mut self, target: IpAddr) {
        let Some(Ok(route)) = self.routes.get(&target) else { return };
        let (interface, neighbour) = (route.interface, route.neighbour);
        if let Err(error) = self.kernel.resolve(interface, neighbour) {
            log::debug!("neighbour not asked for neighbour={neighbour} reason=\"{error}\"");
        }
    }

    /// The ways that are known.
    pub fn hops(&self) -> &BTreeMap<IpAddr, NextHop> {
        &self.hops
    }

    /// Why there is no way to an address.
    pub fn trouble(&self, target: IpAddr) -> Option<&NoWay> {
        self.trouble.get(&target)
    }

    /// Whether nothing is open: each way is known, or known not to be.
    pub fn is_settled(&self) -> bool {
        self.to_ask.is_empty() && !self.trouble.values().any(|why| matches!(why, NoWay::Unresolved(..)))
    }

    /// What the kernel has told.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Takes everything as it is now, for a look at interfaces that must not be stale. Whether a way changed: what is seen here is
    /// no news any more when it is told.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn look_again(&mut self) -> io::Result<bool> {
        self.network = self.kernel.network()?;
        let targets: Vec<IpAddr> = self.routes.keys().copied().collect();
        Ok(targets.into_iter().fold(false, |changed, target| self.settle(target) | changed))
    }
}
