//! Files that cannot be written and ports that cannot be bound.

use std::net::SocketAddr;
use std::path::Path;

use super::View;
use crate::config::model::{Address, ProgramLog};
use crate::config::reading::{Field, Located};
use crate::config::report::{Place, Problem};
use crate::config::validate::{every, named};

/// Everything that the machine will refuse later.
pub fn warnings(view: &View<'_>) -> Vec<Problem> {
    let mut problems = logs(view);
    problems.extend(privileged_ports(view));
    problems.extend(missing_socket_folders(view));
    problems
}

fn logs(view: &View<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(log) = view.files.iter().find_map(|file| file.sections.log.get()) {
        problems.extend(unwritable("[log]: access", &log.access, view.model.log.access.as_deref(), view));
        problems.extend(unwritable("[log]: error", &log.error, view.model.log.error.as_deref(), view));
        problems.extend(unwritable("[log]: audit", &log.audit, view.model.log.audit.as_deref(), view));
    }
    for (name, section) in named(view.files, |file| &file.program) {
        let log = section.as_ref().and_then(|section| section.value.log.get());
        let (Some(log), Some(program)) = (log, view.model.programs.get(&name.value)) else { continue };
        let owner = |stream: &str| format!("program \"{}\": log: {stream}", name.value);
        for (stream, field, path) in
            [("stdout", &log.stdout, &program.log.stdout), ("stderr", &log.stderr, &program.log.stderr)]
        {
            let unwritable = unwritable(&owner(stream), field, path.as_deref(), view);
            let stays = || fixed(&owner(stream), field, path.as_deref(), &program.log, view);
            problems.extend(unwritable.or_else(stays));
        }
    }
    problems
}

fn unwritable(owner: &str, field: &Field<String>, path: Option<&Path>, view: &View<'_>) -> Option<Problem> {
    let (field, path) = (field.located()?, path?);
    let reason = view.system.append_refused(path)?;
    let who = match view.system.uid() {
        0 => "lbctl (root)".to_owned(),
        uid => format!("lbctl (uid {uid})"),
    };
    let message = format!("{owner}: {} cannot be opened for append by {who}: {reason}", path.display());
    let folder = path.parent().unwrap_or(path).display().to_string();
    let hint = format!("lbctl opens logs itself, whoever the program runs as: let it write to {folder}");
    Some(Problem::warning(field.place, message, "cannot be opened", hint))
}

/// A file that is to be rotated, in a folder where it cannot be.
fn fixed(
    owner: &str,
    field: &Field<String>,
    path: Option<&Path>,
    log: &ProgramLog,
    view: &View<'_>,
) -> Option<Problem> {
    let (field, path) = (field.located()?, path.filter(|_| log.rotate_bytes > 0)?);
    let reason = view.system.rotation_refused(path)?;
    let folder = path.parent().unwrap_or(path).display();
    let message = format!("{owner}: {} cannot be rotated in {folder}: {reason}", path.display());
    let hint =
        "let lbctl write to the folder, or write rotate = \"0\" and rotate with SIGUSR1: it grows as it is";
    Some(Problem::warning(field.place, message, "grows without bound", hint))
}

fn privileged_ports(view: &View<'_>) -> Vec<Problem> {
    let first_free = view.system.unprivileged_port_min();
    if view.system.uid() == 0 {
        return Vec::new();
    }
    let sections = every(view.files, |file| &file.listener);
    let binds = sections.filter_map(|section| section.value.bind.get()).flatten();
    let privileged = binds.filter(|bind| bind.value.port() < first_free);
    let warning = |bind: &Located<SocketAddr>| {
        let message = format!("port {} can be bound by root only", bind.value.port());
        let hint = format!("run lbctl as root, or use a port from {first_free} on");
        Problem::warning(bind.place, message, "needs root", hint)
    };
    privileged.map(warning).collect()
}

fn missing_socket_folders(view: &View<'_>) -> Vec<Problem> {
    let sections = named(view.files, |file| &file.upstream).filter_map(|(_, section)| section.as_ref());
    let backends = sections.filter_map(|section| section.value.backends.get()).flatten();
    let addresses = backends.filter_map(|backend| backend.value.address.located());
    addresses.filter_map(|address| missing_socket_folder(&address.value, address.place, view)).collect()
}

fn missing_socket_folder(address: &Address, place: Place, view: &View<'_>) -> Option<Problem> {
    let Address::Unix(path) = address else { return None };
    let folder = path.parent()?;
    if view.system.is_folder(folder) {
        return None;
    }
    let message = format!("the folder {} does not exist", folder.display());
    Some(Problem::warning(
        place,
        message,
        "nobody can listen there",
        "create the folder, or correct the path",
    ))
}
