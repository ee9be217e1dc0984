//! What each section holds: its keys, their defaults and ranges, and what must hold between them.

use std::net::SocketAddr;
use std::time::Duration;

use url::Url;

use super::access;
use super::keys::{ACCESS, PROVIDER};
use super::layer::{Entry, Layers, ListedTable};
use super::reader::{Reader, Section, flag, path, quoted, quoted_list, resolve, text, texts};
use super::syntax::{Urls, exceptions, host, is_uuid, proxy, redirect_uri, scopes};
use super::{
    Agent, Cause, Config, ControlPlane, Environment, Error, Grant, Key, Log, LogFormat, LogLevel, Metrics, MetricsAddress, Network,
    OaepHash, Origin, PatOrigin, Problem, Provider, Sandbox, Source, Store, StoreKind, TokenEndpointAuth, TokenOrigin,
};

const DEFAULT_URL: &str = "https://app.gitpod.io/api";
const DEFAULT_SOCKET: &str = "/run/scm-agent/agent.sock";
const DEFAULT_STATE_DIR: &str = "/var/lib/scm-agent";
/// `sun_path` of unix(7), without the byte that ends it.
const SOCKET_PATH_BYTES: usize = 107;
/// systemd takes the name of a file for the name of a credential.
const CREDENTIAL_NAME_BYTES: usize = 255;

/// The SCM ids of which facts are known, and `oidc` for what is left to an issuer's metadata.
const KINDS: [&str; 8] = ["github", "gitlab", "bitbucket", "azuredevops_entra", "azuredevops_server", "gitea", "forgejo", "oidc"];

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// Types every section, or tells everything that is wrong.
pub(super) fn build(mut layers: Layers, environment: &Environment) -> Result<Config, Error> {
    let mut reader = Reader { problems: std::mem::take(&mut layers.problems), ..Reader::default() };
    let mut table = |name: &str| layers.sections.remove(name).unwrap_or_default();

    // First, because the other sections' URLs depend on it, but reported in its place.
    let mut later = Reader::default();
    let agent = agent(later.section("agent", table("agent")));
    let urls = Urls { loopback: agent.allow_insecure_loopback };
    let control_plane = control_plane(reader.section("control_plane", table("control_plane")), &urls, environment);
    let scm = network(&mut reader.section("scm", table("scm")), Some(&control_plane.network));
    reader.show_inherited("scm", "control_plane");
    let key = key(reader.section("key", table("key")), environment);
    reader.append(later);
    let (log_table, metrics_table) = (table("log"), table("metrics"));
    let mut store = reader.section("store", table("store"));
    let store = Store { kind: store.choice_or("kind", &[("file", StoreKind::File), ("memory", StoreKind::Memory)], 0) };
    let access = access::rules(&mut reader, layers.listed.remove(ACCESS).unwrap_or_default());
    let providers = providers(&mut reader, layers.listed.remove(PROVIDER).unwrap_or_default(), &urls, environment);
    let log = log(reader.section("log", log_table));
    let metrics = metrics(reader.section("metrics", metrics_table));

    if control_plane.runner_id.is_none() && needs_runner_id(&reader, &control_plane.source) && !layers.incomplete {
        if let Some(path) = layers.missing_default {
            reader.problems.push(Problem::of_file(path, Cause::NoDefaultFile));
        }
        let variable = "SCM_AGENT__CONTROL_PLANE__RUNNER_ID".to_owned();
        reader.problems.push(Problem::of_key("control_plane.runner_id", Cause::Missing { variable }));
    }
    if !reader.problems.is_empty() {
        return Err(Error::new(reader.problems));
    }
    Ok(Config { access, agent, control_plane, files: layers.files, key, log, metrics, providers, scm, store, settings: reader.settings })
}

/// Whether the id is missing, as opposed to wrong, which is a problem already.
fn needs_runner_id(reader: &Reader, source: &Source) -> bool {
    let unset = reader.settings.iter().any(|setting| setting.name == "runner_id" && setting.value.is_none());
    unset && matches!(source, Source::Url(_))
}

fn agent(mut section: Section<'_>) -> Agent {
    Agent {
        socket: section.read_or(
            "socket",
            DEFAULT_SOCKET.into(),
            |_| quoted(DEFAULT_SOCKET),
            |entry| {
                let (socket, shown) = path(entry)?;
                if socket.as_os_str().len() > SOCKET_PATH_BYTES {
                    Err(Cause::SocketPath { most: SOCKET_PATH_BYTES })
                } else {
                    Ok((socket, shown))
                }
            },
        ),
        socket_group: section.text("socket_group"),
        socket_mode: section.read_or("socket_mode", 0o660, |_| quoted("0660"), socket_mode),
        state_dir: section.read_or("state_dir", DEFAULT_STATE_DIR.into(), |_| quoted(DEFAULT_STATE_DIR), path),
        max_connections: section.number("max_connections", 256, 1..=4096),
        max_connections_per_user: section.number("max_connections_per_user", 64, 1..=4096),
        max_requests_per_second: section.number("max_requests_per_second", 500, 1..=u16::MAX),
        max_request_burst: section.number("max_request_burst", 2_000, 1..=u16::MAX),
        read_timeout: section.duration("read_timeout", 2 * SECOND, Duration::from_millis(100)..=MINUTE),
        request_timeout: section.duration("request_timeout", 8 * SECOND, SECOND..=10 * MINUTE),
        shutdown_grace_period: section.duration("shutdown_grace_period", 5 * SECOND, Duration::ZERO..=10 * MINUTE),
        allow_insecure_loopback: section.flag("allow_insecure_loopback", false),
        sandbox: section.choice_or("sandbox", &[("auto", Sandbox::Auto), ("off", Sandbox::Off), ("require", Sandbox::Require)], 0),
    }
}

fn socket_mode(entry: &Entry) -> Result<(u32, String), Cause> {
    match text(entry) {
        Ok(text) if matches!(&*text, "0660" | "660") => Ok((0o660, quoted("0660"))),
        Ok(text) if matches!(&*text, "0600" | "600") => Ok((0o600, quoted("0600"))),
        _ => Err(Cause::SocketMode),
    }
}

fn control_plane(mut section: Section<'_>, urls: &Urls, environment: &Environment) -> ControlPlane {
    let source = source(&mut section, urls);
    let runner_id = section.read("runner_id", |entry| {
        let id = text(entry)?;
        if is_uuid(&id) { Ok((id.to_ascii_lowercase(), quoted(&id.to_ascii_lowercase()))) } else { Err(Cause::NotAUuid) }
    });
    let token = token(&mut section, environment);
    ControlPlane {
        source,
        runner_id,
        token,
        poll_interval: section.duration("poll_interval", MINUTE, SECOND..=24 * 60 * MINUTE),
        watch: section.flag("watch", true),
        network: network(&mut section, None),
    }
}

/// The keys about the network. Those that nobody set are as in `[control_plane]`, which is given for every other section.
fn network(section: &mut Section<'_>, control_plane: Option<&Network>) -> Network {
    let defaults = control_plane.cloned().unwrap_or(Network {
        ca_file: None,
        connect_timeout: 10 * SECOND,
        no_proxy: None,
        proxy: None,
        timeout: 30 * SECOND,
    });
    Network {
        ca_file: section.path("ca_file").or(defaults.ca_file),
        proxy: section.read("proxy", proxy).or(defaults.proxy),
        no_proxy: section.read("no_proxy", exceptions).or(defaults.no_proxy),
        connect_timeout: section.duration("connect_timeout", defaults.connect_timeout, Duration::from_millis(100)..=5 * MINUTE),
        timeout: section.duration("timeout", defaults.timeout, SECOND..=10 * MINUTE),
    }
}

/// A file stands instead of a URL. `ONA_BASE_URL` is often set for other programs, so it alone does not contradict a file.
fn source(section: &mut Section<'_>, urls: &Urls) -> Source {
    let default = || Url::parse(DEFAULT_URL).expect("a constant URL");
    let url = section.take("url");
    let Some(file) = section.take("file") else {
        let url = match &url {
            Some(entry) => section.convert("url", entry, |entry| urls.plain(entry)).unwrap_or_else(default),
            None => {
                section.note("url", Some(quoted(DEFAULT_URL)), Origin::Default);
                default()
            }
        };
        section.note("file", None, Origin::Default);
        return Source::Url(url);
    };
    match url {
        Some(Entry { origin, .. }) if origin != Origin::Variable("ONA_BASE_URL".to_owned()) => {
            section.problem("file", &file.origin, Cause::Conflict { other: "control_plane.url", origin });
        }
        _ => section.note("url", None, Origin::Default),
    }
    // A wrong path is a problem by now; an empty one will not be used.
    Source::File(section.convert("file", &file, path).unwrap_or_default())
}

fn token(section: &mut Section<'_>, environment: &Environment) -> TokenOrigin {
    const CREDENTIAL: &str = "control-plane-token";
    if let Some(entry) = section.take("token_file") {
        return section.convert("token_file", &entry, path).map_or(TokenOrigin::None, TokenOrigin::File);
    }
    if let Some(path) = environment.credential(CREDENTIAL) {
        section.note("token_file", Some(quoted(&path.to_string_lossy())), Origin::Credential(CREDENTIAL));
        return TokenOrigin::File(path);
    }
    match environment.token_variable() {
        Some(name) => {
            section.note("token_file", None, Origin::Variable(name.to_owned()));
            TokenOrigin::Environment(name)
        }
        None => {
            section.note("token_file", None, Origin::Default);
            TokenOrigin::None
        }
    }
}

fn key(mut section: Section<'_>, environment: &Environment) -> Key {
    const KEY: &str = "runner-key";
    const PASSPHRASE: &str = "runner-key-passphrase";
    let files = match section.take("files") {
        Some(entry) => section.convert("files", &entry, |entry| {
            let files = texts(entry)?.iter().map(|text| resolve(text, &entry.origin)).collect::<Result<Vec<_>, _>>()?;
            if files.is_empty() {
                return Err(Cause::Empty);
            }
            if (1..files.len()).any(|index| files[..index].contains(&files[index])) {
                return Err(Cause::DuplicateEntry);
            }
            let shown = quoted_list(files.iter().map(|file| file.to_string_lossy()));
            Ok((files, shown))
        }),
        None => credential(&mut section, "files", KEY, environment, |shown| quoted_list([shown])).map(|file| vec![file]),
    };
    let passphrase_file = match section.take("passphrase_file") {
        Some(entry) => section.convert("passphrase_file", &entry, path),
        None => credential(&mut section, "passphrase_file", PASSPHRASE, environment, quoted),
    };
    let oaep_hash = section.choice_or(
        "oaep_hash",
        &[("sha1", OaepHash::Sha1), ("sha256", OaepHash::Sha256), ("sha384", OaepHash::Sha384), ("sha512", OaepHash::Sha512)],
        1,
    );
    Key { files: files.unwrap_or_default(), passphrase_file, oaep_hash }
}

/// The operator's own token for a host. That there is no such credential is no problem here: it is there for the service only.
fn pat(section: &mut Section<'_>, environment: &Environment) -> Option<PatOrigin> {
    let Some(credential) = section.take("pat_credential") else {
        let file = section.path("pat_file");
        section.note("pat_credential", None, Origin::Default);
        return file.map(PatOrigin::File);
    };
    match section.take("pat_file") {
        Some(file) => {
            section.problem("pat_file", &file.origin, Cause::Conflict { other: "pat_credential", origin: credential.origin.clone() })
        }
        None => section.note("pat_file", None, Origin::Default),
    }
    let name = section.convert("pat_credential", &credential, |entry| {
        let name = text(entry)?;
        let is_file_name = !matches!(name.as_str(), "." | "..") && !name.contains('/') && name.len() <= CREDENTIAL_NAME_BYTES;
        if is_file_name { Ok((name.clone(), quoted(&name))) } else { Err(Cause::CredentialName { most: CREDENTIAL_NAME_BYTES }) }
    })?;
    Some(PatOrigin::Credential { file: environment.credential(&name), name })
}

fn credential(
    section: &mut Section<'_>,
    name: &'static str,
    credential: &'static str,
    environment: &Environment,
    show: impl FnOnce(&str) -> String,
) -> Option<std::path::PathBuf> {
    let path = environment.credential(credential);
    match &path {
        Some(path) => section.note(name, Some(show(&path.to_string_lossy())), Origin::Credential(credential)),
        None => section.note(name, None, Origin::Default),
    }
    path
}

fn log(mut section: Section<'_>) -> Log {
    use LogLevel::{Debug, Error, Info, Trace, Warn};
    Log {
        audit_file: section.path("audit_file"),
        format: section.choice_or("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)], 0),
        level: section.choice_or("level", &[("error", Error), ("warn", Warn), ("info", Info), ("debug", Debug), ("trace", Trace)], 2),
    }
}

fn metrics(mut section: Section<'_>) -> Metrics {
    let listen = section.read("listen", |entry| {
        let written = text(entry)?;
        let Some(socket) = written.strip_prefix("unix:") else {
            let address: SocketAddr = written.parse().map_err(|_| Cause::MetricsAddress)?;
            let is_here = address.ip().is_loopback() && address.port() != 0;
            return if is_here { Ok((MetricsAddress::Tcp(address), quoted(&written))) } else { Err(Cause::MetricsAddress) };
        };
        if socket.trim().is_empty() {
            return Err(Cause::Empty);
        }
        let socket = resolve(socket, &entry.origin)?;
        if socket.as_os_str().len() > SOCKET_PATH_BYTES {
            return Err(Cause::SocketPath { most: SOCKET_PATH_BYTES });
        }
        let shown = quoted(&format!("unix:{}", socket.to_string_lossy()));
        Ok((MetricsAddress::Unix(socket), shown))
    });
    Metrics { listen, socket_group: section.text("socket_group") }
}

fn providers(reader: &mut Reader, tables: Vec<ListedTable>, urls: &Urls, environment: &Environment) -> Vec<Provider> {
    let mut providers: Vec<(Provider, String)> = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let (host_key, table_origin) = (table.full("host"), table.origin.clone());
        let host_origin = table.table.get("host").and_then(|entries| entries.last()).map(|entry| entry.origin.clone());
        let mut section = reader.listed(index, table);
        let host = section.read("host", host);
        let provider = Provider {
            host: host.clone().unwrap_or_default(),
            kind: section.choice("kind", &KINDS.map(|kind| (kind, kind))),
            issuer: section.read("issuer", |entry| urls.plain(entry).and_then(|_| text(entry)).map(|text| (text.clone(), quoted(&text)))),
            authorize_url: section.read("authorize_url", |entry| urls.plain(entry)),
            token_url: section.read("token_url", |entry| urls.plain(entry)),
            device_url: section.read("device_url", |entry| urls.plain(entry)),
            redirect_uri: section.read("redirect_uri", redirect_uri),
            scopes: section.read("scopes", scopes),
            username: section.text("username"),
            pat: pat(&mut section, environment),
            bearer: section.read("bearer", |entry| flag(entry).map(|flag| (flag, flag.to_string()))),
            token_endpoint_auth: section.choice(
                "token_endpoint_auth",
                &[
                    ("client_secret_basic", TokenEndpointAuth::ClientSecretBasic),
                    ("client_secret_post", TokenEndpointAuth::ClientSecretPost),
                ],
            ),
            grant: section.choice("grant", &[("service", Grant::Service), ("user", Grant::User)]),
        };
        match (host, host_origin) {
            (Some(host), Some(origin)) => {
                if let Some((_, first)) = providers.iter().find(|(earlier, _)| earlier.host == host) {
                    reader.problems.push(Problem::new(&origin, host_key.clone(), Cause::DuplicateHost { first: first.clone() }));
                }
                let named = if let Origin::File(path) = &origin { format!("{host_key} in {}", path.display()) } else { host_key };
                providers.push((provider, named));
            }
            (None, None) => {
                reader.problems.push(Problem::new(&table_origin, host_key, Cause::MissingInTable { section: PROVIDER }));
            }
            // Wrong, and said so.
            _ => {}
        }
    }
    providers.into_iter().map(|(provider, _)| provider).collect()
}
