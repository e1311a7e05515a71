//! Where a command says that it listens: `-b 127.0.0.1:8081`, `--port=8081`, `:8081`.

use std::net::IpAddr;

/// A port that a command names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// As a person would quote it: flag and value.
    pub written: String,
    /// The word that holds the value.
    pub word: String,
    /// The port.
    pub port: u16,
}

/// Flags whose value is an address to listen on.
const ADDRESS_FLAGS: [&str; 9] =
    ["-b", "--bind", "-l", "--listen", "--listen-address", "--addr", "--address", "--http", "--http-address"];
/// Flags whose value is a port, or an address.
const PORT_FLAGS: [&str; 5] = ["-p", "--port", "--http-port", "--listen-port", "PORT"];
/// A bare number below is rather a count of something.
const BARE_PORT_MIN: u16 = 80;

/// The ports that `words` name, in order.
pub fn named_ports(words: &[String]) -> Vec<NamedPort> {
    let mut ports = Vec::new();
    for (index, word) in words.iter().enumerate().skip(1) {
        let before = words[index - 1].as_str();
        let is_after_flag = index > 1 && before.starts_with('-') && !before.contains('=');
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, value),
            None if is_after_flag && !word.starts_with('-') => (before, word.as_str()),
            None => ("", word.as_str()),
        };
        let Some(port) = port_of(flag, value) else { continue };
        let has_own_flag = flag.is_empty() || word.contains('=');
        let written = if has_own_flag { word.clone() } else { format!("{flag} {value}") };
        ports.push(NamedPort { written, word: word.clone(), port });
    }
    ports
}

fn port_of(flag: &str, value: &str) -> Option<u16> {
    if let Some(attached) =
        flag.is_empty().then(|| value.strip_prefix("-p").or(value.strip_prefix("-b"))).flatten()
    {
        return address_port(attached).or_else(|| bare_port(attached));
    }
    match flag {
        _ if PORT_FLAGS.contains(&flag) => bare_port(value).or_else(|| address_port(value)),
        _ if flag.is_empty() || ADDRESS_FLAGS.contains(&flag) => address_port(value),
        _ => None,
    }
}

fn bare_port(value: &str) -> Option<u16> {
    value.parse().ok().filter(|port| *port >= BARE_PORT_MIN)
}

/// The port of `host:port` where the host is one to listen on.
fn address_port(value: &str) -> Option<u16> {
    let value = value.strip_prefix("tcp://").or(value.strip_prefix("http://")).unwrap_or(value);
    let (host, port) = value.rsplit_once(':')?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_local = matches!(host, "" | "*" | "localhost") || bare.parse::<IpAddr>().is_ok();
    if is_local { port.parse().ok().filter(|port| *port != 0) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_their_port_in_many_ways() {
        let check = |command: &str, expect: &[(&str, u16)]| {
            let words = shell_words::split(command).unwrap();
            let ports = named_ports(&words);
            let found: Vec<(&str, u16)> =
                ports.iter().map(|named| (named.written.as_str(), named.port)).collect();
            assert_eq!(found, expect, "{command}");
        };
        check("gunicorn -b 127.0.0.1:8081 app:app", &[("-b 127.0.0.1:8081", 8081)]);
        check("gunicorn -b127.0.0.1:8081 app", &[("-b127.0.0.1:8081", 8081)]);
        check("gunicorn --bind=:8081 app", &[("--bind=:8081", 8081)]);
        check("app --port 8081", &[("--port 8081", 8081)]);
        check("app --port=8081", &[("--port=8081", 8081)]);
        check("app -p 8081", &[("-p 8081", 8081)]);
        check("app -p8081", &[("-p8081", 8081)]);
        check("app --listen '[::1]:8081'", &[("--listen [::1]:8081", 8081)]);
        check("manage.py runserver 0.0.0.0:8000", &[("0.0.0.0:8000", 8000)]);
        check("app :8081", &[(":8081", 8081)]);
        check("env PORT=8081 app", &[("PORT=8081", 8081)]);
        check("app --port $PORT --bind 127.0.0.1:$PORT", &[]);
        check("app --redis 127.0.0.1:6379 --db=127.0.0.1:5432", &[]);
        check("app -p 4 main:application -l debug", &[]);
        check("app --bind unix:/run/a.sock", &[]);
    }
}
