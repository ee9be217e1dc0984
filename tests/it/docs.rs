//! What the documentation names exists: the files it links to, the commands, and the keys of the configuration.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap::error::ErrorKind;
use scm_agent::cli::Cli;
use scm_agent::config::KEYS;

/// A page of the documentation.
struct Page {
    path: PathBuf,
    text: String,
}

/// A piece of a page, with the number of its line.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// A line between fences, with what stands behind the first of them.
    Block(String, usize, String),
    /// What stands between two backticks.
    Code(usize, String),
    Heading(String),
    /// Where a link leads to.
    Link(usize, String),
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page there is, but what is built or fetched.
fn pages() -> Vec<Page> {
    fn walk(folder: &Path, pages: &mut Vec<Page>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "node_modules" {
                    walk(&path, pages);
                }
            } else if name.ends_with(".md") {
                let text = fs::read_to_string(&path).unwrap();
                pages.push(Page { path, text });
            }
        }
    }
    let mut pages = Vec::new();
    walk(root(), &mut pages);
    assert!(pages.len() >= 8, "only {} pages were found", pages.len());
    pages
}

impl Page {
    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }

    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut fence: Option<String> = None;
        for (number, line) in self.text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
            if let Some(kind) = line.trim_start().strip_prefix("```") {
                fence = if fence.is_some() { None } else { Some(kind.trim().to_owned()) };
            } else if let Some(kind) = &fence {
                pieces.push(Piece::Block(kind.clone(), number, line.to_owned()));
            } else {
                if line.starts_with('#') {
                    pieces.push(Piece::Heading(line.trim_start_matches('#').trim().to_owned()));
                }
                inline(line, number, &mut pieces);
            }
        }
        pieces
    }

    /// The names that links may put behind a `#`, as forges make them of headings.
    fn anchors(&self) -> BTreeSet<String> {
        let slug = |heading: &str| {
            let kept = heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
            kept.replace(' ', "-")
        };
        self.pieces().iter().filter_map(|piece| if let Piece::Heading(heading) = piece { Some(slug(heading)) } else { None }).collect()
    }
}

/// The code and the links of a line of prose.
fn inline(line: &str, number: usize, pieces: &mut Vec<Piece>) {
    let mut outside = String::new();
    for (index, piece) in line.split('`').enumerate() {
        if index % 2 == 1 {
            pieces.push(Piece::Code(number, piece.to_owned()));
        } else {
            outside.push_str(piece);
        }
    }
    for piece in outside.split("](").skip(1) {
        if let Some((target, _)) = piece.split_once(')') {
            pieces.push(Piece::Link(number, target.to_owned()));
        }
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() {
    let pages = pages();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for page in &pages {
        for piece in page.pieces() {
            let Piece::Link(number, target) = piece else { continue };
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (file, anchor) = target.split_once('#').map_or((target.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let path = if file.is_empty() { page.path.clone() } else { page.path.parent().unwrap().join(file) };
            let Ok(path) = path.canonicalize() else {
                wrong.push(format!("{}:{number}: there is no {target}", page.name()));
                continue;
            };
            let leads_to = pages.iter().find(|other| other.path.canonicalize().unwrap() == path);
            if anchor.is_some_and(|anchor| leads_to.is_none_or(|other| !other.anchors().contains(anchor))) {
                wrong.push(format!("{}:{number}: there is no heading {target}", page.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked >= 20, "only {checked} links were found");
}

#[test]
fn every_page_for_users_is_named_by_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut checked = 0;
    for page in pages().iter().map(Page::name).filter(|name| name.starts_with("docs/")) {
        assert!(readme.contains(&format!("]({page}")), "the README does not lead to {page}");
        checked += 1;
    }
    assert!(checked >= 2, "only {checked} pages were found");
}

/// The words of the commands of a line of shell that are scm-agent's.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), String::new());
    let (mut quote, mut begun, mut before) = (None, false, ' ');
    // The quotes that `$(` was found in, which go on behind its end.
    let mut around = Vec::new();
    // One more blank, so that the last word ends too.
    for c in line.chars().chain(['\n']) {
        let blank = c.is_whitespace();
        if c == '(' && before == '$' && quote != Some('\'') {
            around.push(quote.take());
        }
        let ends = quote.is_none() && (blank || "|&;()<>".contains(c) || (c == '#' && before.is_whitespace()));
        if ends {
            if begun {
                words.push(std::mem::take(&mut word));
                begun = false;
            }
            if c == '\n' || (!blank && c != '<' && c != '>') {
                commands.push(std::mem::take(&mut words));
            } else if c == '<' || c == '>' {
                // Whatever comes next belongs to the redirection.
                words.push(c.to_string());
            }
            if c == '#' {
                break;
            } else if c == ')' {
                quote = around.pop().flatten();
            }
        } else if quote.is_none() && (c == '\'' || c == '"') {
            (quote, begun) = (Some(c), true);
        } else if quote == Some(c) {
            quote = None;
        } else {
            word.push(c);
            begun = true;
        }
        before = c;
    }
    commands.push(words);
    commands.into_iter().filter_map(ours).collect()
}

/// Of a simple command's words those from `scm-agent` on, without redirections, if that is what it starts.
fn ours(words: Vec<String>) -> Option<Vec<String>> {
    let is_prefix = |word: &String| {
        word == "sudo" || word == "exec" || word == "env" || word.split_once('=').is_some_and(|(name, _)| !name.starts_with('-'))
    };
    let mut words: Vec<String> = words.into_iter().skip_while(is_prefix).collect();
    if let Some(end) = words.iter().position(|word| word == "<" || word == ">") {
        // `2>/dev/null` leaves its number behind.
        let numbered = end > 0 && words[end - 1].len() == 1 && words[end - 1].chars().all(|c| c.is_ascii_digit());
        words.truncate(if numbered { end - 1 } else { end });
    }
    let program = words.first()?;
    (program == "scm-agent" || program.ends_with("/scm-agent")).then_some(words)
}

/// What a usage stands for: as it is without its `[…]`, and once more with each of them; `a|b` is each.
fn spelled_out(usage: &str) -> Vec<String> {
    let usage = usage.replace("\\|", "|");
    let (mut plain, mut groups, mut rest) = (String::new(), Vec::new(), usage.as_str());
    while let Some((before, inside)) = rest.split_once('[') {
        let Some((group, after)) = inside.split_once(']') else { break };
        plain.push_str(before);
        groups.push(group);
        rest = after;
    }
    plain.push_str(rest);
    let mut all = alternatives(&plain).iter().map(|plain| plain.trim().to_owned()).collect::<Vec<_>>();
    let first = all[0].clone();
    for group in groups {
        all.extend(alternatives(group).iter().map(|group| format!("{first} {group}")));
    }
    all
}

/// `--a X|--b` is `--a X` and `--b`; `--a x|y` is `--a x` and `--a y`.
fn alternatives(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for piece in text.split('|') {
        match all.first().and_then(|first| first.rsplit_once(' ')) {
            Some((head, _)) if !piece.starts_with("--") => all.push(format!("{head} {piece}")),
            _ => all.push(piece.to_owned()),
        }
    }
    all
}

/// Why the command line does not take it. A mention need not have everything that is required.
fn refused(words: &[String], mention: bool) -> Option<String> {
    let error = Cli::command().try_get_matches_from(words).err()?;
    let fine = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::MissingRequiredArgument | ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => mention,
        _ => false,
    };
    (!fine).then(|| error.to_string().lines().next().unwrap_or_default().to_owned())
}

#[test]
fn every_command_that_is_named_is_taken_by_the_command_line() {
    let (mut wrong, mut typed, mut named) = (Vec::new(), 0, 0);
    for page in pages() {
        let mut heredoc: Option<String> = None;
        for piece in page.pieces() {
            let (number, lines, mention) = match piece {
                Piece::Block(kind, number, line) => {
                    if let Some(end) = &heredoc {
                        if line.trim() == end {
                            heredoc = None;
                        }
                        continue;
                    }
                    let line = match kind.as_str() {
                        "console" => line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")).unwrap_or("").to_owned(),
                        "sh" | "bash" | "shell" => line,
                        _ => continue,
                    };
                    heredoc = line.split_once("<<").map(|(_, end)| end.trim_matches(['-', '\'', '"', ' ']).to_owned());
                    (number, vec![line], false)
                }
                Piece::Code(number, code) if code.starts_with("scm-agent ") && !code.contains("://HOST…") => {
                    (number, if code.contains(['$', ';', '<', '&']) { vec![code] } else { spelled_out(&code) }, true)
                }
                _ => continue,
            };
            for line in lines {
                for words in commands(&line) {
                    if mention {
                        named += 1;
                    } else {
                        typed += 1;
                    }
                    if let Some(why) = refused(&words, mention) {
                        wrong.push(format!("{}:{number}: {}: {why}", page.name(), words.join(" ")));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(typed >= 20 && named >= 30, "only {typed} and {named} commands were found");
}

fn is_known(section: &str, key: &str) -> bool {
    KEYS.iter().any(|(known, keys)| *known == section && keys.contains(&key))
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|(known, _)| *known == name)
}

/// Whether it could be a key: small letters and underscores.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// Section and key of `[section] key`, `[section] key = value` or `section.key`.
fn key(code: &str) -> Option<(&str, &str)> {
    let name = code.split_once(" = ").map_or(code, |(name, _)| name);
    if let Some((section, key)) = name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        return Some((section.trim_matches(['[', ']']), key)).filter(|(section, key)| is_word(section) && is_word(key));
    }
    // `agent.sock` is a file, `scm.example` a host.
    name.split_once('.').filter(|(section, key)| is_section(section) && is_word(key) && !["example", "py", "sock"].contains(key))
}

#[test]
fn every_key_that_is_named_is_one_of_the_configuration() {
    let (mut wrong, mut checked) = (Vec::new(), 0);
    let mut check = |page: &Page, number: usize, section: &str, key: &str| {
        checked += 1;
        if !is_known(section, key) {
            wrong.push(format!("{}:{number}: there is no key {key} in {section}", page.name()));
        }
    };
    for page in pages() {
        let mut section = String::new();
        for piece in page.pieces() {
            match piece {
                Piece::Code(number, code) => {
                    if let Some((section, name)) = key(&code) {
                        check(&page, number, section, name);
                    }
                }
                Piece::Block(kind, number, line) if kind == "toml" => {
                    let line = line.split(" #").next().unwrap_or("").trim();
                    if line.starts_with('[') {
                        section = line.trim_matches(['[', ']']).to_owned();
                    } else if let Some((name, _)) = line.split_once(" = ").filter(|(name, _)| is_word(name)) {
                        check(&page, number, &section, name);
                    }
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked >= 25, "only {checked} keys were found");
}

#[test]
fn the_package_has_what_there_is_and_a_changelog_of_this_version() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let value = |name: &str| {
        let line = manifest.lines().find_map(|line| line.strip_prefix(&format!("{name} = \"")));
        line.and_then(|rest| rest.split('"').next()).unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    let changelog = fs::read_to_string(root().join(value("changelog"))).unwrap();
    assert!(
        changelog.starts_with(&format!("scm-agent ({}-{}) ", value("version"), value("revision"))),
        "{}",
        changelog.lines().next().unwrap()
    );
    assert!(changelog.contains(&format!("\n -- {}  ", value("maintainer"))), "{changelog}");
    let (_, assets) = manifest.split_once("\nassets = [\n").unwrap();
    let sources = assets.lines().take_while(|line| *line != "]").filter_map(|line| line.trim().strip_prefix("[\"")?.split('"').next());
    let mut checked = 0;
    // What is built is not there yet.
    for source in sources.filter(|source| !source.starts_with("target/release/")) {
        let fixed = source.split(['*', '?']).next().unwrap();
        assert!(root().join(fixed).exists(), "there is no {source}");
        checked += 1;
    }
    assert!(checked >= 8, "only {checked} assets were found");
}

#[test]
fn commands_are_found_where_a_shell_would_start_them() {
    let found = |line: &str| commands(line).into_iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(found("scm-agent status --json   # what it holds"), ["scm-agent status --json"]);
    assert_eq!(found("A=1 sudo /usr/bin/scm-agent run"), ["/usr/bin/scm-agent run"]);
    assert_eq!(
        found("eval \"$(scm-agent oauth-app https://a/b --format env)\"; scm-agent sync"),
        ["scm-agent oauth-app https://a/b --format env", "scm-agent sync"]
    );
    assert_eq!(found("printf %s \"a b\" | scm-agent seal --key 'f g' > out"), ["scm-agent seal --key f g"]);
    assert_eq!(found("scm-agent doctor 2>/dev/null || scm-agent status"), ["scm-agent doctor", "scm-agent status"]);
    for other in [
        "systemctl restart scm-agent",
        "usermod -aG scm-agent USER",
        "echo 'scm-agent run'",
        "git-credential-scm-agent get",
        "# scm-agent run",
    ] {
        assert_eq!(found(other), [""; 0], "{other}");
    }
}

#[test]
fn a_usage_is_all_that_it_allows() {
    assert_eq!(spelled_out("scm-agent sync"), ["scm-agent sync"]);
    assert_eq!(
        spelled_out("scm-agent git setup [--system\\|--file FILE] [--force]"),
        ["scm-agent git setup", "scm-agent git setup --system", "scm-agent git setup --file FILE", "scm-agent git setup --force"]
            .map(|line| line.to_owned())
    );
    assert_eq!(
        spelled_out("scm-agent oauth-app URL [--format json\\|env]"),
        ["scm-agent oauth-app URL", "scm-agent oauth-app URL --format json", "scm-agent oauth-app URL --format env"]
    );
}

#[test]
fn keys_are_told_from_other_code() {
    assert_eq!(key("[store] kind = \"memory\""), Some(("store", "kind")));
    assert_eq!(key("[[provider]] pat_file"), Some(("provider", "pat_file")));
    assert_eq!(key("agent.state_dir"), Some(("agent", "state_dir")));
    assert_eq!(key("[nothing] like_it"), Some(("nothing", "like_it")));
    for other in ["agent.sock", "config.d", "[[access]]", "key", "scm-agent.toml", "[credential \"https://HOST\"]"] {
        assert_eq!(key(other), None, "{other}");
    }
}
