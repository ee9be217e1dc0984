//! What a sign-in leaves, and keeping it alive: the refresh (RFC 6749 section 6).

use std::time::{Duration, SystemTime};

use super::client::authenticated_post;
use super::reply::GrantReply;
use super::{Error, ErrorClass, Moment, TokenClient, UserEndpoints, UserPlan};
use crate::http;
use crate::secret::{AccessToken, ClientSecret, RefreshToken};

/// Tokens that a host granted on a user's behalf. No `Clone`.
#[derive(Debug)]
pub struct GrantedTokens {
    /// The access token.
    pub access_token: AccessToken,
    /// How long it lives from `requested_at` on, 1 second to 30 days, by the reply or else by what is known of the host; `None` for one
    /// that may live until it is revoked.
    pub expires_in: Option<Duration>,
    /// How long the refresh token lives from `requested_at` on, where the reply says so; at most two years.
    pub refresh_expires_in: Option<Duration>,
    /// The refresh token. After a refresh `None` means that the one which was used goes on: it is to be kept, not dropped (section 6).
    /// After a sign-in it means that there is none.
    pub refresh_token: Option<RefreshToken>,
    /// When the request was sent: lifetimes are counted from here, so never too long.
    pub requested_at: Moment,
    /// The scopes granted; `None` when the reply names none, which means those asked for (section 5.1).
    pub scopes: Option<Vec<String>>,
}

impl GrantedTokens {
    /// The time of day from which on the access token is dead, if that is known.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_in.map(|lifetime| self.requested_at.after(lifetime).wall())
    }

    /// The time of day from which on the refresh token is dead, if that is known.
    #[must_use]
    pub fn refresh_expires_at(&self) -> Option<SystemTime> {
        self.refresh_expires_in.map(|lifetime| self.requested_at.after(lifetime).wall())
    }
}

impl TokenClient {
    /// Has a refresh token exchanged for new tokens, once: nothing is tried again. The secret is wiped as soon as the request is
    /// built.
    ///
    /// The scopes stay those of the sign-in, so none are sent.
    ///
    /// # Errors
    /// [`Error::SignInOver`] when the host does not accept the refresh token any more, by any of its names for that; else [`Error`]. Where
    /// [`Error::outcome_unknown`] the token may have been used up.
    pub async fn refresh(
        &self,
        endpoints: &UserEndpoints,
        client_id: &str,
        client_secret: ClientSecret,
        plan: &UserPlan,
        refresh_token: &RefreshToken,
    ) -> Result<GrantedTokens, Error> {
        let fields = vec![("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose_secret())];
        let request = authenticated_post(&endpoints.token, endpoints.client_authentication, client_id, &client_secret, fields);
        drop(client_secret);
        self.grant(endpoints, plan, request).await.map_err(|error| sign_in_over(error, plan.terminal))
    }

    /// Asks the token endpoint for a user's tokens.
    pub(super) async fn grant(&self, endpoints: &UserEndpoints, plan: &UserPlan, request: http::Request) -> Result<GrantedTokens, Error> {
        let host = http::host_and_port(&endpoints.token);
        let requested_at = Moment::now(&*self.clock);
        let reply = self.http().send(request).await?;
        let GrantReply { refresh_expires_in, refresh_token, token } =
            GrantReply::parse(&reply, &host, plan.form_replies, self.clock.now())?;
        let expires_in = token.expires_in.or(plan.lifetime);
        tracing::debug!(
            host,
            expires_in_seconds = expires_in.map(|lifetime| lifetime.as_secs()),
            refresh_token = refresh_token.is_some(),
            "a user's access token was issued"
        );
        Ok(GrantedTokens {
            access_token: token.access_token,
            expires_in,
            refresh_expires_in: refresh_expires_in.filter(|_| refresh_token.is_some()),
            refresh_token,
            requested_at,
            scopes: token.scopes,
        })
    }
}

/// Tells a refusal of what the sign-in left from the others: by the codes that mean it everywhere, and those of the host.
pub(super) fn sign_in_over(error: Error, terminal: &[&str]) -> Error {
    match error {
        Error::Refused { host, code, status, .. }
            if !super::is_transient(status)
                && (code.class() == ErrorClass::Terminal || code.as_str().is_some_and(|code| terminal.contains(&code))) =>
        {
            Error::SignInOver { host, code, status }
        }
        other => other,
    }
}
