//! Revoking tokens at the issuer that gave them: RFC 7009, and GitHub's own form.

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use url::Url;

use super::client::{authenticated_post, raw_basic};
use super::reply::{is_success, refusal};
use super::{ClientAuthentication, EndpointSource, Error, Revocation, TokenClient, UserEndpoints};
use crate::http;
use crate::secret::{AccessToken, ClientSecret, RefreshToken};

/// A revocation endpoint and how to show it a client's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationEndpoint {
    /// How the app shows its secret.
    pub client_authentication: ClientAuthentication,
    /// Where to POST.
    pub url: Url,
}

/// What came of revoking a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// The host says that the tokens are dead.
    Done,
    /// The host has no way to do it, or not for all of them: some tokens live on until they expire.
    NotOffered,
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
        let reply = self.http().send(request).await?;
        if is_success(reply.status) {
            return Ok(());
        }
        Err(refusal(&reply, &http::host_and_port(&endpoint.url), self.clock.now()))
    }

    /// Has a user's grant revoked. The secret is wiped as soon as the requests are built.
    ///
    /// By RFC 7009 the refresh token goes first, which takes all of the grant with it (section 2.1), and the access token after it for
    /// hosts that keep that alive. GitHub is told the access token alone: its other form would also end what the same user signed in
    /// to elsewhere with the same app.
    ///
    /// # Errors
    /// [`Error`] when the host refuses or cannot be reached. The grant is to be taken as still valid then.
    pub async fn revoke_grant(
        &self,
        endpoints: &UserEndpoints,
        client_id: &str,
        client_secret: ClientSecret,
        access_token: &AccessToken,
        refresh_token: Option<&RefreshToken>,
    ) -> Result<Revoked, Error> {
        let requests = match &endpoints.revocation {
            None => return Ok(Revoked::NotOffered),
            Some(Revocation::GitHub { applications }) => vec![github_request(applications, client_id, &client_secret, access_token)?],
            Some(Revocation::Standard(endpoint)) => {
                let tokens = refresh_token.map(|token| (token.expose_secret(), "refresh_token"));
                let tokens = tokens.into_iter().chain([(access_token.expose_secret(), "access_token")]);
                tokens
                    .map(|(token, hint)| {
                        let fields = vec![("token", token), ("token_type_hint", hint)];
                        authenticated_post(&endpoint.url, endpoint.client_authentication, client_id, &client_secret, fields)
                    })
                    .map(|request| (request, http::host_and_port(&endpoint.url)))
                    .collect()
            }
        };
        drop(client_secret);
        let is_github = matches!(endpoints.revocation, Some(Revocation::GitHub { .. }));
        let mut revoked = Revoked::Done;
        let count = requests.len();
        for (index, (request, host)) in requests.into_iter().enumerate() {
            let reply = self.http().send(request).await?;
            if is_success(reply.status) {
                continue;
            }
            // GitHub answers 404 for a token that is not alive any more. Of the refresh token that says nothing.
            if is_github && reply.status == 404 {
                revoked = if refresh_token.is_some() { Revoked::NotOffered } else { Revoked::Done };
                continue;
            }
            let error = refusal(&reply, &host, self.clock.now());
            // Section 2.2.1: the server does not revoke this kind of token. The next one may be of another kind.
            let is_kind = matches!(&error, Error::Refused { code, .. } if code.as_str() == Some("unsupported_token_type"));
            if !(is_kind && index + 1 < count) {
                return Err(error);
            }
            revoked = Revoked::NotOffered;
        }
        Ok(revoked)
    }
}

/// `DELETE {applications}/{client_id}/token`.
fn github_request(
    applications: &Url,
    client_id: &str,
    client_secret: &ClientSecret,
    access_token: &AccessToken,
) -> Result<(http::Request, String), Error> {
    let host = http::host_and_port(applications);
    let mut url = applications.clone();
    match url.path_segments_mut() {
        Ok(mut segments) => segments.pop_if_empty().extend([client_id, "token"]),
        Err(()) => return Err(Error::FlowNotOffered { host, flow: "revocation" }),
    };
    let mut body = Vec::with_capacity(2 * access_token.expose_secret().len() + 32);
    body.extend_from_slice(b"{\"access_token\":\"");
    // Of the characters of a token JSON escapes these two.
    for byte in access_token.expose_secret().bytes() {
        if matches!(byte, b'"' | b'\\') {
            body.push(b'\\');
        }
        body.push(byte);
    }
    body.extend_from_slice(b"\"}");
    let request = http::Request::delete(url, "application/json", body)
        .header(ACCEPT, HeaderValue::from_static("application/vnd.github+json"))
        .header(AUTHORIZATION, raw_basic(client_id, client_secret));
    Ok((request, host))
}
