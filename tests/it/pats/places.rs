//! To which places a kept token goes, and to which it never does.

use serde_json::json;

use super::{accounts, credential, integration, pair};
use crate::support::daemon::{Daemon, git_with_helper, run};
use crate::support::world::World;

struct Places {
    world: World,
    daemon: Daemon,
}

impl Places {
    async fn new(integrations: &[serde_json::Value]) -> Self {
        let world = World::with_key(crate::binaries(), "x25519");
        world.write_list(integrations);
        let daemon = world.start(&world.config("")).await;
        daemon.until_synced().await;
        Self { world, daemon }
    }

    async fn ask(&self, operation: &str, host: &str, path: &str, lines: &str) -> String {
        let path = if path.is_empty() { String::new() } else { format!("path={path}\n") };
        self.daemon.ask(&format!("scm-agent/1 {operation}\nprotocol=https\nhost={host}\n{path}{lines}\n")).await
    }

    async fn store(&self, host: &str, path: &str, user: &str, token: &str) {
        assert_eq!(self.ask("store", host, path, &format!("username={user}\npassword={token}\n")).await, "\n");
    }

    async fn get(&self, host: &str, path: &str, lines: &str) -> Option<(String, String)> {
        credential(&self.ask("get", host, path, lines).await)
    }
}

#[tokio::test]
async fn azure_devops_server_takes_a_token_for_its_virtual_directory_and_nothing_beside_it() {
    let mut tfs = integration(1, "azuredevops_server", "devops.example.com", true);
    tfs["virtualDirectory"] = json!("/tfs");
    let places = Places::new(&[tfs]).await;
    let host = "devops.example.com";
    // Without a path, or beside the directory, it is somewhere else.
    for path in ["", "tfsx/Collection/_git/r", "other/tfs/_git/r", "tfs/../other"] {
        places.store(host, path, "", "pat").await;
    }
    let alone = accounts(&places.daemon).await;
    let without_path = places.get(host, "", "").await.is_some();
    assert_eq!(alone.as_array().unwrap().len(), usize::from(without_path), "kept where it would be answered, and nowhere else");
    places.store(host, "tfs/Collection/Project/_git/repo", "", "pat").await;
    for (path, served) in [
        ("tfs/Collection/Project/_git/repo", true),
        ("tfs/Other", true),
        ("tfs", true),
        ("tfsx/Collection/_git/r", false),
        ("tfs/../other", false),
        ("other/tfs/_git/r", false),
    ] {
        assert_eq!(places.get(host, path, "").await, pair("oauth2", "pat").filter(|_| served), "{path:?}");
    }
    assert_eq!(places.get("devops.example.com:8443", "tfs/Collection", "").await, None);
    assert_eq!(places.get("devops.example.com.evil.example", "tfs/Collection", "").await, None);
    // Any user name will do there, so the one in the URL asks for nobody in particular.
    assert_eq!(places.get(host, "tfs/C", "username=DOMAIN\\mona\n").await, pair("oauth2", "pat"));

    // git with useHttpPath, whose user had pressed Enter for a name: without one it would send nothing. Its `store` is of the same token.
    let mut command = git_with_helper(places.world.directory(), &places.world.binaries.helper, places.daemon.socket());
    command.args(["-c", "credential.useHttpPath=true", "credential", "fill"]);
    let filled = run(command, "url=https://devops.example.com/tfs/Collection/Project/_git/repo\n\n").await;
    let text = String::from_utf8(filled.stdout).unwrap();
    assert!(filled.status.success() && text.contains("username=oauth2\n") && text.contains("password=pat\n"), "{text}");
    places.store(host, "tfs/Collection/Project/_git/repo", "oauth2", "pat").await;
    assert_eq!(accounts(&places.daemon).await.as_array().unwrap().len(), 1);
    // With the name of the URL, git's `erase` still means the token.
    places.ask("erase", host, "tfs/C", "username=DOMAIN\\mona\npassword=pat\n").await;
    assert_eq!(accounts(&places.daemon).await, json!([]));
}

#[tokio::test]
async fn two_integrations_on_a_host_have_tokens_of_their_own_and_without_a_path_nothing_is_kept() {
    let places = Places::new(&[
        integration(1, "azuredevops_entra", "dev.azure.com/acme", true),
        integration(2, "azuredevops_entra", "dev.azure.com/umbrella", true),
    ])
    .await;
    let host = "dev.azure.com";
    places.store(host, "", "somebody", "lost").await;
    assert_eq!(accounts(&places.daemon).await, json!([]));
    // The organisation in place of a user name says which.
    places.store(host, "", "acme", "pat-acme").await;
    places.store(host, "umbrella/p/_git/r", "umbrella", "pat-umbrella").await;
    assert_eq!(places.get(host, "acme/p/_git/r", "").await, pair("acme", "pat-acme"));
    assert_eq!(places.get(host, "", "username=acme\n").await, pair("acme", "pat-acme"));
    assert_eq!(places.get(host, "umbrella/p/_git/r", "username=somebody\n").await, pair("umbrella", "pat-umbrella"));
    assert_eq!(places.get(host, "", "").await, None);
    // Whatever the place leaves open, the token itself settles; without one, nothing is meant.
    places.ask("erase", host, "", "").await;
    places.ask("erase", host, "", "username=acme\npassword=pat-acme\n").await;
    assert_eq!((places.get(host, "acme/p", "").await, places.get(host, "umbrella/p", "").await), (None, pair("umbrella", "pat-umbrella")));
}

#[tokio::test]
async fn a_token_does_not_follow_its_integration_to_another_host() {
    let places = Places::new(&[integration(1, "gitlab", "one.example.com", true)]).await;
    places.store("one.example.com", "", "mona", "pat-1").await;
    places.world.write_list(&[integration(1, "gitlab", "two.example.com", true)]);
    places.daemon.until(|status| status["integrations"][0]["host"] == "two.example.com").await;
    for host in ["one.example.com", "two.example.com"] {
        assert_eq!(places.get(host, "", "").await, None, "{host}");
    }
    let shown = accounts(&places.daemon).await;
    assert_eq!(
        (shown[0]["state"].as_str(), shown[0]["last_error"].as_str()),
        (Some("needs_login"), Some("its integration has changed since"))
    );
    // The new host's own takes its place.
    places.store("two.example.com", "", "mona", "pat-2").await;
    assert_eq!(places.get("two.example.com", "", "").await, pair("mona", "pat-2"));
    places.world.write_list(&[integration(1, "gitlab", "one.example.com", true)]);
    places.daemon.until(|status| status["integrations"][0]["host"] == "one.example.com").await;
    assert_eq!(places.get("one.example.com", "", "").await, None);
}

#[tokio::test]
async fn hosts_that_are_not_exactly_ours_have_nothing_kept() {
    let places = Places::new(&[integration(1, "github", "github.example.com", true)]).await;
    for host in [
        "github.example.com.evil.example",
        "xgithub.example.com",
        "github.example.com:8443",
        "github.example.co",
        "example.com",
        "github.example.com.",
    ] {
        places.store(host, "", "mona", "pat").await;
        assert_eq!((places.get(host, "", "").await, accounts(&places.daemon).await), (None, json!([])), "{host}");
    }
    let http = places.daemon.ask("scm-agent/1 store\nprotocol=http\nhost=github.example.com\nusername=mona\npassword=pat\n\n").await;
    assert_eq!((http.as_str(), accounts(&places.daemon).await), ("\n", json!([])));
    places.store("GitHub.Example.com:443", "", "mona", "pat").await;
    assert_eq!(places.get("github.example.com", "any/path", "").await, pair("mona", "pat"));
}
