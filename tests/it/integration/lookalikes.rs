//! Hosts and paths made to be taken for registered ones: none may be answered.

use proptest::prelude::*;
use scm_agent::integration::location::Location;
use scm_agent::integration::registry::{IntegrationRegistry, Lookup};

use super::{integration, registry};

pub(super) fn victims() -> IntegrationRegistry {
    registry(vec![
        integration("gh", "github", "github.com"),
        integration("gl", "gitlab", "gitlab.com"),
        integration("bb", "bitbucket", "bitbucket.org"),
        integration("acme", "azuredevops_entra", "dev.azure.com/acme"),
        integration("beta", "azuredevops_entra", "dev.azure.com/beta"),
        integration("root", "gitlab", "example.com/gitlab"),
        integration("idn", "gitlab", "xn--bcher-kva.example"),
        integration("v6", "gitlab", "[2001:db8::1]"),
    ])
}

/// `protocol`, `host`, `path`: as bytes from git, whatever made git send them.
pub const HOSTILE: &[(&[u8], &[u8], &[u8])] = &[
    // Names around the name.
    (b"https", b"github.com.evil.tld", b"owner/repo"),
    (b"https", b"dev.azure.com.evil.tld", b"acme/p/_git/r"),
    (b"https", b"notgithub.com", b"owner/repo"),
    (b"https", b"notbitbucket.org", b"owner/repo"),
    (b"https", b"test.dev.azure.com", b"acme/p/_git/r"),
    (b"https", b"testdev.azure.com", b"acme/p/_git/r"),
    (b"https", b"github.com-evil.tld", b"owner/repo"),
    (b"https", b"github.comm", b"owner/repo"),
    (b"https", b"github.co", b"owner/repo"),
    (b"https", b"githubxcom", b"owner/repo"),
    (b"https", b"github-com", b"owner/repo"),
    (b"https", b"gitlab.github.com", b"owner/repo"),
    (b"https", b"www.github.com", b"owner/repo"),
    (b"https", b"api.github.com", b"owner/repo"),
    (b"https", b"gist-github.com", b"owner/repo"),
    (b"https", b"evil-gist.github.com", b"owner/repo"),
    (b"https", b"gist.github.com.evil.tld", b"0123.git"),
    (b"https", b"gist.gitlab.com", b"0123.git"),
    (b"https", b"ssh.github.com", b"owner/repo"),
    (b"https", b"altssh.gitlab.com", b"owner/repo"),
    (b"https", b"ssh.dev.azure.com", b"v3/acme/p/r"),
    (b"https", b"vs-ssh.visualstudio.com", b"v3/acme/p/r"),
    (b"https", b"com", b"github/owner/repo"),
    (b"https", b"github", b"owner/repo"),
    (b"https", b"acme.visualstudio.com.evil.tld", b"p/_git/r"),
    (b"https", b"acme.visualstudio.com", b"../../evil/_git/r"),
    (b"https", b"acme.notvisualstudio.com", b"p/_git/r"),
    (b"https", b"acmevisualstudio.com", b"p/_git/r"),
    (b"https", b"visualstudio.com", b"acme/_git/r"),
    (b"https", b".visualstudio.com", b"acme/_git/r"),
    (b"https", b"evil.acme.visualstudio.com", b"_git/r"),
    (b"https", b"acme-evil.visualstudio.com", b"_git/r"),
    // Parts of a URL in the host.
    (b"https", b"github.com@evil.tld", b"owner/repo"),
    (b"https", b"evil.tld@github.com", b"owner/repo"),
    (b"https", b"user:pw@github.com", b"owner/repo"),
    (b"https", b"evil.tld/github.com", b"owner/repo"),
    (b"https", b"github.com/evil.tld", b"owner/repo"),
    (b"https", b"evil.tld/.github.com", b"owner/repo"),
    (b"https", b"evil.tld#github.com", b"owner/repo"),
    (b"https", b"evil.tld?github.com", b"owner/repo"),
    (b"https", b"evil.tld\\github.com", b"owner/repo"),
    (b"https", b"github.com\\.evil.tld", b"owner/repo"),
    (b"https", b"github.com;evil.tld", b"owner/repo"),
    (b"https", b"github.com,evil.tld", b"owner/repo"),
    (b"https", b"https://github.com", b"owner/repo"),
    (b"https", b"//github.com", b"owner/repo"),
    (b"https", b"*.com", b"owner/repo"),
    (b"https", b"*", b"owner/repo"),
    // Dots, white space, control bytes, escapes.
    (b"https", b"", b"owner/repo"),
    (b"https", b".", b"owner/repo"),
    (b"https", b"github.com.", b"owner/repo"),
    (b"https", b".github.com", b"owner/repo"),
    (b"https", b"github..com", b"owner/repo"),
    (b"https", b" github.com", b"owner/repo"),
    (b"https", b"github.com ", b"owner/repo"),
    (b"https", b"github.com\t", b"owner/repo"),
    (b"https", b"github.com\r", b"owner/repo"),
    (b"https", b"github.com\nhost=evil.tld", b"owner/repo"),
    (b"https", b"github.com\0.evil.tld", b"owner/repo"),
    (b"https", b"github.com\x0b", b"owner/repo"),
    (b"https", b"github.com\x7f", b"owner/repo"),
    (b"https", b"github%2ecom", b"owner/repo"),
    (b"https", b"github.com%00.evil.tld", b"owner/repo"),
    (b"https", b"evil.tld%2f.github.com", b"owner/repo"),
    (b"https", b"github.com%0ahost=evil.tld", b"owner/repo"),
    // Ports.
    (b"https", b"github.com:444", b"owner/repo"),
    (b"https", b"github.com:80", b"owner/repo"),
    (b"https", b"github.com:", b"owner/repo"),
    (b"https", b"github.com:0443", b"owner/repo"),
    (b"https", b"github.com:+443", b"owner/repo"),
    (b"https", b"github.com:65979", b"owner/repo"),
    (b"https", b"github.com:443@evil.tld", b"owner/repo"),
    (b"https", b"github.com:443:443", b"owner/repo"),
    (b"https", b"github.com:https", b"owner/repo"),
    (b"https", b"github.com: 443", b"owner/repo"),
    // Scripts.
    (b"https", "gіthub.com".as_bytes(), b"owner/repo"),
    (b"https", "ｇｉｔｈｕｂ.com".as_bytes(), b"owner/repo"),
    (b"https", "github。com".as_bytes(), b"owner/repo"),
    (b"https", "github．com".as_bytes(), b"owner/repo"),
    (b"https", "ɡithub.com".as_bytes(), b"owner/repo"),
    (b"https", "githu\u{184}.com".as_bytes(), b"owner/repo"),
    (b"https", "git\u{200b}hub.com".as_bytes(), b"owner/repo"),
    (b"https", "gitlab.com\u{202e}".as_bytes(), b"owner/repo"),
    (b"https", "GİTHUB.COM".as_bytes(), b"owner/repo"),
    (b"https", "dev.azure.com/acme".as_bytes(), b"owner/repo"),
    (b"https", b"\xe7ithub.com", b"owner/repo"),
    (b"https", b"xn--gthub-n4a.com", b"owner/repo"),
    (b"https", b"xn--github-.com", b"owner/repo"),
    (b"https", "bücher.example".as_bytes(), b"owner/repo"),
    (b"https", b"bucher.example", b"owner/repo"),
    // Addresses.
    (b"https", b"2001:db8::1", b"owner/repo"),
    (b"https", b"[2001:db8::2]", b"owner/repo"),
    (b"https", b"[2001:db8::1%25eth0]", b"owner/repo"),
    (b"https", b"[2001:db8::1].evil.tld", b"owner/repo"),
    (b"https", b"[github.com]", b"owner/repo"),
    // Protocols.
    (b"http", b"github.com", b"owner/repo"),
    (b"", b"github.com", b"owner/repo"),
    (b"HTTPS ", b"github.com", b"owner/repo"),
    (b"https\0", b"github.com", b"owner/repo"),
    (b"httpss", b"github.com", b"owner/repo"),
    (b"ssh", b"github.com", b"owner/repo"),
    (b"ftp", b"github.com", b"owner/repo"),
    (b"cert", b"github.com", b"owner/repo"),
    (b"https://github.com", b"github.com", b"owner/repo"),
    // Paths out of, beside and around the prefix.
    (b"https", b"dev.azure.com", b"acme-evil/p/_git/r"),
    (b"https", b"dev.azure.com", b"acme.evil/p/_git/r"),
    (b"https", b"dev.azure.com", b"acm/p/_git/r"),
    (b"https", b"dev.azure.com", b"evil/acme/_git/r"),
    (b"https", b"dev.azure.com", b"acme/../evil/_git/r"),
    (b"https", b"dev.azure.com", b"evil/../acme/_git/r"),
    (b"https", b"dev.azure.com", b"acme/%2e%2e/evil/_git/r"),
    (b"https", b"dev.azure.com", b"acme/%252e%252e/evil/_git/r"),
    (b"https", b"dev.azure.com", b"acme%2f..%2fevil/_git/r"),
    (b"https", b"dev.azure.com", b"acme\\..\\evil/_git/r"),
    (b"https", b"dev.azure.com", b"acme/..\\evil/_git/r"),
    (b"https", b"dev.azure.com", b"acme/..;/evil/_git/r"),
    (b"https", b"dev.azure.com", b"acme%00/_git/r"),
    (b"https", b"dev.azure.com", b"acme\0/_git/r"),
    (b"https", b"dev.azure.com", b"acme /_git/r"),
    (b"https", b"dev.azure.com", b"acme;x/_git/r"),
    (b"https", b"dev.azure.com", b"acme?/_git/r"),
    (b"https", b"dev.azure.com", b"evil#/acme/_git/r"),
    (b"https", b"dev.azure.com", b"acme.git"),
    (b"https", b"dev.azure.com", b"acme.git/info/lfs"),
    (b"https", b"dev.azure.com", "аcme/_git/r".as_bytes()),
    (b"https", b"dev.azure.com", b"/"),
    (b"https", b"dev.azure.com", b"."),
    (b"https", b"example.com", b"gitlab-evil/group/project"),
    (b"https", b"example.com", b"gitlab%20/group/project"),
    (b"https", b"example.com", b"GITLAB/group/project"),
    (b"https", b"example.com", b"x/../gitlab/group/project"),
    (b"https", b"example.com", b"g/itlab/group/project"),
];

#[test]
fn no_lookalike_is_answered() {
    let registry = victims();
    assert!(HOSTILE.len() >= 100);
    for (protocol, host, path) in HOSTILE {
        let found = Location::from_git(protocol, host, Some(path), None, true).map(|location| registry.for_host(&location));
        assert!(
            matches!(found, Err(_) | Ok(Lookup::None)),
            "{} {} {}: {found:?}",
            String::from_utf8_lossy(protocol),
            String::from_utf8_lossy(host),
            String::from_utf8_lossy(path)
        );
    }
}

#[test]
fn the_registered_hosts_themselves_are_answered() {
    let registry = victims();
    for (host, path, id) in [
        ("github.com", "owner/repo", "gh"),
        ("gitlab.com", "owner/repo", "gl"),
        ("bitbucket.org", "owner/repo", "bb"),
        ("dev.azure.com", "acme/p/_git/r", "acme"),
        ("acme.visualstudio.com", "p/_git/r", "acme"),
        ("example.com", "gitlab/group/project", "root"),
        ("xn--bcher-kva.example", "owner/repo", "idn"),
        ("[2001:DB8:0::1]", "owner/repo", "v6"),
    ] {
        let location = Location::from_git(b"https", host.as_bytes(), Some(path.as_bytes()), None, false).unwrap();
        assert!(matches!(registry.for_host(&location), Lookup::Match(found) if found.id == id), "{host}");
    }
}

#[test]
fn a_user_name_with_control_bytes_is_refused() {
    for username in [&b"acme\0"[..], b"acme\r", b"acme\nhost=evil.tld", b"\x1b[2J"] {
        assert!(Location::from_git(b"https", b"dev.azure.com", None, Some(username), false).is_err());
    }
}

/// Hosts close enough to each other to be confused.
fn host() -> impl Strategy<Value = String> {
    let label = prop::sample::select(vec!["a", "b", "ab", "a-b", "gist", "dev", "azure", "com", "visualstudio", "A"]);
    let port = prop::sample::select(vec!["", "", ":443", ":80", ":8443"]);
    (prop::collection::vec(label, 1..4), port).prop_map(|(labels, port)| labels.join(".") + port)
}

fn path() -> impl Strategy<Value = Option<String>> {
    let segment = prop::sample::select(vec!["a", "A", "b", "ab", "a.git", "", ".", "DefaultCollection", "info", "lfs"]);
    prop::option::of(prop::collection::vec(segment, 0..5).prop_map(|segments| segments.join("/")))
}

/// A second opinion on which hosts are one: lower case, no default port, an organisation's two names.
fn plain(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    match host.strip_suffix(".visualstudio.com") {
        Some(organisation) if !organisation.contains('.') => "dev.azure.com".to_owned(),
        _ => host.to_owned(),
    }
}

/// The path segments that a second opinion sees in an integration's host or a request.
fn plain_segments(host: &str, path: &str) -> Vec<String> {
    let host = host.to_ascii_lowercase();
    let mut segments: Vec<String> = path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_ascii_lowercase).collect();
    let name = host.strip_suffix(":443").unwrap_or(&host);
    if let Some(organisation) = name.strip_suffix(".visualstudio.com").filter(|organisation| !organisation.contains('.')) {
        if segments.first().is_some_and(|first| first == "defaultcollection") {
            segments.remove(0);
        }
        segments.insert(0, organisation.to_owned());
    }
    segments
}

proptest! {
    #[test]
    fn an_answer_always_has_the_host_and_the_path_that_were_asked_for(
        registered in prop::collection::vec((host(), path(), prop::sample::select(vec!["github", "gitlab", "azuredevops_server"])), 1..8),
        asked_host in host(),
        asked_path in path(),
        username in prop::option::of(prop::sample::select(vec!["a", "ab", "x"])),
    ) {
        let integrations = registered.iter().enumerate().map(|(id, (host, path, scm))| {
            let host = format!("{host}/{}", path.clone().unwrap_or_default());
            integration(&id.to_string(), scm, &host)
        });
        let registry = registry(integrations.collect());
        prop_assert!(registry.rejected().is_empty());
        let location = Location::from_git(
            b"https", asked_host.as_bytes(), asked_path.as_deref().map(str::as_bytes), username.map(str::as_bytes), false,
        ).unwrap();
        let answers = match registry.for_host(&location) {
            Lookup::None => Vec::new(),
            Lookup::Match(integration) => vec![integration],
            Lookup::Ambiguous(several) => {
                prop_assert!(several.len() > 1);
                several
            }
        };
        for answer in answers {
            let (host, path) = answer.host.split_once('/').unwrap();
            let same = plain(host) == plain(&asked_host);
            let gist = answer.scm_id.as_str() == "github" && format!("gist.{}", plain(host)) == plain(&asked_host);
            prop_assert!(same || gist, "{} answered for {asked_host}", answer.host);
            if let Some(asked_path) = asked_path.as_deref().filter(|path| !path.is_empty()) && !gist {
                let strip = |segment: &String| segment.trim_end_matches(".git").to_owned();
                let covered: Vec<String> = plain_segments(host, path).iter().map(strip).collect();
                let asked: Vec<String> = plain_segments(&asked_host, asked_path).iter().map(strip).collect();
                let without_lfs: Vec<String> = covered.iter().take_while(|segment| *segment != "info").cloned().collect();
                prop_assert!(asked.starts_with(&without_lfs), "{} answered for {asked_host} {asked_path}", answer.host);
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        protocol in prop::sample::select(vec![&b"https"[..], b"http", b"x"]),
        host in prop::collection::vec(any::<u8>(), 0..40),
        path in prop::option::of(prop::collection::vec(any::<u8>(), 0..60)),
        username in prop::option::of(prop::collection::vec(any::<u8>(), 0..10)),
    ) {
        let registry = victims();
        if let Ok(location) = Location::from_git(protocol, &host, path.as_deref(), username.as_deref(), true) {
            let known = ["github.com", "gist.github.com", "gitlab.com", "bitbucket.org", "dev.azure.com", "example.com",
                "xn--bcher-kva.example", "[2001:db8::1]"];
            let ours = known.contains(&location.host()) || location.host().ends_with(".visualstudio.com");
            prop_assert!(ours || registry.for_host(&location) == Lookup::None);
        }
    }

    #[test]
    fn any_registered_text_is_a_pattern_or_a_reason(host in "\\PC{0,40}", directory in "\\PC{0,20}") {
        let mut integration = integration("i", "azuredevops_server", &host);
        integration.virtual_directory = directory;
        let registry = registry(vec![integration]);
        prop_assert_eq!(registry.integrations().len() + registry.rejected().len(), 1);
    }
}
