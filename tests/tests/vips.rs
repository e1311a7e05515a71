//! What operators see of VIPs: where flows go, counts, captures; compared with what clients see.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::lab::address::{CLIENT_NET, Family, VIP_PORT};
use lb_tests::lab::client::{self, Connection};
use lb_tests::lab::steer::{Mode, Steering};
use lb_tests::lab::{Lab, Plan};
use lb_tests::lb::Lb;
use lb_tests::wait::until;
use lb_userspace::control::protocol::steering::{FlowFound, FlowReport, VipReport};

const SECOND: Duration = Duration::from_secs(1);
/// Connections of each family whose way is foretold.
const FLOWS: u16 = 8;

fn look_up(lb: &Lb, client: SocketAddr, vip: SocketAddr) -> FlowReport {
    let text = lb.succeed(&["flow", "lookup", &client.to_string(), &vip.to_string(), "--json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn vips(lb: &Lb) -> VipReport {
    let text = lb.succeed(&["vip", "--json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Whether the backend of the answer is the one with this number.
fn names(report: &FlowReport, steering: &Steering, family: Family, number: u32) -> bool {
    let address = steering.address(family, number as usize);
    report.backend.as_ref().is_some_and(|backend| backend.address == address)
}

fn check_look_ups(mode: Mode) {
    let lab = Lab::new(Plan::two_armed(3)).unwrap();
    let _servers = lab.serve(&[mode.backend_port()]).unwrap();
    if !mode.translates() {
        lab.give_vips_to_backends().unwrap();
    }
    let steering = Steering::new(&lab, mode);
    let lb = steering.start(&lab);
    for family in Family::BOTH {
        let vip = SocketAddr::from((family.vip(), VIP_PORT));
        let open = |from: SocketAddr| async move {
            let mut connection = Connection::open_from(from, vip).await?;
            let number = connection.ping().await?;
            anyhow::Ok((connection, number))
        };
        until(20 * SECOND, "the VIP answers", || {
            let any = SocketAddr::from((client_address(family), 0));
            client::run(&lab.client, open(any)).ok().map(drop)
        });
        for port in 40_000..40_000 + FLOWS {
            let from = SocketAddr::from((client_address(family), port));
            let foretold = look_up(&lb, from, vip);
            assert!(matches!(foretold.found, FlowFound::Row { .. }), "{foretold:#?}");
            let known = client::run(&lab.client, async {
                let (connection, number) = open(from).await.unwrap();
                assert!(
                    names(&foretold, &steering, family, number),
                    "backend {number} answered: {foretold:#?}"
                );
                let known = look_up(&lb, from, vip);
                assert!(names(&known, &steering, family, number), "backend {number} answers: {known:#?}");
                drop(connection);
                known
            });
            let is_known = match known.found {
                FlowFound::Translated { is_half_open, .. } => mode.translates() && !is_half_open,
                FlowFound::Known { .. } => !mode.translates(),
                _ => false,
            };
            assert!(is_known, "{known:#?}");
        }
    }
    let report = vips(&lb);
    for name in ["v4-tcp", "v6-tcp"] {
        let vip = report.find(name).unwrap();
        assert!(vip.new_flows >= FLOWS.into() && vip.packets > 3 * u64::from(FLOWS), "{vip:#?}");
        assert_eq!(vip.backends.iter().map(|backend| backend.rows).sum::<u32>(), vip.rows, "{vip:#?}");
        assert!(vip.backends.iter().all(|backend| backend.trouble.is_empty()), "{vip:#?}");
    }
    lb.stop();
}

fn client_address(family: Family) -> std::net::IpAddr {
    family.host(CLIENT_NET, 2)
}

#[test]
fn flow_lookup_foretells_who_answers_when_addresses_are_translated() {
    check_look_ups(Mode::Nat);
}

#[test]
fn flow_lookup_foretells_who_answers_when_backends_answer_directly() {
    check_look_ups(Mode::L2Dsr);
}

#[test]
fn capture_holds_frames_with_verdicts_that_other_programs_read() {
    let lab = Lab::new(Plan::two_armed(1)).unwrap();
    let _servers = lab.serve(&[Mode::Nat.backend_port()]).unwrap();
    let lb = Steering::new(&lab, Mode::Nat).start(&lab);
    let vip = SocketAddr::from((Family::V4.vip(), VIP_PORT));
    until(20 * SECOND, "the VIP answers", || client::transfer(&lab.client, vip, 1 << 10).ok());
    let file = lb.folder().join("v4.pcapng");
    let path = file.to_str().unwrap();
    let mut capture = lb.command(&["capture", "v4-tcp", "--pcap", path, "--count", "10", "--for", "20s"]);
    let mut capture = capture.stderr(Stdio::null()).spawn().unwrap();
    let ended = until(20 * SECOND, "ten frames were captured", || {
        client::transfer(&lab.client, vip, 1 << 10).unwrap();
        capture.try_wait().unwrap()
    });
    assert!(ended.success(), "{ended}");
    let read = Command::new("tcpdump").args(["-nr", path]).stderr(Stdio::null()).output();
    let read = read.expect("tcpdump: `cargo xtask setup` installs it");
    let lines = String::from_utf8(read.stdout).unwrap();
    assert_eq!(lines.lines().count(), 10, "{lines}");
    assert!(lines.lines().all(|line| line.contains(&format!("{}.{VIP_PORT}", vip.ip()))), "{lines}");
    let bytes = std::fs::read(&file).unwrap();
    let comment = b"verdict=redirect backend=";
    assert_eq!(bytes.windows(comment.len()).filter(|window| window == comment).count(), 10);
    let refused = lb.lbctl(&["capture", "nobody", "--pcap", path, "--count", "1"]);
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(complaint.contains("no VIP is called \"nobody\"; there are v4-tcp"), "{complaint}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "a refused capture leaves the file alone");
    lb.stop();
}
