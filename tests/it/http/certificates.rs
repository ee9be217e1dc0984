//! Certificates and handshakes that must not be accepted, each with its sentence, and those that must.

use scm_agent::http::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::rustls::ServerConfig;

use super::{ca_file, client, get};
use crate::support::http::{Answer, FakeServer, TestAuthority};

/// What the client makes of a server of this identity, and the number of requests that arrived.
async fn outcome(tls: ServerConfig, trusted: Option<&TestAuthority>) -> (Result<u16, String>, usize) {
    let server = FakeServer::start_tls(tls, |_| async { Answer::new(200, "text/plain", "") }).await;
    let file = trusted.map(ca_file);
    let client = client(|config| {
        config.allow_insecure_loopback = true;
        config.ca_file = file.as_ref().map(|(_, path)| path.clone());
    });
    let result = get(&client, &server.url("/")).await;
    let port = format!(":{}", server.port());
    (result.map_err(|error| error.to_string().replace(&port, "")), server.received().len())
}

#[tokio::test]
async fn a_private_authority_in_the_ca_file_is_trusted() {
    let authority = TestAuthority::new();
    assert_eq!(outcome(authority.identity(&["127.0.0.1"], |_| ()), Some(&authority)).await, (Ok(200), 1));
}

#[tokio::test]
async fn a_bad_certificate_gets_no_request_and_is_told_by_its_fault() {
    let authority = TestAuthority::new();
    let impostor = TestAuthority::new();
    let name = &["127.0.0.1"];
    let expired = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let early = |params: &mut rcgen::CertificateParams| params.not_before = rcgen::date_time_ymd(3000, 1, 1);
    for (tls, trusted, reason) in [
        (authority.identity(name, expired), Some(&authority), "it has expired"),
        (authority.identity(name, early), Some(&authority), "it is not valid yet"),
        (authority.identity(&["issuer.example"], |_| ()), Some(&authority), "it is for another name"),
        (authority.identity(&["127.0.0.2"], |_| ()), Some(&authority), "it is for another name"),
        (authority.identity(name, |_| ()), None, "its authority is not trusted here"),
        (self_signed(), None, "its authority is not trusted here"),
        (self_signed(), Some(&authority), "its authority is not trusted here"),
        // Of the same name as the trusted authority, but with a key of its own.
        (impostor.identity(name, |_| ()), Some(&authority), "it is not valid"),
    ] {
        let sentence = format!("the certificate of 127.0.0.1 is not accepted: {reason}");
        assert_eq!(outcome(tls, trusted).await, (Err(sentence), 0));
    }
}

/// A server whose certificate nobody signed but itself.
fn self_signed() -> ServerConfig {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "self");
    let certificate = params.self_signed(&key).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap()
}

#[tokio::test]
async fn a_peer_without_usable_tls_is_told_from_one_with_a_bad_certificate() {
    // ServerHello of TLS 1.1 (RFC 4346 section 7.4.1.3), which no library here still speaks; then what else may be there.
    let mut old = vec![0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    old.extend([7; 32]);
    old.extend([0, 0, 0x2f, 0]);
    let alert = vec![0x15, 3, 3, 0, 2, 2, 40];
    for (hello, reason) in [
        (old, "it does not speak TLS 1.2 or 1.3 with a common cipher"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "it does not speak TLS"),
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), "it does not speak TLS"),
        (alert, "the TLS handshake failed"),
        (Vec::new(), "connection closed by the other side"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello_of_the_client = [0; 5];
            stream.read_exact(&mut hello_of_the_client).await.unwrap();
            let mut rest = vec![0; usize::from(u16::from_be_bytes([hello_of_the_client[3], hello_of_the_client[4]]))];
            stream.read_exact(&mut rest).await.unwrap();
            stream.write_all(&hello).await.unwrap();
            stream.shutdown().await.unwrap();
            // Whatever the client still says is no request.
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
            said.len()
        });
        let client = client(|config| config.allow_insecure_loopback = true);
        let result = get(&client, &format!("https://127.0.0.1:{port}/")).await;
        assert_eq!(result, Err(Error::Connect { host: format!("127.0.0.1:{port}"), reason }));
        let said = peer.await.unwrap();
        assert!(said < 16, "{said} bytes after the handshake failed with: {reason}");
    }
}
