//! Ports of ours for translated flows: which are tried, who has one, and who has to give it back.

use super::entry::{Home, forget};
use crate::flow::{FlowKey, KeyWords, NatFlow};
use crate::hash;
use crate::hop::HopRow;
use crate::limits::{NAT_PORT_TRIES_MAX, NAT_RECLAIM_TRIES_MAX};
use crate::packet::Frame;
use crate::tables::Tables;
use crate::verdict::Reason;

/// Ranges of fewer ports are searched one after the other, so that a small one is searched whole.
const STRIDE_PORTS_MIN: u32 = 64 * NAT_PORT_TRIES_MAX;

/// The search for a port of one flow.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// What the flow's replies carry; of a client that keeps its end all of it, else the port of ours is to be found.
    pub replies: KeyWords,
    first: u32,
    count: u32,
    hash: u32,
}

impl Search {
    /// For a flow whose packets carry `key`, to the backend behind `hop`; `hash` is where it begins.
    #[inline(always)]
    pub fn new(key: &FlowKey, keeps_client: bool, hop: &HopRow, hash: u32) -> Self {
        let key = key.words();
        let (first, count) = match keeps_client {
            true => (u16::from_be(key.source_port) as u32, 1),
            false => (hop.nat_port_first as u32, hop.nat_ports as u32),
        };
        let port = u16::from_ne_bytes(hop.port);
        let replies = KeyWords {
            source: hash::halves(&hop.address),
            target: if keeps_client { key.source } else { hash::halves(&hop.nat_source) },
            source_port: if port == 0 { key.target_port } else { port },
            target_port: key.source_port,
            protocol: key.protocol,
        };
        Self { replies, first, count, hash }
    }

    /// An odd stride of at most 63 meets as many different ports as are tried; beside the last one's neighbours it leaves no clusters.
    #[inline(always)]
    fn stride(&self) -> u32 {
        if self.count < STRIDE_PORTS_MIN { 1 } else { self.hash >> 26 | 1 }
    }

    /// A port to which no replies come from there, in network order; it is in `replies` then.
    #[inline(always)]
    pub fn free_port<T: Tables>(&mut self, tables: &T) -> Result<u16, Reason> {
        let (stride, mut offset) = (self.stride(), self.hash);
        for attempt in 0..NAT_PORT_TRIES_MAX {
            if attempt >= self.count {
                break;
            }
            offset %= self.count;
            self.replies.target_port = ((self.first + offset) as u16).to_be();
            if !is_taken(tables, self.replies.key()) {
                return Ok(self.replies.target_port);
            }
            offset += stride;
        }
        Err(Reason::NatPortsExhausted)
    }

    /// Ends the oldest of the flows that [`Self::free_port`] met and that are half open, else of those that have ended: who floods takes the
    /// ports of others who do.
    ///
    /// # Errors
    /// [`Reason::NatPortsExhausted`]: all of them are established.
    #[inline(always)]
    pub fn reclaim<F: Frame, T: Tables>(&mut self, frame: &F, tables: &T) -> Result<(), Reason> {
        let half_open_since = |key: &FlowKey| tables.nat_half_open(key).map_or(NEVER, |flow| flow.seen_at_ns);
        if self.oldest(frame, half_open_since)
            && let Some(flow) = tables.nat_half_open(self.replies.key())
        {
            forget(tables, Home::HalfOpen, self.replies.key(), flow);
            return Ok(());
        }
        if self.oldest(frame, |key| ended_since(tables, key))
            && let Some(flow) = tables.nat(self.replies.key())
        {
            forget(tables, Home::Known, self.replies.key(), flow);
            return Ok(());
        }
        Err(Reason::NatPortsExhausted)
    }

    /// Goes to the port for which `since_ns` is the least of those that are tried; false where it is [`NEVER`] for all.
    #[inline(always)]
    fn oldest<F: Frame>(&mut self, frame: &F, since_ns: impl Fn(&FlowKey) -> u64) -> bool {
        let (stride, mut offset) = (self.stride(), self.hash);
        let (mut oldest_port, mut oldest_ns) = (0, NEVER);
        for attempt in 0..NAT_RECLAIM_TRIES_MAX {
            if attempt >= self.count {
                break;
            }
            offset %= self.count;
            self.replies.target_port = ((self.first + offset) as u16).to_be();
            let since_ns = since_ns(self.replies.key());
            if since_ns < oldest_ns {
                (oldest_port, oldest_ns) = (self.replies.target_port, since_ns);
            }
            oldest_port = frame.settle(oldest_port as usize, 0xffff) as u16;
            oldest_ns = frame.settle(oldest_ns as usize, usize::MAX) as u64;
            offset += stride;
        }
        self.replies.target_port = oldest_port;
        oldest_ns != NEVER
    }
}

/// Of what has no time.
const NEVER: u64 = u64::MAX;

/// Whether replies of a flow carry this.
#[inline(always)]
pub fn is_taken<T: Tables>(tables: &T, replies: &FlowKey) -> bool {
    // In this order: a flow that moves is in `NAT` before it leaves `NAT_HALF_OPEN`.
    tables.nat_half_open(replies).is_some() || tables.nat(replies).is_some()
}

/// Since when an established flow whose replies carry this has been silent, where it has ended or its backend is gone; else [`NEVER`].
#[inline(always)]
fn ended_since<T: Tables>(tables: &T, replies: &FlowKey) -> u64 {
    match tables.nat(replies) {
        Some(flow) if has_ended(flow) || is_gone(tables, flow) => flow.seen_at_ns,
        _ => NEVER,
    }
}

#[inline(always)]
const fn has_ended(flow: &NatFlow) -> bool {
    flow.flags & NatFlow::ANY_RESET != 0 || flow.flags & NatFlow::FINISHED == NatFlow::FINISHED
}

#[inline(always)]
fn is_gone<T: Tables>(tables: &T, flow: &NatFlow) -> bool {
    tables.backend(flow.slot).is_none_or(|backend| backend.instance != flow.instance)
}
