//! `scm-agent run`: the daemon, in the foreground, from the configuration to the last connection.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{info, warn};
use url::Url;

use super::settings::Reloader;
use super::upkeep::{follow_settings, keep_alive, keep_told};
use super::{Io, log};
use crate::agent::access::{Access, SystemAccounts};
use crate::agent::limits::Limits;
use crate::agent::rate::Rate;
use crate::agent::reload::Reloads;
use crate::agent::socket::BoundSocket;
use crate::agent::{self, Agent, Ending, InForce, unit_grants};
use crate::api::{self, ControlPlane, IntegrationFile, Replaceable, TokenSource};
use crate::broker::{Broker, KeptList, Opened, Parts};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, MetricsAddress, SOCKET_KEY, STATE_DIR_KEY, Source, StoreKind, TokenOrigin};
use crate::error::{Error, Kind};
use crate::integration::snapshot::SnapshotStore;
use crate::integration::source::{ChangeFeed, IntegrationSource, RegisteredKeySource};
use crate::integration::sync::{self, Hinter, RandomJitter, SyncHandle};
use crate::integration::watch::{FeedNews, Watcher};
use crate::key::{KeyFiles, KeyRing};
use crate::metrics::Metrics;
use crate::metrics::listen::{Address, Bound};
use crate::metrics::serve::Server;
use crate::oauth::TokenClient;
use crate::sandbox::{self, Sandbox};
use crate::secret::{BearerToken, trimmed};
use crate::service::{Manager, News};
use crate::state::StateKeys;
use crate::store::{FileStore, GrantStore, MemoryStore};
use crate::{harden, http, status, sys};

/// How often the key files are looked at, or with each poll where that is more often.
const KEY_FILES_INTERVAL: Duration = Duration::from_secs(10);

/// What the configured source can be asked.
pub(super) struct Sources {
    /// For the list.
    pub(super) list: Arc<dyn IntegrationSource>,
    /// For changes of the list, as they happen.
    feed: Option<Arc<dyn ChangeFeed>>,
    /// For the public key that is registered for the runner.
    registered_key: Option<Arc<dyn RegisteredKeySource>>,
    /// To reach the control plane in another way.
    replaceable: Option<Arc<Replaceable>>,
}

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Accept the public development keys of the source tree, whose private halves everybody has
    #[arg(long)]
    allow_development_key: bool,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// When something is wrong with the configuration, the keys or the socket. A control plane that is down is waited for.
pub fn run(args: &Args, explicit: Option<&Path>, config: Config, io: &mut Io<'_>) -> Result<(), Error> {
    let logs = Arc::new(log::start(&config.log)?);
    let config = Arc::new(config);
    // Before there are threads: the environment forgets what was handed over.
    let inherited = BoundSocket::inherited(&config.agent.socket);
    sys::give_back_free_memory();
    let memory = match harden::lock_memory() {
        Ok(()) => status::Memory { locked: true, reason: None },
        Err(reason) => {
            warn!(reason, "memory is not kept out of swap");
            status::Memory { locked: false, reason: Some(reason) }
        }
    };
    config.require_secrets()?;
    let mut key_files = KeyFiles::new(config.key_config(args.allow_development_key));
    let keys = key_files.load()?;
    let Sources { list, feed, registered_key, replaceable } = sources(&config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let issuers = http::Client::new(&config.http_config(false)).map_err(http_setup)?;
    let access = Access::new(config.access_rules(), SystemAccounts)?;
    let gid = config.agent.socket_group.as_deref().map(|group| group_id("agent.socket_group", group)).transpose()?;
    let metrics_address = metrics_address(&config)?;
    let metrics = Arc::new(Metrics::default());
    let socket = match inherited? {
        Some(socket) => {
            info!(socket = %config.agent.socket.display(), gid = socket.gid, "the service manager listens already");
            if gid.is_some_and(|gid| gid != socket.gid) {
                warn!("agent.socket_group does not count: the socket unit says who may connect, with SocketGroup= and SocketMode=");
            }
            socket
        }
        None => BoundSocket::bind(&config.agent.socket, config.agent.socket_mode, gid)?,
    };
    let state = state_directory(&config.agent.state_dir)?;
    // Its folder may have to be made. What is wrong is found again, and said, by whoever serves there.
    let bound_for_scrapes = metrics_address.as_ref().and_then(|address| Bound::bind(address).ok());
    // Before there are threads, and after all that a daemon does once only.
    let sandbox = shut_in(&config, &socket, &state)?;
    // It begins a thread.
    let manager = Manager::from_environment();
    let kept = Arc::new(match &state {
        Opened { directory: Some(directory), .. } => KeptList::new(directory, &keys),
        Opened { problem, .. } => KeptList::unusable(problem.clone().unwrap_or_default()),
    });
    let kept_unit_grants = state.directory.as_ref().map(|directory| kept.beside(directory, unit_grants::FILE));
    let (store, store_problem) = grant_store(config.store.kind, &state, &keys);
    for key in keys.descriptions() {
        info!(target: "audit", event = "key_loaded", algorithm = %key.algorithm, fingerprint = %key.fingerprint, "key loaded");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ending = runtime.block_on(async {
        let sync_config = sync::Config { poll_interval: config.control_plane.poll_interval, ..sync::Config::default() };
        let sync = SyncHandle::start_with(sync::Parts {
            clock: Arc::clone(&clock),
            config: sync_config,
            jitter: Arc::new(RandomJitter),
            metrics: Arc::clone(&metrics),
            source: list,
            store: Some(Arc::clone(&kept) as Arc<dyn SnapshotStore>),
        });
        let watching = feed.map(|feed| watch(feed, sync.hinter()));
        let broker = Arc::new(Broker::new(Parts {
            allow_insecure_loopback: config.agent.allow_insecure_loopback,
            clock: Arc::clone(&clock),
            kept: Some(kept),
            key_files,
            keys,
            metrics: Arc::clone(&metrics),
            operators_pats: config.operators_pats(),
            providers: config.provider_overrides(),
            registered_key,
            store,
            store_problem,
            sync,
            tokens: TokenClient::new(issuers, clock),
        }));
        let mut tasks = follow(&broker);
        if let Some(watching) = watching {
            tasks.spawn(watching);
        }
        let (reloads, asked) = Reloads::new();
        let reloads = Arc::new(reloads);
        let agent = Agent::new(broker, Arc::new(access), agent_config(&config), memory, Arc::clone(&reloads));
        let agent = agent.with_kept_grants(kept_unit_grants).with_problems(Arc::new(logs.problems()));
        let agents = Arc::new(InForce::new(agent.in_sandbox(in_status(sandbox.report()))));
        let looked_at = Arc::clone(&agents);
        let (server, scrapes) =
            Server::new(metrics_address.clone(), bound_for_scrapes, metrics, Arc::new(move || looked_at.get().gauges()));
        tasks.spawn(server.run());
        let reloader = Reloader {
            agents: Arc::clone(&agents),
            allow_development_key: args.allow_development_key,
            explicit: explicit.map(Path::to_owned),
            logs: Arc::clone(&logs),
            metrics_address: Mutex::new(metrics_address),
            sandbox,
            scrapes,
            source: replaceable,
            started_with: Arc::clone(&config),
        };
        let look_after = KEY_FILES_INTERVAL.min(config.control_plane.poll_interval);
        tasks.spawn(follow_settings(reloader, reloads, asked, signal(SignalKind::hangup())?, look_after, manager.clone()));
        serve(&config, socket, agents, tasks, &manager).await
    })?;
    // What still runs holds nothing that must be finished: a token that was on its way is asked for again.
    runtime.shutdown_timeout(Duration::from_millis(200));
    if ending == Ending::CutOff {
        let _ = writeln!(io.stderr, "connections were cut off after the grace period");
    }
    Ok(())
}

/// Gives up whatever the configuration does not name.
fn shut_in(config: &Config, socket: &BoundSocket, state: &Opened) -> Result<Sandbox, Error> {
    let mut places = config.places(|name| std::env::var_os(name));
    if socket.is_inherited() {
        // The file is the service manager's.
        places.written.retain(|place| place.key != SOCKET_KEY);
    }
    if state.directory.is_none() {
        // It is not used before the next start, and its file system may not answer.
        places.written.retain(|place| place.key != STATE_DIR_KEY);
    }
    let mode = match config.agent.sandbox {
        config::Sandbox::Auto => sandbox::Mode::Auto,
        config::Sandbox::Off => sandbox::Mode::Off,
        config::Sandbox::Require => sandbox::Mode::Require,
    };
    let sandbox = Sandbox::enter(mode, &places)
        .map_err(|error| Error::new(Kind::Config, error.to_string()).hint("agent.sandbox = \"auto\" starts with what there is"))?;
    let sandbox::Report { landlock, seccomp, no_new_privs, reason } = sandbox.report();
    match reason {
        Some(reason) => warn!(landlock, seccomp, no_new_privs, reason, "the daemon is not shut in as far as it could be"),
        None => info!(landlock, seccomp, no_new_privs, "sandbox"),
    }
    Ok(sandbox)
}

fn in_status(report: &sandbox::Report) -> status::Sandbox {
    let sandbox::Report { landlock, seccomp, no_new_privs, reason } = report;
    status::Sandbox { landlock: landlock.clone(), seccomp: (*seccomp).to_owned(), no_new_privs: *no_new_privs, reason: reason.clone() }
}

/// Keeps the feed of changes open and passes on what it tells. A start in which all hosts of a fleet take part is spread by the first
/// fetch, so the feed waits for it.
async fn watch(feed: Arc<dyn ChangeFeed>, hinter: Hinter) {
    hinter.first_attempt().await;
    let watcher = Watcher::new(feed, Arc::new(RandomJitter));
    watcher
        .run(|news| match news {
            FeedNews::Changed => hinter.hint(),
            FeedNews::Lost | FeedNews::Unsupported => hinter.set_watching(false),
            FeedNews::Open => {
                hinter.set_watching(true);
                hinter.hint();
            }
        })
        .await;
}

/// How the daemon deals with its clients.
pub(super) fn agent_config(config: &Config) -> agent::Config {
    agent::Config {
        limits: Limits { max_connections: config.agent.max_connections, max_connections_per_user: config.agent.max_connections_per_user },
        rate: Rate { burst: config.agent.max_request_burst, per_second: config.agent.max_requests_per_second },
        read_timeout: config.agent.read_timeout,
        request_timeout: config.agent.request_timeout,
        shutdown_grace_period: config.agent.shutdown_grace_period,
    }
}

/// Serves git until a signal says to stop; the tasks end with it.
async fn serve(
    config: &Config,
    socket: BoundSocket,
    agents: Arc<InForce>,
    mut tasks: JoinSet<()>,
    manager: &Manager,
) -> Result<Ending, Error> {
    tasks.spawn(keep_told(manager.clone(), Arc::clone(&agents)));
    tasks.spawn(keep_alive(manager.clone(), config.agent.socket.clone(), socket.is_inherited()));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    info!(target: "audit", event = "started", socket = %config.agent.socket.display(), pid = std::process::id(), "serving");
    let ending = agent::run(socket, Arc::clone(&agents), async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM"),
            _ = interrupt.recv() => info!("SIGINT"),
        }
        manager.tell(News::Stopping(agents.get().shutdown_grace_period()));
    })
    .await?;
    drop(tasks);
    Ok(ending)
}

/// Starts what goes on beside serving: following the list and the registered key, and keeping and ending tokens.
fn follow(broker: &Arc<Broker>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let following = Arc::clone(broker);
    tasks.spawn(async move { following.follow_list().await });
    let following = Arc::clone(broker);
    tasks.spawn(async move { following.follow_registered_key().await });
    let renewing = Arc::clone(broker);
    tasks.spawn(async move { renewing.keep_grants_alive().await });
    let revoking = Arc::clone(broker);
    tasks.spawn(async move { revoking.revoke_lost().await });
    tasks
}

/// The state directory. One that cannot be used is no reason not to serve; another daemon in it is.
fn state_directory(path: &Path) -> Result<Opened, Error> {
    let opened = Opened::open(path)?;
    if let Some(reason) = &opened.problem {
        warn!(reason, "the state directory is not written to; what is learned ends with this process");
    }
    Ok(opened)
}

/// Where users' grants rest, and what is wrong with that: memory stands in for a store that cannot be used.
fn grant_store(kind: StoreKind, state: &Opened, keys: &KeyRing) -> (Arc<dyn GrantStore>, Option<String>) {
    let opened = match (kind, state) {
        (StoreKind::Memory, _) => return (Arc::new(MemoryStore::new()), None),
        (StoreKind::File, Opened { directory: Some(directory), problem: None }) => {
            FileStore::open(directory, StateKeys::new(keys.state_keys())).map_err(|error| error.to_string())
        }
        (StoreKind::File, Opened { problem, .. }) => Err(problem.clone().unwrap_or_default()),
    };
    match opened {
        Ok(store) => {
            store.problems().iter().for_each(|reason| warn!(target: "audit", event = "store_problem", reason, "kept sign-ins"));
            (Arc::new(store), None)
        }
        Err(reason) => {
            warn!(reason, "sign-ins are kept in memory only, until this process ends");
            (Arc::new(MemoryStore::new()), Some(format!("sign-ins are kept in memory only, until the daemon ends: {reason}")))
        }
    }
}

pub(super) fn sources(config: &Config) -> Result<Sources, Error> {
    match &config.control_plane.source {
        Source::File(path) => {
            Ok(Sources { list: Arc::new(IntegrationFile::new(path)), feed: None, registered_key: None, replaceable: None })
        }
        Source::Url(url) => {
            let control_plane = Arc::new(Replaceable::new(control_plane(config, url)?));
            Ok(Sources {
                list: Arc::clone(&control_plane) as Arc<dyn IntegrationSource>,
                feed: config.control_plane.watch.then(|| Arc::clone(&control_plane) as Arc<dyn ChangeFeed>),
                registered_key: Some(Arc::clone(&control_plane) as Arc<dyn RegisteredKeySource>),
                replaceable: Some(control_plane),
            })
        }
    }
}

/// The client of a control plane at that URL, with the token that the configuration names.
pub(super) fn control_plane(config: &Config, url: &Url) -> Result<ControlPlane, Error> {
    let token = match &config.control_plane.token {
        TokenOrigin::File(path) => TokenSource::file(path.clone()),
        TokenOrigin::Environment(name) => TokenSource::Environment { name, token: environment_token(name)? },
        TokenOrigin::None => return Err(Error::new(Kind::Config, "there is no token for the control plane")),
    };
    Ok(ControlPlane::new(api::Config {
        base_url: url.clone(),
        runner_id: config.control_plane.runner_id.clone().unwrap_or_default(),
        token,
        http: config.http_config(true),
    })?)
}

/// Takes the control plane's token out of the environment variable of that name.
fn environment_token(name: &'static str) -> Result<BearerToken, Error> {
    let value = std::env::var_os(name).unwrap_or_default();
    let bytes = zeroize::Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(value));
    BearerToken::parse(trimmed(bytes)).map_err(|error| Error::new(Kind::Config, format!("{name} {error}")))
}

/// Where scrapes are answered, if anywhere.
pub(super) fn metrics_address(config: &Config) -> Result<Option<Address>, Error> {
    Ok(match &config.metrics.listen {
        None => None,
        Some(MetricsAddress::Tcp(address)) => Some(Address::Tcp(*address)),
        Some(MetricsAddress::Unix(path)) => {
            let gid = config.metrics.socket_group.as_deref().map(|group| group_id("metrics.socket_group", group)).transpose()?;
            Some(Address::Unix { gid, path: path.clone() })
        }
    })
}

/// The number of a group that a key gives by name or number.
pub(super) fn group_id(key: &str, group: &str) -> Result<u32, Error> {
    match group.parse() {
        // chown(2) takes this number for "leave it as it is".
        Ok(u32::MAX) => return Err(Error::new(Kind::Config, format!("{key}: that number is no group"))),
        Ok(gid) => return Ok(gid),
        Err(_) => {}
    }
    match nix::unistd::Group::from_name(group) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => {
            Err(Error::new(Kind::Config, format!("{key}: there is no group {group}")).hint(format!("create it: groupadd --system {group}")))
        }
    }
}

pub(super) fn http_setup(error: http::BuildError) -> Error {
    Error::new(Kind::Config, "cannot set up the HTTP client").because(error).hint("see ca_file and proxy in [control_plane] and [scm]")
}
