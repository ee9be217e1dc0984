//! `gitpod.v1.SCMIntegration` and the replies around it, from JSON to the types of the next stage.
//!
//! What an integration says of itself gets printed, matched and looked up later, so it is bounded and its characters are
//! checked here. A bad one is set aside with the field's name; its neighbours are read all the same.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::proto_json::{self, ListError, ObjectError};
use crate::integration::source::{IntegrationList, RejectedIntegration};
use crate::integration::{EncryptedClientSecret, OAuthApp, ScmId, ScmIntegration};

const MAX_CIPHERTEXT_BYTES: usize = 16 * 1024;
const MAX_CLIENT_ID: usize = 512;
const MAX_HOST: usize = 512;
const MAX_ID: usize = 128;
const MAX_ISSUER_URL: usize = 2048;
const MAX_PAGE_TOKEN: usize = 4096;
/// Several times what the largest key takes, in any form.
const MAX_PUBLIC_KEY_BYTES: usize = 8 * 1024;
const MAX_VIRTUAL_DIRECTORY: usize = 256;

/// Why a reply cannot be read as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A field is of the wrong type, too long, missing where it is needed, or there twice.
    #[error("the field {field} is not usable")]
    Field {
        /// Its name.
        field: &'static str,
    },
    /// Not JSON, or not an object.
    #[error("not a JSON object (line {line}, column {column})")]
    Malformed {
        /// Line, counted from 1.
        line: usize,
        /// Column in bytes, counted from 1.
        column: usize,
    },
    /// Bytes that are no text.
    #[error("not UTF-8 text")]
    NotText,
    /// More integrations than a runner may have.
    #[error("more than {limit} integrations")]
    TooManyIntegrations {
        /// The limit.
        limit: usize,
    },
}

impl From<ObjectError> for MessageError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Malformed { line, column } => Self::Malformed { line, column },
            ObjectError::Twice(field) => Self::Field { field },
        }
    }
}

/// Collects the pages of one list.
pub(super) struct ListReader<'r> {
    runner_id: Option<&'r str>,
    limit: usize,
    position: usize,
    ids: HashSet<String>,
    list: IntegrationList,
}

impl<'r> ListReader<'r> {
    /// Starts a list of at most `limit` integrations. With a runner id, those of another runner are set aside.
    pub(super) fn new(runner_id: Option<&'r str>, limit: usize) -> Self {
        Self { runner_id, limit, position: 0, ids: HashSet::new(), list: IntegrationList::default() }
    }

    /// Reads one `ListSCMIntegrationsResponse` and returns the next page's token, empty at the end of the list.
    pub(super) fn page(&mut self, body: &[u8]) -> Result<String, MessageError> {
        let text = std::str::from_utf8(body).map_err(|_| MessageError::NotText)?;
        let [pagination, integrations] = proto_json::object(text, [("pagination", "pagination"), ("integrations", "integrations")])?;
        let next_token = pagination.map(next_token).transpose()?.unwrap_or_default();
        if let Some(integrations) = integrations {
            let room = self.limit.saturating_sub(self.position);
            let elements = proto_json::list(integrations, room).map_err(|error| match error {
                ListError::NotAList => MessageError::Field { field: "integrations" },
                ListError::TooLong => MessageError::TooManyIntegrations { limit: self.limit },
            })?;
            for element in elements {
                self.element(element);
                self.position += 1;
            }
        }
        Ok(next_token)
    }

    /// The list as read so far.
    pub(super) fn finish(self) -> IntegrationList {
        self.list
    }

    fn element(&mut self, element: &RawValue) {
        let read = read_integration(element, self.runner_id).and_then(|integration| {
            // A UUID in upper case is the same UUID.
            if self.ids.insert(integration.id.to_ascii_lowercase()) {
                Ok(integration)
            } else {
                Err((Some(integration.id), "id is that of an earlier integration in the list".to_owned()))
            }
        });
        match read {
            Ok(integration) => self.list.integrations.push(Arc::new(integration)),
            Err((id, reason)) => self.list.rejected.push(RejectedIntegration { id, position: self.position, reason }),
        }
    }
}

/// Reads a `GetSCMIntegrationResponse`: the integration, or the reason why it cannot be used.
pub(super) fn read_single(body: &[u8], runner_id: &str) -> Result<Result<ScmIntegration, String>, MessageError> {
    let text = std::str::from_utf8(body).map_err(|_| MessageError::NotText)?;
    let [integration] = proto_json::object(text, [("integration", "integration")])?;
    let integration = integration.ok_or(MessageError::Field { field: "integration" })?;
    Ok(read_integration(integration, Some(runner_id)).map_err(|(_, reason)| reason))
}

/// Reads a `GetRunnerResponse`: the public key in `runner.status`, `None` when it is absent or empty.
pub(super) fn read_public_key(body: &[u8], runner_id: &str) -> Result<Option<Vec<u8>>, MessageError> {
    const RUNNER: MessageError = MessageError::Field { field: "runner" };
    const RUNNER_ID: MessageError = MessageError::Field { field: "runner.runnerId" };
    const STATUS: MessageError = MessageError::Field { field: "runner.status" };
    const PUBLIC_KEY: MessageError = MessageError::Field { field: "runner.status.publicKey" };
    let body = std::str::from_utf8(body).map_err(|_| MessageError::NotText)?;
    let [runner] = proto_json::object(body, [("runner", "runner")])?;
    let runner = runner.ok_or(RUNNER)?;
    let [owner, status] =
        proto_json::object(runner.get(), [("runnerId", "runner_id"), ("status", "status")]).map_err(|error| match error {
            ObjectError::Malformed { .. } => RUNNER,
            ObjectError::Twice("runnerId") => RUNNER_ID,
            ObjectError::Twice(_) => STATUS,
        })?;
    let owner = text("runner.runnerId", owner, MAX_ID, is_id_character).map_err(|_| RUNNER_ID)?;
    // Another runner's key says nothing about ours.
    if !owner.is_empty() && !owner.eq_ignore_ascii_case(runner_id) {
        return Err(RUNNER_ID);
    }
    let Some(status) = status else { return Ok(None) };
    let [key] = proto_json::object(status.get(), [("publicKey", "public_key")]).map_err(|error| match error {
        ObjectError::Malformed { .. } => STATUS,
        ObjectError::Twice(_) => PUBLIC_KEY,
    })?;
    let Some(key) = key else { return Ok(None) };
    if key.get().len() > MAX_PUBLIC_KEY_BYTES * 2 {
        return Err(PUBLIC_KEY);
    }
    match proto_json::string(key).and_then(|key| proto_json::base64(&key)) {
        Some(key) if key.len() <= MAX_PUBLIC_KEY_BYTES => Ok(Some(key).filter(|key| !key.is_empty())),
        _ => Err(PUBLIC_KEY),
    }
}

fn next_token(pagination: &RawValue) -> Result<String, MessageError> {
    let [next_token] = proto_json::object(pagination.get(), [("nextToken", "next_token")]).map_err(|error| match error {
        ObjectError::Malformed { .. } => MessageError::Field { field: "pagination" },
        ObjectError::Twice(_) => MessageError::Field { field: "pagination.nextToken" },
    })?;
    let Some(next_token) = next_token else { return Ok(String::new()) };
    match proto_json::string(next_token) {
        Some(token) if token.len() <= MAX_PAGE_TOKEN => Ok(token),
        _ => Err(MessageError::Field { field: "pagination.nextToken" }),
    }
}

/// Reads one integration; an error is its id, where that is readable, and the reason.
fn read_integration(element: &RawValue, runner_id: Option<&str>) -> Result<ScmIntegration, (Option<String>, String)> {
    let names = [
        ("id", "id"),
        ("scmId", "scm_id"),
        ("host", "host"),
        ("oauth", "oauth"),
        ("pat", "pat"),
        ("runnerId", "runner_id"),
        ("virtualDirectory", "virtual_directory"),
    ];
    let [id, scm_id, host, oauth, pat, owner, virtual_directory] =
        proto_json::object(element.get(), names).map_err(|error| (None, object_reason("", error)))?;
    let id = text("id", id, MAX_ID, is_id_character).map_err(|reason| (None, reason))?;
    if id.is_empty() {
        return Err((None, "id is missing".to_owned()));
    }
    let read = || -> Result<ScmIntegration, String> {
        let host = text("host", host, MAX_HOST, |character| character.is_ascii_graphic())?;
        if host.is_empty() {
            return Err("host is missing".to_owned());
        }
        let owner = text("runnerId", owner, MAX_ID, is_id_character)?;
        if runner_id.is_some_and(|ours| !owner.is_empty() && !owner.eq_ignore_ascii_case(ours)) {
            return Err("runnerId is that of another runner".to_owned());
        }
        let pat = pat.map_or(Some(false), proto_json::boolean).ok_or("pat is not true or false")?;
        Ok(ScmIntegration {
            id: id.clone(),
            scm_id: ScmId::from(text("scmId", scm_id, MAX_ID, is_printable)?.as_str()),
            host,
            oauth: oauth.map(read_oauth).transpose()?.flatten(),
            pat,
            runner_id: owner,
            virtual_directory: text("virtualDirectory", virtual_directory, MAX_VIRTUAL_DIRECTORY, is_printable)?,
        })
    };
    read().map_err(|reason| (Some(id.clone()), reason))
}

/// Reads `SCMIntegrationOAuthConfig`. One with every field at its default configures nothing, so it is no OAuth app.
fn read_oauth(oauth: &RawValue) -> Result<Option<OAuthApp>, String> {
    let names = [("clientId", "client_id"), ("encryptedClientSecret", "encrypted_client_secret"), ("issuerUrl", "issuer_url")];
    let [client_id, secret, issuer_url] = proto_json::object(oauth.get(), names).map_err(|error| object_reason("oauth", error))?;
    let client_id = text("oauth.clientId", client_id, MAX_CLIENT_ID, is_printable)?;
    let issuer_url = text("oauth.issuerUrl", issuer_url, MAX_ISSUER_URL, |character| character.is_ascii_graphic())?;
    let secret = secret.map(read_ciphertext).transpose()?.unwrap_or_default();
    match (client_id.trim().is_empty(), issuer_url.is_empty() && secret.is_empty()) {
        (true, true) => Ok(None),
        (true, false) => Err("oauth.clientId is missing".to_owned()),
        (false, _) => Ok(Some(OAuthApp {
            client_id,
            encrypted_client_secret: EncryptedClientSecret::new(secret),
            issuer_url: Some(issuer_url).filter(|url| !url.is_empty()),
        })),
    }
}

fn read_ciphertext(value: &RawValue) -> Result<Vec<u8>, String> {
    let too_long = || format!("oauth.encryptedClientSecret is longer than {MAX_CIPHERTEXT_BYTES} bytes");
    if value.get().len() > MAX_CIPHERTEXT_BYTES * 2 {
        return Err(too_long());
    }
    let text = proto_json::string(value).ok_or("oauth.encryptedClientSecret is not text")?;
    let bytes = proto_json::base64(&text).ok_or("oauth.encryptedClientSecret is not base64")?;
    if bytes.len() > MAX_CIPHERTEXT_BYTES { Err(too_long()) } else { Ok(bytes) }
}

/// A string field within its bounds; absent is empty.
fn text(field: &str, value: Option<&RawValue>, limit: usize, allowed: impl Fn(char) -> bool) -> Result<String, String> {
    let Some(value) = value else { return Ok(String::new()) };
    let too_long = || format!("{field} is longer than {limit} characters");
    // A character takes up to six bytes as an escape; what is longer still is not worth a copy.
    if value.get().starts_with('"') && value.get().len() > limit * 6 + 2 {
        return Err(too_long());
    }
    let text = proto_json::string(value).ok_or_else(|| format!("{field} is not text"))?;
    if text.len() > limit {
        return Err(too_long());
    }
    if !text.chars().all(allowed) {
        return Err(format!("{field} contains a character that is not allowed in it"));
    }
    Ok(text)
}

fn object_reason(field: &str, error: ObjectError) -> String {
    let dot = if field.is_empty() { "" } else { "." };
    match error {
        ObjectError::Malformed { .. } if field.is_empty() => "the integration is not an object".to_owned(),
        ObjectError::Malformed { .. } => format!("{field} is not an object"),
        ObjectError::Twice(name) => format!("{field}{dot}{name} occurs twice"),
    }
}

fn is_id_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-' || character == '_'
}

fn is_printable(character: char) -> bool {
    character == ' ' || character.is_ascii_graphic()
}

#[cfg(test)]
mod tests;
