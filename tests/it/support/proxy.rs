//! An HTTP proxy in the process that knows CONNECT alone, and a TLS front for servers that speak plain HTTP.
#![allow(unreachable_pub, dead_code, reason = "each of those who include this file uses a part of it")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// How a proxy answers.
#[derive(Clone, Debug)]
pub enum Manner {
    /// With a tunnel, for what it has a route to; with 502 otherwise.
    Connect,
    /// With a tunnel, and with 407 to everybody without this username and password.
    Authenticate(&'static str, &'static str),
    /// With exactly this.
    Say(&'static str),
}

/// A proxy that lives as long as this value.
pub struct FakeProxy {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl FakeProxy {
    /// Starts one that resolves these names, each with its port, to ports of this machine.
    pub async fn start(manner: Manner, routes: &[(&str, u16)]) -> Self {
        let routes: HashMap<String, u16> = routes.iter().map(|(target, port)| ((*target).to_owned(), *port)).collect();
        let targets = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&targets);
        let shared = Arc::new((manner, routes));
        let (address, task) = accept(move |stream| {
            let (log, shared) = (Arc::clone(&log), Arc::clone(&shared));
            async move { serve(stream, &shared.0, &shared.1, &log).await }
        })
        .await;
        Self { address, targets, task }
    }

    /// Its URL, without username and password.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its host and port.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What it was asked to connect to so far, refused or not.
    pub fn targets(&self) -> Vec<String> {
        self.targets.lock().unwrap().clone()
    }
}

impl Drop for FakeProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, manner: &Manner, routes: &HashMap<String, u16>, log: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let Some(target) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
        log.lock().unwrap().push(format!("not CONNECT: {}", head.lines().next().unwrap_or_default()));
        return;
    };
    log.lock().unwrap().push(target.to_owned());
    let authorization = head.lines().find(|line| line.to_ascii_lowercase().starts_with("proxy-authorization: "));
    let answer = match manner {
        Manner::Say(answer) => Some(*answer),
        Manner::Authenticate(username, password) => {
            let expected = format!("Basic {}", STANDARD.encode(format!("{username}:{password}")));
            let known = authorization.is_some_and(|line| line.ends_with(&expected));
            (!known).then_some("HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=\"canary\"\r\n\r\n")
        }
        Manner::Connect => None,
    };
    let upstream = match (answer, routes.get(target)) {
        (Some(answer), _) => Err(answer),
        (None, None) => Err("HTTP/1.1 502 Bad Gateway\r\n\r\n"),
        (None, Some(port)) => TcpStream::connect(("127.0.0.1", *port)).await.map_err(|_| "HTTP/1.1 502 Bad Gateway\r\n\r\n"),
    };
    match upstream {
        Err(answer) => {
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        Ok(mut upstream) => {
            let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
            let _ = copy_bidirectional(&mut stream, &mut upstream).await;
        }
    }
}

/// Speaks TLS and passes what is in it on; lives as long as this value.
pub struct TlsFront {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl TlsFront {
    /// Starts one in front of a port of this machine.
    pub async fn start(tls: tokio_rustls::rustls::ServerConfig, behind: u16) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let (address, task) = accept(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                if let (Ok(mut stream), Ok(mut behind)) = (acceptor.accept(stream).await, TcpStream::connect(("127.0.0.1", behind)).await) {
                    let _ = copy_bidirectional(&mut stream, &mut behind).await;
                }
            }
        })
        .await;
        Self { address, task }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> (SocketAddr, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
    });
    (address, task)
}
