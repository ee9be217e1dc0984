//! Signing in with a browser on this machine: authorization code with PKCE and a loopback redirect (RFC 6749 section 4.1, 7636, 8252).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::client::authenticated_post;
use super::grant::sign_in_over;
use super::{Error, ErrorCode, GrantedTokens, IssuerCheck, TokenClient, UserEndpoints, UserPlan};
use crate::http;
use crate::secret::{CallbackState, ClientSecret, CodeVerifier};

/// Random bytes of a state and of a verifier (RFC 7636 section 4.1).
const RANDOM_BYTES: usize = 32;
/// The longest query of a callback that is read.
const MAX_QUERY_BYTES: usize = 16 * 1024;
/// The longest code that is taken.
const MAX_CODE_BYTES: usize = 8 * 1024;

/// A sign-in under way in a browser.
pub struct CodeRequest {
    /// Where to send the browser. It holds the state: whoever sees it can end the sign-in, not take it over.
    pub authorize_url: Url,
    redirect_uri: Url,
    state: CallbackState,
    verifier: CodeVerifier,
}

impl fmt::Debug for CodeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeRequest").field("redirect_port", &self.redirect_uri.port()).finish_non_exhaustive()
    }
}

impl TokenClient {
    /// Makes the URL that a browser is to be sent to, with a state, a verifier and a challenge of its own.
    ///
    /// # Errors
    /// [`Error::FlowNotOffered`] where there is no code flow with PKCE, [`Error::RedirectUri`] for a redirect URI elsewhere than on this
    /// machine's loopback.
    pub fn begin_code(&self, endpoints: &UserEndpoints, client_id: &str, redirect_uri: &Url) -> Result<CodeRequest, Error> {
        let Some(authorize) = &endpoints.authorize else {
            return Err(Error::FlowNotOffered { host: http::host_and_port(&endpoints.token), flow: "sign-in with a browser" });
        };
        let bare = redirect_uri.username().is_empty() && redirect_uri.password().is_none() && redirect_uri.fragment().is_none();
        let here = redirect_uri.scheme() == "http" && http::is_loopback_name(redirect_uri) && redirect_uri.port().is_some();
        if !bare || !here {
            return Err(Error::RedirectUri);
        }
        let state = CallbackState::parse(random_text()?).map_err(|_| Error::Randomness)?;
        let verifier = CodeVerifier::parse(random_text()?).map_err(|_| Error::Randomness)?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose_secret()));
        let mut authorize_url = authorize.clone();
        let mut query = authorize_url.query_pairs_mut();
        query.append_pair("response_type", "code").append_pair("client_id", client_id).append_pair("redirect_uri", redirect_uri.as_str());
        if !endpoints.scopes.is_empty() {
            query.append_pair("scope", &endpoints.scopes.join(" "));
        }
        query.append_pair("state", state.expose_secret()).append_pair("code_challenge", &challenge);
        query.append_pair("code_challenge_method", "S256");
        // OpenID Connect Core section 11: without it the provider is to overlook offline_access.
        if ["openid", "offline_access"].iter().all(|wanted| endpoints.scopes.iter().any(|scope| scope == wanted)) {
            query.append_pair("prompt", "consent");
        }
        drop(query);
        Ok(CodeRequest { authorize_url, redirect_uri: redirect_uri.clone(), state, verifier })
    }

    /// Exchanges what a callback brought for tokens, after checking that it belongs to this sign-in and comes from this host. The
    /// secret is wiped as soon as the request is built.
    ///
    /// `callback_query` is the callback's query as it arrived, without the question mark.
    ///
    /// # Errors
    /// [`Error::CallbackState`], [`Error::CallbackIssuer`] or [`Error::CallbackUnreadable`] for a callback that is not to be used, nothing
    /// having been sent; [`Error::AuthorizationRefused`] when it tells of a failure; else what the token endpoint answered. Of these only
    /// [`Error::CallbackState`] leaves the sign-in open: somebody else knocked.
    pub async fn exchange_code(
        &self,
        endpoints: &UserEndpoints,
        client_id: &str,
        client_secret: ClientSecret,
        plan: &UserPlan,
        request: &CodeRequest,
        callback_query: &str,
    ) -> Result<GrantedTokens, Error> {
        let code = request.code(endpoints, callback_query)?;
        let fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", request.redirect_uri.as_str()),
            ("code_verifier", request.verifier.expose_secret()),
        ];
        let request = authenticated_post(&endpoints.token, endpoints.client_authentication, client_id, &client_secret, fields);
        drop((client_secret, code));
        self.grant(endpoints, plan, request).await.map_err(|error| sign_in_over(error, &[]))
    }
}

impl CodeRequest {
    /// The code of a callback that is to be used: first whose it is, then where from, then what it says.
    fn code(&self, endpoints: &UserEndpoints, query: &str) -> Result<Zeroizing<String>, Error> {
        let callback = Callback::read(query)?;
        let state = callback.state.as_ref().ok_or(Error::CallbackState)?;
        if !self.state.matches(state.as_bytes()) {
            return Err(Error::CallbackState);
        }
        let host = http::host_and_port(&self.authorize_url);
        if !self.comes_from(&endpoints.issuer, callback.iss.as_deref().map(String::as_str)) {
            return Err(Error::CallbackIssuer { host });
        }
        if let Some(error) = callback.error {
            return Err(Error::AuthorizationRefused { host, code: ErrorCode::parse(error.as_bytes()) });
        }
        let code = callback.code.ok_or(Error::CallbackUnreadable { field: "code" })?;
        // RFC 6749 appendix A.11.
        let allowed = (1..=MAX_CODE_BYTES).contains(&code.len()) && code.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if allowed { Ok(code) } else { Err(Error::CallbackUnreadable { field: "code" }) }
    }

    fn comes_from(&self, check: &IssuerCheck, iss: Option<&str>) -> bool {
        match (check, iss) {
            (IssuerCheck::Exactly { required, .. }, None) => !required,
            (IssuerCheck::Exactly { issuer, .. }, Some(iss)) => issuer.is(iss),
            (IssuerCheck::SameOrigin, None) => true,
            (IssuerCheck::SameOrigin, Some(iss)) => Url::parse(iss).is_ok_and(|iss| iss.origin() == self.authorize_url.origin()),
        }
    }
}

/// The fields of a callback, each there at most once (RFC 6749 section 3.1). All of it is wiped.
#[derive(Default)]
struct Callback {
    code: Option<Zeroizing<String>>,
    error: Option<Zeroizing<String>>,
    iss: Option<Zeroizing<String>>,
    state: Option<Zeroizing<String>>,
}

impl Callback {
    fn read(query: &str) -> Result<Self, Error> {
        if query.len() > MAX_QUERY_BYTES {
            return Err(Error::CallbackUnreadable { field: "query" });
        }
        let mut callback = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = Zeroizing::new(value.into_owned());
            let (name, field) = match &*name {
                "code" => ("code", &mut callback.code),
                "error" => ("error", &mut callback.error),
                "iss" => ("iss", &mut callback.iss),
                "state" => ("state", &mut callback.state),
                _ => continue,
            };
            if field.replace(value).is_some() {
                return Err(Error::CallbackUnreadable { field: name });
            }
        }
        Ok(callback)
    }
}

/// 32 random bytes in 43 characters that need no escape.
fn random_text() -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut bytes = Zeroizing::new([0; RANDOM_BYTES]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| Error::Randomness)?;
    let mut text = Zeroizing::new(vec![0; RANDOM_BYTES.div_ceil(3) * 4]);
    let written = URL_SAFE_NO_PAD.encode_slice(bytes.as_slice(), &mut text).map_err(|_| Error::Randomness)?;
    text.truncate(written);
    Ok(text)
}
