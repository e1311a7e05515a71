//! Wrong configuration files and the reports about them, compared to the letter.
//!
//! After a change of messages: `UPDATE_EXPECTED=1 cargo test -p lb-tests --test config`, then read the difference.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read and write their fixtures")]

use std::path::{Path, PathBuf};

use lb_userspace::config::{Report, read, schema};

/// Relative to the package, where tests run, so that no report holds the path of a checkout.
const FOLDER: &str = "fixtures/config";

fn fixtures() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(FOLDER).expect("tests run in the folder of their package");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

/// What `lbctl check` shows on a terminal so wide that who runs it does not move a line break.
fn shown(report: &Report) -> String {
    let text = report.render(false, 160).replace("lbctl (root)", "lbctl (WHO)");
    let uid = format!("lbctl (uid {})", rustix::process::geteuid().as_raw());
    text.replace(&uid, "lbctl (WHO)").lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn report_of(path: &Path) -> Report {
    match read(path) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    }
}

#[test]
fn reports_are_as_expected() {
    let is_update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut wrong = Vec::new();
    let fixtures = fixtures();
    assert!(fixtures.len() >= 20);
    for path in fixtures {
        let report = report_of(&path);
        let is_warning = path.to_string_lossy().contains("-warn-");
        assert_eq!(report.has_errors(), !is_warning, "{}", path.display());
        let expected = path.with_extension("expected");
        let found = shown(&report);
        if is_update {
            std::fs::write(&expected, &found).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("--- {}\n{found}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "these reports changed:\n{}", wrong.join("\n"));
}

#[test]
fn every_problem_has_a_place_and_a_hint() {
    for path in fixtures() {
        for entry in report_of(&path).entries() {
            assert!(!entry.hint.is_empty(), "{}: {}", path.display(), entry.message);
            let is_whole_file = path.to_string_lossy().contains("not-utf-8");
            assert_eq!(entry.line.is_none(), is_whole_file, "{}: {}", path.display(), entry.message);
        }
    }
}

#[test]
fn the_ports_of_upstream_and_command_are_both_named() {
    let report = report_of(&Path::new(FOLDER).join("30-warn-port-8080-8081.toml"));
    let entries = report.entries();
    let message = &entries.iter().find(|entry| entry.message.contains("8081")).unwrap().message;
    assert_eq!(
        message,
        "upstream \"app_server\" expects 127.0.0.1:8080, but the command of program \"myapp\" has `-b 127.0.0.1:8081`"
    );
}

#[test]
fn the_schema_knows_every_section() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    for section in [
        "include", "node", "metrics", "kernel", "log", "listener", "route", "upstream", "program", "vip",
        "guard",
    ] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
    let program = &schema["properties"]["program"]["additionalProperties"];
    assert_eq!(program["required"], serde_json::json!(["command"]));
    assert_eq!(program["properties"]["instances"]["default"], 1);
    assert_eq!(schema["properties"]["listener"]["items"]["required"], serde_json::json!(["name", "bind"]));
}
