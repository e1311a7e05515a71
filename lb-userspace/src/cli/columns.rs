//! Plain tables in the manner of `ps`: no frames, two blanks between columns, colour for states.

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

use crate::printable::printable;

/// How the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words and names, never folded.
    Left,
    /// Numbers, never folded.
    Right,
    /// Sentences: folded where the terminal is too narrow.
    Fold,
}

/// The narrowest that a column is folded to.
const FOLDED_WIDTH_MIN: u16 = 24;

/// A table of `rows` under `titles`; what a cell holds of control characters is not shown. Where the terminal's `width` is known, sentences are folded to fit it.
pub fn table(titles: &[(&str, Align)], rows: Vec<Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    let rows = rows.iter().map(|row| row.iter().map(|cell| printable(cell)));
    table.load_preset(presets::NOTHING).set_header(titles.iter().map(|(title, _)| *title)).add_rows(rows);
    for (column, (_, align)) in table.column_iter_mut().zip(titles) {
        column.set_padding((0, 2));
        column.set_cell_alignment(match align {
            Align::Left | Align::Fold => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
    }
    if let Some(width) = width {
        fold(&mut table, titles, width);
    }
    let plain = table.trim_fmt();
    let (title, body) = plain.split_once('\n').unwrap_or((&plain, ""));
    let bold = Style::new().bold();
    format!("{bold}{title}{bold:#}\n{}", paint(body))
}

/// Lets the columns of sentences share what the others leave of `width`.
fn fold(table: &mut Table, titles: &[(&str, Align)], width: u16) {
    let mut wanted: Vec<u16> = table.column_max_content_widths().iter().map(|content| content + 2).collect();
    let folding: Vec<usize> = (0..titles.len()).filter(|index| titles[*index].1 == Align::Fold).collect();
    let mut excess = wanted.iter().sum::<u16>().saturating_sub(width);
    // The widest gives first, down to the next widest, so that a short sentence stays on its line.
    while let Some(widest) = folding.iter().copied().max_by_key(|index| wanted[*index])
        && excess > 0
        && wanted[widest] > FOLDED_WIDTH_MIN
    {
        wanted[widest] -= 1;
        excess -= 1;
    }
    for index in folding {
        if let Some(column) = table.column_mut(index) {
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(wanted[index])));
        }
    }
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(wanted.iter().sum());
}

/// `text` with the cells that hold nothing but a state in their colours. A cell ends with two blanks, so the same word in
/// a sentence stays plain.
fn paint(text: &str) -> String {
    let mut painted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(end) = rest.find(char::is_whitespace) {
        let (word, after) = rest.split_at(end);
        match style(word).filter(|_| after.starts_with("  ")) {
            Some(style) => painted.push_str(&format!("{style}{word}{style:#}")),
            None => painted.push_str(word),
        }
        let blanks = after.len() - after.trim_start().len();
        painted.push_str(&after[..blanks]);
        rest = &after[blanks..];
    }
    painted + rest
}

/// The colour of a state; `None` for other words.
fn style(word: &str) -> Option<Style> {
    match word {
        "RUNNING" | "IN" | "on" => Some(AnsiColor::Green.on_default()),
        "STARTING" | "STOPPING" | "WARMING" | "DRAINING" | "HELD" => Some(AnsiColor::Yellow.on_default()),
        "BACKOFF" | "FATAL" | "OUT" => Some(AnsiColor::Red.on_default()),
        "STOPPED" | "EXITED" | "off" => Some(Style::new().dimmed()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    const TITLES: [(&str, Align); 3] =
        [("NAME", Align::Left), ("PID", Align::Right), ("REASON", Align::Fold)];

    fn plain(width: Option<u16>) -> String {
        let rows = vec![
            vec!["docs:0".into(), "7".into(), "ready".into()],
            vec![
                "docs:10".into(),
                "4711".into(),
                "the kernel saw that the last listening socket closed".into(),
            ],
        ];
        strip_str(&table(&TITLES, rows, width)).to_string()
    }

    #[test]
    fn columns_are_as_wide_as_their_contents() {
        let expect = "\
NAME      PID  REASON
docs:0      7  ready
docs:10  4711  the kernel saw that the last listening socket closed";
        assert_eq!(plain(None), expect);
        assert_eq!(plain(Some(120)), expect);
    }

    #[test]
    fn a_narrow_terminal_folds_the_last_column() {
        let expect = "\
NAME      PID  REASON
docs:0      7  ready
docs:10  4711  the kernel saw that the
               last listening socket
               closed";
        assert_eq!(plain(Some(40)), expect);
    }

    #[test]
    fn what_programs_said_cannot_move_the_cursor() {
        let said = vec!["docs:0".into(), "7".into(), "last line: \x1b]0;title\x07\x1b[2J\nRUNNING".into()];
        let text = strip_str(&table(&TITLES, vec![said.clone()], None)).to_string();
        assert!(text.ends_with("last line: \u{fffd}]0;title\u{fffd}\u{fffd}[2J\u{fffd}RUNNING"), "{text:?}");
        assert!(!table(&TITLES, vec![said], None).contains("\x1b[2J"));
    }

    #[test]
    fn states_are_coloured_and_other_words_are_not() {
        let green = AnsiColor::Green.on_default();
        assert_eq!(paint("a RUNNING  b"), format!("a {green}RUNNING{green:#}  b"));
        assert_eq!(paint("RUNNINGS  b"), "RUNNINGS  b");
        assert_eq!(paint("  listens on port 80\n"), "  listens on port 80\n");
    }
}
