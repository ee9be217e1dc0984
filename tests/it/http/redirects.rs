//! Redirects, which nothing follows. What the stages make of them is in `api` and `oauth`.

use scm_agent::http::{Error, Request};
use url::Url;

use super::{ca_file, client};
use crate::support::http::{Answer, FakeServer, TestAuthority};

#[tokio::test]
async fn no_redirect_is_followed_wherever_it_points() {
    let authority = TestAuthority::new();
    let (_folder, ca_file) = ca_file(&authority);
    let client = client(|config| {
        config.allow_insecure_loopback = true;
        config.ca_file = Some(ca_file);
    });
    let identity = || authority.identity(&["127.0.0.1", "localhost"], |_| ());
    let ok = |_| async { Answer::new(200, "application/json", "{}") };
    let (secure, plain) = (FakeServer::start_tls(identity(), ok).await, FakeServer::start(ok).await);
    let targets = [
        secure.url("/elsewhere"),
        secure.url("/elsewhere").replace("127.0.0.1", "localhost"),
        secure.url("/elsewhere").replace("https:", ""),
        plain.url("/in-clear"),
        "/same-host".into(),
        "https://169.254.169.254/latest/meta-data".into(),
        "not a URL \u{7f}".into(),
    ];
    for status in [300, 301, 302, 303, 304, 305, 307, 308, 399] {
        for target in targets.clone() {
            let answer = Answer::new(status, "text/plain", "").header("location", target.trim_end_matches('\u{7f}'));
            let server = FakeServer::start_tls(identity(), move |_| std::future::ready(answer.clone())).await;
            let url = Url::parse(&server.url("/token")).unwrap();
            let host = format!("127.0.0.1:{}", server.port());
            let post = Request::post(url.clone(), "application/x-www-form-urlencoded", b"client_secret=canary".to_vec());
            for request in [post, Request::get(url)] {
                let Err(error) = client.send(request).await else { panic!("{status} to {target} is a reply") };
                assert_eq!(error, Error::Redirect { host: host.clone(), status }, "{target}");
            }
            assert_eq!(server.received().len(), 2, "{status} to {target}");
        }
    }
    assert_eq!((secure.received().len(), plain.received().len()), (0, 0));
}
