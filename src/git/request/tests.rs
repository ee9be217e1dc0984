use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> CredentialRequest {
    CredentialRequest::parse(text.as_bytes()).unwrap()
}

fn written(request: &CredentialRequest) -> Vec<u8> {
    let mut out = Vec::new();
    request.write(&mut out).unwrap();
    out
}

#[test]
fn a_request_as_git_sends_it_is_read() {
    let request = parse(
        "capability[]=authtype\ncapability[]=state\nprotocol=https\nhost=GitHub.com:443\npath=a//b.git\nusername=me\n\
         wwwauth[]=Basic realm=\"x=y\"\nwwwauth[]=Bearer\nstate[]=scm-agent:1\npassword=p=q==\npassword_expiry_utc=1900000000\n",
    );
    assert_eq!((request.protocol.as_str(), request.host.as_str()), ("https", "GitHub.com:443"));
    assert_eq!((request.path.as_deref(), request.username.as_deref()), (Some("a//b.git"), Some("me")));
    assert_eq!(request.password.unwrap().expose_secret(), b"p=q==");
    assert_eq!(request.password_expiry_utc, Some(1_900_000_000));
    assert_eq!(request.wwwauth, [&b"Basic realm=\"x=y\""[..], b"Bearer"]);
    assert_eq!(request.state, [b"scm-agent:1"]);
    assert_eq!(request.capabilities, [&b"authtype"[..], b"state"]);
}

#[test]
fn a_blank_line_and_the_end_both_end_a_request() {
    for end in ["", "\n", "\n\n", "\r\n\r\n", "\n\nhost=evil.example\n", "\n\ngarbage"] {
        let request = parse(&format!("protocol=https\nhost=a.example{end}"));
        assert_eq!(request.host, "a.example", "{end:?}");
    }
}

#[test]
fn lines_may_end_with_crlf() {
    let request = parse("protocol=https\r\nhost=a.example\r\nusername=\r\n\r\n");
    assert_eq!((request.host.as_str(), request.username.as_deref()), ("a.example", Some("")));
}

#[test]
fn unknown_keys_and_lists_are_ignored_and_may_hold_any_text() {
    let text = b"new=\xff\x01\nnew=2\nnews[]=a\n=x\noauth_refresh_token=r\noauth_refresh_token=r\nephemeral=1\nprotocol=https\nhost=a\n";
    let request = CredentialRequest::parse(text).unwrap();
    assert!(request.is_ephemeral && request.has_refresh_token);
    assert_eq!(written(&request), b"ephemeral=1\nprotocol=https\nhost=a\n");
}

#[test]
fn what_is_not_to_be_kept_is_known_and_its_refresh_token_forgotten() {
    for (lines, expected) in [
        ("", (false, false)),
        ("ephemeral=1\n", (true, false)),
        ("ephemeral=true\nephemeral=0\n", (true, false)),
        ("ephemeral=0\nephemeral=False\nephemeral=\nephemeral=off\nephemeral=no\n", (false, false)),
        ("oauth_refresh_token=canary\n", (false, true)),
        ("oauth_refresh_token=\n", (false, false)),
    ] {
        let request = parse(&format!("{lines}protocol=https\nhost=a\n"));
        assert_eq!((request.is_ephemeral, request.has_refresh_token), expected, "{lines:?}");
        assert!(!format!("{request:?}").contains("canary"));
    }
}

#[test]
fn an_empty_list_value_forgets_the_list() {
    let request = parse("state[]=a\nstate[]=\nstate[]=b\nwwwauth[]=a\nwwwauth[]=\ncapability[]=state\nprotocol=https\nhost=a\n");
    assert_eq!((request.state, request.wwwauth.len()), (vec![b"b".to_vec()], 0));
    assert_eq!(request.capabilities, [b"state"]);
}

#[test]
fn a_capability_is_known_by_its_whole_name() {
    let request = parse("capability[]=states\ncapability[]=authtype\nprotocol=https\nhost=a\n");
    assert!(request.has_capability("authtype"));
    assert!(!request.has_capability("state"));
}

#[test]
fn the_token_that_was_refused_is_the_one_that_git_sent() {
    for (lines, token) in [
        ("username=u\npassword=p\n", Some("p")),
        ("authtype=Bearer\ncredential=t\n", Some("t")),
        ("capability[]=authtype\nauthtype=bearer\ncredential=t\nephemeral=1\nusername=u\npassword=p\n", Some("t")),
        // Sent by another helper, and refused: the password was not.
        ("authtype=Basic\ncredential=dTpw\npassword=p\n", None),
        ("authtype=Digest\ncredential=t\n", None),
        ("credential=t\n", None),
        ("authtype=Bearer\n", None),
        ("username=u\n", None),
    ] {
        let request = parse(&format!("protocol=https\nhost=a\n{lines}"));
        assert_eq!(request.token().map(Password::expose_secret), token.map(str::as_bytes), "{lines:?}");
    }
}

#[test]
fn an_expiry_of_zero_or_of_no_number_is_never() {
    for never in ["0", "", "soon", "-1", "99999999999999999999999"] {
        assert_eq!(parse(&format!("protocol=https\nhost=a\npassword_expiry_utc={never}\n")).password_expiry_utc, None, "{never}");
    }
}

#[test]
fn a_url_forgets_what_came_before_and_is_overruled_by_what_comes_after() {
    let request = parse("username=old\npath=old\nstate[]=old\nhost=old\nurl=https://b.example/p\nusername=new\nprotocol=http\n");
    assert_eq!(written(&request), b"protocol=http\nhost=b.example\npath=p\nusername=new\n");
}

#[test]
fn an_empty_host_is_accepted_only_outside_http() {
    for text in ["protocol=cert\nhost=\npath=/client.p12\n", "url=cert:///client.p12\n", "url=file:///a/b\n"] {
        assert_eq!(parse(text).host, "", "{text:?}");
    }
    for text in ["protocol=https\nhost=\n", "protocol=HTTP\nhost=\n", "url=https:///a\n", "url=http://?a\n", "protocol=cert\n"] {
        assert_eq!(CredentialRequest::parse(text.as_bytes()).unwrap_err(), RequestError::Missing { key: "host" }, "{text:?}");
    }
}

#[test]
fn the_limits_are_git_s_own() {
    let line = |bytes: usize| format!("protocol=https\nhost=a\npath={}\n", "p".repeat(bytes - "path=\n".len()));
    let parse = |text: String| CredentialRequest::parse(text.as_bytes()).map(|_| ());
    assert_eq!(parse(line(MAX_REQUEST_BYTES - 22)), Ok(()));
    assert_eq!(parse(line(MAX_REQUEST_BYTES - 21)), Err(RequestError::TooLarge));
    let first = |bytes: usize| format!("{}={}\n", "x", "y".repeat(bytes - 3));
    assert_eq!(parse(first(MAX_LINE_BYTES)), Err(RequestError::Missing { key: "protocol" }));
    assert_eq!(parse(first(MAX_LINE_BYTES + 1)), Err(RequestError::LineTooLong { line: 1 }));
}

#[test]
fn debug_shows_neither_password_nor_user_name() {
    let shown =
        format!("{:?}", parse("url=https://canary-user:canary-word@a.example/p\ncredential=canary\nstate[]=canary\nwwwauth[]=canary\n"));
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("a.example"));
}

#[test]
fn errors_name_a_key_or_a_line_and_never_a_value() {
    let errors = [
        RequestError::CarriageReturn { line: 2 },
        RequestError::Control { key: "host" },
        RequestError::Duplicate { key: "host" },
        RequestError::LineTooLong { line: 2 },
        RequestError::Missing { key: "host" },
        RequestError::NotKeyValue { line: 2 },
        RequestError::NotUtf8 { key: "host" },
        RequestError::Nul { line: 2 },
        RequestError::TooLarge,
        RequestError::UrlWithoutScheme,
    ];
    for error in errors {
        let text = error.to_string();
        assert!(!text.ends_with('.') && !text.starts_with(|first: char| first.is_uppercase()), "{text}");
        assert!(["host", "line 2", "65536", "url"].iter().any(|named| text.contains(named)), "{text}");
    }
}

#[test]
fn a_request_with_a_line_end_in_a_value_is_not_written() {
    let request = CredentialRequest { host: "a\nhost=evil.example".into(), ..CredentialRequest::default() };
    assert_eq!(request.write(&mut Vec::new()).unwrap_err().key, "host");
}

/// Text without control characters, as every value that names something.
fn name() -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{1,12}"
}

/// Bytes that a line of git's protocol can carry.
fn value() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>().prop_filter("a byte that a line can carry", |byte| !b"\n\r\0".contains(byte)), 1..12)
}

/// What hostile values are made of.
const PIECES: &[&[u8]] =
    &[b"https", b"://", b"%0a", b"%0d", b"%00", b"\r", b"\0", b"\x1b", b"@", b":", b"/", b"a.example", b"\xff", b"a%20b", b"?", b"#"];

prop_compose! {
    fn request()(
        protocol in name(), host in name(), path in proptest::option::of(name()), username in proptest::option::of(name()),
        authtype in proptest::option::of(name()), credential in proptest::option::of(name()),
        password in proptest::option::of(name()), expiry in proptest::option::of(1_u64..), capabilities in proptest::collection::vec(value(), 0..3),
        is_ephemeral in any::<bool>(), wwwauth in proptest::collection::vec(value(), 0..3), state in proptest::collection::vec(value(), 0..3),
    ) -> CredentialRequest {
        CredentialRequest {
            protocol, host, path, username, authtype, credential: credential.map(|word| Password::from(word.as_bytes())), password: password.map(|word| Password::from(word.as_bytes())),
            password_expiry_utc: expiry, capabilities, is_ephemeral, has_refresh_token: false, wwwauth, state,
        }
    }
}

proptest! {
    #[test]
    fn reading_what_was_written_gives_the_same_request(request in request()) {
        let text = written(&request);
        let read = CredentialRequest::parse(&text).unwrap();
        prop_assert_eq!(written(&read), text);
        prop_assert_eq!((read.protocol, read.host, read.path, read.username), (request.protocol, request.host, request.path, request.username));
        prop_assert_eq!(read.password.map(|word| word.expose_secret().to_vec()), request.password.map(|word| word.expose_secret().to_vec()));
        prop_assert_eq!(read.credential.map(|word| word.expose_secret().to_vec()), request.credential.map(|word| word.expose_secret().to_vec()));
        prop_assert_eq!(read.authtype, request.authtype);
        prop_assert_eq!((read.password_expiry_utc, read.capabilities), (request.password_expiry_utc, request.capabilities));
        prop_assert_eq!((read.wwwauth, read.state), (request.wwwauth, request.state));
        prop_assert_eq!((read.is_ephemeral, read.has_refresh_token), (request.is_ephemeral, false));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = CredentialRequest::parse(&bytes);
    }

    #[test]
    fn near_requests_never_panic_and_never_carry_what_must_not_pass(
        lines in proptest::collection::vec(
            (
                prop_oneof!["(protocol|host|path|username|password|authtype|credential|url)", "(state|wwwauth|capability)\\[\\]", "[a-z=]{0,3}"],
                proptest::collection::vec(proptest::sample::select(PIECES), 0..6),
            ),
            0..6,
        )
    ) {
        let mut text = b"protocol=https\nhost=a.example\n".to_vec();
        for (key, value) in lines {
            text.extend_from_slice(key.as_bytes());
            text.push(b'=');
            text.extend_from_slice(&value.concat());
            text.push(b'\n');
        }
        if let Ok(request) = CredentialRequest::parse(&text) {
            prop_assert!(!request.protocol.is_empty());
            let named = [Some(&request.protocol), Some(&request.host), request.path.as_ref(), request.username.as_ref()];
            prop_assert!(named.into_iter().flatten().all(|value| !value.bytes().any(|byte| byte.is_ascii_control())));
            prop_assert!(request.write(&mut Vec::new()).is_ok());
        }
    }
}
