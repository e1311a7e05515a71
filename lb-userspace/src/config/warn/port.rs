//! Requests that go to one port while the program listens on another.

use std::net::SocketAddr;

use super::View;
use super::command::{NamedPort, named_ports};
use crate::config::model::{Address, Program, ProgramAddress};
use crate::config::report::{Place, Problem};
use crate::config::validate::named;

/// Every such pair.
pub fn warnings(view: &View<'_>) -> Vec<Problem> {
    let programs = listening(view);
    let mut problems = Vec::new();
    for (address, place, upstream) in static_local_backends(view) {
        problems.extend(nobody_listens(address, place, &upstream, &programs, view));
    }
    problems.extend(programs.iter().filter_map(|program| other_port(program, view)));
    problems
}

/// A program with what its command says about ports.
struct Listening<'a> {
    program: &'a Program,
    named: Vec<NamedPort>,
    command: Place,
    address: Option<Place>,
}

impl Listening<'_> {
    /// Whether it listens on `port`, as far as one can see.
    fn covers(&self, port: u16) -> bool {
        let is_fixed = match &self.program.address {
            Some(ProgramAddress::Fixed(address)) => (u32::from(address.port())
                ..u32::from(address.port()) + self.program.instances)
                .contains(&u32::from(port)),
            _ => false,
        };
        is_fixed || self.named.iter().any(|named| named.port == port)
    }
}

fn listening<'a>(view: &View<'a>) -> Vec<Listening<'a>> {
    let sections = named(view.files, |file| &file.program);
    let programs = sections.filter_map(|(name, section)| {
        let program = view.model.programs.get(&name.value)?;
        let section = &section.as_ref()?.value;
        Some(Listening {
            program,
            named: all_named_ports(program),
            command: section.command.located()?.place,
            address: section.address.located().map(|address| address.place),
        })
    });
    programs.collect()
}

/// Ports in the command, and `PORT` in the environment.
fn all_named_ports(program: &Program) -> Vec<NamedPort> {
    let mut ports = named_ports(&program.command);
    let variable = program.environment.get("PORT").and_then(|value| Some((value, value.parse().ok()?)));
    ports.extend(variable.map(|(value, port)| NamedPort {
        written: format!("PORT = \"{value}\""),
        word: value.clone(),
        port,
    }));
    ports
}

/// Backends on this machine that we do not run.
fn static_local_backends(view: &View<'_>) -> Vec<(SocketAddr, Place, String)> {
    let mut backends = Vec::new();
    for (name, section) in named(view.files, |file| &file.upstream) {
        let sections = section.as_ref().and_then(|section| section.value.backends.get());
        for address in sections.into_iter().flatten().filter_map(|backend| backend.value.address.located()) {
            if let Address::Tcp(tcp) = address.value
                && tcp.ip().is_loopback()
            {
                backends.push((tcp, address.place, name.value.clone()));
            }
        }
    }
    backends
}

/// The upstream expects one port, and a program that no upstream knows names another.
fn nobody_listens(
    address: SocketAddr,
    place: Place,
    upstream: &str,
    programs: &[Listening<'_>],
    view: &View<'_>,
) -> Option<Problem> {
    if programs.iter().any(|program| program.covers(address.port())) {
        return None;
    }
    let expected: Vec<u16> =
        static_local_backends(view).into_iter().map(|(address, ..)| address.port()).collect();
    let is_free = |named: &&NamedPort| !expected.contains(&named.port);
    let mut candidates = programs.iter().filter(|program| {
        program.program.upstream.as_deref().is_none_or(|name| name == upstream) && program.address.is_none()
    });
    let (program, found) =
        candidates.find_map(|program| Some((program, program.named.iter().find(is_free)?)))?;
    let name = &program.program.name;
    let message = format!(
        "upstream \"{upstream}\" expects {address}, but the command of program \"{name}\" has `{}`",
        found.written
    );
    let hint = format!(
        "nothing here listens on port {}: name the same port in both places, or let lbctl join them: in \
         [program.{name}] upstream = \"{upstream}\", address = \"127.0.0.1:0\" and $PORT in the command",
        address.port(),
    );
    let label = format!("requests go to port {}", address.port());
    let other = view.part(program.command, &found.word);
    Some(
        Problem::warning(place, message, label, hint)
            .with_other(other, format!("listens on port {}", found.port)),
    )
}

/// The address says one port, and the command another.
fn other_port(listening: &Listening<'_>, view: &View<'_>) -> Option<Problem> {
    let program = listening.program;
    let found = listening.named.first()?;
    let place = listening.address?;
    let (message, label) = match program.address.as_ref()? {
        ProgramAddress::Chosen(_) => (
            format!(
                "program \"{}\" shall listen on a chosen port, but its command has `{}`",
                program.name, found.written
            ),
            "the port is chosen and put into $PORT".to_owned(),
        ),
        ProgramAddress::Fixed(address) if program.instances > 1 => (
            format!(
                "program \"{}\" has {} instances on ports from {} on, but its command has `{}` for each",
                program.name,
                program.instances,
                address.port(),
                found.written
            ),
            "instance n listens on this port + n".to_owned(),
        ),
        ProgramAddress::Fixed(address)
            if listening.named.iter().all(|named| named.port != address.port()) =>
        {
            (
                format!(
                    "program \"{}\" has the address {address}, but its command has `{}`",
                    program.name, found.written
                ),
                format!("requests go to port {}", address.port()),
            )
        }
        ProgramAddress::Unix(path) => (
            format!(
                "program \"{}\" has the address unix:{path}, but its command has `{}`",
                program.name, found.written
            ),
            "requests go to this socket".to_owned(),
        ),
        ProgramAddress::Fixed(_) => return None,
    };
    let hint = format!(
        "write $PORT in the command where {} stands, or name the same port in both places",
        found.port
    );
    let hint = match program.address {
        Some(ProgramAddress::Unix(_)) => {
            "let the command listen on that path, or change the address".to_owned()
        }
        _ => hint,
    };
    let other = view.part(listening.command, &found.word);
    Some(
        Problem::warning(place, message, label, hint)
            .with_other(other, format!("listens on port {}", found.port)),
    )
}
