//! Tests of `api`: the client against a fake control plane, against hostile ones, and the file source.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use scm_agent::api::{Config, ControlPlane, Error, TokenSource};
use scm_agent::http;
use scm_agent::secret::BearerToken;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use crate::support::control_plane::FakeControlPlane;
use crate::support::http::Answer;

mod file;
pub(crate) mod hostile;
mod list;
mod refusals;
mod watch;

pub(crate) const RUNNER: &str = "0191e2d3-0000-7000-8000-00000000000a";
const TOKEN: &str = "ona_Canary7f3a9c0123456789abcdef";

/// A client that talks to loopback and waits long enough for any machine.
fn client(base_url: &str) -> ControlPlane {
    client_with(base_url, token(TOKEN), |_| ())
}

fn client_with(base_url: &str, token: TokenSource, change: impl FnOnce(&mut http::Config)) -> ControlPlane {
    let mut http = http::Config { allow_insecure_loopback: true, timeout: Duration::from_secs(60), ..http::Config::default() };
    change(&mut http);
    ControlPlane::new(Config { base_url: Url::parse(base_url).unwrap(), runner_id: RUNNER.into(), token, http }).unwrap()
}

fn token(text: &str) -> TokenSource {
    TokenSource::Environment { name: "ONA_API_KEY", token: BearerToken::parse(Zeroizing::new(text.as_bytes().to_vec())).unwrap() }
}

fn token_file(folder: &Path, text: &str) -> std::path::PathBuf {
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.join("token");
    let _ = std::fs::remove_file(&path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}

/// A control plane and a client for it. Making a client reads the machine's certificates, so many answers share one.
struct Scene {
    control_plane: FakeControlPlane,
    client: ControlPlane,
}

impl Scene {
    async fn start() -> Self {
        let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
        let client = client(&control_plane.base_url());
        Self { control_plane, client }
    }

    /// The client's error for this answer.
    async fn error(&self, answer: Answer) -> Error {
        self.outcome(answer).await.unwrap_err()
    }

    /// How many integrations the client makes of this answer, or its error.
    async fn outcome(&self, answer: Answer) -> Result<usize, Error> {
        self.control_plane.fail_next(1, answer);
        self.client.list_scm_integrations().await.map(|list| list.integrations.len())
    }
}

/// The UUID of the integration of this number.
fn id(number: usize) -> String {
    format!("0191e2d3-1111-7000-8000-{number:012}")
}

/// Integrations as an administrator might have registered them.
fn integrations(count: usize) -> Vec<Value> {
    let scm_ids = ["github", "gitlab", "bitbucket", "azuredevops_entra", "azuredevops_server", "forgejo"];
    (0..count)
        .map(|number| {
            json!({
                "id": id(number),
                "scmId": scm_ids[number % scm_ids.len()],
                "host": format!("git{number}.example"),
                "oauth": { "clientId": format!("client-{number}"), "encryptedClientSecret": "c2VhbGVk", "issuerUrl": "" },
                "pat": number % 2 == 0,
            })
        })
        .collect()
}

/// Serves for a client outside of this process, such as the vendor's own, until standard input ends:
/// `cargo test --test it -- --ignored serve_for_the_vendors_client` prints one line of JSON that says where and how.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "serves until standard input is closed; a client outside is the test"]
async fn serve_for_the_vendors_client() {
    let control_plane = FakeControlPlane::start(TOKEN, RUNNER).await;
    let mut all = integrations(250);
    all[0]["virtualDirectory"] = json!("/tfs");
    all[0]["oauth"]["issuerUrl"] = json!("https://login.example/tenant/v2.0");
    all.push(json!({ "id": id(900), "scmId": "github", "host": "other.example", "pat": true, "runnerId": id(901) }));
    control_plane.set_integrations(all);
    let about = json!({ "url": control_plane.base_url(), "token": TOKEN, "runnerId": RUNNER, "integrations": 250 });
    // Not through `println`, which the test harness keeps to itself.
    writeln!(std::io::stdout(), "{about}").unwrap();
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await.unwrap().unwrap();
}
