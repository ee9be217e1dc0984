//! Requests through a proxy that knows CONNECT alone, and those that must not go through it.

use std::path::PathBuf;

use scm_agent::http::{Config, Error};
use tempfile::TempDir;
use url::Url;

use super::{Script, ca_file, client, get};
use crate::support::http::{Answer, FakeServer, TestAuthority};
use crate::support::proxy::{FakeProxy, Manner, TlsFront};

const NAME: &str = "git.example.test";
const URL: &str = "https://git.example.test/";

/// A server of that name behind the proxy, which alone can resolve it.
struct Scene {
    authority: TestAuthority,
    ca_file: PathBuf,
    server: FakeServer,
    _folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let authority = TestAuthority::new();
        let (folder, ca_file) = ca_file(&authority);
        let identity = authority.identity(&[NAME], |_| ());
        let server = FakeServer::start_tls(identity, |_| async { Answer::new(200, "text/plain", "") }).await;
        Self { authority, ca_file, server, _folder: folder }
    }

    async fn proxy(&self, manner: Manner) -> FakeProxy {
        FakeProxy::start(manner, &[(&format!("{NAME}:443"), self.server.port())]).await
    }

    /// A client of URLs that the operator did not write.
    fn client(&self, proxy: &str, change: impl FnOnce(&mut Config)) -> scm_agent::http::Client {
        client(|config| {
            config.ca_file = Some(self.ca_file.clone());
            // Whatever is in the environment of the tests.
            config.no_proxy = Some(Vec::new());
            config.proxy = Some(Url::parse(proxy).unwrap());
            change(config);
        })
    }
}

#[tokio::test]
async fn a_request_goes_through_the_proxy_which_resolves_its_name() {
    let scene = Scene::new().await;
    let proxy = scene.proxy(Manner::Connect).await;
    let lookup = Script::new(&[&["127.0.0.1"]]);
    let client = scene.client(&proxy.url(), |config| config.lookup = std::sync::Arc::clone(&lookup) as _);
    assert_eq!(client.proxy_for(&Url::parse(URL).unwrap()), Some(&*proxy.name()));
    assert_eq!(get(&client, URL).await, Ok(200));
    assert_eq!((proxy.targets(), scene.server.received().len()), (vec![format!("{NAME}:443")], 1));
    assert!(lookup.asked().is_empty(), "{:?}", lookup.asked());
    // The proxy's own name may be anywhere, this machine included.
    let named = scene.client(&format!("http://proxy.corp:{}", proxy.port()), |config| config.lookup = std::sync::Arc::clone(&lookup) as _);
    assert_eq!(get(&named, URL).await, Ok(200));
    assert_eq!(lookup.asked(), ["proxy.corp"]);
    // And it may speak TLS itself.
    let front = TlsFront::start(scene.authority.identity(&["127.0.0.1"], |_| ()), proxy.port()).await;
    let client = scene.client(&format!("https://127.0.0.1:{}", front.port()), |_| ());
    assert_eq!(get(&client, URL).await, Ok(200));
    assert_eq!(proxy.targets().len(), 3);
}

#[tokio::test]
async fn a_proxy_is_given_its_username_and_password_and_its_refusal_of_them_is_told() {
    let scene = Scene::new().await;
    let proxy = scene.proxy(Manner::Authenticate("user", "canary:p%@ss")).await;
    let with = |userinfo: &str| scene.client(&proxy.url().replace("http://", &format!("http://{userinfo}@")), |_| ());
    assert_eq!(get(&with("user:canary%3Ap%25%40ss"), URL).await, Ok(200));
    let refused = Error::ProxyAuthentication { host: NAME.into(), proxy: proxy.name() };
    for userinfo in ["user:canary", "canary:x", "canary"] {
        let error = get(&with(userinfo), URL).await.unwrap_err();
        assert_eq!(error, refused);
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
    assert_eq!(get(&scene.client(&proxy.url(), |_| ()), URL).await, Err(refused));
    assert_eq!(scene.server.received().len(), 1);
}

#[tokio::test]
async fn a_proxy_that_does_not_connect_is_named_with_what_it_did() {
    let scene = Scene::new().await;
    let failed = |proxy: &str, reason| Err(Error::Proxy { host: NAME.into(), proxy: proxy.into(), reason });
    let refused = "it refused; see whether it allows this host, and whether it knows the username and password";
    for (answer, reason) in [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\ncanary", refused),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", refused),
        ("HTTP/1.1 302 Found\r\nlocation: https://canary.example/\r\n\r\n", refused),
        ("SSH-2.0-canary\r\n\r\n", refused),
        ("HTTP/1.1 200", "it closed the connection"),
        ("", "it closed the connection"),
    ] {
        let proxy = scene.proxy(Manner::Say(answer)).await;
        assert_eq!(get(&scene.client(&proxy.url(), |_| ()), URL).await, failed(&proxy.name(), reason), "{answer:?}");
    }
    // A tunnel to nothing.
    let proxy = scene.proxy(Manner::Say("HTTP/1.1 200 OK\r\n\r\n")).await;
    assert_eq!(get(&scene.client(&proxy.url(), |_| ()), URL).await, failed(&proxy.name(), "connection closed by the other side"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(get(&scene.client(&format!("http://{free}"), |_| ()), URL).await, failed(&free.to_string(), "connection refused"));
    let nowhere = scene.client("http://user:canary@proxy.corp:3128", |config| config.lookup = Script::new(&[&[]]));
    assert_eq!(get(&nowhere, URL).await, failed("proxy.corp:3128", "the name does not resolve"));
    assert_eq!(scene.server.received().len(), 0);
}

#[tokio::test]
async fn behind_a_proxy_the_certificate_at_fault_is_named_by_its_owner() {
    let scene = Scene::new().await;
    let proxy = scene.proxy(Manner::Connect).await;
    let untrusting = scene.client(&proxy.url(), |config| config.ca_file = None);
    let reason = "its authority is not trusted here";
    assert_eq!(get(&untrusting, URL).await, Err(Error::Certificate { host: NAME.into(), reason }));
    let front = TlsFront::start(scene.authority.identity(&["proxy.corp"], |_| ()), proxy.port()).await;
    let client = scene.client(&format!("https://127.0.0.1:{}", front.port()), |_| ());
    let host = format!("127.0.0.1:{}", front.port());
    assert_eq!(get(&client, URL).await, Err(Error::Certificate { host, reason: "it is for another name" }));
    assert_eq!(scene.server.received().len(), 0);
}

#[tokio::test]
async fn an_exception_is_asked_directly_under_the_rules_for_direct_requests() {
    let scene = Scene::new().await;
    let proxy = scene.proxy(Manner::Connect).await;
    let direct = |trusted_urls, no_proxy: &str| {
        scene.client(&proxy.url(), |config| {
            config.lookup = Script::new(&[&["127.0.0.1"]]);
            config.no_proxy = Some(vec!["other.example".into(), no_proxy.into()]);
            config.trusted_urls = trusted_urls;
        })
    };
    let url = format!("https://{NAME}:{}/", scene.server.port());
    for no_proxy in [NAME, "example.test", "*"] {
        let client = direct(true, no_proxy);
        assert_eq!(client.proxy_for(&Url::parse(&url).unwrap()), None);
        assert_eq!(get(&client, &url).await, Ok(200), "{no_proxy}");
        // The proxy would have been asked for anything; without it the address counts.
        let forbidden = Error::ForbiddenAddress { host: format!("{NAME}:{}", scene.server.port()) };
        assert_eq!(get(&direct(false, no_proxy), &url).await, Err(forbidden), "{no_proxy}");
    }
    assert_eq!((scene.server.received().len(), proxy.targets()), (3, Vec::new()));
    // Not excepted: the proxy has no route to this port.
    assert!(matches!(get(&direct(true, "xample.test"), &url).await, Err(Error::Proxy { .. })));
    assert_eq!(proxy.targets().len(), 1);
}

#[tokio::test]
async fn addresses_in_urls_are_checked_before_a_proxy_hears_of_them() {
    let scene = Scene::new().await;
    let proxy = scene.proxy(Manner::Connect).await;
    let client = scene.client(&proxy.url(), |config| config.named_hosts = ["198.18.0.1".to_owned()].into());
    for host in ["169.254.169.254", "0x7f.2", "[fd00:ec2::254]", "[::ffff:10.0.0.1]", "127.0.0.1", "[::1]"] {
        let result = get(&client, &format!("https://{host}/")).await;
        assert!(matches!(result, Err(Error::ForbiddenAddress { .. })), "{host}: {result:?}");
    }
    let private = get(&client, "https://10.0.0.1/").await;
    assert_eq!(private, Err(Error::PrivateAddress { host: "10.0.0.1".into() }));
    assert!(proxy.targets().is_empty(), "{:?}", proxy.targets());
    assert!(matches!(get(&client, "https://198.18.0.1/").await, Err(Error::Proxy { .. })));
    assert_eq!(proxy.targets(), ["198.18.0.1:443"]);
}

#[tokio::test]
async fn this_machine_is_never_asked_through_a_proxy() {
    let scene = Scene::new().await;
    let proxy = scene.proxy(Manner::Connect).await;
    let plain = FakeServer::start(|_| async { Answer::new(200, "text/plain", "") }).await;
    let client = scene.client(&proxy.url(), |config| config.allow_insecure_loopback = true);
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(get(&client, &format!("http://{host}:{}/", plain.port())).await, Ok(200));
    }
    assert!(proxy.targets().is_empty(), "{:?}", proxy.targets());
}
