//! A host where users sign in: device codes, codes with PKCE, refresh tokens that die when they are used, and pauses at will.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use url::Url;
use url::form_urlencoded;

use crate::support::http::{Answer, FakeServer, Received};

/// The user who signs in, where the host tells.
pub const USER: &str = "mona";

/// Where refreshes and codes stop until they are let go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Nowhere,
    /// Before the old pair dies.
    Before,
    /// After it died, and before the reply.
    After,
}

pub struct Host {
    server: FakeServer,
    shared: Arc<Shared>,
}

struct Shared {
    base: OnceLock<String>,
    hold: watch::Sender<Hold>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    access: HashSet<String>,
    challenges: HashMap<String, String>,
    confirmed: bool,
    device_code: String,
    counter: usize,
    expires_in: u64,
    /// How long a refresh takes before the old pair dies, and again before the reply.
    latency: Duration,
    live_refresh: HashSet<String>,
    /// Behind every token and code.
    mark: String,
    newest_refresh: String,
    refuses: bool,
    refreshes_asked: usize,
    replays: usize,
    replied: usize,
    rotations: usize,
    verifiers: Vec<String>,
    revoked: Vec<String>,
    spent: HashSet<String>,
    unavailable: bool,
    /// How often what was held is no longer to be done.
    forgotten: usize,
}

impl Host {
    pub async fn start() -> Self {
        let shared = Arc::new(Shared {
            base: OnceLock::new(),
            hold: watch::Sender::new(Hold::Nowhere),
            state: Mutex::new(State { expires_in: 7_200, ..State::default() }),
        });
        let handler = Arc::clone(&shared);
        let server = FakeServer::start(move |request| {
            let shared = Arc::clone(&handler);
            async move { shared.answer(&request).await }
        })
        .await;
        shared.base.set(server.url("")).unwrap();
        Self { server, shared }
    }

    pub fn issuer_url(&self) -> String {
        self.server.url("")
    }

    /// The user says yes to whatever device code.
    pub fn confirm(&self, confirmed: bool) {
        self.shared.state.lock().unwrap().confirmed = confirmed;
    }

    /// From now on no refresh token is good any more.
    pub fn refuse(&self) {
        self.shared.state.lock().unwrap().refuses = true;
    }

    /// Whether refreshes are answered with 503.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.shared.state.lock().unwrap().unavailable = unavailable;
    }

    pub fn hold(&self, hold: Hold) {
        self.shared.hold.send_replace(hold);
    }

    /// Lets held refreshes go without doing what they asked for, as when the request never arrived whole.
    pub fn forget_held(&self) {
        self.shared.state.lock().unwrap().forgotten += 1;
        self.hold(Hold::Nowhere);
    }

    pub fn refreshes_asked(&self) -> usize {
        self.shared.state.lock().unwrap().refreshes_asked
    }

    /// Puts this behind every token and code from now on, so that they can be found.
    pub fn set_mark(&self, mark: &str) {
        self.shared.state.lock().unwrap().mark = mark.to_owned();
    }

    /// The device code that was given last.
    pub fn device_code(&self) -> String {
        self.shared.state.lock().unwrap().device_code.clone()
    }

    /// Has each half of a refresh take this long.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.state.lock().unwrap().latency = latency;
    }

    /// The PKCE verifiers that came.
    pub fn verifiers(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().verifiers.clone()
    }

    /// How many pairs came in the place of another, which died.
    pub fn rotations(&self) -> usize {
        self.shared.state.lock().unwrap().rotations
    }

    /// How many of these were let go to whoever asked.
    pub fn replied(&self) -> usize {
        self.shared.state.lock().unwrap().replied
    }

    /// The same for another thread.
    pub fn probe(&self) -> impl Fn() -> usize + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.state.lock().unwrap().replied
    }

    /// The refresh token that was given last.
    pub fn newest_refresh(&self) -> String {
        self.shared.state.lock().unwrap().newest_refresh.clone()
    }

    /// How many refreshes came with a token that had been used before.
    pub fn replays(&self) -> usize {
        self.shared.state.lock().unwrap().replays
    }

    pub fn lives(&self, token: &str) -> bool {
        self.shared.state.lock().unwrap().access.contains(token)
    }

    /// How many pairs are alive.
    pub fn live_pairs(&self) -> usize {
        self.shared.state.lock().unwrap().live_refresh.len()
    }

    pub fn revoked(&self) -> usize {
        self.shared.state.lock().unwrap().revoked.len()
    }

    /// What a browser brings back: the redirect with its query.
    pub fn sign_in(&self, authorize_url: &str) -> Url {
        let url = Url::parse(authorize_url).unwrap();
        let fields: HashMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!(fields["code_challenge_method"], "S256");
        let code = {
            let mut state = self.shared.state.lock().unwrap();
            let code = format!("code-1{}", state.mark);
            state.challenges.insert(code.clone(), fields["code_challenge"].clone());
            code
        };
        let mut redirect = Url::parse(&fields["redirect_uri"]).unwrap();
        redirect.query_pairs_mut().append_pair("code", &code).append_pair("state", &fields["state"]);
        redirect
    }
}

impl Shared {
    async fn answer(&self, request: &Received) -> Answer {
        let fields: HashMap<String, String> = form_urlencoded::parse(&request.body).into_owned().collect();
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/.well-known/openid-configuration") => Answer::json(200, &self.metadata()),
            ("GET", "/me") => Answer::json(200, &json!({ "preferred_username": USER })),
            ("POST", "/device") => {
                let url = format!("{}/enter", self.base.get().unwrap());
                let code = format!("device-1{}", self.state.lock().unwrap().mark);
                self.state.lock().unwrap().device_code.clone_from(&code);
                let reply = json!({ "device_code": code, "user_code": "AB-CD", "verification_uri": url, "expires_in": 600, "interval": 1 });
                Answer::json(200, &reply)
            }
            ("POST", "/revoke") => {
                let mut state = self.state.lock().unwrap();
                let token = fields["token"].clone();
                state.access.remove(&token);
                state.live_refresh.remove(&token);
                state.revoked.push(token);
                Answer::json(200, &json!({}))
            }
            ("POST", "/token") => match fields["grant_type"].as_str() {
                "refresh_token" => self.refresh(&fields).await,
                "authorization_code" => {
                    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&fields["code_verifier"]));
                    self.state.lock().unwrap().verifiers.push(fields["code_verifier"].clone());
                    let _ = self.hold.subscribe().wait_for(|hold| *hold != Hold::Before).await;
                    let mut state = self.state.lock().unwrap();
                    match state.challenges.remove(&fields["code"]) {
                        Some(expected) if expected == challenge => Answer::json(200, &state.issue()),
                        _ => refusal("invalid_grant"),
                    }
                }
                _ => {
                    let mut state = self.state.lock().unwrap();
                    if state.confirmed { Answer::json(200, &state.issue()) } else { refusal("authorization_pending") }
                }
            },
            _ => Answer::new(404, "text/plain", "not found"),
        }
    }

    async fn refresh(&self, fields: &HashMap<String, String>) -> Answer {
        let (forgotten, latency) = {
            let mut state = self.state.lock().unwrap();
            state.refreshes_asked += 1;
            (state.forgotten, state.latency)
        };
        tokio::time::sleep(latency).await;
        let _ = self.hold.subscribe().wait_for(|hold| *hold != Hold::Before).await;
        let answer = {
            let mut state = self.state.lock().unwrap();
            let token = fields["refresh_token"].clone();
            if state.unavailable || state.forgotten != forgotten {
                return Answer::new(503, "text/plain", "");
            }
            if state.spent.contains(&token) {
                state.replays += 1;
            }
            if state.refuses || !state.live_refresh.remove(&token) {
                return refusal("invalid_grant");
            }
            state.access.clear();
            state.spent.insert(token);
            state.rotations += 1;
            Answer::json(200, &state.issue())
        };
        let _ = self.hold.subscribe().wait_for(|hold| *hold != Hold::After).await;
        tokio::time::sleep(latency).await;
        self.state.lock().unwrap().replied += 1;
        answer
    }

    fn metadata(&self) -> Value {
        let base = self.base.get().unwrap();
        json!({
            "issuer": base,
            "authorization_endpoint": format!("{base}/authorize"),
            "device_authorization_endpoint": format!("{base}/device"),
            "revocation_endpoint": format!("{base}/revoke"),
            "token_endpoint": format!("{base}/token"),
            "userinfo_endpoint": format!("{base}/me"),
            "code_challenge_methods_supported": ["S256"],
            "grant_types_supported": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
            "scopes_supported": ["openid", "offline_access"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        })
    }
}

impl State {
    fn issue(&mut self) -> Value {
        self.counter += 1;
        // What is found of the one is none of the other.
        let turned: String = self.mark.chars().rev().collect();
        let (access, refresh) = (format!("access_{}{}", self.counter, self.mark), format!("refresh_{}{}", self.counter, turned));
        self.newest_refresh.clone_from(&refresh);
        self.access.insert(access.clone());
        self.live_refresh.insert(refresh.clone());
        json!({
            "access_token": access, "refresh_token": refresh, "token_type": "Bearer", "expires_in": self.expires_in,
            "scope": "openid offline_access",
        })
    }
}

fn refusal(code: &str) -> Answer {
    Answer::json(400, &json!({ "error": code, "error_description": "canary" }))
}
