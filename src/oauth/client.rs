//! Asking a token endpoint: client_credentials (RFC 6749 section 4.4) with one client authentication per request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

use super::metadata::{self, Issuer, Metadata};
use super::{ClientAuthentication, EndpointSource, Error, Moment, ServicePlan, TokenReply};
use crate::clock::Clock;
use crate::http;
use crate::secret::{AccessToken, ClientSecret};

/// How long an issuer's metadata is believed.
const METADATA_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// How many issuers' metadata is remembered.
const MAX_ISSUERS: usize = 256;

/// A token endpoint and how to show it a client's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEndpoint {
    /// How the app shows its secret.
    pub client_authentication: ClientAuthentication,
    /// Where to POST.
    pub url: Url,
}

/// A token as it was issued.
#[derive(Debug)]
pub struct IssuedToken {
    /// The token.
    pub access_token: AccessToken,
    /// How long it lives from `requested_at` on, 1 second to 30 days; `None` when the issuer did not say.
    pub expires_in: Option<Duration>,
    /// When the request was sent: the lifetime is counted from here, so never too long.
    pub requested_at: Moment,
    /// Whether it was there before it was asked for: somebody kept it.
    pub was_kept: bool,
    /// The scopes granted; `None` when the reply names none, which means those asked for (RFC 6749 section 5.1).
    pub scopes: Option<Vec<String>>,
}

impl IssuedToken {
    /// The time of day from which on the token is dead, if that is known.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_in.map(|lifetime| self.requested_at.after(lifetime).wall())
    }
}

/// Finds token endpoints and asks them.
pub struct TokenClient {
    pub(super) clock: Arc<dyn Clock>,
    discovered: Mutex<HashMap<Issuer, Discovered>>,
    http: Mutex<http::Client>,
}

struct Discovered {
    at: Instant,
    metadata: Metadata,
}

impl TokenClient {
    /// Makes a client that has found nothing yet.
    #[must_use]
    pub fn new(http: http::Client, clock: Arc<dyn Clock>) -> Self {
        Self { clock, discovered: Mutex::default(), http: Mutex::new(http) }
    }

    /// Has every request from now on made with another client; what is under way goes on with the one of before.
    pub fn use_client(&self, http: http::Client) {
        *self.http.lock().unwrap_or_else(PoisonError::into_inner) = http;
    }

    /// The client in use.
    pub(super) fn http(&self) -> http::Client {
        self.http.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds the token endpoint of a plan: the one it names, else by the issuer's metadata, which is remembered for an hour.
    ///
    /// # Errors
    /// [`Error`] when the metadata cannot be had or used, or does not offer what the plan needs.
    pub async fn endpoint(&self, plan: &ServicePlan) -> Result<TokenEndpoint, Error> {
        match &plan.endpoint {
            EndpointSource::Fixed(url) => Ok(fixed_endpoint(plan, url)),
            EndpointSource::Issuer(issuer) => issuers_endpoint(plan, issuer, self.metadata(issuer).await?),
        }
    }

    /// The same as far as it is known without asking anybody; `None` where the issuer would be asked first.
    #[must_use]
    pub fn known_endpoint(&self, plan: &ServicePlan) -> Option<Result<TokenEndpoint, Error>> {
        match &plan.endpoint {
            EndpointSource::Fixed(url) => Some(Ok(fixed_endpoint(plan, url))),
            EndpointSource::Issuer(issuer) => self.remembered(issuer).map(|metadata| issuers_endpoint(plan, issuer, metadata)),
        }
    }

    /// Whether an issuer's metadata offers tokens for an app's secret alone.
    ///
    /// # Errors
    /// [`Error`] when the metadata cannot be had or used.
    pub async fn offers_client_credentials(&self, issuer: &Issuer) -> Result<bool, Error> {
        Ok(self.metadata(issuer).await?.offers_client_credentials)
    }

    /// Asks for a token with the app's secret alone. The secret is wiped as soon as the request is built.
    ///
    /// # Errors
    /// [`Error`] when the issuer refuses, cannot be reached, or answers with nothing that may be used.
    pub async fn client_credentials(
        &self,
        endpoint: &TokenEndpoint,
        client_id: &str,
        client_secret: ClientSecret,
        plan: &ServicePlan,
    ) -> Result<IssuedToken, Error> {
        let host = http::host_and_port(&endpoint.url);
        let requested_at = Moment::now(&*self.clock);
        let request = client_credentials_request(endpoint, client_id, &client_secret, &plan.scopes);
        drop(client_secret);
        let reply = self.http().send(request).await?;
        let TokenReply { access_token, expires_in, scopes } = TokenReply::parse(&reply, &host, plan.form_replies, self.clock.now())?;
        tracing::debug!(host, expires_in_seconds = expires_in.map(|lifetime| lifetime.as_secs()), "an access token was issued");
        Ok(IssuedToken { access_token, expires_in, requested_at, was_kept: false, scopes })
    }

    /// The issuer's metadata, which is remembered for an hour.
    pub(super) async fn metadata(&self, issuer: &Issuer) -> Result<Metadata, Error> {
        if let Some(metadata) = self.remembered(issuer) {
            return Ok(metadata);
        }
        let metadata = metadata::fetch(&self.http(), &*self.clock, issuer).await?;
        self.remember(issuer, &metadata);
        Ok(metadata)
    }

    fn remembered(&self, issuer: &Issuer) -> Option<Metadata> {
        let discovered = self.lock();
        let found = discovered.get(issuer)?;
        (found.at.elapsed() < METADATA_LIFETIME).then(|| found.metadata.clone())
    }

    fn remember(&self, issuer: &Issuer, metadata: &Metadata) {
        let mut discovered = self.lock();
        if discovered.len() >= MAX_ISSUERS && !discovered.contains_key(issuer) {
            let oldest = discovered.iter().min_by_key(|(_, found)| found.at).map(|(issuer, _)| issuer.clone());
            oldest.and_then(|oldest| discovered.remove(&oldest));
        }
        discovered.insert(issuer.clone(), Discovered { at: Instant::now(), metadata: metadata.clone() });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Issuer, Discovered>> {
        self.discovered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fixed_endpoint(plan: &ServicePlan, url: &Url) -> TokenEndpoint {
    let client_authentication = plan.client_authentication.unwrap_or(ClientAuthentication::Basic);
    TokenEndpoint { client_authentication, url: url.clone() }
}

fn issuers_endpoint(plan: &ServicePlan, issuer: &Issuer, metadata: Metadata) -> Result<TokenEndpoint, Error> {
    if plan.must_be_offered && !metadata.offers_client_credentials {
        return Err(Error::GrantNotOffered { host: issuer.host() });
    }
    match plan.client_authentication.or(metadata.client_authentication) {
        Some(client_authentication) => Ok(TokenEndpoint { client_authentication, url: metadata.token_endpoint }),
        None => Err(Error::AuthenticationNotOffered { host: issuer.host() }),
    }
}

fn client_credentials_request(endpoint: &TokenEndpoint, client_id: &str, client_secret: &ClientSecret, scopes: &[String]) -> http::Request {
    let scope = scopes.join(" ");
    let mut fields = vec![("grant_type", "client_credentials")];
    if !scope.is_empty() {
        fields.push(("scope", &scope));
    }
    authenticated_post(&endpoint.url, endpoint.client_authentication, client_id, client_secret, fields)
}

/// A form for an endpoint of the issuer's, with the app's credentials in one place (RFC 6749 section 2.3.1).
pub(super) fn authenticated_post<'f>(
    url: &Url,
    client_authentication: ClientAuthentication,
    client_id: &'f str,
    client_secret: &'f ClientSecret,
    mut fields: Vec<(&'f str, &'f str)>,
) -> http::Request {
    if client_authentication == ClientAuthentication::Post {
        fields.push(("client_id", client_id));
        fields.push(("client_secret", client_secret.expose_secret()));
    }
    let mut request = form_post(url, &fields);
    if client_authentication == ClientAuthentication::Basic {
        request = request.header(AUTHORIZATION, basic(client_id, client_secret));
    }
    request
}

/// Writes form fields into one buffer that never grows, because growing would leave copies.
fn form(fields: &[(&str, &str)]) -> Vec<u8> {
    let size = fields.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
    let mut body = Vec::with_capacity(size);
    for (name, value) in fields {
        if !body.is_empty() {
            body.push(b'&');
        }
        body.extend_from_slice(name.as_bytes());
        body.push(b'=');
        encode(value, &mut body);
    }
    body
}

/// RFC 6749 section 2.3.1: both parts form-encoded first, then joined, then in base64 (RFC 7617).
fn basic(client_id: &str, client_secret: &ClientSecret) -> HeaderValue {
    let secret = client_secret.expose_secret();
    let mut pair = Zeroizing::new(Vec::with_capacity(3 * client_id.len() + 1 + 3 * secret.len()));
    encode(client_id, &mut pair);
    pair.push(b':');
    encode(secret, &mut pair);
    basic_of(&pair)
}

/// RFC 7617 as it is, for what is not OAuth.
pub(super) fn raw_basic(client_id: &str, client_secret: &ClientSecret) -> HeaderValue {
    let secret = client_secret.expose_secret();
    let mut pair = Zeroizing::new(Vec::with_capacity(client_id.len() + 1 + secret.len()));
    pair.extend_from_slice(client_id.as_bytes());
    pair.push(b':');
    pair.extend_from_slice(secret.as_bytes());
    basic_of(&pair)
}

fn basic_of(pair: &[u8]) -> HeaderValue {
    let mut value = Zeroizing::new(vec![0; "Basic ".len() + pair.len().div_ceil(3) * 4]);
    value[.."Basic ".len()].copy_from_slice(b"Basic ");
    let written = STANDARD.encode_slice(pair, &mut value["Basic ".len()..]).expect("four characters for every three bytes fit");
    let mut header = HeaderValue::from_bytes(&value[.."Basic ".len() + written]).expect("base64 is visible ASCII");
    header.set_sensitive(true);
    header
}

/// A form for an endpoint of the issuer's from an app that shows its name alone.
pub(super) fn public_post<'f>(url: &Url, client_id: &'f str, mut fields: Vec<(&'f str, &'f str)>) -> http::Request {
    fields.push(("client_id", client_id));
    form_post(url, &fields)
}

/// The buffer itself moves into the request, so no copy is left here.
fn form_post(url: &Url, fields: &[(&str, &str)]) -> http::Request {
    http::Request::post(url.clone(), "application/x-www-form-urlencoded", form(fields))
        .header(ACCEPT, HeaderValue::from_static("application/json"))
}

fn encode(text: &str, into: &mut Vec<u8>) {
    for chunk in byte_serialize(text.as_bytes()) {
        into.extend_from_slice(chunk.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_written_without_growing_its_buffer() {
        let fields = [("client_id", "ü%&=+ ~"), ("client_secret", "~~~~~~~~~~~~"), ("scope", "")];
        let size: usize = fields.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
        let body = form(&fields);
        assert_eq!(body.capacity(), size);
        assert_eq!(body, b"client_id=%C3%BC%25%26%3D%2B+%7E&client_secret=%7E%7E%7E%7E%7E%7E%7E%7E%7E%7E%7E%7E&scope=");
    }

    #[test]
    fn basic_is_encoded_twice_and_marked_as_sensitive() {
        let secret = ClientSecret::parse(Zeroizing::new(b"p:w~ +%".to_vec())).unwrap();
        let header = basic("id:1", &secret);
        assert!(header.is_sensitive());
        let encoded = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(encoded).unwrap(), b"id%3A1:p%3Aw%7E+%2B%25");
    }
}
