//! The daemon: a Unix socket around the broker, with limits on everything a client can do to it.

pub mod access;
pub mod cgroup;
pub mod limits;
pub mod namespace;
pub mod peer;
pub mod probe;
pub mod rate;
pub mod reload;
pub mod socket;
pub mod unit_grants;

mod connection;
mod gauges;
mod grant;
mod sign_in;

use std::future::Future;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::broker::{Broker, KeptList};
use crate::clock::SystemClock;
use crate::denial::{Denial, Denials, Event};
use crate::metrics::Metrics;
use crate::status::{self, Status};
use access::Access;
use cgroup::Cgroups;
use limits::{Connections, Limits};
use namespace::Strangers;
use peer::{Admission, Peer};
use rate::{Rate, Rates};
use reload::Reloads;
use socket::BoundSocket;
use unit_grants::UnitGrants;

/// How long accepting pauses after the system refused a connection, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Of the time that an answer may take, what the hosts get, in percent: the rest is for saying that they took too long.
const HOSTS_SHARE_PERCENT: u32 = 70;

/// How many clients are told the status at the same time.
const STATUS_PLACES: usize = 2;

/// How often the daemon looks whether its socket is still there.
const SOCKET_CHECK: Duration = Duration::from_secs(2);

/// How a daemon deals with its clients.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// How many connections at once.
    pub limits: Limits,
    /// How many requests of one user. Root and the daemon's own user are not held to it.
    pub rate: Rate,
    /// How long a client may take to begin a request, to deliver it, or to take an answer.
    pub read_timeout: Duration,
    /// How long an answer may take.
    pub request_timeout: Duration,
    /// How long open connections may go on after the daemon was told to end.
    pub shutdown_grace_period: Duration,
}

/// How a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Connections were still busy when the grace period was over, and were cut off.
    CutOff,
    /// Every connection had ended.
    Drained,
}

/// What the connections share: the settings in force, which are never changed but taken by another agent's, and what outlives them.
pub struct Agent {
    access: Arc<Access>,
    broker: Arc<Broker>,
    config: Config,
    connections: Connections,
    denials: Arc<Denials>,
    memory: status::Memory,
    metrics: Arc<Metrics>,
    /// What else is said in `degraded`.
    problems: Option<ProblemSource>,
    rates: Rates,
    reloads: Arc<Reloads>,
    sandbox: Option<status::Sandbox>,
    /// Why nobody new can connect.
    socket_problem: Arc<Mutex<Option<String>>>,
    started: Instant,
    /// Places for those who are being told the status: it can be megabytes long.
    privileged_status_places: Arc<Semaphore>,
    status_places: Arc<Semaphore>,
    units: Units,
}

/// What is known of callers' units.
#[derive(Debug, Clone)]
struct Units {
    cgroups: Arc<Cgroups>,
    grants: Arc<UnitGrants>,
}

/// Says what is wrong with something that the agent knows nothing of.
pub type ProblemSource = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// The agent by whose settings requests are answered that begin now.
pub struct InForce(Mutex<Arc<Agent>>);

impl InForce {
    /// Begins with an agent.
    #[must_use]
    pub fn new(first: Agent) -> Self {
        Self(Mutex::new(Arc::new(first)))
    }

    /// The one in force now. Whoever has it goes by its settings to the end.
    #[must_use]
    pub fn get(&self) -> Arc<Agent> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another one in its place.
    pub fn replace(&self, next: Agent) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}

impl Agent {
    /// Puts a daemon around a broker.
    #[must_use]
    pub fn new(broker: Arc<Broker>, access: Arc<Access>, config: Config, memory: status::Memory, reloads: Arc<Reloads>) -> Self {
        let metrics = Arc::clone(broker.metrics());
        Self {
            access,
            broker,
            connections: Connections::new(config.limits),
            config,
            denials: Arc::clone(metrics.denials()),
            memory,
            metrics,
            problems: None,
            rates: Rates::new(config.rate),
            reloads,
            sandbox: None,
            socket_problem: Arc::default(),
            started: Instant::now(),
            privileged_status_places: Arc::new(Semaphore::new(STATUS_PLACES)),
            status_places: Arc::new(Semaphore::new(STATUS_PLACES)),
            units: Units::new(None),
        }
    }

    /// With what its process let itself have.
    #[must_use]
    pub fn in_sandbox(self, sandbox: status::Sandbox) -> Self {
        Self { sandbox: Some(sandbox), ..self }
    }

    /// The same with one more that says what is wrong, if anything is.
    #[must_use]
    pub fn with_problems(self, source: ProblemSource) -> Self {
        Self { problems: Some(source), ..self }
    }

    /// The same with grants to units that outlive the process, where there is a place for them. To be called before it is in force.
    #[must_use]
    pub fn with_kept_grants(self, kept: Option<KeptList>) -> Self {
        Self { units: Units::new(kept), ..self }
    }

    /// The same daemon by other settings: its connections and its time count on.
    #[must_use]
    pub fn renewed(&self, broker: Arc<Broker>, access: Arc<Access>, config: Config) -> Self {
        Self {
            access,
            broker,
            connections: self.connections.with_limits(config.limits),
            config,
            denials: Arc::clone(&self.denials),
            memory: self.memory.clone(),
            metrics: Arc::clone(&self.metrics),
            problems: self.problems.clone(),
            rates: self.rates.with_rate(config.rate),
            reloads: Arc::clone(&self.reloads),
            sandbox: self.sandbox.clone(),
            socket_problem: Arc::clone(&self.socket_problem),
            started: self.started,
            privileged_status_places: Arc::clone(&self.privileged_status_places),
            status_places: Arc::clone(&self.status_places),
            units: self.units.clone(),
        }
    }

    /// The rules about who may have what.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// What answers git.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// What was refused so far.
    #[must_use]
    pub fn denials(&self) -> &Denials {
        &self.denials
    }

    /// How long open connections may go on after the daemon was told to end.
    #[must_use]
    pub fn shutdown_grace_period(&self) -> Duration {
        self.config.shutdown_grace_period
    }

    /// What is to be done every now and then.
    fn tidy(&self) {
        self.denials.flush();
        if self.units.grants.wants_tidying() {
            let grants = Arc::clone(&self.units.grants);
            tokio::task::spawn_blocking(move || grants.tidy());
        }
    }

    fn note_socket(&self, problem: Option<String>) {
        *self.socket_problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// What the daemon holds and how fresh it is. Of users' grants, with `only`, that user's alone.
    #[must_use]
    pub fn status(&self, only: Option<u32>) -> Status {
        let mut report = self.broker.status(only);
        report.degraded.extend(self.reloads.problems());
        report.degraded.extend(self.problems.as_ref().and_then(|problem| problem()));
        report.degraded.extend(self.metrics.problem());
        report.degraded.extend(self.socket_problem.lock().unwrap_or_else(PoisonError::into_inner).clone());
        report.degraded.extend(self.unit_problem());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            key: report.key,
            sync: report.sync,
            integrations: report.integrations,
            store: report.store,
            memory: self.memory.clone(),
            sandbox: self.sandbox.clone(),
            connections: self.connections.count(),
            unit_grants: if only.is_none() { self.units.grants.list() } else { Vec::new() },
            degraded: report.degraded,
        }
    }

    /// Why the rules about units are about nobody, where that is so.
    fn unit_problem(&self) -> Option<String> {
        let rules = self.access.about_cgroups();
        let numbers = rules.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let problem = if rules.is_empty() { None } else { self.units.cgroups.problem() };
        problem.map(|problem| format!("the access rules {numbers} are about units or cgroups, and give nobody anything here: {problem}"))
    }
}

impl Units {
    fn new(kept: Option<KeptList>) -> Self {
        let cgroups = Arc::new(Cgroups::new());
        Self { grants: Arc::new(UnitGrants::new(Arc::clone(&cgroups), Arc::new(SystemClock), kept)), cgroups }
    }
}

/// Serves connections until `shutdown` completes, then lets the open ones finish.
///
/// # Errors
/// When the socket cannot be handed to the runtime; a failing `accept` is waited out.
pub async fn run(mut socket: BoundSocket, agents: Arc<InForce>, shutdown: impl Future<Output = ()>) -> io::Result<Ending> {
    let mut listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let mut look_after_socket = tokio::time::interval(SOCKET_CHECK);
    let admission = Admission { own_uid: rustix::process::geteuid().as_raw(), socket_gid: socket.gid };
    let strangers = Strangers::of_this_namespace();
    if strangers.is_group(socket.gid) {
        warn!(
            gid = socket.gid,
            "the socket's group stands for every group without a number in this user namespace, so its members are not admitted"
        );
    }
    let (end, ending) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut accepting = true;
    let mut restorable = true;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    accepting = true;
                    admit(stream, strangers, admission, &agents, &ending, &mut tasks);
                }
                Err(error) => {
                    if accepting {
                        warn!(error = %error, "cannot accept connections; trying again");
                    }
                    accepting = false;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = look_after_socket.tick() => {
                agents.get().tidy();
                match socket.restore() {
                    Ok(false) => {
                        if !restorable {
                            info!("the socket's file is back");
                            agents.get().note_socket(None);
                        }
                        restorable = true;
                    }
                    Ok(true) => {
                        restorable = true;
                        agents.get().note_socket(None);
                        warn!("the socket's file was gone; made it again");
                        listener = UnixListener::from_std(socket.listener.try_clone()?)?;
                    }
                    Err(error) => {
                        if restorable {
                            let cause = std::error::Error::source(&error).map(ToString::to_string);
                            warn!(error = %error, cause, "the socket's file is gone and cannot be made again; trying on");
                        }
                        agents.get().note_socket(Some(error.to_string()));
                        restorable = false;
                    }
                }
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
        }
    }
    // Nobody new: the socket goes first, then idle connections, then the busy ones as they finish.
    drop(listener);
    drop(socket);
    let _ = end.send(true);
    let open = tasks.len();
    let drained =
        tokio::time::timeout(agents.get().config.shutdown_grace_period, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_ok() {
        agents.get().denials.finish();
        info!(target: "audit", event = "stopped", connections = open, "stopped; every connection had ended");
        return Ok(Ending::Drained);
    }
    let cut_off = tasks.len();
    tasks.shutdown().await;
    agents.get().denials.finish();
    warn!(target: "audit", event = "stopped", connections = cut_off, "stopped; connections were cut off after the grace period");
    Ok(Ending::CutOff)
}

/// Who is served.
struct Client {
    /// Whether somebody else than the process that connected wrote to the connection, by its number.
    has_other_writers: AtomicBool,
    /// Whether it is root or the daemon's own user, who alone may change what is trusted.
    is_privileged: bool,
    peer: Peer,
}

/// Starts serving a connection, if its peer may ask and there is a place for it.
fn admit(
    mut stream: UnixStream,
    strangers: Strangers,
    admission: Admission,
    agents: &Arc<InForce>,
    ending: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) {
    let agent = agents.get();
    // Connections have it from the listener, but for those that were made before that had it: they waited while nobody served it yet.
    let passed = rustix::net::sockopt::set_socket_passcred(&stream, true).map_err(io::Error::from);
    let peer = match passed.and_then(|()| Peer::of(&stream)) {
        Ok(peer) => peer,
        Err(error) => {
            let message = "refused: the kernel does not say who asks";
            agent.denials.note(&Denial { reason: Some(&error), ..Denial::new(Event::Admission, message) });
            return;
        }
    };
    let (uid, pid) = (peer.uid, peer.pid);
    let denial = |event, message| Denial { uid: Some(uid), pid, ..Denial::new(event, message) };
    let Some(peer) = strangers.without(peer) else {
        agent.denials.note(&denial(Event::Admission, "refused: the caller's user has no number in the daemon's user namespace"));
        return;
    };
    if !admission.admits(&peer) {
        agent.denials.note(&Denial { gid: Some(peer.gid), ..denial(Event::Admission, "refused: not in the socket's group") });
        return;
    }
    let is_privileged = admission.is_privileged(&peer);
    let Some(place) = agent.connections.take(peer.uid, is_privileged) else {
        agent.denials.note(&denial(Event::Connections, "refused: too many connections"));
        connection::refuse_as_busy(&stream);
        return;
    };
    agent.metrics.connected();
    let (agents, ending) = (Arc::clone(agents), ending.clone());
    tasks.spawn(async move {
        connection::serve(&mut stream, &Client { has_other_writers: AtomicBool::new(false), is_privileged, peer }, &agents, ending).await;
        // Whoever sees its connection end finds its place free.
        drop(place);
        drop(stream);
    });
}
