//! What the control protocol says of steering: VIPs and their counts, where a flow goes and why, captured frames.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What the kernel steers, for `lbctl vip` and `/metrics`. Counts only grow while the maps live, restarts of the master included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VipReport {
    /// When the counts were read: nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// In the order of the configuration.
    pub vips: Vec<VipStatus>,
    /// The interfaces that VIPs are answered on.
    pub interfaces: Vec<SteeredInterface>,
    /// Packets dropped or answered by ourselves, over all VIPs; those never counted left out.
    pub reasons: Vec<ReasonCount>,
    /// How full the tables of flows are.
    pub tables: Vec<TableUse>,
}

impl VipReport {
    /// The VIP that is called so or has this address.
    pub fn find(&self, name: &str) -> Option<&VipStatus> {
        self.vips.iter().find(|vip| vip.is_called(name))
    }

    /// The part that `names` select; all of it for none.
    ///
    /// # Errors
    /// The first name that no VIP has.
    pub fn select(mut self, names: &[String]) -> Result<Self, String> {
        if let Some(unknown) = names.iter().find(|name| self.find(name).is_none()) {
            return Err(unknown.clone());
        }
        self.vips.retain(|vip| names.is_empty() || names.iter().any(|name| vip.is_called(name)));
        Ok(self)
    }
}

/// A VIP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VipStatus {
    /// As configured; its address where it has no name.
    pub name: String,
    /// Address or prefix with port or range of ports, as configured.
    pub address: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `nat`, `l2dsr`, `ipip`, `gue` or `local`.
    pub forward: String,
    /// Whether NAT keeps the client's address, so that the backends' way back must lead through us.
    #[serde(default)]
    pub keeps_client: bool,
    /// The UDP port that GUE packets are sent to.
    #[serde(default)]
    pub gue_port: Option<u16>,
    /// Where it is answered.
    pub interface: String,
    /// How packets reach the kernel program: `native`, `generic`, `local` (they go up the stack of this host), or `off`.
    pub mode: String,
    /// Its upstream.
    pub upstream: String,
    /// Rows of its lookup table; 0 without one.
    pub rows: u32,
    /// Changes of its lookup table.
    pub generation: u32,
    /// Packets forwarded to backends.
    pub packets: u64,
    /// Bytes of their IP packets as they came.
    pub bytes: u64,
    /// Flows that began.
    pub new_flows: u64,
    /// Flows that are known now, where they are counted: those that are translated, as of the last look through the table.
    pub flows: Option<u64>,
    /// Packets dropped, or answered by ourselves.
    pub dropped: u64,
    /// The backends of its upstream.
    pub backends: Vec<VipBackend>,
}

impl VipStatus {
    /// Whether it is meant by a name that an operator typed.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.address == name || format!("{}/{}", self.address, self.protocol) == name
    }
}

/// A backend as a VIP's lookup table has it. Its counts are those of all VIPs that share the backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VipBackend {
    /// Its row in the backend table.
    pub slot: u32,
    /// As in [`super::BackendStatus`].
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Traffic state by name.
    pub traffic_state: String,
    /// Share relative to the others.
    pub weight: u32,
    /// Rows of the lookup table that lead to it.
    pub rows: u32,
    /// Packets forwarded to it.
    pub packets: u64,
    /// Bytes of their IP packets as they came.
    pub bytes: u64,
    /// Flows that began on it.
    pub new_flows: u64,
    /// What keeps packets from reaching it: `no neighbour at 10.0.0.7`. Empty where nothing does.
    pub trouble: String,
}

/// An interface that carries our program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SteeredInterface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// `native` or `generic`.
    pub mode: String,
    /// Whether the program stays when the master dies: attached by a pinned link.
    pub outlives: bool,
    /// Its MTU.
    pub mtu: u32,
}

/// How often a reason was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// [`lb_common::verdict::Reason::name`].
    pub reason: String,
    /// Whether the packet was answered by ourselves rather than dropped.
    pub is_answer: bool,
    /// Packets.
    pub packets: u64,
}

/// How full a table is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUse {
    /// `nat`, `flows`, …
    pub name: String,
    /// Entries as of the last look through it; `None` for a table that nobody looks through: it forgets the least recently used.
    pub entries: Option<u64>,
    /// Room.
    pub entries_max: u64,
}

/// Transport protocol of a VIP or flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP, QUIC included.
    Udp,
}

impl Transport {
    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Where a flow goes, or would go if it began now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowReport {
    /// Who sends.
    pub client: SocketAddr,
    /// To whom.
    pub vip: SocketAddr,
    /// Over what.
    pub transport: Transport,
    /// The VIP that answers; `None` where no VIP has this address, port and protocol.
    pub vip_name: Option<String>,
    /// Its mode.
    pub forward: String,
    /// What the tables hold of it.
    pub found: FlowFound,
    /// Who gets its next packet; `None`: nobody.
    pub backend: Option<FlowBackend>,
    /// Why, in one sentence without a full stop.
    pub why: String,
}

/// What the tables hold of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FlowFound {
    /// An entry of `FLOWS`.
    Known {
        /// Since its last packet.
        idle_ms: u64,
        /// `closing`.
        flags: Vec<String>,
    },
    /// Entries of `NAT` or `NAT_HALF_OPEN`.
    Translated {
        /// Whom the backend sees as the client.
        source: SocketAddr,
        /// Where its packets are sent to.
        target: SocketAddr,
        /// Since its last packet, of either direction.
        idle_ms: u64,
        /// Whether the handshake is not finished.
        is_half_open: bool,
        /// `answered`, `client_finished`, `backend_finished`, `reset`, `cookie_opening`.
        flags: Vec<String>,
    },
    /// No entry: the lookup table decides.
    Row {
        /// The row that the hash leads to.
        row: u32,
        /// Rows of the table.
        rows: u32,
        /// The table's generation.
        generation: u32,
        /// Since this generation was swapped in.
        since_ms: u64,
        /// Whose the row is.
        now: Option<FlowBackend>,
        /// Whose it was one generation before.
        before: Option<FlowBackend>,
    },
    /// No VIP, or one whose packets go up the stack.
    Nothing,
}

/// A backend that a flow goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowBackend {
    /// Its row in the backend table.
    pub slot: u32,
    /// As in [`super::BackendStatus`].
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Traffic state by name.
    pub traffic_state: String,
}

/// A frame as it came in, and what was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedFrame {
    /// Nanoseconds since 1970.
    pub wall_ns: u64,
    /// Where it came in.
    pub interface: String,
    /// Bytes that the frame had.
    pub original_bytes: u32,
    /// Its first bytes, Ethernet header first, as it came in.
    #[serde(with = "hexadecimal")]
    pub bytes: Vec<u8>,
    /// `pass`, `drop`, `transmit` or `redirect`.
    pub verdict: String,
    /// [`lb_common::verdict::Reason::name`] of what was dropped or answered by ourselves.
    pub reason: Option<String>,
    /// Who gets it: name of the backend.
    pub backend: Option<String>,
}

/// Bytes as two digits each: a quarter of what JSON numbers take.
mod hexadecimal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        use std::fmt::Write;
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
        let bytes: Option<Vec<u8>> = text
            .as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(digit(high)? << 4 | digit(low)?),
                _ => None,
            })
            .collect();
        bytes.ok_or_else(|| D::Error::custom("not pairs of hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_travel_as_hexadecimal() {
        let frame = CapturedFrame { bytes: vec![0x00, 0x7f, 0xff], ..CapturedFrame::default() };
        let text = serde_json::to_string(&frame).unwrap();
        assert!(text.contains("\"007fff\""), "{text}");
        assert_eq!(serde_json::from_str::<CapturedFrame>(&text).unwrap(), frame);
        for bad in ["\"0\"", "\"0g\"", "\"é\""] {
            let text = text.replace("\"007fff\"", bad);
            assert!(serde_json::from_str::<CapturedFrame>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_vip_is_found_by_name_and_by_address() {
        let vip = VipStatus {
            name: "web".into(),
            address: "203.0.113.10:443".into(),
            protocol: "tcp".into(),
            ..VipStatus::default()
        };
        let report = VipReport { vips: vec![vip], ..VipReport::default() };
        assert!(report.find("web").is_some());
        assert!(report.find("203.0.113.10:443").is_some());
        assert!(report.find("203.0.113.10:443/tcp").is_some());
        assert!(report.find("203.0.113.10:443/udp").is_none());
        let select = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            report.clone().select(&names).map(|report| report.vips.len())
        };
        assert_eq!((select(&[]), select(&["web"])), (Ok(1), Ok(1)));
        assert_eq!(select(&["web", "nobody"]), Err("nobody".to_owned()));
    }
}
