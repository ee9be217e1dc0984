//! The real daemon behind proxies and a private CA, and how it tells what stands in its way.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::control_plane::FakeControlPlane;
use crate::support::daemon::{Daemon, run};
use crate::support::http::TestAuthority;
use crate::support::issuer::FakeIssuer;
use crate::support::proxy::{FakeProxy, Manner, TlsFront};
use crate::support::world::{RUNNER_ID, World};

const BEARER: &str = "runner-token-0123456789";
const APP: (&str, &str) = ("app", "canary-app-secret");
const GIT_HOST: &str = "git.example.test";
const PASSWORDS: [&str; 2] = ["canary-password-a", "canary-password-b"];

/// A control plane and an issuer that only proxies can find, both with certificates of a private authority.
struct Scene {
    control_plane: FakeControlPlane,
    control_plane_front: TlsFront,
    issuer: FakeIssuer,
    issuer_front: TlsFront,
    world: World,
}

fn port(url: &str) -> u16 {
    url::Url::parse(url).unwrap().port().unwrap()
}

impl Scene {
    async fn new() -> Self {
        let world = World::new(crate::binaries());
        let authority = TestAuthority::new();
        std::fs::write(world.path("ca.pem"), authority.pem()).unwrap();
        std::fs::create_dir(world.path("ca.d")).unwrap();
        std::fs::write(world.path("ca.d/any-name.pem"), authority.pem()).unwrap();
        std::fs::write(world.path("token"), BEARER).unwrap();
        std::fs::set_permissions(world.path("token"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let control_plane = FakeControlPlane::start(BEARER, RUNNER_ID).await;
        let issuer = FakeIssuer::start(&[APP]).await;
        issuer.set_metadata("issuer", json!("https://id.example.test"));
        issuer.set_metadata("token_endpoint", json!("https://id.example.test/token"));
        let front = |name: &str, url: String| TlsFront::start(authority.identity(&[name], |_| ()), port(&url));
        let control_plane_front = front("cp.example.test", control_plane.base_url()).await;
        let issuer_front = front("id.example.test", issuer.issuer_url()).await;
        let scene = Self { control_plane, control_plane_front, issuer, issuer_front, world };
        scene.control_plane.set_integrations(vec![scene.integration("https://id.example.test")]);
        scene
    }

    fn integration(&self, issuer: &str) -> Value {
        let mut integration = self.world.integration(1, GIT_HOST, APP.0, &self.world.seal(APP.1));
        integration["oauth"]["issuerUrl"] = json!(issuer);
        integration
    }

    async fn proxy(&self, manner: Manner) -> FakeProxy {
        let routes = [("cp.example.test:443", self.control_plane_front.port()), ("id.example.test:443", self.issuer_front.port())];
        FakeProxy::start(manner, &routes).await
    }

    fn config(&self, control_plane: &str, more: &str) -> PathBuf {
        let lines = format!(
            "url = \"https://cp.example.test/api\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"\npoll_interval = \"1s\"\n{control_plane}"
        );
        self.world.config_with(&lines, more)
    }

    async fn start(&self, config: &Path, environment: &[(&str, &str)]) -> Daemon {
        let mut command = self.world.daemon_command();
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied());
        Daemon::start(command, config, &self.world.socket()).await
    }

    async fn doctor(&self, config: &Path) -> String {
        let mut command = self.world.daemon_command();
        command.args(["doctor", "--config"]).arg(config);
        let output = run(command, "").await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Checks that a token comes, and that nothing anywhere holds a password of a proxy.
    async fn token_comes(&self, daemon: Daemon, config: &Path) {
        let status = daemon.until_synced().await;
        let (filled, answer, said) = self.world.fill(&daemon, "https", GIT_HOST).await;
        assert!(filled && answer.contains("password=tok_"), "{answer}{said}");
        let doctor = self.doctor(config).await;
        assert_quiet(&[&status.to_string(), &said, &doctor, &daemon.status().await.to_string(), &daemon.final_log().await]);
    }
}

/// Checks that no password of a proxy is in there, as it is or as it is sent.
#[track_caller]
fn assert_quiet(texts: &[&str]) {
    use base64::Engine as _;
    for password in PASSWORDS {
        for user in ["user-a", "user-b"] {
            let sent = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            for text in texts {
                assert!(!text.contains(password) && !text.contains(&sent), "{text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_and_the_issuers_have_a_proxy_each() {
    let scene = Scene::new().await;
    let a = scene.proxy(Manner::Authenticate("user-a", PASSWORDS[0])).await;
    let b = scene.proxy(Manner::Authenticate("user-b", PASSWORDS[1])).await;
    let proxy = |user: &str, password: &str, proxy: &FakeProxy| format!("proxy = \"http://{user}:{password}@{}\"", proxy.name());
    let plane = format!("ca_file = \"ca.pem\"\n{}", proxy("user-a", PASSWORDS[0], &a));
    let config = scene.config(&plane, &format!("[scm]\n{}\n", proxy("user-b", PASSWORDS[1], &b)));
    let daemon = scene.start(&config, &[]).await;
    scene.token_comes(daemon, &config).await;
    let only = |targets: Vec<String>, name: &str| !targets.is_empty() && targets.iter().all(|target| target == name);
    assert!(only(a.targets(), "cp.example.test:443"), "{:?}", a.targets());
    assert!(only(b.targets(), "id.example.test:443"), "{:?}", b.targets());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_alone_names_proxy_and_authorities() {
    let scene = Scene::new().await;
    let proxy = scene.proxy(Manner::Authenticate("user-a", PASSWORDS[0])).await;
    let url = format!("http://user-a:{}@{}", PASSWORDS[0], proxy.name());
    let (file, folder) = (scene.world.path("ca.pem"), scene.world.path("ca.d"));
    let nothing = Path::new("/nonexistent");
    for (variable, certificates) in [
        ("HTTPS_PROXY", [("SSL_CERT_FILE", &*file), ("SSL_CERT_DIR", nothing)]),
        ("all_proxy", [("SSL_CERT_DIR", &*folder), ("SSL_CERT_FILE", nothing)]),
    ] {
        let config = scene.config("", "");
        let mut environment = vec![(variable, url.as_str())];
        environment.extend(certificates.iter().map(|(name, path)| (*name, path.to_str().unwrap())));
        let asked = proxy.targets().len();
        let daemon = scene.start(&config, &environment).await;
        scene.token_comes(daemon, &config).await;
        let targets = proxy.targets().split_off(asked);
        for target in ["cp.example.test:443", "id.example.test:443"] {
            assert!(targets.iter().any(|asked| asked == target), "{variable}: {targets:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_doctor_tell_a_certificate_and_a_proxy_that_are_in_the_way() {
    let scene = Scene::new().await;
    let proxy = scene.proxy(Manner::Authenticate("user-a", PASSWORDS[0])).await;
    let sentence = |status: &Value| status["sync"]["last_error"].as_str().unwrap_or_default().to_owned();
    let right = format!("proxy = \"http://user-a:{}@{}\"", PASSWORDS[0], proxy.name());
    let wrong = format!("proxy = \"http://user-a:{}@{}\"", PASSWORDS[1], proxy.name());
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = format!("proxy = \"http://user-a:{}@{unused}\"", PASSWORDS[0]);
    for (lines, expected) in [
        (right, "the certificate of cp.example.test is not accepted: its authority is not trusted here".to_owned()),
        (wrong, format!("the proxy {} did not accept the username and password", proxy.name())),
        (down, format!("cannot reach cp.example.test through the proxy {unused}: connection refused")),
    ] {
        let config = scene.config(&lines, "");
        let daemon = scene.start(&config, &[]).await;
        let status = daemon.until(|status| status["sync"]["last_error"].is_string()).await;
        assert!(sentence(&status).contains(&expected), "{}", sentence(&status));
        let doctor = scene.doctor(&config).await;
        assert!(doctor.contains(&expected), "{doctor}");
        let through = lines.split('@').nth(1).unwrap().trim_end_matches('"');
        assert!(doctor.contains(&format!("control plane: through {through}; SCM hosts and issuers: through {through}")), "{doctor}");
        assert_quiet(&[&status.to_string(), &doctor, &daemon.final_log().await]);
    }
    assert_eq!(scene.issuer.received().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_in_a_private_network_is_asked_only_when_the_configuration_names_it() {
    let scene = Scene::new().await;
    // Unique local (RFC 4193), of a prefix that nobody was given.
    let issuer = "[fd5c:a6e0:7a1d::1]";
    scene.world.write_list(&[scene.integration(&format!("https://{issuer}"))]);
    let config = scene.world.config("");
    let daemon = scene.start(&config, &[]).await;
    daemon.until_synced().await;
    let (filled, answer, said) = scene.world.fill(&daemon, "https", GIT_HOST).await;
    assert!(!filled && !answer.contains("password"), "{answer}");
    let sentence = "[fd5c:a6e0:7a1d::1] is, or resolves to, a private address, and the configuration does not name it";
    let next = "add a [[provider]] table";
    assert!(said.contains(sentence) && said.contains(next), "{said}");
    let status = daemon.status().await.to_string();
    let doctor = scene.doctor(&config).await;
    assert!(!doctor.contains("through"), "{doctor}");
    for text in [status, doctor] {
        assert!(text.contains(sentence) && text.contains(next), "{text}");
    }
    assert!(daemon.terminate().await.success());

    let named = format!("[scm]\nconnect_timeout = \"100ms\"\n[[provider]]\nhost = \"{issuer}\"\n");
    let daemon = scene.start(&scene.world.config(&named), &[]).await;
    daemon.until_synced().await;
    let (_, _, said) = scene.world.fill(&daemon, "https", GIT_HOST).await;
    assert!(said.contains(issuer) && !said.contains("private"), "{said}");
}
