use super::*;

fn service_plan(plan: Plan) -> ServicePlan {
    match plan {
        Plan::Service(plan) => plan,
        other => panic!("not a service plan: {other:?}"),
    }
}

fn provider(host: &str) -> ProviderOverride {
    ProviderOverride { host: host.into(), ..ProviderOverride::default() }
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

#[test]
fn bitbucket_cloud_is_served_with_the_app_s_own_token_in_every_spelling_of_its_host() {
    for host in ["bitbucket.org", "BitBucket.org", "https://bitbucket.org/", "bitbucket.org:443"] {
        let plan = service_plan(plan("bitbucket", host, None, false, true, &[]));
        assert_eq!(plan.endpoint, EndpointSource::Fixed(url("https://bitbucket.org/site/oauth2/access_token")), "{host}");
        assert_eq!(plan.client_authentication, Some(ClientAuthentication::Basic));
        assert_eq!((plan.username.as_str(), plan.scopes.len()), ("x-token-auth", 0));
        assert_eq!(plan.issuer_host(), "bitbucket.org");
    }
    for host in ["notbitbucket.org", "bitbucket.org.evil.example", "bb.example.com:7990", "bitbucket.org:8443", "bitbucket.org/x"] {
        assert_eq!(plan("bitbucket", host, None, false, true, &[]).kind(), "user", "{host}");
    }
}

#[test]
fn an_issuer_on_bitbucket_cloud_itself_changes_nothing_and_another_one_is_asked() {
    let same = service_plan(plan("bitbucket", "bitbucket.org", Some("https://bitbucket.org"), false, true, &[]));
    assert!(matches!(same.endpoint, EndpointSource::Fixed(_)));
    let other = service_plan(plan("bitbucket", "bitbucket.org", Some("https://id.example.com"), false, true, &[]));
    assert_eq!(other.issuer_host(), "id.example.com");
}

#[test]
fn entra_needs_a_tenant_of_its_own() {
    let tenant = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0";
    let found = service_plan(plan("azuredevops_entra", "dev.azure.com/acme", Some(tenant), false, true, &[]));
    assert_eq!(found.scopes, ["499b84ac-1321-427f-aa17-267ca6975798/.default"]);
    assert_eq!(found.client_authentication, Some(ClientAuthentication::Post));
    assert!(!found.must_be_offered && !found.username.is_empty());
    for shared in ["common", "Organizations", "consumers"] {
        let issuer = format!("https://login.microsoftonline.com/{shared}/v2.0");
        let Plan::None { reason } = plan("azuredevops_entra", "dev.azure.com", Some(&issuer), true, true, &[]) else {
            panic!("{shared} is served");
        };
        assert!(reason.contains(&shared.to_lowercase()), "{reason}");
    }
    for issuer in [None, Some("")] {
        let found = plan("azuredevops_entra", "dev.azure.com", issuer, false, true, &[]);
        assert_eq!(found, Plan::None { reason: "the integration has no issuer URL".into() });
    }
}

#[test]
fn an_issuer_url_that_is_none_is_named_without_its_text() {
    for text in ["canary", "https://", "ftp://canary/", "https://u:canary@host/", "https://host/?canary=1", "https://host/#canary"] {
        let Plan::None { reason } = plan("other", "git.example.com", Some(text), false, true, &[]) else { panic!("{text} is taken") };
        assert!(reason.starts_with("the integration's issuer URL ") && !reason.contains("canary"), "{reason}");
    }
}

#[test]
fn where_the_secret_alone_is_not_enough_a_user_signs_in() {
    for (scm_id, host) in [
        ("github", "github.com"),
        ("gitlab", "example.com/gitlab"),
        ("bitbucket", "bb.example.com"),
        ("gitea", "gitea.com"),
        ("forgejo", "codeberg.org"),
    ] {
        for pat in [false, true] {
            let found = plan(scm_id, host, Some("https://id.example.com"), pat, true, &[]);
            assert!(matches!(found, Plan::User(ref plan) if plan.reason.ends_with("a user signs in")), "{scm_id}");
        }
    }
}

#[test]
fn without_an_app_only_a_personal_access_token_is_left() {
    for scm_id in ["github", "gitlab", "bitbucket", "azuredevops_entra", "azuredevops_server", "other"] {
        assert_eq!(plan(scm_id, "git.example.com", None, true, false, &[]), Plan::Pat);
        assert_eq!(plan(scm_id, "git.example.com", None, false, false, &[]).kind(), "none");
    }
    assert_eq!(plan("azuredevops_server", "ado.example.com", None, true, true, &[]), Plan::Pat);
    assert_eq!(plan("azuredevops_server", "ado.example.com", None, false, true, &[]).kind(), "none");
}

#[test]
fn an_unknown_scm_is_left_to_its_issuer_s_metadata_and_without_one_to_nobody() {
    let found = service_plan(plan("sourcehut", "git.example.com", Some("https://id.example.com/realm"), false, true, &[]));
    assert!(found.must_be_offered);
    assert_eq!(found.client_authentication, None);
    let Plan::None { reason } = plan("source\nhut", "git.example.com", None, false, true, &[]) else { panic!("served") };
    assert!(reason.contains("not known") && !reason.contains('\n'), "{reason}");
}

#[test]
fn the_operator_s_word_comes_before_the_table() {
    let host = "git.example.com:8443/root";
    let fixed = ProviderOverride {
        token_url: Some(url("https://id.example.com/token")),
        scopes: Some(vec!["read".into(), "write".into()]),
        username: Some("robot".into()),
        token_endpoint_auth: Some(ClientAuthentication::Post),
        ..provider(host)
    };
    for scm_id in ["github", "gitlab", "azuredevops_server", "other"] {
        let found = service_plan(plan(scm_id, "Git.Example.com:8443/root/", None, false, true, std::slice::from_ref(&fixed)));
        assert_eq!(found.endpoint, EndpointSource::Fixed(url("https://id.example.com/token")));
        assert_eq!((found.scopes.as_slice(), found.username.as_str()), (["read".to_owned(), "write".to_owned()].as_slice(), "robot"));
        assert_eq!(found.client_authentication, Some(ClientAuthentication::Post));
        assert!(!found.must_be_offered);
    }
    let user = ProviderOverride { grant: Some(GrantKind::User), ..fixed };
    assert_eq!(plan("bitbucket", host, None, false, true, &[user]).kind(), "user");
    let issuer = ProviderOverride { grant: Some(GrantKind::Service), issuer: Some("https://id.example.com".to_owned()), ..provider(host) };
    let found = service_plan(plan("gitlab", host, Some("https://elsewhere.example.com"), false, true, &[issuer]));
    assert_eq!((found.issuer_host().as_str(), found.must_be_offered), ("id.example.com", false));
    let nowhere = ProviderOverride { grant: Some(GrantKind::Service), ..provider(host) };
    assert_eq!(plan("gitlab", host, None, false, true, &[nowhere]).kind(), "none");
}

#[test]
fn an_override_is_for_its_own_host_alone() {
    let only = |host: &str| ProviderOverride { token_url: Some(url("https://id.example.com/token")), ..provider(host) };
    for host in ["git.example.com:8443", "example.com", "git.example.com.evil.example", "git.example.com/root"] {
        assert_eq!(plan("github", "git.example.com", None, false, true, &[only(host)]).kind(), "user", "{host}");
    }
    assert_eq!(plan("github", "git.example.com", None, false, true, &[only("GIT.example.com")]).kind(), "service");
}

#[test]
fn names_of_grants_and_authentications_are_the_registered_ones() {
    assert_eq!("client_secret_basic".parse(), Ok(ClientAuthentication::Basic));
    assert_eq!("client_secret_post".parse(), Ok(ClientAuthentication::Post));
    assert_eq!("service".parse(), Ok(GrantKind::Service));
    assert_eq!("user".parse(), Ok(GrantKind::User));
    assert_eq!(
        "Basic".parse::<ClientAuthentication>().unwrap_err().to_string(),
        "is neither \"client_secret_basic\" nor \"client_secret_post\""
    );
    assert!("".parse::<GrantKind>().is_err());
}
