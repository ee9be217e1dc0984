//! A client secret that was given to other tooling: found while an answer waits to be read, and never after.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::{assert_gone, cut, new_secret, provider};
use crate::support::memory::{Needle, find, needles_of};
use crate::support::world::World;

/// So long that a few answers fill a socket which nobody reads.
const LONG: usize = 8_000;

#[tokio::test]
#[ignore = "needs root"]
async fn a_secret_that_is_given_to_other_tooling_is_in_memory_until_it_is_sent_and_never_after() {
    for algorithm in ["rsa-2048", "x25519"] {
        let world = World::with_key(crate::binaries(), algorithm);
        let [given, refused, damaged] = ["given", "refused", "damaged"].map(new_secret);
        let long = format!("{}{}", new_secret("long"), "0123456789abcdef".repeat(LONG / 16));
        let seal = |secret: &str| world.seal_anything(secret.as_bytes());
        let mut list = vec![
            world.integration(1, "given.example", "client", &seal(&given)),
            world.integration(2, "refused.example", "client", &seal(&refused)),
            world.integration(3, "damaged.example", "client", &cut(&seal(&damaged))),
        ];
        if algorithm == "x25519" {
            list.push(world.integration(4, "long.example", "client", &seal(&long)));
        }
        world.write_list(&list);
        let uid = rustix::process::geteuid().as_raw();
        let rules = format!(
            "[[access]]\nhosts = [\"refused.example\"]\nallow = [\"service\"]\n[[access]]\nusers = [\"{uid}\"]\nallow = [\"app-secret\"]\n"
        );
        // Nobody is asked for endpoints that are known.
        let endpoints = |name: &str| {
            let table = provider(name, "https://issuer.example/token", "client_secret_post");
            format!("{table}authorize_url = \"https://issuer.example/authorize\"\n")
        };
        let more: String = ["given", "refused", "damaged", "long"].map(|name| endpoints(&format!("{name}.example"))).concat();
        let daemon = world.start(&world.config_with("file = \"integrations.json\"", &format!("{rules}{more}"))).await;
        daemon
            .until(|status| status["integrations"].as_array().is_some_and(|rows| rows.len() > 2 && rows[2]["secret"] == "undecryptable"))
            .await;
        let ask = async |name: &str| -> Value {
            serde_json::from_str(&daemon.ask(&format!("scm-agent/1 oauth-app\nurl=https://{name}.example\n\n")).await).unwrap()
        };

        assert_eq!(ask("given").await["client_secret"], json!(given));
        for name in ["refused", "damaged"] {
            let answer = ask(name).await;
            assert!(answer["error"].is_string() && answer.get("client_secret").is_none(), "{answer}");
        }
        for secret in [&given, &refused, &damaged] {
            let in_json = serde_json::to_string(secret).unwrap();
            let needles = [needles_of(secret), Needle::halves("the secret in JSON", in_json.trim_matches('"').as_bytes()).into()].concat();
            assert_gone(&daemon, &format!("{algorithm}: {secret}"), &needles).await;
        }
        if algorithm == "x25519" {
            // The control: a client that asks and asks, and reads nothing of what it is given.
            let needles = [Needle::new("the start of the secret", &long.as_bytes()[..40])];
            let mut deaf = UnixStream::connect(daemon.socket()).await.unwrap();
            deaf.write_all("scm-agent/1 oauth-app\nurl=https://long.example\n\n".repeat(50).as_bytes()).await.unwrap();
            let mut seen = false;
            for _ in 0..200 {
                seen = seen || !find(daemon.pid(), &needles).unwrap().is_empty();
                if seen {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            assert!(seen, "what waits to be read was never found; log:\n{}", daemon.log());
            drop(deaf);
            assert_gone(&daemon, "after a client that went away", &needles).await;
        }
        let log = daemon.final_log().await;
        for secret in [&given, &refused, &damaged, &long] {
            assert!(!log.contains(&secret[..20]), "a secret is in the log");
        }
    }
}
