//! Whose grant it is, by the host's own word.

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use zeroize::Zeroizing;

use super::reply::{is_success, refusal};
use super::{Error, TokenClient, UserEndpoints};
use crate::http;
use crate::secret::AccessToken;

/// The longest name that is taken.
const LONGEST_NAME: usize = 128;

impl TokenClient {
    /// Asks for the name of the user whose token it is; `None` where the host has nowhere to ask, or does not say with the scopes
    /// that were granted. `scopes` are those of the token.
    ///
    /// A name is 1 to 128 characters of letters, digits and `-._@+~` in ASCII; any other is taken as none.
    ///
    /// # Errors
    /// [`Error`] when the host cannot be reached or fails. The token is good all the same.
    pub async fn account_name(
        &self,
        endpoints: &UserEndpoints,
        scopes: &[String],
        access_token: &AccessToken,
    ) -> Result<Option<String>, Error> {
        let Some(info) = &endpoints.user_info else { return Ok(None) };
        if info.needs_scope.is_some_and(|needed| !scopes.iter().any(|scope| scope == needed)) {
            return Ok(None);
        }
        let request = http::Request::get(info.url.clone())
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(AUTHORIZATION, bearer(access_token));
        let reply = self.http().send(request).await?;
        if matches!(reply.status, 401 | 403 | 404) {
            return Ok(None);
        }
        if !is_success(reply.status) {
            return Err(refusal(&reply, &http::host_and_port(&info.url), self.clock.now()));
        }
        let Ok(profile) = serde_json::from_slice::<serde_json::Value>(&reply.body) else { return Ok(None) };
        let name = info.fields.iter().filter_map(|field| profile.get(field)?.as_str()).find(|name| is_name(name));
        Ok(name.map(str::to_owned))
    }
}

fn bearer(token: &AccessToken) -> HeaderValue {
    let mut text = Zeroizing::new(Vec::with_capacity("Bearer ".len() + token.expose_secret().len()));
    text.extend_from_slice(b"Bearer ");
    text.extend_from_slice(token.expose_secret().as_bytes());
    let mut header = HeaderValue::from_bytes(&text).expect("a token is visible ASCII");
    header.set_sensitive(true);
    header
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@+~".contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(allowed)
}
