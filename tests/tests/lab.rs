//! The laboratory itself, proven with the kernel's own balancer in the place of lbctl.

use std::net::SocketAddr;

use lb_tests::lab::address::{Family, VIP_PORT};
use lb_tests::lab::{Arms, Lab, Plan, client, echo, icmp, nft};

const BACKEND_PORT: u16 = 9_090;

fn check_traffic(plan: Plan) -> anyhow::Result<()> {
    let lab = Lab::new(plan)?;
    let _servers = lab.serve(&[BACKEND_PORT])?;
    nft::balance(&lab, BACKEND_PORT)?;
    for family in Family::BOTH {
        let vip = SocketAddr::from((family.vip(), VIP_PORT));
        client::transfer(&lab.client, vip, 3 << 20)?;
        let shares = client::parallel(&lab.client, vip, 100)?;
        assert_eq!(shares.iter().sum::<usize>(), 100);
        assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
        for bytes in [1, 1_400, 8_000] {
            echo::datagram(&lab.client, vip, bytes)?;
        }
        icmp::ping(&lab.client, family.backend(0))?;
    }
    Ok(())
}

#[test]
fn nft_balances_between_two_arms() {
    check_traffic(Plan::two_armed(3)).unwrap();
}

#[test]
fn nft_balances_on_one_arm() {
    check_traffic(Plan { arms: Arms::One, ..Plan::two_armed(3) }).unwrap();
}

#[test]
fn nft_balances_to_one_backend_without_a_switch() {
    check_traffic(Plan::two_armed(1)).unwrap();
}

#[test]
fn nothing_is_left_of_a_laboratory() {
    let lab = Lab::new(Plan::two_armed(1)).unwrap();
    let paths = [lab.client.path(), lab.balancer.path(), lab.backends[0].path()];
    assert!(paths.iter().all(|path| path.exists()));
    drop(lab);
    assert!(paths.iter().all(|path| !path.exists()));
}
