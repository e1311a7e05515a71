//! What `lbctl logs` shows: lines of programs, with the instance that wrote each.

use anstyle::{AnsiColor, Style};

use crate::printable::printable;

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
        assert!(!strip_str(&output("docs:0", "stdout", "a\x1b[2Jb")).to_string().contains('\x1b'));
        assert!(output("docs:0", "stdout", "a\x1b[2Jb").contains("a\u{fffd}[2Jb"));
    }
}
