//! One client of the crowd, and what all of them saw.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::request::{Group, Maker, Request, judge};
use super::wire::{self, Session};

/// What the crowd saw.
#[derive(Default)]
pub struct Tally {
    /// Requests by kind.
    pub done: BTreeMap<&'static str, u64>,
    /// What should not have been.
    pub faults: Vec<String>,
    pub fault_count: u64,
    /// How long equal short statements took, in microseconds, and for which client.
    pub took: Vec<(u64, u64)>,
}

impl Tally {
    fn count(&mut self, kind: &'static str) {
        *self.done.entry(kind).or_default() += 1;
    }

    fn fault(&mut self, text: String) {
        self.fault_count += 1;
        if self.faults.len() < 20 {
            self.faults.push(text);
        }
    }

    pub fn requests(&self) -> u64 {
        self.done.values().sum()
    }
}

/// What a crowd does.
#[derive(Clone, Copy)]
pub struct Orders {
    pub port: u16,
    pub seed: u64,
    pub until: Instant,
    /// Of a hundred requests, those that are cancelled and those whose client is killed half-way.
    pub cancels: u64,
    pub kills: u64,
    /// Of a hundred requests, those that keep the connection beyond a transaction.
    pub pins: u64,
    /// All ask the same short statement: what they wait for is their turn.
    pub is_uniform: bool,
}

/// A client until its time is over.
pub async fn client(number: u64, orders: Orders, tally: Arc<Mutex<Tally>>) {
    let mut maker = Maker::new(number, orders.seed);
    while Instant::now() < orders.until {
        let mut session = match Session::connect(orders.port).await {
            Ok(session) => session,
            Err(error) => {
                tally.lock().fault(format!("client {number}: {error}"));
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        maker.reconnected();
        match live(number, &orders, &mut session, &mut maker, &tally).await {
            Ok(true) => session.leave().await,
            // Killed: the socket closes with whatever is on it.
            Ok(false) => tally.lock().count("killed"),
            Err(fault) => tally.lock().fault(format!("client {number}: {fault}")),
        }
    }
}

/// A session until its time is over (`true`) or its client is killed (`false`).
async fn live(
    number: u64,
    orders: &Orders,
    session: &mut Session,
    maker: &mut Maker,
    tally: &Mutex<Tally>,
) -> Result<bool, String> {
    let introduction = maker.introduce();
    exchange(session, &introduction).await?;
    while Instant::now() < orders.until {
        let die = maker.dice().below(100);
        if die < orders.kills {
            return killed(orders, session, maker).await.map(|()| false);
        }
        if die < orders.kills + orders.cancels {
            cancelled(orders, session, maker).await?;
            tally.lock().count("cancelled");
            continue;
        }
        let request = match die {
            _ if orders.is_uniform => short(maker),
            die if die >= 100 - orders.pins => maker.pinned(),
            _ => maker.next(),
        };
        let start = Instant::now();
        exchange(session, &request).await?;
        let took = u64::try_from(start.elapsed().as_micros()).unwrap();
        let mut tally = tally.lock();
        tally.count(request.kind);
        if orders.is_uniform {
            tally.took.push((number, took));
        }
    }
    Ok(true)
}

/// The statement whose turn is waited for.
fn short(maker: &mut Maker) -> Request {
    let (bytes, group) = maker.sleeping(0.002);
    Request { kind: "short", bytes, groups: vec![group] }
}

/// Sends a request in one write and judges every reply to it.
pub async fn exchange(session: &mut Session, request: &Request) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", request.kind);
    session.send(&request.bytes).await.map_err(failed)?;
    for group in &request.groups {
        let reply = session.reply().await.map_err(failed)?;
        judge(group, &reply).map_err(|fault| format!("{}: {fault}", request.kind))?;
    }
    if session.is_quiet() { Ok(()) } else { Err(format!("{}: more came than was asked for", request.kind)) }
}

/// Is cancelled by its own key until it has ended. Its next requests are not hit by that.
async fn cancelled(orders: &Orders, session: &mut Session, maker: &mut Maker) -> Result<(), String> {
    let (bytes, group) = maker.sleeping(5.0);
    session.send(&bytes).await.map_err(|error| format!("cancelled: {error}"))?;
    let key = session.key();
    let port = orders.port;
    let mut pause = Duration::from_millis(5 + maker.dice().below(20));
    let reply = {
        let reply = session.reply();
        tokio::pin!(reply);
        loop {
            if let Ok(reply) = tokio::time::timeout(pause, &mut reply).await {
                break reply.map_err(|error| format!("cancelled: {error}"))?;
            }
            // Comes back when the server has acted, so that none is under way when the next request is sent.
            wire::cancel(port, &key).await.map_err(|error| format!("cancel request: {error}"))?;
            pause = (pause * 2).min(Duration::from_millis(400));
        }
    };
    let is_cancelled = Group { statements: Vec::new(), error: Some("57014"), status: b'I' };
    judge(&is_cancelled, &reply).or_else(|_| judge(&group, &reply)).map_err(|fault| format!("cancelled: {fault}"))
}

/// Goes away in the middle of a message, of a pipeline, of a statement, or of a transaction.
async fn killed(orders: &Orders, session: &mut Session, maker: &mut Maker) -> Result<(), String> {
    let failed = |error: io::Error| format!("killed: {error}");
    match maker.dice().below(5) {
        0 => {
            let request = maker.unfinished();
            exchange(session, &request).await?;
        }
        1 if orders.pins > 0 => {
            let request = maker.left_over();
            exchange(session, &request).await?;
        }
        2 => {
            let (bytes, _) = maker.sleeping(0.3);
            session.send(&bytes).await.map_err(failed)?;
        }
        _ => {
            let request = maker.pipeline();
            let cut = maker.dice().below(request.bytes.len() as u64 + 1);
            session.send(&request.bytes[..usize::try_from(cut).unwrap()]).await.map_err(failed)?;
        }
    }
    let pause = maker.dice().below(10);
    tokio::time::sleep(Duration::from_millis(pause)).await;
    Ok(())
}
