//! `doctor URL`: asks the host as git would, with the caller's own token, and says in words what git keeps silent about.
//!
//! The token goes to the host that git asked for and nowhere else: no redirect is followed, and of what the host says only its status
//! and some headers are repeated, never its page.

mod words;

use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue, USER_AGENT};
use url::Url;
use zeroize::Zeroizing;

use self::words::{Place, Reply};
use super::{Check, State, on_the_network};
use crate::cli::{client, run};
use crate::config::Config;
use crate::explain::Explanation;
use crate::git::CredentialRequest;
use crate::http;

/// How much of a reply is looked at.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// How long the host may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How long looking up its name and asking it may take together.
const LIMIT: Duration = Duration::from_secs(30);

/// The name of the checks.
const NAME: &str = "probe";

/// What git wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Fetch.
    Fetch,
    /// Push.
    Push,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Fetch => "git-upload-pack",
            Self::Push => "git-receive-pack",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Push => "push",
        }
    }
}

/// A credential as git is given it.
struct Credential {
    authorization: Zeroizing<String>,
}

/// What a probe is about.
pub(super) struct Target<'a> {
    /// What git would ask helpers.
    pub(super) request: &'a CredentialRequest,
    /// The URL that git goes to, without user name and password.
    pub(super) url: &'a str,
    /// What the daemon says of it.
    pub(super) explanation: &'a Explanation,
    /// Whether pushing is tried, beside fetching.
    pub(super) push: bool,
}

/// Asks the daemon for a token as git does, and the host with it.
pub(super) fn probe(target: &Target<'_>, config: Option<&Config>, socket: &Path) -> Vec<Check> {
    let repository = match repository(target) {
        Ok(url) => url,
        Err(check) => return vec![check],
    };
    let credential = match credential(target.request, socket) {
        Ok(credential) => credential,
        Err(check) => return vec![check],
    };
    let http = match http::Client::new(&http_config(config, &repository)) {
        Ok(http) => http,
        Err(error) => return vec![Check::of(NAME, &run::http_setup(error))],
    };
    let services = if target.push { vec![Service::Fetch, Service::Push] } else { vec![Service::Fetch] };
    let mut checks = Vec::new();
    for service in services {
        let place = Place::of(target, &repository, service);
        let Some(asked) = on_the_network(LIMIT, ask(&http, &repository, &credential, service)) else {
            checks.push(Check::fail(NAME, format!("{} did not answer in time", place.host), UNREACHABLE));
            break;
        };
        let check = match asked {
            Ok(reply) => place.judge(&reply, SystemTime::now()),
            Err(error) => Check::fail(NAME, error.to_string(), UNREACHABLE),
        };
        let is_over = check.state != State::Ok;
        checks.push(check);
        if is_over {
            break;
        }
    }
    checks
}

/// What to do where the host cannot be asked.
const UNREACHABLE: &str = "see proxy and ca_file in [scm], and whether git itself gets there";

/// The repository's URL as the token may go to it: https, or http where the daemon permits that.
fn repository(target: &Target<'_>) -> Result<Url, Check> {
    let no_url = || Check::fail(NAME, "the URL is not one to ask a host with", "write it as git does: https://HOST/PATH");
    let mut url = Url::parse(target.url).map_err(|_| no_url())?;
    // The host that git names to the daemon is the host that is asked, or nothing is.
    let told = format!("{}://{}", target.request.protocol, target.request.host);
    let same = Url::parse(&told).is_ok_and(|told| told.origin() == url.origin() && told.host_str().is_some());
    if !same {
        return Err(no_url());
    }
    if url.path().trim_matches('/').is_empty() {
        return Err(Check::skip(NAME, "the URL names no repository, so there is nothing to ask the host for"));
    }
    url.set_query(None);
    url.set_fragment(None);
    // Neither can fail: it has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Ok(url)
}

/// The address of the host is the user's business, who could have git ask it just as well; its name is registered.
fn http_config(config: Option<&Config>, url: &Url) -> http::Config {
    let mut found = config.map_or_else(http::Config::default, |config| config.http_config(false));
    found.named_hosts.extend(url.host_str().map(str::to_owned));
    // Without the configuration, the daemon's answer stands for what it permits: it gave a token for this URL.
    found.allow_insecure_loopback |= config.is_none() && http::is_loopback_name(url);
    found.timeout = found.timeout.min(TIMEOUT);
    found
}

/// What the daemon gives git, or what it says instead.
fn credential(request: &CredentialRequest, socket: &Path) -> Result<Credential, Check> {
    let answer = client::get(socket, request).map_err(|error| Check::of(NAME, &error))?;
    let value = |key: &str| answer.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="));
    let text = |key: &str| value(key).map(|bytes| crate::git::frame::printable(&String::from_utf8_lossy(bytes)));
    let mut authorization = Zeroizing::new(Vec::with_capacity(2 * answer.len() + 64));
    if let (Some(token), true) = (value("credential"), text("authtype").is_some_and(|name| name.eq_ignore_ascii_case("bearer"))) {
        authorization.extend_from_slice(b"Bearer ");
        authorization.extend_from_slice(token);
    } else if let (Some(username), Some(password)) = (value("username"), value("password")) {
        let mut pair = Zeroizing::new(Vec::with_capacity(username.len() + password.len() + 1));
        pair.extend_from_slice(username);
        pair.push(b':');
        pair.extend_from_slice(password);
        authorization.extend_from_slice(b"Basic ");
        authorization.extend_from_slice(Zeroizing::new(BASE64_STANDARD.encode(&*pair)).as_bytes());
    } else {
        let said = text("message").or_else(|| text("error"));
        let detail = said.unwrap_or_else(|| "the daemon gives git no token, so the host was not asked".to_owned());
        return Err(Check::fail(NAME, detail, "mend what is said above, then run doctor for the URL again"));
    }
    let authorization = std::str::from_utf8(&authorization).map(|text| Zeroizing::new(text.to_owned()));
    match authorization {
        Ok(authorization) => Ok(Credential { authorization }),
        Err(_) => Err(Check::fail(NAME, "the token is none that a header can hold", "scm-agent status")),
    }
}

/// Asks for the references as git does first (gitprotocol-http, "Discovering References").
async fn ask(http: &http::Client, repository: &Url, credential: &Credential, service: Service) -> Result<Reply, http::Error> {
    let mut url = repository.clone();
    url.set_path(&format!("{}/info/refs", repository.path().trim_end_matches('/')));
    url.set_query(Some(&format!("service={}", service.name())));
    let insecure = || http::Error::Insecure { host: http::host_and_port(repository) };
    let mut authorization = HeaderValue::from_str(&credential.authorization).map_err(|_| insecure())?;
    authorization.set_sensitive(true);
    let request = http::Request::get(url)
        .header(AUTHORIZATION, authorization)
        // Version 2 answers briefly, however large the repository.
        .header(HeaderName::from_static("git-protocol"), HeaderValue::from_static("version=2"))
        // Some hosts show a page to sign in to whatever does not look like git.
        .header(USER_AGENT, HeaderValue::from_static(concat!("git/2.47.0 (scm-agent ", env!("CARGO_PKG_VERSION"), ")")))
        .take_redirects();
    let mut stream = http.open(request).await?;
    let (status, headers, media_type) = {
        let head = stream.head(TIMEOUT).await?;
        (head.status, head.headers.clone(), head.media_type())
    };
    let mut body = Zeroizing::new(Vec::with_capacity(MAX_BODY_BYTES));
    // The beginning is enough, and that it breaks off later is no matter.
    while let Ok(Some(chunk)) = stream.next_chunk(TIMEOUT).await {
        let room = MAX_BODY_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
    }
    Ok(Reply { status, headers, media_type, body })
}
