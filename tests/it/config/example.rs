//! `config.example.toml` is whole, true and loads.

use std::collections::BTreeSet;

use scm_agent::config::{KEYS, Origin};

use super::{Folder, LEAST};

const EXAMPLE: &str = include_str!("../../../config.example.toml");

/// The keys of the example with section and value: `#key = value` and `key = value`. Prose has a blank after its `#`.
fn keys() -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in EXAMPLE.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((name, value)) = line.split_once(" = ").filter(|_| !line.starts_with(' ')) {
            keys.push((section.clone(), name.to_owned(), value.to_owned()));
        }
    }
    keys
}

#[test]
fn the_example_loads_as_it_is() {
    let config = Folder::new(EXAMPLE).load(&[]).unwrap();
    assert_eq!(config.control_plane.runner_id.as_deref(), Some("00000000-0000-0000-0000-000000000000"));
    let set: Vec<&str> = config.settings().iter().filter(|setting| setting.origin != Origin::Default).map(|setting| setting.name).collect();
    assert_eq!(set, ["runner_id"]);
}

#[test]
fn the_example_loads_with_every_line_in_force() {
    let all: String = EXAMPLE
        .lines()
        // A file stands instead of a URL, a credential instead of a file.
        .filter(|line| !line.starts_with("#file = ") && !line.starts_with("#pat_credential = "))
        .map(|line| if line.starts_with("# ") { line } else { line.strip_prefix('#').unwrap_or(line) })
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = Folder::new(&all).load(&[]).unwrap();
    let unset: Vec<&str> = config.settings().iter().filter(|setting| setting.value.is_none()).map(|setting| setting.name).collect();
    assert_eq!(unset, ["file", "pat_credential"]);
}

#[test]
fn the_example_has_every_key_exactly_once_and_no_other() {
    let keys = keys();
    let written: Vec<(&str, &str)> = keys.iter().map(|(section, name, _)| (section.as_str(), name.as_str())).collect();
    let once: BTreeSet<_> = written.iter().copied().collect();
    let known: BTreeSet<(&str, &str)> = KEYS.iter().flat_map(|(section, names)| names.iter().map(|name| (*section, *name))).collect();
    assert_eq!(once, known);
    assert_eq!(once.len(), written.len(), "a key is there twice");
}

#[test]
fn the_example_states_the_defaults_of_the_code() {
    let keys = keys();
    let config = Folder::new(LEAST).load(&[]).unwrap();
    let mut compared = 0;
    for setting in config.settings() {
        let (Some(default), Origin::Default) = (&setting.value, &setting.origin) else { continue };
        let (_, _, stated) = keys.iter().find(|(section, name, _)| section == setting.section && name == setting.name).unwrap();
        assert_eq!(stated, default, "{}.{}", setting.section, setting.name);
        compared += 1;
    }
    assert_eq!(compared, 23);
}

#[test]
fn every_key_of_the_example_is_explained_in_the_line_above_it() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for pair in lines.windows(2) {
        let key = pair[1].strip_prefix('#').unwrap_or(pair[1]);
        if key.contains(" = ") && !key.starts_with(' ') {
            assert!(pair[0].starts_with("# "), "nothing explains {}", pair[1]);
        }
    }
}
