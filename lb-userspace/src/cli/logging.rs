//! The program's own log: one compact line per record on standard error. Reads the environment.

use std::io::Write;

use env_logger::Builder;
use log::Level;

/// Starts it. The level comes from `LBCTL_LOG`, else `RUST_LOG`, else it is `info`.
pub fn start() {
    let levels = std::env::var("LBCTL_LOG").or_else(|_| std::env::var("RUST_LOG"));
    Builder::new()
        .parse_filters(levels.as_deref().unwrap_or("info"))
        .format(|line, record| {
            let style = line.default_level_style(record.level());
            let level = name(record.level());
            writeln!(line, "{} {style}{level}{style:#} {}", line.timestamp_millis(), record.args())
        })
        .init();
}

/// The level, all of one width.
const fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn ",
        Level::Info => "info ",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}
