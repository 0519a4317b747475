//! A directory that servers can live in, and that takes them along when it goes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostrakon::host::{self, Machine, ServerSpec, ServerState};
use tempfile::TempDir;

/// No test of this suite takes longer.
pub const LIMIT: Duration = Duration::from_secs(120);

pub struct Place {
    pub directory: TempDir,
    pub machine: Machine,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("ostrakon-host-").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let machine = Machine::open(directory.path(), None).unwrap();
        Self { directory, machine }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn pid(&self, name: &str) -> u32 {
        match self.machine.state(name) {
            ServerState::Running { pid, .. } => pid,
            other => panic!("{name} is {other:?}"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (_, directory) in host::machine::nodes(self.directory.path()) {
            if let Some(server) = host::process::running_server(&directory) {
                let _ = kill(Pid::from_raw(server.pid.cast_signed()), Signal::SIGQUIT);
                for _ in 0..500 {
                    if !host::process::is_alive(server.pid) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }
}

pub fn spec(name: &str, port: u16) -> ServerSpec {
    ServerSpec { name: name.to_owned(), port }
}

pub async fn value(spec: &ServerSpec, sql: &str) -> String {
    let client = host::replication::connect(spec).await.unwrap();
    client.query_one(sql, &[]).await.unwrap().get::<_, String>(0)
}

pub async fn run(spec: &ServerSpec, sql: &str) {
    host::replication::connect(spec).await.unwrap().batch_execute(sql).await.unwrap();
}

pub async fn within_limit<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("within the suite's limit")
}
