//! git's credential protocol: hostile requests, and the same requests read by git itself.

use std::io::Write;
use std::process::{Command, Stdio};

use scm_agent::git::{CredentialRequest, RequestError};

use RequestError::{CarriageReturn, Control, Duplicate, LineTooLong, Missing, NotKeyValue, NotUtf8, Nul, TooLarge, UrlWithoutScheme};

/// Requests of which no part may be believed, and why each is refused.
fn hostile() -> Vec<(&'static str, Vec<u8>, RequestError)> {
    let table: &[(&str, &[u8], RequestError)] = &[
        // The holes that git had in this protocol.
        ("CVE-2020-5260: encoded newline in a host", b"url=https://evil.example?%0ahost=good.example/\n", Control { key: "path" }),
        ("CVE-2020-5260: encoded newline before the slash", b"url=https://evil.example%0ahost=good.example/\n", Control { key: "host" }),
        ("CVE-2020-5260: in the user", b"url=https://a%0ahost=good.example@evil.example/\n", Control { key: "username" }),
        ("CVE-2020-5260: in the path", b"url=https://evil.example/%0ahost=good.example\n", Control { key: "path" }),
        ("CVE-2020-5260: in the password", b"url=https://u:p%0ahost=good.example@evil.example/\n", Control { key: "password" }),
        ("CVE-2020-11008: no host", b"protocol=https\n", Missing { key: "host" }),
        ("CVE-2020-11008: no protocol", b"host=good.example\n", Missing { key: "protocol" }),
        ("CVE-2020-11008: empty host", b"protocol=https\nhost=\n", Missing { key: "host" }),
        ("CVE-2020-11008: empty protocol", b"protocol=\nhost=good.example\n", Missing { key: "protocol" }),
        ("CVE-2020-11008: url without host", b"url=https:///a\n", Missing { key: "host" }),
        ("CVE-2020-11008: url of a query only", b"url=https://?host=good.example\n", Missing { key: "host" }),
        ("CVE-2020-11008: url without protocol", b"url=://good.example/a\n", UrlWithoutScheme),
        ("CVE-2020-11008: relative url", b"url=//good.example/a\n", UrlWithoutScheme),
        ("CVE-2020-11008: url of a path", b"url=/a/b.git\n", UrlWithoutScheme),
        ("CVE-2024-50349: escape sequence in a host", b"url=https://good.example%1b%5b2K@evil.example%1b%5b0m/\n", Control { key: "host" }),
        ("CVE-2024-50349: raw escape sequence", b"protocol=https\nhost=evil.example\x1b[2Kgood.example\n", Control { key: "host" }),
        ("CVE-2024-50349: backspaces", b"protocol=https\nhost=evil.example\x08\x08\x08\n", Control { key: "host" }),
        ("CVE-2024-52006: bare CR in a host", b"protocol=https\nhost=evil.example\rhost=good.example\n", CarriageReturn { line: 2 }),
        ("CVE-2024-52006: encoded CR in a url", b"url=https://evil.example%0dhost=good.example/\n", Control { key: "host" }),
        ("CVE-2024-52006: encoded CR in a path", b"url=https://evil.example/a%0Dhost=good.example\n", Control { key: "path" }),
        // GCM's reader took a lone CR for a line end.
        ("CVE-2024-50338: bare CR in a path", b"protocol=https\nhost=a\npath=x\rhost=good.example\n", CarriageReturn { line: 3 }),
        ("bare CR in a user", b"protocol=https\nhost=a\nusername=x\rhost=good.example\n", CarriageReturn { line: 3 }),
        ("bare CR in a password", b"protocol=https\nhost=a\npassword=x\rhost=good.example\n", CarriageReturn { line: 3 }),
        ("bare CR in an unknown key", b"protocol=https\nhost=a\nne\rw=x\n", CarriageReturn { line: 3 }),
        ("bare CR in an unknown value", b"new=x\rhost=good.example\nprotocol=https\nhost=a\n", CarriageReturn { line: 1 }),
        ("bare CR in a challenge", b"wwwauth[]=Basic\rhost=good.example\nprotocol=https\nhost=a\n", CarriageReturn { line: 1 }),
        ("bare CR in a state", b"protocol=https\nhost=a\nstate[]=x\ry\n", CarriageReturn { line: 3 }),
        ("CR CR LF", b"protocol=https\nhost=good.example\r\r\n", CarriageReturn { line: 2 }),
        ("CR at the start of a line", b"protocol=https\n\rhost=good.example\n", CarriageReturn { line: 2 }),
        ("only CRs for line ends", b"protocol=https\rhost=good.example\r\r", CarriageReturn { line: 1 }),
        // NUL, where C strings end.
        ("NUL in a host", b"protocol=https\nhost=good.example\0.evil.example\n", Nul { line: 2 }),
        ("NUL in a protocol", b"protocol=https\0\nhost=a\n", Nul { line: 1 }),
        ("NUL in a key", b"protocol=https\nhost\0=a\n", Nul { line: 2 }),
        ("NUL in a password", b"protocol=https\nhost=a\npassword=p\0q\n", Nul { line: 3 }),
        ("NUL in an unknown value", b"protocol=https\nhost=a\nnew=\0\n", Nul { line: 3 }),
        ("NUL in a challenge", b"protocol=https\nhost=a\nwwwauth[]=\0\n", Nul { line: 3 }),
        ("encoded NUL in a host", b"url=https://good.example%00.evil.example/\n", Control { key: "host" }),
        ("encoded NUL in a path", b"url=https://a/b%00c\n", Control { key: "path" }),
        ("a NUL alone", b"\0", Nul { line: 1 }),
        // Other control bytes in what names something.
        ("tab in a host", b"protocol=https\nhost=a\tb\n", Control { key: "host" }),
        ("tab in a protocol", b"protocol=ht\ttps\nhost=a\n", Control { key: "protocol" }),
        ("DEL in a host", b"protocol=https\nhost=a\x7f\n", Control { key: "host" }),
        ("bell in a user", b"protocol=https\nhost=a\nusername=\x07\n", Control { key: "username" }),
        ("vertical tab in a path", b"protocol=https\nhost=a\npath=\x0b\n", Control { key: "path" }),
        ("form feed in a password", b"protocol=https\nhost=a\npassword=\x0c\n", Control { key: "password" }),
        ("encoded tab in a host", b"url=https://a%09b/\n", Control { key: "host" }),
        ("control byte in a scheme", b"url=ht\x01tps://a/\n", Control { key: "protocol" }),
        // Bytes that are no text.
        ("a host that is not UTF-8", b"protocol=https\nhost=\xff\xfe\n", NotUtf8 { key: "host" }),
        ("an overlong encoding of a slash", b"protocol=https\nhost=good.example\xc0\xaf\n", NotUtf8 { key: "host" }),
        ("an encoded path that is not UTF-8", b"url=https://a/%E9.git\n", NotUtf8 { key: "path" }),
        ("a lone surrogate", b"protocol=https\nhost=a\nusername=\xed\xa0\x80\n", NotUtf8 { key: "username" }),
        // Two readers that differ in which one counts.
        ("two hosts", b"protocol=https\nhost=evil.example\nhost=good.example\n", Duplicate { key: "host" }),
        ("the same host twice", b"protocol=https\nhost=a\nhost=a\n", Duplicate { key: "host" }),
        ("two protocols", b"protocol=http\nprotocol=https\nhost=a\n", Duplicate { key: "protocol" }),
        ("two paths", b"protocol=https\nhost=a\npath=x\npath=y\n", Duplicate { key: "path" }),
        ("two users", b"protocol=https\nhost=a\nusername=x\nusername=y\n", Duplicate { key: "username" }),
        ("two passwords", b"protocol=https\nhost=a\npassword=x\npassword=y\n", Duplicate { key: "password" }),
        ("two schemes", b"protocol=https\nhost=a\nauthtype=Basic\nauthtype=Bearer\n", Duplicate { key: "authtype" }),
        ("two credentials", b"protocol=https\nhost=a\ncredential=x\ncredential=y\n", Duplicate { key: "credential" }),
        ("escape sequence in a scheme", b"protocol=https\nhost=a\nauthtype=Bearer\x1b[2K\n", Control { key: "authtype" }),
        ("tab in a credential", b"protocol=https\nhost=a\ncredential=x\ty\n", Control { key: "credential" }),
        ("bare CR in a credential", b"protocol=https\nhost=a\ncredential=x\rhost=good.example\n", CarriageReturn { line: 3 }),
        ("NUL in a credential", b"protocol=https\nhost=a\ncredential=p\0q\n", Nul { line: 3 }),
        (
            "two expiries",
            b"protocol=https\nhost=a\npassword_expiry_utc=1\npassword_expiry_utc=2\n",
            Duplicate { key: "password_expiry_utc" },
        ),
        ("two urls", b"url=https://evil.example/\nurl=https://good.example/\n", Duplicate { key: "url" }),
        ("a host twice after a url", b"url=https://a/\nhost=b\nhost=c\n", Duplicate { key: "host" }),
        // What is no request at all.
        ("nothing", b"", Missing { key: "protocol" }),
        ("a blank line", b"\n", Missing { key: "protocol" }),
        ("a blank line first", b"\nprotocol=https\nhost=a\n", Missing { key: "protocol" }),
        ("a bare token", b"gho_canary\n", NotKeyValue { line: 1 }),
        ("a line without =", b"protocol=https\nhost\n", NotKeyValue { line: 2 }),
        ("a blank where the = belongs", b"protocol https\nhost=a\n", NotKeyValue { line: 1 }),
        ("a header", b"Host: good.example\n", NotKeyValue { line: 1 }),
        ("keys are case-sensitive", b"Protocol=https\nHOST=a\n", Missing { key: "protocol" }),
        ("keys are not trimmed", b" protocol=https\nhost =a\n", Missing { key: "protocol" }),
        ("an array of hosts is no host", b"protocol=https\nhost[]=good.example\n", Missing { key: "host" }),
    ];
    let mut rows: Vec<_> = table.iter().map(|(name, text, error)| (*name, text.to_vec(), *error)).collect();
    let long = |bytes: usize| [b"protocol=https\nhost=", "a".repeat(bytes).as_bytes(), b"\n"].concat();
    rows.push(("a line over git's limit", [b"x=", "y".repeat(65_533).as_bytes(), b"\n"].concat(), LineTooLong { line: 1 }));
    rows.push(("a request over 64 KiB", long(70_000), TooLarge));
    rows.push(("many lines over 64 KiB", b"x=y\n".repeat(16_385), TooLarge));
    rows
}

#[test]
fn a_hostile_request_is_refused_as_a_whole_and_never_quoted() {
    let rows = hostile();
    assert!(rows.len() >= 60);
    for (name, text, expected) in rows {
        let error = CredentialRequest::parse(&text).map(|_| ()).unwrap_err();
        assert_eq!(error, expected, "{name}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("good.example") && !shown.contains("canary") && !shown.contains("evil"), "{name}: {shown}");
    }
}

/// Look-alikes are well-formed: the parser hands them on as they are, and no rule below may turn one into another host.
#[test]
fn a_host_is_handed_on_byte_for_byte() {
    for host in [
        "github.com.evil.example",
        "notgithub.com",
        "github.com.",
        "GitHub.com",
        "github.com:443",
        "github.com@evil.example",
        "evil.example/github.com",
        "xn--gthub-cta.com",
        "g\u{131}thub.com",
        "github.com ",
        " github.com",
        "github.com%2eevil.example",
        "[::1]:8443",
        "github.com\u{3002}evil.example",
    ] {
        let request = CredentialRequest::parse(format!("protocol=https\nhost={host}\n").as_bytes()).unwrap();
        assert_eq!(request.host, host);
    }
}

/// What `git credential` itself reads from a request, printed back by `fill` since nothing is missing; `None` where it refuses.
fn read_by_git(request: &[u8]) -> Option<Vec<u8>> {
    let home = tempfile::tempdir().unwrap();
    let mut git = Command::new("git")
        .args(["-c", "credential.helper=", "-c", "credential.useHttpPath=true", "-c", "credential.interactive=false", "credential", "fill"])
        .current_dir(home.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home.path())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // git may stop reading early; that is an answer too.
    let _ = git.stdin.take().unwrap().write_all(request);
    let output = git.wait_with_output().unwrap();
    output.status.success().then_some(output.stdout)
}

#[test]
fn what_is_accepted_is_read_as_git_reads_it() {
    let user = "username=u\npassword=p\n";
    for (request, same) in [
        (format!("protocol=https\nhost=GitHub.com:443\npath=a//b/../c.git\n{user}"), true),
        (format!("protocol=https\r\nhost=a.example\r\n{user}"), true),
        (format!("protocol=https\nhost=a.example\nnew=1\nnews[]=2\n{user}\nhost=evil.example\n"), true),
        ("protocol=https\nhost=a.example\nusername=u=v\npassword=p=q==\n".to_owned(), true),
        ("url=https://u:p@a.example/x/y.git/\n".to_owned(), true),
        ("url=https://u:p@a.example:8443//x//\n".to_owned(), true),
        ("url=https://u:p@a.example?query=1\n".to_owned(), true),
        ("url=https://u:p@a.example#fragment/x\n".to_owned(), true),
        ("url=https://u%40v:p%3aq%2Fr@a.example/My%20Proj/_git/x\n".to_owned(), true),
        ("url=https://u:p:q@a.example/x\n".to_owned(), true),
        ("url=https://u:p@b@a.example/x\n".to_owned(), true),
        ("url=https://u:p@a%2eexample:80/x%3ay:z%20\n".to_owned(), true),
        ("url=https://u:p@a.example/%zz%4\n".to_owned(), true),
        ("url=https://u:p@[::1]:8443/x\n".to_owned(), true),
        (format!("url=https://a.example/x@y:z\n{user}"), true),
        (format!("url=https://a.example/x\nhost=b.example\npath=z\n{user}"), true),
        (format!("host=old\npath=old\nurl=https://a.example\n{user}"), true),
        (format!("protocol=https\n{user}"), false),
        (format!("host=a.example\n{user}"), false),
        (format!("url=a.example/x\n{user}"), false),
        (format!("url=https://a.example/%0a\n{user}"), false),
        (format!("protocol=https\nhost=a.example\nnonsense\n{user}"), false),
    ] {
        let ours = CredentialRequest::parse(request.as_bytes()).ok();
        let gits = read_by_git(request.as_bytes());
        assert_eq!((ours.is_some(), gits.is_some()), (same, same), "{request:?}");
        if let (Some(ours), Some(gits)) = (ours, gits) {
            let gits = CredentialRequest::parse(&gits).unwrap();
            assert_eq!((&ours.protocol, &ours.host, &ours.path), (&gits.protocol, &gits.host, &gits.path), "{request:?}");
            assert_eq!(ours.username, gits.username, "{request:?}");
            let (ours, gits) = (ours.password.unwrap(), gits.password.unwrap());
            assert_eq!(ours.expose_secret(), gits.expose_secret(), "{request:?}");
        }
    }
}
