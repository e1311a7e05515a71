//! The status report as operators ask for it: whole, or the part that names select.

use crate::control::protocol::StatusReport;

/// The part of a report that `names` select (programs, instances, upstreams, `upstream/address`); all of it for no names.
///
/// # Errors
/// The first name that nothing has.
pub fn select(report: StatusReport, names: &[String]) -> Result<StatusReport, String> {
    let mut report = report;
    if let Some(unknown) = names.iter().find(|name| !is_known(&report, name)) {
        return Err(unknown.clone());
    }
    if !names.is_empty() {
        report.instances.retain(|each| names.contains(&each.name) || names.contains(&each.program));
        report.backends.retain(|each| {
            let static_name = format!("{}/{}", each.upstream, each.name);
            let program = each.name.rsplit_once(':').map_or("", |(program, _)| program);
            names.iter().any(|name| {
                *name == each.name || *name == each.upstream || *name == static_name || *name == program
            })
        });
    }
    Ok(report)
}

fn is_known(report: &StatusReport, name: &str) -> bool {
    report.instances.iter().any(|each| each.name == name || each.program == name)
        || report
            .backends
            .iter()
            .any(|each| each.upstream == name || format!("{}/{}", each.upstream, each.name) == name)
}
