//! What all checks share: the files, the machine, and where mistakes go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::leaf::Name;
use crate::config::model::User;
use crate::config::read::Parsed;
use crate::config::reading::{Field, FromText, Located, nearest};
use crate::config::report::{Place, Problem, Severity, quote};
use crate::config::system::System;
use crate::limits::CONFIG_NAMES_LISTED_MAX;

/// What all checks share.
pub struct Context<'a> {
    /// The machine.
    pub system: &'a dyn System,
    files: &'a [Parsed],
    problems: &'a mut Vec<Problem>,
    users: BTreeMap<String, Option<User>>,
}

impl<'a> Context<'a> {
    /// A context for `files`.
    pub fn new(files: &'a [Parsed], system: &'a dyn System, problems: &'a mut Vec<Problem>) -> Self {
        Self { system, files, problems, users: BTreeMap::new() }
    }

    /// Records a problem.
    pub fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Whether an error has been recorded inside of `place` already.
    pub fn has_error_within(&self, place: Place) -> bool {
        let is_within =
            |inner: &Place| inner.file == place.file && inner.start >= place.start && inner.end <= place.end;
        let mut places = self
            .problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .filter_map(|problem| problem.place.as_ref());
        places.any(|(inner, _)| is_within(inner))
    }

    /// Records a name that is there already.
    pub fn unique<'n>(
        &mut self,
        kind: &str,
        name: &'n str,
        place: Place,
        seen: &mut BTreeMap<&'n str, Place>,
    ) {
        if let Some(first) = seen.insert(name, place) {
            let message = format!("two {kind}s are called \"{name}\"");
            let hint = format!("give each {kind} a name of its own");
            self.push(
                Problem::error(place, message, "the second one", hint).with_other(first, "the first one"),
            );
            seen.insert(name, first);
        }
    }

    /// Records that the key of a section cannot be a name.
    pub fn check_name(&mut self, kind: &str, name: &Located<String>) {
        if let Err(refusal) = Name::from_text(&name.value) {
            let message = format!("{kind}: {}", refusal.message);
            self.push(Problem::error(name.place, message, refusal.label, refusal.hint));
        }
    }

    /// Records that `name` is not one of `known`.
    pub fn unknown_reference(&mut self, owner: &str, kind: &str, name: &str, place: Place, known: &[&str]) {
        let message = format!("{owner}: there is no {kind} {}", quote(name));
        let listed = known.iter().take(CONFIG_NAMES_LISTED_MAX).copied().collect::<Vec<_>>().join(", ");
        let all = if known.len() > CONFIG_NAMES_LISTED_MAX { format!("{listed}, …") } else { listed };
        let hint = match (nearest(name, known), known.is_empty()) {
            (Some(near), _) => format!("did you mean \"{near}\"? The {kind}s are {all}"),
            (None, false) => format!("the {kind}s are {all}"),
            (None, true) => format!("the configuration has no {kind}"),
        };
        self.push(Problem::error(place, message, format!("no such {kind}"), hint));
    }

    /// A path, from the folder of the file that names it.
    pub fn path(&mut self, field: &Field<String>) -> Option<PathBuf> {
        let located = field.located()?;
        if located.value.is_empty() {
            let hint = "leave the key out where there is no path";
            self.push(Problem::error(located.place, "the path is empty", "empty", hint));
            return None;
        }
        Some(self.files[located.place.file].folder.join(&located.value))
    }

    /// The user that `field` names.
    pub fn user(&mut self, owner: &str, field: &Field<String>) -> Option<User> {
        let located = field.located()?;
        if let Some(known) = self.users.get(&located.value) {
            let known = known.clone();
            if known.is_none() {
                self.no_such_user(owner, located);
            }
            return known;
        }
        let found = match self.system.user(&located.value) {
            Ok(found) => {
                if found.is_none() {
                    self.no_such_user(owner, located);
                }
                found
            }
            Err(error) => {
                let message = format!("{owner}: user {} cannot be looked up: {error}", quote(&located.value));
                let hint = "see whether `getent passwd` answers, and /etc/nsswitch.conf";
                self.push(Problem::error(located.place, message, "cannot be looked up", hint));
                None
            }
        };
        self.users.insert(located.value.clone(), found.clone());
        found
    }

    fn no_such_user(&mut self, owner: &str, name: &Located<String>) {
        let message = format!("{owner}: user {} does not exist on this machine", quote(&name.value));
        let hint = format!(
            "create it (`useradd --system {}`), name a user that `getent passwd` lists, or leave the key out",
            if name.value.is_empty() { "NAME" } else { &name.value }
        );
        self.push(Problem::error(name.place, message, "no such user", hint));
    }
}
