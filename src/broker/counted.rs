//! What issuers are asked for and what comes of it, as it is counted.

use tokio::time::Instant;

use crate::integration::ScmIntegration;
use crate::metrics::Metrics;
use crate::metrics::labels::{Provider, TokenGrant, TokenOutcome};
use crate::oauth::{DevicePoll, Error};

/// A request for a token that is under way.
pub(super) struct TokenRequest<'m> {
    begun: Instant,
    grant: TokenGrant,
    metrics: &'m Metrics,
    provider: Provider,
}

impl<'m> TokenRequest<'m> {
    pub(super) fn begin(metrics: &'m Metrics, grant: TokenGrant, integration: &ScmIntegration) -> Self {
        Self { begun: Instant::now(), grant, metrics, provider: Provider::of(integration.scm_id.as_str()) }
    }

    /// Counts what came of it, and hands it on.
    pub(super) fn end<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        self.count(match &result {
            Ok(_) => Some(TokenOutcome::Issued),
            Err(error) => failure(error),
        });
        result
    }

    /// The same where a host may ask for patience.
    pub(super) fn end_poll(self, result: Result<DevicePoll, Error>) -> Result<DevicePoll, Error> {
        self.count(match &result {
            Ok(DevicePoll::Granted(_)) => Some(TokenOutcome::Issued),
            Ok(DevicePoll::Denied | DevicePoll::Expired) => Some(TokenOutcome::Refused),
            Ok(DevicePoll::Pending | DevicePoll::SlowDown { .. }) => None,
            Err(error) => failure(error),
        });
        result
    }

    fn count(self, outcome: Option<TokenOutcome>) {
        if let Some(outcome) = outcome {
            self.metrics.token_requested(self.grant, self.provider, outcome, self.begun.elapsed());
        }
    }
}

/// What a failure counts as; `None` where no token was asked for.
fn failure(error: &Error) -> Option<TokenOutcome> {
    match error {
        Error::Refused { .. } | Error::SignInOver { .. } => Some(TokenOutcome::Refused),
        // What the browser brought was of no use, or the issuer's metadata says that asking is.
        Error::AuthorizationRefused { .. }
        | Error::CallbackIssuer { .. }
        | Error::CallbackState
        | Error::CallbackUnreadable { .. }
        | Error::GrantNotOffered { .. } => None,
        _ => Some(TokenOutcome::Failed),
    }
}
