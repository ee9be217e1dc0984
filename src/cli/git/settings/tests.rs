//! Our reading of git's configuration, held against what the installed git does with it.

use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::test_runner::{Config as RunnerConfig, TestRunner};

use super::*;
use crate::cli::git::text::quoted_for_git;

/// A section's name and what it says; helpers are numbered by their place in the file.
#[derive(Debug, Clone)]
struct Written {
    section: Option<String>,
    says: Says,
}

#[derive(Debug, Clone, Copy)]
enum Says {
    Helper,
    Path(bool),
    Reset,
}

fn sections() -> impl Strategy<Value = Option<String>> {
    let names = vec![
        "https://a.test",
        "https://a.test/",
        "https://A.test:443",
        "https://a.test:8443",
        "https://a.test/org",
        "https://a.test/org/",
        "https://a.test/or",
        "https://a.test/org/deep",
        "https://a.test/org/../x",
        "https://a.test/x%2By",
        "https://a.test/x+y",
        "https://a.test/%7Eu",
        "https://a.test/r%C3%A9",
        "https://u@a.test",
        "https://u:p@a.test",
        "https://*.test",
        "https://*.a.test",
        "https://*",
        "a.test",
        "a.test:8443",
        "a.test/org",
        "u@a.test",
        "https://",
        "HTTPS://a.test",
        "http://a.test",
        "https://git_lab.test",
        "git_lab.test",
        "https://[2001:db8::1]",
        "https://a.test:0443",
        "https://a.test:x",
        "*",
        "a.*",
        "https://a.test/%zz",
        "://a.test",
        "https://a.test?x",
        "https://a.test/..",
    ];
    proptest::option::weighted(0.85, proptest::sample::select(names).prop_map(str::to_owned))
}

fn urls() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "https://a.test",
        "https://a.test/org",
        "https://a.test/org/repo.git",
        "https://a.test/organic/x",
        "https://a.test/ORG/x",
        "https://a.test:8443/org",
        "https://u@a.test/org/deep/r",
        "https://b.a.test/x",
        "https://git_lab.test/x",
        "https://[2001:db8::1]/x",
        "https://a.test/x%2By/z",
        "https://a.test/~u",
        "https://a.test/r%C3%A9/x",
        "https://a.test/x",
        "https://b.test",
    ])
}

fn file(written: &[Written]) -> String {
    let mut text = String::new();
    for (number, Written { section, says }) in written.iter().enumerate() {
        match section {
            None => text.push_str("[credential]\n"),
            Some(name) => writeln!(text, "[credential \"{name}\"]").unwrap(),
        }
        match says {
            Says::Helper => {
                let helper = format!("!f() {{ echo \"{number}:$(sed -n s/^path=//p)\" >>\"$LOG\"; }}; f");
                writeln!(text, "\thelper = {}", quoted_for_git(&helper)).unwrap();
            }
            Says::Path(on) => writeln!(text, "\tuseHttpPath = {on}").unwrap(),
            Says::Reset => text.push_str("\thelper =\n"),
        }
    }
    text
}

fn isolated(mut command: Command, home: &Path) -> Command {
    command
        .current_dir(home)
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0");
    command.env_remove("GIT_ASKPASS").env_remove("SSH_ASKPASS").env("GIT_CONFIG_GLOBAL", home.join("config"));
    command
}

#[test]
fn the_installed_git_asks_the_same_helpers_in_the_same_order() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let says = prop_oneof![6 => Just(Says::Helper), 1 => Just(Says::Reset), 1 => any::<bool>().prop_map(Says::Path)];
    let written = (sections(), says).prop_map(|(section, says)| Written { section, says });
    let strategy = (proptest::collection::vec(written, 1..9), urls());
    let mut runner = TestRunner::new(RunnerConfig { failure_persistence: None, ..RunnerConfig::with_cases(250) });
    let asked_at_all = std::cell::Cell::new(0);
    runner
        .run(&strategy, |(written, url)| {
            use std::io::Write as _;
            std::fs::write(home.join("config"), file(&written)).unwrap();
            let log = home.join("log");
            let _ = std::fs::remove_file(&log);
            let mut fill = isolated(git(&["credential", "fill"]), home).env("LOG", &log).stdin(Stdio::piped()).spawn().unwrap();
            fill.stdin.take().unwrap().write_all(format!("url={url}\n\n").as_bytes()).unwrap();
            fill.wait().unwrap();
            let asked = std::fs::read_to_string(&log).unwrap_or_default();

            let listed = isolated(git(&["config", "--list", "--show-scope", "--show-origin", "-z"]), home).output().unwrap();
            let entries = entries(&listed.stdout);
            let settings = ByUrl::new("credential", &entries);
            let query = Query::new(url).unwrap();
            let path = url.splitn(4, '/').nth(3).filter(|_| settings.uses_path(&query)).unwrap_or_default();
            let path = path.replace("%2B", "+").replace("%C3%A9", "\u{e9}");
            let mut expected = String::new();
            for entry in settings.helpers(&query) {
                let value = entry.value.as_deref().unwrap();
                let number: String = value.chars().skip_while(|one| !one.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
                writeln!(expected, "{number}:{path}").unwrap();
            }
            asked_at_all.set(asked_at_all.get() + usize::from(!asked.is_empty()));
            prop_assert_eq!(asked, expected, "{}", file(&written));
            Ok(())
        })
        .unwrap();
    assert!(asked_at_all.get() > 100, "git hardly asked anybody: {}", asked_at_all.get());
}

#[test]
fn an_entry_says_where_it_is_from() {
    let listed =
        b"global\0file:/home/u/.gitconfig\0credential.https://a.test/x.y.helper\nstore\nz\0command\0command line:\0credential.helper\0";
    let entries = entries(listed);
    assert_eq!(entries[0].below("credential"), Some((Some("https://a.test/x.y"), "helper")));
    assert_eq!((entries[0].value.as_deref(), entries[0].place().as_str()), (Some("store\nz"), "/home/u/.gitconfig"));
    assert_eq!((entries[1].below("credential"), &entries[1].value, &entries[1].file), (Some((None, "helper")), &None, &None));
    assert!(entries[1].place().contains("GIT_CONFIG_COUNT"));
}

#[test]
fn a_text_is_read_as_git_reads_it() {
    assert_eq!(parsed(b"[a \"B\"]\n\tC = d\n[e]\n\tf\n"), Some(vec![b"a.B.c\nd".to_vec(), b"e.f".to_vec()]));
    assert_eq!(parsed(b""), Some(Vec::new()));
    assert_eq!(parsed(b"[a\n"), None);
    assert_eq!(parsed(b"[include]\n\tpath = /nowhere\n"), Some(vec![b"include.path\n/nowhere".to_vec()]));
}
