//! docs/troubleshooting.md names commands and checks that there are.

use std::collections::BTreeSet;

use clap::Parser;
use scm_agent::cli::Cli;
use scm_agent::cli::doctor::CHECKS;

const PAGE: &str = include_str!("../../../docs/troubleshooting.md");

/// What stands in code: between backticks, and the lines of blocks without their prompt and comment.
fn code() -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in PAGE.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            let line = line.trim_start_matches(['$', '#', ' ']);
            found.extend(line.split('#').next().map(|command| command.trim().to_owned()));
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_command_on_the_page_is_one_that_the_program_takes() {
    let mut seen = BTreeSet::new();
    for command in code() {
        let words: Vec<&str> = command.split_whitespace().skip_while(|word| *word == "sudo").collect();
        if words.first() != Some(&"scm-agent") || words.len() < 2 {
            continue;
        }
        // `scm-agent doctor` names a thing as well as a command, and both are to be there.
        if let Err(error) = Cli::try_parse_from(&words) {
            panic!("{command}: {error}");
        }
        seen.insert(words[1].to_owned());
    }
    for command in ["doctor", "explain", "login", "logout", "accounts", "trust", "sync", "reload", "config", "git", "key"] {
        assert!(seen.contains(command), "{command} is not on the page");
    }
}

#[test]
fn every_check_of_doctor_is_on_the_page_and_no_other() {
    let table = PAGE.split("## The checks of doctor").nth(1).unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<Vec<_>>(), CHECKS);
}
