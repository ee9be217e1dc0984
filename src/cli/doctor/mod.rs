//! `scm-agent doctor`: looks at everything between the configuration and git, and says what is wrong and what to do about it.
//!
//! It changes nothing, and without a URL sends no secret: it loads the keys, asks the daemon for its status and issuers for their
//! metadata. With a URL it asks that host, with the caller's own token, as git would.

mod clock;
mod git;
mod held;
mod issuers;
mod local;
mod probe;
mod service;

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::explain::{self, Transport, View};
use super::run::{http_setup, sources};
use super::status::{cut_words, screen, wrap};
use super::style::ColorWhen;
use super::{Io, agent_user, client};
use crate::config::{Config, Environment, Source};
use crate::error::{Error, Kind};
use crate::explain::AnswerKind;
use crate::http;
use crate::status::Status;
use local::Agent;
use service::Units;

/// How long the control plane may take to give its list.
const LIST_LIMIT: Duration = Duration::from_secs(15);

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look only at what git would get for this URL, and ask its host with the token
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Ask the host whether it takes pushes too
    #[arg(long, requires = "url")]
    push: bool,
    /// Prints the findings as JSON
    #[arg(long)]
    json: bool,
    /// Use colours
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    color: ColorWhen,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Something does not work.
    Fail,
    /// All is well.
    Ok,
    /// It cannot be checked from here.
    Skip,
    /// It works, but not as it should.
    Warn,
}

/// What a check found.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    name: &'static str,
    state: State,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The names that checks have, in alphabetical order.
pub const CHECKS: [&str; 26] = [
    "access",
    "audit-log",
    "clock",
    "config",
    "control-plane",
    "daemon",
    "explain",
    "files",
    "git",
    "helper",
    "integrations",
    "issuers",
    "key",
    "memory",
    "probe",
    "proxy",
    "quarantine",
    "registered-key",
    "sandbox",
    "service",
    "sign-ins",
    "socket",
    "state",
    "store",
    "token",
    "tokens",
];

impl Check {
    pub(super) fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Ok, detail: detail.into(), next: None }
    }

    pub(super) fn skip(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Skip, detail: detail.into(), next: None }
    }

    pub(super) fn warn(name: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, state: State::Warn, detail: detail.into(), next: Some(next.into()) }
    }

    pub(super) fn fail(name: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, state: State::Fail, detail: detail.into(), next: Some(next.into()) }
    }

    fn of(name: &'static str, error: &Error) -> Self {
        Self::fail(name, error.sentence(), error.hints().join("; "))
    }
}

/// Runs `doctor`.
///
/// # Errors
/// When a check failed; the findings are printed all the same.
pub fn run(args: &Args, explicit: Option<&Path>, environment: &Environment, io: &mut Io<'_>) -> Result<(), Error> {
    let mut waiting =
        Waiting { screen: (io.stdout_is_terminal && std::io::stderr().is_terminal() && !args.json).then_some(&mut *io.stderr) };
    let checks = match &args.url {
        None => examine(explicit, environment, &mut waiting),
        Some(url) => {
            waiting.says("the daemon and the URL's host");
            examine_url(&explain::view(url, None)?, args.push, explicit, environment)
        }
    };
    waiting.ends();
    debug_assert!(checks.iter().all(|check| CHECKS.contains(&check.name)), "a check has a name that is nowhere explained");
    let failed = checks.iter().filter(|check| check.state == State::Fail).count();
    let text = if args.json {
        let document = serde_json::json!({ "healthy": failed == 0, "checks": checks });
        format!("{document:#}\n")
    } else {
        let width = if io.stdout_is_terminal { screen().map(|(width, _)| width) } else { None };
        args.color.paint(io.stdout_is_terminal).findings(&report(&checks, width))
    };
    io.stdout.write_all(text.as_bytes())?;
    match failed {
        0 => Ok(()),
        1 => Err(Error::new(Kind::User, "one check failed")),
        _ => Err(Error::new(Kind::User, format!("{failed} checks failed"))),
    }
}

/// Tells a person at a terminal whom doctor waits for, in a line that goes again.
struct Waiting<'a> {
    screen: Option<&'a mut dyn std::io::Write>,
}

impl Waiting<'_> {
    /// What cannot be written is no loss.
    fn says(&mut self, whom: &str) {
        if let Some(screen) = &mut self.screen {
            let _ = write!(screen, "\r\x1b[Kasking {whom} ...").and_then(|()| screen.flush());
        }
    }

    fn ends(&mut self) {
        if let Some(screen) = &mut self.screen {
            let _ = write!(screen, "\r\x1b[K").and_then(|()| screen.flush());
        }
    }
}

/// Every check, in the order in which a fault shows first.
fn examine(explicit: Option<&Path>, environment: &Environment, waiting: &mut Waiting<'_>) -> Vec<Check> {
    let config = match client::configuration(explicit, environment) {
        Ok(config) => config,
        // Nothing else can be looked at before this is mended.
        Err(error) => return vec![Check::of("config", &error)],
    };
    let socket = client::socket(config.as_ref());
    waiting.says("systemd");
    let units = Units::of(&socket);
    let mut checks = Vec::new();
    let mut keys_in_files = Vec::new();
    waiting.says("the daemon");
    let status = client::ask::<Status>(&socket, "status");
    let daemon = status.as_ref().ok().and_then(|status| agent_user::of_process(status.pid));
    let user = daemon.or_else(|| units.as_ref().and_then(Units::user));
    let agent = Agent { runs: status.is_ok(), user, has_unit: units.is_some() };
    match &config {
        Some(config) => {
            checks.push(local::configuration(config, units.as_ref()));
            checks.extend(local::named_files(config, agent));
            let (check, keys) = local::keys(config, units.as_ref(), agent);
            checks.push(check);
            keys_in_files = keys;
            checks.extend(local::token(config, agent));
            checks.extend(local::accounts(config));
            checks.extend(proxies(config));
        }
        None => checks.push(local::no_configuration(status.is_ok())),
    }
    checks.extend(units.iter().flat_map(Units::examine));
    waiting.says("the control plane");
    if let Some(config) = &config {
        checks.extend(local::state_directory(&config.agent.state_dir, &socket, agent));
    }
    match status {
        Ok(status) => {
            checks.push(held::daemon(&status));
            checks.extend(local::held_keys(&keys_in_files, &status));
            checks.push(held::control_plane(&status));
            checks.extend(config.as_ref().and_then(clock::examine));
            checks.extend(held::integrations(&status));
            checks.extend(held::other_faults(&status));
            checks.push(held::memory(&status));
            checks.extend(status.sandbox.as_ref().map(held::sandbox));
            if let Some(config) = &config {
                checks.extend(local::providers(config, &status));
                waiting.says("the issuers");
                checks.extend(issuers::examine(config, &status));
            }
            waiting.says("git");
            checks.extend(git::examine(&socket, &status, config.as_ref()));
        }
        Err(error) => {
            checks.push(Check::of("daemon", &error));
            if let Some(config) = &config {
                checks.push(reachable_control_plane(config));
                checks.extend(clock::examine(config));
            }
            checks.extend(git::programs());
            checks.push(Check::skip("integrations", "only the daemon knows them"));
        }
    }
    checks
}

/// The user that systemd runs the service as, which listens there.
pub(super) fn unit_user(config: &Config) -> Option<u32> {
    Units::of(&config.agent.socket).as_ref().and_then(Units::user)
}

/// What stands between git and one URL: who would answer, and what the host then says.
fn examine_url(view: &View, push: bool, explicit: Option<&Path>, environment: &Environment) -> Vec<Check> {
    let config = match client::configuration(explicit, environment) {
        Ok(config) => config,
        Err(error) => return vec![Check::of("config", &error)],
    };
    let socket = client::socket(config.as_ref());
    let explanation = match explain::explain_view(view, || Ok(socket.clone())) {
        Ok(explanation) => explanation,
        Err(error) => return vec![Check::of("daemon", &error)],
    };
    let answer = &explanation.answer;
    let mut checks = Vec::new();
    if let (Some(obstacle), Some(next)) = (&view.git.obstacle, &view.git.obstacle_next) {
        checks.push(Check::fail("git", obstacle.clone(), next.clone()));
    }
    if explanation.integration.is_some() && view.git.asks_agent == Some(false) && matches!(view.transport, Transport::Http(_)) {
        checks.push(Check::warn("git", "for this user, git does not ask scm-agent about that URL", git::setup()));
    }
    let why = answer.message.clone().unwrap_or_else(|| answer.reason.clone());
    let next = answer.next.clone().unwrap_or_else(|| format!("scm-agent explain {}", explain::quoted(&view.url)));
    match (&view.transport, answer.kind) {
        (Transport::Http(request), AnswerKind::Credential) => {
            checks.push(match explanation.token.as_ref().and_then(|token| token.last_error.as_ref()) {
                Some(error) => Check::warn("explain", format!("{}; but {error}", answer.reason), "what the host says, the probe shows"),
                None => Check::ok("explain", answer.reason.clone()),
            });
            let target = probe::Target { request, url: &view.url, explanation: &explanation, push };
            checks.extend(probe::probe(&target, config.as_ref(), &socket));
        }
        // Whatever else git knows may do there.
        (_, AnswerKind::NotAsked | AnswerKind::Silence) => checks.push(Check::warn("explain", why, next)),
        (_, AnswerKind::Credential | AnswerKind::Message | AnswerKind::Quit) => checks.push(Check::fail("explain", why, next)),
    }
    checks
}

/// Which proxies there are, for whoever wonders why something does not connect.
fn proxies(config: &Config) -> Option<Check> {
    let proxy_of = |trusted_urls| http::Client::new(&config.http_config(trusted_urls));
    let (control_plane, scm) = match (proxy_of(true), proxy_of(false)) {
        (Ok(control_plane), Ok(scm)) => (control_plane, scm),
        (Err(error), _) | (_, Err(error)) => return Some(Check::of("proxy", &http_setup(error))),
    };
    let to_control_plane = match &config.control_plane.source {
        Source::Url(url) => control_plane.proxy_for(url),
        Source::File(_) => None,
    };
    let proxies = [to_control_plane, scm.proxy()];
    if proxies == [None, None] {
        return None;
    }
    let [to_control_plane, to_scm] = proxies.map(|proxy| proxy.map_or_else(|| "directly".to_owned(), |proxy| format!("through {proxy}")));
    Some(Check::ok("proxy", format!("control plane: {to_control_plane}; SCM hosts and issuers: {to_scm}, but for no_proxy")))
}

/// What to do where the error says nothing better.
const NOTHING_TO_SET: &str = "wait for the control plane, or ask whoever runs it";

/// Asks the control plane from here, for when no daemon says how it fares.
fn reachable_control_plane(config: &Config) -> Check {
    let source = match sources(config) {
        Ok(sources) => sources.list,
        Err(error) => return Check::of("control-plane", &error),
    };
    let fetched = on_the_network(LIST_LIMIT, async move { source.fetch().await });
    match fetched {
        Some(Ok(list)) => Check::ok("control-plane", format!("reachable from here, {} integrations", list.integrations.len())),
        Some(Err(error)) => Check::fail("control-plane", error.to_string(), error.next.unwrap_or(NOTHING_TO_SET)),
        None => Check::fail(
            "control-plane",
            format!("no list within {} s", LIST_LIMIT.as_secs()),
            "see control_plane.url and proxy, and whether a firewall is in the way",
        ),
    }
}

/// Runs what needs the network to its end or to the time limit.
fn on_the_network<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let done = runtime.block_on(async { tokio::time::timeout(limit, work).await.ok() });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    done
}

/// The findings for a person, each with what to do next below it. A command stays one line, so that it can be copied.
fn report(checks: &[Check], width: Option<usize>) -> String {
    const INDENT: usize = 22;
    let mut text = String::new();
    for check in checks {
        let state = match check.state {
            State::Fail => "FAIL",
            State::Ok => "ok",
            State::Skip => "skip",
            State::Warn => "warn",
        };
        let detail: Vec<String> = cut_words(&check.detail).lines().flat_map(|line| wrap(line, INDENT, width)).collect();
        let _ = writeln!(text, "{state:<5} {:<15} {}", check.name, detail.join(&format!("\n{:INDENT$}", "")));
        if let Some(next) = check.next.as_deref().filter(|next| !next.is_empty()) {
            let _ = writeln!(text, "{:INDENT$}-> {next}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_in_the_report_and_whole_in_the_document() {
        let checks = [Check::warn("integrations", format!("{} gives no token", "a".repeat(200)), "b".repeat(200))];
        let expected =
            format!("warn  integrations    {}\u{2026} gives no token\n                      -> {}\n", "a".repeat(79), "b".repeat(200));
        assert_eq!(report(&checks, None), expected);
        assert!(serde_json::to_string(&checks).unwrap().contains(&"a".repeat(200)));
    }

    #[test]
    fn details_are_wrapped_and_commands_are_not() {
        let command = "scm-agent config check --config /etc/scm-agent/config.toml";
        let checks = [Check::warn("config", "one two three\nfour", command)];
        let indent = " ".repeat(22);
        let expected = format!("warn  config          one two\n{indent}three\n{indent}four\n{indent}-> {command}\n");
        assert_eq!(report(&checks, Some(30)), expected);
    }
}
