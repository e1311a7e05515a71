//! Text from outside, such as a program's last line or what a backend answered, as it may be shown: it must not write to an operator's
//! terminal as it likes, nor make a line of a log look like two.

/// `text` on one line, without control characters.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// `text` without control characters but for its line ends.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_not_passed_on() {
        assert_eq!(printable("a\x1b[2Jb\tc\r\n\u{9b}d"), "a\u{fffd}[2Jb\tc\u{fffd}\u{fffd}\u{fffd}d");
        assert_eq!(printable_lines("a\x1b[2J\nb"), "a\u{fffd}[2J\nb");
    }
}
