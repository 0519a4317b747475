//! The floor: a relay that only reads and writes, one thread, one server connection for each client. Whatever a
//! proxy costs beyond this, it costs for what it does.

use tokio::net::{TcpListener, TcpStream};

/// Serves until it is killed; `ports` is "LISTEN,TARGET".
pub fn serve(ports: &str) {
    let (listen, target) = ports.split_once(',').unwrap();
    let (listen, target): (u16, u16) = (listen.parse().unwrap(), target.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async move {
        let listener = TcpListener::bind(("127.0.0.1", listen)).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tasks.spawn(async move {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                tokio::select! {
                    () = pump(&client, &server) => {}
                    () = pump(&server, &client) => {}
                }
            });
            while tasks.try_join_next().is_some() {}
        }
    });
}

/// Copies until one side has left.
async fn pump(from: &TcpStream, to: &TcpStream) {
    let mut buffer = vec![0_u8; 16 * 1024];
    loop {
        if from.readable().await.is_err() {
            return;
        }
        let length = match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if to.writable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}
