//! Columns and paragraphs as wide as there is room, in colours if wanted. Nothing that comes from elsewhere acts upon the terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::cli::style::{Paint, Style};
use crate::git::frame::is_hidden;

/// What stands between columns.
const GAP: &str = "  ";

/// A text, and what it is to be taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn new(style: Style, text: impl AsRef<str>) -> Self {
        Self { text: clean(text.as_ref()), style }
    }

    fn width(&self) -> usize {
        self.text.width()
    }
}

/// Text as a terminal shows it: what would act upon it, or cannot be seen, is replaced.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// A column, and what becomes of it where room is short.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    /// The lower, the sooner it is left out; `None` for never.
    pub(super) expendable: Option<u8>,
    /// It is a word that says nothing when it is cut.
    pub(super) is_whole: bool,
    pub(super) name: &'static str,
}

/// The columns with their headings, at most so wide.
pub(super) fn table<const N: usize>(columns: [Column; N], rows: &[[Cell; N]], width: Option<usize>, paint: Paint) -> Vec<String> {
    let mut widths = columns.map(|column| column.name.width());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut shown: Vec<usize> = (0..N).collect();
    let total = |shown: &[usize], widths: &[usize; N]| {
        shown.iter().map(|column| widths[*column]).sum::<usize>() + GAP.len() * shown.len().saturating_sub(1)
    };
    if let Some(width) = width {
        while total(&shown, &widths) > width {
            let next = shown.iter().filter_map(|column| Some((columns[*column].expendable?, *column))).min();
            let Some((_, next)) = next else { break };
            shown.retain(|column| *column != next);
        }
        // The widest gives way, until they are alike.
        while total(&shown, &widths) > width {
            let Some(widest) = shown
                .iter()
                .copied()
                .filter(|column| !columns[*column].is_whole)
                .max_by_key(|column| widths[*column])
                .filter(|column| widths[*column] > 8)
            else {
                break;
            };
            widths[widest] -= 1;
        }
    }
    let heading = columns.map(|column| Cell { text: column.name.to_owned(), style: Style::Dim });
    std::iter::once(&heading)
        .chain(rows)
        .map(|row| {
            let mut line = String::new();
            for (position, column) in shown.iter().enumerate() {
                let text = cut(&row[*column].text, widths[*column]);
                line.push_str(&paint.text(row[*column].style, &text));
                let is_last = shown[position + 1..].iter().all(|later| row[*later].text.is_empty());
                if is_last {
                    break;
                }
                line.extend(std::iter::repeat_n(' ', widths[*column].saturating_sub(text.width())));
                line.push_str(GAP);
            }
            line
        })
        .collect()
}

/// A text that fits, with an ellipsis for its middle: names differ at either end.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let fitting = |characters: &mut dyn Iterator<Item = char>, room: usize| {
        let mut used = 0;
        let fits = |c: &char| {
            used += c.width().unwrap_or(0);
            used <= room
        };
        characters.take_while(fits).collect::<String>()
    };
    let begin = fitting(&mut text.chars(), room.div_ceil(2));
    let end = fitting(&mut text.chars().rev(), room / 2);
    begin.chars().chain(['\u{2026}']).chain(end.chars().rev()).collect()
}

/// A paragraph whose further lines are indented by `indent`, and whose first is already that far.
pub(in crate::cli) fn wrap(text: &str, indent: usize, width: Option<usize>) -> Vec<String> {
    let Some(width) = width else { return vec![clean(text)] };
    let mut lines = vec![String::new()];
    let mut used = indent;
    for word in clean(text).split(' ') {
        let is_first = lines.last().is_some_and(String::is_empty);
        if !is_first && used + 1 + word.width() > width {
            lines.push(String::new());
            used = indent;
        } else if !is_first {
            used += 1;
            if let Some(line) = lines.last_mut() {
                line.push(' ');
            }
        }
        used += word.width();
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::style::ColorWhen;

    const COLUMNS: [Column; 3] = [
        Column { name: "HOST", expendable: None, is_whole: false },
        Column { name: "ID", expendable: Some(0), is_whole: false },
        Column { name: "TOKEN", expendable: None, is_whole: false },
    ];

    fn rows(rows: &[[&str; 3]]) -> Vec<[Cell; 3]> {
        rows.iter().map(|row| row.map(|text| Cell::new(Style::Plain, text))).collect()
    }

    fn drawn(texts: &[[&str; 3]], width: Option<usize>) -> Vec<String> {
        table(COLUMNS, &rows(texts), width, ColorWhen::Never.paint(false))
    }

    #[test]
    fn columns_are_as_wide_as_what_is_seen_of_their_cells() {
        // Two of these take four places, and the accent takes none.
        let found = drawn(&[["\u{65e5}\u{672c}", "1", "a"], ["e\u{301}", "22", ""], ["", "", "b"]], None);
        assert_eq!(found, ["HOST  ID  TOKEN", "\u{65e5}\u{672c}  1   a", "e\u{301}     22", "          b"]);
        // A text can be wider than its characters.
        assert_eq!(drawn(&[[&"\u{263a}\u{fe0f}".repeat(40), "", "a"]], Some(30)).len(), 2);
    }

    #[test]
    fn where_room_is_short_columns_go_and_then_the_widest_are_cut_in_their_middle() {
        let texts = [["a-very-long-name.of-some.example.com", "123", "valid, 1h left"]];
        assert_eq!(drawn(&texts, Some(57))[1], "a-very-long-name.of-some.example.com  123  valid, 1h left");
        assert_eq!(drawn(&texts, Some(56))[1], "a-very-long-name.of-some.example.com  valid, 1h left");
        assert_eq!(drawn(&texts, Some(40))[1], "a-very-long-\u{2026}example.com  valid, 1h left");
        for width in 0..60 {
            let widest = drawn(&texts, Some(width)).iter().map(|line| line.width()).max().unwrap();
            assert!(widest <= width.max(18), "{width}: {widest}");
        }
    }

    #[test]
    fn paragraphs_break_between_words_and_words_stay_whole() {
        assert_eq!(wrap("one two three", 0, None), ["one two three"]);
        assert_eq!(wrap("one two three", 2, Some(9)), ["one two", "three"]);
        assert_eq!(wrap("one two three", 2, Some(3)), ["one", "two", "three"]);
        assert_eq!(wrap("/a/path/that/is/long x", 0, Some(5)), ["/a/path/that/is/long", "x"]);
        assert_eq!(wrap("", 0, Some(5)), [""]);
    }

    #[test]
    fn nothing_in_a_cell_or_a_paragraph_speaks_to_the_terminal() {
        let evil = "a\u{1b}[2J\r\n\u{9b}0m\u{202e}\u{7}\tb";
        let shown = [drawn(&[[evil, "", ""]], Some(80)).concat(), wrap(evil, 0, Some(80)).concat(), wrap(evil, 0, None).concat()];
        assert!(shown.iter().all(|text| !text.contains(is_hidden)), "{shown:?}");
    }
}
