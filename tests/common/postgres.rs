//! A PostgreSQL server for one test: its own data directory, gone when the test ends.
//!
//! Include it with `#[path = "../common/postgres.rs"] mod postgres;`. Each test takes a port of its
//! own, since tests run at the same time.

#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running server, stopped and removed on drop.
pub struct ThrowawayPostgres {
    port: u16,
    directory: tempfile::TempDir,
    bin: PathBuf,
}

impl ThrowawayPostgres {
    /// Makes a cluster (superuser `postgres`, trust, UTF-8, C.UTF-8, fsync off) and starts it.
    pub fn start(port: u16) -> Self {
        Self::start_with(port, &[])
    }

    /// The same with more settings, each `name=value`.
    pub fn start_with(port: u16, settings: &[&str]) -> Self {
        let bin = bin_directory();
        let directory = tempfile::Builder::new().prefix("ostrakon-pg-").tempdir_in("/tmp").expect("temp dir");
        if let Some((uid, gid)) = server_user() {
            chown(directory.path(), Some(uid), Some(gid)).expect("chown");
        }
        let server = Self { port, directory, bin };
        let data = server.data().display().to_string();
        server.run("initdb", &["-U", "postgres", "--locale=C.UTF-8", "-E", "UTF8", "-A", "trust", "-N", "-D", &data]);
        let mut config = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n\
             synchronous_commit = off\nfull_page_writes = off\nmax_connections = 200\n\
             max_prepared_transactions = 50\nshared_buffers = '32MB'\n"
        );
        for setting in settings {
            let (name, value) = setting.split_once('=').expect("name=value");
            config.push_str(&format!("{} = '{}'\n", name.trim(), value.trim().trim_matches('\'')));
        }
        let auto = server.data().join("postgresql.auto.conf");
        fs::write(&auto, config).expect("settings are written");
        server.launch();
        server
    }

    /// Starts the server after [`Self::kill`] or [`Self::stop`].
    pub fn launch(&self) {
        let data = self.data().display().to_string();
        let log = self.directory.path().join("log").display().to_string();
        self.run("pg_ctl", &["start", "-w", "-t", "60", "-D", &data, "-l", &log]);
    }

    /// Stops the server as after a power cut.
    pub fn kill(&self) {
        let data = self.data().display().to_string();
        self.run("pg_ctl", &["stop", "-w", "-m", "immediate", "-D", &data]);
    }

    /// Stops the server in order.
    pub fn stop(&self) {
        let data = self.data().display().to_string();
        self.run("pg_ctl", &["stop", "-w", "-m", "fast", "-D", &data]);
    }

    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Where the programs are.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// A libpq URL for a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL through psql and returns what it prints, unaligned and without headers.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let output = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url(database)])
            .output()
            .expect("psql runs");
        assert!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// psql is turned away with these further words of a connection string.
    pub fn psql_fails(&self, words: &str) -> bool {
        let dsn = format!("host=127.0.0.1 port={} user=postgres dbname=postgres {words}", self.port);
        let output = Command::new(self.bin.join("psql")).args(["-X", "-w", "-c", "SELECT 1", &dsn]).output();
        !output.expect("psql runs").status.success()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(self.bin.join(program));
        command.args(arguments).current_dir("/tmp").env("LC_ALL", "C.UTF-8");
        if let Some((uid, gid)) = server_user() {
            command.uid(uid).gid(gid);
        }
        // The server inherits these: a pipe would never close.
        let quiet = self.directory.path().join(format!("{program}.out"));
        let file = fs::File::create(&quiet).expect("output file");
        command.stdout(file.try_clone().expect("clone")).stderr(file);
        let status = command.status().unwrap_or_else(|error| panic!("{program}: {error}"));
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let said = fs::read_to_string(&quiet).unwrap_or_default();
        assert!(status.success(), "{program} on port {}: {said}{log}", self.port);
    }
}

impl Drop for ThrowawayPostgres {
    fn drop(&mut self) {
        // By the process id in its data directory; a server that is stopped already has none.
        if self.data().join("postmaster.pid").exists() {
            let mut command = Command::new(self.bin.join("pg_ctl"));
            command.args(["stop", "-w", "-m", "immediate", "-D"]).arg(self.data()).current_dir("/tmp");
            if let Some((uid, gid)) = server_user() {
                command.uid(uid).gid(gid);
            }
            let _ = command.output();
        }
    }
}

/// PostgreSQL refuses to run as root: root becomes `postgres`, anyone else stays.
fn server_user() -> Option<(u32, u32)> {
    if !nix::unistd::Uid::effective().is_root() {
        return None;
    }
    let user = nix::unistd::User::from_name("postgres").expect("user database").expect("a user postgres");
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

/// `PG_BIN`, else the newest under /usr/lib/postgresql.
fn bin_directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("PG_BIN") {
        return directory.into();
    }
    let version = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| version(path).is_some() && path.join("bin/initdb").exists())
        .max_by_key(|path| version(path))
        .expect("PostgreSQL under /usr/lib/postgresql, or PG_BIN")
        .join("bin")
}
