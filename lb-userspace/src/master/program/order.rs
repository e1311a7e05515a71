//! From a program of the configuration to the orders for its exec shim: words and environment of one instance. Pure.

use std::collections::BTreeMap;

use super::exec_shim::{Identity, Spec};
use crate::config::model::{Address, Program};

/// `PATH` where the master has none.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every program gets from the master's own surroundings.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `PATH`, `LANG`, `LC_ALL` and `TZ` as the master found them.
    pub kept: BTreeMap<String, String>,
    /// RLIMIT_NOFILE, soft and hard, before the master raised its own.
    pub open_files: (u64, u64),
    /// Nice value, before the master raised its own priority.
    pub priority: i32,
}

/// The orders for instance `index` that listens on `address`.
pub fn spec(program: &Program, index: u32, address: Option<&Address>, surroundings: &Surroundings) -> Spec {
    let variables = variables(index, address);
    let mut environment = BTreeMap::from([("PATH".to_owned(), PATH_DEFAULT.to_owned())]);
    environment.extend(surroundings.kept.clone());
    if let Some(user) = &program.user {
        environment.insert("USER".into(), user.name.clone());
        environment.insert("LOGNAME".into(), user.name.clone());
        environment.insert("HOME".into(), user.home.display().to_string());
    }
    environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let configured =
        program.environment.iter().map(|(name, value)| (name.clone(), expand(value, &variables)));
    environment.extend(configured);
    Spec {
        executable: None,
        command: program.command.iter().map(|word| expand(word, &variables)).collect(),
        environment: environment.into_iter().collect(),
        directory: program.directory.clone(),
        identity: program.user.as_ref().map(|user| Identity {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }),
        umask: program.umask,
        open_files: program.limits.open_files.map_or(surroundings.open_files, |files| (files, files)),
        no_new_privileges: false,
        outlives_reader: true,
        priority: surroundings.priority,
        passed: 0,
    }
}

fn variables(index: u32, address: Option<&Address>) -> Vec<(&'static str, String)> {
    let mut variables = vec![("INSTANCE", index.to_string())];
    if let Some(Address::Tcp(address)) = address {
        variables.push(("PORT", address.port().to_string()));
    }
    variables
}

/// `text` with `$INSTANCE` filled in: for paths of unix sockets.
pub fn expand_instance(text: &str, index: u32) -> String {
    expand(text, &variables(index, None))
}

/// Replaces `$NAME` and `${NAME}` of known names, and `$$` by `$`; everything else stays as it is.
fn expand(text: &str, variables: &[(&'static str, String)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let (before, from) = rest.split_at(start);
        expanded.push_str(before);
        let (length, name) = variable_at(from);
        match variables.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => expanded.push_str(value),
            None if name == "$" => expanded.push('$'),
            None => expanded.push_str(&from[..length]),
        }
        rest = &from[length..];
    }
    expanded + rest
}

/// How long the variable at the start of `text` is as written, and its name.
fn variable_at(text: &str) -> (usize, &str) {
    let after = &text[1..];
    if after.starts_with('$') {
        return (2, "$");
    }
    if let Some((name, _)) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
        return (name.len() + 3, name);
    }
    let length = after.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    (1 + length, &after[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let address = Address::Tcp("127.0.0.1:20001".parse().unwrap());
        assert_eq!(expand(text, &variables(2, Some(&address))), expect);
    }

    #[test]
    fn port_and_instance_are_filled_in_and_nothing_else() {
        check("--port=$PORT", "--port=20001");
        check("127.0.0.1:${PORT}/$INSTANCE", "127.0.0.1:20001/2");
        check("$PORTAL $HOME ${HOME} ${", "$PORTAL $HOME ${HOME} ${");
        check("$", "$");
        check("$$PORT $$", "$PORT $");
        check("${PORT}0 é$INSTANCE", "200010 é2");
    }

    #[test]
    fn path_of_a_socket_gets_the_instance() {
        assert_eq!(expand_instance("/run/app-$INSTANCE.sock", 3), "/run/app-3.sock");
    }
}
