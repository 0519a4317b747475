//! Hosts as containers.
//!
//! Without `OSTRAKON_CHAOS_IMAGE` they run the programs of this machine, which is mounted read-only into an empty image:
//! nothing has to be fetched or built. With it they run what that image has (`docker/Dockerfile`, target `chaos`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Host, Machines, Net, User, bounded};
use crate::cluster::{run, server_user};

const LIMIT: Duration = Duration::from_secs(60);
const EMPTY_IMAGE: &str = "ostrakon-chaos-machine";
/// The first process of a container: does nothing, and buries the dead.
const FIRST: &str = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";

pub struct Docker {
    block: u8,
    prefix: String,
    directory: PathBuf,
    image: Option<String>,
    /// First process of each container.
    first: BTreeMap<String, u32>,
}

fn docker(words: &[&str]) -> Command {
    let mut command = bounded(LIMIT, "docker");
    command.args(words);
    command
}

impl Docker {
    /// Whether a daemon answers, and an empty image with this machine's programs would do.
    pub fn works() -> bool {
        let answers = docker(&["info", "--format", "{{.ServerVersion}}"]).output();
        let is_merged = fs::symlink_metadata("/lib").is_ok_and(|meta| meta.is_symlink());
        answers.is_ok_and(|output| output.status.success())
            && (is_merged || std::env::var_os("OSTRAKON_CHAOS_IMAGE").is_some())
    }

    pub fn new(block: u8, directory: &Path) -> Self {
        let prefix = format!("ostrakon-chaos-{}", std::process::id());
        let image = std::env::var("OSTRAKON_CHAOS_IMAGE").ok();
        Self { block, prefix, directory: directory.to_owned(), image, first: BTreeMap::new() }
    }

    fn container(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn net(&self, net: Net) -> String {
        format!("{}-{}", self.prefix, if net == Net::Client { "client-net" } else { "repl-net" })
    }

    /// An image of mount points and a few files.
    fn make_empty_image(&self) {
        let root = self.directory.join("image");
        for path in ["usr", "etc", "proc", "sys", "dev", "run", "var", "tmp"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
        let (uid, gid) = server_user().expect("as root");
        let people = format!("root:x:0:0::/:/bin/sh\npostgres:x:{uid}:{gid}::/tmp:/bin/sh\n");
        fs::write(root.join("etc/passwd"), people).unwrap();
        fs::write(root.join("etc/group"), format!("root:x:0:\npostgres:x:{gid}:\n")).unwrap();
        fs::write(root.join("etc/nsswitch.conf"), "hosts: files\n").unwrap();
        let archive = self.directory.join("image.tar");
        run(Command::new("tar").arg("-C").arg(&root).args(["--numeric-owner", "-c", "-f"]).arg(archive).arg("."));
    }

    fn import_empty_image(&self) {
        self.make_empty_image();
        let tar = fs::File::open(self.directory.join("image.tar")).unwrap();
        run(docker(&["import", "-", EMPTY_IMAGE]).stdin(Stdio::from(tar)));
    }

    fn create_host(&mut self, host: &Host, all: &BTreeMap<String, Host>) {
        let container = self.container(&host.name);
        let shared = |path: &str, mode: &str| format!("{path}:{path}{mode}");
        let directory = self.directory.to_string_lossy().into_owned();
        let binary = env!("CARGO_BIN_EXE_ostrakon");
        let mut command = docker(&["run", "--detach", "--name", &container, "--hostname", &host.name]);
        command.args(["--label", "ostrakon-chaos", "--shm-size", "128m", "--network", &self.net(Net::Client)]);
        command.args(["--ip", &host.address(Net::Client).to_string(), "--volume", &shared(&directory, "")]);
        command.args(["--volume", &shared(binary, ":ro")]);
        // A file of our own: the one that Docker makes loses its entries when a network is taken away.
        let names = host.directory.join("hosts");
        fs::write(&names, host.names_file(all)).unwrap();
        command.args(["--volume", &format!("{}:/etc/hosts:ro", names.display())]);
        let image = match &self.image {
            Some(image) => image.clone(),
            None => {
                command.args(["--volume", "/usr:/usr:ro"]);
                EMPTY_IMAGE.to_owned()
            }
        };
        run(command.args(["--entrypoint", "/bin/bash", &image, "-c", FIRST]));
        if host.replicates {
            self.attach(host, Net::Replication, true);
        }
        self.look(host);
    }

    fn look(&mut self, host: &Host) {
        let pid = run(&mut docker(&["inspect", "--format", "{{.State.Pid}}", &self.container(&host.name)]));
        self.first.insert(host.name.clone(), pid.trim().parse().unwrap());
    }
}

impl Machines for Docker {
    fn describe(&self) -> String {
        match &self.image {
            Some(image) => format!("docker, containers of the image {image}"),
            None => "docker, containers with this machine's programs".to_owned(),
        }
    }

    fn create(&mut self, hosts: &BTreeMap<String, Host>) {
        if self.image.is_none() {
            self.import_empty_image();
        }
        for net in Net::ALL {
            let subnet = format!("10.{}.{}.0/24", self.block, net.number());
            // Nothing leaves the machine.
            run(&mut docker(&["network", "create", "--internal", "--subnet", &subnet, &self.net(net)]));
        }
        for host in hosts.values() {
            self.create_host(host, hosts);
        }
    }

    fn start(&self, host: &Host, user: User, words: &[String], log: &Path) {
        let user = match (user, server_user()) {
            (User::Postgres, Some((uid, gid))) => format!("{uid}:{gid}"),
            _ => "0:0".to_owned(),
        };
        let script = format!("exec \"$@\" >>{} 2>&1", log.display());
        let container = self.container(&host.name);
        let mut command = docker(&["exec", "--detach", "--user", &user, "--env", "OSTRAKON_LOG=info", &container]);
        run(command.args(["/bin/sh", "-c", &script, "sh"]).args(words));
    }

    fn network(&self, host: &str) -> PathBuf {
        format!("/proc/{}/ns/net", self.first.get(host).copied().unwrap_or_default()).into()
    }

    fn attach(&self, host: &Host, net: Net, is_on: bool) {
        let (container, name, address) = (self.container(&host.name), self.net(net), host.address(net).to_string());
        if is_on {
            run(&mut docker(&["network", "connect", "--ip", &address, &name, &container]));
        } else {
            run(&mut docker(&["network", "disconnect", &name, &container]));
        }
    }

    fn pause(&self, host: &Host, is_paused: bool) {
        run(&mut docker(&[if is_paused { "pause" } else { "unpause" }, &self.container(&host.name)]));
    }

    fn kill(&self, host: &Host) {
        run(&mut docker(&["kill", "--signal", "KILL", &self.container(&host.name)]));
    }

    fn revive(&mut self, host: &Host) {
        run(&mut docker(&["start", &self.container(&host.name)]));
        self.look(host);
    }

    fn remove(&mut self) {
        let names: Vec<String> = self.first.keys().map(|host| self.container(host)).collect();
        let _ = docker(&["rm", "--force", "--volumes"]).args(&names).output();
        for net in Net::ALL {
            let _ = docker(&["network", "rm", &self.net(net)]).output();
        }
        if self.image.is_none() {
            let _ = docker(&["image", "rm", EMPTY_IMAGE]).output();
        }
    }
}
