//! What the daemon answers to the command `oauth-app`: the one document with a client secret in it. The daemon fills it, the command line
//! prints it for other OAuth tooling.
//!
//! | verb | fields | answer |
//! |---|---|---|
//! | `oauth-app` | `url` | [`Answer`] |
//!
//! A document only grows.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::login::Refused;
use crate::secret::ClientSecret;

/// The answer to `oauth-app`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The app.
    Given(Box<OAuthApp>),
    /// Why the caller does not get it.
    Refused(Refused),
}

/// An OAuth app with everything that a user's sign-in with it takes. Shown with `{:?}` it does not tell the secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct OAuthApp {
    /// What git asks for with these credentials: scheme, host, port and the leading path that the integration covers.
    pub url: String,
    /// UUID of the integration.
    pub integration_id: String,
    /// The integration's host, as registered.
    pub host: String,
    /// The app's id.
    pub client_id: String,
    /// The app's secret in clear.
    #[serde(serialize_with = "write_secret", deserialize_with = "read_secret")]
    pub client_secret: ClientSecret,
    /// The issuer identifier, where the endpoints come from an issuer's metadata.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Where browsers are sent to sign in; `null` where there is no code flow with PKCE.
    #[serde(default)]
    pub authorization_endpoint: Option<String>,
    /// Where codes become tokens; `null` where it is not known.
    #[serde(default)]
    pub token_endpoint: Option<String>,
    /// Where a device asks for a code (RFC 8628); `null` where there is no device flow.
    #[serde(default)]
    pub device_authorization_endpoint: Option<String>,
    /// Whether the app has to show its secret in the device flow too.
    #[serde(default)]
    pub device_flow_needs_secret: bool,
    /// How the app may show its secret, the way that the agent uses first: `client_secret_basic`, `client_secret_post`.
    #[serde(default)]
    pub token_endpoint_auth_methods: Vec<String>,
    /// The scopes to ask for; none sends no `scope`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Where a browser may come back to. Without a port, any port will do; none where nobody has said which one the app registered.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// The user name that git sends with a token.
    #[serde(default)]
    pub username: String,
    /// Why endpoints are missing, in a sentence.
    #[serde(default)]
    pub problem: Option<String>,
}

fn write_secret<S: Serializer>(secret: &ClientSecret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

fn read_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClientSecret, D::Error> {
    let text = Zeroizing::new(String::deserialize(deserializer)?.into_bytes());
    ClientSecret::parse(text).map_err(D::Error::custom)
}

/// Writes an answer as JSON into memory that is wiped and does not grow meanwhile, with a line end and room for another.
#[must_use]
pub fn document(answer: &Answer) -> Zeroizing<Vec<u8>> {
    let mut length = Length(0);
    // Writing to a counter or to memory does not fail.
    let _ = serde_json::to_writer(&mut length, answer);
    let mut text = Zeroizing::new(Vec::with_capacity(length.0 + 2));
    let _ = serde_json::to_writer(&mut *text, answer);
    text.push(b'\n');
    text
}

/// Counts what is written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_slice, from_value, json, to_value};

    use super::*;

    fn app() -> Value {
        json!({
            "url": "https://scm.example", "integration_id": "i", "host": "scm.example", "client_id": "app", "client_secret": "ca\"na\\ry",
            "issuer": null, "authorization_endpoint": "https://scm.example/a", "token_endpoint": "https://scm.example/t",
            "device_authorization_endpoint": null, "device_flow_needs_secret": true,
            "token_endpoint_auth_methods": ["client_secret_basic", "client_secret_post"], "scopes": ["read"],
            "redirect_uris": ["http://127.0.0.1/"], "username": "oauth2", "problem": null,
        })
    }

    #[test]
    fn an_app_is_read_and_written_with_every_field() {
        let answer: Answer = from_value(app()).unwrap();
        assert_eq!(to_value(&answer).unwrap(), app());
        let Answer::Given(given) = answer else { panic!("not read as an app") };
        assert_eq!(given.client_secret.expose_secret(), "ca\"na\\ry");
    }

    #[test]
    fn a_refusal_is_told_from_an_app() {
        let answer: Answer = from_value(json!({ "error": "no", "next": "ask" })).unwrap();
        assert!(matches!(answer, Answer::Refused(Refused { next: Some(_), .. })));
        assert!(from_value::<Answer>(json!({ "client_id": "app" })).is_err());
    }

    #[test]
    fn the_secret_is_not_shown_and_none_that_is_no_secret_is_taken() {
        let shown = format!("{:?}", from_value::<Answer>(app()).unwrap());
        assert!(shown.contains("scm.example") && !shown.contains("ca\\\"na") && !shown.contains("ca\"na"), "{shown}");
        for bad in ["", "a\nb", "\u{e9}"] {
            let mut document = app();
            document["client_secret"] = json!(bad);
            let error = from_value::<OAuthApp>(document).unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn a_document_is_written_at_once_and_has_room_for_the_end_of_the_answer() {
        let answer: Answer = from_value(app()).unwrap();
        let mut text = document(&answer);
        assert_eq!(from_slice::<Value>(&text).unwrap(), app());
        let (place, capacity) = (text.as_ptr(), text.capacity());
        assert!(text.ends_with(b"}\n") && text.len() < capacity);
        text.push(b'\n');
        assert_eq!((text.as_ptr(), text.capacity()), (place, capacity));
    }
}
