//! Where the server programs are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::HostError;

/// Oldest major version that is supported.
pub const VERSION_MIN: u32 = 14;

/// Programs that must be there.
const PROGRAMS: [&str; 4] = ["initdb", "pg_basebackup", "pg_ctl", "postgres"];

/// Parents of per-version directories: Debian and Ubuntu.
const PARENT: &str = "/usr/lib/postgresql";

/// A directory of PostgreSQL server programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The directory.
    pub directory: PathBuf,
    /// Major version.
    pub version: u32,
}

impl Binaries {
    /// The given directory, else the newest under `/usr/lib/postgresql`, else the first of `PATH`.
    ///
    /// # Errors
    /// What is missing and how to install it; nothing was changed.
    pub fn find(given: Option<&Path>) -> Result<Self, HostError> {
        if let Some(directory) = given {
            let missing = |_| HostError::MissingProgram { directory: directory.to_owned(), program: PROGRAMS[0] };
            let directory = fs::canonicalize(directory).map_err(missing)?;
            return Self::in_directory(&directory);
        }
        if let Some(directory) = newest_under(Path::new(PARENT)) {
            return Self::in_directory(&directory);
        }
        let path = env::var_os("PATH").unwrap_or_default();
        match env::split_paths(&path).find(|directory| is_whole(directory)) {
            Some(directory) => {
                let directory =
                    fs::canonicalize(&directory).map_err(|error| HostError::io("use", &directory, error))?;
                Self::in_directory(&directory)
            }
            None => Err(HostError::NoBinaries { looked_in: format!("{PARENT}/*/bin and PATH") }),
        }
    }

    fn in_directory(directory: &Path) -> Result<Self, HostError> {
        for program in PROGRAMS {
            if !directory.join(program).is_file() {
                return Err(HostError::MissingProgram { directory: directory.to_owned(), program });
            }
        }
        let postgres = directory.join("postgres");
        let output = Command::new(&postgres)
            .arg("--version")
            .output()
            .map_err(|error| HostError::io("run", &postgres, error))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match major_version(&said) {
            Some(version) if version >= VERSION_MIN => Ok(Self { directory: directory.to_owned(), version }),
            _ => Err(HostError::UnsupportedVersion { directory: directory.to_owned(), version: said }),
        }
    }

    /// Path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn is_whole(directory: &Path) -> bool {
    PROGRAMS.iter().all(|program| directory.join(program).is_file())
}

/// The `bin` of the highest version that has a whole server; client-only versions are passed over.
fn newest_under(parent: &Path) -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .ok()?
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, directory)| is_whole(directory))
        .collect();
    versions.sort();
    versions.pop().map(|(_, directory)| directory)
}

/// `postgres (PostgreSQL) 15.8 (Debian 15.8-0)` -> 15.
fn major_version(said: &str) -> Option<u32> {
    let number = said.split("(PostgreSQL) ").nth(1)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_every_usual_form() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_version("postgres (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(major_version("something else"), None);
    }

    #[test]
    fn the_newest_whole_version_is_taken_by_number() {
        let parent = tempfile::tempdir().unwrap();
        for (version, programs) in [("9", 4), ("14", 4), ("15", 4), ("17", 1), ("x", 4)] {
            let bin = parent.path().join(version).join("bin");
            fs::create_dir_all(&bin).unwrap();
            for program in PROGRAMS.iter().take(programs) {
                fs::write(bin.join(program), "").unwrap();
            }
        }
        assert_eq!(newest_under(parent.path()), Some(parent.path().join("15/bin")));
    }

    #[test]
    fn a_directory_without_a_server_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = Binaries::find(Some(directory.path())).unwrap_err();
        assert!(matches!(error, HostError::MissingProgram { program: "initdb", .. }), "{error}");
    }
}
