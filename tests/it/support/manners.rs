//! An SCM host in the process where users sign in: device codes, codes with PKCE, rotating refresh tokens, each host's own manners.
#![allow(dead_code, unreachable_pub, reason = "each user of the fakes takes what it needs")]

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;
use url::form_urlencoded::{self, byte_serialize};

use super::http::{Answer, FakeServer, Received, TestAuthority};

/// The app that every such host knows.
pub const APP: (&str, &str) = ("app:1", "canary~secret +%");
/// The redirect URI that is registered with it.
pub const REDIRECT_URI: &str = "http://127.0.0.1:34106/callback";
/// The user who signs in.
pub const USER: &str = "mona";

/// What a refresh does to the pair before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// It lives on.
    Lives,
    /// It dies.
    Dies,
    /// It dies, and whoever uses it again kills the pair after it too.
    DiesAndAvenges,
}

/// How a host behaves.
#[derive(Clone, Copy)]
pub struct Manners {
    /// Whether the port of a loopback redirect URI is free; else it has to be a registered one, to the letter.
    pub any_port: bool,
    pub authorize: &'static str,
    pub token: &'static str,
    pub device: &'static str,
    pub revoke: &'static str,
    pub user_info: &'static str,
    /// The path of the issuer whose metadata is served, if any is.
    pub issuer: Option<&'static str>,
    /// Where the app's secret has to be.
    pub secret: Secret,
    /// Whether the device flow wants no secret.
    pub public_devices: bool,
    /// The status of refusals, but for `invalid_client`.
    pub refusal: u16,
    /// The status of `invalid_client` and what stands for it.
    pub invalid_client: (u16, &'static str),
    /// Whether replies are forms though JSON was asked for.
    pub forms: bool,
    pub old: Old,
    /// The code for a refresh token that is not good.
    pub bad_refresh_token: &'static str,
    /// The code for an authorization code that is not good.
    pub bad_code: &'static str,
    pub denied: &'static str,
    pub expired: &'static str,
    /// How long tokens are at least.
    pub token_length: usize,
    /// The name of the scopes in a reply, and what is between them.
    pub scope: (&'static str, &'static str),
    /// The scope without which there is no refresh token.
    pub refresh_needs: Option<&'static str>,
    pub expires_in: Option<u64>,
    /// Whether callbacks have an `iss`.
    pub iss: bool,
    /// The field of the user info that holds the name.
    pub name: &'static str,
}

/// Where an app's secret has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    Body,
    Either,
    Header,
}

/// Any OpenID provider, as Keycloak: everything by metadata.
pub const OIDC: Manners = Manners {
    any_port: true,
    authorize: "/protocol/auth",
    token: "/protocol/token",
    device: "/protocol/device",
    revoke: "/protocol/revoke",
    user_info: "/protocol/userinfo",
    issuer: Some("/realm"),
    secret: Secret::Either,
    public_devices: false,
    refusal: 400,
    invalid_client: (401, "invalid_client"),
    forms: false,
    old: Old::DiesAndAvenges,
    bad_refresh_token: "invalid_grant",
    bad_code: "invalid_grant",
    denied: "access_denied",
    expired: "expired_token",
    token_length: 0,
    scope: ("scope", " "),
    refresh_needs: None,
    expires_in: Some(300),
    iss: true,
    name: "preferred_username",
};

/// GitHub Enterprise Server: errors with 200, forms, a device flow without the secret.
pub const GITHUB: Manners = Manners {
    authorize: "/login/oauth/authorize",
    token: "/login/oauth/access_token",
    device: "/login/device/code",
    revoke: "/api/v3/applications/app:1/token",
    user_info: "/api/v3/user",
    issuer: None,
    secret: Secret::Body,
    public_devices: true,
    refusal: 200,
    invalid_client: (200, "incorrect_client_credentials"),
    forms: true,
    old: Old::Dies,
    bad_refresh_token: "bad_refresh_token",
    bad_code: "bad_verification_code",
    denied: "access_denied",
    expired: "token_expired",
    scope: ("scope", ","),
    refresh_needs: Some("offline_access"),
    expires_in: Some(28_800),
    name: "login",
    ..OIDC
};

/// GitLab below a relative root: rotation that forgives nothing.
pub const GITLAB: Manners = Manners {
    authorize: "/gitlab/oauth/authorize",
    token: "/gitlab/oauth/token",
    device: "/gitlab/oauth/authorize_device",
    revoke: "/gitlab/oauth/revoke",
    user_info: "/gitlab/oauth/userinfo",
    issuer: None,
    expires_in: None,
    iss: false,
    name: "nickname",
    ..OIDC
};

/// Bitbucket Cloud: very long tokens, `scopes`.
pub const BITBUCKET: Manners = Manners {
    any_port: false,
    authorize: "/site/oauth2/authorize",
    token: "/site/oauth2/access_token",
    device: "",
    revoke: "",
    issuer: None,
    secret: Secret::Header,
    old: Old::Lives,
    token_length: 2500,
    scope: ("scopes", " "),
    expires_in: Some(7200),
    iss: false,
    ..OIDC
};

/// Bitbucket Data Center below a context path.
pub const DATA_CENTER: Manners = Manners {
    any_port: false,
    authorize: "/bitbucket/rest/oauth2/latest/authorize",
    token: "/bitbucket/rest/oauth2/latest/token",
    device: "",
    revoke: "",
    issuer: None,
    secret: Secret::Body,
    old: Old::Dies,
    expires_in: None,
    iss: false,
    ..OIDC
};

/// Entra: words of its own in the device flow, old refresh tokens that live on.
pub const ENTRA: Manners = Manners {
    revoke: "",
    issuer: Some("/tenant/v2.0"),
    secret: Secret::Body,
    old: Old::Lives,
    denied: "authorization_declined",
    refresh_needs: Some("offline_access"),
    expires_in: Some(4_499),
    iss: false,
    ..OIDC
};

/// Gitea: every error is 400, and a refresh token that is not good an `unauthorized_client`.
pub const GITEA: Manners = Manners {
    any_port: false,
    authorize: "/login/oauth/authorize",
    token: "/login/oauth/access_token",
    device: "",
    revoke: "",
    user_info: "/login/oauth/userinfo",
    issuer: None,
    secret: Secret::Body,
    invalid_client: (400, "invalid_client"),
    old: Old::Dies,
    bad_refresh_token: "unauthorized_client",
    iss: false,
    ..OIDC
};

/// A host that lives as long as this value.
pub struct FakeHost {
    server: FakeServer,
    shared: Arc<Shared>,
}

struct Shared {
    base: OnceLock<String>,
    manners: Manners,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    redirect_uri: Option<String>,
    access: HashMap<String, u64>,
    codes: HashMap<String, Code>,
    devices: HashMap<String, Device>,
    fault: Option<Answer>,
    families: u64,
    refresh: HashMap<String, u64>,
    refreshes: usize,
    replays: usize,
    revoked: Vec<String>,
    scopes: HashMap<u64, String>,
    spent: HashMap<String, u64>,
    metadata: Vec<(String, Value)>,
}

struct Code {
    challenge: String,
    redirect_uri: String,
    scope: String,
}

struct Device {
    answer: Option<&'static str>,
    device_code: String,
    scope: String,
}

impl FakeHost {
    /// Serves plain HTTP.
    pub async fn start(manners: Manners) -> Self {
        Self::start_with(manners, None).await
    }

    /// Serves HTTPS as 127.0.0.1.
    pub async fn start_tls(manners: Manners, authority: &TestAuthority) -> Self {
        Self::start_with(manners, Some(authority)).await
    }

    async fn start_with(manners: Manners, authority: Option<&TestAuthority>) -> Self {
        let shared = Arc::new(Shared { base: OnceLock::new(), manners, state: Mutex::default() });
        let handler = Arc::clone(&shared);
        let handle = move |request: Received| {
            let shared = Arc::clone(&handler);
            async move { shared.answer(&request) }
        };
        let server = match authority {
            None => FakeServer::start(handle).await,
            Some(authority) => FakeServer::start_tls(authority.identity(&["127.0.0.1"], |_| {}), handle).await,
        };
        shared.base.set(server.url("")).unwrap();
        Self { server, shared }
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    pub fn url(&self, path: &str) -> Url {
        self.server.url(path).parse().unwrap()
    }

    pub fn issuer_url(&self) -> String {
        self.server.url(self.shared.manners.issuer.unwrap())
    }

    pub fn received(&self) -> Vec<Received> {
        self.server.received()
    }

    /// The user's answer to a device code: `None` for yes.
    pub fn answer_device(&self, user_code: &str, refusal: Option<&'static str>) {
        self.shared.state.lock().unwrap().devices.get_mut(user_code).unwrap().answer = Some(refusal.unwrap_or("yes"));
    }

    /// Gives this answer to the next token request.
    pub fn fail_next(&self, answer: Answer) {
        self.shared.state.lock().unwrap().fault = Some(answer);
    }

    pub fn set_metadata(&self, field: &str, value: Value) {
        self.shared.state.lock().unwrap().metadata.push((field.to_owned(), value));
    }

    /// Whether a token, of either kind, is alive.
    pub fn lives(&self, token: &str) -> bool {
        let state = self.shared.state.lock().unwrap();
        state.access.contains_key(token) || state.refresh.contains_key(token)
    }

    /// How many refreshes succeeded, and how many came with a token that was used before.
    pub fn refreshes_and_replays(&self) -> (usize, usize) {
        let state = self.shared.state.lock().unwrap();
        (state.refreshes, state.replays)
    }

    pub fn revoked(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().revoked.clone()
    }

    /// Registers the app's redirect URI, instead of [`REDIRECT_URI`].
    pub fn register(&self, redirect_uri: &str) {
        self.shared.state.lock().unwrap().redirect_uri = Some(redirect_uri.to_owned());
    }

    /// What a browser brings back after its user signed in: the callback's query. The host checks what it was sent first.
    pub fn sign_in(&self, authorize_url: &Url) -> String {
        assert_eq!((authorize_url.path(), authorize_url.port()), (self.shared.manners.authorize, Some(self.port())));
        let fields: HashMap<String, String> = authorize_url.query_pairs().into_owned().collect();
        assert_eq!(authorize_url.query_pairs().count(), fields.len());
        assert_eq!((fields["response_type"].as_str(), fields["client_id"].as_str()), ("code", APP.0));
        assert_eq!((fields["code_challenge_method"].as_str(), fields["code_challenge"].len()), ("S256", 43));
        assert!(fields["state"].len() >= 32);
        let registered = self.shared.state.lock().unwrap().redirect_uri.clone().unwrap_or_else(|| REDIRECT_URI.to_owned());
        let (asked, mut registered_url) = (&fields["redirect_uri"], Url::parse(&registered).unwrap());
        if self.shared.manners.any_port {
            registered_url.set_port(Url::parse(asked).unwrap().port()).unwrap();
        }
        let registered = if self.shared.manners.any_port { registered_url.to_string() } else { registered };
        assert_eq!(*asked, registered, "the redirect URI is not registered");
        let code = format!("canary/code+{:x}", random());
        let record = Code {
            challenge: fields["code_challenge"].clone(),
            redirect_uri: fields["redirect_uri"].clone(),
            scope: fields.get("scope").cloned().unwrap_or_default(),
        };
        self.shared.state.lock().unwrap().codes.insert(code.clone(), record);
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("code", &code).append_pair("state", &fields["state"]);
        if self.shared.manners.iss {
            query.append_pair("iss", &self.server.url(self.shared.manners.issuer.unwrap_or_default()));
        }
        query.finish()
    }
}

impl Shared {
    fn answer(&self, request: &Received) -> Answer {
        let manners = &self.manners;
        let path = request.path.as_str();
        if let Some(issuer) = manners.issuer
            && path == format!("{issuer}/.well-known/openid-configuration")
        {
            return Answer::json(200, &self.metadata(issuer));
        }
        let found = match request.method.as_str() {
            "POST" if path == manners.token => self.token(request),
            "POST" if path == manners.device => self.device(request),
            "POST" if path == manners.revoke => self.revoke(request),
            "DELETE" if path == manners.revoke => return self.revoke_at_github(request),
            "GET" if path == manners.user_info => return self.user_info(request),
            _ => return Answer::new(404, "text/plain", "not found"),
        };
        match found {
            Ok(reply) if manners.forms => Answer::new(200, "application/x-www-form-urlencoded; charset=utf-8", as_form(&reply)),
            Ok(reply) => Answer::json(200, &reply),
            Err(Refusal::Answer(answer)) => *answer,
            Err(Refusal::Code(code)) => self.refuse(code),
        }
    }

    fn refuse(&self, code: &str) -> Answer {
        let manners = &self.manners;
        let (status, code) = if code == "invalid_client" { manners.invalid_client } else { (manners.refusal, code) };
        let mut body = json!({ "error": code, "error_description": "AADSTS70000: canary said the host", "error_codes": [70_000] });
        if code == "slow_down" {
            body["interval"] = json!(10);
        }
        if manners.forms {
            return Answer::new(status, "application/x-www-form-urlencoded; charset=utf-8", as_form(&body));
        }
        Answer::json(status, &body)
    }

    fn metadata(&self, issuer: &str) -> Value {
        let (base, manners) = (self.base.get().unwrap(), &self.manners);
        let mut metadata = json!({
            "issuer": format!("{base}{issuer}"),
            "authorization_endpoint": format!("{base}{}", manners.authorize),
            "token_endpoint": format!("{base}{}", manners.token),
            "device_authorization_endpoint": format!("{base}{}", manners.device),
            "userinfo_endpoint": format!("{base}{}", manners.user_info),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "code_challenge_methods_supported": ["plain", "S256"],
            "scopes_supported": ["openid", "offline_access", "repo"],
            "authorization_response_iss_parameter_supported": manners.iss,
        });
        if !manners.revoke.is_empty() {
            metadata["revocation_endpoint"] = json!(format!("{base}{}", manners.revoke));
        }
        for (field, value) in &self.state.lock().unwrap().metadata {
            match value {
                Value::Null => metadata.as_object_mut().unwrap().remove(field),
                value => metadata.as_object_mut().unwrap().insert(field.clone(), value.clone()),
            };
        }
        metadata
    }

    fn token(&self, request: &Received) -> Result<Value, Refusal> {
        if let Some(fault) = self.state.lock().unwrap().fault.take() {
            return Err(Refusal::Answer(Box::new(fault)));
        }
        let fields = fields(request)?;
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        let grant_type = field("grant_type");
        let device = grant_type == "urn:ietf:params:oauth:grant-type:device_code";
        self.authenticate(request, &fields, device)?;
        let mut state = self.state.lock().unwrap();
        match grant_type {
            "authorization_code" => {
                let code = state.codes.remove(field("code")).ok_or(self.manners.bad_code)?;
                let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(field("code_verifier")));
                if code.challenge != challenge || code.redirect_uri != field("redirect_uri") {
                    return Err(self.manners.bad_code.into());
                }
                state.families += 1;
                let family = state.families;
                Ok(state.issue(&self.manners, family, code.scope))
            }
            "refresh_token" => {
                // Hosts dislike scopes here.
                assert!(!fields.contains_key("scope"));
                let token = field("refresh_token");
                if let Some(family) = state.spent.get(token).copied() {
                    state.replays += 1;
                    if self.manners.old == Old::DiesAndAvenges {
                        state.kill(family);
                    }
                }
                let family = state.refresh.get(token).copied().ok_or(self.manners.bad_refresh_token)?;
                if self.manners.old != Old::Lives {
                    state.kill(family);
                }
                state.spent.insert(token.to_owned(), family);
                state.refreshes += 1;
                let scope = state.scopes.get(&family).cloned().unwrap_or_default();
                Ok(state.issue(&self.manners, family, scope))
            }
            _ if device => {
                let user_code = state.devices.iter().find(|(_, device)| device.device_code == field("device_code"));
                let user_code = user_code.map(|(code, _)| code.clone()).ok_or("invalid_grant")?;
                match state.devices[&user_code].answer {
                    None => Err("authorization_pending".into()),
                    Some("slow_down") => {
                        state.devices.get_mut(&user_code).unwrap().answer = None;
                        Err("slow_down".into())
                    }
                    Some("yes") => {
                        let device = state.devices.remove(&user_code).unwrap();
                        state.families += 1;
                        let family = state.families;
                        Ok(state.issue(&self.manners, family, device.scope))
                    }
                    Some("deny") => Err(self.manners.denied.into()),
                    Some("expire") => Err(self.manners.expired.into()),
                    Some(other) => Err(other.into()),
                }
            }
            _ => Err("unsupported_grant_type".into()),
        }
    }

    fn device(&self, request: &Received) -> Result<Value, Refusal> {
        let fields = fields(request)?;
        self.authenticate(request, &fields, true)?;
        // RFC 8628 section 3.1.
        if fields.get("client_id").map(String::as_str) != Some(APP.0) {
            return Err("invalid_request".into());
        }
        let mut state = self.state.lock().unwrap();
        let user_code = format!("WDJB-{:04X}", state.devices.len());
        let device_code = format!("canary+device/{:x}", random());
        let scope = fields.get("scope").cloned().unwrap_or_default();
        state.devices.insert(user_code.clone(), Device { answer: None, device_code: device_code.clone(), scope });
        let base = self.base.get().unwrap();
        Ok(json!({
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": format!("{base}/device"),
            "verification_uri_complete": format!("{base}/device?user_code={user_code}"),
            "expires_in": 900,
            "interval": 5,
        }))
    }

    fn revoke(&self, request: &Received) -> Result<Value, Refusal> {
        let fields = fields(request)?;
        self.authenticate(request, &fields, false)?;
        let token = fields.get("token").cloned().ok_or("invalid_request")?;
        let mut state = self.state.lock().unwrap();
        if let Some(family) = state.refresh.get(&token).copied() {
            state.kill(family);
        }
        state.access.remove(&token);
        state.revoked.push(token);
        Ok(json!({}))
    }

    /// `DELETE /applications/{client_id}/token`: Basic as it is, JSON.
    fn revoke_at_github(&self, request: &Received) -> Answer {
        let pair = request.header("authorization").strip_prefix("Basic ").and_then(|text| STANDARD.decode(text).ok());
        if pair != Some(format!("{}:{}", APP.0, APP.1).into_bytes()) || request.header("content-type") != "application/json" {
            return Answer::json(401, &json!({ "message": "Requires authentication" }));
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let token = body["access_token"].as_str().unwrap().to_owned();
        let mut state = self.state.lock().unwrap();
        state.revoked.push(token.clone());
        match state.access.remove(&token) {
            Some(_) => Answer::new(204, "text/plain", ""),
            None => Answer::json(404, &json!({ "message": "Not Found" })),
        }
    }

    fn user_info(&self, request: &Received) -> Answer {
        let token = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        if !self.state.lock().unwrap().access.contains_key(token) {
            return Answer::json(401, &json!({ "message": "canary" }));
        }
        Answer::json(200, &json!({ self.manners.name: USER, "sub": "7" }))
    }

    fn authenticate(&self, request: &Received, fields: &HashMap<String, String>, device: bool) -> Result<(), Refusal> {
        let in_body = fields.get("client_secret").map(|secret| (fields.get("client_id").cloned().unwrap_or_default(), secret.clone()));
        let in_header = basic(request.header("authorization"));
        if device && self.manners.public_devices {
            // What need not be sent is not.
            assert!(in_body.is_none() && in_header.is_none());
            return if fields.get("client_id").is_some_and(|id| id == APP.0) { Ok(()) } else { Err("invalid_client".into()) };
        }
        let pair = match (in_body, in_header, self.manners.secret) {
            (Some(pair), None, Secret::Body | Secret::Either) | (None, Some(pair), Secret::Header | Secret::Either) => pair,
            (Some(_), Some(_), _) => return Err("invalid_request".into()),
            _ => return Err("invalid_client".into()),
        };
        if pair == (APP.0.to_owned(), APP.1.to_owned()) { Ok(()) } else { Err("invalid_client".into()) }
    }
}

impl State {
    fn issue(&mut self, manners: &Manners, family: u64, scope: String) -> Value {
        let token = |kind: &str| format!("canary_{kind}_{:016x}{:016x}{}", random(), random(), "~".repeat(manners.token_length));
        let (access, refresh) = (token("access"), token("refresh"));
        self.access.insert(access.clone(), family);
        let scopes: HashSet<&str> = scope.split(' ').collect();
        let mut reply = json!({ "access_token": access, "token_type": "bearer" });
        if manners.refresh_needs.is_none_or(|needed| scopes.contains(needed)) {
            self.refresh.insert(refresh.clone(), family);
            reply["refresh_token"] = json!(refresh);
            reply["refresh_token_expires_in"] = json!(15_897_600);
        }
        if let Some(seconds) = manners.expires_in {
            reply["expires_in"] = json!(seconds);
        }
        reply[manners.scope.0] = json!(scope.replace(' ', manners.scope.1));
        self.scopes.insert(family, scope);
        reply
    }

    fn kill(&mut self, family: u64) {
        self.access.retain(|_, other| *other != family);
        self.refresh.retain(|_, other| *other != family);
    }
}

enum Refusal {
    Answer(Box<Answer>),
    Code(&'static str),
}

impl From<&'static str> for Refusal {
    fn from(code: &'static str) -> Self {
        Self::Code(code)
    }
}

/// The fields of a form, none of them twice.
fn fields(request: &Received) -> Result<HashMap<String, String>, Refusal> {
    let form = request.form();
    let fields: HashMap<String, String> = form.iter().cloned().collect();
    let sound = fields.len() == form.len() && request.query.is_empty();
    if sound && request.header("content-type") == "application/x-www-form-urlencoded" { Ok(fields) } else { Err("invalid_request".into()) }
}

fn as_form(reply: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fields = reply.as_object().unwrap().iter();
    fields
        .fold(form_urlencoded::Serializer::new(String::new()), |mut form, (name, value)| {
            form.append_pair(name, &text(value));
            form
        })
        .finish()
}

fn basic(header: &str) -> Option<(String, String)> {
    let pair = String::from_utf8(STANDARD.decode(header.strip_prefix("Basic ")?).ok()?).ok()?;
    let (id, secret) = pair.split_once(':')?;
    let decode = |text: &str| form_urlencoded::parse(text.as_bytes()).next().map_or_else(String::new, |(text, _)| text.into_owned());
    Some((decode(id), decode(secret)))
}

/// A text as it stands in a form.
pub fn encoded(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

fn random() -> u64 {
    // Each state is seeded by the system once per thread and differs from the last one.
    RandomState::new().hash_one(Instant::now())
}
