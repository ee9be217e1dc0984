//! `scm-agent login`: a user signs in to a host once, and the daemon keeps the grant.
//!
//! The daemon talks to the host. This side shows the user what to do, takes the redirect where a browser on this machine sends
//! one, and takes back what has begun when the user gives up. No token ever comes here.

mod callback;
mod screen;
mod surroundings;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::callback::{Callback, state_of};
use self::screen::{Countdown, DeviceCode, link, web_url};
use self::surroundings::Surroundings;
use super::{Io, client, target};
use crate::clock::seconds_begun;
use crate::error::{Error, Kind};
use crate::login::{Accounts, Begun, Cancelled, Elsewhere, Login, Mode, Progress, Refused, State};

/// Arguments of `login`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The host, or a repository on it: https://HOST[/PATH]
    #[arg(value_name = "URL")]
    url: String,
    /// Sign in with a code that you enter in any browser anywhere [default where no display is there]
    #[arg(long)]
    device: bool,
    /// Sign in with a browser on this machine [default on a desktop]
    #[arg(long, conflicts_with = "device")]
    browser: bool,
    /// What to call the account, to have several on one host
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Print what to do and what came of it as JSON, one document a line
    #[arg(long)]
    json: bool,
}

/// Runs `login`. The URL is checked before anything else is looked for.
///
/// # Errors
/// When the URL is none, no daemon answers, the host does not offer it, the user or the host says no, nobody signs in in time, or
/// the user gives up.
pub fn run(args: &Args, socket: impl FnOnce() -> Result<PathBuf, Error>, io: &mut Io<'_>) -> Result<(), Error> {
    let url = target::url(&args.url)?;
    target::new_account(args.account.as_deref())?;
    let surroundings = Surroundings::from_process(io.stdout_is_terminal);
    let attempt = Attempt { args, socket: &socket()?, surroundings: &surroundings };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(attempt.run(url, io));
    // A question that the daemon has not answered yet is not waited for.
    runtime.shutdown_background();
    outcome
}

/// One login from its begin to its end.
struct Attempt<'a> {
    args: &'a Args,
    socket: &'a Path,
    surroundings: &'a Surroundings,
}

impl Attempt<'_> {
    async fn run(&self, url: String, io: &mut Io<'_>) -> Result<(), Error> {
        let mut signals = Signals::new()?;
        let browser = self.args.browser || (!self.args.device && self.surroundings.has_browser());
        let mut callback = match browser {
            true => Some(Callback::open().await.map_err(no_listener)?),
            false => None,
        };
        let (mut answer, mut given_up) = self.begin(&url, callback.as_ref(), &mut signals).await?;
        if let Login::Elsewhere(Elsewhere { redirect_uri }) = &answer {
            // Nobody comes back to the first port.
            drop(callback.take());
            callback = Some(listen_at(redirect_uri).await?);
            (answer, given_up) = self.begin(&url, callback.as_ref(), &mut signals).await?;
        }
        let begun = match answer {
            Login::Begun(begun) => begun,
            Login::Elsewhere(_) => return Err(other_version("scm-agent keeps naming another redirect URI")),
            Login::Refused(refused) => {
                self.json(&refused, io)?;
                let Refused { error, next } = refused;
                return Err(with_next(Error::new(Kind::User, error), next));
            }
        };
        let outcome = match given_up {
            Some(given_up) => Err(given_up),
            None => tokio::select! {
                biased;
                given_up = signals.next() => Err(given_up),
                outcome = self.proceed(&begun, callback, io) => outcome,
            },
        };
        match outcome {
            Ok(progress) => {
                if progress.state == State::Expired {
                    // The daemon may see it a moment later.
                    let _ = self.cancel(&begun, &mut signals).await;
                }
                self.json(&progress, io)?;
                self.conclude(progress, io).await
            }
            Err(error) => {
                if self.surroundings.stderr_is_terminal && !self.args.json {
                    // The line with the time left, or the terminal's ^C, stands there.
                    let _ = writeln!(io.stderr);
                }
                Err(match self.cancel(&begun, &mut signals).await {
                    Ok(true) => error,
                    Ok(false) => error.hint("the login had ended already; see what came of it: scm-agent accounts"),
                    Err(_) => error.hint("scm-agent could not be told; what has begun there ends by itself"),
                })
            }
        }
    }

    /// Asks the daemon to begin; with the answer, what to end with where the user gave up before it came.
    async fn begin(&self, url: &str, callback: Option<&Callback>, signals: &mut Signals) -> Result<(Login, Option<Error>), Error> {
        let mut fields = vec![("url", url.to_owned()), ("mode", if callback.is_some() { "browser" } else { "device" }.to_owned())];
        fields.extend(callback.map(|callback| ("redirect_uri", callback.redirect_uri().to_owned())));
        fields.extend(self.args.account.clone().map(|name| ("account", name)));
        let mut asked = std::pin::pin!(self.ask::<Login>(TIMEOUT, "login", fields));
        tokio::select! {
            // A signal counts before an answer that is there at the same time.
            biased;
            given_up = signals.next() => tokio::select! {
                // What has begun cannot be taken back before the daemon has said what it is called.
                answer = &mut asked => match answer {
                    Ok(Login::Begun(begun)) => Ok((Login::Begun(begun), Some(given_up))),
                    Ok(Login::Elsewhere(_) | Login::Refused(_)) | Err(_) => Err(given_up),
                },
                again = signals.next() => Err(again),
            },
            answer = &mut asked => Ok((answer?, None)),
        }
    }

    /// Has the user sign in, and waits for what comes of it.
    async fn proceed(&self, begun: &Begun, callback: Option<Callback>, io: &mut Io<'_>) -> Result<Progress, Error> {
        let deadline = Instant::now() + Duration::from_secs(begun.expires_in_seconds.min(MAX_EXPIRES_IN_SECONDS));
        self.json(begun, io)?;
        let terminal = self.surroundings.terminal;
        let mut countdown = Countdown::new(self.surroundings.stderr_is_terminal, self.args.json);
        let progress = match (&begun.mode, callback) {
            (Mode::Device { user_code, verification_uri, verification_uri_complete, interval_seconds }, _) => {
                let page = web_url(verification_uri).ok_or_else(|| no_page(&begun.host))?;
                let complete =
                    verification_uri_complete.as_deref().map(|uri| web_url(uri).ok_or_else(|| no_page(&begun.host))).transpose()?;
                let code = DeviceCode { host: &begun.host, user_code, page: &page, complete: complete.as_ref() };
                self.tell(&code.instructions(terminal), io)?;
                self.wait(&begun.session, *interval_seconds, deadline, &mut countdown, io).await?
            }
            (Mode::Browser { authorize_url }, Some(callback)) => {
                let page = web_url(authorize_url).ok_or_else(|| no_page(&begun.host))?;
                let opened = if self.surroundings.open(&page) { "A browser opens" } else { "Open this page in a browser on this machine" };
                self.tell(&format!("{opened} to sign in to {}:\n\n  {}\n\n", begun.host, link(&page, terminal)), io)?;
                let state = state_of(&page);
                let waiting = ticking(callback.receive(state.as_deref()), deadline, &mut countdown, io);
                let received = timeout_at(deadline, waiting).await;
                // From here on nobody can come back to a port of ours.
                drop(callback);
                match received {
                    Ok(query) => {
                        let fields = vec![("session", begun.session.clone()), ("query", query)];
                        let progress: Progress = self.ask(TIMEOUT, "login-finish", fields).await?;
                        match progress.state {
                            State::Pending => {
                                let interval = progress.retry_in_seconds.unwrap_or(1);
                                self.wait(&begun.session, interval, deadline, &mut countdown, io).await?
                            }
                            _ => progress,
                        }
                    }
                    Err(_) => expired(begun),
                }
            }
            (Mode::Browser { .. }, None) => {
                return Err(other_version("scm-agent began another login than was asked for"));
            }
        };
        countdown.clear(io);
        // The daemon need not repeat what it has said.
        let host = if progress.host.is_empty() { begun.host.clone() } else { progress.host.clone() };
        Ok(Progress { host, ..progress })
    }

    /// Asks the daemon how far it is until it is decided, as often as the daemon wants to be asked.
    async fn wait(
        &self,
        session: &str,
        interval_seconds: u64,
        deadline: Instant,
        countdown: &mut Countdown,
        io: &mut Io<'_>,
    ) -> Result<Progress, Error> {
        let mut interval_seconds = interval_seconds;
        let mut failures = 0;
        loop {
            let pause = Duration::from_secs(interval_seconds.clamp(MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS));
            // Asked once more at the very end: the user may have signed in a moment before.
            let next = deadline.min(Instant::now() + pause);
            ticking(sleep_until(next), deadline, countdown, io).await;
            let progress = match self.ask::<Progress>(TIMEOUT, "login-wait", vec![("session", session.to_owned())]).await {
                Ok(progress) => progress,
                // A daemon that is busy, or starts again, should not cost the user the way to the browser.
                Err(_) if failures < MAX_FAILURES && Instant::now() < deadline => {
                    failures += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            failures = 0;
            match progress.state {
                State::Pending if Instant::now() >= deadline => {
                    return Ok(Progress { state: State::Expired, retry_in_seconds: None, ..progress });
                }
                State::Pending => interval_seconds = progress.retry_in_seconds.unwrap_or(interval_seconds),
                State::Denied | State::Done | State::Expired | State::Failed => return Ok(progress),
            }
        }
    }

    /// Takes back what has begun; whether there was something to take back.
    async fn cancel(&self, begun: &Begun, signals: &mut Signals) -> Result<bool, Error> {
        tokio::select! {
            cancelled = self.ask::<Cancelled>(CANCEL_TIMEOUT, "login-cancel", vec![("session", begun.session.clone())]) => {
                cancelled.map(|answer| answer.cancelled)
            }
            again = signals.next() => Err(again),
        }
    }

    /// Asks the daemon on a thread of its own, so that a signal need not wait for the answer.
    async fn ask<T: DeserializeOwned + Send + 'static>(
        &self,
        limit: Duration,
        verb: &'static str,
        fields: Vec<(&'static str, String)>,
    ) -> Result<T, Error> {
        let socket = self.socket.to_owned();
        let asked = tokio::task::spawn_blocking(move || {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            client::ask_within(limit, &socket, verb, &fields)
        });
        asked.await.map_err(|error| Error::new(Kind::Internal, "the question to scm-agent ended early").because(error))?
    }

    /// Writes a document for scripts.
    fn json(&self, document: &impl Serialize, io: &mut Io<'_>) -> Result<(), Error> {
        if self.args.json {
            let mut line = serde_json::to_vec(document).map_err(std::io::Error::from)?;
            line.push(b'\n');
            io.stdout.write_all(&line)?;
            io.stdout.flush()?;
        }
        Ok(())
    }

    /// Writes for a person.
    fn tell(&self, text: &str, io: &mut Io<'_>) -> Result<(), Error> {
        if !self.args.json {
            io.stdout.write_all(text.as_bytes())?;
            io.stdout.flush()?;
        }
        Ok(())
    }

    /// What the command ends with.
    async fn conclude(&self, progress: Progress, io: &mut Io<'_>) -> Result<(), Error> {
        let Progress { state, account, host, error, next, .. } = progress;
        let url = target::url(&self.args.url)?;
        let again = || format!("to try again: scm-agent login {url}");
        match state {
            State::Done => {
                let name = account.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
                self.tell(&format!("signed in to {host}{name}; git gets its tokens from now on\n"), io)?;
                if let (Some(error), false) = (error, self.args.json) {
                    let _ = writeln!(io.stderr, "warning: {error}");
                    next.map_or(Ok(()), |next| writeln!(io.stderr, "hint: {next}")).ok();
                }
                self.tell_of_choice(&url, &host, account.as_deref(), io).await
            }
            // The state says all that the daemon's words would.
            State::Denied => Err(Error::new(Kind::User, format!("{host} says that the login was denied")).hint(again())),
            State::Expired => Err(Error::new(Kind::User, format!("nobody signed in to {host} in time")).hint(again())),
            State::Failed | State::Pending => {
                let sentence = format!("the login to {host} failed");
                let sentence = error.map_or_else(|| sentence.clone(), |error| format!("{sentence}: {error}"));
                Err(Error::new(Kind::Upstream, sentence).hint(next.unwrap_or_else(|| "see what is wrong: scm-agent status".to_owned())))
            }
        }
    }

    /// Tells who has several accounts on the host how git learns which one is meant. A daemon that does not say spoils nothing.
    async fn tell_of_choice(&self, url: &str, host: &str, account: Option<&str>, io: &mut Io<'_>) -> Result<(), Error> {
        let (Some(account), false) = (account, self.args.json) else { return Ok(()) };
        let Ok(Accounts { accounts }) = self.ask::<Accounts>(CANCEL_TIMEOUT, "accounts", Vec::new()).await else { return Ok(()) };
        let count = accounts.iter().filter(|one| one.host == host).count();
        if count < 2 {
            return Ok(());
        }
        self.tell(
            &format!(
                "you have {count} accounts there; to have git use this one: git config credential.{}.username {account}\n",
                origin(url)
            ),
            io,
        )
    }
}

/// Scheme and host of a URL, for which git keeps settings.
fn origin(url: &str) -> &str {
    let end = url.find("://").and_then(|scheme| url[scheme + 3..].find('/').map(|path| scheme + 3 + path));
    &url[..end.unwrap_or(url.len())]
}

/// Waits for something while the time left is shown, once a second.
async fn ticking<T>(awaited: impl Future<Output = T>, deadline: Instant, countdown: &mut Countdown, io: &mut Io<'_>) -> T {
    let mut awaited = std::pin::pin!(awaited);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // The second that has begun counts: it starts with the whole time and ends with one.
        countdown.show(seconds_begun(left), io);
        tokio::select! {
            done = &mut awaited => return done,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// The signals that end a login early.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|error| Error::new(Kind::Internal, "cannot listen for signals").because(error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// The next one, as the error to end with.
    async fn next(&mut self) -> Error {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => Kind::Interrupted,
            _ = self.terminate.recv() => Kind::User,
            _ = self.hang_up.recv() => Kind::User,
        };
        Error::new(kind, "the login was given up")
    }
}

fn expired(begun: &Begun) -> Progress {
    Progress { state: State::Expired, retry_in_seconds: None, account: None, host: begun.host.clone(), error: None, next: None }
}

fn with_next(error: Error, next: Option<String>) -> Error {
    match next {
        Some(next) => error.hint(next),
        None => error,
    }
}

fn no_listener(error: std::io::Error) -> Error {
    Error::new(Kind::Internal, "cannot listen on 127.0.0.1 for the browser").because(error).hint("sign in with a code: add --device")
}

/// Listens at the redirect URI that the app registered.
async fn listen_at(redirect_uri: &str) -> Result<Callback, Error> {
    let Some(uri) = url::Url::parse(redirect_uri).ok().filter(|uri| uri.port().is_some()) else {
        return Err(other_version("scm-agent names a redirect URI that is none of this machine's"));
    };
    let place = crate::http::host_and_port(&uri);
    Callback::open_at(uri).await.map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => other_version("scm-agent names a redirect URI that is none of this machine's"),
        ErrorKind::AddrInUse => {
            let port = place.rsplit(':').next().unwrap_or_default();
            Error::new(Kind::User, format!("port {port} is taken, and the host sends browsers back to {place} only"))
                .hint(format!("perhaps another login waits there; to see what does: ss -ltnp 'sport = :{port}'"))
        }
        _ => Error::new(Kind::Internal, format!("cannot listen on {place}, where the host sends browsers back to")).because(error),
    })
}

fn other_version(sentence: &str) -> Error {
    Error::new(Kind::Upstream, sentence).hint("the program and the daemon may be of different versions: systemctl restart scm-agent")
}

fn no_page(host: &str) -> Error {
    Error::new(Kind::Upstream, format!("{host} names no https page to sign in at")).hint("see the provider's settings for this host")
}

/// How long the daemon may take to answer: it asks the host before it does.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The same, for taking back what has begun, and for what comes after: nobody waits long then.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(3);

/// A day: a host that gives longer means something else.
const MAX_EXPIRES_IN_SECONDS: u64 = 24 * 60 * 60;

/// Between two questions to the daemon. How often the host is asked is the daemon's business.
const MIN_INTERVAL_SECONDS: u64 = 1;
const MAX_INTERVAL_SECONDS: u64 = 60;

/// How often in a row the daemon may fail to answer before the login is given up.
const MAX_FAILURES: u32 = 2;

#[cfg(test)]
mod tests;
