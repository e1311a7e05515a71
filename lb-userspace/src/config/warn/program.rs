//! Programs that will not start or not serve as their author thinks.

use std::path::Path;

use super::View;
use crate::config::file;
use crate::config::model::{Program, ProgramAddress, User};
use crate::config::reading::Located;
use crate::config::report::{Place, Problem};
use crate::config::validate::named;

/// Words that mean something to a shell only.
const SHELL_WORDS: [&str; 10] = ["&&", "||", "|", ">", ">>", "<", ";", "&", "2>&1", "2>"];

/// Everything about programs except their ports.
pub fn warnings(view: &View<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, section) in named(view.files, |file| &file.program) {
        let (Some(program), Some(section)) = (view.model.programs.get(&name.value), section) else {
            continue;
        };
        let seen = Seen { program, section: &section.value, name: name.place, view };
        problems.extend(seen.shell_word());
        problems.extend(seen.unknown_variable());
        problems.extend(seen.port_without_address());
        problems.extend(seen.missing_executable());
        problems.extend(seen.missing_socket_folder());
        problems.extend(seen.no_probe());
        problems.extend(seen.other_user());
    }
    let node =
        view.files.iter().find_map(|file| file.sections.node.get()).and_then(|node| node.user.located());
    if let Some(user) = node {
        problems.extend(cannot_become("[node]", user, view.model.node.user.as_ref(), view));
    }
    problems
}

struct Seen<'a> {
    program: &'a Program,
    section: &'a file::Program,
    name: Place,
    view: &'a View<'a>,
}

impl Seen<'_> {
    fn command_place(&self, word: &str) -> Place {
        self.section.command.located().map_or(self.name, |command| self.view.part(command.place, word))
    }

    fn shell_word(&self) -> Option<Problem> {
        let word = self.program.command.iter().find(|word| SHELL_WORDS.contains(&word.as_str()))?;
        let message = format!(
            "program \"{}\": no shell runs the command: `{word}` is passed as an argument",
            self.program.name
        );
        let hint = "write /bin/sh -c '…' for what needs a shell; output goes to `log`";
        Some(Problem::warning(self.command_place(word), message, "means nothing here", hint))
    }

    fn unknown_variable(&self) -> Option<Problem> {
        let is_shell = self.program.command.iter().any(|word| word == "-c");
        let (word, variable) =
            self.program.command.iter().find_map(|word| Some((word, unknown_variable(word)?)))?;
        if is_shell {
            return None;
        }
        let message =
            format!("program \"{}\": `{variable}` in the command is passed as it stands", self.program.name);
        let hint = "no shell runs the command; only $PORT and $INSTANCE are filled in";
        let place = self.view.part(self.command_place(word), variable);
        Some(Problem::warning(place, message, "is not filled in", hint))
    }

    fn port_without_address(&self) -> Option<Problem> {
        let has_port =
            matches!(self.program.address, Some(ProgramAddress::Chosen(_) | ProgramAddress::Fixed(_)));
        let is_used =
            self.program.command.iter().any(|word| word.contains("$PORT") || word.contains("${PORT}"));
        if has_port || !is_used {
            return None;
        }
        let message = format!("program \"{}\": nothing is filled in for $PORT", self.program.name);
        let hint = "add `address = \"127.0.0.1:0\"`: a port is then chosen for each instance";
        Some(Problem::warning(self.command_place("$PORT"), message, "the program has no TCP address", hint))
    }

    /// Names without a folder are looked up in PATH at start.
    fn missing_executable(&self) -> Option<Problem> {
        let executable = self.program.command.first()?;
        let path = Path::new(executable);
        if executable.contains('$') || !path.is_absolute() || self.view.system.exists(path) {
            return None;
        }
        let message = format!("program \"{}\": {executable} does not exist", self.program.name);
        let hint = "install it or correct the path; the program cannot start";
        Some(Problem::warning(self.command_place(executable), message, "no such file", hint))
    }

    fn missing_socket_folder(&self) -> Option<Problem> {
        let Some(ProgramAddress::Unix(path)) = &self.program.address else { return None };
        let folder = Path::new(path).parent()?;
        if path.contains('$') && folder.to_string_lossy().contains('$') || self.view.system.is_folder(folder)
        {
            return None;
        }
        let message =
            format!("program \"{}\": the folder {} does not exist", self.program.name, folder.display());
        let hint = format!("create it (`mkdir -p {}`) for the user of the program", folder.display());
        let place = self.section.address.located().map_or(self.name, |address| address.place);
        Some(Problem::warning(place, message, "the socket has nowhere to be", hint))
    }

    fn no_probe(&self) -> Option<Problem> {
        let upstream = self.program.upstream.as_ref()?;
        let has_readiness =
            self.view.model.upstreams.get(upstream).is_some_and(|upstream| upstream.probe.is_some());
        if has_readiness || self.program.startup.is_some() {
            return None;
        }
        let message = format!("program \"{}\" gets requests without a probe", self.program.name);
        let hint = format!(
            "nobody asks whether it works: add probe = {{ http = \"/health\" }} to [upstream.{upstream}], \
             or startup = {{ tcp = true }} here"
        );
        Some(Problem::warning(self.name, message, "neither readiness nor startup probe", hint))
    }

    fn other_user(&self) -> Option<Problem> {
        let owner = format!("program \"{}\"", self.program.name);
        cannot_become(&owner, self.section.user.located()?, self.program.user.as_ref(), self.view)
    }
}

/// Only root can start processes as somebody else.
fn cannot_become(
    owner: &str,
    field: &Located<String>,
    user: Option<&User>,
    view: &View<'_>,
) -> Option<Problem> {
    let own = view.system.uid();
    if own == 0 || user.is_none_or(|user| user.uid == own) {
        return None;
    }
    let message =
        format!("{owner}: lbctl runs as uid {own} and cannot start a process as user \"{}\"", field.value);
    Some(Problem::warning(field.place, message, "needs root", "run lbctl as root, or leave the key out"))
}

/// The first `$NAME` that is not ours.
fn unknown_variable(word: &str) -> Option<&str> {
    let mut rest = word;
    while let Some((_, after)) = rest.split_once('$') {
        let inner = after.strip_prefix('{').unwrap_or(after);
        let end = inner.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inner.len());
        let name = &inner[..end];
        let is_ours = name.is_empty() || name.starts_with("PORT") || name.starts_with("INSTANCE");
        if !is_ours && !name.starts_with(|c: char| c.is_ascii_digit()) {
            let start = word.len() - after.len() - 1;
            let end = word.len() - inner.len() + end;
            return Some(&word[start..end]);
        }
        rest = after;
    }
    None
}
