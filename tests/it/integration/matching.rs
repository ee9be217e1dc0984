//! Which URLs belong to which integration, SCM by SCM.

use scm_agent::integration::location::{HostPattern, Location, NotServed, PatternError};
use scm_agent::integration::registry::Lookup;

use super::{answers, azure_server, check, integration, registry};

#[test]
fn github_answers_for_repositories_wikis_lfs_and_gists() {
    let registry = registry(vec![integration("gh", "github", "github.com"), integration("ghe", "github", "ghe.example.com:8443")]);
    check(
        &registry,
        &[
            ("https://github.com/owner/repo", "gh"),
            ("https://github.com/owner/repo.git", "gh"),
            ("https://github.com/owner/repo.git/", "gh"),
            ("https://github.com/owner/repo.wiki.git", "gh"),
            ("https://github.com/owner/repo.git/info/lfs", "gh"),
            ("https://user@github.com/owner/repo.git", "gh"),
            ("https://GitHub.com/Owner/Repo", "gh"),
            ("https://github.com:443/owner/repo", "gh"),
            ("https://github.com", "gh"),
            ("https://gist.github.com/0123abcd.git", "gh"),
            ("https://gist.github.com/owner/0123abcd.git", "gh"),
            ("https://ghe.example.com:8443/owner/repo.git", "ghe"),
            ("https://gist.ghe.example.com:8443/0123abcd.git", "ghe"),
            ("https://ghe.example.com/owner/repo.git", "-"),
            ("https://gist.ghe.example.com/0123abcd.git", "-"),
            ("https://gist.gist.github.com/x.git", "-"),
            ("https://api.github.com/owner/repo", "-"),
            ("http://github.com/owner/repo", "-"),
        ],
    );
}

#[test]
fn only_github_has_gists_and_only_where_no_integration_has_the_host() {
    let registry = registry(vec![
        integration("gh", "github", "github.com"),
        integration("own", "gitlab", "gist.github.com"),
        integration("gl", "gitlab", "gitlab.com"),
        integration("below", "github", "example.com/github"),
        integration("gist", "github", "gist.example.net"),
        integration("address", "github", "192.0.2.1"),
    ]);
    check(
        &registry,
        &[
            ("https://gist.github.com/x.git", "own"),
            ("https://gist.gist.github.com/x.git", "-"),
            ("https://gist.gitlab.com/x.git", "-"),
            ("https://gist.example.com/github/x.git", "-"),
            ("https://gist.192.0.2.1/x.git", "-"),
            ("https://gist.example.net/x.git", "gist"),
            ("https://gist.gist.example.net/x.git", "-"),
        ],
    );
}

#[test]
fn gitlab_answers_at_any_depth_and_below_its_relative_root_only() {
    let registry = registry(vec![
        integration("gl", "gitlab", "gitlab.com"),
        integration("port", "gitlab", "git.example.com:8443"),
        integration("root", "gitlab", "example.com/gitlab"),
    ]);
    check(
        &registry,
        &[
            ("https://gitlab.com/group/project.git", "gl"),
            ("https://gitlab.com/a/b/c/d/e/project.git", "gl"),
            ("https://git.example.com:8443/group/project.git", "port"),
            ("https://git.example.com/group/project.git", "-"),
            ("https://git.example.com:443/group/project.git", "-"),
            ("https://example.com/gitlab/group/project.git", "root"),
            ("https://example.com/gitlab/group/sub/project", "root"),
            ("https://example.com//gitlab/./group/project", "root"),
            ("https://example.com/gitlab", "root"),
            ("https://example.com/GitLab/group/project", "-"),
            ("https://example.com/gitlab-evil/group/project", "-"),
            ("https://example.com/gitlab.git", "-"),
            ("https://example.com/gitlab.git/info/lfs", "-"),
            ("https://example.com/other/gitlab/project", "-"),
            ("https://example.com/.", "-"),
            // To git an empty path is none.
            ("https://example.com/", "root"),
        ],
    );
}

#[test]
fn bitbucket_answers_in_the_cloud_and_below_a_context_path() {
    let registry = registry(vec![
        integration("cloud", "bitbucket", "bitbucket.org"),
        integration("dc", "bitbucket", "bb.example.com:7990/bitbucket"),
        integration("plain", "bitbucket", "stash.example.com"),
    ]);
    check(
        &registry,
        &[
            ("https://bitbucket.org/workspace/repo", "cloud"),
            ("https://user@bitbucket.org/workspace/repo.git", "cloud"),
            ("https://notbitbucket.org/workspace/repo.git", "-"),
            ("https://bb.example.com:7990/bitbucket/scm/KEY/repo.git", "dc"),
            ("https://bb.example.com:7990/bitbucket/scm/~user/repo.git", "dc"),
            ("https://bb.example.com:7990/scm/KEY/repo.git", "-"),
            ("https://bb.example.com:7990/bitbucket-evil/scm/KEY/repo.git", "-"),
            ("https://bb.example.com/bitbucket/scm/KEY/repo.git", "-"),
            ("https://stash.example.com/scm/~user/repo.git", "plain"),
        ],
    );
}

#[test]
fn an_azure_organisation_has_two_names_and_no_case() {
    for host in ["dev.azure.com/acme", "https://dev.azure.com/ACME/", "Acme.visualstudio.com", "acme.visualstudio.com/DefaultCollection"] {
        let registry =
            registry(vec![integration("acme", "azuredevops_entra", host), integration("b", "azuredevops_entra", "dev.azure.com/b")]);
        check(
            &registry,
            &[
                ("https://dev.azure.com/acme/project/_git/repo", "acme"),
                ("https://dev.azure.com/Acme/My%20Proj/_git/repo", "acme"),
                ("https://dev.azure.com/acme/_git/repo", "acme"),
                ("https://acme@dev.azure.com/acme/project/_git/repo", "acme"),
                ("https://somebody@dev.azure.com/acme/project/_git/repo", "acme"),
                ("https://acme.visualstudio.com/project/_git/repo", "acme"),
                ("https://acme.visualstudio.com/DefaultCollection/project/_git/repo", "acme"),
                ("https://ACME.VisualStudio.com/_git/repo", "acme"),
                ("https://dev.azure.com/b/project/_git/repo", "b"),
                ("https://b.visualstudio.com/project/_git/repo", "b"),
                ("https://dev.azure.com/acme-evil/project/_git/repo", "-"),
                ("https://dev.azure.com/evil/acme/_git/repo", "-"),
                ("https://acme@dev.azure.com/evil/project/_git/repo", "-"),
                ("https://evil.visualstudio.com/acme/_git/repo", "-"),
                ("https://visualstudio.com/acme/_git/repo", "-"),
                ("https://acme.evil.visualstudio.com/_git/repo", "-"),
                ("https://acme.visualstudio.com:8443/_git/repo", "-"),
                ("https://test.dev.azure.com/acme/_git/repo", "-"),
                ("https://testdev.azure.com/acme/_git/repo", "-"),
                ("https://dev.azure.com", "?acme,b"),
                // A path was told, so the user name is only that.
                ("https://acme@dev.azure.com/.", "-"),
            ],
        );
    }
}

#[test]
fn azure_without_a_path_goes_by_the_user_name_then_by_the_whole_host() {
    let acme = || integration("acme", "azuredevops_entra", "dev.azure.com/acme");
    let two = || vec![acme(), integration("beta", "azuredevops_entra", "beta.visualstudio.com")];
    let with_bare = || [two(), vec![integration("bare", "azuredevops_entra", "dev.azure.com")]].concat();
    let bare_only = || vec![integration("bare", "azuredevops_entra", "dev.azure.com")];
    let project = || vec![acme(), integration("deep", "azuredevops_entra", "dev.azure.com/acme/project")];
    for (integrations, url, expected) in [
        (two(), "https://acme@dev.azure.com/acme/p/_git/r", "acme"),
        (two(), "https://ACME@dev.azure.com/acme/p/_git/r", "acme"),
        (two(), "https://evil@dev.azure.com/acme/p/_git/r", "-"),
        (two(), "https://acme/p@dev.azure.com/", "-"),
        (two(), "https://dev.azure.com/acme/p/_git/r", "?acme,beta"),
        (two(), "https://beta.visualstudio.com/p/_git/r", "beta"),
        (two(), "https://acme@beta.visualstudio.com/p/_git/r", "beta"),
        (two(), "https://evil.visualstudio.com/p/_git/r", "-"),
        (with_bare(), "https://acme@dev.azure.com/acme/p/_git/r", "acme"),
        (with_bare(), "https://other@dev.azure.com/other/p/_git/r", "bare"),
        (with_bare(), "https://dev.azure.com/acme/p/_git/r", "bare"),
        (with_bare(), "https://other.visualstudio.com/p/_git/r", "bare"),
        (bare_only(), "https://dev.azure.com/acme/p/_git/r", "bare"),
        (vec![acme()], "https://dev.azure.com/acme/p/_git/r", "acme"),
        (vec![acme()], "https://evil@dev.azure.com/evil/p/_git/r", "-"),
        (project(), "https://acme@dev.azure.com/acme/project/_git/r", "acme"),
        (project(), "https://acme.visualstudio.com/project/_git/r", "acme"),
        (project(), "https://project@acme.visualstudio.com/project/_git/r", "acme"),
        (bare_only(), "https://other.visualstudio.com/p/_git/r", "bare"),
        (bare_only(), "https://not.other.visualstudio.com/p/_git/r", "-"),
        (bare_only(), "https://visualstudio.com/p/_git/r", "-"),
    ] {
        assert_eq!(answers(&registry(integrations), url, false), expected, "{url}");
    }
}

#[test]
fn without_a_path_only_the_sole_candidate_of_a_host_answers() {
    let gitlab = || integration("gl", "gitlab", "example.com/gitlab");
    let gitea = || integration("gt", "gitea", "example.com/gitea");
    let whole = || integration("whole", "github", "example.com");
    for (integrations, expected) in
        [(vec![whole()], "whole"), (vec![gitlab()], "gl"), (vec![gitlab(), gitea()], "?gl,gt"), (vec![whole(), gitlab()], "?gl,whole")]
    {
        for url in ["https://example.com/gitlab/group/project.git", "https://gitlab@example.com/gitlab/group/project.git"] {
            assert_eq!(answers(&registry(integrations.clone()), url, false), expected, "{url}");
        }
    }
}

#[test]
fn an_azure_server_answers_below_its_virtual_directory_whatever_the_case() {
    for directory in ["/tfs", "tfs", "/TFS/", "//tfs/."] {
        let registry = registry(vec![azure_server("ado", "ado.example.com:8080", directory)]);
        check(
            &registry,
            &[
                ("https://ado.example.com:8080/tfs/DefaultCollection/project/_git/repo", "ado"),
                ("https://ado.example.com:8080/TFS/Collection/_git/repo", "ado"),
                ("https://ado.example.com:8080/tfs/Collection/My%20Proj/_git/repo", "ado"),
                ("https://ado.example.com:8080/tfs-evil/Collection/_git/repo", "-"),
                ("https://ado.example.com:8080/Collection/_git/repo", "-"),
                ("https://ado.example.com/tfs/Collection/_git/repo", "-"),
            ],
        );
    }
    for directory in ["", "/"] {
        let registry = registry(vec![azure_server("ado", "ado.example.com", directory)]);
        check(&registry, &[("https://ado.example.com/Collection/project/_git/repo", "ado")]);
    }
    let twice = registry(vec![azure_server("ado", "ado.example.com/tfs", "/TFS")]);
    check(&twice, &[("https://ado.example.com/tfs/Collection/_git/repo", "ado"), ("https://ado.example.com/other", "-")]);
}

#[test]
fn the_longest_prefix_of_whole_segments_wins() {
    let registry = registry(vec![
        integration("whole", "github", "example.com"),
        integration("a", "gitlab", "example.com/a"),
        integration("ab", "gitlab", "example.com/a/b"),
        integration("repo", "gitlab", "example.com/a/b/repo.git"),
        azure_server("ado", "example.com", "/A/B/C"),
    ]);
    check(
        &registry,
        &[
            ("https://example.com/x/y", "whole"),
            ("https://example.com/ab/y", "whole"),
            ("https://example.com/a/y", "a"),
            ("https://example.com/a/bc/y", "a"),
            ("https://example.com/a/b/y", "ab"),
            ("https://example.com/a/b/repo", "repo"),
            ("https://example.com/a/b/repo.git", "repo"),
            ("https://example.com/a/b/repo.git/info/lfs", "repo"),
            ("https://example.com/a/b/repo.wiki.git", "ab"),
            ("https://example.com/a/b/c/_git/repo", "ado"),
            ("https://example.com/a%20/y", "whole"),
        ],
    );
}

#[test]
fn two_integrations_for_one_place_answer_for_nothing_there() {
    let with_pat = azure_server("b", "https://EXAMPLE.com:443/", "");
    let registry = registry(vec![
        integration("c", "github", "example.com"),
        with_pat,
        integration("below", "gitlab", "example.com/gitlab"),
        integration("a", "gitlab", "two.example.com/x"),
        azure_server("d", "two.example.com", "/X"),
    ]);
    check(
        &registry,
        &[
            ("https://example.com/owner/repo", "?b,c"),
            ("https://gist.example.com/0123", "c"),
            ("https://example.com/gitlab/group/project", "below"),
            ("https://two.example.com/x/project", "?a,d"),
            ("https://two.example.com/X/project", "d"),
        ],
    );
}

#[test]
fn what_a_registered_host_may_look_like_is_tolerated() {
    for (host, key, port, depth) in [
        ("github.com", "github.com", 443, 0),
        ("https://github.com", "github.com", 443, 0),
        ("HTTPS://GitHub.com/", "github.com", 443, 0),
        ("github.com:443", "github.com", 443, 0),
        ("git.example.com:8443//", "git.example.com", 8443, 0),
        ("example.com/gitlab/", "example.com", 443, 1),
        ("acme.visualstudio.com", "dev.azure.com", 443, 1),
        ("[2001:DB8::1]:8443/x", "[2001:db8::1]", 8443, 1),
        ("http://127.0.0.1:3000", "127.0.0.1", 3000, 0),
        ("http://localhost", "localhost", 80, 0),
    ] {
        let pattern = HostPattern::parse(&integration("i", "gitlab", host)).unwrap();
        assert_eq!((pattern.host(), pattern.port(), pattern.depth()), (key, port, depth), "{host}");
    }
}

#[test]
fn what_names_no_place_covers_nothing_and_says_why_without_the_value() {
    for (host, reason) in [
        ("", "host is empty"),
        ("/", "host is empty"),
        ("https://", "host is empty"),
        ("user:hunter2@example.com", "host has a user name before it"),
        ("http://example.com", "host has a scheme that is not https"),
        ("ssh://example.com", "host has a scheme that is not https"),
        ("http://localhost.evil.tld", "host has a scheme that is not https"),
        ("example.com?x=hunter2", "host has a query"),
        ("example.com/a?x", "host has a query"),
        ("example.com#x", "host has a fragment"),
        ("*.example.com", "host has a character that no host name has"),
        ("example.com.", "host ends with a dot"),
        (" example.com", "host has white space in it"),
        ("example.com/a/../b", "path in host has a segment that leads upwards"),
        ("example.com/a%20b", "path in host has a percent sign: its characters are written plainly"),
        ("example.com\\a", "host has a character that no host name has"),
        ("example.com/a\\b", "path in host has a backslash"),
        ("example.com:99999", "host has a port that is no number from 1 to 65535"),
        ("bücher.example", "host is not ASCII: an international name is written in its punycode form"),
    ] {
        let error = HostPattern::parse(&integration("i", "gitlab", host)).unwrap_err();
        assert_eq!(error.to_string(), reason, "{host}");
    }
    for (directory, reason) in [
        ("/tfs/../x", "virtual directory has a segment that leads upwards"),
        ("\\tfs", "virtual directory has a backslash"),
        ("/tfs?x", "virtual directory has a percent sign, a question mark or a number sign"),
        ("/tf%73", "virtual directory has a percent sign, a question mark or a number sign"),
    ] {
        let error = HostPattern::parse(&azure_server("i", "ado.example.com", directory)).unwrap_err();
        assert_eq!(error.to_string(), reason, "{directory}");
    }
    assert_eq!(HostPattern::parse(&integration("i", "gitlab", "http://example.com")), Err(PatternError::Scheme));
}

#[test]
fn plain_http_is_for_permitted_loopback_only() {
    let registry = registry(vec![
        integration("v4", "gitlab", "127.0.0.1:3000"),
        integration("v6", "gitlab", "http://[::1]"),
        integration("name", "gitlab", "localhost:3000"),
        integration("tls", "gitlab", "localhost"),
        integration("far", "gitlab", "example.com:80"),
    ]);
    for (host, expected) in [
        ("127.0.0.1:3000", Some("v4")),
        ("[::1]", Some("v6")),
        ("[::1]:80", Some("v6")),
        ("LocalHost:3000", Some("name")),
        ("localhost", None),
    ] {
        let location = Location::from_git(b"http", host.as_bytes(), Some(b"owner/repo"), None, true).unwrap();
        let found = match registry.for_host(&location) {
            Lookup::Match(integration) => Some(integration.id.clone()),
            _ => None,
        };
        assert_eq!(found.as_deref(), expected, "{host}");
        assert_eq!(Location::from_git(b"http", host.as_bytes(), None, None, false), Err(NotServed::Protocol), "{host}");
    }
    for host in
        ["example.com", "example.com:80", "127.0.0.2", "127.0.0.1.evil.tld", "localhost.evil.tld", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]"]
    {
        assert_eq!(Location::from_git(b"http", host.as_bytes(), None, None, true), Err(NotServed::Protocol), "{host}");
    }
}

#[test]
fn a_location_shows_neither_path_nor_user_name() {
    let location = Location::from_git(b"https", b"GitHub.com:443", Some(b"private/name"), Some(b"ghp_token"), false).unwrap();
    assert_eq!(location.to_string(), "https://github.com");
    assert_eq!((location.host(), location.port(), location.has_path()), ("github.com", 443, true));
    let shown = format!("{location:?}");
    assert!(!shown.contains("private") && !shown.contains("ghp_"), "{shown}");
    let location = Location::from_git(b"https", b"git.example.com:8443", None, None, false).unwrap();
    assert_eq!((location.host_port().as_str(), location.has_path()), ("git.example.com:8443", false));
}
