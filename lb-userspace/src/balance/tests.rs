use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn candidates(weights: &[u32]) -> Vec<Candidate> {
    weights
        .iter()
        .enumerate()
        .map(|(index, &weight)| Candidate { index, key: index as u64 + 100, weight, active: 0 })
        .collect()
}

fn client() -> IpAddr {
    IpAddr::from([192, 0, 2, 1])
}

fn counts(chooser: &mut Chooser, candidates: &[Candidate], times: u64) -> BTreeMap<usize, u64> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(chooser.choose(candidates, client(), &mut rng).unwrap()).or_default() += 1;
    }
    counts
}

#[test]
fn nobody_is_chosen_from_nobody() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::IpHash] {
        let choice = Chooser::new(balance).choose(&[], client(), &mut fastrand::Rng::with_seed(1));
        assert_eq!(choice, None, "{balance:?}");
    }
}

#[test]
fn zero_weight_gets_nothing_while_others_have_weight() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::IpHash] {
        let mut chooser = Chooser::new(balance);
        assert_eq!(counts(&mut chooser, &candidates(&[0, 2, 0]), 50), BTreeMap::from([(1, 50)]));
        assert_eq!(counts(&mut chooser, &candidates(&[0, 0]), 50).values().sum::<u64>(), 50);
    }
}

#[test]
fn heavy_backend_is_spread_out() {
    let mut chooser = Chooser::new(Balance::RoundRobin);
    let set = candidates(&[5, 1, 1]);
    let mut rng = fastrand::Rng::with_seed(3);
    let row: Vec<usize> = (0..70).map(|_| chooser.choose(&set, client(), &mut rng).unwrap()).collect();
    let longest = row.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
    assert!(longest <= Some(4), "{row:?}");
}

#[test]
fn threads_do_not_all_begin_with_the_same_backend() {
    let set = candidates(&[1; 8]);
    let firsts: std::collections::BTreeSet<_> = (0..64)
        .map(|seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            Chooser::new(Balance::RoundRobin).choose(&set, client(), &mut rng)
        })
        .collect();
    assert!(firsts.len() > 4, "{firsts:?}");
}

#[test]
fn least_loaded_per_weight_is_chosen() {
    let mut set = candidates(&[1, 3, 1]);
    for (candidate, active) in set.iter_mut().zip([2, 5, 2]) {
        candidate.active = active;
    }
    let mut chooser = Chooser::new(Balance::LeastConnections);
    assert_eq!(counts(&mut chooser, &set, 20), BTreeMap::from([(1, 20)]));
    set[1].active = 6;
    let shares = counts(&mut chooser, &set, 500);
    assert_eq!(shares, BTreeMap::from([(0, 100), (1, 300), (2, 100)]), "equals take turns by weight");
}

#[test]
fn client_of_either_socket_family_has_one_backend() {
    let set = candidates(&[1; 16]);
    let mut chooser = Chooser::new(Balance::IpHash);
    let mut rng = fastrand::Rng::with_seed(1);
    for last in 0..=255 {
        let v4 = IpAddr::from([10, 0, 0, last]);
        let mapped: IpAddr = format!("::ffff:10.0.0.{last}").parse().unwrap();
        assert_eq!(chooser.choose(&set, v4, &mut rng), chooser.choose(&set, mapped, &mut rng));
    }
}

#[test]
fn hash_spreads_clients_by_weight() {
    let set = candidates(&[1, 2, 5]);
    let mut chooser = Chooser::new(Balance::IpHash);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut shares = [0_u32; 3];
    for number in 0..80_000_u32 {
        shares[chooser.choose(&set, IpAddr::from(number.to_be_bytes()), &mut rng).unwrap()] += 1;
    }
    for (share, weight) in shares.iter().zip([1, 2, 5]) {
        let expect = 10_000 * weight;
        assert!(share.abs_diff(expect) < expect / 20, "{shares:?}");
    }
}

proptest! {
    #[test]
    fn shares_of_round_robin_are_exact(weights in prop::collection::vec(1..40_u32, 1..12), rounds in 1..4_u64) {
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        let shares = counts(&mut Chooser::new(Balance::RoundRobin), &candidates(&weights), total * rounds);
        for (index, weight) in weights.iter().enumerate() {
            prop_assert_eq!(shares.get(&index).copied(), Some(u64::from(*weight) * rounds));
        }
    }

    /// However the set changes, afterwards no backend's share of a round is off by more than what one change can leave.
    #[test]
    fn shares_are_fair_after_changes_of_the_set(
        changes in prop::collection::vec((any::<u8>(), 0..30_usize), 1..30), seed: u64,
    ) {
        let all = candidates(&[3; 8]);
        let mut chooser = Chooser::new(Balance::RoundRobin);
        let mut rng = fastrand::Rng::with_seed(seed);
        for (members, times) in changes {
            let set: Vec<Candidate> =
                all.iter().enumerate().filter(|(bit, _)| members >> bit & 1 == 1).map(|(_, one)| *one).collect();
            for _ in 0..times {
                let choice = chooser.choose(&set, client(), &mut rng);
                prop_assert_eq!(choice.is_some(), !set.is_empty());
                prop_assert!(choice.is_none_or(|index| members >> index & 1 == 1));
            }
        }
        let shares = counts(&mut chooser, &all, 24 * 20);
        for share in shares.values() {
            prop_assert!(share.abs_diff(60) <= 16, "{:?}", shares);
        }
    }

    #[test]
    fn removing_a_backend_moves_only_its_own_clients(
        weights in prop::collection::vec(1..10_u32, 2..10), gone: prop::sample::Index, clients: [u32; 32],
    ) {
        let all = candidates(&weights);
        let gone = gone.index(all.len());
        let left: Vec<Candidate> = all.iter().filter(|one| one.index != gone).copied().collect();
        let mut chooser = Chooser::new(Balance::IpHash);
        let mut rng = fastrand::Rng::with_seed(1);
        for client in clients {
            let client = IpAddr::from(client.to_be_bytes());
            let before = chooser.choose(&all, client, &mut rng).unwrap();
            let after = chooser.choose(&left, client, &mut rng).unwrap();
            prop_assert!(before == after || before == gone);
        }
    }
}
