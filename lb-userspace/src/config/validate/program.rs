//! `[program.NAME]` → model.

use std::collections::BTreeMap;

use super::context::Context;
use super::named;
use super::upstream::{LIVENESS, Question, probe, probe_kind};
use crate::config::defaults;
use crate::config::file;
use crate::config::leaf::{CommandLine, DependencyWord, Signal, Umask};
use crate::config::model::{Dependency, Limits, Program, ProgramAddress, ProgramLog, Startup, Stop};
use crate::config::read::Parsed;
use crate::config::reading::{Field, FromText, Located, Names};
use crate::config::report::{Place, Problem};

/// Every program by name.
pub fn programs(files: &[Parsed], context: &mut Context<'_>) -> BTreeMap<String, Program> {
    let mut seen = BTreeMap::new();
    let mut programs = BTreeMap::new();
    for (name, section) in named(files, |file| &file.program) {
        context.check_name("program", name);
        context.unique("program", &name.value, name.place, &mut seen);
        if let Some(section) = section {
            programs.insert(name.value.clone(), program(name, &section.value, context));
        }
    }
    programs
}

fn program(name: &Located<String>, section: &file::Program, context: &mut Context<'_>) -> Program {
    let owner = format!("program \"{}\"", name.value);
    let directory = context.path(&section.directory);
    if let (Some(directory), Some(field)) = (&directory, section.directory.located())
        && !context.system.is_folder(directory)
    {
        let message = format!("{owner}: the directory {} does not exist", directory.display());
        let hint = format!("create it (`mkdir -p {}`), or leave the key out", directory.display());
        context.push(Problem::error(field.place, message, "no such folder", hint));
    }
    check_address(name, section, context);
    Program {
        name: name.value.clone(),
        upstream: section.upstream.get().map(|name| name.0.clone()),
        command: section.command.get().map_or_else(Vec::new, |CommandLine(words)| words.clone()),
        address: section.address.get().cloned(),
        instances: section.instances.or(defaults::INSTANCES).0,
        weight: section.weight.or(defaults::WEIGHT).0,
        directory,
        user: context.user(&owner, &section.user),
        environment: environment(&owner, &section.environment, context),
        umask: section.umask.get().map_or(defaults::UMASK, |Umask(bits)| *bits),
        autostart: section.autostart.or(true),
        autorestart: section.autorestart.get().copied().unwrap_or_default(),
        exit_codes: section
            .exit_codes
            .get()
            .map_or_else(|| [0].into(), |codes| codes.iter().map(|code| code.value.0 as i32).collect()),
        start_retries: section.start_retries.or(defaults::START_RETRIES).0,
        depends_on: dependencies(&owner, &section.depends_on, context),
        startup: startup(&owner, &section.startup, context),
        liveness: probe(&format!("{owner}: liveness"), &section.liveness, &LIVENESS, context),
        stop: stop(&section.stop),
        limits: limits(&section.limits),
        log: log(&owner, &section.log, context),
    }
}

/// The address must fit the number of instances and what is asked of the program.
fn check_address(name: &Located<String>, section: &file::Program, context: &mut Context<'_>) {
    let owner = format!("program \"{}\"", name.value);
    let instances = section.instances.or(defaults::INSTANCES).0;
    match &section.address {
        Field::Invalid => {}
        Field::Absent => needs_address(&owner, section, context),
        Field::Given(Located { value: ProgramAddress::Chosen(_), .. }) => {}
        Field::Given(Located { value: ProgramAddress::Unix(path), place }) => {
            if instances > 1 && !path.contains("$INSTANCE") {
                let message = format!("{owner}: {instances} instances cannot share one socket path");
                let hint = format!("write $INSTANCE into it: \"unix:{}\"", with_instance(path));
                context.push(Problem::error(*place, message, "the same path for every instance", hint));
            }
        }
        Field::Given(Located { value: ProgramAddress::Fixed(address), place }) => {
            let last = u32::from(address.port()) + instances - 1;
            if last > u32::from(u16::MAX) {
                let message = format!("{owner}: instance {} would listen on port {last}", instances - 1);
                let hint = "instance n listens on port + n: choose a lower port, or port 0 for chosen ones";
                context.push(Problem::error(*place, message, "ports end at 65535", hint));
            }
        }
    }
}

/// `/run/app.sock` → `/run/app-$INSTANCE.sock`.
fn with_instance(path: &str) -> String {
    match path.rsplit_once('.').filter(|(_, extension)| !extension.contains('/')) {
        Some((stem, extension)) => format!("{stem}-$INSTANCE.{extension}"),
        None => format!("{path}-$INSTANCE"),
    }
}

/// What cannot be done without knowing where the program listens.
fn needs_address(owner: &str, section: &file::Program, context: &mut Context<'_>) {
    let upstream = section.upstream.located().map(|upstream| ("upstream", upstream.place));
    let startup = section.startup.located().map(|startup| ("startup", startup.place));
    let liveness = section.liveness.located().map(|liveness| ("liveness", liveness.place));
    if let Some((key, place)) = upstream.or(startup).or(liveness) {
        let message = format!("{owner}: `{key}` needs an `address`");
        let hint =
            "add `address = \"127.0.0.1:0\"` and listen on $PORT, or name the address that it listens on";
        context.push(Problem::error(place, message, "where does it listen?", hint));
    }
}

fn environment(
    owner: &str,
    field: &Field<Names<String>>,
    context: &mut Context<'_>,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for (name, value) in field.get().into_iter().flatten() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.value.is_empty()
            || !name.value.chars().all(is_name)
            || name.value.starts_with(|c: char| c.is_ascii_digit())
        {
            let message = format!("{owner}: \"{}\" cannot be an environment variable", name.value);
            let hint = "a name holds letters, digits and _, and does not begin with a digit";
            context.push(Problem::error(name.place, message, "not a name", hint));
        } else if let Some(value) = value {
            environment.insert(name.value.clone(), value.value.clone());
        }
    }
    environment
}

fn dependencies(
    owner: &str,
    field: &Field<Names<DependencyWord>>,
    context: &mut Context<'_>,
) -> Vec<Dependency> {
    let entries = field.get().into_iter().flatten();
    entries.filter_map(|(name, word)| dependency(owner, name, word.as_ref()?, context)).collect()
}

/// One entry; whether the program exists is seen when all are known.
fn dependency(
    owner: &str,
    name: &Located<String>,
    word: &Located<DependencyWord>,
    context: &mut Context<'_>,
) -> Option<Dependency> {
    let address = name.value.strip_prefix("tcp:").map(std::net::SocketAddr::from_text);
    match (address, word.value) {
        (Some(Ok(address)), DependencyWord::Reachable) => Some(Dependency::Tcp(address)),
        (Some(Err(refusal)), _) => {
            let message = format!("{owner}: depends_on: {}", refusal.message);
            context.push(Problem::error(name.place, message, refusal.label, refusal.hint));
            None
        }
        (None, DependencyWord::Condition(condition)) => {
            Some(Dependency::Program { name: name.value.clone(), condition })
        }
        (Some(Ok(_)), DependencyWord::Condition(_)) => {
            let message = format!("{owner}: depends_on: an address can only be \"reachable\"");
            context.push(Problem::error(word.place, message, "for programs", "write \"reachable\""));
            None
        }
        (None, DependencyWord::Reachable) => {
            let message = format!("{owner}: depends_on: a program cannot be \"reachable\"");
            let hint = "write \"started\", \"healthy\" or \"completed\", or an address as key: \"tcp:127.0.0.1:6379\"";
            context.push(Problem::error(word.place, message, "for addresses", hint));
            None
        }
    }
}

fn startup(owner: &str, field: &Field<file::Startup>, context: &mut Context<'_>) -> Option<Startup> {
    let Located { value: section, place } = field.located()?;
    let question =
        Question { http: &section.http, tcp: &section.tcp, host: &section.host, status: &section.status };
    Some(Startup {
        kind: probe_kind(&format!("{owner}: startup"), *place, &question, context)?,
        every: section.every.or(defaults::STARTUP_EVERY).get(),
        within: section.within.or(defaults::STARTUP_WITHIN).get(),
    })
}

fn stop(field: &Field<file::Stop>) -> Stop {
    let section = field.get();
    let signal = section.and_then(|stop| stop.signal.get());
    Stop {
        signal: signal.map_or(defaults::STOP_SIGNAL, |Signal(number)| *number),
        drain_timeout: section
            .map_or(defaults::DRAIN_TIMEOUT, |stop| stop.drain_timeout.or(defaults::DRAIN_TIMEOUT))
            .get(),
        kill_after: section
            .map_or(defaults::KILL_AFTER, |stop| stop.kill_after.or(defaults::KILL_AFTER))
            .get(),
    }
}

fn limits(field: &Field<file::Limits>) -> Limits {
    let Some(section) = field.get() else { return Limits::default() };
    Limits {
        memory_bytes: section.memory.get().map(|size| size.0),
        cpu_cores: section.cpu.get().map(|cores| cores.0),
        pids: section.pids.get().map(|pids| u64::from(pids.0)),
        open_files: section.open_files.get().map(|files| u64::from(files.0)),
    }
}

fn log(owner: &str, field: &Field<file::ProgramLog>, context: &mut Context<'_>) -> ProgramLog {
    let section = field.get();
    let rotate = section.map_or(defaults::LOG_ROTATE, |log| log.rotate.or(defaults::LOG_ROTATE));
    let place: Option<Place> = section.and_then(|log| log.rotate.located()).map(|rotate| rotate.place);
    const ROTATE_BYTES_MIN: u64 = 4096;
    if let Some(place) = place.filter(|_| (1..ROTATE_BYTES_MIN).contains(&rotate.0)) {
        let message = format!("{owner}: log: rotate: {rotate} is too little");
        let hint = "write \"4KiB\" or more, or 0 for a file that is never rotated";
        context.push(Problem::error(place, message, "less than 4 KiB", hint));
    }
    ProgramLog {
        stdout: section.and_then(|log| context.path(&log.stdout)),
        stderr: section.and_then(|log| context.path(&log.stderr)),
        rotate_bytes: rotate.0,
        keep: section.map_or(defaults::LOG_KEEP, |log| log.keep.or(defaults::LOG_KEEP).0),
    }
}
