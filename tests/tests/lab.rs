//! The laboratory itself, proven with the kernel's own balancer in the place of lbctl.

use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::lab::address::{Family, VIP_PORT};
use lb_tests::lab::generator::{Generator, Kind};
use lb_tests::lab::{Arms, Lab, Plan, client, echo, icmp, nft};
use lb_tests::scenario::vip_load::{LoadPlan, VipLoad};

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

#[test]
fn clients_notice_the_end_of_their_backend_and_of_no_other() {
    let lab = Lab::new(Plan::two_armed(3)).unwrap();
    let servers = lab.serve(&[BACKEND_PORT]).unwrap();
    nft::balance(&lab, BACKEND_PORT).unwrap();
    let plan = LoadPlan { lasting: 60, every: Duration::from_millis(50), newcomers: 2 };
    let load = VipLoad::start(&lab, plan);
    servers[1].close();
    std::thread::sleep(Duration::from_millis(500));
    servers[1].open();
    std::thread::sleep(Duration::from_millis(500));
    let noticed = load.finish();
    assert!(noticed.messages > 300 && noticed.short > 50, "{} {}", noticed.messages, noticed.short);
    let (served, unserved): (Vec<_>, Vec<_>) = noticed.losses.iter().partition(|loss| loss.backend.is_some());
    assert!(!served.is_empty() && served.iter().all(|loss| loss.backend == Some(1)), "{served:?}");
    assert!(!unserved.is_empty() && unserved.iter().any(|loss| loss.refused), "{unserved:?}");
}

#[test]
fn generated_syns_are_what_a_backend_accepts() {
    let lab = Lab::new(Plan::two_armed(1)).unwrap();
    let _servers = lab.serve(&[BACKEND_PORT]).unwrap();
    lab.balancer.succeed("ethtool", &["-K", lab.front(), "gro", "on"]).unwrap();
    nft::balance(&lab, BACKEND_PORT).unwrap();
    icmp::ping(&lab.client, Family::V4.backend(0)).unwrap();
    let counted = |name: &str| {
        let text = lab.backends[0].run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
        let (mut names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
        values.nth(names.position(|other| other == name).unwrap()).unwrap().parse::<u64>().unwrap()
    };
    let before = counted("InSegs");
    Generator::new(&lab, Kind::Syns).unwrap().send(1_000).unwrap();
    assert!(counted("InSegs") - before >= 900, "only {} SYNs came", counted("InSegs") - before);
    assert_eq!(counted("InCsumErrors"), 0);
}
