//! Revoking a token at the issuer that gave it (RFC 7009).

use url::Url;

use super::client::authenticated_post;
use super::reply::{is_success, refusal};
use super::{ClientAuthentication, EndpointSource, Error, TokenClient};
use crate::http;
use crate::secret::{AccessToken, ClientSecret};

/// A revocation endpoint and how to show it a client's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationEndpoint {
    /// How the app shows its secret.
    pub client_authentication: ClientAuthentication,
    /// Where to POST.
    pub url: Url,
}

impl TokenClient {
    /// Finds where the tokens of a token endpoint are revoked, by the same metadata; `None` where the issuer offers nothing that
    /// could be used. A token endpoint that is known without metadata has none: neither Bitbucket Cloud nor Entra revokes tokens.
    ///
    /// `client_authentication` is what goes before the metadata's word, as in a plan.
    ///
    /// # Errors
    /// [`Error`] when the metadata cannot be had or used.
    pub async fn revocation_endpoint(
        &self,
        token_endpoint: &EndpointSource,
        client_authentication: Option<ClientAuthentication>,
    ) -> Result<Option<RevocationEndpoint>, Error> {
        let EndpointSource::Issuer(issuer) = token_endpoint else { return Ok(None) };
        let metadata = self.metadata(issuer).await?;
        let client_authentication = client_authentication.or(metadata.revocation_authentication);
        Ok(client_authentication
            .zip(metadata.revocation_endpoint)
            .map(|(client_authentication, url)| RevocationEndpoint { client_authentication, url }))
    }

    /// Has an access token revoked. The secret is wiped as soon as the request is built.
    ///
    /// Any success counts, whatever the body holds, and so does one for a token that the issuer does not know (section 2.2).
    ///
    /// # Errors
    /// [`Error`] when the issuer refuses or cannot be reached. The token is to be taken as still valid then (section 2.2.1).
    pub async fn revoke(
        &self,
        endpoint: &RevocationEndpoint,
        client_id: &str,
        client_secret: ClientSecret,
        token: &AccessToken,
    ) -> Result<(), Error> {
        let fields = vec![("token", token.expose_secret()), ("token_type_hint", "access_token")];
        let request = authenticated_post(&endpoint.url, endpoint.client_authentication, client_id, &client_secret, fields);
        drop(client_secret);
        let reply = self.http.send(request).await?;
        if is_success(reply.status) {
            return Ok(());
        }
        Err(refusal(&reply, &http::host_and_port(&endpoint.url), self.clock.now()))
    }
}
