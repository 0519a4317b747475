//! Which processes of this machine are servers of a data directory.
//!
//! `postmaster.pid` alone proves nothing: the server may have been killed and its number given to
//! another program. A server is a live process (no zombie) of that number whose working directory
//! is the data directory, because PostgreSQL changes into it.

use std::fs;
use std::path::{Path, PathBuf};

use super::HostError;

/// What is known of a node's data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// There is no data directory.
    Absent,
    /// Making it was interrupted.
    HalfMade,
    /// A data directory, and no server.
    Stopped,
    /// A server runs.
    Running {
        /// Process id of the postmaster.
        pid: u32,
        /// Port it listens on; 0 while it starts.
        port: u16,
    },
}

/// Contents of `postmaster.pid` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidFile {
    /// First line.
    pub pid: u32,
    /// Fourth line; 0 while not written yet.
    pub port: u16,
}

/// Reads `postmaster.pid`; `None` when there is none or it cannot be understood.
///
/// # Source
/// `src/include/utils/pidfile.h`.
pub fn read_pid_file(directory: &Path) -> Option<PidFile> {
    parse_pid_file(&fs::read_to_string(directory.join("postmaster.pid")).ok()?)
}

fn parse_pid_file(text: &str) -> Option<PidFile> {
    let mut lines = text.lines();
    // A standalone backend writes its number as a negative one; it serves nobody.
    let pid = lines.next()?.trim().parse().ok()?;
    let port = lines.nth(2).and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    Some(PidFile { pid, port })
}

/// The running server of a data directory.
pub fn running_server(directory: &Path) -> Option<PidFile> {
    read_pid_file(directory).filter(|file| is_alive(file.pid) && works_in(file.pid, directory))
}

/// The process exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit(')').next().map(|rest| rest.trim_start().to_owned()))
        .is_some_and(|rest| !rest.starts_with('Z') && !rest.starts_with('X'))
}

/// Somebody's shell may stand in the directory too, so the program's name counts as well.
fn works_in(pid: u32, directory: &Path) -> bool {
    // A directory that was removed under its server is shown with a word after its name.
    let is_there = |cwd: PathBuf| {
        cwd == directory || cwd.to_str().and_then(|cwd| cwd.strip_suffix(" (deleted)")) == directory.to_str()
    };
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(is_there)
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("post"))
}

/// Processes whose working directory is the data directory: a server and its children.
pub fn working_in(directory: &Path) -> Vec<u32> {
    all().filter(|pid| works_in(*pid, directory) && is_alive(*pid)).collect()
}

/// Programs of the given names that were started with the path as one of their arguments, and may
/// have lost their parent.
pub fn started_for(path: &Path, programs: &[&str]) -> Vec<u32> {
    let path = path.as_os_str().as_encoded_bytes();
    all()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                let mut words = line.split(|byte| *byte == 0);
                let program = words.next().unwrap_or_default();
                programs.iter().any(|name| program.ends_with(name.as_bytes()))
                    && words.any(|word| {
                        word.ends_with(path) && (word.len() == path.len() || word.get(..2) == Some(&b"--"[..]))
                    })
            })
        })
        .collect()
}

fn all() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
}

/// Removes a `postmaster.pid` whose number now belongs to another program.
///
/// PostgreSQL itself handles a number that nobody has. One that somebody else has makes it refuse
/// to start ("lock file already exists"). The file also guards shared memory, so it stays when any
/// process still works in the directory.
///
/// # Errors
/// [`HostError::Orphans`] when processes of a dead server are still there.
pub fn clear_stale_pid_file(directory: &Path) -> Result<(), HostError> {
    let path: PathBuf = directory.join("postmaster.pid");
    if !path.exists() || running_server(directory).is_some() {
        return Ok(());
    }
    let orphans = working_in(directory);
    if !orphans.is_empty() {
        let pids = orphans.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        return Err(HostError::Orphans { directory: directory.to_owned(), pids });
    }
    match read_pid_file(directory) {
        Some(file) if !Path::new(&format!("/proc/{}", file.pid)).exists() => Ok(()),
        _ => fs::remove_file(&path).map_err(|error| HostError::io("remove", &path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_gives_pid_and_port() {
        let text = "4711\n/data\n1700000000\n15500\n\n127.0.0.1\n  1 2\nready   \n";
        assert_eq!(parse_pid_file(text), Some(PidFile { pid: 4711, port: 15_500 }));
        assert_eq!(parse_pid_file("4711\n/data\n"), Some(PidFile { pid: 4711, port: 0 }));
        assert_eq!(parse_pid_file(""), None);
        assert_eq!(parse_pid_file("-4711\n"), None);
    }

    #[test]
    fn a_pid_of_another_program_is_no_server() {
        let directory = tempfile::tempdir().unwrap();
        let file = format!("{}\n/data\n1\n15500\n", std::process::id());
        fs::write(directory.path().join("postmaster.pid"), file).unwrap();
        assert_eq!(running_server(directory.path()), None);
        clear_stale_pid_file(directory.path()).unwrap();
        assert!(!directory.path().join("postmaster.pid").exists());
    }

    #[test]
    fn we_are_alive_and_an_impossible_pid_is_not() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }
}
