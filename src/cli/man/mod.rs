//! `scm-agent man`: the manual pages, for the package and for whoever installs without one.
//!
//! They are made of what the command line says of itself and of `config.example.toml`, so none of them can go stale. Only the page of
//! the helper, which has no such description, is written by hand.

mod configuration;
mod examples;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{env, fs, io};

use clap::{Arg, Command, CommandFactory};
use roff::{Inline, Roff, bold, italic, roman};
use rustix::fs::Mode;
use rustix::process::umask;

use super::{Cli, Io};
use crate::error::{Error, Kind};
use crate::harden;

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder of MANPATH, as /usr/local/share/man; the pages go into man1 and man5 below it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// The helper's page from its NAME on.
const HELPER: &str = include_str!("git-credential-scm-agent.1");

/// The name that all pages have in common, in the middle of their first line.
const MANUAL: &str = "scm-agent Manual";

/// Where the programs come from, in the last line.
const SOURCE: &str = concat!("scm-agent ", env!("CARGO_PKG_VERSION"));

/// One page.
#[derive(Debug)]
struct Page {
    name: String,
    section: &'static str,
    text: String,
}

/// Runs `man`.
///
/// # Errors
/// When a page cannot be written.
pub fn run(args: &Args, io: &mut Io<'_>) -> Result<(), Error> {
    // Nothing here is secret, and other users read it too: what the caller says counts, not what this process takes for secrets.
    umask(Mode::from_raw_mode(harden::inherited_umask()));
    let pages = pages(&date());
    for page in &pages {
        let folder = args.dir.join(format!("man{}", page.section));
        let path = folder.join(format!("{}.{}", page.name, page.section));
        let failed = |path: &Path, error: io::Error| Error::new(Kind::User, format!("cannot write {}", path.display())).because(error);
        fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        replace(&path, &page.text).map_err(|error| failed(&path, error))?;
    }
    writeln!(io.stdout, "{} pages are in {}", pages.len(), args.dir.display())?;
    Ok(())
}

/// Puts a new file in a place, whatever is there now: a link is not followed, and nothing there is opened.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_file_name(format!(".scm-agent-{}.partial", std::process::id()));
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = fs::File::create_new(&partial).and_then(|mut file| file.write_all(text.as_bytes()));
    written.and_then(|()| fs::rename(&partial, path)).inspect_err(|_| {
        let _ = fs::remove_file(&partial);
    })
}

/// The day in the last line of each page: of `SOURCE_DATE_EPOCH` (reproducible-builds.org), so that the same source makes the same
/// pages, else today.
fn date() -> String {
    let stated = env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    day(stated.map_or_else(SystemTime::now, |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

/// A day as `YYYY-MM-DD`, in UTC.
fn day(time: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // `Sun, 06 Nov 1994 08:49:37 GMT`: the calendar is worked out in there.
    let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let text = httpdate::fmt_http_date(time.clamp(SystemTime::UNIX_EPOCH, latest));
    let mut words = text.split(' ').skip(1);
    let (day, month, year) = (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
    let month = MONTHS.iter().position(|name| *name == month).map_or(0, |index| index + 1);
    format!("{year}-{month:02}-{day}")
}

/// Every page: one for each command, one for the helper, one for the configuration.
fn pages(date: &str) -> Vec<Page> {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    add_commands(&command, date, &mut pages);
    let mut helper = Roff::new();
    title(&mut helper, "git-credential-scm-agent", "1", date);
    let text = helper.render() + HELPER;
    pages.push(Page { name: "git-credential-scm-agent".to_owned(), section: "1", text });
    pages.push(Page { name: "scm-agent.toml".to_owned(), section: "5", text: configuration::page(date).render() });
    pages
}

fn title(roff: &mut Roff, name: &str, section: &str, date: &str) {
    roff.control("TH", [name, section, date, SOURCE, MANUAL]);
}

fn add_commands(command: &Command, date: &str, pages: &mut Vec<Page>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    pages.push(Page { text: page(command, &name, date).render(), name, section: "1" });
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        add_commands(below, date, pages);
    }
}

/// The page of a command, whose name on the page has hyphens between its words.
fn page(command: &Command, name: &str, date: &str) -> Roff {
    let mut roff = Roff::new();
    title(&mut roff, name, "1", date);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {}", about.trim_end_matches('.')))]);
    // As `--help` has it.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let words = command.get_bin_name().unwrap_or_else(|| command.get_name());
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold(words), roman(usage.strip_prefix(words).unwrap_or(usage))]);
    roff.control("SH", ["DESCRIPTION"]);
    let long = command.get_long_about().map_or(about, ToString::to_string);
    for (number, paragraph) in long.split("\n\n").enumerate() {
        if number > 0 {
            roff.control("PP", []);
        }
        let sentence = paragraph.trim_end_matches('.');
        roff.text(prose(&format!("{sentence}.")));
    }
    if command.has_subcommands() {
        roff.control("SH", ["COMMANDS"]);
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            let about = below.get_about().map(ToString::to_string).unwrap_or_default();
            roff.control("TP", []);
            roff.text([bold(format!("{name}-{}", below.get_name())), roman("(1)")]);
            roff.text(prose(&about));
        }
    }
    options(&mut roff, command);
    examples(&mut roff, name);
    if !command.has_subcommands() || name == "scm-agent" {
        exit_status(&mut roff);
    }
    if name == "scm-agent" {
        surroundings(&mut roff);
    }
    see_also(&mut roff, command, name);
    roff
}

fn options(roff: &mut Roff, command: &Command) {
    roff.control("SH", ["OPTIONS"]);
    let (positional, named): (Vec<&Arg>, Vec<&Arg>) =
        command.get_arguments().filter(|arg| !arg.is_hide_set()).partition(|arg| arg.is_positional());
    for arg in positional.into_iter().chain(named) {
        roff.control("TP", []);
        roff.text(option_head(arg));
        let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
        roff.text(prose(help.trim_end_matches('.')));
        let values: Vec<_> = arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set()).collect();
        if !values.is_empty() && arg.get_action().takes_values() {
            let described = values.iter().any(|value| value.get_help().is_some());
            if described {
                for value in &values {
                    let help = value.get_help().map(ToString::to_string).unwrap_or_default();
                    roff.control("IP", []);
                    let mut line = vec![bold(value.get_name()), roman(": ")];
                    line.extend(prose(&help));
                    roff.text(line);
                }
            } else {
                let names: Vec<&str> = values.iter().map(|value| value.get_name()).collect();
                roff.control("IP", []);
                roff.text([roman(format!("One of {}", names.join(", ")))]);
            }
        }
        let defaults: Vec<String> = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        if !defaults.is_empty() && arg.get_action().takes_values() {
            roff.control("IP", []);
            roff.text([roman(format!("Default: {}", defaults.join(", ")))]);
        }
    }
}

/// The names of an option and of its value, or the name of an argument.
fn option_head(arg: &Arg) -> Vec<Inline> {
    let mut head = Vec::new();
    if let Some(short) = arg.get_short() {
        head.push(bold(format!("-{short}")));
    }
    if let Some(long) = arg.get_long() {
        if !head.is_empty() {
            head.push(roman(", "));
        }
        head.push(bold(format!("--{long}")));
    }
    if arg.is_positional() || arg.get_action().takes_values() {
        let names = arg.get_value_names().unwrap_or_default().join(" ");
        if !head.is_empty() {
            head.push(roman(" "));
        }
        head.push(italic(names));
    }
    head
}

fn examples(roff: &mut Roff, name: &str) {
    let mut begun = false;
    for (_, what, lines) in examples::EXAMPLES.iter().filter(|(page, _, _)| *page == name) {
        if !begun {
            roff.control("SH", ["EXAMPLES"]);
            begun = true;
        }
        roff.control("TP", []);
        roff.text([roman(*what)]);
        roff.control("nf", []);
        for line in *lines {
            roff.text([bold(*line)]);
        }
        roff.control("fi", []);
    }
}

fn entry(roff: &mut Roff, term: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(term)]);
    roff.text([roman(text)]);
}

fn exit_status(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in [
        ("0", "It was done. Whether all is well with the daemon is told by scm-agent-doctor(1), which ends with 1 where something is not."),
        ("1", "It failed; standard error says why, and what to do."),
        ("2", "The command line or the configuration is wrong."),
        ("130", "It was given up with Ctrl-C."),
    ] {
        entry(roff, code, meaning);
    }
}

fn surroundings(roff: &mut Roff) {
    roff.control("SH", ["FILES"]);
    for (file, meaning) in [
        ("/etc/scm-agent/config.toml", "The configuration; see scm-agent.toml(5)."),
        ("/etc/scm-agent/config.d/*.toml", "More of it, in the order of the names."),
        ("/etc/scm-agent/runner.pem", "The runner's private key, which the systemd unit hands over as the credential runner-key."),
        ("/etc/scm-agent/control-plane-token", "The API token of the runner, handed over as control-plane-token."),
        ("/run/scm-agent/agent.sock", "The socket on which git's helper and these commands ask."),
        ("/var/lib/scm-agent", "What outlives the daemon, sealed with the runner's key."),
        ("/usr/share/doc/scm-agent", "The guides for operators and users, as the package installs them."),
    ] {
        entry(roff, file, meaning);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (variable, meaning) in [
        ("SCM_AGENT_CONFIG", "The configuration file, where --config does not name one."),
        ("SCM_AGENT__SECTION__KEY", "A key of the configuration; goes before all files."),
        ("ONA_BASE_URL", "The control plane's URL; goes before control_plane.url."),
        ("ONA_API_KEY, GITPOD_API_KEY", "The API token, where neither a file nor a credential has it."),
        ("HTTPS_PROXY, ALL_PROXY, NO_PROXY", "The proxy and its exceptions, also in lower case, where the configuration has none."),
        ("SSL_CERT_FILE, SSL_CERT_DIR", "The certificate authorities, instead of the system's."),
    ] {
        entry(roff, variable, meaning);
    }
}

fn see_also(roff: &mut Roff, command: &Command, name: &str) {
    let mut pages: Vec<(String, &str)> = Vec::new();
    if let Some((parent, _)) = name.rsplit_once('-').filter(|_| name != "scm-agent") {
        // A command of two words, as git setup, has a page above it; one with a hyphen in its name, as oauth-app, has none.
        let above = command.get_bin_name().is_some_and(|words| words.split(' ').count() > 2);
        pages.push((if above { parent.to_owned() } else { "scm-agent".to_owned() }, "1"));
    }
    pages.extend([("git-credential-scm-agent".to_owned(), "1"), ("scm-agent.toml".to_owned(), "5"), ("gitcredentials".to_owned(), "7")]);
    references(roff, &pages);
}

/// The last section: other pages, in bold, with commas between.
fn references(roff: &mut Roff, pages: &[(String, &str)]) {
    roff.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for (number, (name, section)) in pages.iter().enumerate() {
        if number > 0 {
            line.push(roman(", "));
        }
        line.push(bold(name.as_str()));
        line.push(roman(format!("({section})")));
    }
    roff.text(line);
}

/// A sentence with code in it: what stands in backticks is bold.
fn prose(text: &str) -> Vec<Inline> {
    let pieces = text.split('`').enumerate().filter(|(_, piece)| !piece.is_empty());
    pieces.map(|(number, piece)| if number % 2 == 1 { bold(piece) } else { roman(piece) }).collect()
}

/// A name and what it is set to, as the head of an entry.
fn setting(name: &str, value: &str) -> Vec<Inline> {
    vec![bold(name), roman(" = "), italic(value)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<'a>(pages: &'a [Page], name: &str) -> &'a Page {
        pages.iter().find(|page| page.name == name).unwrap_or_else(|| panic!("no page {name}"))
    }

    #[test]
    fn every_command_has_a_page_of_which_the_one_above_knows() {
        fn check(pages: &[Page], command: &Command) {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name());
            let page = named(pages, name).text.replace("\\-", "-");
            for below in command.get_subcommands() {
                let name = below.get_display_name().unwrap();
                assert!(page.contains(&format!("\\fB{name}\\fR(1)\n")), "{name}");
                check(pages, below);
            }
            for option in command.get_arguments().filter_map(Arg::get_long) {
                assert!(page.contains(&format!("\\fB--{option}\\fR")), "{name} --{option}");
            }
            assert!(
                page.contains(&format!("\n.SH NAME\n{name} - {}", command.get_about().unwrap().to_string().split('\'').next().unwrap())),
                "{page}"
            );
        }
        let mut command = Cli::command();
        command.build();
        check(&pages("2026-01-02"), &command);
    }

    #[test]
    fn no_page_names_one_of_ours_that_does_not_exist() {
        let pages = pages("2026-01-02");
        let names: Vec<String> = pages.iter().map(|page| format!("{}({})", page.name, page.section)).collect();
        let mut found = 0;
        for page in &pages {
            let text = page.text.replace("\\fB", "").replace("\\fR", "").replace("\\-", "-").replace(" (", "(");
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "-.()".contains(c))) {
                let word = word.trim_end_matches(['.', ',']);
                if word.contains("scm-agent") && word.contains('(') && word.ends_with(')') {
                    assert!(names.iter().any(|name| name == word), "{} names {word}", page.name);
                    found += 1;
                }
            }
        }
        assert!(found > 3 * pages.len(), "{found}");
    }

    #[test]
    fn every_example_stands_on_a_page_and_is_taken_by_the_command_line() {
        let pages = pages("2026-01-02");
        for (page, _, lines) in examples::EXAMPLES {
            assert!(named(&pages, page).text.contains("\n.SH EXAMPLES\n"), "{page}");
            let ours: Vec<&str> = lines.iter().flat_map(|line| line.match_indices("scm-agent ").map(|(start, _)| &line[start..])).collect();
            assert!(!ours.is_empty(), "{page} shows something else");
            for line in ours {
                let words = line.split([' ', ')']).take_while(|word| !["|", ">", "<", "&&", "\""].contains(word));
                assert!(Cli::command().try_get_matches_from(words).is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn the_day_is_that_of_the_calendar() {
        for (seconds, expected) in
            [(0, "1970-01-01"), (951_782_399, "2000-02-28"), (951_782_400, "2000-02-29"), (1_796_774_400, "2026-12-09")]
        {
            assert_eq!(day(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
        assert_eq!(day(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60)), "9999-12-31");
    }
}
