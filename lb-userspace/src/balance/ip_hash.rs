//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after Schindelhauer and Schomaker 2005): every backend draws a number for
//! the client and the highest wins, so a backend that leaves moves its own clients and no others.

use std::net::IpAddr;

use super::Candidate;

/// The `index` of the client's backend.
pub(super) fn choose(candidates: &[Candidate], client: IpAddr) -> Option<usize> {
    let floor = u32::from(candidates.iter().all(|candidate| candidate.weight == 0));
    let client = client_hash(client);
    candidates
        .iter()
        .filter(|candidate| candidate.weight.max(floor) > 0)
        .map(|candidate| (score(client, candidate.key, candidate.weight.max(floor)), candidate))
        .max_by(|(a, left), (b, right)| a.total_cmp(b).then(left.key.cmp(&right.key)))
        .map(|(_, candidate)| candidate.index)
}

/// -weight / ln(u), u uniform in (0, 1): P(backend has the highest) = its share of the weights.
fn score(client: u64, key: u64, weight: u32) -> f64 {
    let draw = mix(client ^ mix(key));
    let uniform = ((draw >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(weight) / uniform.ln()
}

/// An IPv4 client is the same whether it came by an IPv4 or a dual-stack socket.
fn client_hash(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => mix(u64::from(address.to_bits())),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            mix(mix((bits >> 64) as u64) ^ bits as u64)
        }
    }
}

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
