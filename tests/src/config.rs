//! Configuration texts that tests start from.

use crate::binary::{lbctl, test_program};

/// `instances` of the demonstration backend behind one listener on `port`; `extra` is put at the end.
pub fn demo(port: u16, instances: u32, extra: &str) -> String {
    format!(
        r#"
[metrics]
bind = ""

[[listener]]
name = "web"
bind = ["127.0.0.1:{port}"]
protocol = "http"

[[route]]
listener = "web"
path = "/"
upstream = "demo"

[upstream.demo]
probe = {{ http = "/health", every = "1s", timeout = "1s", down_after = 2, up_after = 1 }}

[program.demo]
upstream = "demo"
command = "{command}"
address = "127.0.0.1:0"
instances = {instances}
startup = {{ http = "/health", every = "250ms", within = "20s" }}
stop = {{ signal = "TERM", drain_timeout = "2s", kill_after = "2s" }}
{extra}
"#,
        command = demo_command(),
    )
}

/// A listener on `port` whose one route leads to static backends.
pub fn to_backends(port: u16, backends: &[String], upstream: &str, extra: &str) -> String {
    let backends: Vec<String> =
        backends.iter().map(|address| format!("{{ address = \"{address}\" }}")).collect();
    format!(
        r#"
[node]
reason_header = true

[metrics]
bind = ""

[[listener]]
name = "web"
bind = ["127.0.0.1:{port}"]
protocol = "http"

[[route]]
listener = "web"
path = "/"
upstream = "site"
{extra}

[upstream.site]
backends = [{}]
{upstream}
"#,
        backends.join(", ")
    )
}

/// The command of the built-in backend.
pub fn demo_command() -> String {
    format!("{} demo-backend --port $PORT", lbctl().display())
}

/// The command of the tests' own program with these arguments.
pub fn test_command(arguments: &str) -> String {
    format!("{} {arguments}", test_program().display())
}
