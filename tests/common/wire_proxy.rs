//! A TCP proxy before a PostgreSQL server that knows the protocol's frames and breaks connections at
//! a chosen one. Only connections of the role `app` are counted and broken; the product's own
//! connections and cancel requests pass.
#![allow(dead_code, missing_docs)]

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Whose frames are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Server,
    Client,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Closed in order (FIN).
    Close,
    /// Broken (RST).
    Reset,
    /// Half of the frame still arrives, then it is closed.
    HalfFrame,
    /// Nothing arrives for a while, then it is closed.
    Freeze,
}

/// How long a frozen connection says nothing.
const FREEZE: Duration = Duration::from_millis(150);

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub from: From,
    /// So many frames still pass; the next one does not.
    pub after: usize,
    pub cut: Cut,
    /// Frames of a login count too.
    pub login: bool,
}

#[derive(Default)]
struct Armed {
    plan: Option<Plan>,
    /// Frames since it was armed, from client and from server.
    seen: [usize; 2],
    fired: bool,
    /// Frames of logins count too.
    login: bool,
    /// A row that did not come from the server, before the next ReadyForQuery.
    planted: Option<Vec<u8>>,
}

struct Shared {
    target: u16,
    armed: Mutex<Armed>,
    cut_all: Notify,
    open: AtomicUsize,
}

/// The proxy; it ends with this value.
pub struct WireProxy {
    pub port: u16,
    shared: Arc<Shared>,
    stop: Arc<Notify>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl WireProxy {
    /// Listens on a free port before a server's port.
    pub fn start(target: u16) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared =
            Arc::new(Shared { target, armed: Mutex::default(), cut_all: Notify::new(), open: AtomicUsize::new(0) });
        let stop = Arc::new(Notify::new());
        let (inner, stopped) = (Arc::clone(&shared), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => {
                            let Ok((client, _)) = accepted else { continue };
                            tokio::spawn(serve(client, Arc::clone(&inner)));
                        }
                        () = stopped.notified() => return,
                    }
                }
            });
        });
        Self { port, shared, stop, thread: Some(thread) }
    }

    /// Counts from now on, and breaks one connection as planned.
    pub fn arm(&self, plan: Plan) {
        *self.shared.armed.lock().unwrap() = Armed { plan: Some(plan), login: plan.login, ..Armed::default() };
    }

    /// Counts from now on and breaks nothing.
    pub fn watch(&self) {
        *self.shared.armed.lock().unwrap() = Armed::default();
    }

    /// Stops waiting for the moment; says whether it came.
    pub fn disarm(&self) -> bool {
        let mut armed = self.shared.armed.lock().unwrap();
        armed.plan = None;
        armed.fired
    }

    /// Frames since it was armed.
    pub fn seen(&self, from: From) -> usize {
        self.shared.armed.lock().unwrap().seen[from as usize]
    }

    /// Puts bytes of its own before the server's next ReadyForQuery.
    pub fn plant(&self, bytes: Vec<u8>) {
        self.shared.armed.lock().unwrap().planted = Some(bytes);
    }

    /// Breaks all connections of the application at once.
    pub fn cut_all(&self) {
        self.shared.cut_all.notify_waiters();
    }

    /// Connections of the application that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for WireProxy {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What becomes of a frame.
enum Verdict {
    Pass,
    PassBehind(Vec<u8>),
    Cut(Cut),
}

/// One connection's state that both directions share.
struct Link {
    shared: Arc<Shared>,
    client: TcpStream,
    server: TcpStream,
    is_app: bool,
    logged_in: std::sync::atomic::AtomicBool,
}

impl Link {
    fn judge(&self, from: From, tag: u8) -> Verdict {
        if !self.is_app {
            return Verdict::Pass;
        }
        let mut armed = self.shared.armed.lock().unwrap();
        let was_in = self.logged_in.load(Ordering::SeqCst);
        if tag == b'Z' && from == From::Server {
            self.logged_in.store(true, Ordering::SeqCst);
        }
        if !was_in && !armed.login {
            return Verdict::Pass;
        }
        if let Some(plan) = armed.plan.filter(|plan| plan.from == from && plan.after == armed.seen[from as usize]) {
            armed.plan = None;
            armed.fired = true;
            return Verdict::Cut(plan.cut);
        }
        armed.seen[from as usize] += 1;
        match armed.planted.take() {
            Some(bytes) if tag == b'Z' && from == From::Server => Verdict::PassBehind(bytes),
            planted => {
                armed.planted = planted;
                Verdict::Pass
            }
        }
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn read_some(stream: &TcpStream, into: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        let mut chunk = [0_u8; 16_384];
        match stream.try_read(&mut chunk) {
            Ok(read) => {
                into.extend_from_slice(&chunk[..read]);
                return Ok(read);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn read_exactly(stream: &TcpStream, buffer: &mut Vec<u8>, wanted: usize) -> io::Result<()> {
    while buffer.len() < wanted {
        if read_some(stream, buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn length_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
}

/// The first packet that is no request for encryption, and whether it is the application's.
async fn first_packet(client: &TcpStream, server: &TcpStream) -> io::Result<(Vec<u8>, bool)> {
    loop {
        let mut packet = Vec::new();
        read_exactly(client, &mut packet, 8).await?;
        let length = length_at(&packet, 0);
        read_exactly(client, &mut packet, length).await?;
        match length_at(&packet, 4) {
            80_877_103 | 80_877_104 => {
                write_all(server, &packet).await?;
                let mut answer = Vec::new();
                read_exactly(server, &mut answer, 1).await?;
                write_all(client, &answer).await?;
            }
            80_877_102 => return Ok((packet, false)),
            _ => {
                let is_app = packet.windows(9).any(|window| window == b"user\0app\0");
                return Ok((packet, is_app));
            }
        }
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], shared.target))).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let Ok((packet, is_app)) = first_packet(&client, &server).await else { return };
    if write_all(&server, &packet).await.is_err() {
        return;
    }
    let logged_in = std::sync::atomic::AtomicBool::new(false);
    let link = Link { shared, client, server, is_app, logged_in };
    if is_app {
        link.shared.open.fetch_add(1, Ordering::SeqCst);
    }
    let how = {
        let all = link.shared.cut_all.notified();
        tokio::select! {
            how = relay(&link, From::Client) => how,
            how = relay(&link, From::Server) => how,
            () = all, if is_app => Some(Cut::Close),
        }
    };
    match how {
        Some(Cut::Reset) => {
            let _ = socket2::SockRef::from(&link.client).set_linger(Some(Duration::ZERO));
        }
        Some(Cut::Freeze) => tokio::time::sleep(FREEZE).await,
        _ => {}
    }
    if is_app {
        link.shared.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Passes frames on; how the connection is to end, or `None` when it ended by itself.
async fn relay(link: &Link, from: From) -> Option<Cut> {
    let (source, sink) = match from {
        From::Client => (&link.client, &link.server),
        From::Server => (&link.server, &link.client),
    };
    let mut buffer = Vec::new();
    loop {
        match read_some(source, &mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
        let mut out = Vec::new();
        let mut taken = 0;
        while buffer.len() >= taken + 5 {
            let end = taken + 1 + length_at(&buffer, taken + 1);
            if buffer.len() < end {
                break;
            }
            match link.judge(from, buffer[taken]) {
                Verdict::Pass => out.extend_from_slice(&buffer[taken..end]),
                Verdict::PassBehind(planted) => {
                    out.extend_from_slice(&planted);
                    out.extend_from_slice(&buffer[taken..end]);
                }
                Verdict::Cut(cut) => {
                    if cut == Cut::HalfFrame {
                        out.extend_from_slice(&buffer[taken..taken + (end - taken) / 2]);
                    }
                    let _ = write_all(sink, &out).await;
                    return Some(cut);
                }
            }
            taken = end;
        }
        buffer.drain(..taken);
        if write_all(sink, &out).await.is_err() {
            return None;
        }
    }
}
