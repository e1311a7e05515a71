//! Traffic made from a seed: a node with VIPs of every mode, clients with flows in all their phases, backends that answer, and
//! frames that nobody should send.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;
use lb_common::backend::TrafficState;
use lb_common::flow::QuicServerKey;
use lb_common::host::{Body, FRAME_BYTES_MAX, HopKind, Packet, World, address_bytes, internet_sum};
use lb_common::vip::{Forward, Guard, Settings, VipRow};

/// Interface of the far arm of a two-armed set-up; what goes there is redirected.
const FAR_INTERFACE: u32 = 7;
/// Shortest frame that a test run takes.
const FRAME_BYTES_MIN: usize = 14;
/// The sequence number that every segment of [`Packet::tcp`] has.
const FIRST_OF_BACKENDS: u32 = 0x0102_0304;
/// Flows that go on at one time.
const CONVERSATIONS_MAX: usize = 48;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What happens next on the node.
#[derive(Clone, Debug)]
pub enum Step {
    /// A frame comes.
    Frame(Vec<u8>),
    /// A backend changes its state.
    State(u32, TrafficState),
    /// A lookup table has other backends from now on.
    Generation(u32, Vec<u32>),
}

/// The generator.
pub struct Traffic {
    random: Rng,
    world: World,
    vips: Vec<Vip>,
    /// Slots of each lookup table.
    tables: Vec<Vec<u32>>,
    conversations: Vec<Conversation>,
    /// Ends of frames that went to a backend, as it saw them: source, target, protocol.
    translated: Vec<(SocketAddr, SocketAddr, u8)>,
    /// Handshakes that the node's answer has left to the client to finish: client, VIP, and the answer's numbers.
    offered: Vec<(SocketAddr, SocketAddr, [u32; 2])>,
    /// Frames that follow one another.
    pending: VecDeque<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
struct Vip {
    address: SocketAddr,
    protocol: u8,
    is_quic: bool,
}

/// A flow of a client.
#[derive(Clone, Copy, Debug)]
struct Conversation {
    client: SocketAddr,
    vip: Vip,
    /// Packets sent so far.
    sent: u32,
    is_closing: bool,
}

impl Traffic {
    /// A node and its traffic; equal seeds make equal traffic as long as [`Self::saw`] is told the same.
    pub fn new(seed: u64) -> Self {
        let mut traffic = Self {
            random: Rng::with_seed(seed),
            world: World::default(),
            vips: vec![],
            tables: vec![],
            conversations: vec![],
            translated: vec![],
            offered: vec![],
            pending: VecDeque::new(),
        };
        traffic.make_world();
        traffic
    }

    /// The node before anything happens.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// What happens next.
    pub fn step(&mut self) -> Step {
        match self.random.u32(0..1000) {
            0..4 => self.state_change(),
            4..6 => self.new_generation(),
            _ => Step::Frame(self.frame()),
        }
    }

    /// A frame left the node like this: those to backends will be answered, and handshakes be finished.
    pub fn saw(&mut self, frame: &[u8]) {
        let Some(ends) = ends(frame) else { return };
        if let Some(numbers) = offer(frame)
            && self.offered.len() < CONVERSATIONS_MAX
        {
            self.offered.push((ends.1, ends.0, numbers));
        }
        let is_backend = self.world.hops.iter().any(|hop| hop.address == address_bytes(ends.1.ip()));
        if is_backend {
            if self.translated.len() == CONVERSATIONS_MAX {
                let index = self.random.usize(..CONVERSATIONS_MAX);
                self.translated.swap_remove(index);
            }
            self.translated.push(ends);
        }
    }

    fn make_world(&mut self) {
        self.world.settings.seed = self.random.u32(..);
        self.world.settings.straddle_ms = if self.random.bool() { 60_000 } else { 0 };
        for is_ipv4 in [true, false] {
            self.make_vips(is_ipv4);
        }
        self.make_guard();
        for row in &mut self.world.vip_rows {
            if self.random.u32(..5) == 0 {
                row.flags |= VipRow::AFFINITY;
                row.affinity_ms = 600_000;
            }
            if row.forward == Forward::Nat as u8 && self.random.u32(..3) == 0 {
                row.flags |= VipRow::KEEP_CLIENT;
            }
            if self.random.u32(..3) == 0 {
                row.syn_rate = self.random.u32(1..3);
            }
            if self.random.u32(..8) == 0 {
                (row.source_rate, row.source_burst) = (1, self.random.u32(1..6));
            }
        }
    }

    fn make_vips(&mut self, is_ipv4: bool) {
        let modes = [Forward::Nat, Forward::L2Dsr, Forward::IpIp, Forward::Gue, Forward::Local];
        for (number, forward) in modes.into_iter().enumerate() {
            let table = self.make_table(is_ipv4, forward);
            let address = vip_address(is_ipv4, number as u8 + 1);
            let port = [443, 80, 0][self.random.usize(..3)];
            self.world.add_vip(SocketAddr::new(address, 443), TCP, forward, table);
            self.world.add_vip(SocketAddr::new(address, port), UDP, forward, table);
            let is_quic = self.random.u32(..3) == 0;
            if let Some(row) = self.world.vip_rows.last_mut().filter(|_| is_quic) {
                (row.quic_id_bytes, row.quic_configuration) = (4, 1);
                for slot in &self.tables[table as usize] {
                    let key = QuicServerKey { id: server_id(*slot), table, zero: 0 };
                    self.world.quic_servers.push((key, *slot));
                }
            }
            let port = if port == 0 { 5353 } else { port };
            for (port, protocol) in [(443, TCP), (port, UDP)] {
                let address = SocketAddr::new(address, port);
                self.vips.push(Vip { address, protocol, is_quic: is_quic && protocol == UDP });
            }
        }
        self.make_prefix_vip(is_ipv4);
    }

    fn make_prefix_vip(&mut self, is_ipv4: bool) {
        let forward = [Forward::Nat, Forward::L2Dsr, Forward::IpIp, Forward::Gue][self.random.usize(..4)];
        let table = self.make_table(is_ipv4, forward);
        let (network, bits) = (vip_address(is_ipv4, 64), if is_ipv4 { 28 } else { 124 });
        self.world.add_prefix_vip((network, bits), (8000, 8999), TCP, forward, table);
        for last in [64, 70] {
            let address = SocketAddr::new(vip_address(is_ipv4, last), 8000 + u16::from(last));
            self.vips.push(Vip { address, protocol: TCP, is_quic: false });
        }
    }

    /// A lookup table with backends of its own; one of them is sometimes missing a next hop.
    fn make_table(&mut self, is_ipv4: bool, forward: Forward) -> u32 {
        let count = self.random.u32(1..6);
        let slots: Vec<u32> = (0..count).map(|_| self.make_backend(is_ipv4, forward)).collect();
        let rows = [7, 31, 251][self.random.usize(..3)];
        self.tables.push(slots.clone());
        let table = self.world.add_table(rows, &slots);
        // Marks of another node's flows are in the kernel's table still; they name generations that are not this one's.
        self.world.tables[table as usize].0.generation = self.random.u32(..);
        table
    }

    fn make_backend(&mut self, is_ipv4: bool, forward: Forward) -> u32 {
        let number = self.world.backends.len() as u8 + 10;
        let address = backend_address(is_ipv4, number);
        let port = if self.random.bool() { 8443 } else { 0 };
        let is_outer_ipv4 = self.random.bool();
        let outer = (backend_address(is_outer_ipv4, 1), backend_address(is_outer_ipv4, number));
        let kind = match forward {
            Forward::IpIp => HopKind::IpIp(outer.0, outer.1),
            Forward::Gue => HopKind::Gue(outer.0, outer.1, 6080),
            _ => HopKind::Plain,
        };
        let interface = [super::kernel::INGRESS, FAR_INTERFACE][self.random.usize(..2)];
        let interface = if self.random.u32(..20) == 0 { 0 } else { interface };
        let mut hop = kind.hop(interface, SocketAddr::new(address, port));
        hop.mtu = [1500, 1280, 1280, 3000][self.random.usize(..4)];
        hop.nat_source = address_bytes(backend_address(is_ipv4, 1));
        hop.nat_port_first = 20_000;
        hop.nat_ports = [1, 200, 40_000][self.random.usize(..3)];
        if self.random.u32(..4) == 0 {
            let kind = [hop.link[12], hop.link[13]];
            hop.link[12..18].copy_from_slice(&[0x81, 0, 0, 9, kind[0], kind[1]]);
            hop.link_bytes = 18;
        }
        self.world.add_backend(hop)
    }

    fn make_guard(&mut self) {
        if self.random.bool() {
            return;
        }
        let (v4, v6) = (client_address(true, 0), client_address(false, 0));
        if self.random.u32(..4) == 0 {
            self.world.settings.flags |= Settings::ALLOW_ONLY;
            self.world.add_network(v4, 26, Guard::Allow);
            self.world.add_network(v6, 122, Guard::Allow);
        }
        self.world.add_network(v4, 30, Guard::Deny);
        self.world.add_network(client_address(true, 2), 32, Guard::Allow);
        self.world.add_network(v6, 127, Guard::Deny);
    }

    fn state_change(&mut self) -> Step {
        let states = [TrafficState::Out, TrafficState::Draining, TrafficState::In, TrafficState::In];
        let slot = self.random.u32(..self.world.backends.len() as u32);
        Step::State(slot, states[self.random.usize(..4)])
    }

    fn new_generation(&mut self) -> Step {
        let table = self.random.usize(..self.tables.len());
        let mut slots = self.tables[table].clone();
        self.random.shuffle(&mut slots);
        slots.truncate(self.random.usize(..=slots.len()));
        Step::Generation(table as u32, slots)
    }

    fn frame(&mut self) -> Vec<u8> {
        if let Some(frame) = self.pending.pop_front() {
            return frame;
        }
        let mut frame = match self.random.u32(..100) {
            0..38 => self.client_packet().frame(),
            38..44 => self.flood().frame(),
            44..50 => self.acknowledgement().frame(),
            50..66 => self.answer().frame(),
            66..72 => self.echo_or_error().frame(),
            72..78 => self.fragments(),
            78..82 => self.strange().frame(),
            82..96 => self.mutated(),
            _ => self.noise(),
        };
        if frame.len() < 60 && self.random.u32(..4) == 0 {
            frame.resize(60, 0);
        }
        frame.truncate(FRAME_BYTES_MAX);
        frame.resize(frame.len().max(FRAME_BYTES_MIN), 0);
        frame
    }

    /// The next packet of a client's flow, or the first of a new one.
    fn client_packet(&mut self) -> Packet {
        if self.conversations.len() < CONVERSATIONS_MAX && self.random.u32(..4) == 0
            || self.conversations.is_empty()
        {
            let conversation = self.new_conversation();
            self.conversations.push(conversation);
        }
        let index = self.random.usize(..self.conversations.len());
        let conversation = &mut self.conversations[index];
        let Conversation { client, vip, sent, .. } = *conversation;
        conversation.sent += 1;
        let mut packet = if vip.protocol == TCP {
            let flags = match sent {
                0 => Packet::SYN,
                1 => Packet::ACK,
                _ if conversation.is_closing => [Packet::ACK, Packet::RST][self.random.usize(..2)],
                _ => match self.random.u32(..20) {
                    0 => Packet::FIN | Packet::ACK,
                    1 => Packet::RST,
                    2 => Packet::SYN,
                    _ => Packet::PSH | Packet::ACK,
                },
            };
            let payload = if flags & Packet::PSH == 0 { vec![] } else { self.payload() };
            Packet::tcp(client, vip.address, flags, &payload)
        } else {
            let payload = if vip.is_quic { self.quic_payload() } else { self.payload() };
            Packet::udp(client, vip.address, &payload)
        };
        if let Body::Tcp { flags, numbers, options, .. } = &mut packet.body {
            self.conversations[index].is_closing |= *flags & (Packet::FIN | Packet::RST) != 0;
            if *flags == Packet::SYN {
                *options = vec![2, 4, 5, 0xb4, 1, 3, 3, 7];
            }
            // Of what a backend begins with, mostly; some of it is too far on.
            let acknowledged = FIRST_OF_BACKENDS.wrapping_add(self.random.u32(1..70_000));
            *numbers = [
                self.random.u32(..),
                if self.random.u32(..8) == 0 { self.random.u32(..) } else { acknowledged },
            ];
        }
        if sent > 12 {
            self.conversations.swap_remove(index);
        }
        self.adorn(packet)
    }

    /// The client's last packet of a handshake; now and then of another.
    fn acknowledgement(&mut self) -> Packet {
        let Some((client, vip, [sequence, acknowledged])) = self.offered.pop() else {
            return self.client_packet();
        };
        let mut packet = Packet::tcp(client, vip, Packet::ACK, b"");
        if let Body::Tcp { numbers, .. } = &mut packet.body {
            let wrong = [0, 0, 0, 0, 0, 1, 4, 1000][self.random.usize(..8)];
            // A probe of the window, where the acknowledgement itself was lost.
            let is_probe = u32::from(self.random.u32(..8) == 0);
            *numbers = [acknowledged.wrapping_sub(is_probe), sequence.wrapping_add(1 + wrong)];
        }
        self.adorn(packet)
    }

    fn new_conversation(&mut self) -> Conversation {
        let vip = self.vips[self.random.usize(..self.vips.len())];
        let address = client_address(vip.address.is_ipv4(), self.random.u8(..8));
        // Few ports: some flows come again.
        let client = SocketAddr::new(address, 40_000 + self.random.u16(..40));
        // Some are heard of in the middle.
        let sent = if self.random.u32(..6) == 0 { 2 } else { 0 };
        Conversation { client, vip, sent, is_closing: false }
    }

    /// A backend answers what it got.
    fn answer(&mut self) -> Packet {
        if self.translated.is_empty() {
            return self.client_packet();
        }
        let (client, backend, protocol) = self.translated[self.random.usize(..self.translated.len())];
        let payload = self.payload();
        let packet = if protocol == TCP {
            let both = Packet::SYN | Packet::ACK;
            let choice = [
                both,
                Packet::ACK,
                Packet::ACK,
                Packet::PSH | Packet::ACK,
                Packet::FIN | Packet::ACK,
                Packet::RST,
            ];
            let flags = choice[self.random.usize(..choice.len())];
            let payload = if flags & Packet::PSH == 0 { &[][..] } else { &payload };
            Packet::tcp(backend, client, flags, payload)
        } else {
            Packet::udp(backend, client, &payload)
        };
        self.adorn(packet)
    }

    /// An echo request to a VIP, or an ICMP error about a flow from either side.
    fn echo_or_error(&mut self) -> Packet {
        let quoted = if self.random.bool() { self.client_packet() } else { self.answer() };
        let (source, target) = (quoted.source, quoted.target);
        let is_ipv4 = source.is_ipv4();
        let router = client_address(is_ipv4, 99);
        let packet = match self.random.u32(..4) {
            0 => {
                let vip = self.vips[self.random.usize(..self.vips.len())].address.ip();
                let payload = self.payload();
                Packet::echo(client_address(vip.is_ipv4(), self.random.u8(..8)), vip, &payload)
            }
            // About what the other side sent, as its packet went on its way.
            1..3 => {
                let mut about = quoted;
                (about.source, about.target) = (target, source);
                match &mut about.body {
                    Body::Tcp { ports, .. } | Body::Udp { ports, .. } => ports.reverse(),
                    _ => {}
                }
                let kinds: &[[u8; 2]] = if is_ipv4 {
                    &[[3, 4], [3, 1], [3, 3], [11, 0]]
                } else {
                    &[[2, 0], [1, 0], [1, 4], [3, 0]]
                };
                let kind = kinds[self.random.usize(..kinds.len())];
                let mut error = Packet::icmp_error(router, target, kind, 1400, &about);
                if let Body::Icmp { payload, .. } = &mut error.body {
                    let bytes = if self.random.bool() { 28 } else { 548 };
                    let kept = self.random.usize(20..=bytes).min(payload.len());
                    payload.truncate(if self.random.u32(..4) == 0 { kept } else { bytes });
                }
                error
            }
            _ => {
                let kind = [self.random.u8(..20), self.random.u8(..4)];
                Packet::icmp_error(router, target, kind, self.random.u32(..), &quoted)
            }
        };
        self.adorn(packet)
    }

    /// The fragments of a datagram, now and then out of order or with a hole.
    fn fragments(&mut self) -> Vec<u8> {
        let mut packet = self.client_packet();
        if let Body::Udp { payload, .. } | Body::Tcp { payload, .. } = &mut packet.body {
            payload.resize(self.random.usize(100..2500), 7);
        }
        packet.identification = self.random.u16(..50);
        packet.extensions.clear();
        let bytes = [64, 512, 1280][self.random.usize(..3)];
        let mut fragments = packet.fragments(bytes);
        match self.random.u32(..6) {
            0 => self.random.shuffle(&mut fragments),
            1 => drop(fragments.remove(0)),
            _ => {}
        }
        self.pending.extend(fragments);
        self.pending.pop_front().unwrap_or_else(|| packet.frame())
    }

    /// Well formed, and not for a VIP, or not by a protocol of one.
    fn strange(&mut self) -> Packet {
        let mut packet = self.client_packet();
        match self.random.u32(..6) {
            0 => packet.target = vip_address(packet.target.is_ipv4(), 200),
            1 => packet.source = packet.target,
            2 => packet.body = Body::Other(self.random.u8(..), self.payload()),
            3 => std::mem::swap(&mut packet.source, &mut packet.target),
            4 => {
                if let Body::Tcp { flags, .. } = &mut packet.body {
                    *flags = self.random.u8(..);
                }
            }
            _ => {
                if let Body::Tcp { ports, .. } | Body::Udp { ports, .. } = &mut packet.body {
                    ports[self.random.usize(..2)] = self.random.u16(..3);
                }
            }
        }
        packet
    }

    /// A frame with wrong bytes, too short, too long, or with a header cut out of it.
    fn mutated(&mut self) -> Vec<u8> {
        let packet = match self.random.u32(..4) {
            0 => self.answer(),
            1 => self.echo_or_error(),
            _ => self.client_packet(),
        };
        let mut frame =
            if self.random.u32(..6) == 0 { packet.fragments(64).swap_remove(0) } else { packet.frame() };
        mutate(&mut frame, &mut self.random);
        frame
    }

    fn noise(&mut self) -> Vec<u8> {
        let mut frame = vec![0; self.random.usize(FRAME_BYTES_MIN..200)];
        self.random.fill(&mut frame);
        let kind: [u8; 2] = [[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]][self.random.usize(..4)];
        frame[12..14].copy_from_slice(&kind);
        if frame.len() > 14 {
            frame[14] = [0x45, 0x46, 0x60, frame[14]][self.random.usize(..4)];
        }
        frame
    }

    /// A SYN of a flow that nobody will go on with, unless it is answered.
    fn flood(&mut self) -> Packet {
        let conversation = self.new_conversation();
        let mut packet = Packet::tcp(conversation.client, conversation.vip.address, Packet::SYN, b"");
        if let Body::Tcp { options, numbers, .. } = &mut packet.body {
            *options = vec![2, 4, self.random.u8(..8), self.random.u8(..)];
            *numbers = [self.random.u32(..), 0];
        }
        packet
    }

    /// What an ordinary packet may have besides: tags, options, extension headers, little time to live.
    fn adorn(&mut self, mut packet: Packet) -> Packet {
        if self.random.u32(..12) == 0 {
            packet.vlans = (0..self.random.usize(1..4)).map(|_| self.random.u16(..4096)).collect();
        }
        if self.random.u32(..15) == 0 {
            packet.options = vec![1; self.random.usize(1..=40)];
        }
        if self.random.u32(..10) == 0 {
            let numbers = [0, 60, 43, 51, 135];
            let extension =
                |random: &mut Rng| (numbers[random.usize(..numbers.len())], vec![1; random.usize(6..40)]);
            packet.extensions = (0..self.random.usize(1..6)).map(|_| extension(&mut self.random)).collect();
        }
        if self.random.u32(..25) == 0 {
            packet.ttl = self.random.u8(..3);
        }
        packet.dont_fragment = self.random.bool();
        packet.service = self.random.u8(..);
        packet.identification = self.random.u16(..);
        if let Body::Udp { has_checksum, .. } = &mut packet.body {
            *has_checksum = packet.source.is_ipv6() || self.random.u32(..8) != 0;
        }
        packet
    }

    /// Mostly small, some around the MTU, some far above it.
    fn payload(&mut self) -> Vec<u8> {
        let bytes = match self.random.u32(..20) {
            0 => self.random.usize(1380..1480),
            1 => self.random.usize(1200..1260),
            2 => self.random.usize(2900..3300),
            3..10 => 0,
            _ => self.random.usize(..200),
        };
        let mut payload = vec![0; bytes];
        self.random.fill(&mut payload);
        payload
    }

    /// A short-header packet with a connection id that names a backend, or a long header, or neither.
    fn quic_payload(&mut self) -> Vec<u8> {
        let slot = self.random.u32(..self.world.backends.len() as u32 + 4);
        let mut id = vec![1 << 5 | 7];
        id.extend(&server_id(slot)[..4]);
        id.extend([9, 9, 9]);
        let mut payload = match self.random.u32(..4) {
            0 => vec![0xc0, 0, 0, 0, 1, id.len() as u8],
            _ => vec![0x40],
        };
        payload.extend(id);
        payload.extend(self.payload());
        let kept = self.random.usize(..payload.len());
        if self.random.u32(..10) == 0 {
            payload.truncate(kept);
        }
        payload
    }
}

/// Spoils a frame: mostly in its headers, now and then with a right IPv4 checksum so that more of it is read.
pub fn mutate(frame: &mut Vec<u8>, random: &mut Rng) {
    for _ in 0..random.usize(1..4) {
        let limit = frame.len().min(if random.u32(..4) == 0 { usize::MAX } else { 90 });
        let at = random.usize(..limit.max(1));
        match random.u32(..9) {
            0..5 => frame[at] ^= 1 << random.u32(..8),
            5 => frame[at] = random.u8(..),
            6 => frame.truncate(at.max(FRAME_BYTES_MIN)),
            7 => frame.extend((0..random.usize(..64)).map(|_| 0x5a)),
            _ => drop(frame.splice(at.max(FRAME_BYTES_MIN).min(frame.len()).., [0xff; 40])),
        }
    }
    if random.bool() && frame.len() >= 34 && frame[12..14] == [8, 0] {
        let end = 14 + usize::from(frame[14] & 15) * 4;
        if end >= 34 && end <= frame.len() {
            frame[24..26].fill(0);
            let sum = !internet_sum(&frame[14..end], 0);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// Source, target and protocol of a TCP or UDP frame.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, u8)> {
    let (source, target, protocol, segment) = opened(frame)?;
    let port = |at: usize| Some(u16::from_be_bytes(segment.get(at..at + 2)?.try_into().ok()?));
    let is_known = matches!(protocol, TCP | UDP);
    is_known.then_some((SocketAddr::new(source, port(0)?), SocketAddr::new(target, port(2)?), protocol))
}

/// Addresses and protocol of a frame, and what follows tags, options and extension headers.
fn opened(frame: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let mut at = 14;
    while matches!(frame.get(at - 2..at)?, [0x81, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    let packet = frame.get(at..)?;
    if packet.first()? >> 4 == 4 {
        let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        let header_bytes = usize::from(packet[0] & 15) * 4;
        return Some((address(12)?, address(16)?, *packet.get(9)?, packet.get(header_bytes..)?));
    }
    let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    let (mut next, mut at) = (*packet.get(6)?, 40);
    while matches!(next, 0 | 43 | 44 | 51 | 60 | 135) {
        let length = usize::from(*packet.get(at + 1)?);
        let bytes = match next {
            44 => 8,
            51 => 4 * (length + 2),
            _ => 8 * (length + 1),
        };
        next = *packet.get(at)?;
        at += bytes;
    }
    Some((address(8)?, address(24)?, next, packet.get(at..)?))
}

/// Sequence number and acknowledgement of a frame that answers a SYN.
fn offer(frame: &[u8]) -> Option<[u32; 2]> {
    let segment = opened(frame).filter(|(_, _, protocol, _)| *protocol == TCP)?.3;
    let number = |at: usize| Some(u32::from_be_bytes(segment.get(at..at + 4)?.try_into().ok()?));
    let is_offer = *segment.get(13)? == Packet::SYN | Packet::ACK;
    if is_offer { Some([number(4)?, number(8)?]) } else { None }
}

/// The cookie in what a SYN became, if it was answered with one.
pub fn cookie(syn: &[u8], answer: &[u8]) -> Option<u32> {
    let (asked, answered) = (ends(syn)?, ends(answer)?);
    let is_answer = asked.2 == TCP && (asked.0, asked.1) == (answered.1, answered.0);
    is_answer.then(|| offer(answer))?.map(|[sequence, _]| sequence)
}

fn client_address(is_ipv4: bool, last: u8) -> IpAddr {
    address(is_ipv4, 1, last)
}

fn vip_address(is_ipv4: bool, last: u8) -> IpAddr {
    address(is_ipv4, 2, last)
}

fn backend_address(is_ipv4: bool, last: u8) -> IpAddr {
    address(is_ipv4, 3, last)
}

fn address(is_ipv4: bool, network: u8, last: u8) -> IpAddr {
    if is_ipv4 {
        Ipv4Addr::new(10, 0, network, last).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, network.into(), 0, 0, 0, 0, last.into()).into()
    }
}

fn server_id(slot: u32) -> [u8; 8] {
    let [_, _, high, low] = slot.to_be_bytes();
    [0xab, high, low, 1, 0, 0, 0, 0]
}
