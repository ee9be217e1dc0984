//! The verbs of `login`, `logout` and `accounts`: lines `name=value` in, one JSON document out (see [`crate::login`]).

use std::time::Duration;

use serde::Serialize;

use super::{Agent, HOSTS_SHARE_PERCENT};
use crate::broker::{Caller, LoginMode};
use crate::denial::{Denial, Event};
use crate::login::Refused;

/// The verbs that are answered here.
pub(super) const VERBS: [&str; 6] = ["login", "login-wait", "login-finish", "login-cancel", "logout", "accounts"];

/// The document that answers one of [`VERBS`]. What does not say all that it has to is refused, with a
/// line in the log.
pub(super) async fn answer(verb: &str, body: &[u8], caller: &Caller, agent: &Agent) -> Vec<u8> {
    let within: Duration = agent.config.request_timeout * HOSTS_SHARE_PERCENT / 100;
    let broker = &agent.broker;
    let field = |name| field(body, name);
    let incomplete = || {
        let error = "the request does not say everything that it has to".to_owned();
        let denial = caller.denial(Event::Malformed, "refused: malformed request");
        caller.denials.note(&Denial { operation: Some(verb), reason: Some(&error), ..denial });
        document(&Refused { error, next: None })
    };
    match verb {
        "login" => {
            let mode = match (field("mode"), field("redirect_uri")) {
                (Some("browser"), Some(redirect_uri)) => LoginMode::Browser { redirect_uri },
                (Some("device"), _) => LoginMode::Device,
                _ => return incomplete(),
            };
            let Some(url) = field("url") else { return incomplete() };
            document(&broker.begin_login(caller, url, mode, field("account"), within).await)
        }
        "login-wait" => match field("session") {
            Some(session) => document(&broker.look_at_login(caller, session, within).await),
            None => incomplete(),
        },
        "login-finish" => match (field("session"), field("query")) {
            (Some(session), Some(query)) => document(&broker.finish_login(caller, session, query, within).await),
            _ => incomplete(),
        },
        "login-cancel" => match field("session") {
            Some(session) => document(&broker.cancel_login(caller, session)),
            None => incomplete(),
        },
        "logout" => match field("url") {
            Some(url) => document(&broker.log_out(caller, url, field("account"), within).await),
            None => incomplete(),
        },
        _ => document(&broker.accounts(caller)),
    }
}

/// A field of a request's body: the first line `name=value`.
pub(super) fn field<'b>(body: &'b [u8], name: &str) -> Option<&'b str> {
    let text = std::str::from_utf8(body).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

fn document(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_default()
}
