//! A control plane in the process: the part of `gitpod.v1.RunnerConfigurationService` that an agent asks for, `GetRunner`, and
//! `WatchEvents` where it is allowed.
//!
//! It keeps the rules of the vendor's service, since the vendor's own client is pointed at it too: Connect unary calls with JSON
//! bodies, field validation, opaque page tokens, default values left out, Connect error bodies.
#![allow(unreachable_pub, dead_code, reason = "each of those who include this file uses a part of it")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use tokio::sync::mpsc::UnboundedSender;

use super::http::{Answer, FakeServer, Received, Served, Streamed};

const CONFIGURATION_PATH: &str = "/api/gitpod.v1.RunnerConfigurationService/";
const RUNNERS_PATH: &str = "/api/gitpod.v1.RunnerService/";
const WATCH_PATH: &str = "/api/gitpod.v1.EventService/WatchEvents";
const RESOURCE_TYPE: &str = "RESOURCE_TYPE_RUNNER_SCM_INTEGRATION";
const DEFAULT_PAGE_SIZE: i64 = 25;
const MAX_PAGE_SIZE: i64 = 100;
const MAX_RUNNER_IDS: usize = 25;

/// A control plane that lives as long as this value.
pub struct FakeControlPlane {
    server: FakeServer,
    runner_id: String,
    state: Arc<Mutex<State>>,
}

struct State {
    token: String,
    integrations: Vec<Value>,
    faults: VecDeque<Answer>,
    list_calls: usize,
    get_calls: usize,
    runner_id: String,
    /// The registered public key, empty for none; or what is said instead.
    public_key: Result<Vec<u8>, Answer>,
    watch: Watch,
    watchers: Vec<UnboundedSender<Vec<u8>>>,
}

/// What becomes of `WatchEvents`.
enum Watch {
    /// As on a server that does not have it.
    Absent,
    Allowed,
    Refused(Answer),
}

impl FakeControlPlane {
    /// Starts one that accepts this token. The runner id is a UUID, as the service asks.
    pub async fn start(token: &str, runner_id: &str) -> Self {
        let state = State {
            token: token.to_owned(),
            integrations: Vec::new(),
            faults: VecDeque::new(),
            list_calls: 0,
            get_calls: 0,
            runner_id: runner_id.to_owned(),
            public_key: Err(connect_error("unimplemented", "not implemented")),
            watch: Watch::Absent,
            watchers: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let server = FakeServer::start(move |request| {
            let answer = shared.lock().unwrap().answer(&request);
            async move { answer }
        })
        .await;
        Self { server, runner_id: runner_id.to_owned(), state }
    }

    /// The base URL, as an operator would configure it.
    pub fn base_url(&self) -> String {
        self.server.url("/api")
    }

    /// Replaces the integrations, `SCMIntegration` messages in JSON. One without a `runnerId` gets this runner's, and
    /// default values are left out as the service leaves them out.
    pub fn set_integrations(&self, integrations: Vec<Value>) {
        let complete = |mut integration: Value| {
            if let Some(fields) = integration.as_object_mut() {
                fields.entry("runnerId").or_insert_with(|| json!(self.runner_id));
                leave_out_defaults(fields);
            }
            integration
        };
        self.state.lock().unwrap().integrations = integrations.into_iter().map(complete).collect();
    }

    /// Registers a public key for the runner; empty bytes stand for none. Before this, `GetRunner` is not implemented.
    pub fn set_public_key(&self, key: &[u8]) {
        self.state.lock().unwrap().public_key = Ok(key.to_owned());
    }

    /// Answers `GetRunner` with this.
    pub fn refuse_get_runner(&self, answer: Answer) {
        self.state.lock().unwrap().public_key = Err(answer);
    }

    /// How often `GetRunner` was asked for, refusals included.
    pub fn get_runner_calls(&self) -> usize {
        self.received().iter().filter(|request| request.path == format!("{RUNNERS_PATH}GetRunner")).count()
    }

    /// Accepts another token from now on, and no longer the one before.
    pub fn set_token(&self, token: &str) {
        self.state.lock().unwrap().token = token.to_owned();
    }

    /// Has `WatchEvents` from now on.
    pub fn allow_watch(&self) {
        self.state.lock().unwrap().watch = Watch::Allowed;
    }

    /// Answers `WatchEvents` with this. What is open stays open.
    pub fn refuse_watch(&self, answer: Answer) {
        self.state.lock().unwrap().watch = Watch::Refused(answer);
    }

    /// Tells whoever watches of an event, as `CREATE`, `UPDATE`, `DELETE` or `UPDATE_STATUS`.
    pub fn announce(&self, operation: &str, id: &str) {
        let event = json!({ "operation": format!("RESOURCE_OPERATION_{operation}"), "resourceType": RESOURCE_TYPE, "resourceId": id });
        self.send_watchers(&envelope(0, &event));
    }

    /// Sends bytes to whoever watches, as they are.
    pub fn send_watchers(&self, bytes: &[u8]) {
        self.state.lock().unwrap().watchers.retain(|watcher| watcher.send(bytes.to_vec()).is_ok());
    }

    /// Ends all open `WatchEvents`: with a Connect error's JSON, or in good order.
    pub fn end_watches(&self, error: Option<Value>) {
        self.send_watchers(&envelope(2, &error.map_or_else(|| json!({}), |error| json!({ "error": error }))));
        self.state.lock().unwrap().watchers.clear();
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        state.watchers.retain(|watcher| !watcher.is_closed());
        state.watchers.len()
    }

    /// How often `WatchEvents` was asked for, refusals included.
    pub fn watch_calls(&self) -> usize {
        self.received().iter().filter(|request| request.path == WATCH_PATH).count()
    }

    /// Gives this answer to the next `count` requests, whatever they ask, except for `WatchEvents`.
    pub fn fail_next(&self, count: usize, answer: Answer) {
        self.state.lock().unwrap().faults.extend(std::iter::repeat_n(answer, count));
    }

    /// Forgets the failures that are still to come.
    pub fn recover(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// How many lists were asked for, pages counted one by one, failures not.
    pub fn list_calls(&self) -> usize {
        self.state.lock().unwrap().list_calls
    }

    /// How many single integrations were asked for, failures not.
    pub fn get_calls(&self) -> usize {
        self.state.lock().unwrap().get_calls
    }

    /// Everything it was asked so far.
    pub fn received(&self) -> Vec<Received> {
        self.server.received()
    }
}

/// A Connect error with the status that belongs to its code.
pub fn connect_error(code: &str, message: &str) -> Answer {
    let status = match code {
        "canceled" => 499,
        "deadline_exceeded" => 504,
        "failed_precondition" | "invalid_argument" | "out_of_range" => 400,
        "unauthenticated" => 401,
        "permission_denied" => 403,
        "not_found" => 404,
        "aborted" | "already_exists" => 409,
        "resource_exhausted" => 429,
        "unimplemented" => 501,
        "unavailable" => 503,
        _ => 500,
    };
    Answer::json(status, &json!({ "code": code, "message": message }))
}

/// An envelope of Connect's streams.
pub fn envelope(flags: u8, message: &Value) -> Vec<u8> {
    let message = message.to_string().into_bytes();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flags][..], &length, &message].concat()
}

impl State {
    fn answer(&mut self, request: &Received) -> Served {
        if request.path == WATCH_PATH {
            return self.watch(request).unwrap_or_else(Served::Whole);
        }
        self.answer_whole(request).into()
    }

    fn watch(&mut self, request: &Received) -> Result<Served, Answer> {
        match &self.watch {
            Watch::Absent => return Err(Answer::new(404, "text/plain; charset=utf-8", "404 page not found\n")),
            Watch::Refused(answer) => return Err(answer.clone()),
            Watch::Allowed => {}
        }
        if request.header("content-type") != "application/connect+json" {
            return Err(Answer::new(415, "text/plain; charset=utf-8", "").header("accept-post", "application/connect+json"));
        }
        let (pieces, reply) = Streamed::new(200, "application/connect+json");
        // What a server refuses by itself ends the stream that it is asked for.
        let end = |code: &str, message: &str| envelope(2, &json!({ "error": { "code": code, "message": message } }));
        let message = request.body.split_first_chunk::<5>().filter(|(head, body)| **head == envelope_head(body.len()));
        let message: Value = message.and_then(|(_, body)| serde_json::from_slice(body).ok()).unwrap_or_default();
        let filter = either(&message, "resourceTypeFilters", "resource_type_filters");
        if request.header("authorization") != format!("Bearer {}", self.token) {
            let _ = pieces.send(end("unauthenticated", "authentication required"));
        } else if message["organization"] != json!(true) || either(&filter[0], "resourceType", "resource_type") != &json!(RESOURCE_TYPE) {
            let _ = pieces.send(end("invalid_argument", "a scope and a filter are required"));
        } else {
            self.watchers.push(pieces);
        }
        Ok(reply.into())
    }

    fn answer_whole(&mut self, request: &Received) -> Answer {
        if let Some(fault) = self.faults.pop_front() {
            return fault;
        }
        self.dispatch(request).unwrap_or_else(|refusal| refusal)
    }

    fn dispatch(&mut self, request: &Received) -> Result<Answer, Answer> {
        let runners = request.path.strip_prefix(RUNNERS_PATH);
        let Some(method) = runners.or_else(|| request.path.strip_prefix(CONFIGURATION_PATH)) else {
            return Err(Answer::new(404, "text/plain; charset=utf-8", "404 page not found\n"));
        };
        if request.method != "POST" {
            return Err(Answer::new(405, "text/plain; charset=utf-8", "").header("allow", "POST"));
        }
        if request.header("content-type").split(';').next() != Some("application/json") {
            return Err(Answer::new(415, "text/plain; charset=utf-8", "").header("accept-post", "application/json"));
        }
        if !["", "identity"].contains(&request.header("content-encoding")) {
            return Err(connect_error("unimplemented", "unknown compression: supported encodings are identity"));
        }
        if !["", "1"].contains(&request.header("connect-protocol-version")) {
            return Err(connect_error("invalid_argument", "connect-protocol-version must be \"1\""));
        }
        if request.header("authorization") != format!("Bearer {}", self.token) {
            return Err(connect_error("unauthenticated", "authentication required"));
        }
        let message: Value =
            serde_json::from_slice(&request.body).map_err(|_| connect_error("invalid_argument", "unmarshal message: invalid JSON"))?;
        match method {
            "GetRunner" if runners.is_some() => self.get_runner(&message),
            _ if runners.is_some() => Err(connect_error("unimplemented", "not implemented")),
            "ListSCMIntegrations" => self.list(&message),
            "GetSCMIntegration" => self.get(&message),
            _ => Err(connect_error("unimplemented", "not implemented")),
        }
    }

    fn list(&mut self, message: &Value) -> Result<Answer, Answer> {
        self.list_calls += 1;
        let invalid = |text: &str| connect_error("invalid_argument", text);
        let pagination = &message["pagination"];
        let page_size = either(pagination, "pageSize", "page_size");
        let page_size = match page_size {
            Value::Null => 0,
            Value::Number(number) => number.as_i64().ok_or_else(|| invalid("pagination.page_size: not an int32"))?,
            Value::String(text) => text.parse().map_err(|_| invalid("pagination.page_size: not an int32"))?,
            _ => return Err(invalid("pagination.page_size: not an int32")),
        };
        if !(0..=MAX_PAGE_SIZE).contains(&page_size) {
            return Err(invalid("pagination.page_size: value must be greater than or equal to 0 and less than or equal to 100"));
        }
        let page_size = if page_size == 0 { DEFAULT_PAGE_SIZE } else { page_size };
        let start = match pagination["token"].as_str().unwrap_or_default() {
            "" => 0,
            token => read_page_token(token).ok_or_else(|| invalid("pagination.token: invalid page token"))?,
        };
        let wanted = either(&message["filter"], "runnerIds", "runner_ids").as_array().cloned().unwrap_or_default();
        if wanted.len() > MAX_RUNNER_IDS || wanted.iter().any(|id| !id.as_str().is_some_and(is_uuid)) {
            return Err(invalid("filter.runner_ids: up to 25 values that must be valid UUIDs"));
        }
        let belongs = |integration: &&Value| wanted.is_empty() || wanted.contains(&integration["runnerId"]);
        let all: Vec<&Value> = self.integrations.iter().filter(belongs).collect();
        let end = all.len().min(start + usize::try_from(page_size).unwrap());
        let mut reply = Map::new();
        if end < all.len() {
            reply.insert("pagination".into(), json!({ "nextToken": page_token(end) }));
        } else {
            reply.insert("pagination".into(), json!({}));
        }
        if let Some(page) = all.get(start..end).filter(|page| !page.is_empty()) {
            reply.insert("integrations".into(), json!(page));
        }
        Ok(Answer::json(200, &Value::Object(reply)))
    }

    fn get(&mut self, message: &Value) -> Result<Answer, Answer> {
        self.get_calls += 1;
        let id = message["id"].as_str().unwrap_or_default();
        if !is_uuid(id) {
            return Err(connect_error("invalid_argument", "id: value must be a valid UUID"));
        }
        let found = self.integrations.iter().find(|integration| integration["id"] == id);
        let found = found.ok_or_else(|| connect_error("not_found", "SCM integration not found"))?;
        Ok(Answer::json(200, &json!({ "integration": found })))
    }

    fn get_runner(&self, message: &Value) -> Result<Answer, Answer> {
        let key = self.public_key.as_ref().map_err(Clone::clone)?;
        let id = either(message, "runnerId", "runner_id").as_str().unwrap_or_default();
        if !is_uuid(id) {
            return Err(connect_error("invalid_argument", "runner_id: value must be a valid UUID"));
        }
        if id != self.runner_id {
            return Err(connect_error("not_found", "runner not found"));
        }
        let mut status = json!({ "phase": "RUNNER_PHASE_ACTIVE", "publicKey": STANDARD.encode(key) });
        leave_out_defaults(status.as_object_mut().unwrap());
        Ok(Answer::json(200, &json!({ "runner": { "runnerId": id, "name": "runner", "status": status } })))
    }
}

/// The flags and the length of an envelope with a message.
fn envelope_head(length: usize) -> [u8; 5] {
    let [a, b, c, d] = u32::try_from(length).unwrap().to_be_bytes();
    [0, a, b, c, d]
}

/// A field under its lowerCamelCase or its original name.
fn either<'v>(message: &'v Value, camel: &str, snake: &str) -> &'v Value {
    message.get(camel).unwrap_or(&message[snake])
}

/// Leaves out what proto3 JSON leaves out: empty text and `false`.
fn leave_out_defaults(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| *value != json!("") && *value != json!(false));
    if let Some(oauth) = fields.get_mut("oauth").and_then(Value::as_object_mut) {
        leave_out_defaults(oauth);
    }
}

fn page_token(start: usize) -> String {
    URL_SAFE_NO_PAD.encode(format!("page-from:{start}"))
}

fn read_page_token(token: &str) -> Option<usize> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    text.strip_prefix("page-from:")?.parse().ok()
}

fn is_uuid(text: &str) -> bool {
    let dash = |index| matches!(index, 8 | 13 | 18 | 23);
    text.len() == 36 && text.bytes().enumerate().all(|(index, byte)| if dash(index) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}
