//! scm-agent.toml(5): `config.example.toml` as a manual page.

use roff::{Roff, bold, roman};

use super::{entry, prose, references, setting, title};

const EXAMPLE: &str = include_str!("../../../config.example.toml");

/// What the example says, piece by piece.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    /// `key = value` or `#key = value`.
    Key(&'a str, &'a str),
    /// A comment of several lines, each without its `# `, and what it is about right below.
    Prose(Vec<&'a str>),
    /// `[section]` or `#[[section]]`, with its brackets.
    Section(&'a str),
}

/// Takes the example apart. Prose has a blank after its `#`; what is shown and not in force has none.
fn pieces(example: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut comment = Vec::new();
    for line in example.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment.push(text);
            continue;
        }
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.is_empty() {
            // About the file, not about what comes next.
            comment.clear();
        } else if !comment.is_empty() {
            pieces.push(Piece::Prose(std::mem::take(&mut comment)));
        }
        if line.starts_with('[') {
            pieces.push(Piece::Section(line));
        } else if let Some((name, value)) = line.split_once(" = ") {
            pieces.push(Piece::Key(name, value));
        }
    }
    pieces
}

/// The page.
pub(super) fn page(date: &str) -> Roff {
    let mut roff = Roff::new();
    title(&mut roff, "scm-agent.toml", "5", date);
    roff.control("SH", ["NAME"]);
    roff.text([roman("scm-agent.toml - configuration of scm-agent")]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold("/etc/scm-agent/config.toml")]);
    roff.control("br", []);
    roff.text([bold("/etc/scm-agent/config.d/*.toml")]);
    description(&mut roff);
    let mut comment = Vec::new();
    for piece in pieces(EXAMPLE) {
        match piece {
            Piece::Prose(lines) => {
                comment = lines;
                continue;
            }
            Piece::Section(name) => roff.control("SH", [name]),
            Piece::Key(name, value) => roff.control("TP", []).text(setting(name, value)),
        };
        // The backticks of a word may stand in two lines.
        let text = std::mem::take(&mut comment).join(" ");
        if !text.is_empty() {
            roff.text(prose(&text));
        }
    }
    roff.control("SH", ["FILES"]);
    entry(&mut roff, "/usr/share/doc/scm-agent/config.example.toml", "All of this as a file that loads, for a start.");
    references(&mut roff, &[("scm-agent".to_owned(), "1"), ("scm-agent-config".to_owned(), "1"), ("scm-agent-reload".to_owned(), "1")]);
    roff
}

fn description(roff: &mut Roff) {
    roff.control("SH", ["DESCRIPTION"]);
    for (number, paragraph) in [
        "scm-agent reads config.toml, unless `--config` or `SCM_AGENT_CONFIG` names another file, and then `config.d/*.toml` beside it, in the \
         order of their names: what comes later goes before what came earlier. The variable `SCM_AGENT__SECTION__KEY` goes before all files; a \
         list in it has commas between its values. Tables of which there can be several add up, in the order in which they are read.",
        "Each key is shown with its default, or with an example where its text or its section's says so. A relative path starts at the folder of the file \
         that holds it. Durations have a unit: 500ms, 30s, 5m, 1h30m. A key that does not exist is an error. No secret belongs in here, only the paths of files.",
        "`scm-agent config check` says what is wrong, all at once; `scm-agent config show` says what is in force and where it comes from. A daemon that \
         runs takes changes over with `scm-agent reload`, which names those that wait for the next start.",
    ]
    .iter()
    .enumerate()
    {
        if number > 0 {
            roff.control("PP", []);
        }
        roff.text(prose(paragraph));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;

    #[test]
    fn the_example_is_taken_apart() {
        let example =
            "# About all.\n#\n# More.\n\n# Says\n# two lines.\n[one]\n# A key.\nset = 1\n# Another.\n#shown = \"a = b\"\n#[[two]]\n";
        let expected = [
            Piece::Prose(vec!["Says", "two lines."]),
            Piece::Section("[one]"),
            Piece::Prose(vec!["A key."]),
            Piece::Key("set", "1"),
            Piece::Prose(vec!["Another."]),
            Piece::Key("shown", "\"a = b\""),
            Piece::Section("[[two]]"),
        ];
        assert_eq!(pieces(example), expected);
    }

    #[test]
    fn the_page_has_every_key_in_its_section() {
        let page = page("2026-01-02").render();
        let sections: Vec<&str> = page.split("\n.SH ").collect();
        for (section, keys) in KEYS {
            let heading = [format!("[{section}]\n"), format!("[[{section}]]\n")];
            let found = sections
                .iter()
                .filter(|text| heading.iter().any(|heading| text.replace("\\-", "-").starts_with(heading)))
                .collect::<Vec<_>>();
            assert_eq!(found.len(), 1, "{section}");
            for key in keys {
                assert_eq!(found[0].matches(&format!(".TP\n\\fB{key}\\fR = ")).count(), 1, "{section}.{key}");
            }
        }
    }
}
