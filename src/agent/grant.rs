//! The verbs of `scm-agent grant`: lines `name=value` in, one JSON document out. They are for root and the agent's own user.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::sign_in::field;
use super::unit_grants::{self, Wanted};
use super::{Agent, Client};
use crate::denial::{Denial, Event};
use crate::status::{UnitGrantAnswer, UnitGrantList, UnitGrantRevoked};

/// The verbs that are answered here.
pub(super) const VERBS: [&str; 3] = ["grant", "grants", "grant-revoke"];

/// Why a verb is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the request does not say everything that it has to")]
    Incomplete,
    #[error("only root and the agent's own user may say what units are given")]
    NotPrivileged,
}

/// The document that answers a verb.
///
/// # Errors
/// [`Refused`], which is in the audit log then.
pub(super) async fn answer(verb: &str, body: &[u8], client: &Client, agent: &Arc<Agent>) -> Result<Vec<u8>, Refused> {
    let refused = |event, message, refused: Refused| {
        let operation = Some(verb);
        agent.denials.note(&Denial { operation, reason: Some(&refused), ..client.denial(event, message) });
        refused
    };
    if !client.is_privileged {
        let message = "refused: grants are for root and the agent's own user";
        return Err(refused(Event::Privilege, message, Refused::NotPrivileged));
    }
    let incomplete = || refused(Event::Malformed, "refused: malformed request", Refused::Incomplete);
    let grants = Arc::clone(&agent.units.grants);
    let by = client.peer.uid;
    let document = match verb {
        "grants" => document(&UnitGrantList { grants: in_the_background(move || grants.list()).await.unwrap_or_default() }),
        "grant" => {
            let seconds = field(body, "ttl_seconds").and_then(|text| text.parse().ok());
            let (Some(unit), Some(host), Some(seconds)) = (field(body, "unit"), field(body, "host"), seconds) else {
                return Err(incomplete());
            };
            let allow = field(body, "allow").unwrap_or("service").split(',').map(str::to_owned).collect();
            let wanted = Wanted { allow, host: host.to_owned(), ttl: Duration::from_secs(seconds), unit: unit.to_owned() };
            let mut notes = Vec::new();
            if unit_grants::place(host).is_some_and(|place| !agent.broker.has_within(&place)) {
                notes.push(format!(
                    "no integration lies within {host} at present, so there is nothing that this would give: scm-agent status"
                ));
            }
            match in_the_background(move || grants.grant(&wanted, by)).await {
                Some(Ok((grant, problem))) => {
                    notes.extend(problem.map(|problem| format!("it ends with the next restart of the agent: {problem}")));
                    document(&UnitGrantAnswer { grant: Some(grant), error: None, notes })
                }
                Some(Err(error)) => document(&UnitGrantAnswer { grant: None, error: Some(error.to_string()), notes: Vec::new() }),
                None => Vec::new(),
            }
        }
        _ => {
            let Some(id) = field(body, "id").map(str::to_owned) else { return Err(incomplete()) };
            let (revoked, problem) = in_the_background(move || grants.revoke(&id, by)).await.unwrap_or_default();
            document(&UnitGrantRevoked { revoked, problem })
        }
    };
    Ok(document)
}

/// Does what waits for the disk.
async fn in_the_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn document(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_default()
}
