//! The look-alikes again, this time sent to the real daemon, as they are and by the real git through the real helper.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::lookalikes::HOSTILE;
use crate::support::daemon::{Daemon, PATIENCE, git_with_helper, run};
use crate::support::scene::Scene;

/// What the look-alikes are after.
const VICTIMS: [&str; 8] = [
    "github.com",
    "gitlab.com",
    "bitbucket.org",
    "dev.azure.com/acme",
    "dev.azure.com/beta",
    "example.com/gitlab",
    "xn--bcher-kva.example",
    "[2001:db8::1]",
];

/// How many look-alikes have to be refused either way at the least.
const LEAST: usize = 60;

async fn start() -> (Scene, Daemon) {
    let scene = Scene::new(crate::binaries()).await;
    let integrations = (1..).zip(VICTIMS).map(|(number, host)| {
        let mut integration = scene.integration(number, host);
        if host == "github.com" {
            integration["scmId"] = json!("github");
        }
        integration
    });
    scene.control_plane.set_integrations(integrations.collect());
    let config = scene.config("24h");
    let provider = format!(
        "[[provider]]\nhost = \"github.com\"\ntoken_url = \"{}\"\ntoken_endpoint_auth = \"client_secret_basic\"\n",
        scene.issuer.token_url()
    );
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + &provider).unwrap();
    let daemon = scene.world.start(&config).await;
    daemon.until_synced().await;
    (scene, daemon)
}

/// A carriage return before the line end is a part of the line end, to git too.
fn is_a_request_of_its_own(host: &[u8], path: &[u8]) -> bool {
    !host.ends_with(b"\r") && !path.ends_with(b"\r")
}

fn has_token(answer: &[u8]) -> bool {
    let starts = |line: &[u8]| line.starts_with(b"password=") || line.starts_with(b"credential=");
    answer.split(|&byte| byte == b'\n').any(starts)
}

async fn get(daemon: &Daemon, protocol: &[u8], host: &[u8], path: &[u8]) -> Vec<u8> {
    let text = [b"scm-agent/1 get\nprotocol=", protocol, b"\nhost=", host, b"\npath=", path, b"\n\n"].concat();
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    stream.write_all(&text).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn no_lookalike_gets_a_token_out_of_the_daemon_or_through_git() {
    let (scene, daemon) = start().await;
    let (mut refused, mut refused_by_git) = (0, 0);
    for (protocol, host, path) in HOSTILE.iter().filter(|(_, host, path)| is_a_request_of_its_own(host, path)) {
        let shown = String::from_utf8_lossy(&[protocol, &b"://"[..], host, b"/", path].concat()).into_owned();
        let answer = get(&daemon, protocol, host, path).await;
        assert!(!has_token(&answer), "{shown}");
        refused += 1;
        let text = [b"protocol=", *protocol, b"\nhost=", host, b"\npath=", path, b"\n\n"].concat();
        // git itself would cut these off, and ask for what is before them.
        let (Ok(text), false) = (String::from_utf8(text), [*protocol, host, path].concat().iter().any(|byte| b"\n\0".contains(byte)))
        else {
            continue;
        };
        let mut command = git_with_helper(scene.world.directory(), &scene.world.binaries.helper, daemon.socket());
        command.args(["-c", "credential.useHttpPath=true", "credential", "fill"]).env("GIT_ASKPASS", "/bin/false");
        let output = run(command, &text).await;
        assert!(!has_token(&output.stdout) && !output.status.success(), "{shown}");
        refused_by_git += 1;
    }
    assert!(refused >= LEAST && refused_by_git >= LEAST, "{refused} {refused_by_git}");
    assert_eq!(scene.issuer.token_requests(), 0, "a token was fetched for a look-alike");
    // The control: what they look like is answered, both ways.
    for victim in VICTIMS {
        let (host, path) =
            victim.split_once('/').map_or((victim, "owner/repo".to_owned()), |(host, path)| (host, format!("{path}/p/repo")));
        assert!(has_token(&get(&daemon, b"https", host.as_bytes(), path.as_bytes()).await), "{victim}");
        let mut command = git_with_helper(scene.world.directory(), &scene.world.binaries.helper, daemon.socket());
        command.args(["-c", "credential.useHttpPath=true", "credential", "fill"]);
        let output = run(command, &format!("protocol=https\nhost={host}\npath={path}\n\n")).await;
        assert!(has_token(&output.stdout), "{victim}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
