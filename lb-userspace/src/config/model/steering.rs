//! VIPs and what guards them: `[[vip]]`, `[guard]` and the keys of `[kernel]` that belong to steering.
//!
//! Apart from the rest of the model because the master alone reads it: workers never hear of a VIP.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Switch;
use crate::config::defaults;

/// Everything that the XDP programs are configured by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steering {
    /// `[kernel] xdp`. Without VIPs nothing is loaded, whatever it says.
    pub xdp: Switch,
    /// `[kernel] xdp_mode`.
    pub xdp_mode: XdpMode,
    /// `[kernel] lookup_rows`: rows of each lookup table, a prime.
    pub lookup_rows: u32,
    /// `[kernel] flows`: flows that the direct-return modes remember.
    pub flows: u32,
    /// `[kernel] nat_flows`: flows that are translated at one time.
    pub nat_flows: u32,
    /// `[kernel] vips_outlive`: VIPs are answered on after `lbctl` was told to end.
    pub vips_outlive: bool,
    /// `[guard]`.
    pub guard: Guard,
    /// `[[vip]]`, in file order; at most [`lb_common::limits::VIPS_MAX`]. No two answer for the same packet, unless one of
    /// them is more specific.
    pub vips: Vec<Vip>,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            xdp: Switch::Auto,
            xdp_mode: XdpMode::Auto,
            lookup_rows: defaults::LOOKUP_ROWS,
            flows: defaults::FLOWS,
            nat_flows: defaults::NAT_FLOWS,
            vips_outlive: false,
            guard: Guard::default(),
            vips: Vec::new(),
        }
    }
}

/// `[kernel] xdp_mode`: where in the receive path packets are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver, and where it cannot, generic with a warning.
    #[default]
    Auto,
    /// In the driver; an error where it cannot.
    Native,
    /// After the kernel has made a socket buffer: works everywhere, slower.
    Generic,
}

/// `[guard]`: whose packets to VIPs are dropped. The longest prefix that holds the source decides; no network is in both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// `deny` and the networks of `deny_file`; sorted, each once.
    pub deny: Vec<IpNet>,
    /// `allow`; sorted, each once.
    pub allow: Vec<IpNet>,
}

impl Guard {
    /// Whether a source in neither list is denied: only `allow` is given.
    pub fn is_allow_only(&self) -> bool {
        self.deny.is_empty() && !self.allow.is_empty()
    }
}

/// `[[vip]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vip {
    /// `name`, unique; by default the address as [`VipAddress`] shows it, followed by `/udp` for UDP.
    pub name: String,
    /// `address`.
    pub address: VipAddress,
    /// `protocol` with what only it has.
    pub protocol: VipProtocol,
    /// `interface`: where its packets come in. Not checked for existence.
    pub interface: String,
    /// `upstream` and `forward`.
    pub forward: Forward,
    /// `persistence = "client"`: how long a client's address keeps its backend without a new flow.
    pub persistence: Option<Duration>,
    /// `new_flows`.
    pub new_flows: Option<FlowRate>,
}

impl Vip {
    /// The upstream, where one is named.
    pub fn upstream(&self) -> Option<&str> {
        match &self.forward {
            Forward::Local { upstream } => upstream.as_deref(),
            Forward::Remote { upstream, .. } => Some(upstream),
        }
    }

    /// Whether the kernel finds it by prefix and not by address and port: a network, a range of ports, or every port of
    /// an address that has a range among `vips`, which must be looked at first.
    pub fn needs_span<'a>(&self, mut vips: impl Iterator<Item = &'a Self>) -> bool {
        let ports = self.address.ports;
        let is_range_here = |other: &Self| {
            other.address.network == self.address.network
                && other.protocol.number() == self.protocol.number()
                && other.address.ports.is_range()
        };
        self.address.single().is_none() || ports.is_range() || ports.is_every() && vips.any(is_range_here)
    }
}

/// `address` of a VIP: addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VipAddress {
    /// A network without host bits, often of one address.
    pub network: IpNet,
    /// The ports.
    pub ports: PortRange,
}

impl VipAddress {
    /// The address, where it is one only.
    pub fn single(&self) -> Option<IpAddr> {
        (self.network.prefix_len() == self.network.max_prefix_len()).then(|| self.network.addr())
    }
}

impl fmt::Display for VipAddress {
    /// As in the file: `203.0.113.10:443`, `[2001:db8::/64]:8000-8999`, `203.0.113.10`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.single() {
            Some(address) => address.to_string(),
            None => self.network.to_string(),
        };
        match self.network {
            IpNet::V4(_) => f.write_str(&host)?,
            IpNet::V6(_) => write!(f, "[{host}]")?,
        }
        if self.ports.is_every() { Ok(()) } else { write!(f, ":{}", self.ports) }
    }
}

/// Ports from the first to the last, both included. Port 0 is in [`PortRange::EVERY`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// What a VIP without a port answers for: every port that has no VIP of its own.
    pub const EVERY: Self = Self { first: 0, last: u16::MAX };

    /// From `first` to `last`; `None` where there is no port in it, or port 0.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last { None } else { Some(Self { first, last }) }
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The port, where it is one only.
    pub const fn single(self) -> Option<u16> {
        if self.first == self.last { Some(self.first) } else { None }
    }

    /// Whether it is [`PortRange::EVERY`].
    pub const fn is_every(self) -> bool {
        self.first == 0
    }

    /// Whether it is neither one port nor every port.
    pub const fn is_range(self) -> bool {
        !self.is_every() && self.first != self.last
    }

    /// How many ports there are in it.
    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    /// Whether a port is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether `port` is in it.
    pub const fn holds(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(port) => write!(f, "{port}"),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// `protocol` of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VipProtocol {
    /// `tcp`.
    Tcp {
        /// `syn_rate`: SYNs per second beyond which handshakes are done with cookies; only with NAT.
        syn_rate: Option<NonZeroU32>,
    },
    /// `udp`.
    Udp {
        /// `idle_timeout`: a flow without a packet for so long is forgotten.
        idle_timeout: Duration,
        /// `quic`: backends are chosen by connection id. Every backend of the upstream then has a server id of this length.
        quic: Option<Quic>,
    },
}

impl VipProtocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
        }
    }

    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Udp { .. } => "udp",
        }
    }
}

/// `quic`: how backends encode their id in connection ids (draft-ietf-quic-load-balancers, plaintext).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quic {
    /// `server_id_bytes`, 1–8.
    pub server_id_bytes: u8,
    /// `configuration`: the three config rotation bits, 0–6.
    pub configuration: u8,
}

/// `new_flows`: how many flows one source (IPv4 address, IPv6 /64) may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRate {
    /// `per_source`: per second.
    pub per_source: NonZeroU32,
    /// `burst`: at once; at least 1.
    pub burst: NonZeroU32,
}

/// Where the packets of a VIP go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forward {
    /// Up the stack of this host, where a listener or a program answers: `forward = "local"`, or backends that are local.
    Local {
        /// `upstream`, where one is named.
        upstream: Option<String>,
    },
    /// To the backends of an upstream, none of which is run by us or has a unix socket.
    Remote {
        /// `upstream`: the name of an existing upstream.
        upstream: String,
        /// `forward`. VIPs of one upstream agree in it.
        mode: Mode,
    },
}

/// `forward` to other machines, with what only that mode has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// `nat`: addresses and ports are translated, and back. Backends are of the VIP's family.
    ///
    /// A VIP of one port goes to the backend's port, one of several ports keeps the packet's.
    Nat(NatSource),
    /// `l2dsr`: only link-layer addresses change. Backends are of the VIP's family and on a network of ours.
    L2Dsr,
    /// `ipip`.
    IpIp(TunnelSource),
    /// `gue`.
    Gue {
        /// `tunnel_source`.
        source: TunnelSource,
        /// `tunnel_port`: the UDP port of the backend that takes it.
        port: u16,
    },
}

impl Mode {
    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        self.kind().name()
    }

    /// The mode as the kernel knows it.
    pub const fn kind(self) -> lb_common::vip::Forward {
        use lb_common::vip::Forward;
        match self {
            Self::Nat(_) => Forward::Nat,
            Self::L2Dsr => Forward::L2Dsr,
            Self::IpIp(_) => Forward::IpIp,
            Self::Gue { .. } => Forward::Gue,
        }
    }

    /// Whether backends answer their clients directly.
    pub const fn is_direct(self) -> bool {
        !matches!(self, Self::Nat(_))
    }
}

/// `source` of NAT: whose address backends see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NatSource {
    /// Ours towards the backend, and a port of this range.
    Node {
        /// `ports`, from 1024 on.
        ports: PortRange,
    },
    /// The client's; the backend's way back must lead through us.
    Client,
}

/// `tunnel_source`: source address of outer headers. Of the family of every backend of the upstream; `None`: our address
/// towards the backend.
pub type TunnelSource = Option<IpAddr>;
