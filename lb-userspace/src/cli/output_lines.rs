//! What `lbctl logs` shows: lines of programs, with the instance that wrote each.

use anstyle::{AnsiColor, Style};

/// The colours that tell instances apart.
const COLOURS: [AnsiColor; 5] =
    [AnsiColor::Cyan, AnsiColor::Green, AnsiColor::Magenta, AnsiColor::Yellow, AnsiColor::Blue];

/// `docs:0 | text`; lines of stderr have `!` in place of `|`.
pub fn output(instance: &str, stream: &str, text: &str) -> String {
    let style = colour(instance);
    let bar = if stream == "stderr" { '!' } else { '|' };
    format!("{style}{instance} {bar}{style:#} {}", printable(text))
}

/// The same colour for the same instance, another for its neighbour.
fn colour(instance: &str) -> Style {
    let sum: usize = instance.bytes().map(usize::from).sum();
    COLOURS[sum % COLOURS.len()].on_default()
}

/// `text` without control characters, so that a program cannot write to the operator's terminal as it likes.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    #[test]
    fn lines_name_instance_and_stream() {
        let plain = |stream| strip_str(&output("docs:0", stream, "hello")).to_string();
        assert_eq!(plain("stdout"), "docs:0 | hello");
        assert_eq!(plain("stderr"), "docs:0 ! hello");
    }

    #[test]
    fn neighbours_have_different_colours() {
        assert_ne!(colour("docs:0"), colour("docs:1"));
    }

    #[test]
    fn escape_sequences_of_programs_are_not_passed_on() {
        assert_eq!(printable("a\x1b[2Jb\tc"), "a\u{fffd}[2Jb\tc");
    }
}
