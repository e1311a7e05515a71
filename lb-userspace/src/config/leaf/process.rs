//! What describes a process: command, umask, signal, cores.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use toml::de::DeValue;

use crate::config::reading::{FromText, FromToml, Reading, Refusal, integer, nearest, not_yet};
use crate::config::report::{Place, quote};

/// A command, split into words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine(pub Vec<String>);

/// `umask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Umask(pub u32);

/// A signal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Signal(pub i32);

/// A number of cores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cores(pub f64);

/// The signals by which a program may be stopped.
const SIGNALS: [(&str, i32); 9] = [
    ("TERM", libc::SIGTERM),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("HUP", libc::SIGHUP),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("WINCH", libc::SIGWINCH),
    ("ABRT", libc::SIGABRT),
];

/// Most cores that a limit may name.
const CORES_MAX: f64 = 4096.0;

impl FromText for CommandLine {
    const EXPECTED: &'static str = "a command";
    const EXAMPLE: &'static str = "/usr/bin/app --port $PORT";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        if text.contains('\0') {
            return Err(Refusal::new("the command holds a NUL character", "NUL in here", "remove \\u0000"));
        }
        if text.contains("$LISTEN_FDS") {
            let hint = "let the program listen on $PORT meanwhile";
            return Err(not_yet("$LISTEN_FDS", hint));
        }
        let words = shell_words::split(text).map_err(|_| {
            let message = format!("{} cannot be split into words", quote(text));
            Refusal::new(message, "a quote is not closed", "close every ' and \", or write \\' and \\\"")
        })?;
        if words.first().is_none_or(String::is_empty) {
            let hint = "write program and arguments: \"/usr/bin/app --port $PORT\"";
            return Err(Refusal::new("the command is empty", "no program in it", hint));
        }
        Ok(Self(words))
    }
}

impl FromText for Signal {
    const EXPECTED: &'static str = "a signal";
    const EXAMPLE: &'static str = "TERM";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let names = SIGNALS.map(|(name, _)| name);
        let all = names.join(", ");
        let hint = match nearest(name, &names) {
            Some(near) => format!("did you mean \"{near}\"? Allowed are {all}"),
            None => format!("allowed are {all}"),
        };
        Err(Refusal::new(format!("{} is not a signal", quote(text)), "not a signal", hint))
    }
}

impl FromToml for Umask {
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self> {
        let bits = match value {
            DeValue::String(text) if text.len() <= 4 => u32::from_str_radix(text, 8).ok(),
            DeValue::Integer(number) if number.radix() == 8 => {
                integer(value).and_then(|bits| u32::try_from(bits).ok())
            }
            DeValue::String(_) | DeValue::Integer(_) => None,
            _ => {
                reading.wrong_type(value, place, "a umask", "\"022\"");
                return None;
            }
        };
        if let Some(bits) = bits.filter(|bits| *bits <= 0o777) {
            return Some(Self(bits));
        }
        let hint = "write it in octal as a string: \"022\", or as 0o022";
        let written = match value {
            DeValue::String(text) => quote(text),
            DeValue::Integer(number) => number.to_string(),
            _ => String::new(),
        };
        let message = format!("{written} is not a umask");
        reading.refuse(place, Refusal::new(message, "not octal between 000 and 777", hint));
        None
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "pattern": "^[0-7]{1,4}$", "examples": ["022"] })
    }
}

impl FromToml for Cores {
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self> {
        let cores = match value {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(_) => integer(value).map(|number| number as f64),
            _ => {
                reading.wrong_type(value, place, "a number of cores", "1.5");
                return None;
            }
        };
        if let Some(cores) = cores.filter(|cores| (0.01..=CORES_MAX).contains(cores)) {
            return Some(Self(cores));
        }
        let message = "not a possible number of cores";
        reading.refuse(
            place,
            Refusal::new(message, "out of range", "write a number from 0.01 to 4096, such as 1.5"),
        );
        None
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0.01, "maximum": CORES_MAX })
    }
}
