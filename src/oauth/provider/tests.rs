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

fn user_plan(plan: Plan) -> UserPlan {
    let Plan::User(plan) = plan else { panic!("no user signs in: {plan:?}") };
    *plan
}

fn endpoints(plan: &UserPlan) -> &crate::oauth::UserEndpoints {
    let UserEndpointSource::Fixed(endpoints) = &plan.endpoints else { panic!("not known: {plan:?}") };
    endpoints
}

#[test]
fn each_family_s_endpoints_lie_where_its_host_is() {
    // SCM id, host, then: authorize, token, device, revocation, user info.
    let rows = [
        (
            "github",
            "GitHub.com",
            "https://github.com/login/oauth/authorize https://github.com/login/oauth/access_token https://github.com/login/device/code \
             https://api.github.com/applications https://api.github.com/user",
        ),
        (
            "github",
            "https://ghe.example.com:8443/",
            "https://ghe.example.com:8443/login/oauth/authorize https://ghe.example.com:8443/login/oauth/access_token \
             https://ghe.example.com:8443/login/device/code https://ghe.example.com:8443/api/v3/applications \
             https://ghe.example.com:8443/api/v3/user",
        ),
        (
            "github",
            "acme.ghe.com",
            "https://acme.ghe.com/login/oauth/authorize https://acme.ghe.com/login/oauth/access_token \
             https://acme.ghe.com/login/device/code - -",
        ),
        (
            "gitlab",
            "example.com/gitlab",
            "https://example.com/gitlab/oauth/authorize https://example.com/gitlab/oauth/token \
             https://example.com/gitlab/oauth/authorize_device https://example.com/gitlab/oauth/revoke \
             https://example.com/gitlab/oauth/userinfo",
        ),
        (
            "gitlab",
            "gitlab.com",
            "https://gitlab.com/oauth/authorize https://gitlab.com/oauth/token https://gitlab.com/oauth/authorize_device \
             https://gitlab.com/oauth/revoke https://gitlab.com/oauth/userinfo",
        ),
        (
            "bitbucket",
            "bb.example.com:7990/bitbucket",
            "https://bb.example.com:7990/bitbucket/rest/oauth2/latest/authorize \
             https://bb.example.com:7990/bitbucket/rest/oauth2/latest/token - - -",
        ),
        (
            "forgejo",
            "codeberg.org",
            "https://codeberg.org/login/oauth/authorize https://codeberg.org/login/oauth/access_token - - \
             https://codeberg.org/login/oauth/userinfo",
        ),
    ];
    for (scm_id, host, expected) in rows {
        let plan = user_plan(plan(scm_id, host, None, false, true, &[]));
        let found = endpoints(&plan);
        let revocation = found.revocation.as_ref().map(|revocation| match revocation {
            crate::oauth::Revocation::GitHub { applications } => applications,
            crate::oauth::Revocation::Standard(endpoint) => &endpoint.url,
        });
        let user_info = found.user_info.as_ref().map(|info| &info.url);
        let urls = [found.authorize.as_ref(), Some(&found.token), found.device.as_ref(), revocation, user_info];
        let shown: Vec<&str> = urls.iter().map(|url| url.map_or("-", Url::as_str)).collect();
        assert_eq!(shown.join(" "), expected, "{scm_id} {host}");
    }
}

#[test]
fn an_issuer_elsewhere_is_asked_where_users_sign_in_and_the_host_s_own_is_known() {
    for (scm_id, host, issuer) in [
        ("github", "github.com", "https://github.com/login/oauth"),
        ("gitlab", "example.com:8443/gitlab", "https://example.com:8443/gitlab"),
    ] {
        endpoints(&user_plan(plan(scm_id, host, Some(issuer), false, true, &[])));
    }
    for issuer in ["https://login.example.com", "https://gitlab.com:8443"] {
        let found = user_plan(plan("gitlab", "gitlab.com", Some(issuer), false, true, &[]));
        assert_eq!(found.endpoints, UserEndpointSource::Issuer(Box::new(issuer_of(issuer))));
    }
    let own = ProviderOverride { issuer: Some("https://own.example".into()), ..provider("gitlab.com") };
    let found = user_plan(plan("gitlab", "gitlab.com", Some("https://login.example.com"), false, true, &[own]));
    assert_eq!(found.issuer_host(), "own.example");
}

fn issuer_of(issuer: &str) -> UserIssuer {
    UserIssuer { authorize: None, device: None, issuer: Issuer::parse(issuer).unwrap() }
}

#[test]
fn the_operator_may_have_users_sign_in_anywhere() {
    let wanted = |host: &str| ProviderOverride { grant: Some(GrantKind::User), ..provider(host) };
    let bitbucket = user_plan(plan("bitbucket", "bitbucket.org", None, false, true, &[wanted("bitbucket.org")]));
    assert_eq!(endpoints(&bitbucket).token.as_str(), "https://bitbucket.org/site/oauth2/access_token");
    assert_eq!((bitbucket.rotation, bitbucket.redirect), (Rotation::Later, Redirect::Unknown));
    let tenant = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0";
    let entra = user_plan(plan("azuredevops_entra", "dev.azure.com", Some(tenant), false, true, &[wanted("dev.azure.com")]));
    assert_eq!(entra.scopes.unwrap(), ["499b84ac-1321-427f-aa17-267ca6975798/.default", "offline_access"]);
    assert!(entra.bearer && entra.rotation == Rotation::Never);
    let shared = "https://login.microsoftonline.com/organizations/v2.0";
    let Plan::None { reason } = plan("azuredevops_entra", "dev.azure.com", Some(shared), false, true, &[wanted("dev.azure.com")]) else {
        panic!("a shared tenant is taken");
    };
    assert!(reason.contains("organizations"), "{reason}");
    for scm_id in ["other", "azuredevops_server"] {
        assert_eq!(plan(scm_id, "git.example.com", None, false, true, &[wanted("git.example.com")]).kind(), "none");
    }
}

#[test]
fn only_some_hosts_let_the_browser_come_back_to_any_port_and_the_operator_s_word_stands_everywhere() {
    for (scm_id, any_port) in [("github", true), ("gitlab", true), ("bitbucket", false), ("gitea", false), ("forgejo", false)] {
        let found = user_plan(plan(scm_id, "git.example.com", None, false, true, &[]));
        assert_eq!(found.redirect, if any_port { Redirect::AnyPort } else { Redirect::Unknown }, "{scm_id}");
        assert_eq!(found.may_take_device_codes(), any_port, "{scm_id}");
        let registered = url("http://127.0.0.1:34106/");
        let own = ProviderOverride { redirect_uri: Some(registered.clone()), ..provider("git.example.com") };
        let found = user_plan(plan(scm_id, "git.example.com", None, false, true, &[own]));
        assert_eq!(found.redirect, Redirect::Registered(registered), "{scm_id}");
    }
}

#[test]
fn each_value_of_an_override_takes_the_place_of_what_is_known() {
    let own = ProviderOverride {
        authorize_url: Some(url("https://id.example.com/authorize")),
        bearer: Some(true),
        device_url: Some(url("https://id.example.com/device")),
        scopes: Some(Vec::new()),
        token_endpoint_auth: Some(ClientAuthentication::Post),
        username: Some("robot".into()),
        ..provider("gitlab.com")
    };
    let found = user_plan(plan("gitlab", "gitlab.com", None, false, true, std::slice::from_ref(&own)));
    let known = endpoints(&found);
    assert_eq!(known.authorize.as_ref().unwrap().as_str(), "https://id.example.com/authorize");
    assert_eq!(known.device.as_ref().unwrap().as_str(), "https://id.example.com/device");
    assert_eq!(known.token.as_str(), "https://gitlab.com/oauth/token");
    assert_eq!((known.client_authentication, known.scopes.len()), (ClientAuthentication::Post, 0));
    assert!(found.bearer && found.username == "robot");
    // A token from elsewhere is not revoked at the host, nor is its user asked for there.
    let elsewhere = ProviderOverride { token_url: Some(url("https://id.example.com/token")), ..own };
    let found = user_plan(plan("gitlab", "gitlab.com", None, false, true, std::slice::from_ref(&elsewhere)));
    let known = endpoints(&found);
    assert!(known.token.as_str() == "https://id.example.com/token" && known.revocation.is_none() && known.user_info.is_none());
    // What a host is may be said too.
    let kind = ProviderOverride { kind: Some("gitea".into()), ..provider("git.example.com") };
    let found = user_plan(plan("sourcehut", "git.example.com", None, false, true, &[kind]));
    assert_eq!((endpoints(&found).token.path(), found.terminal), ("/login/oauth/access_token", ["unauthorized_client"].as_slice()));
    let oidc = ProviderOverride { kind: Some("oidc".into()), ..provider("gitlab.com") };
    assert_eq!(plan("gitlab", "gitlab.com", Some("https://id.example.com"), false, true, &[oidc]).kind(), "service");
    // The bearer of the app's own token.
    let bearer = ProviderOverride { bearer: Some(false), ..provider("dev.azure.com") };
    let tenant = Some("https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0");
    assert!(service_plan(plan("azuredevops_entra", "dev.azure.com", tenant, false, true, &[])).bearer);
    assert!(!service_plan(plan("azuredevops_entra", "dev.azure.com", tenant, false, true, &[bearer])).bearer);
}

#[test]
fn an_unknown_scm_s_users_sign_in_where_the_issuer_turns_out_to_give_no_service_tokens() {
    let issuer = "https://id.example.com/realm";
    let found = service_plan(plan("sourcehut", "git.example.com", Some(issuer), false, true, &[]));
    let user = found.user.unwrap();
    assert_eq!(user.endpoints, UserEndpointSource::Issuer(Box::new(issuer_of(issuer))));
    assert_eq!((user.scopes, user.reason), (None, "the issuer gives no token for a client secret alone; a user signs in"));
    let promised = ProviderOverride { grant: Some(GrantKind::Service), ..provider("git.example.com") };
    assert!(service_plan(plan("sourcehut", "git.example.com", Some(issuer), false, true, &[promised])).user.is_none());
}

#[test]
fn the_names_in_clone_urls_are_facts_of_the_family_that_counts() {
    let username_names_nobody = |scm_id: &str, host: &str, kind: Option<&str>, grant: Option<GrantKind>| {
        let operator = ProviderOverride { kind: kind.map(str::to_owned), grant, ..provider(host) };
        match plan(scm_id, host, Some("https://id.example.com"), false, true, &[operator]) {
            Plan::Service(plan) => {
                assert!(plan.user.is_none_or(|user| user.username_names_nobody == plan.username_names_nobody));
                plan.username_names_nobody
            }
            Plan::User(plan) => plan.username_names_nobody,
            other => panic!("{scm_id} {host}: {other:?}"),
        }
    };
    for (scm_id, host, kind, expected) in [
        ("bitbucket", "bitbucket.org", None, true),
        ("bitbucket", "bb.example.com", None, true),
        ("azuredevops_entra", "dev.azure.com/acme", None, true),
        ("github", "github.com", None, false),
        ("gitlab", "gitlab.example.com", None, false),
        ("gitea", "gitea.example.com", None, false),
        ("custom", "scm.example.com", None, false),
        ("custom", "bb.example.com", Some("bitbucket"), true),
        ("custom", "ado.example.com", Some("azuredevops_entra"), true),
        ("bitbucket", "git.example.com", Some("gitlab"), false),
    ] {
        for grant in [None, Some(GrantKind::User), Some(GrantKind::Service)] {
            assert_eq!(username_names_nobody(scm_id, host, kind, grant), expected, "{scm_id} {host} {kind:?} {grant:?}");
        }
    }
}
