//! A control plane that answers with whatever bytes it is told to: below HTTP where it must be.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How one request for the list is answered.
#[derive(Clone)]
pub enum Play {
    /// These bytes, and the end of the connection.
    Bytes(Vec<u8>),
    /// A beginning, then one byte after each interval, for ever.
    Drip(Vec<u8>, u8, Duration),
    /// A beginning, then the same piece again and again until the other side has had enough.
    Flood(Vec<u8>, Vec<u8>),
    /// The connection is reset before anything is said.
    Reset,
}

impl Play {
    /// A good reply around a body.
    pub fn body(body: impl AsRef<[u8]>) -> Self {
        Self::reply("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n", body)
    }

    /// A head without its last line, and a body of the right length.
    pub fn reply(head: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = format!("{head}content-length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        Self::Bytes(bytes)
    }
}

/// Makes the answer to the request of that number, counted from 0 since this was set.
type Script = Arc<dyn Fn(usize) -> Play + Send + Sync>;

/// A server that lives as long as this value. What is no request for a list is answered as not implemented.
pub struct HostileServer {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Option<Script>>,
    requests: AtomicUsize,
}

impl HostileServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                connections.spawn(async move {
                    // An error means that the client has gone, as it should from much of this.
                    let _ = serve(stream, &shared).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, shared, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/api", self.address)
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Answers the requests for a list from now on, by their number.
    pub fn set(&self, script: impl Fn(usize) -> Play + Send + Sync + 'static) {
        let mut current = self.shared.script.lock().unwrap();
        self.shared.requests.store(0, Ordering::SeqCst);
        *current = Some(Arc::new(script));
    }

    /// How many requests for a list came since the script was set.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Counts the requests from 0 again.
    pub fn restart(&self) {
        self.shared.requests.store(0, Ordering::SeqCst);
    }
}

impl Drop for HostileServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    if !read_request(&mut stream).await? {
        return stream.write_all(&not_implemented()).await;
    }
    let play = {
        let script = shared.script.lock().unwrap();
        let number = shared.requests.fetch_add(1, Ordering::SeqCst);
        script.as_ref().map_or_else(|| Play::Bytes(not_implemented()), |script| script(number))
    };
    match play {
        Play::Bytes(bytes) => stream.write_all(&bytes).await,
        Play::Drip(head, byte, interval) => {
            stream.write_all(&head).await?;
            loop {
                tokio::time::sleep(interval).await;
                stream.write_all(&[byte]).await?;
            }
        }
        Play::Flood(head, piece) => {
            stream.write_all(&head).await?;
            loop {
                stream.write_all(&piece).await?;
            }
        }
        Play::Reset => {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            Ok(())
        }
    }
}

/// Reads one request to its end; says whether it asks for a list.
async fn read_request(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut bytes = Vec::new();
    let head = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            break end;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let headers: HashMap<String, &str> =
        text.lines().filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head + 4 + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(text.lines().next().is_some_and(|line| line.contains("/ListSCMIntegrations ")))
}

fn not_implemented() -> Vec<u8> {
    let body = r#"{"code":"unimplemented"}"#;
    format!("HTTP/1.1 501 Not Implemented\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
