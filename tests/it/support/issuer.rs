//! An OAuth issuer in the process: metadata at both well-known places, client_credentials, revocation, and every way to misbehave.
#![allow(dead_code, unreachable_pub, reason = "each user of the fakes takes what it needs")]

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::http::{Answer, FakeServer, Received};

/// How the token endpoint answers a request that is in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// RFC 6749 section 5.1, plainly.
    Plain,
    /// As Bitbucket Cloud: a token of 2,500 characters, and `scopes` for `scope`.
    Bitbucket,
    /// As Entra for an expired secret: 401, a description that echoes the request, error numbers.
    EntraExpiredSecret,
    /// As GitHub without `Accept: application/json`: a form.
    GitHubForm,
    /// As GitHub for a wrong secret: 200 with an error.
    GitHubRefusal,
    /// As GitLab for a wrong secret: 401 with a challenge.
    GitLabRefusal,
    /// A page of a proxy, with 200.
    Html,
    /// 429 with this many seconds in `Retry-After`.
    TooManyRequests(u64),
    /// 503 without a body.
    Unavailable,
    /// Exactly this.
    Fixed(u16, &'static str, Vec<u8>),
}

/// An issuer that lives as long as this value.
pub struct FakeIssuer {
    server: FakeServer,
    path: String,
    shared: Arc<Shared>,
}

/// The issued tokens, for a resource server that wants to know whether one is live.
#[derive(Clone)]
pub struct IssuedTokens(Arc<Shared>);

struct Shared {
    apps: HashMap<String, String>,
    base: OnceLock<String>,
    delay: Mutex<Duration>,
    expires_in: AtomicU64,
    held: watch::Sender<bool>,
    issued: AtomicUsize,
    live: Mutex<HashMap<String, Instant>>,
    manner: Mutex<Manner>,
    metadata_changes: Mutex<Vec<(String, Value)>>,
    path: String,
    requests: AtomicUsize,
    revocation_faults: Mutex<VecDeque<Answer>>,
    revoked: Mutex<Vec<String>>,
}

impl FakeIssuer {
    /// Serves the apps, each a client id and its secret, as an issuer without a path.
    pub async fn start(apps: &[(&str, &str)]) -> Self {
        Self::start_at("", apps).await
    }

    /// Serves the apps as an issuer with a path, such as `/tenant/v2.0`.
    pub async fn start_at(path: &str, apps: &[(&str, &str)]) -> Self {
        let shared = Arc::new(Shared {
            apps: apps.iter().map(|(id, secret)| ((*id).to_owned(), (*secret).to_owned())).collect(),
            base: OnceLock::new(),
            delay: Mutex::default(),
            expires_in: AtomicU64::new(3600),
            held: watch::Sender::new(false),
            issued: AtomicUsize::new(0),
            live: Mutex::default(),
            manner: Mutex::new(Manner::Plain),
            metadata_changes: Mutex::default(),
            path: path.to_owned(),
            requests: AtomicUsize::new(0),
            revocation_faults: Mutex::default(),
            revoked: Mutex::default(),
        });
        let handler = Arc::clone(&shared);
        let server = FakeServer::start(move |request| {
            let shared = Arc::clone(&handler);
            async move { shared.answer(&request).await }
        })
        .await;
        shared.base.set(server.url("")).unwrap();
        Self { server, path: path.to_owned(), shared }
    }

    /// The issuer identifier.
    pub fn issuer_url(&self) -> String {
        self.server.url(&self.path)
    }

    /// The token endpoint.
    pub fn token_url(&self) -> String {
        self.server.url("/token")
    }

    /// Everything it was asked so far, metadata included.
    pub fn received(&self) -> Vec<Received> {
        self.server.received()
    }

    /// How many requests the token endpoint got.
    pub fn token_requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many tokens were issued.
    pub fn issued(&self) -> usize {
        self.shared.issued.load(Ordering::SeqCst)
    }

    /// Changes how the token endpoint answers.
    pub fn set_manner(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// Changes the lifetime of the tokens to come, in seconds; 3600 at first.
    pub fn set_expires_in(&self, seconds: u64) {
        self.shared.expires_in.store(seconds, Ordering::SeqCst);
    }

    /// Makes the token endpoint take its time.
    pub fn set_delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    /// Makes the token endpoint hold its answers back, or give them.
    pub fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// Sets a field of the metadata; `Value::Null` leaves it out.
    pub fn set_metadata(&self, field: &str, value: Value) {
        self.shared.metadata_changes.lock().unwrap().push((field.to_owned(), value));
    }

    /// Whether the token was issued here and is neither expired nor revoked.
    pub fn introspect(&self, token: &str) -> bool {
        self.tokens().is_live(token)
    }

    /// The revocation endpoint.
    pub fn revocation_url(&self) -> String {
        self.server.url("/revoke")
    }

    /// The tokens that a client had revoked, in order, known or not.
    pub fn revoked(&self) -> Vec<String> {
        self.shared.revoked.lock().unwrap().clone()
    }

    /// How many requests the revocation endpoint got.
    pub fn revocation_requests(&self) -> usize {
        self.received().iter().filter(|request| request.path == "/revoke").count()
    }

    /// Gives this answer to the next `count` requests for a revocation.
    pub fn fail_revocations(&self, count: usize, answer: &Answer) {
        self.shared.revocation_faults.lock().unwrap().extend(std::iter::repeat_n(answer.clone(), count));
    }

    /// Makes every token dead that was issued so far.
    pub fn revoke_all(&self) {
        self.shared.live.lock().unwrap().clear();
    }

    /// A handle to the issued tokens.
    pub fn tokens(&self) -> IssuedTokens {
        IssuedTokens(Arc::clone(&self.shared))
    }
}

impl IssuedTokens {
    /// Whether the token was issued and is neither expired nor revoked.
    pub fn is_live(&self, token: &str) -> bool {
        self.0.live.lock().unwrap().get(token).is_some_and(|expires| Instant::now() < *expires)
    }
}

impl Shared {
    async fn answer(&self, request: &Received) -> Answer {
        let well_known =
            [format!("{}/.well-known/openid-configuration", self.path), format!("/.well-known/oauth-authorization-server{}", self.path)];
        if request.method == "GET" && well_known.contains(&request.path) {
            return Answer::json(200, &self.metadata());
        }
        if (request.method.as_str(), request.path.as_str()) == ("POST", "/revoke") {
            let fault = self.revocation_faults.lock().unwrap().pop_front();
            return fault.unwrap_or_else(|| self.revoke(request));
        }
        if (request.method.as_str(), request.path.as_str()) != ("POST", "/token") {
            return Answer::new(404, "text/plain", "not found");
        }
        self.requests.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        let manner = self.manner.lock().unwrap().clone();
        misbehave(&manner).unwrap_or_else(|| self.token(request, &manner))
    }

    fn metadata(&self) -> Value {
        let base = self.base.get().unwrap();
        let mut metadata = json!({
            "issuer": format!("{base}{}", self.path),
            "token_endpoint": format!("{base}/token"),
            "revocation_endpoint": format!("{base}/revoke"),
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "grant_types_supported": ["client_credentials"],
            "response_types_supported": [],
        });
        for (field, value) in self.metadata_changes.lock().unwrap().iter() {
            match value {
                Value::Null => metadata.as_object_mut().unwrap().remove(field),
                value => metadata.as_object_mut().unwrap().insert(field.clone(), value.clone()),
            };
        }
        metadata
    }

    fn token(&self, request: &Received, manner: &Manner) -> Answer {
        if let Err(error) = self.check_grant(request) {
            return refuse(error);
        }
        let number = self.issued.fetch_add(1, Ordering::SeqCst);
        let filler = if *manner == Manner::Bitbucket { "~".repeat(2500) } else { String::new() };
        let token = format!("tok_{number}_{:016x}{:016x}{filler}", random(), random());
        let seconds = self.expires_in.load(Ordering::SeqCst);
        self.live.lock().unwrap().insert(token.clone(), Instant::now() + Duration::from_secs(seconds));
        let scope =
            request.form().into_iter().find(|(name, _)| name == "scope").map_or_else(|| "repository".to_owned(), |(_, scope)| scope);
        let answer = match manner {
            Manner::Bitbucket => {
                Answer::json(200, &json!({ "access_token": token, "token_type": "bearer", "expires_in": seconds, "scopes": scope }))
            }
            Manner::GitHubForm => Answer::new(
                200,
                "application/x-www-form-urlencoded; charset=utf-8",
                format!("access_token={token}&scope=repo%2Cgist&token_type=bearer"),
            ),
            _ => Answer::json(200, &json!({ "access_token": token, "token_type": "Bearer", "expires_in": seconds, "scope": scope })),
        };
        answer.header("cache-control", "no-store")
    }

    /// RFC 7009 section 2.1, strictly; a token that is not known is revoked as well (section 2.2).
    fn revoke(&self, request: &Received) -> Answer {
        if let Err(error) = self.authenticate(request) {
            return refuse(error);
        }
        let (Some(token), Some("access_token")) = (field(request, "token"), field(request, "token_type_hint").as_deref()) else {
            return refuse("invalid_request");
        };
        self.live.lock().unwrap().remove(&token);
        self.revoked.lock().unwrap().push(token);
        Answer::new(200, "text/plain", "")
    }

    /// RFC 6749 section 4.4.2.
    fn check_grant(&self, request: &Received) -> Result<(), &'static str> {
        self.authenticate(request)?;
        match field(request, "grant_type").as_deref() {
            Some("client_credentials") => Ok(()),
            Some(_) => Err("unsupported_grant_type"),
            None => Err("invalid_request"),
        }
    }

    /// Checks a request as RFC 6749 sections 2.3.1 and 3.2 want it, strictly.
    fn authenticate(&self, request: &Received) -> Result<(), &'static str> {
        let form = request.form();
        let mut names: Vec<&str> = form.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let repeated = names.windows(2).any(|pair| pair[0] == pair[1]);
        if repeated || !request.query.is_empty() || request.header("content-type") != "application/x-www-form-urlencoded" {
            return Err("invalid_request");
        }
        let in_body = field(request, "client_id").zip(field(request, "client_secret"));
        let in_header = basic(request.header("authorization"));
        let (id, secret) = match (in_body, in_header) {
            (Some(_), Some(_)) => return Err("invalid_request"),
            (Some(pair), None) | (None, Some(pair)) => pair,
            (None, None) => return Err("invalid_client"),
        };
        if self.apps.get(&id) != Some(&secret) {
            return Err("invalid_client");
        }
        Ok(())
    }
}

/// A field of a form body.
fn field(request: &Received, name: &str) -> Option<String> {
    request.form().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// An error as RFC 6749 section 5.2 has it.
fn refuse(error: &str) -> Answer {
    let status = if error == "invalid_client" { 401 } else { 400 };
    Answer::json(status, &json!({ "error": error, "error_description": "said the issuer" }))
}

/// The id and secret of a Basic header, form-decoded.
fn basic(header: &str) -> Option<(String, String)> {
    let pair = String::from_utf8(STANDARD.decode(header.strip_prefix("Basic ")?).ok()?).ok()?;
    let (id, secret) = pair.split_once(':')?;
    let decode = |text: &str| url::form_urlencoded::parse(text.as_bytes()).next().map_or_else(String::new, |(text, _)| text.into_owned());
    Some((decode(id), decode(secret)))
}

/// The answer of a manner that never issues a token.
fn misbehave(manner: &Manner) -> Option<Answer> {
    match manner {
        Manner::Bitbucket | Manner::GitHubForm | Manner::Plain => None,
        Manner::EntraExpiredSecret => Some(Answer::json(
            401,
            &json!({
                "error": "invalid_client",
                "error_description": "AADSTS7000222: the provided client secret keys for app 'canary' are expired",
                "error_codes": [7_000_222],
                "trace_id": "00000000-0000-0000-0000-000000000000",
            }),
        )),
        Manner::Fixed(status, content_type, body) => Some(Answer::new(*status, content_type, body.clone())),
        Manner::GitHubRefusal => Some(Answer::json(
            200,
            &json!({ "error": "incorrect_client_credentials", "error_description": "canary", "error_uri": "https://docs.github.com" }),
        )),
        Manner::GitLabRefusal => Some(
            Answer::json(401, &json!({ "error": "invalid_client", "error_description": "canary" }))
                .header("www-authenticate", "Bearer realm=\"Doorkeeper\", error=\"invalid_client\""),
        ),
        Manner::Html => Some(Answer::new(200, "text/html", "<html><title>Sign in to canary</title></html>")),
        Manner::TooManyRequests(seconds) => {
            Some(Answer::json(429, &json!({ "error": "slow_down" })).header("retry-after", &seconds.to_string()))
        }
        Manner::Unavailable => Some(Answer::new(503, "text/plain", "")),
    }
}

fn random() -> u64 {
    // Each state is seeded by the system once per thread and differs from the last one.
    RandomState::new().hash_one(Instant::now())
}
