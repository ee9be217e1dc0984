//! The whole of a grant's life at each family of hosts.

use std::time::Duration;

use scm_agent::oauth::{Error, Revoked, Rotation};

use super::{Scene, hosts};
use crate::support::manners::{GITHUB, GITLAB, OIDC, Old, USER};

#[tokio::test]
async fn a_user_signs_in_with_a_browser_at_every_host() {
    for (name, scene) in hosts().await {
        let tokens = scene.by_browser().await;
        assert_eq!(scene.lives(&tokens), (true, true), "{name}");
        assert!(tokens.expires_in.is_some() && tokens.refresh_expires_in == Some(Duration::from_secs(15_897_600)), "{name}");
        assert!(tokens.scopes.is_some_and(|scopes| scopes == scene.endpoints.scopes), "{name}");
    }
}

#[tokio::test]
async fn a_user_signs_in_with_a_device_code_where_there_is_such_a_thing() {
    let mut offered = Vec::new();
    for (name, scene) in hosts().await {
        if scene.endpoints.device.is_none() {
            let refused = scene.begin_device().await.unwrap_err();
            assert!(matches!(refused, Error::FlowNotOffered { flow: "device flow", .. }), "{name}: {refused}");
            continue;
        }
        offered.push(name);
        let tokens = scene.by_device().await;
        assert_eq!(scene.lives(&tokens), (true, true), "{name}");
    }
    assert_eq!(offered, ["github", "gitlab", "entra", "oidc"]);
}

#[tokio::test]
async fn a_refresh_brings_a_new_pair_and_the_table_knows_what_becomes_of_the_old_one() {
    for (name, scene) in hosts().await {
        let first = scene.by_browser().await;
        let second = scene.refresh(first.refresh_token.as_ref().unwrap()).await.unwrap();
        assert_eq!(scene.lives(&second), (true, true), "{name}");
        assert!(second.scopes == first.scopes && second.refresh_token.is_some(), "{name}");
        let dies = scene.lives(&first) == (false, false);
        match scene.plan.rotation {
            Rotation::AtOnce => assert!(dies, "{name}"),
            Rotation::Later | Rotation::Never => assert!(!dies, "{name}"),
            Rotation::Unknown => {}
        }
        let third = scene.refresh(second.refresh_token.as_ref().unwrap()).await.unwrap();
        assert_eq!((scene.lives(&third), scene.host.refreshes_and_replays()), ((true, true), (2, 0)), "{name}");
    }
}

#[tokio::test]
async fn a_refresh_token_used_twice_ends_the_sign_in_by_each_host_s_name_for_it() {
    let mut codes = Vec::new();
    for (name, scene) in hosts().await {
        let first = scene.by_browser().await;
        let second = scene.refresh(first.refresh_token.as_ref().unwrap()).await.unwrap();
        match scene.refresh(first.refresh_token.as_ref().unwrap()).await {
            Err(Error::SignInOver { code, .. }) => codes.push((name, code.as_str().unwrap().to_owned())),
            Err(other) => panic!("{name}: {other:?}"),
            Ok(_) => assert!(matches!(scene.plan.rotation, Rotation::Later | Rotation::Never), "{name}"),
        }
        // Where rotation is avenged, the pair after it is gone too.
        let avenged = matches!(name, "gitlab" | "oidc");
        assert_eq!(scene.lives(&second).1, !avenged, "{name}");
    }
    let codes: Vec<(&str, &str)> = codes.iter().map(|(name, code)| (*name, code.as_str())).collect();
    let expected = [
        ("github", "bad_refresh_token"),
        ("gitlab", "invalid_grant"),
        ("bitbucket data center", "invalid_grant"),
        ("gitea", "unauthorized_client"),
        ("oidc", "invalid_grant"),
    ];
    assert_eq!(codes, expected);
}

#[tokio::test]
async fn a_grant_is_revoked_where_that_is_possible() {
    let mut possible = Vec::new();
    for (name, scene) in hosts().await {
        let tokens = scene.by_browser().await;
        match scene.revoke(&tokens).await.unwrap() {
            Revoked::NotOffered => assert_eq!(scene.lives(&tokens), (true, true), "{name}"),
            Revoked::Done => {
                possible.push((name, scene.host.revoked().len()));
                assert!(!scene.lives(&tokens).0, "{name}");
                // A second time it is gone already, which is as good; but GitHub was never told of the refresh token.
                let again = if name == "github" { Revoked::NotOffered } else { Revoked::Done };
                assert_eq!(scene.revoke(&tokens).await.unwrap(), again, "{name}");
            }
        }
    }
    // The refresh token goes first; GitHub is told of the access token only.
    assert_eq!(possible, [("github", 1), ("gitlab", 2), ("oidc", 2)]);
}

#[tokio::test]
async fn a_name_is_known_where_the_host_tells_it() {
    let mut known = Vec::new();
    for (name, scene) in hosts().await {
        let tokens = scene.by_browser().await;
        let scopes = tokens.scopes.clone().unwrap_or_default();
        let account = scene.client.account_name(&scene.endpoints, &scopes, &tokens.access_token).await.unwrap();
        known.extend(account.inspect(|account| assert_eq!(account, USER)).map(|_| name));
    }
    assert_eq!(known, ["github", "gitea", "oidc"]);
    // The git scopes do not open GitLab's user info; `openid` does.
    let scene = Scene::of_family("gitlab", GITLAB, "/gitlab").await;
    let tokens = scene.by_browser().await;
    let account = scene.client.account_name(&scene.endpoints, &["openid".to_owned()], &tokens.access_token).await.unwrap();
    assert_eq!(account.as_deref(), Some(USER));
}

#[tokio::test]
async fn without_a_lifetime_in_the_reply_the_host_s_known_one_counts() {
    let lifetime = |scene: Scene| async move { scene.by_browser().await.expires_in };
    assert_eq!(lifetime(Scene::of_family("gitlab", GITLAB, "/gitlab").await).await, Some(Duration::from_secs(7200)));
    let forever = crate::support::manners::Manners { expires_in: None, ..GITHUB };
    assert_eq!(lifetime(Scene::of_family("github", forever, "").await).await, None);
}

#[tokio::test]
async fn a_reply_without_a_refresh_token_is_told_from_one_with() {
    let manners = crate::support::manners::Manners { refresh_needs: Some("never asked for"), old: Old::Lives, ..OIDC };
    let tokens = Scene::of_issuer("other", manners).await.by_browser().await;
    assert!(tokens.refresh_token.is_none() && tokens.refresh_expires_in.is_none() && tokens.refresh_expires_at().is_none());
}

#[tokio::test]
async fn tokens_of_2500_characters_go_through_all_of_it() {
    let scene = Scene::of_operator("bitbucket", crate::support::manners::BITBUCKET).await;
    let first = scene.by_browser().await;
    let second = scene.refresh(first.refresh_token.as_ref().unwrap()).await.unwrap();
    assert!(second.access_token.expose_secret().len() > 2500 && second.refresh_token.unwrap().expose_secret().len() > 2500);
}
