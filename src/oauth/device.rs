//! Signing in on another device (RFC 8628): a code for the user to type in, and the question whether that was done.

use std::fmt;
use std::time::Duration;

use url::Url;

use super::client::{authenticated_post, public_post};
use super::grant::sign_in_over;
use super::reply::{field, read};
use super::wire::{Value, lifetime};
use super::{Deadline, Error, GrantedTokens, Moment, TokenClient, UserEndpoints, UserPlan};
use crate::http;
use crate::secret::{ClientSecret, DeviceCode};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// The interval of a reply that names none (section 3.2).
const USUAL_INTERVAL: Duration = Duration::from_secs(5);
/// How long a code is kept whose lifetime is not named, though it has to be.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// The longest that a code is kept.
const LONGEST_LIFETIME: Duration = Duration::from_secs(30 * 60);
/// The longest user code: a person is to type it in.
const LONGEST_USER_CODE: usize = 64;
/// The longest link: it has to fit a QR code.
const LONGEST_LINK: usize = 1024;

/// What a user is to be shown, and what to ask with meanwhile.
pub struct DeviceAuthorization {
    /// What to ask with. Nobody is to see it.
    pub device_code: DeviceCode,
    /// When it ends.
    pub expires: Deadline,
    /// The wait between two questions, 1 second to 5 minutes. It grows with [`DevicePoll::SlowDown`].
    pub interval: Duration,
    /// What the user types in: visible ASCII and spaces, at most 64 characters.
    pub user_code: String,
    /// Where the user types it in.
    pub verification_uri: Url,
    /// The same with the code in it, for a QR code; the code is to be shown all the same (section 3.3.1).
    pub verification_uri_complete: Option<Url>,
}

/// Without the codes: whoever knows the user code may confirm in the user's place.
impl fmt::Debug for DeviceAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAuthorization").field("expires", &self.expires).field("interval", &self.interval).finish_non_exhaustive()
    }
}

/// What came of asking once.
#[derive(Debug)]
pub enum DevicePoll {
    /// The user said no.
    Denied,
    /// The code's time is over.
    Expired,
    /// The user signed in.
    Granted(GrantedTokens),
    /// The user has not answered yet.
    Pending,
    /// As `Pending`, and the questions come too often: from now on the interval is 5 seconds longer, or the one named here where that
    /// is more (section 3.5, GitHub).
    SlowDown {
        /// The interval that the host asks for, at most 15 minutes.
        interval: Option<Duration>,
    },
}

impl TokenClient {
    /// Asks for a code that lets a user sign in on another device. The secret is wiped as soon as the request is built.
    ///
    /// # Errors
    /// [`Error::FlowNotOffered`] where there is no device flow, else [`Error`] when the host refuses, cannot be reached, or answers with
    /// nothing that may be used.
    pub async fn begin_device(
        &self,
        endpoints: &UserEndpoints,
        client_id: &str,
        client_secret: ClientSecret,
        plan: &UserPlan,
    ) -> Result<DeviceAuthorization, Error> {
        let Some(url) = &endpoints.device else {
            return Err(Error::FlowNotOffered { host: http::host_and_port(&endpoints.token), flow: "device flow" });
        };
        let host = http::host_and_port(url);
        let scope = endpoints.scopes.join(" ");
        let mut fields = Vec::with_capacity(4);
        if !scope.is_empty() {
            fields.push(("scope", scope.as_str()));
        }
        let request = device_request(url, endpoints, client_id, &client_secret, plan, fields);
        drop(client_secret);
        let requested_at = Moment::now(&*self.clock);
        let reply = self.http().send(request).await?;
        let wire = read(&reply, &host, plan.form_replies, self.clock.now())?;
        let Value::Text(device_code) = &wire.device_code else { return Err(field(&host, "device_code")) };
        let device_code = DeviceCode::parse(device_code.clone()).map_err(|_| field(&host, "device_code"))?;
        let user_code = wire.user_code.text().filter(|code| is_user_code(code)).ok_or_else(|| field(&host, "user_code"))?.to_owned();
        let link = |value: &Value| value.text().and_then(|text| self.link(text));
        let verification_uri = link(&wire.verification_uri).or_else(|| link(&wire.verification_url));
        let expires_in = lifetime(&wire.expires_in).map_err(|()| field(&host, "expires_in"))?;
        Ok(DeviceAuthorization {
            device_code,
            expires: requested_at.after(expires_in.unwrap_or(ASSUMED_LIFETIME).min(LONGEST_LIFETIME)),
            interval: wire.interval().unwrap_or(USUAL_INTERVAL),
            user_code,
            verification_uri: verification_uri.ok_or_else(|| field(&host, "verification_uri"))?,
            verification_uri_complete: link(&wire.verification_uri_complete),
        })
    }

    /// Asks once whether the user has signed in. The secret is wiped as soon as the request is built.
    ///
    /// # Errors
    /// [`Error`]; after a transient one it may be asked again, less often (section 3.5). Any other one ends the sign-in.
    pub async fn poll_device(
        &self,
        endpoints: &UserEndpoints,
        client_id: &str,
        client_secret: ClientSecret,
        plan: &UserPlan,
        device_code: &DeviceCode,
    ) -> Result<DevicePoll, Error> {
        let fields = vec![("grant_type", GRANT_TYPE), ("device_code", device_code.expose_secret())];
        let request = if plan.device_authenticates {
            authenticated_post(&endpoints.token, endpoints.client_authentication, client_id, &client_secret, fields)
        } else {
            public_post(&endpoints.token, client_id, fields)
        };
        drop(client_secret);
        let error = match self.grant(endpoints, plan, request).await {
            Ok(granted) => return Ok(DevicePoll::Granted(granted)),
            Err(error) => error,
        };
        let Error::Refused { code, retry_after, .. } = &error else { return Err(error) };
        match code.as_str() {
            Some("authorization_pending") => Ok(DevicePoll::Pending),
            Some("slow_down") => Ok(DevicePoll::SlowDown { interval: *retry_after }),
            Some("access_denied" | "authorization_declined") => Ok(DevicePoll::Denied),
            Some("code_expired" | "expired_token" | "token_expired") => Ok(DevicePoll::Expired),
            _ => Err(sign_in_over(error, &[])),
        }
    }

    /// A link that may be shown to a user.
    fn link(&self, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok().filter(|url| url.as_str().len() <= LONGEST_LINK)?;
        let plain = url.username().is_empty() && url.password().is_none() && url.host_str().is_some_and(|host| !host.is_empty());
        let secure = url.scheme() == "https" || self.http().check(&url).is_ok();
        (plain && secure).then_some(url)
    }
}

/// Section 3.1 wants the client's name in the form; one that shows its secret there has it there already.
fn device_request<'f>(
    url: &Url,
    endpoints: &UserEndpoints,
    client_id: &'f str,
    client_secret: &'f ClientSecret,
    plan: &UserPlan,
    mut fields: Vec<(&'f str, &'f str)>,
) -> http::Request {
    if !plan.device_authenticates {
        return public_post(url, client_id, fields);
    }
    if endpoints.client_authentication == super::ClientAuthentication::Basic {
        fields.push(("client_id", client_id));
    }
    authenticated_post(url, endpoints.client_authentication, client_id, client_secret, fields)
}

fn is_user_code(code: &str) -> bool {
    (1..=LONGEST_USER_CODE).contains(&code.len()) && code.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}
