//! The client of `gitpod.v1.RunnerConfigurationService` and of what else is asked of the control plane: Connect unary calls
//! with JSON bodies.

use std::collections::HashSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use super::connect::{self, Code, Refusal};
use super::error::PagingError;
use super::message::{self, ListReader};
use super::{Error, MAX_INTEGRATIONS, MAX_LIST_BYTES, MAX_PAGE_BYTES, TokenSource};
use crate::http::{self, Reply, Request, host_and_port};
use crate::integration::ScmIntegration;
use crate::integration::source::{IntegrationList, IntegrationSource, RegisteredKeySource, SourceError};
use crate::secret::BearerToken;

const CONFIGURATION: &str = "gitpod.v1.RunnerConfigurationService";
const RUNNERS: &str = "gitpod.v1.RunnerService";
pub(super) const CONNECT_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
pub(super) const JSON: &str = "application/json";
/// The largest page that the service gives.
const PAGE_SIZE: usize = 100;
/// Enough for [`MAX_INTEGRATIONS`] at the service's default of 25 a page.
const MAX_PAGES: usize = 200;
/// How long all pages of a list may take together, so that a slow server cannot hold a poll for ever.
const LIST_DEADLINE: Duration = Duration::from_secs(300);
const MAX_SINGLE_BYTES: usize = 256 * 1024;
const MAX_MEDIA_TYPE: usize = 60;

/// What the control plane's client needs to know.
pub struct Config {
    /// Where the services are, as `https://app.gitpod.io/api`; with or without a slash at the end.
    pub base_url: Url,
    /// UUID of the runner whose integrations are asked for.
    pub runner_id: String,
    /// Where the bearer token comes from.
    pub token: TokenSource,
    /// How to get there. The base URL counts as trusted, since the operator wrote it.
    pub http: http::Config,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without `http`: a proxy's URL may hold a password.
        let Self { base_url, runner_id, token, http: _ } = self;
        let host = host_and_port(base_url);
        f.debug_struct("Config").field("host", &host).field("runner_id", runner_id).field("token", token).finish_non_exhaustive()
    }
}

/// The control plane, as far as this runner's integrations go.
pub struct ControlPlane {
    base_url: Url,
    host: String,
    runner_id: String,
    token: TokenSource,
    client: http::Client,
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base_url: _, host, runner_id, token, client: _ } = self;
        f.debug_struct("ControlPlane").field("host", host).field("runner_id", runner_id).field("token", token).finish_non_exhaustive()
    }
}

impl ControlPlane {
    /// Checks the base URL and builds the client. Nothing is connected and no token is read yet.
    ///
    /// # Errors
    /// [`Error::BaseUrl`], [`Error::Client`], or [`Error::Transport`] when the URL is not https.
    pub fn new(config: Config) -> Result<Self, Error> {
        let Config { base_url, runner_id, token, http } = config;
        let problem = if base_url.cannot_be_a_base() || base_url.host_str().is_none() {
            Some("it names no host")
        } else if !base_url.username().is_empty() || base_url.password().is_some() {
            Some("it holds a user name or password")
        } else if base_url.query().is_some() || base_url.fragment().is_some() {
            Some("it has a query or fragment")
        } else {
            None
        };
        if let Some(reason) = problem {
            return Err(Error::BaseUrl { reason });
        }
        let client = http::Client::new(&http::Config { trusted_urls: true, ..http })?;
        client.check(&base_url)?;
        Ok(Self { host: host_and_port(&base_url), base_url, runner_id, token, client })
    }

    /// Checks that there is a token to ask with, without asking.
    ///
    /// # Errors
    /// [`Error::Token`], and nothing else in practice.
    pub fn check_token(&self) -> Result<(), Error> {
        self.token.load().map(drop)
    }

    /// Fetches all integrations of the runner, page by page: the whole list or an error.
    ///
    /// # Errors
    /// [`Error`]; one unreadable integration is none, it is among the list's `rejected`.
    pub async fn list_scm_integrations(&self) -> Result<IntegrationList, Error> {
        let late = |_| Error::Paging { host: self.host.clone(), problem: PagingError::TooLong { limit: LIST_DEADLINE } };
        tokio::time::timeout(LIST_DEADLINE, self.all_pages()).await.map_err(late)?
    }

    /// Fetches one integration.
    ///
    /// # Errors
    /// [`Error`]; with [`Code::NotFound`] when there is none of that id.
    pub async fn get_scm_integration(&self, id: &str) -> Result<ScmIntegration, Error> {
        let reply = self.call(CONFIGURATION, "GetSCMIntegration", &json!({ "id": id }), MAX_SINGLE_BYTES).await?;
        let rejected = |reason: String| Error::Rejected { host: self.host.clone(), reason };
        let integration = message::read_single(&reply.body, &self.runner_id)
            .map_err(|source| Error::Reply { host: self.host.clone(), source })?
            .map_err(rejected)?;
        if integration.id.eq_ignore_ascii_case(id) { Ok(integration) } else { Err(rejected("id is not the one asked for".to_owned())) }
    }

    /// Asks for the runner (`gitpod.v1.RunnerService/GetRunner`) and returns its registered public key, `status.publicKey`, in
    /// whatever form it has there. `None` when none is registered.
    ///
    /// # Errors
    /// [`Error`]; old servers and narrow tokens lead to [`Code::Unimplemented`] and [`Code::PermissionDenied`].
    pub async fn registered_public_key(&self) -> Result<Option<Vec<u8>>, Error> {
        let reply = self.call(RUNNERS, "GetRunner", &json!({ "runnerId": self.runner_id }), MAX_SINGLE_BYTES).await?;
        message::read_public_key(&reply.body, &self.runner_id).map_err(|source| Error::Reply { host: self.host.clone(), source })
    }

    async fn all_pages(&self) -> Result<IntegrationList, Error> {
        let paging = |problem| Error::Paging { host: self.host.clone(), problem };
        let mut reader = ListReader::new(Some(&self.runner_id), MAX_INTEGRATIONS);
        let mut seen = HashSet::new();
        let mut page_token = String::new();
        let mut length = 0;
        for page in 1..=MAX_PAGES {
            let body = json!({
                "pagination": { "pageSize": PAGE_SIZE, "token": page_token },
                "filter": { "runnerIds": [self.runner_id] },
            });
            let reply = self.call(CONFIGURATION, "ListSCMIntegrations", &body, MAX_PAGE_BYTES).await?;
            length += reply.body.len();
            if length > MAX_LIST_BYTES {
                return Err(paging(PagingError::TooLarge { limit: MAX_LIST_BYTES }));
            }
            let next = reader.page(&reply.body).map_err(|source| Error::Reply { host: self.host.clone(), source })?;
            if next.is_empty() {
                let list = reader.finish();
                tracing::debug!(
                    host = self.host,
                    pages = page,
                    integrations = list.integrations.len(),
                    rejected = list.rejected.len(),
                    "fetched the integrations"
                );
                return Ok(list);
            }
            if !seen.insert(next.clone()) {
                return Err(paging(PagingError::Repeats));
            }
            page_token = next;
        }
        Err(paging(PagingError::TooManyPages { limit: MAX_PAGES }))
    }

    /// Calls a method. A refused token that changed in the meantime is tried once more.
    async fn call(&self, service: &str, method: &str, message: &Value, max_reply_bytes: usize) -> Result<Reply, Error> {
        let url = self.method_url(service, method);
        let token = self.token.load()?;
        let error = match self.call_with(&token, url.clone(), message, max_reply_bytes).await {
            Err(error) if error.code() == Some(Code::Unauthenticated) => error,
            result => return result,
        };
        match self.newer_token(&token)? {
            Some(fresh) => self.call_with(&fresh, url, message, max_reply_bytes).await,
            None => Err(error),
        }
    }

    pub(super) fn token(&self) -> Result<BearerToken, Error> {
        self.token.load()
    }

    /// The token as it is now, if it is another than the one that was refused.
    pub(super) fn newer_token(&self, refused: &BearerToken) -> Result<Option<BearerToken>, Error> {
        let fresh = self.token.load()?;
        if fresh.matches(refused.expose_secret().as_bytes()) {
            return Ok(None);
        }
        tracing::info!(host = self.host, "the token was refused and has changed since, trying the new one");
        Ok(Some(fresh))
    }

    pub(super) fn client(&self) -> &http::Client {
        &self.client
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    async fn call_with(&self, token: &BearerToken, url: Url, message: &Value, max_reply_bytes: usize) -> Result<Reply, Error> {
        let request = Request::post(url, JSON, message.to_string().into_bytes())
            .header(CONNECT_PROTOCOL_VERSION, HeaderValue::from_static("1"))
            .header(AUTHORIZATION, authorization(token))
            .max_reply_bytes(max_reply_bytes);
        let reply = self.client.send(request).await?;
        check_form(&self.host, reply.status, &reply.headers, &reply.media_type(), JSON)?;
        if reply.status == 200 {
            Ok(reply)
        } else {
            Err(Error::Refused(Refusal::read(self.host.clone(), &reply, token, SystemTime::now())))
        }
    }

    pub(super) fn method_url(&self, service: &str, method: &str) -> Url {
        let mut url = self.base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(service).push(method);
        }
        url
    }
}

impl IntegrationSource for ControlPlane {
    fn fetch(&self) -> BoxFuture<'_, Result<IntegrationList, SourceError>> {
        Box::pin(async {
            self.token.note();
            self.list_scm_integrations().await.map_err(|error| SourceError::from(&error))
        })
    }

    fn describe(&self) -> String {
        self.host.clone()
    }

    fn scope(&self) -> String {
        format!("{} {}", self.base_url.as_str().trim_end_matches('/'), self.runner_id)
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.token.changed())
    }
}

impl RegisteredKeySource for ControlPlane {
    fn registered_key(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, SourceError>> {
        Box::pin(async { self.registered_public_key().await.map_err(|error| SourceError::from(&error)) })
    }
}

pub(super) fn authorization(token: &BearerToken) -> HeaderValue {
    let text = Zeroizing::new(format!("Bearer {}", token.expose_secret()));
    let mut value = HeaderValue::from_str(&text).expect("a bearer token is visible ASCII");
    value.set_sensitive(true);
    value
}

/// Whether a reply has the form in which the control plane answers: plain and of the expected media type.
pub(super) fn check_form(host: &str, status: u16, headers: &HeaderMap, media_type: &str, expected: &str) -> Result<(), Error> {
    let host = host.to_owned();
    if headers.get_all(CONTENT_ENCODING).iter().any(|encoding| encoding != "identity") {
        return Err(Error::Encoded { host, status });
    }
    if media_type != expected {
        let retry_after = connect::retry_after(headers, SystemTime::now());
        return Err(Error::NotControlPlane { host, status, media_type: presentable(media_type), retry_after });
    }
    Ok(())
}

/// A media type as it may be printed.
fn presentable(media_type: &str) -> String {
    if media_type.is_empty() {
        return "no content type".to_owned();
    }
    media_type.chars().take(MAX_MEDIA_TYPE).map(|character| if character.is_ascii_graphic() { character } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control_plane(base_url: &str) -> Result<ControlPlane, Error> {
        let token = BearerToken::parse(Zeroizing::new(b"canary".to_vec())).unwrap();
        ControlPlane::new(Config {
            base_url: Url::parse(base_url).unwrap(),
            runner_id: "runner".into(),
            token: TokenSource::Environment { name: "ONA_API_KEY", token },
            http: http::Config::default(),
        })
    }

    #[test]
    fn the_base_url_may_have_a_path_and_a_slash_at_its_end() {
        for base in ["https://cp.example/api", "https://cp.example/api/"] {
            let url = control_plane(base).unwrap().method_url(CONFIGURATION, "ListSCMIntegrations");
            assert_eq!(url.as_str(), "https://cp.example/api/gitpod.v1.RunnerConfigurationService/ListSCMIntegrations");
        }
        let url = control_plane("https://cp.example").unwrap().method_url(CONFIGURATION, "GetSCMIntegration");
        assert_eq!(url.as_str(), "https://cp.example/gitpod.v1.RunnerConfigurationService/GetSCMIntegration");
    }

    #[test]
    fn a_base_url_with_more_than_host_and_path_is_refused() {
        for base in ["https://u@cp.example", "https://u:p@cp.example", "https://cp.example/?q", "https://cp.example/#f", "data:x"] {
            assert!(matches!(control_plane(base), Err(Error::BaseUrl { .. })), "{base}");
        }
        for base in ["http://cp.example", "http://127.0.0.1:1", "ftp://cp.example"] {
            assert!(matches!(control_plane(base), Err(Error::Transport(http::Error::Insecure { .. }))), "{base}");
        }
    }

    #[test]
    fn the_authorization_header_is_marked_sensitive() {
        let token = BearerToken::parse(Zeroizing::new(b"canary".to_vec())).unwrap();
        let value = authorization(&token);
        assert!(value.is_sensitive() && value == "Bearer canary");
        assert!(!format!("{value:?}").contains("canary"));
    }
}
