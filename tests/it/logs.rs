//! The log: its documentation, and what comes out of a daemon in each format.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every source file of the daemon.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The arguments of a macro call whose text begins here, up to its end: split at commas that are not within brackets or quotes.
fn arguments(text: &str) -> Vec<String> {
    let (mut parts, mut depth, mut is_quoted, mut escaped) = (vec![String::new()], 0, false, false);
    for c in text.chars() {
        if is_quoted {
            is_quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else {
            match c {
                '"' => is_quoted = true,
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' if depth == 0 => break,
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(String::new());
                    continue;
                }
                _ => {}
            }
        }
        parts.last_mut().unwrap().push(c);
    }
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// The events of the audit log with their fields, as the source has them.
fn events_in_the_source() -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut events: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (at, marker) in text.match_indices("target: \"audit\",") {
            let arguments = arguments(&text[at + marker.len()..]);
            let line = text[..at].lines().count();
            let event = arguments[0].strip_prefix("event = \"").and_then(|rest| rest.strip_suffix('"'));
            let event = event.unwrap_or_else(|| panic!("{}:{line}: an audit line begins with its event", file.display()));
            let fields = arguments[1..].iter().filter(|argument| !argument.starts_with('"'));
            let fields = fields.map(|field| field.split(" = ").next().unwrap().trim_start_matches(['%', '?']).to_owned());
            events.entry(event.to_owned()).or_default().extend(fields);
        }
    }
    events
}

/// The first cells of the rows under a heading whose first cell is this one, with their second.
fn table<'t>(page: &'t str, heading: &str) -> Vec<(&'t str, &'t str)> {
    let rows = page.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |"))).skip(2);
    let cells = rows.take_while(|line| line.starts_with('|')).map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[1], cells[2])).collect()
}

#[test]
fn each_event_of_the_audit_log_is_documented_with_its_fields_and_no_other() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logs.md")).unwrap();
    let rows = table(&page, "event");
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    assert!(names.is_sorted(), "{names:?}");
    let documented: BTreeMap<String, BTreeSet<String>> = rows
        .into_iter()
        .map(|(event, fields)| {
            let fields = fields.split(", ").filter(|field| !field.is_empty()).map(str::to_owned).collect();
            (event.trim_matches('`').to_owned(), fields)
        })
        .collect();
    let events = events_in_the_source();
    assert!(events.len() > 20, "{events:?}");
    for (event, fields) in &events {
        let known = documented.get(event).unwrap_or_else(|| panic!("docs/logs.md does not know the event {event} with {fields:?}"));
        assert_eq!(fields, known, "the fields of {event} in the source and in docs/logs.md");
    }
    for event in documented.keys() {
        assert!(events.contains_key(event), "docs/logs.md has the event {event}, which nothing logs");
    }
}
