//! One connection: requests in, answers out, nothing unbounded in size or time.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::cgroup::{Cgroup, Cgroups, Looked, Unknown};
use super::{Agent, Client, HOSTS_SHARE_PERCENT, InForce, Units, grant, peer, sign_in};
use crate::broker::{Caller, Outcome, Presentation};
use crate::denial::{Denial, Event};
use crate::git::frame::{self, FrameError, RequestParser, Verb};
use crate::git::{CredentialAnswer, CredentialRequest, MAX_STATE_BYTES, Operation};
use crate::integration::sync::{Asker, TrustError};
use crate::metrics::labels::{self, Served};
use crate::sys::{self, Writer};
use crate::{oauth_app, status};

/// What is read at a time. A request of git's is a few hundred bytes.
const READ_BYTES: usize = 4096;

/// How long and for how many reads a refused client may go on sending.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_READS: usize = 64;

/// Tells a client that there is no place for it, without waiting for anything.
pub(super) fn refuse_as_busy(stream: &UnixStream) {
    // A fresh socket's buffer takes the line at once; if not, the client sees the connection close.
    let _ = stream.try_write(&refusal(&frame::BUSY).text);
}

/// Serves a connection until it ends, breaks a rule, or the daemon ends.
pub(super) async fn serve(stream: &mut UnixStream, client: &Client, agents: &InForce, mut ending: watch::Receiver<bool>) {
    let peer = &client.peer;
    let mut parser = RequestParser::new();
    loop {
        let config = agents.get().config;
        let request = tokio::select! {
            request = next_request(stream, client, &mut parser, config.read_timeout) => request,
            // A request that has begun is still served; an idle connection ends.
            _ = ending.wait_for(|ending| *ending), if parser.is_idle() => return,
        };
        let request = match request {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                let (event, message) = match error {
                    Refusal::OtherWriter => (Event::Writer, "refused: written by another user than the one who connected"),
                    Refusal::Frame(_) | Refusal::TooSlow => (Event::Malformed, "refused: malformed request"),
                };
                agents.get().denials.note(&Denial { reason: Some(&error), ..client.denial(event, message) });
                agents.get().metrics.unreadable();
                if send(stream, &refusal(&error).text, config.read_timeout).await.is_ok() {
                    linger(stream).await;
                }
                return;
            }
        };
        // From its beginning to its end, a request goes by one set of settings.
        let agent = agents.get();
        let begun = Instant::now();
        let operation = operation(&request.verb);
        if !client.is_privileged {
            match agent.rates.take(peer.uid) {
                Ok(Duration::ZERO) => {}
                Ok(wait) => tokio::time::sleep(wait).await,
                Err(error) => {
                    agent.denials.note(&Denial { reason: Some(&error), ..client.denial(Event::Rate, "refused: too many requests") });
                    let answer = Answer { outcome: labels::Outcome::Denied, ..refusal(&frame::TOO_FAST) };
                    agent.metrics.answered(operation, answer.outcome, answer.served_for(operation), begun.elapsed());
                    if send(stream, &answer.text, config.read_timeout).await.is_ok() {
                        linger(stream).await;
                    }
                    return;
                }
            }
        }
        let answer = match timeout(agent.config.request_timeout, answer(&request, stream, client, &agent)).await {
            Ok(answer) => answer,
            Err(_) => {
                warn!(uid = peer.uid, pid = peer.pid, "no answer in time");
                Answer { outcome: labels::Outcome::Timeout, ..message("no answer in time; run: scm-agent status", true) }
            }
        };
        agent.metrics.answered(operation, answer.outcome_of(operation), answer.served_for(operation), begun.elapsed());
        if send(stream, &answer.text, config.read_timeout).await.is_err() {
            return;
        }
        if answer.last {
            linger(stream).await;
            return;
        }
    }
}

/// Lets a client that is still sending read the refusal: closing with unread bytes would reset the connection under it.
async fn linger(stream: &mut UnixStream) {
    let mut rest = Zeroizing::new([0_u8; READ_BYTES]);
    let _ = stream.shutdown().await;
    let drain = async {
        for _ in 0..LINGER_READS {
            if !stream.read(rest.as_mut_slice()).await.is_ok_and(|length| length > 0) {
                return;
            }
        }
    };
    let _ = timeout(LINGER, drain).await;
}

/// Why a connection is closed. Names no part of what was sent.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the request was written by another user than the one who connected")]
    OtherWriter,
    #[error("the request did not arrive in time")]
    TooSlow,
}

/// Reads the next request; `None` when the client is done or has been silent for too long.
async fn next_request(
    stream: &UnixStream,
    client: &Client,
    parser: &mut RequestParser,
    read_timeout: Duration,
) -> Result<Option<frame::Request>, Refusal> {
    let mut deadline = None;
    let mut buffer = Zeroizing::new([0_u8; READ_BYTES]);
    loop {
        if let Some(request) = parser.next_request()? {
            return Ok(Some(request));
        }
        if deadline.is_none() && !parser.is_idle() {
            deadline = Some(Instant::now() + read_timeout);
        }
        let read = match deadline {
            None => match timeout(read_timeout, receive(stream, buffer.as_mut_slice())).await {
                Err(_) => return Ok(None),
                Ok(read) => read,
            },
            Some(deadline) => timeout_at(deadline, receive(stream, buffer.as_mut_slice())).await.map_err(|_| Refusal::TooSlow)?,
        };
        match read {
            Ok((0, _)) | Err(_) => return Ok(None),
            Ok((length, writer)) => {
                client.check(stream, writer)?;
                parser.push(&buffer[..length]);
            }
        }
    }
}

/// Reads what is there, as soon as there is something, and who wrote it.
async fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<Writer>)> {
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || sys::receive(stream, buffer)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            other => return other,
        }
    }
}

impl Client {
    /// A refusal of this client's.
    pub(super) fn denial<'a>(&self, event: Event, message: &'a str) -> Denial<'a> {
        Denial { uid: Some(self.peer.uid), pid: self.peer.pid, ..Denial::new(event, message) }
    }

    /// Makes sure that the user who connected wrote it: a connection can be handed to a process of another one.
    fn check(&self, stream: &UnixStream, writer: Option<Writer>) -> Result<(), Refusal> {
        let writer = writer.ok_or(Refusal::OtherWriter)?;
        let is_same_number = writer.pid != 0 && Some(writer.pid) == self.peer.pid;
        if !is_same_number {
            self.has_other_writers.store(true, Ordering::Relaxed);
        }
        // The kernel tells the real user of who writes and the effective one of who connects. They differ in a process that is neither
        // one's; it is the same process if the one that connected still lives and has that number.
        let is_one_process = || {
            is_same_number
                && sys::peer_process(stream)
                    .and_then(|process| Ok(peer::number(&process)? == self.peer.pid && peer::lives(&process)?))
                    .unwrap_or(false)
        };
        if writer.uid == self.peer.uid || is_one_process() { Ok(()) } else { Err(Refusal::OtherWriter) }
    }
}

/// An answer as text for the socket.
struct Answer<'a> {
    text: Zeroizing<Vec<u8>>,
    /// What it is, for who counts.
    outcome: labels::Outcome,
    /// Whether its token was there already.
    cached: bool,
    /// Whether the connection ends with it: what follows a refused request is not to be trusted.
    last: bool,
    /// Held until it was sent, so that only so many large ones are in memory at a time.
    _place: Option<SemaphorePermit<'a>>,
}

impl Answer<'_> {
    /// Where git's own operations say nothing, the others answer with a document.
    fn outcome_of(&self, operation: labels::Operation) -> labels::Outcome {
        use labels::Operation::{Erase, Get, Store};
        match (operation, self.outcome) {
            (Erase | Get | Store, outcome) => outcome,
            (_, labels::Outcome::Silence) => labels::Outcome::Document,
            (_, outcome) => outcome,
        }
    }

    fn served_for(&self, operation: labels::Operation) -> Served {
        match (operation, self.outcome) {
            (labels::Operation::Get, labels::Outcome::Credential | labels::Outcome::Pat) if self.cached => Served::Cached,
            (labels::Operation::Get, labels::Outcome::Credential | labels::Outcome::Pat) => Served::Fetched,
            (labels::Operation::Get, _) => Served::Nothing,
            _ => Served::ByOther,
        }
    }
}

/// What is asked for, for who counts.
fn operation(verb: &Verb) -> labels::Operation {
    let name = match verb {
        Verb::Git(Operation::Erase) => return labels::Operation::Erase,
        Verb::Git(Operation::Get) => return labels::Operation::Get,
        Verb::Git(Operation::Store) => return labels::Operation::Store,
        Verb::Other(name) => name.as_str(),
    };
    match name {
        "accounts" | "login" | "login-cancel" | "login-finish" | "login-wait" | "logout" => labels::Operation::Accounts,
        "explain" => labels::Operation::Explain,
        "grant" | "grants" | "grant-revoke" => labels::Operation::Grant,
        "oauth-app" => labels::Operation::OauthApp,
        "ping" => labels::Operation::Ping,
        "reload" => labels::Operation::Reload,
        "status" => labels::Operation::Status,
        "sync" => labels::Operation::Sync,
        "trust" => labels::Operation::Trust,
        _ => labels::Operation::Other,
    }
}

/// The one who asks, with the rules that are about them, and what their unit was given. The unit is looked up only where that matters.
async fn caller(stream: &UnixStream, client: &Client, agent: &Agent) -> Caller {
    let Client { peer, .. } = client;
    let Units { cgroups, grants } = &agent.units;
    let of = |rules| Caller::new(rules, peer.uid, peer.pid, Arc::clone(&agent.denials));
    let has_grants = grants.are_there();
    if !has_grants && !agent.access.asks_for_cgroup_of(peer) {
        return of(agent.access.about(peer, None));
    }
    match find_cgroup(stream, client, cgroups).await {
        Ok(cgroup) => {
            let granted = if has_grants { grants.of(&cgroup) } else { Vec::new() };
            let rules = agent.access.about(peer, Some(&cgroup)).with_granted(granted);
            Caller { unit: cgroup.unit().map(Arc::from), ..of(rules) }
        }
        Err(problem) => Caller { unit_problem: Some(problem.to_string().into()), ..of(agent.access.about(peer, None)) },
    }
}

/// In which cgroup the process is that connected, and that alone has written here.
async fn find_cgroup(stream: &UnixStream, client: &Client, cgroups: &Arc<Cgroups>) -> Result<Arc<Cgroup>, Unknown> {
    if client.has_other_writers.load(Ordering::Relaxed) {
        return Err(Unknown::OtherWriter);
    }
    let process = match cgroups.of_peer(stream) {
        Ok(cgroup) => return Ok(cgroup),
        Err(Looked::Unknown(problem)) => return Err(problem),
        Err(Looked::Elsewhere(process)) => process,
    };
    let cgroups = Arc::clone(cgroups);
    let found = tokio::task::spawn_blocking(move || cgroups.search(&process)).await;
    found.unwrap_or(Err(Unknown::System(io::ErrorKind::Other)))
}

/// The answer to one request.
async fn answer<'a>(request: &frame::Request, stream: &UnixStream, client: &Client, agent: &'a Arc<Agent>) -> Answer<'a> {
    let operation = match &request.verb {
        Verb::Git(operation) => *operation,
        Verb::Other(name) if name == "explain" => return explain(request.body.expose_secret(), stream, client, agent).await,
        Verb::Other(name) if name == "trust" => return trust(request.body.expose_secret(), client, agent).await,
        Verb::Other(name) if name == "oauth-app" => return oauth_app(request.body.expose_secret(), stream, client, agent).await,
        Verb::Other(name) if grant::VERBS.contains(&name.as_str()) => {
            return match grant::answer(name, request.body.expose_secret(), client, agent).await {
                Ok(mut document) => {
                    document.push(b'\n');
                    end(document)
                }
                Err(reason) => refusal(&reason),
            };
        }
        Verb::Other(name) if sign_in::VERBS.contains(&name.as_str()) => {
            let caller = caller(stream, client, agent).await;
            let mut document = sign_in::answer(name, request.body.expose_secret(), &caller, agent).await;
            document.push(b'\n');
            return end(document);
        }
        Verb::Other(name) => return other_verb(name, client, agent).await,
    };
    let request = match CredentialRequest::parse(request.body.expose_secret()) {
        Ok(request) => request,
        Err(error) => {
            return malformed(&error, client, agent);
        }
    };
    let begun = Instant::now();
    match agent.broker.answer(operation, &request, caller(stream, client, agent).await).await {
        Outcome::Denied { message: text } => {
            let answer = text.map_or_else(|| end(Vec::new()), |text| message(&text, true));
            Answer { outcome: labels::Outcome::Denied, ..answer }
        }
        Outcome::Silence => end(Vec::new()),
        Outcome::Refusal { message: text, quit } => message(&text, quit),
        Outcome::Pat { username, token } => {
            let token = token.expose_secret().as_bytes();
            let answer = CredentialAnswer {
                username: Some(&username),
                password: Some(token),
                // It is kept here already, where it can be taken back.
                ephemeral: request.has_capability("authtype"),
                ..CredentialAnswer::default()
            };
            Answer { outcome: labels::Outcome::Pat, cached: true, ..credential(&answer, username.len() + token.len() + 192) }
        }
        Outcome::Credential { presentation, token, password_expiry_utc, state } => {
            let cached = token.was_there(begun);
            let token = token.access_token.expose_secret().as_bytes();
            let ephemeral = request.has_capability("authtype");
            let nothing = CredentialAnswer { password_expiry_utc, ephemeral, state: state.as_deref(), ..CredentialAnswer::default() };
            let (answer, name_length) = match &presentation {
                Presentation::Bearer => (CredentialAnswer { bearer: Some(token), ..nothing }, 0),
                Presentation::Password { username } => {
                    let length = username.as_ref().map_or(0, String::len);
                    (CredentialAnswer { username: username.as_deref(), password: Some(token), ..nothing }, length)
                }
            };
            Answer { cached, ..credential(&answer, name_length + token.len() + MAX_STATE_BYTES + 192) }
        }
    }
}

/// The verbs that are not git's: each is answered with one JSON document.
async fn other_verb<'a>(name: &str, client: &Client, agent: &'a Arc<Agent>) -> Answer<'a> {
    let mut place = None;
    let mut document = match name {
        "status" => {
            // Who has to see what is wrong does not wait for those who may make it so.
            let places = if client.is_privileged { &agent.privileged_status_places } else { &agent.status_places };
            place = places.acquire().await.ok();
            let agent = Arc::clone(agent);
            // Who signed in where is nobody else's business, but for those who could read it anyway.
            let only = (!client.is_privileged).then_some(client.peer.uid);
            // Thousands of integrations take a while to write down, and git is not to wait for that.
            let document = tokio::task::spawn_blocking(move || serde_json::to_vec(&agent.status(only)).unwrap_or_default());
            document.await.unwrap_or_default()
        }
        // For who wants to know whether the daemon answers at all, and which one does.
        "ping" => serde_json::to_vec(&serde_json::json!({ "pid": std::process::id() })).unwrap_or_default(),
        "reload" => {
            if !client.is_privileged {
                agent.denials.note(&Denial {
                    operation: Some("reload"),
                    ..client.denial(Event::Privilege, "refused: reload is for root and the agent's own user")
                });
                return refusal(&"only root and the agent's own user may have the settings read again");
            }
            info!(target: "audit", event = "reload_asked", uid = client.peer.uid, pid = client.peer.pid, "reload");
            serde_json::to_vec(&agent.reloads.ask().await).unwrap_or_default()
        }
        "sync" => {
            let asker = if client.is_privileged { Asker::Operator } else { Asker::Anyone };
            serde_json::to_vec(&agent.broker.sync_now(asker).await).unwrap_or_default()
        }
        _ => return malformed(&"this scm-agent does not know that verb", client, agent),
    };
    document.push(b'\n');
    Answer { _place: place, ..end(document) }
}

/// Says what a `get` with the same text would be answered with, and why.
async fn explain(body: &[u8], stream: &UnixStream, client: &Client, agent: &Arc<Agent>) -> Answer<'static> {
    match CredentialRequest::parse(body) {
        Ok(request) => {
            let explanation = agent.broker.explain(&request, &caller(stream, client, agent).await).await;
            let mut document = serde_json::to_vec(&explanation).unwrap_or_default();
            document.push(b'\n');
            end(document)
        }
        Err(error) => malformed(&error, client, agent),
    }
}

/// Accepts a quarantined integration: the lines `id=ID` and `change=NAME` say which, as it was shown.
async fn trust(body: &[u8], client: &Client, agent: &Arc<Agent>) -> Answer<'static> {
    let Client { is_privileged, peer, .. } = client;
    if !is_privileged {
        agent.denials.note(&Denial {
            operation: Some("trust"),
            ..client.denial(Event::Privilege, "refused: trust is for root and the agent's own user")
        });
        return refusal(&"only root and the agent's own user may say what is trusted");
    }
    let (Some(id), Some(change)) = (sign_in::field(body, "id"), sign_in::field(body, "change")) else {
        return malformed(&"the request does not say what is to be trusted", client, agent);
    };
    info!(target: "audit", event = "trust_asked", uid = peer.uid, pid = peer.pid, integration = id, "trust");
    let error = agent.broker.trust(id, change).await.err();
    let is_accepted = matches!(error, None | Some(TrustError::NotKept { .. }));
    let outcome = status::Trust { accepted: is_accepted, error: error.map(|error| error.to_string()) };
    let mut document = serde_json::to_vec(&outcome).unwrap_or_default();
    document.push(b'\n');
    end(document)
}

/// Gives the app for the line `url=URL` to whom the rules give it to. The document is as large as it gets from the start: growing would
/// leave copies.
async fn oauth_app(body: &[u8], stream: &UnixStream, client: &Client, agent: &Arc<Agent>) -> Answer<'static> {
    let Some(url) = sign_in::field(body, "url") else {
        return malformed(&"the request does not say which URL it is about", client, agent);
    };
    let within = agent.config.request_timeout * HOSTS_SHARE_PERCENT / 100;
    let answer = agent.broker.oauth_app(&caller(stream, client, agent).await, url, within).await;
    let mut text = oauth_app::document(&answer);
    frame::write_end(&mut text);
    Answer { text, ..end(Vec::new()) }
}

/// An answer to what cannot be read, and its line in the log.
fn malformed(reason: &dyn fmt::Display, client: &Client, agent: &Agent) -> Answer<'static> {
    agent.denials.note(&Denial { reason: Some(reason), ..client.denial(Event::Malformed, "refused: malformed request") });
    refusal(reason)
}

/// An answer that refuses the request.
fn refusal(reason: &dyn fmt::Display) -> Answer<'static> {
    let mut text = Vec::new();
    frame::write_error(reason, &mut text);
    Answer { text: Zeroizing::new(text), outcome: labels::Outcome::Error, cached: false, last: true, _place: None }
}

/// An answer without a credential but with a line for the user; `quit` stops git from asking for a password.
fn message(line: &str, quit: bool) -> Answer<'static> {
    let mut text = Vec::new();
    frame::write_message(line, &mut text);
    // Cannot fail: there is no value in it.
    let _ = CredentialAnswer { quit, ..CredentialAnswer::default() }.write(&mut text);
    Answer { outcome: if quit { labels::Outcome::Quit } else { labels::Outcome::Message }, ..end(text) }
}

/// An answer with a credential, in a buffer that is large enough at once: growing would leave copies.
fn credential(answer: &CredentialAnswer<'_>, capacity: usize) -> Answer<'static> {
    let mut text = Vec::with_capacity(capacity);
    match answer.write(&mut text) {
        Ok(()) => Answer { outcome: labels::Outcome::Credential, ..end(text) },
        Err(error) => message(&error.to_string(), true),
    }
}

/// Ends an answer with its blank line.
fn end(mut text: Vec<u8>) -> Answer<'static> {
    frame::write_end(&mut text);
    Answer { text: Zeroizing::new(text), outcome: labels::Outcome::Silence, cached: false, last: false, _place: None }
}

async fn send(stream: &mut UnixStream, answer: &[u8], limit: Duration) -> std::io::Result<()> {
    match timeout(limit, stream.write_all(answer)).await {
        Ok(sent) => sent,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}
