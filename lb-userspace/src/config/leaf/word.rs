//! Values that are one of a few words, with those that are documented but not implemented yet.

use serde::Serialize;

use crate::config::model::steering::XdpMode;
use crate::config::model::{AutoRestart, Balance, DependencyCondition, Switch};
use crate::config::reading::choice;

/// A `[kernel]` switch for what is not built in yet: it may be left to itself or be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum OffSwitch {
    /// `auto` or `off`: there is nothing to turn on.
    Off,
}

/// `protocol` of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
}

/// `protocol` of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipProtocol {
    /// `tcp`.
    Tcp,
    /// `udp`.
    Udp,
}

/// `forward` of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// `nat`.
    Nat,
    /// `l2dsr`.
    L2Dsr,
    /// `ipip`.
    IpIp,
    /// `gue`.
    Gue,
    /// `local`.
    Local,
}

/// `source` of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatSource {
    /// `node`.
    Node,
    /// `client`.
    Client,
}

/// `persistence` of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// `none`.
    None,
    /// `client`.
    Client,
}

/// The right-hand side of a `depends_on` entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DependencyWord {
    /// For a program.
    Condition(DependencyCondition),
    /// For `tcp:host:port`.
    Reachable,
}

choice! { Switch, "a switch" { "auto" => Self::Auto, "on" => Self::On, "off" => Self::Off } }

choice! {
    OffSwitch, "a switch" { "auto" => Self::Off, "off" => Self::Off }
    later { "on": "write \"auto\" or \"off\": it is off in both cases" }
}

choice! {
    XdpMode, "a mode" { "auto" => Self::Auto, "native" => Self::Native, "generic" => Self::Generic }
}

choice! { VipProtocol, "a protocol" { "tcp" => Self::Tcp, "udp" => Self::Udp } }

choice! {
    Forward, "a way to forward" {
        "nat" => Self::Nat,
        "l2dsr" => Self::L2Dsr,
        "ipip" => Self::IpIp,
        "gue" => Self::Gue,
        "local" => Self::Local,
    }
}

choice! { NatSource, "a source" { "node" => Self::Node, "client" => Self::Client } }

choice! { Persistence, "a persistence" { "none" => Self::None, "client" => Self::Client } }

choice! {
    Protocol, "a protocol" { "http" => Self::Http }
    later {
        "tcp": "listeners speak \"http\"; WebSockets and other upgrades pass through it",
        "udp": "listeners speak \"http\"; leave UDP to the program itself meanwhile",
    }
}

choice! {
    Balance, "a balancing policy" {
        "round_robin" => Self::RoundRobin,
        "least_connections" => Self::LeastConnections,
        "ip_hash" => Self::IpHash,
    }
    later {
        "maglev": "use \"ip_hash\" meanwhile: a client keeps its backend while the set stays",
        "two_choices": "use \"least_connections\" meanwhile",
        "peak_ewma": "use \"least_connections\" meanwhile",
    }
}

choice! {
    AutoRestart, "a restart policy" {
        "always" => Self::Always,
        "on-failure" => Self::OnFailure,
        "never" => Self::Never,
    }
}

choice! {
    DependencyWord, "a condition" {
        "started" => Self::Condition(DependencyCondition::Started),
        "healthy" => Self::Condition(DependencyCondition::Healthy),
        "completed" => Self::Condition(DependencyCondition::Completed),
        "reachable" => Self::Reachable,
    }
}
