//! Finding an issuer's endpoints: metadata by OpenID Connect Discovery 1.0 and RFC 8414.

use serde::Deserialize;
use url::Url;

use super::{ClientAuthentication, Error, retry_after};
use crate::clock::Clock;
use crate::http;

/// The longest metadata that is read.
const MAX_METADATA_BYTES: usize = 256 * 1024;

/// An issuer's identifier: an http(s) URL without user, query and fragment (RFC 8414 section 2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Issuer {
    text: String,
    url: Url,
}

/// Why a text is no issuer. The text itself is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// It is not an absolute http or https URL.
    #[error("is not an https URL")]
    NotAUrl,
    /// It has a user, a query or a fragment.
    #[error("has a user, a query or a fragment")]
    Parts,
}

impl Issuer {
    /// Takes an issuer identifier. Whether http may stand there is for the client to say.
    ///
    /// # Errors
    /// [`IssuerError`] when it is no URL of the right form.
    pub fn parse(text: &str) -> Result<Self, IssuerError> {
        let url = Url::parse(text).map_err(|_| IssuerError::NotAUrl)?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(IssuerError::NotAUrl);
        }
        let clean = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        if !clean {
            return Err(IssuerError::Parts);
        }
        Ok(Self { text: text.to_owned(), url })
    }

    /// The identifier as it was written: issuers are compared byte for byte.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn host(&self) -> String {
        http::host_and_port(&self.url)
    }

    /// The first segment of the path: the tenant, at some issuers.
    #[must_use]
    pub fn first_segment(&self) -> &str {
        self.url.path_segments().and_then(|mut segments| segments.next()).unwrap_or_default()
    }

    /// Where the metadata may be, in the order to look: behind the path (OpenID Connect), then before it (RFC 8414 section 3.1).
    fn metadata_urls(&self) -> [Url; 2] {
        let path = self.url.path().trim_end_matches('/');
        let at = |path: String| {
            let mut url = self.url.clone();
            url.set_path(&path);
            url
        };
        [at(format!("{path}/.well-known/openid-configuration")), at(format!("/.well-known/oauth-authorization-server{path}"))]
    }

    /// Compares byte for byte. Only the slash of an empty path is free: a URL with and without it is one (RFC 3986 section 6.2.3).
    pub(super) fn is(&self, named: &str) -> bool {
        let bare = |text: &str| text.strip_suffix('/').unwrap_or(text).to_owned();
        named == self.text || self.url.path() == "/" && bare(named) == bare(&self.text)
    }

    fn check(&self, named: &str) -> Result<(), Error> {
        if self.is(named) {
            return Ok(());
        }
        let bare = |text: &str| text.strip_suffix('/').unwrap_or(text).to_owned();
        let hint = if bare(named) == bare(&self.text) { " (the slash at the end differs)" } else { "" };
        Err(Error::IssuerMismatch { host: self.host(), hint })
    }
}

/// What the metadata says that is of use here.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    /// Where browsers are sent to sign in.
    pub(super) authorization_endpoint: Option<Url>,
    /// The way to show the secret; `None` when there is no common one.
    pub(super) client_authentication: Option<ClientAuthentication>,
    /// Where devices ask for a code (RFC 8628 section 4): an URL that the HTTP client accepts.
    pub(super) device_authorization_endpoint: Option<Url>,
    /// Whether a code challenge with S256 may be sent: where the methods are listed, that one has to be among them.
    pub(super) may_challenge: bool,
    /// Whether `client_credentials` is listed.
    pub(super) offers_client_credentials: bool,
    /// Whether the scopes `openid` and `offline_access` are listed.
    pub(super) offers_offline_access: bool,
    /// Whether every callback has an `iss` (RFC 9207 section 3).
    pub(super) promises_iss: bool,
    /// Where tokens are revoked (RFC 7009): like the token endpoint, an URL that the HTTP client accepts.
    pub(super) revocation_endpoint: Option<Url>,
    /// The way to show the secret there.
    pub(super) revocation_authentication: Option<ClientAuthentication>,
    /// Whether `client_secret_post` is listed.
    pub(super) takes_form_secret: bool,
    /// An URL that the HTTP client accepts.
    pub(super) token_endpoint: Url,
    /// Where the user's name is, an URL that the HTTP client accepts.
    pub(super) userinfo_endpoint: Option<Url>,
}

#[derive(Deserialize)]
struct Wire {
    issuer: Option<String>,
    token_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    grant_types_supported: Option<Vec<String>>,
    // Of whatever type they are: what is wrong with them must not take the tokens away.
    #[serde(default)]
    revocation_endpoint: serde_json::Value,
    #[serde(default)]
    revocation_endpoint_auth_methods_supported: serde_json::Value,
    #[serde(default)]
    authorization_endpoint: serde_json::Value,
    #[serde(default)]
    authorization_response_iss_parameter_supported: serde_json::Value,
    #[serde(default)]
    code_challenge_methods_supported: serde_json::Value,
    #[serde(default)]
    device_authorization_endpoint: serde_json::Value,
    #[serde(default)]
    scopes_supported: serde_json::Value,
    #[serde(default)]
    userinfo_endpoint: serde_json::Value,
}

/// Fetches the metadata from the first place that has it.
pub(super) async fn fetch(client: &http::Client, clock: &dyn Clock, issuer: &Issuer) -> Result<Metadata, Error> {
    let mut first_error = None;
    for url in issuer.metadata_urls() {
        let error = match fetch_one(client, clock, issuer, url).await {
            Ok(metadata) => return Ok(metadata),
            // The other place is at the same host, which cannot be asked.
            Err(error @ Error::Http(http::Error::Redirect { .. } | http::Error::TooLarge { .. })) => error,
            Err(error @ Error::Http(_)) => return Err(error),
            Err(Error::MetadataMissing { .. }) => continue,
            Err(error) => error,
        };
        first_error.get_or_insert(error);
    }
    Err(first_error.unwrap_or_else(|| Error::MetadataMissing { host: issuer.host() }))
}

async fn fetch_one(client: &http::Client, clock: &dyn Clock, issuer: &Issuer, url: Url) -> Result<Metadata, Error> {
    let request = http::Request::get(url)
        .header(reqwest::header::ACCEPT, reqwest::header::HeaderValue::from_static("application/json"))
        .max_reply_bytes(MAX_METADATA_BYTES);
    let reply = client.send(request).await?;
    match reply.status {
        200 => read(client, issuer, &reply.body),
        status if super::is_transient(status) => {
            Err(Error::Status { host: issuer.host(), retry_after: retry_after(&reply, clock.now()), status })
        }
        _ => Err(Error::MetadataMissing { host: issuer.host() }),
    }
}

fn read(client: &http::Client, issuer: &Issuer, body: &[u8]) -> Result<Metadata, Error> {
    let host = issuer.host();
    // serde would also read the fields from an array, in their order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::MetadataUnreadable { host, line: 0, column: 0 });
    }
    let wire: Wire = serde_json::from_slice(body).map_err(|error| Error::MetadataUnreadable {
        host: host.clone(),
        line: error.line(),
        column: error.column(),
    })?;
    issuer.check(wire.issuer.as_deref().unwrap_or_default())?;
    let token_endpoint = wire.token_endpoint.as_deref().and_then(endpoint).ok_or(Error::NoTokenEndpoint { host })?;
    client.check(&token_endpoint)?;
    let authentication_methods = wire.token_endpoint_auth_methods_supported.as_deref();
    let client_authentication = client_authentication(authentication_methods);
    let takes_form_secret = authentication_methods.is_some_and(|names| names.iter().any(|name| name == "client_secret_post"));
    let usable = |value: &serde_json::Value| value.as_str().and_then(endpoint).filter(|url| client.check(url).is_ok());
    Ok(Metadata {
        authorization_endpoint: usable(&wire.authorization_endpoint),
        client_authentication,
        device_authorization_endpoint: usable(&wire.device_authorization_endpoint),
        may_challenge: wire.code_challenge_methods_supported.is_null() || lists(&wire.code_challenge_methods_supported, "S256"),
        // Left out it means authorization_code and implicit (RFC 8414 section 2).
        offers_client_credentials: wire
            .grant_types_supported
            .is_some_and(|grants| grants.iter().any(|grant| grant == "client_credentials")),
        offers_offline_access: lists(&wire.scopes_supported, "openid") && lists(&wire.scopes_supported, "offline_access"),
        promises_iss: wire.authorization_response_iss_parameter_supported == true,
        revocation_endpoint: usable(&wire.revocation_endpoint),
        revocation_authentication: revocation_authentication(&wire.revocation_endpoint_auth_methods_supported, client_authentication),
        takes_form_secret,
        token_endpoint,
        userinfo_endpoint: usable(&wire.userinfo_endpoint),
    })
}

fn lists(value: &serde_json::Value, wanted: &str) -> bool {
    value.as_array().is_some_and(|names| names.iter().any(|name| name == wanted))
}

/// An endpoint that a secret may be sent to, as far as the URL alone says.
///
/// RFC 6749 section 3.2: no fragment. A user in it would be sent along as a second client authentication.
fn endpoint(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    (url.fragment().is_none() && url.username().is_empty() && url.password().is_none()).then_some(url)
}

/// The way listed for revocation. Issuers that list none mean the one of the token endpoint, whatever RFC 8414 section 2 makes of
/// it: where that lists `client_secret_basic` too, both are the same.
fn revocation_authentication(offered: &serde_json::Value, at_token_endpoint: Option<ClientAuthentication>) -> Option<ClientAuthentication> {
    match offered {
        serde_json::Value::Null => at_token_endpoint,
        serde_json::Value::Array(names) => {
            let names: Vec<String> = names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
            client_authentication(Some(&names))
        }
        _ => None,
    }
}

/// `client_secret_basic` where it is listed, and where nothing is (RFC 8414 section 2).
fn client_authentication(offered: Option<&[String]>) -> Option<ClientAuthentication> {
    let Some(offered) = offered else { return Some(ClientAuthentication::Basic) };
    let mut known = offered.iter().filter_map(|name| name.parse().ok());
    let first = known.next()?;
    Some(if known.any(|other| other == ClientAuthentication::Basic) { ClientAuthentication::Basic } else { first })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_two_places_differ_only_when_the_issuer_has_a_path() {
        let places = |issuer: &str| Issuer::parse(issuer).unwrap().metadata_urls().map(String::from);
        for issuer in ["https://id.example.com", "https://id.example.com/"] {
            assert_eq!(
                places(issuer),
                [
                    "https://id.example.com/.well-known/openid-configuration",
                    "https://id.example.com/.well-known/oauth-authorization-server",
                ]
            );
        }
        for issuer in ["https://id.example.com:8443/a/b%20c", "https://id.example.com:8443/a/b%20c/"] {
            assert_eq!(
                places(issuer),
                [
                    "https://id.example.com:8443/a/b%20c/.well-known/openid-configuration",
                    "https://id.example.com:8443/.well-known/oauth-authorization-server/a/b%20c",
                ]
            );
        }
    }

    #[test]
    fn another_issuer_is_told_from_the_same_one_byte_for_byte() {
        let accepts = |issuer: &str, named: &str| Issuer::parse(issuer).unwrap().check(named).is_ok();
        assert!(accepts("https://id.example.com", "https://id.example.com"));
        assert!(accepts("https://id.example.com", "https://id.example.com/"));
        assert!(accepts("https://id.example.com/", "https://id.example.com"));
        assert!(accepts("https://id.example.com/a", "https://id.example.com/a"));
        for named in
            ["", "https://id.example.com/a/", "https://ID.example.com/a", "https://id.example.com:443/a", "https://id.example.com/A"]
        {
            assert!(!accepts("https://id.example.com/a", named), "{named}");
        }
        assert!(!accepts("https://id.example.com", "https://id.example.com//"));
    }

    #[test]
    fn basic_is_preferred_and_is_the_default() {
        let choose = |names: &[&str]| client_authentication(Some(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()));
        assert_eq!(client_authentication(None), Some(ClientAuthentication::Basic));
        assert_eq!(choose(&["client_secret_post", "client_secret_basic"]), Some(ClientAuthentication::Basic));
        assert_eq!(choose(&["private_key_jwt", "client_secret_post"]), Some(ClientAuthentication::Post));
        assert_eq!(choose(&["client_secret_basic", "client_secret_post"]), Some(ClientAuthentication::Basic));
        assert_eq!(choose(&["private_key_jwt", "none"]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn revocation_is_authenticated_as_listed_else_as_at_the_token_endpoint() {
        let (basic, post) = (Some(ClientAuthentication::Basic), Some(ClientAuthentication::Post));
        for (offered, at_token_endpoint, expected) in [
            (json!(null), basic, basic),
            (json!(null), post, post),
            (json!(null), None, None),
            (json!(["client_secret_post"]), basic, post),
            (json!(["client_secret_post", 7, "client_secret_basic"]), post, basic),
            (json!(["private_key_jwt"]), basic, None),
            (json!([]), basic, None),
            (json!("client_secret_basic"), basic, None),
        ] {
            assert_eq!(revocation_authentication(&offered, at_token_endpoint), expected, "{offered}");
        }
    }
}
