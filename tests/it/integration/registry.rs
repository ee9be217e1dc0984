//! The table of integrations: ids, refusals, size.

use scm_agent::integration::registry::{IntegrationRegistry, Lookup};
use scm_agent::integration::source::{IntegrationList, RejectedIntegration};

use super::{answers, asked, integration, list, registry};

#[test]
fn what_covers_no_place_is_listed_with_its_reason_and_the_others_serve() {
    let unread = RejectedIntegration { id: None, position: 1, reason: "id is missing".to_owned() };
    let integrations = vec![
        integration("good", "github", "github.com"),
        integration("bad", "gitlab", "user@gitlab.com"),
        integration("new", "some_new_scm", "scm.example.com"),
    ];
    let registry = IntegrationRegistry::new(IntegrationList { rejected: vec![unread.clone()], ..list(integrations) });
    let bad = RejectedIntegration { id: Some("bad".to_owned()), position: 2, reason: "host has a user name before it".to_owned() };
    assert_eq!(registry.rejected(), [unread, bad]);
    assert_eq!(registry.integrations().iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["good", "new"]);
    assert_eq!(registry.get("new").unwrap().host, "scm.example.com");
    assert!(registry.get("bad").is_none() && registry.get("").is_none());
    assert_eq!(answers(&registry, "https://github.com/owner/repo", true), "good");
    assert_eq!(answers(&registry, "https://scm.example.com/owner/repo", true), "new");
    assert_eq!(answers(&registry, "https://gitlab.com/owner/repo", true), "-");
}

#[test]
fn an_entry_told_twice_counts_once() {
    let registry = registry(vec![integration("a", "github", "github.com"), integration("a", "github", "github.com")]);
    assert_eq!((registry.integrations().len(), registry.rejected().len()), (1, 0));
    assert_eq!(answers(&registry, "https://github.com/owner/repo", true), "a");
}

#[test]
fn different_entries_with_one_id_serve_nobody() {
    let registry = registry(vec![
        integration("a", "github", "github.com"),
        integration("b", "gitlab", "gitlab.com"),
        integration("a", "github", "evil.tld"),
        integration("a", "github", "github.com"),
    ]);
    assert_eq!(registry.integrations().len(), 1);
    let places: Vec<_> = registry.rejected().iter().map(|entry| (entry.position, entry.reason.as_str())).collect();
    let reason = "another integration has the same id";
    assert_eq!(places, [(0, reason), (2, reason), (3, reason)]);
    assert_eq!(answers(&registry, "https://github.com/owner/repo", true), "-");
    assert_eq!(answers(&registry, "https://evil.tld/owner/repo", true), "-");
}

#[test]
fn an_empty_list_answers_for_nothing() {
    assert_eq!(answers(&registry(Vec::new()), "https://github.com/owner/repo", false), "-");
    assert_eq!(IntegrationRegistry::default().for_host(&asked("https://github.com", true).unwrap()), Lookup::None);
}

#[test]
fn ten_thousand_integrations_are_each_found() {
    let hosts = (0..5_000).map(|n| integration(&format!("host-{n}"), "gitlab", &format!("git{n}.example.com")));
    let organisations = (0..5_000).map(|n| integration(&format!("org-{n}"), "azuredevops_entra", &format!("dev.azure.com/org{n}")));
    let registry = IntegrationRegistry::new(list(hosts.chain(organisations).collect()));
    assert_eq!(registry.integrations().len(), 10_000);
    for n in (0..5_000).step_by(7) {
        assert_eq!(answers(&registry, &format!("https://git{n}.example.com/a/b.git"), false), format!("host-{n}"));
        assert_eq!(answers(&registry, &format!("https://dev.azure.com/ORG{n}/p/_git/r"), true), format!("org-{n}"));
        assert_eq!(answers(&registry, &format!("https://org{n}@dev.azure.com/org{n}/p/_git/r"), false), format!("org-{n}"));
        assert_eq!(answers(&registry, &format!("https://org{n}.visualstudio.com/p/_git/r"), false), format!("org-{n}"));
    }
    assert_eq!(answers(&registry, "https://dev.azure.com/org5000/p/_git/r", true), "-");
    assert!(answers(&registry, "https://dev.azure.com/org1/p/_git/r", false).starts_with("?org-0,"));
}

#[test]
fn those_that_cover_the_same_place_are_named_and_answer_nothing() {
    let registry = registry(vec![
        integration("b", "gitlab", "scm.example.com"),
        integration("a", "gitlab", "https://SCM.example.com:443/"),
        integration("c", "gitlab", "scm.example.com/team"),
        integration("e", "azuredevops_entra", "dev.azure.com/Acme"),
        integration("d", "azuredevops_entra", "acme.visualstudio.com"),
    ]);
    let contested: Vec<Vec<&str>> = registry.contested().iter().map(|alike| alike.iter().map(|one| one.id.as_str()).collect()).collect();
    assert_eq!(contested, [["b", "a"], ["e", "d"]]);
    assert_eq!(answers(&registry, "https://scm.example.com/other/repo", true), "?a,b");
    assert_eq!(answers(&registry, "https://scm.example.com/team/repo", true), "c");
}
