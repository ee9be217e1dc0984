//! `scm-agent doctor`: looks at everything between the configuration and git, and says what is wrong and what to do about it.
//!
//! It changes nothing, and without a URL sends no secret: it loads the keys, asks the daemon for its status and issuers for their
//! metadata. With a URL it asks that host, with the caller's own token, as git would.

mod git;
mod probe;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::explain::{self, Transport, View};
use super::run::{http_setup, sources};
use super::status::cut_words;
use super::{Io, client};
use crate::clock::SystemClock;
use crate::config::{Config, Environment, Finding, Source};
use crate::error::{Error, Kind};
use crate::explain::AnswerKind;
use crate::key::{self, KeyRing, Problem};
use crate::oauth::{Plan, ServicePlan, TokenClient, plan};
use crate::status::{Integration, Secret, Status, Token, TokenState};
use crate::{http, login, oauth};

/// How many issuers are asked for their metadata.
const MAX_ISSUERS: usize = 20;

/// How long everything that goes over the network may take.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(30);

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
    let checks = match &args.url {
        None => examine(explicit, environment),
        Some(url) => examine_url(&explain::view(url, None)?, args.push, explicit, environment),
    };
    let failed = checks.iter().filter(|check| check.state == State::Fail).count();
    let text = if args.json {
        let document = serde_json::json!({ "healthy": failed == 0, "checks": checks });
        format!("{document:#}\n")
    } else {
        report(&checks)
    };
    io.stdout.write_all(text.as_bytes())?;
    match failed {
        0 => Ok(()),
        1 => Err(Error::new(Kind::User, "one check failed")),
        _ => Err(Error::new(Kind::User, format!("{failed} checks failed"))),
    }
}

/// Every check, in the order in which a fault shows first.
fn examine(explicit: Option<&Path>, environment: &Environment) -> Vec<Check> {
    let config = match client::configuration(explicit, environment) {
        Ok(config) => config,
        // Nothing else can be looked at before this is mended.
        Err(error) => return vec![Check::of("config", &error)],
    };
    let socket = client::socket(config.as_ref());
    let mut checks = Vec::new();
    match &config {
        Some(config) => {
            checks.push(configuration(config));
            checks.extend(named_files(config));
            checks.push(keys(config));
            checks.extend(proxies(config));
        }
        None => checks.push(Check::skip("config", "this user cannot read it; root, or the agent's user, can")),
    }
    match client::ask::<Status>(&socket, "status") {
        Ok(status) => {
            checks.push(daemon(&status));
            checks.push(control_plane(&status));
            checks.extend(integrations(&status));
            checks.extend(other_faults(&status));
            checks.push(memory(&status));
            if let Some(config) = &config {
                checks.extend(issuers(config, &status));
            }
            checks.extend(git::examine(&socket, &status, config.as_ref()));
        }
        Err(error) => {
            checks.push(Check::of("daemon", &error));
            if let Some(config) = &config {
                checks.push(reachable_control_plane(config));
            }
            checks.extend(git::programs());
            checks.push(Check::skip("integrations", "only the daemon knows them"));
        }
    }
    checks
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
        checks.push(Check::warn("git", "for this user, git does not ask scm-agent about that URL", "scm-agent git setup"));
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

fn configuration(config: &Config) -> Check {
    match config.require_secrets() {
        Ok(()) => Check::ok("config", format!("nothing unknown, nothing missing; files read: {}", config.files.len())),
        // The service may have them as systemd credentials, which only it can see.
        Err(error) => Check::warn("config", error.to_string(), "run doctor where the service's credentials are, or name the files"),
    }
}

fn named_files(config: &Config) -> Vec<Check> {
    let check = |finding| match finding {
        Finding::Error(problem) => Check::fail("files", problem.to_string(), "scm-agent config check"),
        Finding::Warning(problem) => Check::warn("files", problem.to_string(), "run doctor as root, or as the agent's user"),
    };
    config.check_named_files().into_iter().map(check).collect()
}

fn keys(config: &Config) -> Check {
    if config.key.files.is_empty() {
        return Check::skip("key", "no key file is configured here");
    }
    match KeyRing::load(&config.key_config(false)) {
        Ok(keys) => {
            let names: Vec<String> = keys.descriptions().iter().map(|key| format!("{} {}", key.algorithm, key.fingerprint)).collect();
            Check::ok("key", names.join(", "))
        }
        Err(key::Error::KeyFile { problem: Problem::PermissionDenied, path }) => {
            Check::skip("key", format!("{} is not for this user to read, as it should be", path.display()))
        }
        Err(error) => Check::of("key", &error.into()),
    }
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

fn daemon(status: &Status) -> Check {
    if status.version != env!("CARGO_PKG_VERSION") {
        let detail = format!("the daemon is version {}, this is {}", status.version, env!("CARGO_PKG_VERSION"));
        return Check::warn("daemon", detail, "systemctl restart scm-agent");
    }
    Check::ok("daemon", format!("version {}, pid {}", status.version, status.pid))
}

/// What to do where the error says nothing better.
const NOTHING_TO_SET: &str = "wait for the control plane, or ask whoever runs it";

fn control_plane(status: &Status) -> Check {
    let sync = &status.sync;
    match (&sync.last_error, sync.last_success) {
        (None, None) => Check::warn("control-plane", format!("{} was not asked yet", sync.source), "scm-agent sync"),
        (None, Some(_)) => Check::ok("control-plane", format!("{}, {} integrations", sync.source, status.integrations.len())),
        (Some(error), _) => Check::fail(
            "control-plane",
            format!("{} fails ({} in a row): {error}", sync.source, sync.consecutive_failures),
            format!("{}, then run: scm-agent sync", sync.next.as_deref().unwrap_or(NOTHING_TO_SET)),
        ),
    }
}

/// Asks the control plane from here, for when no daemon says how it fares.
fn reachable_control_plane(config: &Config) -> Check {
    let source = match sources(config) {
        Ok(sources) => sources.list,
        Err(error) => return Check::of("control-plane", &error),
    };
    let fetched = on_the_network(async move { source.fetch().await });
    match fetched {
        Some(Ok(list)) => Check::ok("control-plane", format!("reachable from here, {} integrations", list.integrations.len())),
        Some(Err(error)) => Check::fail("control-plane", error.to_string(), error.next.unwrap_or(NOTHING_TO_SET)),
        None => Check::fail("control-plane", "no answer in time", "see whether a proxy or a firewall is in the way"),
    }
}

/// What the daemon finds wrong beyond its list and the integrations in it.
fn other_faults(status: &Status) -> Vec<Check> {
    let told_elsewhere = |reason: &str| {
        let of_the_list = status.sync.last_error.as_deref().is_some_and(|error| reason.contains(error));
        let of_an_integration = status.integrations.iter().any(|integration| reason.contains(&integration.id));
        of_the_list || of_an_integration
    };
    let check = |reason: &String| {
        if reason.contains("public key") || reason.contains("registered for this runner") {
            let next = "scm-agent key show FILE prints what to register; or put the registered key's file in key.files";
            Check::fail("registered-key", reason.clone(), next)
        } else if reason.starts_with("the kept list") || reason.contains("not kept for the next start") {
            let next =
                "see agent.state_dir: it belongs to the agent's user, mode 0700, with room on its disk; what was set aside can be deleted";
            Check::fail("state", reason.clone(), next)
        } else if reason.starts_with("sign-ins") || (!status.store.healthy && reason.contains("grants")) {
            let next = if reason.contains("sign in again") {
                "their users run scm-agent login; what was set aside can be deleted; a runner key that was taken away can be loaded again"
            } else {
                "see agent.state_dir: it belongs to the agent's user, mode 0700, with room on its disk; then restart the daemon, or wait"
            };
            Check::fail("store", reason.clone(), next)
        } else if reason.starts_with("the operator's personal access token") {
            let next = "let the integration allow personal access tokens, or take pat_file or pat_credential out of its [[provider]]";
            Check::warn("tokens", reason.clone(), next)
        } else if reason.contains("key files") {
            Check::fail("key", reason.clone(), "mend the file; the daemon looks again by itself")
        } else {
            Check::fail("integrations", reason.clone(), "enter it anew with the control plane, then run: scm-agent sync")
        }
    };
    status.degraded.iter().filter(|reason| !told_elsewhere(reason)).map(check).collect()
}

fn integrations(status: &Status) -> Vec<Check> {
    let mut checks = Vec::new();
    for integration in &status.integrations {
        let name = format!("{} ({})", integration.host, integration.id);
        if integration.secret == Secret::Undecryptable {
            checks.push(Check::fail(
                "integrations",
                format!("no runner key opens the client secret of {name}"),
                "put the file of the key that it was sealed for into key.files, or enter the secret anew with the control plane",
            ));
        }
        if let Some(held) = &integration.quarantine {
            let fields: Vec<&str> = held.fields.iter().map(|field| field.field.as_str()).collect();
            let serving = if held.serving { "what was trusted before stays in use" } else { "it gives no tokens" };
            checks.push(Check::fail(
                "quarantine",
                format!("{name} is held back: {} changed without a new secret; {serving}", fields.join(" and ")),
                format!("scm-agent trust shows what changed; if you changed it: scm-agent trust {}", integration.id),
            ));
            if !held.serving {
                continue;
            }
        }
        for token in integration.tokens.iter().filter(|token| token.grant == PAT) {
            if let Some(error) = &token.last_error {
                let next =
                    if token.subject == OPERATOR { "mend the file, or put a new token into it" } else { "that user gives git another one" };
                checks.push(Check::warn("tokens", format!("{name}, {}: {error}", token.subject), next));
            }
        }
        let own = |token: &&Token| token.grant != PAT && matches!(integration.secret, Secret::Ok | Secret::Quarantined);
        for token in integration.tokens.iter().filter(own) {
            if token.subject != SERVICE {
                checks.extend(sign_in(&name, &integration.host, token));
            } else if let Some(error) = &token.last_error {
                checks.push(Check::fail("integrations", format!("{name}: {error}"), "see the app's id, secret and scopes with its issuer"));
            }
        }
        if integration.grant == "user" && !integration.pat && integration.tokens.is_empty() {
            let next = format!("scm-agent login https://{}", integration.host);
            checks.push(Check::warn("sign-ins", format!("{name}: nobody is signed in"), next));
        }
        if integration.grant == "none" {
            let reason = integration.note.as_deref().unwrap_or("nothing is set up for it");
            checks.push(Check::warn("integrations", format!("{name} gives no token: {reason}"), "set it up with the control plane"));
        }
    }
    if checks.is_empty() && !status.integrations.is_empty() {
        checks.push(Check::ok("integrations", format!("all {} usable", status.integrations.len())));
    }
    checks
}

/// The grant of personal access tokens, and the subject of the operator's.
const PAT: &str = "pat";
const OPERATOR: &str = "operator";

/// The subject of the app's own tokens.
const SERVICE: &str = "service";

/// A user's grant that is in trouble.
fn sign_in(name: &str, host: &str, token: &Token) -> Option<Check> {
    let reason = token.last_error.as_deref().unwrap_or("it is over");
    let detail = format!("{name}, {}: {reason}", token.subject);
    match token.state {
        TokenState::NeedsLogin => {
            let account = token.subject.split_once(" as ").map_or("", |(_, account)| account);
            let again = login::command(&format!("https://{host}"), account);
            Some(Check::warn("sign-ins", detail, format!("that user runs: {again}")))
        }
        TokenState::Failing => Some(Check::warn("sign-ins", detail, "it is tried again by itself; see the issuer and the network")),
        TokenState::Refreshing | TokenState::Valid => None,
    }
}

fn memory(status: &Status) -> Check {
    match &status.memory.reason {
        None => Check::ok("memory", "kept out of swap"),
        Some(reason) => {
            Check::warn("memory", format!("may be swapped: {reason}"), "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited")
        }
    }
}

/// Asks the issuers of the integrations for what they offer. No client authenticates: nothing secret is sent.
fn issuers(config: &Config, status: &Status) -> Vec<Check> {
    let overrides = config.provider_overrides();
    let plan_of = |integration: &Integration| {
        plan(&integration.scm_id, &integration.host, integration.issuer.as_deref(), integration.pat, integration.oauth, &overrides)
    };
    let mut wanted: BTreeMap<String, ServicePlan> = BTreeMap::new();
    for integration in &status.integrations {
        if let Plan::Service(plan) = plan_of(integration) {
            wanted.entry(plan.issuer_host()).or_insert(plan);
        }
    }
    if wanted.is_empty() {
        return Vec::new();
    }
    let http = match http::Client::new(&config.http_config(false)) {
        Ok(http) => http,
        Err(error) => return vec![Check::of("issuers", &http_setup(error))],
    };
    let tokens = TokenClient::new(http, Arc::new(SystemClock));
    let left_out = wanted.len().saturating_sub(MAX_ISSUERS);
    let answers = on_the_network(async move {
        let mut answers: Vec<(String, Result<(), oauth::Error>)> = Vec::new();
        for (host, plan) in wanted.into_iter().take(MAX_ISSUERS) {
            answers.push((host, tokens.endpoint(&plan).await.map(|_| ())));
        }
        answers
    });
    let Some(answers) = answers else {
        return vec![Check::fail("issuers", "no answer in time", "see whether a proxy or a firewall is in the way")];
    };
    let reached = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    let mut checks: Vec<Check> = answers
        .into_iter()
        .filter_map(|(host, answer)| Some((host, answer.err()?)))
        .map(|(host, error)| {
            Check::fail("issuers", format!("{host}: {error}"), "see the integration's issuer URL, and proxy and ca_file in [scm]")
        })
        .collect();
    if reached > 0 {
        checks.push(Check::ok("issuers", format!("{reached} say where tokens are to be had")));
    }
    if left_out > 0 {
        checks.push(Check::skip("issuers", format!("{left_out} more were not asked")));
    }
    checks
}

/// Runs what needs the network to its end or to the time limit.
fn on_the_network<T>(work: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async { tokio::time::timeout(NETWORK_TIMEOUT, work).await.ok() })
}

/// The findings for a person, each with what to do next below it.
fn report(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let state = match check.state {
            State::Fail => "FAIL",
            State::Ok => "ok",
            State::Skip => "skip",
            State::Warn => "warn",
        };
        let _ = writeln!(text, "{state:<5} {:<15} {}", check.name, cut_words(&check.detail).replace('\n', "\n                      "));
        if let Some(next) = check.next.as_deref().filter(|next| !next.is_empty()) {
            let _ = writeln!(text, "                      -> {next}");
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
        assert_eq!(report(&checks), expected);
        assert!(serde_json::to_string(&checks).unwrap().contains(&"a".repeat(200)));
    }
}
