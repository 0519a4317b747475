//! Servers, a proxy with rules of its own before them, and logins by libpq and by hand.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::cluster::{Server, eventually, free_port, pg_bin, signal};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Servers and a proxy.
pub struct Ground {
    pub port: u16,
    pub servers: Vec<Server>,
    pub directory: tempfile::TempDir,
    proxy: Child,
}

/// What psql said.
#[derive(Debug)]
pub struct Said {
    pub is_well: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn must(self) -> String {
        assert!(self.is_well, "{self:?}");
        self.stdout.trim().to_owned()
    }

    /// It failed with these words.
    pub fn failed(self, words: &str) {
        assert!(!self.is_well && self.stderr.contains(words), "{words:?} expected of {self:?}");
    }
}

/// One server for each of these pg_hba.conf files; `prepare` is run on each before the proxy starts.
pub fn servers(hbas: &[&str], prepare: &str) -> Vec<Server> {
    let start = |(number, hba): (usize, &&str)| Server::start_with_hba(&format!("auth{}", number + 1), Some(hba));
    let mut servers: Vec<Server> = hbas.iter().enumerate().map(start).collect();
    servers.iter_mut().for_each(Server::wait);
    for server in &servers {
        let mut superuser = server.superuser();
        superuser.must("GRANT ALL ON SCHEMA public TO public");
        if !prepare.is_empty() {
            superuser.must(prepare);
        }
    }
    servers
}

impl Ground {
    /// A proxy with this configuration beside what every configuration has.
    pub fn start(servers: Vec<Server>, access: &str) -> Self {
        Self::start_with(servers, access, &[])
    }

    /// The same with variables of the environment.
    pub fn start_with(servers: Vec<Server>, access: &str, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("ostrakon-auth-").tempdir_in("/tmp").unwrap();
        let port = free_port();
        let data = directory.path().join("data");
        let mut text =
            format!("[proxy]\nlisten = \"127.0.0.1:{port}\"\ndata = {data:?}\ndatabase = \"app\"\n{access}\n");
        for server in &servers {
            text.push_str(&format!(
                "[[shards]]\nname = \"{0}\"\n[[shards.nodes]]\nname = \"{0}a\"\nhost = \"127.0.0.1\"\nport = {1}\n",
                server.name, server.port
            ));
        }
        fs::write(directory.path().join("ostrakon.toml"), text).unwrap();
        let proxy = Self::launch(&directory, variables);
        let ground = Self { port, servers, directory, proxy };
        assert!(
            eventually(PATIENCE, || ground.log().contains("serving") || ground.log().contains("error:")),
            "{}",
            ground.log()
        );
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "the proxy does not listen: {}", ground.log());
        ground
    }

    fn launch(directory: &tempfile::TempDir, variables: &[(&str, &str)]) -> Child {
        let log = File::options().create(true).append(true).open(directory.path().join("log")).unwrap();
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_ostrakon"), "serve", "--config"])
            .arg(directory.path().join("ostrakon.toml"))
            .envs(variables.iter().copied())
            .env("OSTRAKON_LOG", "trace")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Everything the proxy has printed, at its most talkative.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Runs a statement with psql; `more` are further words of the connection string.
    pub fn psql(&self, user: &str, password: &str, more: &str, sql: &str) -> Said {
        let dsn = format!("host=127.0.0.1 port={} user='{user}' connect_timeout=20 {more}", self.port);
        let dsn = if more.contains("dbname=") { dsn } else { format!("{dsn} dbname=app") };
        psql(&dsn, password, sql)
    }

    /// `SELECT current_user`, which no server answers for somebody else.
    pub fn who(&self, user: &str, password: &str) -> Said {
        self.psql(user, password, "", "SELECT current_user")
    }

    /// SQLSTATE and message of a login that fails, as a driver that is not libpq sees it.
    pub fn refusal(&self, user: &str, password: &str, database: &str) -> (String, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(user).password(password).dbname(database);
        let outcome = runtime.block_on(async {
            let connecting = config.connect(tokio_postgres::NoTls);
            tokio::time::timeout(PATIENCE, connecting).await.expect("an answer in time")
        });
        let error = outcome.err().expect("a refusal");
        let error = error.as_db_error().unwrap_or_else(|| panic!("no error of the server: {error}"));
        assert_eq!(error.severity(), "FATAL");
        (error.code().code().to_owned(), error.message().to_owned())
    }

    /// A socket on which the startup packet has been sent.
    pub fn raw_login(&self, user: &str) -> RawLogin {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = format!("\0\x03\0\0user\0{user}\0database\0app\0\0");
        stream.write_all(&u32::try_from(body.len() + 4).unwrap().to_be_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        RawLogin { stream }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        signal(self.proxy.id(), Signal::SIGTERM);
        let proxy = &mut self.proxy;
        if !eventually(Duration::from_secs(10), || matches!(proxy.try_wait(), Ok(Some(_)))) {
            let _ = self.proxy.kill();
            let _ = self.proxy.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the proxy's last words ---");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Runs psql, with no password but this one.
pub fn psql(dsn: &str, password: &str, sql: &str) -> Said {
    let mut command = Command::new(pg_bin().join("psql"));
    command.args(["-X", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-c", sql, dsn]);
    command.env("PGPASSFILE", "/dev/null").env_remove("PGPASSWORD").stdin(Stdio::null());
    if !password.is_empty() {
        command.env("PGPASSWORD", password);
    }
    let output = command.output().expect("psql runs");
    Said {
        is_well: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A login by hand.
pub struct RawLogin {
    stream: TcpStream,
}

impl RawLogin {
    /// Sends a message.
    pub fn send(&mut self, tag: u8, body: &[u8]) {
        let mut message = vec![tag];
        message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        message.extend_from_slice(body);
        let _ = self.stream.write_all(&message);
    }

    /// Sends bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next message.
    pub fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0u8; 5];
        self.stream.read_exact(&mut header).expect("a message");
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let mut body = vec![0u8; length as usize - 4];
        self.stream.read_exact(&mut body).expect("a whole message");
        (header[0], body)
    }

    /// An ErrorResponse and then the end. Gives its SQLSTATE.
    pub fn refused(&mut self) -> String {
        let (tag, body) = self.receive();
        assert_eq!(char::from(tag), 'E', "{}", String::from_utf8_lossy(&body));
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "the connection is closed behind a FATAL error");
        let fields: Vec<&[u8]> = body.split(|byte| *byte == 0).collect();
        let code = fields.iter().find(|field| field.first() == Some(&b'C')).expect("a code");
        String::from_utf8_lossy(&code[1..]).into_owned()
    }
}
