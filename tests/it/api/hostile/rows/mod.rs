//! The table of hostile replies: what comes, and what must become of it.
//!
//! Most have the canary in them, which no error and no reason may repeat. Where an expected list is not empty, the reply has a good
//! neighbour beside what is wrong with it.

mod http;
mod json;
mod sizes;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{RUNNER, id};
use crate::support::hostile::Play;

pub use sizes::{costly_lists, legal_sizes};

/// In hostile replies, and nowhere else.
pub const CANARY: &str = "Canary-5b1e0d97";

/// What must become of a reply.
#[derive(Clone)]
pub enum Expected {
    /// An error whose text begins so, with the host's name as `HOST`.
    Error(&'static str),
    /// A list: how many integrations are usable, and the reasons of those that are not.
    List(usize, Vec<&'static str>),
}

/// One way to be hostile.
#[derive(Clone)]
pub struct Row {
    pub name: String,
    pub script: Arc<dyn Fn(usize) -> Play + Send + Sync>,
    pub expected: Expected,
    /// Whether only the client's time limit ends it.
    pub slow: bool,
}

impl Row {
    fn new(name: impl Into<String>, play: Play, expected: Expected) -> Self {
        Self::paged(name, move |_| play.clone(), expected)
    }

    fn paged(name: impl Into<String>, script: impl Fn(usize) -> Play + Send + Sync + 'static, expected: Expected) -> Self {
        Self { name: name.into(), script: Arc::new(script), expected, slow: false }
    }

    fn slow(name: &str, play: Play) -> Self {
        Self { slow: true, ..Self::new(name, play, Expected::Error("HOST did not answer in time")) }
    }
}

const BROKEN: Expected = Expected::Error("the connection to HOST broke before the reply was complete");
const ENCODED: Expected = Expected::Error("HOST answered in an encoding that was not asked for (HTTP 200): a proxy?");
const NO_JSON: Expected = Expected::Error("cannot read the reply of HOST: not a JSON object (line 1, column ");
const NO_TEXT: Expected = Expected::Error("cannot read the reply of HOST: not UTF-8 text");
const TOO_LONG: Expected = Expected::Error("the reply of HOST is longer than ");
const TOO_MUCH: Expected = Expected::Error("the list of integrations from HOST is longer than ");
const TOO_MANY: Expected = Expected::Error("cannot read the reply of HOST: more than 5000 integrations");

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

/// Every row there is.
pub fn all() -> Vec<Row> {
    [http::all(), json::all(), sizes::all()].concat()
}

/// A page with a good integration, then these.
fn page(entries: &str) -> String {
    format!(r#"{{"{CANARY}":"{CANARY}","integrations":[{},{entries}]}}"#, good())
}

fn good() -> Value {
    json!({ "id": id(1), "scmId": "github", "host": "good.example", "runnerId": RUNNER, "pat": true })
}

/// A whole good reply of one page.
pub fn good_list() -> Play {
    Play::body(json!({ "integrations": [good()], "pagination": {} }).to_string())
}

/// A head and a body as they are.
fn raw(head: &str, body: impl AsRef<[u8]>) -> Play {
    Play::Bytes([format!("{OK}{head}\r\n").as_bytes(), body.as_ref()].concat())
}

/// A Connect error with this body.
fn error(body: &str) -> Play {
    Play::reply("HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\n", body)
}
