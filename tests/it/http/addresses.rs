//! Names that resolve to where nobody may be sent. The spellings of addresses are in `src/http/address/tests.rs`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use scm_agent::http::{Config, Error, Request};
use tokio::net::TcpListener;
use url::Url;

use super::{Script, client, get};
use crate::support::http::{Answer, FakeServer};

/// A listener on another of this machine's addresses, at the port of a server. Nothing should ever connect.
async fn trap(address: &str, port: u16) -> TcpListener {
    TcpListener::bind(SocketAddr::new(address.parse().unwrap(), port)).await.unwrap()
}

/// Whether nobody waits to be accepted. A connection that came about before is in the queue by now.
fn is_untouched(listener: &TcpListener) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    listener.poll_accept(&mut context).is_pending()
}

async fn server() -> FakeServer {
    FakeServer::start(|_| async { Answer::new(200, "text/plain", "") }).await
}

#[tokio::test]
async fn a_name_is_judged_by_every_address_that_it_has() {
    let forbidden = || Error::ForbiddenAddress { host: "issuer.example".into() };
    let private = || Error::PrivateAddress { host: "issuer.example".into() };
    let v6 =
        ["::1", "::", "fe80::1", "ff02::1", "fd00:ec2::254", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"];
    let v4 = ["127.0.0.1", "127.0.0.53", "0.0.0.0", "169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1"];
    for address in v4.iter().chain(&v6) {
        let client = client(|config| config.lookup = Script::new(&[&[address]]));
        assert_eq!(get(&client, "https://issuer.example/").await, Err(forbidden()), "{address}");
    }
    for address in ["10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "198.18.0.1", "240.0.0.1", "fc00::1", "fd12::1", "2001:2::1"] {
        let client = client(|config| config.lookup = Script::new(&[&[address], &["127.0.0.1", address], &[address, "127.0.0.1"]]));
        for _ in 0..3 {
            assert_eq!(get(&client, "https://issuer.example/").await, Err(private()), "{address}");
        }
    }
    let nothing = client(|config| config.lookup = Script::new(&[&[]]));
    let reason = "the name does not resolve";
    assert_eq!(get(&nothing, "https://issuer.example/").await, Err(Error::Connect { host: "issuer.example".into(), reason }));
}

/// Unique local (RFC 4193), of a prefix that nobody was given.
const PRIVATE: &str = "fd5c:a6e0:7a1d::1";

/// Whether something was tried, as opposed to refused. Nobody is at these addresses, and how that shows is up to the network.
fn was_tried(result: &Result<u16, Error>) -> bool {
    matches!(result, Err(Error::Connect { .. } | Error::Timeout { .. }))
}

#[tokio::test]
async fn a_private_address_is_tried_for_the_hosts_that_the_operator_named_and_for_no_other() {
    let lookup = Script::new(&[&[PRIVATE]]);
    let named = |config: &mut Config| {
        config.lookup = Arc::clone(&lookup) as Arc<_>;
        config.named_hosts = ["git.corp".to_owned(), "[fd5c:a6e0:7a1d::2]".into()].into();
        config.connect_timeout = Duration::from_millis(20);
    };
    let client = client(named);
    for host in ["git.corp", "git.corp:8443", "GIT.corp", "git.corp.", "[fd5c:a6e0:7a1d::2]:8443", "[fd5c:a6e0:7a1d:0::2]"] {
        let result = get(&client, &format!("https://{host}/")).await;
        assert!(was_tried(&result), "{host}: {result:?}");
    }
    for host in ["x.git.corp", "git.corp.example", "corp", "10.0.0.1", "[fd5c:a6e0:7a1d::1]"] {
        let result = get(&client, &format!("https://{host}/")).await;
        assert_eq!(result, Err(Error::PrivateAddress { host: host.into() }));
    }
    // To name a host does not open this machine to it.
    let rebound = super::client(|config| {
        named(config);
        config.lookup = Script::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
        config.allow_insecure_loopback = true;
    });
    for _ in 0..2 {
        assert_eq!(get(&rebound, "https://git.corp/").await, Err(Error::ForbiddenAddress { host: "git.corp".into() }));
    }
}

#[tokio::test]
async fn a_name_that_moves_after_the_first_answer_is_not_followed() {
    let server = server().await;
    let trap = trap("127.0.0.2", server.port()).await;
    let lookup = Script::new(&[&["127.0.0.1"], &["127.0.0.2"], &["169.254.169.254"], &["10.0.0.1"], &["::ffff:127.0.0.1"]]);
    let client = client(|config| {
        config.allow_insecure_loopback = true;
        config.lookup = Arc::clone(&lookup) as Arc<_>;
    });
    // `localhost` is the one name that may be this machine, which makes it the one that can be good first.
    let url = format!("http://localhost:{}/", server.port());
    assert_eq!(get(&client, &url).await, Ok(200));
    let host = format!("localhost:{}", server.port());
    for step in 1..5 {
        let expected =
            if step == 3 { Error::PrivateAddress { host: host.clone() } } else { Error::ForbiddenAddress { host: host.clone() } };
        assert_eq!(client.check(&Url::parse(&url).unwrap()), Ok(()), "the URL alone says nothing");
        assert_eq!(get(&client, &url).await, Err(expected), "step {step}");
    }
    assert_eq!((server.received().len(), lookup.asked().len()), (1, 5), "each connection asks anew");
    assert!(is_untouched(&trap));
}

#[tokio::test]
async fn a_public_name_that_becomes_this_machine_reaches_no_listener() {
    let trap = trap("127.0.0.1", 0).await;
    let port = trap.local_addr().unwrap().port();
    // For documentation (RFC 3849): public as far as is known here, and nobody is there.
    let lookup = Script::new(&[&["2001:db8::1"], &["127.0.0.1"], &["::1", "127.0.0.1"]]);
    let client = client(|config| {
        config.allow_insecure_loopback = true;
        config.connect_timeout = Duration::from_millis(20);
        config.lookup = lookup;
    });
    let url = format!("https://issuer.example:{port}/");
    let first = get(&client, &url).await;
    assert!(was_tried(&first), "{first:?}");
    for _ in 0..2 {
        assert_eq!(get(&client, &url).await, Err(Error::ForbiddenAddress { host: format!("issuer.example:{port}") }));
    }
    assert!(is_untouched(&trap));
}

#[tokio::test]
async fn of_good_and_bad_addresses_only_the_good_ones_are_connected_to() {
    let server = server().await;
    let trap = trap("127.0.0.2", server.port()).await;
    let lookup = Script::new(&[&["127.0.0.2", "169.254.169.254", "10.0.0.1", "127.0.0.1", "127.0.0.2"]]);
    let client = client(|config| {
        config.allow_insecure_loopback = true;
        config.lookup = lookup;
    });
    assert_eq!(get(&client, &format!("http://localhost:{}/", server.port())).await, Ok(200));
    assert!(is_untouched(&trap));
}

#[tokio::test]
async fn what_the_operator_wrote_may_be_anywhere() {
    let server = server().await;
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    let client = client(|config| {
        config.trusted_urls = true;
        config.lookup = Script::new(&[&[&address.to_string()]]);
    });
    // It gets as far as the TLS handshake, which a plain server does not understand.
    let url = Url::parse(&format!("https://plane.corp:{}/", server.port())).unwrap();
    let Err(error) = client.send(Request::get(url)).await else { panic!("plain HTTP was taken") };
    assert_eq!(error, Error::Connect { host: format!("plane.corp:{}", server.port()), reason: "it does not speak TLS" });
}
