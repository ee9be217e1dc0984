//! The configuration: read once, checked as a whole, then typed and immutable.
//!
//! The main file, the drop-ins of `config.d` beside it and the `SCM_AGENT__SECTION__KEY` variables are layers; a later layer
//! wins. One walk over them turns strings into types and collects every problem on the way, so that an operator reads all of
//! them at once. No value is ever part of a problem: a value may be a secret that was put in the wrong place.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

mod access;
mod environment;
mod error;
mod keys;
mod layer;
mod named;
mod places;
mod reader;
mod restart;
mod sections;
mod show;
mod stages;
mod syntax;

pub use access::{Access, AccountList, Permission};
pub use environment::Environment;
pub use error::{Cause, Error, Problem};
pub use keys::KEYS;
pub use named::Finding;
pub use places::{SOCKET_KEY, STATE_DIR_KEY, VARIABLES};
pub use reader::{Origin, Setting};

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/scm-agent/config.toml";

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[[access]]`: who may have what of which host, in order; the first rule that matches counts.
    pub access: Vec<Access>,
    /// `[agent]`: the daemon and its socket.
    pub agent: Agent,
    /// `[control_plane]`: where the integrations come from.
    pub control_plane: ControlPlane,
    /// The files that were read, in order: the main file, then the drop-ins.
    pub files: Vec<PathBuf>,
    /// `[key]`: what opens the integrations' secrets.
    pub key: Key,
    /// `[log]`: what the daemon says, and how.
    pub log: Log,
    /// `[metrics]`: numbers for Prometheus.
    pub metrics: Metrics,
    /// `[[provider]]`: overrides, one for each host, in the order they were written.
    pub providers: Vec<Provider>,
    /// `[scm]`: how SCM hosts and issuers are reached.
    pub scm: Network,
    /// `[store]`: where users' grants rest.
    pub store: Store,
    settings: Vec<Setting>,
}

/// `[store]`: where users' grants rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store {
    /// Which kind of place.
    pub kind: StoreKind,
}

/// A place for users' grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// Sealed files in the state directory.
    File,
    /// The process's memory: a restart asks every user to sign in again.
    Memory,
}

/// `[control_plane]`: where the integrations come from.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// How it is reached.
    pub network: Network,
    /// Time between two fetches.
    pub poll_interval: Duration,
    /// UUID of the runner; always there when the source is a URL.
    pub runner_id: Option<String>,
    /// A control plane, or a saved reply of one.
    pub source: Source,
    /// Where the bearer token is.
    pub token: TokenOrigin,
    /// Whether the control plane is asked to tell of changes. A file tells nothing.
    pub watch: bool,
}

/// How hosts are reached: the keys that `[control_plane]` and `[scm]` share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// PEM file of further certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// What is asked without the proxy; `None` leaves that to the environment.
    pub no_proxy: Option<Vec<String>>,
    /// The proxy; `None` leaves that to the environment.
    pub proxy: Option<ProxyUrl>,
    /// How long a whole request may take.
    pub timeout: Duration,
}

/// Where the integrations come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A saved `ListSCMIntegrations` reply.
    File(PathBuf),
    /// The base URL of a control plane's API.
    Url(Url),
}

/// Where the control plane's bearer token is. Never the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOrigin {
    /// In the environment variable of this name.
    Environment(&'static str),
    /// In this file: `token_file`, or the systemd credential `control-plane-token`.
    File(PathBuf),
    /// Nowhere. [`Config::require_secrets`] refuses it where a token is needed.
    None,
}

/// A proxy's URL. Its userinfo is a secret, so `Debug` leaves it out.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// The URL with its userinfo: hand it to the HTTP client and print it nowhere.
    #[must_use]
    pub fn expose_secret(&self) -> &Url {
        &self.0
    }

    /// The URL with `***` for its userinfo. It still loads, but no longer signs in.
    #[must_use]
    pub fn redacted(&self) -> String {
        let mut url = self.0.clone();
        if !url.username().is_empty() || url.password().is_some() {
            // Neither call fails: only http and https URLs, which have a host, are taken as a proxy.
            let _ = url.set_password(None);
            let _ = url.set_username("***");
        }
        url.into()
    }
}

impl std::fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProxyUrl({})", self.redacted())
    }
}

/// `[key]`: what opens the integrations' secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Private key files, tried in this order; several during a rotation. Empty when there is no systemd credential either.
    pub files: Vec<PathBuf>,
    /// The hash of RSA-OAEP (RFC 8017 section 7.1).
    pub oaep_hash: OaepHash,
    /// File with the passphrase of an encrypted key.
    pub passphrase_file: Option<PathBuf>,
}

/// The hash of RSA-OAEP (RFC 8017 section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OaepHash {
    /// `sha1`
    Sha1,
    /// `sha256`
    Sha256,
    /// `sha384`
    Sha384,
    /// `sha512`
    Sha512,
}

/// `[agent]`: the daemon and its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Lets `http://` stand where https is required, for `127.0.0.1`, `[::1]` and `localhost`.
    pub allow_insecure_loopback: bool,
    /// Connections served at once.
    pub max_connections: usize,
    /// Connections served at once for one user.
    pub max_connections_per_user: usize,
    /// Requests of one user at once, after a while without.
    pub max_request_burst: usize,
    /// Requests of one user a second from then on.
    pub max_requests_per_second: usize,
    /// How long a client may take to deliver a request.
    pub read_timeout: Duration,
    /// How long an answer may take.
    pub request_timeout: Duration,
    /// Whether the daemon shuts itself in.
    pub sandbox: Sandbox,
    /// How long running requests get at shutdown.
    pub shutdown_grace_period: Duration,
    /// The Unix socket.
    pub socket: PathBuf,
    /// Name or number of the group that owns the socket; `None` leaves it to the process.
    pub socket_group: Option<String>,
    /// Permissions of the socket: 0600 or 0660.
    pub socket_mode: u32,
    /// The directory for what must outlive the daemon. It need not exist yet.
    pub state_dir: PathBuf,
}

/// Whether the daemon shuts itself in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// `auto`: as far as the kernel offers it.
    Auto,
    /// `off`
    Off,
    /// `require`: no start without it.
    Require,
}

/// `[[provider]]`: what is different about one SCM host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The authorization endpoint (RFC 6749 section 3.1).
    pub authorize_url: Option<Url>,
    /// Whether git, where it can, is to send tokens as Bearer.
    pub bearer: Option<bool>,
    /// The device authorization endpoint (RFC 8628 section 3.1).
    pub device_url: Option<Url>,
    /// How access tokens are had there; `None` leaves it to what the host offers.
    pub grant: Option<Grant>,
    /// The host, lower case, with its port and path if it has them; no scheme and no slash at the end.
    pub host: String,
    /// The issuer (RFC 8414 section 2), as it was written: issuers are compared byte for byte.
    pub issuer: Option<String>,
    /// The SCM id whose facts are meant, instead of the integration's.
    pub kind: Option<&'static str>,
    /// Where the operator's personal access token for the host is, if there is one.
    pub pat: Option<PatOrigin>,
    /// Where browsers come back to after a sign-in: `http` on this machine with a port, spelled as the app registered it.
    pub redirect_uri: Option<Url>,
    /// Scopes to ask for (RFC 6749 section 3.3); an empty list asks for none.
    pub scopes: Option<Vec<String>>,
    /// How the client authenticates at the token endpoint.
    pub token_endpoint_auth: Option<TokenEndpointAuth>,
    /// The token endpoint (RFC 6749 section 3.2).
    pub token_url: Option<Url>,
    /// The username that git sends with a token.
    pub username: Option<String>,
}

/// Where a personal access token of the operator's is. Never the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatOrigin {
    /// In a systemd credential.
    Credential {
        /// Its name.
        name: String,
        /// Its file; `None` where this process was given no such credential.
        file: Option<PathBuf>,
    },
    /// In this file.
    File(PathBuf),
}

/// How access tokens are had from a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// `service`: client credentials (RFC 6749 section 4.4).
    Service,
    /// `user`: each user signs in.
    User,
}

/// How the client authenticates at a token endpoint (RFC 6749 section 2.3.1, names of RFC 7591 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEndpointAuth {
    /// `client_secret_basic`
    ClientSecretBasic,
    /// `client_secret_post`
    ClientSecretPost,
}

/// `[log]`: what the daemon says, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Where the audit log is written to as well.
    pub audit_file: Option<PathBuf>,
    /// Lines for people or for machines.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
}

/// `[metrics]`: numbers for Prometheus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Where they can be had; `None` where nobody is to have them.
    pub listen: Option<MetricsAddress>,
    /// Name or number of the group that owns the Unix socket; `None` leaves it to the process.
    pub socket_group: Option<String>,
}

/// Where metrics can be had: on this machine only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A loopback address with a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `json`
    Json,
    /// `text`
    Text,
}

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// `debug`
    Debug,
    /// `error`
    Error,
    /// `info`
    Info,
    /// `trace`
    Trace,
    /// `warn`
    Warn,
}

impl Config {
    /// Reads and checks the configuration: `explicit`, else `$SCM_AGENT_CONFIG`, else [`DEFAULT_FILE`], with what overrides it.
    ///
    /// # Errors
    /// [`Error`] with every problem that was found.
    pub fn load(explicit: Option<&Path>, environment: &Environment) -> Result<Self, Error> {
        Self::load_or_default(explicit, Path::new(DEFAULT_FILE), environment)
    }

    fn load_or_default(explicit: Option<&Path>, default: &Path, environment: &Environment) -> Result<Self, Error> {
        let layers = layer::read_all(explicit, default, environment);
        sections::build(layers, environment)
    }

    /// Fails unless there is a key and, for a control plane, a token.
    ///
    /// Not part of [`Config::load`]: both may be systemd credentials, which exist only for the service, and commands that an
    /// operator runs beside it need neither.
    ///
    /// # Errors
    /// [`Error`] naming what is missing.
    pub fn require_secrets(&self) -> Result<(), Error> {
        Error::from_problems(self.missing_secrets()).map_or(Ok(()), Err)
    }

    /// What [`Config::require_secrets`] would refuse.
    #[must_use]
    pub fn missing_secrets(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if matches!(self.control_plane.source, Source::Url(_)) && self.control_plane.token == TokenOrigin::None {
            problems.push(Problem::of_key("control_plane.token_file", Cause::NoToken));
        }
        if self.key.files.is_empty() {
            problems.push(Problem::of_key("key.files", Cause::NoKey));
        }
        problems
    }

    /// Every key with its effective value and where that came from, in the order of the documentation.
    #[must_use]
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNER: (&str, &str) = ("SCM_AGENT__CONTROL_PLANE__RUNNER_ID", "0b4b1f4e-3f1a-4c5d-9e6f-7a8b9c0d1e2f");

    #[test]
    fn without_the_default_file_the_environment_can_say_it_all() {
        let default = Path::new("/nonexistent/config.toml");
        let environment = Environment::from_variables([RUNNER, ("SCM_AGENT__AGENT__MAX_CONNECTIONS", "9")]);
        let config = Config::load_or_default(None, default, &environment).unwrap();
        assert_eq!((config.agent.max_connections, config.files.len()), (9, 0));
        let error = Config::load_or_default(None, default, &Environment::default()).unwrap_err();
        let expected = "the configuration has 2 problems\n  \
            /nonexistent/config.toml: is not there; start from config.example.toml, or name a file with --config or SCM_AGENT_CONFIG\n  \
            control_plane.runner_id: is required; set it in the configuration file or as SCM_AGENT__CONTROL_PLANE__RUNNER_ID";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn drop_ins_beside_the_default_file_are_read_without_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("config.d")).unwrap();
        std::fs::write(folder.path().join("config.d/a.toml"), "[log]\nlevel = \"trace\"\n").unwrap();
        let config = Config::load_or_default(None, &folder.path().join("config.toml"), &Environment::from_variables([RUNNER])).unwrap();
        assert_eq!(config.log.level, LogLevel::Trace);
        assert_eq!(config.files, [folder.path().join("config.d/a.toml")]);
    }
}
