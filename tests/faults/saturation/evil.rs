//! A proxy that is wrong: now and then it gives two clients each other's reply.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A reply that waits for another one to be swapped with.
type Offer = Arc<Mutex<Option<(Vec<u8>, oneshot::Sender<Vec<u8>>)>>>;

/// Starts it before a server; every `swap_every`th reply of a session is swapped, none when it is 0.
pub async fn start(server: u16, swap_every: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let offer = Offer::default();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let offer = Arc::clone(&offer);
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                relay(client, server, &offer, swap_every).await;
            });
        }
    });
    port
}

async fn relay(client: TcpStream, server: TcpStream, offer: &Offer, swap_every: u64) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upwards = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut buffer = BytesMut::new();
    let mut replies = 0;
    while let Ok(read) = from_server.read_buf(&mut buffer).await {
        if read == 0 {
            break;
        }
        while let Some(reply) = take_reply(&mut buffer) {
            replies += 1;
            // The greeting and the introduction are left alone.
            let is_swapped = swap_every > 0 && replies > 2 && replies % swap_every == 0;
            let reply = if is_swapped { swap(offer, reply).await } else { reply };
            if to_client.write_all(&reply).await.is_err() {
                upwards.abort();
                return;
            }
        }
    }
    upwards.abort();
}

/// Everything up to a ReadyForQuery.
fn take_reply(buffer: &mut BytesMut) -> Option<Vec<u8>> {
    let mut at = 0;
    loop {
        let header = buffer.get(at..at + 5)?;
        let end = at + 1 + u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if buffer.len() < end {
            return None;
        }
        if header[0] == b'Z' {
            return Some(buffer.split_to(end).to_vec());
        }
        at = end;
    }
}

/// Gives the reply to whoever offers theirs; keeps it when nobody does.
async fn swap(offer: &Offer, reply: Vec<u8>) -> Vec<u8> {
    let waiting = offer.lock().take();
    if let Some((theirs, sender)) = waiting {
        return match sender.send(reply) {
            Ok(()) => theirs,
            Err(own) => own,
        };
    }
    let (sender, receiver) = oneshot::channel();
    *offer.lock() = Some((reply.clone(), sender));
    match tokio::time::timeout(Duration::from_millis(100), receiver).await {
        Ok(Ok(theirs)) => theirs,
        _ => {
            offer.lock().take();
            reply
        }
    }
}
