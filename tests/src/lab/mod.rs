//! A laboratory of network namespaces: a client, a balancer in the middle, backends behind it, and real packets between them.
//!
//! Two-armed: `client ── front [balancer] back ── switch ── backends`, without the switch where there is one backend only. One-armed: client,
//! balancer (`back` only) and backends all hang on the switch. IPv4 and IPv6 both. Everything is gone when [`Lab`] is
//! dropped, also when a test fails; what a killed test left is removed by the next one.

pub mod address;
pub mod client;
pub mod echo;
pub mod frame;
pub mod generator;
pub mod icmp;
pub mod namespace;
pub mod nft;
pub mod object;
pub mod pattern;
pub mod server;
pub mod steer;
mod wiring;

use namespace::Namespace;
use object::Object;
use server::Server;

/// How the balancer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    /// To the client and to the backends by the same interface.
    One,
    /// To each by an interface of its own.
    Two,
}

/// What a laboratory is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How the balancer is connected.
    pub arms: Arms,
    /// How many backends, each a namespace.
    pub backends: usize,
    /// The client's frames carry the VLAN tag of `lab_tag`.
    pub tagged: bool,
    /// What backends do with frames before their kernel sees them.
    pub card: Card,
}

/// A backend's network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    /// Takes packets out of tunnels.
    Decapsulates,
    /// Counts datagrams and drops them as XDP frames: the cheapest end for who redirects frames.
    SinksFrames,
    /// Counts datagrams and drops them as socket buffers: the cheapest end for who forwards those.
    SinksBuffers,
}

impl Plan {
    /// Two arms, without VLAN.
    pub fn two_armed(backends: usize) -> Self {
        Self { arms: Arms::Two, backends, tagged: false, card: Card::Decapsulates }
    }
}

/// Namespaces, wired and addressed.
pub struct Lab {
    /// How it is made.
    pub plan: Plan,
    /// Where clients live.
    pub client: Namespace,
    /// Where the balancer under test lives.
    pub balancer: Namespace,
    /// Where the backends live, in the order of their addresses.
    pub backends: Vec<Namespace>,
    /// The programs at the ends of the wires. Dropped before the namespaces.
    pub object: Object,
    switch: Option<Namespace>,
}

impl Lab {
    /// Builds it.
    ///
    /// # Errors
    /// Without root, `ip` or `ethtool`: `cargo xtask setup` installs them.
    pub fn new(plan: Plan) -> anyhow::Result<Self> {
        wiring::build(plan)
    }

    /// The balancer's interface towards the client.
    pub fn front(&self) -> &'static str {
        match self.plan.arms {
            Arms::One => self.back(),
            Arms::Two => wiring::FRONT,
        }
    }

    /// The balancer's interface towards the backends.
    pub fn back(&self) -> &'static str {
        wiring::BACK
    }

    /// Starts a server in each backend's namespace.
    ///
    /// # Errors
    /// When one cannot listen.
    pub fn serve(&self, ports: &[u16]) -> anyhow::Result<Vec<Server>> {
        let numbered = self.backends.iter().zip(0u32..);
        numbered.map(|(namespace, number)| Server::start(namespace, number, ports)).collect()
    }

    /// Puts the wire of a backend back in after `link set uplink down`, with the addresses and routes that went with the link.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn plug_in(&self, number: usize) -> anyhow::Result<()> {
        wiring::plug_in(&self.backends[number], number)
    }

    /// Gives the backends the VIPs, for the modes in which they answer for themselves. They keep silent about them on the link.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn give_vips_to_backends(&self) -> anyhow::Result<()> {
        for backend in &self.backends {
            backend.ip(&[
                format!("address add {}/32 dev lo", address::VIP_V4),
                format!("address add {}/128 dev lo nodad", address::VIP_V6),
            ])?;
        }
        Ok(())
    }
}
