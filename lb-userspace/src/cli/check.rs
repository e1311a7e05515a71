//! `lbctl check`: reads the configuration as `up` would, and says what it is. Changes nothing; asks no master.

use std::path::Path;

use serde_json::json;

use super::commands::print;
use super::exit::{CommandError, Exit};
use super::up::CONFIG_DEFAULT;
use crate::config::model::Model;
use crate::config::{self, Loaded, Report};

/// Columns of a report that goes to a file.
const WIDTH_DEFAULT: u16 = 100;

/// Checks the file that was named, or the default one.
///
/// # Errors
/// When standard output cannot be written.
pub fn check(config: Option<&Path>, json: bool, width: Option<u16>) -> Result<Exit, CommandError> {
    let path = config.unwrap_or(Path::new(CONFIG_DEFAULT));
    let result = config::read(path);
    let exit = if result.is_ok() { Exit::Fine } else { Exit::Failed };
    if json {
        print(&as_json(&result))?;
    } else {
        if config.is_none() {
            print(&format!("checking {CONFIG_DEFAULT} (another file: -c FILE)\n"))?;
        }
        // Colours are taken out again where standard output is not a terminal.
        print(&as_text(path, &result, true, width.unwrap_or(WIDTH_DEFAULT)))?;
    }
    Ok(exit)
}

/// The report, and what the file amounts to when it is valid.
fn as_text(path: &Path, result: &Result<Loaded, Report>, color: bool, width: u16) -> String {
    let width = usize::from(width);
    match result {
        Err(report) => report.render(color, width),
        Ok(Loaded { model, warnings, files }) => {
            let warned =
                if warnings.is_empty() { String::new() } else { warnings.render(color, width) + "\n" };
            let more = match files.len() {
                0 | 1 => String::new(),
                count => format!(" and {} it includes", count - 1),
            };
            format!("{warned}{}{more}: valid: {}\n", path.display(), amount(model))
        }
    }
}

/// `2 listeners, 1 route, …`.
fn amount(model: &Model) -> String {
    let backends: usize = model.upstreams.values().map(|upstream| upstream.backends.len()).sum();
    let instances: u32 = model.programs.values().map(|program| program.instances).sum();
    let vips = model.steering.vips.len();
    let mut amounts = vec![
        counted(model.listeners.len(), "listener"),
        counted(model.routes.len(), "route"),
        counted(model.upstreams.len(), "upstream"),
        counted(model.programs.len(), "program"),
        counted(instances as usize, "instance"),
        counted(backends, "static backend"),
    ];
    amounts.extend((vips > 0).then(|| counted(vips, "VIP")));
    amounts.join(", ")
}

/// `no things`, `1 thing`, `2 things`.
fn counted(count: usize, thing: &str) -> String {
    match count {
        0 => format!("no {thing}s"),
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

/// The same for programs.
fn as_json(result: &Result<Loaded, Report>) -> String {
    let value = match result {
        Ok(Loaded { warnings, files, .. }) => {
            json!({"valid": true, "problems": warnings.entries(), "files": files})
        }
        Err(report) => json!({"valid": false, "problems": report.entries()}),
    };
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(config: &str) -> String {
        let result = config::read_text("lb.toml", config, Path::new("/"));
        as_text(Path::new("lb.toml"), &result, false, 80)
    }

    #[test]
    fn a_valid_file_is_counted() {
        let config = r#"
            [[listener]]
            name = "web"
            bind = ["127.0.0.1:8080"]
            [[route]]
            listener = "web"
            upstream = "api"
            [upstream.api]
            backends = [{ address = "127.0.0.1:3000" }, { address = "127.0.0.1:3001" }]
        "#;
        assert_eq!(
            text(config),
            "lb.toml: valid: 1 listener, 1 route, 1 upstream, no programs, no instances, 2 static backends\n"
        );
    }

    #[test]
    fn vips_are_counted_where_there_are_some() {
        let config = r#"
            [[vip]]
            address = "203.0.113.10:443"
            interface = "lo"
            upstream = "api"
            forward = "nat"
            [upstream.api]
            backends = [{ address = "192.0.2.10:8443" }]
        "#;
        assert!(text(config).ends_with("1 static backend, 1 VIP\n"), "{}", text(config));
    }

    #[test]
    fn an_invalid_file_is_reported() {
        let text = text("listener = 1\n");
        assert!(text.contains("lb.toml:1"), "{text}");
        assert!(text.ends_with("1 error\n"), "{text}");
    }

    #[test]
    fn the_demonstration_is_valid_and_warns_of_nothing() {
        let demonstration = crate::demo::config::text(Path::new("/bin/true"), None);
        let text = text(&demonstration);
        assert!(
            text.starts_with("lb.toml: valid: 1 listener, 1 route, 1 upstream, 1 program, 3 instances"),
            "{text}"
        );
    }
}
