use proptest::prelude::*;

use super::*;
use crate::status::Quarantine;

/// A row of the status that gives service tokens.
fn row(scm_id: &str, host: &str, virtual_directory: &str) -> Integration {
    Integration {
        scm_id: scm_id.to_owned(),
        virtual_directory: virtual_directory.to_owned(),
        ..crate::status::samples::integration(host, "service")
    }
}

/// The sections of some rows, each as its URL with `!` where ours is the only helper and `/` where git tells the path.
fn urls(rows: Vec<Integration>) -> Vec<String> {
    let mark = |on: bool, mark: &str| if on { mark.to_owned() } else { String::new() };
    wanted(&rows).iter().map(|one| format!("{}{} {}", mark(one.only, "!"), mark(one.use_http_path, "/"), one.url)).collect()
}

#[test]
fn a_whole_host_has_one_section() {
    assert_eq!(urls(vec![row("gitlab", "GitLab.example.com", "")]), ["! https://gitlab.example.com"]);
    assert_eq!(urls(vec![row("gitlab", "https://gitlab.example.com:443/", "")]), ["! https://gitlab.example.com"]);
    assert_eq!(urls(vec![row("gitlab", "[2001:DB8::1]:8443", "")]), ["! https://[2001:db8::1]:8443"]);
}

#[test]
fn a_github_has_its_gists_beside_it() {
    assert_eq!(urls(vec![row("github", "github.com", "")]), ["! https://gist.github.com", "! https://github.com"]);
    assert_eq!(urls(vec![row("github", "ghe.test:8443", "")]), ["! https://ghe.test:8443", "! https://gist.ghe.test:8443"]);
    assert_eq!(urls(vec![row("github", "192.0.2.1", "")]), ["! https://192.0.2.1"]);
    assert_eq!(urls(vec![row("github", "[2001:db8::1]", "")]), ["! https://[2001:db8::1]"]);
    // Gists have no organisation in their path.
    assert_eq!(urls(vec![row("github", "github.com/acme", "")]), ["/ https://github.com", "!/ https://github.com/acme"]);
    // What is registered itself is another's, whether it answers or not.
    let mut gist = row("custom", "gist.github.com", "");
    gist.grant = "none".to_owned();
    assert_eq!(urls(vec![row("github", "github.com", ""), gist]), ["! https://github.com"]);
}

#[test]
fn paths_have_sections_of_their_own_and_leave_the_rest_of_the_host_alone() {
    assert_eq!(
        urls(vec![row("azuredevops_entra", "dev.azure.com/Acme Corp", "")]),
        ["/ https://dev.azure.com", "!/ https://dev.azure.com/Acme%20Corp"]
    );
    assert_eq!(
        urls(vec![row("azuredevops_entra", "dev.azure.com/Acme", "")]),
        ["! https://acme.visualstudio.com", "/ https://dev.azure.com", "!/ https://dev.azure.com/Acme"]
    );
    assert_eq!(
        urls(vec![row("azuredevops_entra", "acme.visualstudio.com/DefaultCollection", "")]),
        ["! https://acme.visualstudio.com", "/ https://dev.azure.com", "!/ https://dev.azure.com/acme"]
    );
    assert_eq!(urls(vec![row("azuredevops_entra", "dev.azure.com", "")]), ["! https://*.visualstudio.com", "!/ https://dev.azure.com"]);
    let server = ["/ https://tfs.test", "!/ https://tfs.test/tfs/Main"];
    assert_eq!(urls(vec![row("azuredevops_server", "tfs.test", "/tfs/Main")]), server);
    assert_eq!(urls(vec![row("azuredevops_server", "tfs.test/tfs/Main", "tfs/Main/")]), server);
}

#[test]
fn several_on_a_host_need_the_path() {
    let rows = vec![row("gitlab", "scm.test", ""), row("gitlab", "scm.test/group/sub", "")];
    assert_eq!(urls(rows), ["!/ https://scm.test"]);
    let mut silent = row("gitlab", "scm.test/silent", "");
    silent.grant = "none".to_owned();
    assert_eq!(urls(vec![silent, row("gitlab", "scm.test/a+b", "")]), ["/ https://scm.test", "!/ https://scm.test/a%2Bb"]);
}

#[test]
fn only_what_can_answer_is_written() {
    let mut none = row("gitlab", "none.test", "");
    none.grant = "none".to_owned();
    let mut pat = row("gitlab", "pat.test", "");
    (pat.grant, pat.pat) = ("none".to_owned(), true);
    let mut held = row("gitlab", "held.test", "");
    held.quarantine = Some(Quarantine { change: String::new(), serving: false, fields: Vec::new() });
    let mut serving = row("gitlab", "serving.test", "");
    serving.quarantine = Some(Quarantine { change: String::new(), serving: true, fields: Vec::new() });
    assert_eq!(urls(vec![none, pat, held, serving]), ["! https://pat.test", "! https://serving.test"]);
}

#[test]
fn a_host_with_an_underscore_is_named_as_git_compares_it() {
    assert_eq!(urls(vec![row("gitlab", "git_lab.test:8443", "")]), ["! git_lab.test:8443", "! https://git_lab.test:8443"]);
}

#[test]
fn loopback_has_both_schemes() {
    assert_eq!(urls(vec![row("custom", "127.0.0.1:8080", "")]), ["! http://127.0.0.1:8080", "! https://127.0.0.1:8080"]);
    assert_eq!(urls(vec![row("custom", "http://localhost", "")]), ["! http://localhost", "! https://localhost:80"]);
}

#[test]
fn the_helper_is_told_of_a_socket_that_is_elsewhere() {
    assert_eq!(helper(Path::new(DEFAULT_SOCKET)).unwrap(), "scm-agent");
    assert_eq!(helper(Path::new("/a b/it's")).unwrap(), "scm-agent --socket '/a b/it'\\''s'");
    assert!(helper(Path::new("/a\nb")).is_err());
    let section = Section { url: "https://a.test".to_owned(), only: true, use_http_path: true };
    let expected = "[credential \"https://a.test\"]\n\thelper =\n\thelper = \"scm-agent --socket '/a;b'\"\n\tuseHttpPath = true\n";
    assert_eq!(render(&[section], "scm-agent --socket '/a;b'"), expected);
}

/// Hosts that try to be more than one line, one section or one host.
fn hostile() -> impl Strategy<Value = String> {
    let parts = proptest::sample::select(vec![
        "a.test",
        "dev.azure.com",
        "x.visualstudio.com",
        "git_hub",
        "/",
        "//",
        "..",
        "\"]",
        "\n",
        "\r",
        "\t",
        "[credential",
        "helper = !id",
        "\\",
        "#",
        ";",
        "%22",
        "%0a",
        "@",
        ":",
        "443",
        "*",
        " ",
        "\u{e9}",
        "\0",
        "https://",
        "http://",
        "?",
        "=",
        "'",
        "\u{202e}",
    ]);
    proptest::collection::vec(parts, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_host_ends_a_section_and_begins_another(host in hostile(), directory in hostile(), scm in proptest::sample::select(vec!["github", "azuredevops_server", "x"])) {
        let sections = wanted(&[row(scm, &host, &directory)]);
        let text = render(&sections, "scm-agent");
        let mut lines = text.lines();
        for section in &sections {
            let header = format!("[credential \"{}\"]", section.url);
            prop_assert_eq!(lines.next(), Some(header.as_str()));
            let rest = section.url.strip_prefix("https://").or_else(|| section.url.strip_prefix("http://")).unwrap_or(&section.url);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/%[]".contains(&byte);
            prop_assert!(rest.strip_prefix("*.").unwrap_or(rest).bytes().all(plain), "{}", section.url);
            if section.only {
                prop_assert_eq!(lines.next(), Some("\thelper ="));
            }
            prop_assert_eq!(lines.next(), Some("\thelper = scm-agent"));
            if section.use_http_path {
                prop_assert_eq!(lines.next(), Some("\tuseHttpPath = true"));
            }
        }
        prop_assert_eq!(lines.next(), None);
    }
}
