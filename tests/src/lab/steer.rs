//! lbctl as the balancer of a laboratory: its configuration, and starting it inside.

use std::fmt::Write;

use super::Lab;
use super::address::{Family, VIP_PORT};
use crate::lb::{Lb, Setup};

/// Port of the backends in the modes that translate it.
pub const REMAPPED_PORT: u16 = 9_090;

/// How packets get to the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Both addresses translated.
    Nat,
    /// The client's address kept.
    NatClient,
    /// Only the link-layer header rewritten.
    #[value(name = "l2dsr")]
    L2Dsr,
    /// In IP.
    #[value(name = "ipip")]
    IpIp,
    /// In UDP.
    Gue,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Nat, Self::NatClient, Self::L2Dsr, Self::IpIp, Self::Gue];

    /// Whether answers come back through us.
    pub fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::NatClient)
    }

    /// Bytes of the outer headers that its packets get over a family.
    pub fn overhead(self, family: Family) -> u16 {
        let network = if family == Family::V4 { 20 } else { 40 };
        match self {
            Self::IpIp => network,
            Self::Gue => network + 8,
            Self::Nat | Self::NatClient | Self::L2Dsr => 0,
        }
    }

    /// The port that backends listen on.
    pub fn backend_port(self) -> u16 {
        if self.translates() { REMAPPED_PORT } else { VIP_PORT }
    }

    fn keys(self) -> &'static str {
        match self {
            Self::Nat => "forward = \"nat\"",
            Self::NatClient => "forward = \"nat\"\nsource = \"client\"",
            Self::L2Dsr => "forward = \"l2dsr\"",
            Self::IpIp => "forward = \"ipip\"",
            Self::Gue => "forward = \"gue\"",
        }
    }
}

/// The configuration of a steering lbctl, to be changed and written again.
#[derive(Clone, Debug)]
pub struct Steering {
    /// How packets get to the backends.
    pub mode: Mode,
    /// The backends by number, with weights.
    pub backends: Vec<(usize, u32)>,
    /// Further keys of `[kernel]`.
    pub kernel: String,
    /// Further keys of each VIP.
    pub vip: String,
    /// Further keys of those of TCP.
    pub tcp_vip: String,
    /// How backends are probed.
    pub probe: &'static str,
    /// Further tables.
    pub extra: String,
}

/// Notices within half a second that a backend is gone.
const QUICK_PROBE: &str =
    "{ tcp = true, every = \"100ms\", timeout = \"200ms\", down_after = 2, up_after = 1 }";

impl Steering {
    /// To every backend of the laboratory, with equal weights.
    pub fn new(lab: &Lab, mode: Mode) -> Self {
        Self {
            mode,
            backends: (0..lab.backends.len()).map(|number| (number, 1)).collect(),
            kernel: String::new(),
            vip: String::new(),
            tcp_vip: String::new(),
            probe: QUICK_PROBE,
            extra: String::new(),
        }
    }

    /// As a file: a VIP for each family and protocol, an upstream for each family.
    pub fn text(&self, lab: &Lab) -> String {
        let mut text = format!("[metrics]\nbind = \"\"\n[kernel]\nxdp = \"on\"\n{}\n", self.kernel);
        for family in Family::BOTH {
            let upstream = upstream(family);
            for protocol in ["tcp", "udp"] {
                let _ = write!(
                    text,
                    "[[vip]]\nname = \"{upstream}-{protocol}\"\naddress = \"{}\"\nprotocol = \"{protocol}\"\ninterface = \"{}\"\n\
                     upstream = \"{upstream}\"\n{}\n{}\n{}\n",
                    std::net::SocketAddr::from((family.vip(), VIP_PORT)),
                    lab.front(),
                    self.mode.keys(),
                    self.vip,
                    if protocol == "tcp" { &self.tcp_vip } else { "" },
                );
            }
            let backends = self.backends.iter().map(|(number, weight)| {
                format!("{{ address = \"{}\", weight = {weight} }}", self.address(family, *number))
            });
            let _ = write!(
                text,
                "[upstream.{upstream}]\nbackends = [{}]\ndrain_timeout = \"120s\"\nprobe = {}\n",
                backends.collect::<Vec<_>>().join(", "),
                self.probe,
            );
        }
        text + &self.extra
    }

    /// A backend's address as the configuration has it.
    pub fn address(&self, family: Family, number: usize) -> String {
        std::net::SocketAddr::from((family.backend(number), self.mode.backend_port())).to_string()
    }

    /// Its name for `lbctl drain`.
    pub fn name(&self, family: Family, number: usize) -> String {
        format!("{}/{}", upstream(family), self.address(family, number))
    }

    /// Starts lbctl inside the balancer's namespace, and waits until all backends are IN.
    ///
    /// # Panics
    /// When they are not in time.
    pub fn start(&self, lab: &Lab) -> Lb {
        Setup::default().inside(&lab.balancer.path()).start(&self.text(lab))
    }
}

/// The name of the upstream of a family.
pub fn upstream(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}
