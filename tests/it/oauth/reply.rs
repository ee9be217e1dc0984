//! The token reply matrix: what a token endpoint may say, and what it may not.

use std::time::Duration;

use scm_agent::oauth::{Classified, Error, ErrorClass};

use super::{APP, ask, assert_keeps_quiet, client};
use crate::support::issuer::{FakeIssuer, Manner};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// What should come of a reply.
#[derive(Debug)]
enum Expect {
    /// A token `tok`, its lifetime in seconds and its scopes.
    Token(Option<u64>, Option<&'static [&'static str]>),
    /// A refusal with a code, `""` for an unreadable one.
    Refused(&'static str, ErrorClass),
    /// An HTTP error without an OAuth error.
    Status(ErrorClass),
    /// No token because of this field.
    Field(&'static str),
    /// No token because nothing can be read.
    Unreadable,
}
use ErrorClass::{Operator, Terminal, Transient};
use Expect::{Field, Refused, Status, Token, Unreadable};

const DAYS_30: u64 = 30 * 24 * 60 * 60;

#[rustfmt::skip]
const ROWS: &[(u16, &str, &str, Expect)] = &[
    // What is allowed.
    (200, JSON, r#"{"access_token":"tok","token_type":"Bearer","expires_in":3600,"scope":"a b"}"#, Token(Some(3600), Some(&["a", "b"]))),
    (200, JSON, r#"{"access_token":"tok","token_type":"bearer"}"#, Token(None, None)),
    (200, JSON, r#"{"access_token":"tok","token_type":"BEARER"}"#, Token(None, None)),
    (200, JSON, r#"{"access_token":"tok"}"#, Token(None, None)),
    (200, JSON, r#"{"access_token":"tok","token_type":null,"expires_in":null,"scope":null,"error":null}"#, Token(None, None)),
    (200, JSON, "\r\n\t {\"access_token\":\"tok\"} \n", Token(None, None)),
    (201, JSON, r#"{"access_token":"tok"}"#, Token(None, None)),
    (200, "text/html", r#"{"access_token":"tok"}"#, Token(None, None)),
    (200, FORM, r#"{"access_token":"tok"}"#, Token(None, None)),
    (200, JSON, r#"{"access_token":"t\u006fk","unknown":{"a":[1,{"b":null}]},"created_at":1}"#, Token(None, None)),
    (200, JSON, r#"{"access_token":"tok","refresh_token":"canary","ext_expires_in":1}"#, Token(None, None)),
    // Lifetimes.
    (200, JSON, r#"{"access_token":"tok","expires_in":"28800"}"#, Token(Some(28800), None)),
    (200, JSON, r#"{"access_token":"tok","expires_in":3599.9}"#, Token(Some(3599), None)),
    (200, JSON, r#"{"access_token":"tok","expires_in":1}"#, Token(Some(1), None)),
    (200, JSON, r#"{"access_token":"tok","expires_in":30}"#, Token(Some(30), None)),
    (200, JSON, r#"{"access_token":"tok","expires_in":2592001}"#, Token(Some(DAYS_30), None)),
    (200, JSON, r#"{"access_token":"tok","expires_in":1e18}"#, Token(Some(DAYS_30), None)),
    (200, JSON, r#"{"access_token":"tok","expires_in":"1e18"}"#, Token(Some(DAYS_30), None)),
    (200, JSON, r#"{"access_token":"tok","expires_in":18446744073709551615}"#, Token(Some(DAYS_30), None)),
    (200, JSON, r#"{"access_token":"tok","expires_in":99999999999999999999999999}"#, Token(Some(DAYS_30), None)),
    (200, JSON, r#"{"access_token":"tok","expires_in":0}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":0.5}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":-1}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":-9223372036854775808}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":"-3600"}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":"NaN"}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":"inf"}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":"1e999"}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":""}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":"canary"}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":" 60 "}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":true}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":[60]}"#, Field("expires_in")),
    (200, JSON, r#"{"access_token":"tok","expires_in":NaN}"#, Unreadable),
    (200, JSON, r#"{"access_token":"tok","expires_in":1e999}"#, Unreadable),
    // Scopes.
    (200, JSON, r#"{"access_token":"tok","scope":"repo,gist"}"#, Token(None, Some(&["repo", "gist"]))),
    (200, JSON, r#"{"access_token":"tok","scope":["a","b c",7]}"#, Token(None, Some(&["a", "b", "c"]))),
    (200, JSON, r#"{"access_token":"tok","scopes":"repository account"}"#, Token(None, Some(&["repository", "account"]))),
    (200, JSON, r#"{"access_token":"tok","scope":""}"#, Token(None, Some(&[]))),
    (200, JSON, r#"{"access_token":"tok","scope":{"a":1}}"#, Token(None, None)),
    // Token types and tokens that cannot be used.
    (200, JSON, r#"{"access_token":"tok","token_type":"mac"}"#, Field("token_type")),
    (200, JSON, r#"{"access_token":"tok","token_type":"DPoP"}"#, Field("token_type")),
    (200, JSON, r#"{"access_token":"tok","token_type":""}"#, Field("token_type")),
    (200, JSON, r#"{"access_token":"tok","token_type":7}"#, Field("token_type")),
    (200, JSON, r#"{"token_type":"Bearer"}"#, Field("access_token")),
    (200, JSON, r#"{}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":null}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":""}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":12345}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":["canary"]}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":{"canary":"canary"}}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":"canary\nquit=1"}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":"canary\r"}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":"canary\u0000"}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":"canary tok"}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":"canaryü"}"#, Field("access_token")),
    (200, JSON, r#"{"access_token":"\ud83d\ude00canary"}"#, Field("access_token")),
    // What is no reply at all.
    (200, JSON, "", Unreadable),
    (200, JSON, "canary", Unreadable),
    (200, JSON, "null", Unreadable),
    (200, JSON, r#""canary""#, Unreadable),
    (200, JSON, r#"["canary","","","","",""]"#, Unreadable),
    (200, JSON, r#"{"access_token":"canary""#, Unreadable),
    (200, JSON, r#"{"access_token":"canary"} canary"#, Unreadable),
    (200, JSON, r#"{"access_token":"canary","access_token":"canary2"}"#, Unreadable),
    (200, JSON, r#"{"access_token":"\ud800canary"}"#, Unreadable),
    (200, JSON, "\u{feff}{\"access_token\":\"canary\"}", Unreadable),
    (200, "text/html", "<html>canary</html>", Unreadable),
    (203, "text/html; charset=utf-8", "<html>sign in, canary</html>", Unreadable),
    (200, FORM, "access_token=canary&token_type=bearer", Unreadable),
    // Refusals.
    (400, JSON, r#"{"error":"invalid_grant","error_description":"canary"}"#, Refused("invalid_grant", Terminal)),
    (400, JSON, r#"{"error":"unauthorized_client","error_description":"canary"}"#, Refused("unauthorized_client", Operator)),
    (401, JSON, r#"{"error":"invalid_client","error_uri":"https://canary"}"#, Refused("invalid_client", Operator)),
    (400, JSON, r#"{"error":"invalid_scope"}"#, Refused("invalid_scope", Operator)),
    (400, JSON, r#"{"error":"unsupported_grant_type"}"#, Refused("unsupported_grant_type", Operator)),
    (400, JSON, r#"{"error":"brand_new_code"}"#, Refused("brand_new_code", Operator)),
    (200, JSON, r#"{"error":"incorrect_client_credentials"}"#, Refused("incorrect_client_credentials", Operator)),
    (200, JSON, r#"{"error":"invalid_client","access_token":"canary","token_type":"Bearer"}"#, Refused("invalid_client", Operator)),
    (200, JSON, r#"{"error":"invalid_client","expires_in":"canary"}"#, Refused("invalid_client", Operator)),
    (500, JSON, r#"{"error":"server_error"}"#, Refused("server_error", Transient)),
    (503, JSON, r#"{"error":"invalid_client"}"#, Refused("invalid_client", Transient)),
    (429, JSON, r#"{"error":"invalid_request"}"#, Refused("invalid_request", Transient)),
    (400, JSON, r#"{"error":"temporarily_unavailable"}"#, Refused("temporarily_unavailable", Transient)),
    (400, JSON, r#"{"error":""}"#, Refused("", Operator)),
    (400, JSON, r#"{"error":"Canary canary"}"#, Refused("", Operator)),
    (400, JSON, r#"{"error":"canary\ncanary"}"#, Refused("", Operator)),
    (400, JSON, r#"{"error":{"message":"canary"}}"#, Refused("", Operator)),
    (200, JSON, r#"{"error":true,"access_token":"canary"}"#, Refused("", Operator)),
    (400, JSON, r#"{"error":400}"#, Refused("", Operator)),
    // HTTP errors without one.
    (400, JSON, r#"{"message":"canary"}"#, Status(Operator)),
    (400, JSON, r#"{"access_token":"canary"}"#, Status(Operator)),
    (401, "text/html", "canary", Status(Operator)),
    (403, "text/html", "canary", Status(Operator)),
    (404, "text/html", "canary", Status(Operator)),
    (408, "text/html", "canary", Status(Transient)),
    (429, "text/html", "canary", Status(Transient)),
    (500, "text/html", "canary", Status(Transient)),
    (502, "text/html", "<html>canary</html>", Status(Transient)),
    (504, JSON, "", Status(Transient)),
];

#[rustfmt::skip]
const GITHUB_ROWS: &[(u16, &str, &str, Expect)] = &[
    (200, FORM, "access_token=tok&scope=repo%2Cgist&token_type=bearer", Token(None, Some(&["repo", "gist"]))),
    (200, FORM, "access_token=tok&expires_in=28800&refresh_token=canary&token_type=bearer", Token(Some(28800), None)),
    (200, JSON, r#"{"access_token":"tok","token_type":"bearer","scope":"repo,gist"}"#, Token(None, Some(&["repo", "gist"]))),
    (200, FORM, "error=incorrect_client_credentials&error_description=canary", Refused("incorrect_client_credentials", Operator)),
    (200, FORM, "error=bad_refresh_token&access_token=canary", Refused("bad_refresh_token", Terminal)),
    (200, FORM, "access_token=canary&access_token=canary2", Unreadable),
    (200, FORM, "access_token=canary%0Aquit%3D1", Field("access_token")),
    (200, FORM, "access_token=canary+tok", Field("access_token")),
    (200, FORM, "access_token=canary%FF", Field("access_token")),
    (200, FORM, "access_token=tok&expires_in=-1", Field("expires_in")),
    (200, FORM, "", Field("access_token")),
    (200, FORM, "<html>canary</html>", Field("access_token")),
    (200, "text/plain", "access_token=canary&token_type=bearer", Unreadable),
    (404, FORM, "canary=canary", Status(Operator)),
];

async fn check(scm_id: &str, rows: &[(u16, &'static str, &'static str, Expect)]) {
    let issuer = FakeIssuer::start(&[APP]).await;
    let client = client();
    for (status, content_type, body, expect) in rows {
        issuer.set_manner(Manner::Fixed(*status, content_type, body.as_bytes().to_vec()));
        let result = ask(&client, &issuer, scm_id).await;
        if let Err(error) = &result {
            assert_keeps_quiet(error);
        }
        match (expect, result) {
            (Token(seconds, scopes), Ok(issued)) => {
                assert_eq!(issued.access_token.expose_secret(), "tok", "{body}");
                assert_eq!(issued.expires_in, seconds.map(Duration::from_secs), "{body}");
                assert_eq!(
                    issued.scopes.as_deref(),
                    scopes.map(|scopes| scopes.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).as_deref(),
                    "{body}"
                );
            }
            (Refused(code, class), Err(error)) => {
                assert_eq!(error.class(), *class, "{status} {body}");
                let Error::Refused { code: found, status: at, .. } = error else { panic!("{body}: {error:?}") };
                assert_eq!((found.as_str().unwrap_or_default(), at), (*code, *status), "{body}");
            }
            (Status(class), Err(error @ Error::Status { .. })) => assert_eq!(error.class(), *class, "{status} {body}"),
            (Field(name), Err(Error::ReplyField { field, .. })) => assert_eq!(field, *name, "{body}"),
            (Unreadable, Err(Error::ReplyUnreadable { .. })) => {}
            (expect, result) => panic!("{status} {body}: expected {expect:?}, got {result:?}"),
        }
    }
}

#[tokio::test]
async fn token_reply_matrix() {
    check("other", ROWS).await;
}

#[tokio::test]
async fn token_reply_matrix_of_a_host_that_answers_with_forms() {
    check("github", GITHUB_ROWS).await;
}

#[tokio::test]
async fn a_reply_up_to_the_limit_is_read_and_one_beyond_it_is_not() {
    let issuer = FakeIssuer::start(&[APP]).await;
    let client = client();
    let frame = r#"{"access_token":""}"#.len();
    for (size, fits) in [(64 * 1024, true), (64 * 1024 + 1, false), (1024 * 1024, false)] {
        let body = format!(r#"{{"access_token":"{}"}}"#, "t".repeat(size - frame));
        issuer.set_manner(Manner::Fixed(200, JSON, body.into_bytes()));
        match ask(&client, &issuer, "other").await {
            Ok(issued) => assert!(fits && issued.access_token.expose_secret().len() == size - frame, "{size}"),
            Err(error) => assert!(!fits && error.to_string().ends_with("is longer than 65536 bytes"), "{size}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_deeply_nested_reply_is_unreadable_and_harms_nothing() {
    let issuer = FakeIssuer::start(&[APP]).await;
    let client = client();
    for field in ["access_token", "unknown", "scope", "error"] {
        let body = format!(r#"{{"{field}":{}"#, "[".repeat(30_000));
        issuer.set_manner(Manner::Fixed(200, JSON, body.into_bytes()));
        assert!(matches!(ask(&client, &issuer, "other").await.unwrap_err(), Error::ReplyUnreadable { .. }), "{field}");
    }
}

#[tokio::test]
async fn a_reply_cut_off_at_any_byte_gives_no_token() {
    let issuer = FakeIssuer::start(&[APP]).await;
    let client = client();
    let body = br#"{"access_token":"tok","token_type":"Bearer","expires_in":3600,"scope":"a b"}"#;
    for end in 0..body.len() {
        issuer.set_manner(Manner::Fixed(200, JSON, body[..end].to_vec()));
        assert!(matches!(ask(&client, &issuer, "other").await.unwrap_err(), Error::ReplyUnreadable { .. }), "{end}");
    }
}
