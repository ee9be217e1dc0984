//! A control plane that cannot be reached, is somebody else, or says no; and a clock that is wrong.

use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;

use super::bench::{AGENT, Bench, KEY, Report, fail};
use crate::support::control_plane::{FakeControlPlane, connect_error};
use crate::support::http::{Answer, FakeServer, TestAuthority};
use crate::support::proxy::{FakeProxy, Manner};
use crate::support::world::RUNNER_ID;

/// Points the host at a URL, and asks doctor. No daemon runs, so doctor asks for itself.
async fn at(bench: &Bench, url: &str, more: &str) -> Report {
    let plane = format!("[control_plane]\nurl = \"{url}\"\nrunner_id = \"{RUNNER_ID}\"\ntoken_file = \"token\"\n{more}");
    bench.configure(&[&plane, KEY, AGENT]);
    bench.doctor().await
}

async fn bench() -> (Bench, FakeControlPlane) {
    let bench = Bench::new();
    bench.write("token", "canary-token\n");
    let plane = FakeControlPlane::start("canary-token", RUNNER_ID).await;
    at(&bench, &plane.base_url(), "").await.expect_ok("control-plane");
    (bench, plane)
}

#[tokio::test]
async fn a_control_plane_that_is_not_reached_is_told_by_what_is_in_the_way() {
    let (mut bench, plane) = bench().await;
    let closed = "127.0.0.1:1";
    let report = at(&bench, &format!("http://{closed}/api"), "").await;
    report.expect(&fail("control-plane", &[closed, "connection refused"], &["control_plane.url"]));

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let report = at(&bench, &format!("http://{address}/api"), "timeout = \"1s\"\n").await;
    report.expect(&fail(
        "control-plane",
        &[&address.to_string(), "did not answer in time"],
        &["whether the network lets this host through"],
    ));

    bench.environment.push(("RES_OPTIONS".to_owned(), "timeout:1 attempts:1".to_owned()));
    let report = at(&bench, "https://no-such-host.invalid/api", "").await;
    report.expect(&fail("control-plane", &["no-such-host.invalid", "does not resolve"], &["control_plane.url", "/etc/resolv.conf"]));

    for (answer, words) in [("HTTP/1.1 403 Forbidden\r\n\r\n", "it refused"), ("HTTP/1.1 407 Who\r\n\r\n", "username and password")] {
        let proxy = FakeProxy::start(Manner::Say(answer), &[]).await;
        let report = at(&bench, "https://cp.example.test/api", &format!("proxy = \"{}\"\n", proxy.url())).await;
        report.expect(&fail("control-plane", &[&proxy.name(), words], &["proxy"]));
    }
    at(&bench, &plane.base_url(), "").await.expect_ok("control-plane");
}

#[tokio::test]
async fn a_control_plane_that_refuses_is_told_by_what_to_change() {
    let (bench, plane) = bench().await;
    let url = plane.base_url();
    for (answer, words, next) in [
        (connect_error("permission_denied", "no"), "permission_denied", "control_plane.runner_id"),
        (connect_error("not_found", "no such runner"), "not_found", "control_plane.runner_id"),
        (Answer::new(200, "text/html", "<html>canary: sign in to the hotel</html>"), "text/html", "something else answers in between"),
        (Answer::new(302, "text/html", "").header("location", "https://canary.example/"), "redirect", "control_plane.url"),
        (Answer::new(404, "text/plain", "404 page not found\n"), "text/plain", "control_plane.url"),
    ] {
        plane.fail_next(1, answer);
        at(&bench, &url, "").await.expect(&fail("control-plane", &["127.0.0.1:", words], &[next]));
    }
    bench.write("token", "canary-of-another-runner\n");
    let report = bench.doctor().await;
    report.expect(&fail("control-plane", &["unauthenticated", "401"], &["control_plane.token_file", "still valid"]));
    bench.write("token", "canary-token\n");
    bench.doctor().await.expect_ok("control-plane");
}

#[tokio::test]
async fn a_certificate_that_is_not_accepted_is_told_by_its_fault() {
    let (bench, _plane) = bench().await;
    let authority = TestAuthority::new();
    bench.write("ca.pem", &authority.pem());
    let name = &["127.0.0.1"];
    let expired = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let early = |params: &mut rcgen::CertificateParams| params.not_before = rcgen::date_time_ymd(3000, 1, 1);
    let list = || async { Answer::new(200, "application/json", "{\"pagination\":{},\"integrations\":[]}") };
    for (tls, ca, words, next) in [
        (authority.identity(name, |_| ()), "", "authority is not trusted", "ca_file in [control_plane]"),
        (authority.identity(name, expired), "ca_file = \"ca.pem\"\n", "has expired", "clock"),
        (authority.identity(name, early), "ca_file = \"ca.pem\"\n", "not valid yet", "clock"),
        (authority.identity(&["other.example"], |_| ()), "ca_file = \"ca.pem\"\n", "for another name", "control_plane.url"),
    ] {
        let server = FakeServer::start_tls(tls, move |_| list()).await;
        let report = at(&bench, &format!("https://127.0.0.1:{}/api", server.port()), ca).await;
        report.expect(&fail("control-plane", &["certificate", words], &[next]));
        assert_eq!(server.received().len(), 0);
    }
    let server = FakeServer::start_tls(authority.identity(name, |_| ()), move |_| list()).await;
    at(&bench, &format!("https://127.0.0.1:{}/api", server.port()), "ca_file = \"ca.pem\"\n").await.expect_ok("control-plane");
}

#[tokio::test]
async fn a_clock_that_is_hours_off_is_named_with_the_direction_and_no_token_is_shown_for_it() {
    let (bench, _plane) = bench().await;
    for (hours, ahead, words) in [(3_u64, true, "ahead of that of 127.0.0.1"), (5, false, "behind that of 127.0.0.1")] {
        let server = FakeServer::start(move |_| async move {
            let apart = Duration::from_secs(hours * 3600);
            let theirs = if ahead { SystemTime::now() - apart } else { SystemTime::now() + apart };
            Answer::new(404, "text/plain", "").header("date", &httpdate::fmt_http_date(theirs))
        })
        .await;
        let report = at(&bench, &server.url("/api"), "").await;
        report.expect(&fail("clock", &["this machine's clock", words], &["timedatectl set-ntp true"]));
        let received = server.received();
        let asked: Vec<_> = received.iter().filter(|request| request.method == "GET").collect();
        assert!(asked.len() == 1 && asked[0].header("authorization").is_empty(), "the time is nothing to show a token for");
    }
    let server =
        FakeServer::start(|_| async { Answer::new(404, "text/plain", "").header("date", &httpdate::fmt_http_date(SystemTime::now())) })
            .await;
    at(&bench, &server.url("/api"), "").await.expect_ok("clock");
}

#[tokio::test]
async fn a_saved_list_that_is_missing_or_not_whole_is_named() {
    let bench = Bench::new();
    bench.doctor().await.expect_ok("control-plane");
    for (text, next) in
        [("{ canary", "ListSCMIntegrations"), ("{\"pagination\":{\"nextToken\":\"canary\"},\"integrations\":[]}", "without a nextToken")]
    {
        bench.write("integrations.json", text);
        bench.doctor().await.expect(&fail("control-plane", &["integrations.json"], &[next]));
    }
    std::fs::remove_file(bench.path("integrations.json")).unwrap();
    let report = bench.doctor().await;
    report.expect(&fail("control-plane", &["integrations.json"], &["control_plane.file"]));
    report.expect(&fail("files", &["control_plane.file", "does not exist"], &["put the file there"]));
    bench.world.write_list(&[]);
    bench.doctor().await.expect_ok("control-plane");
}
