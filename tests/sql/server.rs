//! A throwaway PostgreSQL for the differential tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A running server; stopped when dropped.
pub struct Server {
    bin: PathBuf,
    directory: PathBuf,
    port: u16,
}

/// The newest PostgreSQL of this machine.
fn bin_directory() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/initdb").exists().then(|| (version, path.join("bin")))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

impl Server {
    /// Starts a server, or says why there is none.
    pub fn start(port: u16) -> Option<Self> {
        let Some(bin) = bin_directory() else {
            eprintln!("skipped: no PostgreSQL in /usr/lib/postgresql/*/bin");
            return None;
        };
        let directory = PathBuf::from(format!("/tmp/ostrakon-sql-{port}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&directory).status().unwrap().success());
        }
        let server = Self { bin, directory, port };
        let data = server.directory.join("data").display().to_string();
        server.run("initdb", &["-D", &data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-N"]);
        let socket = server.directory.display().to_string();
        let options = format!("-p {port} -k {socket} -c listen_addresses='' -c fsync=off");
        let log = server.directory.join("log").display().to_string();
        server.run("pg_ctl", &["-D", &data, "-o", &options, "-l", &log, "-w", "start"]);
        Some(server)
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir("/tmp").env("LC_ALL", "C.UTF-8");
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = self.command(program).args(arguments).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{program} failed");
    }

    /// Runs a script in psql, and gives what it printed, unaligned and without headers.
    pub fn psql(&self, script: &str) -> String {
        let file = self.directory.join("script.sql");
        fs::write(&file, script).unwrap();
        let output = self
            .command("psql")
            .args(["-X", "-q", "-A", "-t", "-U", "postgres", "-d", "postgres", "-p", &self.port.to_string(), "-h"])
            .arg(&self.directory)
            .arg("-f")
            .arg(Path::new(&file))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "psql: {:.2000}", errors);
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.directory.join("data").display().to_string();
        let _ = self.command("pg_ctl").args(["-D", &data, "-m", "immediate", "stop"]).stdout(Stdio::null()).status();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
