//! `scm-agent git setup` and `git unset`: the sections that have git ask us, and only us, about the hosts of the daemon's list.
//!
//! What is written stands between two marks at the end of one file; nothing else in it is touched, and `unset` is the exact inverse of
//! `setup`. [`sections`] says what is written, [`block`] where it stands in the text, [`file`] how it gets there. [`settings`],
//! [`matching`] and [`chain`] read the configuration as git does, for what is said afterwards and for `doctor`.

mod block;
pub(crate) mod chain;
mod diff;
mod file;
pub(crate) mod matching;
pub(crate) mod program;
pub(crate) mod sections;
pub(crate) mod settings;
mod target;
mod text;

use std::path::{Path, PathBuf};

use block::{Edits, Parts};
use file::ConfigFile;
use sections::Section;

use super::{Io, client};
use crate::error::{Error, Kind};
use crate::status::Status;

/// Has git ask scm-agent about the hosts of the list, and takes that back
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Writes a section for each host of the daemon's list to git's configuration, or brings them up to date
    Setup(Change),
    /// Takes out of git's configuration what `git setup` wrote
    Unset(Change),
}

/// Where and how.
#[derive(Debug, clap::Args)]
struct Change {
    /// The system's configuration, for every user [default for root]
    #[arg(long, group = "target")]
    system: bool,
    /// The calling user's configuration [default for others]
    #[arg(long, group = "target")]
    global: bool,
    /// This file, which git reads where it is included (include.path)
    #[arg(long, value_name = "FILE", group = "target")]
    file: Option<PathBuf>,
    /// Prints what would change and changes nothing
    #[arg(long)]
    dry_run: bool,
    /// Also where the lines of scm-agent were changed by hand
    #[arg(long)]
    force: bool,
}

/// Which file is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    File(PathBuf),
    Global,
    System,
}

impl Change {
    fn target(&self) -> Target {
        match &self.file {
            Some(file) => Target::File(file.clone()),
            None if self.global => Target::Global,
            None if self.system || rustix::process::geteuid().is_root() => Target::System,
            None => Target::Global,
        }
    }
}

/// `git setup` as it has to be typed: where it would refuse because our lines were changed by hand, with what lets go of them.
pub(crate) fn setup_command(global: bool) -> String {
    let change = Change { system: false, global, file: None, dry_run: false, force: false };
    let command = if global { "scm-agent git setup --global" } else { "scm-agent git setup" };
    match target::file(&change.target()).and_then(|file| ConfigFile::read(&file)).map(|file| block::take_apart(file.content())) {
        Ok(Ok(Some(Parts { edits: Edits::Changed, .. }))) => {
            format!("{command} --force; to see first what that takes out: {command} --force --dry-run")
        }
        Ok(Err(_)) => format!("delete what stands from \"# BEGIN scm-agent\" to \"# END scm-agent\" by hand; then: {command}"),
        _ => command.to_owned(),
    }
}

/// Runs `git setup` or `git unset`.
///
/// # Errors
/// When no daemon tells the hosts, or the file cannot be changed without loss.
pub fn run(args: &Args, socket: impl FnOnce() -> Result<PathBuf, Error>, io: &mut Io<'_>) -> Result<(), Error> {
    match &args.command {
        Command::Setup(change) => setup(change, &socket()?, io),
        Command::Unset(change) => unset(change, io),
    }
}

fn setup(change: &Change, socket: &Path, io: &mut Io<'_>) -> Result<(), Error> {
    let status: Status = client::ask(socket, "status")?;
    if status.sync.last_success.is_none() && status.integrations.is_empty() {
        return Err(Error::new(Kind::Upstream, "scm-agent has no list of integrations yet, so nobody knows the hosts")
            .hint("see why: scm-agent status; to fetch it now: scm-agent sync"));
    }
    let sections = sections::wanted(&status.integrations);
    let helper = sections::helper(socket)?;
    let target = change.target();
    let file = ConfigFile::read(&target::file(&target)?)?;
    let parts = parts(&file, change.force)?;
    let body = sections::render(&sections, &helper);
    if settings::parsed(b"").is_none() {
        return Err(Error::new(Kind::User, "git does not run, so it cannot be set up").hint("install git, and see that it is in PATH"));
    }
    let new = with_body(&file, parts.as_ref(), &body);
    check(&file, parts.as_ref(), new.as_deref(), &body)?;
    apply(change, &file, parts.as_ref(), new.as_deref(), io)?;
    if !change.dry_run {
        let done = if new.as_deref() == present(&file) { "is up to date" } else { "is written" };
        match sections.len() {
            0 => writeln!(io.stdout, "no integration of the list answers git, so nothing of it is in {}", file.name().display())?,
            _ => writeln!(io.stdout, "{} {done}: git asks scm-agent about {}", file.name().display(), hosts(&sections))?,
        }
    }
    warn(change, &target, &file, &sections, io)
}

fn unset(change: &Change, io: &mut Io<'_>) -> Result<(), Error> {
    let file = ConfigFile::read(&target::file(&change.target())?)?;
    let Some(parts) = parts(&file, change.force)? else {
        writeln!(io.stdout, "nothing to do: nothing in {} is scm-agent's", file.name().display())?;
        return Ok(());
    };
    let new = without(&parts);
    check(&file, Some(&parts), new.as_deref(), "")?;
    apply(change, &file, Some(&parts), new.as_deref(), io)?;
    if !change.dry_run {
        writeln!(io.stdout, "{} has nothing of scm-agent's any more", file.name().display())?;
    }
    Ok(())
}

/// Takes the file apart, and refuses where something would be lost.
fn parts(file: &ConfigFile, force: bool) -> Result<Option<Parts>, Error> {
    let name = file.name().display();
    let parts = block::take_apart(file.content()).map_err(|error| {
        Error::new(Kind::User, format!("{name}: {error}")).hint(
            "look at the lines from \"# BEGIN scm-agent\" to \"# END scm-agent\", and delete them by hand; then run the command again",
        )
    })?;
    if !force && parts.as_ref().is_some_and(|parts| parts.edits == Edits::Changed) {
        let text = format!("{name}: what stands between the marks of scm-agent was changed by hand");
        return Err(Error::new(Kind::User, text)
            .hint("move your own lines out from between the marks, or let go of them: the same command with --force")
            .hint("see what it would do: --force --dry-run"));
    }
    Ok(parts)
}

/// What is to be in the file; `None` for no file.
fn with_body(file: &ConfigFile, parts: Option<&Parts>, body: &str) -> Option<Vec<u8>> {
    match parts {
        Some(parts) if body.is_empty() => without(parts),
        None if body.is_empty() => present(file).map(<[u8]>::to_vec),
        // What follows ours in the file counts after it, as does what somebody, or git itself, wrote into our sections.
        Some(parts) if tells_of_helpers(&parts.tail) || adds_helpers(parts) => {
            Some(block::with_at_end(&block::without(parts), body, parts.before.made))
        }
        Some(parts) => Some(block::in_place(parts, body)),
        None => {
            let made = (!file.exists()).then(|| file.missing_folders());
            Some(block::with_at_end(file.content(), body, made))
        }
    }
}

fn without(parts: &Parts) -> Option<Vec<u8>> {
    let rest = block::without(parts);
    (!rest.is_empty() || parts.before.made.is_none()).then_some(rest)
}

fn present(file: &ConfigFile) -> Option<&[u8]> {
    file.exists().then(|| file.content())
}

fn adds_helpers(parts: &Parts) -> bool {
    matches!(&parts.edits, Edits::Added(lines) if tells_of_helpers(lines))
}

/// Whether lines may name helpers, or files with such lines.
fn tells_of_helpers(lines: &[u8]) -> bool {
    let text = String::from_utf8_lossy(lines).to_ascii_lowercase();
    ["helper", "usehttppath", "include"].iter().any(|word| text.contains(word))
}

/// Has git read the new content before anybody else does: it has to be what the old one was, with ours instead of what was ours.
fn check(file: &ConfigFile, parts: Option<&Parts>, new: Option<&[u8]>, body: &str) -> Result<(), Error> {
    let name = file.name().display();
    let unreadable = || {
        Error::new(Kind::User, format!("git cannot read {name} as it is"))
            .hint(format!("see where it stops: git config --file {} --list", chain::shell_word(&name.to_string())))
    };
    let others = match parts {
        Some(parts) => block::without(parts),
        None => file.content().to_vec(),
    };
    let Some(others) = settings::parsed(&others) else {
        // To take lines out does no harm to a file that is broken already.
        return if body.is_empty() && parts.is_some() { Ok(()) } else { Err(unreadable()) };
    };
    let changed = Error::new(Kind::User, format!("git would read the other lines of {name} otherwise than before"))
        .hint("a line of it may go on beyond its end; mend that, or use a file of its own: --file FILE");
    let (Some(new), Some(ours)) = (settings::parsed(new.unwrap_or_default()), settings::parsed(body.as_bytes())) else {
        return Err(changed);
    };
    let as_meant = (0..=others.len()).any(|at| {
        new.len() == others.len() + ours.len()
            && new[..at] == others[..at]
            && new[at..at + ours.len()] == ours[..]
            && new[at + ours.len()..] == others[at..]
    });
    // What is there now has to stay what it is, apart from ours.
    let was = settings::parsed(file.content());
    let was_ours = parts.map_or(0, |parts| settings::parsed(&parts.body).map_or(0, |ours| ours.len()));
    let kept = parts.is_some_and(|parts| parts.edits == Edits::Changed) || was.is_none_or(|was| was.len() == others.len() + was_ours);
    if as_meant && kept { Ok(()) } else { Err(changed) }
}

/// Shows the difference, or makes it.
fn apply(change: &Change, file: &ConfigFile, parts: Option<&Parts>, new: Option<&[u8]>, io: &mut Io<'_>) -> Result<(), Error> {
    if new == present(file) {
        if change.dry_run {
            writeln!(io.stdout, "nothing to do: {} is as it should be", file.name().display())?;
        }
        return Ok(());
    }
    if change.dry_run {
        let diff = diff::unified(file.name(), present(file), new, block::is_ours);
        io.stdout.write_all(diff.as_bytes())?;
        return Ok(());
    }
    match new {
        Some(new) => file.replace(new)?,
        None => file.remove(parts.and_then(|parts| parts.before.made).unwrap_or_default())?,
    }
    if parts.is_some_and(|parts| matches!(parts.edits, Edits::Added(_))) {
        writeln!(io.stderr, "note: lines that were added between the marks are kept, in sections of their own")?;
    }
    Ok(())
}

/// The hosts of sections, for a person.
fn hosts(sections: &[Section]) -> String {
    let host = |section: &Section| section.url.split_once("://").map_or(section.url.as_str(), |(_, rest)| rest).to_owned();
    chain::listed(&sections.iter().filter(|section| section.only).map(host).collect())
}

/// Says what keeps the sections from doing what they are for. Nothing of it undoes them.
fn warn(change: &Change, target: &Target, file: &ConfigFile, sections: &[Section], io: &mut Io<'_>) -> Result<(), Error> {
    let mut say = |text: &str, next: &str| -> std::io::Result<()> { write!(io.stderr, "warning: {text}\nhint: {next}\n") };
    if program::find_helper().is_none() {
        say(&format!("{} is not in PATH, so git cannot start it", program::HELPER), "install it beside scm-agent")?;
    }
    if *target == Target::System && target::system_is_ignored() {
        say("git does not read this file here: GIT_CONFIG_NOSYSTEM is set", "unset it, or: scm-agent git setup --global")?;
    }
    if change.dry_run || sections.is_empty() {
        return Ok(());
    }
    let Some(entries) = settings::read(Path::new("/")) else {
        say("git does not understand its own configuration", "see where it stops: git config --list --show-origin")?;
        return Ok(());
    };
    let chains = chain::examine(sections, &entries);
    let path = file.name();
    if let (Target::File(_), false) = (target, entries.iter().any(|entry| entry.file.as_deref() == Some(path))) {
        let include = format!("git config --global --add include.path {}", chain::shell_word(&path.display().to_string()));
        say(&format!("git does not read {} yet", path.display()), &format!("have it included: {include}"))?;
        return Ok(());
    }
    for other in &chains.others {
        if let Some(problem) = other.problem() {
            say(&problem, &other.next())?;
        }
    }
    Ok(())
}
