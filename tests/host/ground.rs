//! A cluster as the programs `up` and `down` see it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use ostrakon::host::{machine, process};
use tempfile::TempDir;

/// One cluster's directory and ports; whatever is left is stopped when it goes.
pub struct Ground {
    pub directory: TempDir,
    pub listen: u16,
    pub first_port: u16,
}

impl Ground {
    pub fn new(listen: u16, first_port: u16) -> Self {
        let directory = tempfile::Builder::new().prefix("ostrakon-up-").tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory, listen, first_port }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
        command.args(arguments).arg("--data").arg(self.path());
        if arguments.first() == Some(&"up") {
            command.arg("--listen").arg(format!("127.0.0.1:{}", self.listen));
            command.arg("--first-port").arg(self.first_port.to_string());
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", error(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn running(&self) -> Vec<String> {
        let nodes = machine::nodes(self.path()).into_iter();
        nodes.filter(|(_, path)| process::running_server(path).is_some()).map(|(name, _)| name).collect()
    }

    /// No server, no program that makes one, no proxy.
    pub fn assert_nothing_runs(&self, when: &str) {
        for entry in fs::read_dir(self.path().join("nodes")).into_iter().flatten().flatten() {
            let path = entry.path();
            assert_eq!(process::working_in(&path), Vec::<u32>::new(), "{when}: {}", path.display());
            let programs = process::started_for(&path, &["initdb", "pg_basebackup", "pg_ctl"]);
            assert_eq!(programs, Vec::<u32>::new(), "{when}: {}", path.display());
        }
        assert!(std::net::TcpListener::bind(("127.0.0.1", self.listen)).is_ok(), "{when}: the proxy's port is taken");
    }

    pub fn lock_holder(&self) -> Pid {
        let text = fs::read_to_string(self.path().join("up.lock")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}

pub fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn wait(child: &mut Child, limit: Duration) -> std::process::ExitStatus {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "still running after {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
