//! Plain tables in the manner of `ps`: no frames, two blanks between columns, colour for states.

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};

/// How the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// The narrowest that the last column is folded to.
const LAST_WIDTH_MIN: u16 = 24;

/// A table of `rows` under `titles`. Where the terminal's `width` is known, the last column is folded to fit it.
pub fn table(titles: &[(&str, Align)], rows: Vec<Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(titles.iter().map(|(title, _)| *title)).add_rows(rows);
    for (column, (_, align)) in table.column_iter_mut().zip(titles) {
        column.set_padding((0, 2));
        column.set_cell_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
    }
    fold(&mut table, width);
    let plain = table.trim_fmt();
    let (title, body) = plain.split_once('\n').unwrap_or((&plain, ""));
    let bold = Style::new().bold();
    format!("{bold}{title}{bold:#}\n{}", paint(body))
}

/// Makes the last column take what the others leave of `width`.
fn fold(table: &mut Table, width: Option<u16>) {
    let widths = table.column_max_content_widths();
    let (Some(width), Some((last, others))) = (width, widths.split_last()) else { return };
    let taken: u16 = others.iter().map(|content| content + 2).sum();
    let room = width.saturating_sub(taken).max(LAST_WIDTH_MIN);
    if *last + 2 > room
        && let Some(column) = table.column_mut(others.len())
    {
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(room)));
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(taken + room);
    }
}

/// `text` with the words for states in their colours.
pub fn paint(text: &str) -> String {
    let mut painted = String::with_capacity(text.len());
    for word in text.split_inclusive(char::is_whitespace) {
        let bare = word.trim_end();
        match style(bare) {
            Some(style) => painted.push_str(&format!("{style}{bare}{style:#}{}", &word[bare.len()..])),
            None => painted.push_str(word),
        }
    }
    painted
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
        [("NAME", Align::Left), ("PID", Align::Right), ("REASON", Align::Left)];

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
    fn states_are_coloured_and_other_words_are_not() {
        let green = AnsiColor::Green.on_default();
        assert_eq!(paint("a RUNNING  b"), format!("a {green}RUNNING{green:#}  b"));
        assert_eq!(paint("RUNNINGS"), "RUNNINGS");
    }
}
