//! Who runs the servers: ourselves, or the user `postgres` when we are root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use super::HostError;

/// The user that server programs run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Name, for messages.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// We are root and become this user for server programs.
    pub is_switched: bool,
}

impl Account {
    /// Ourselves; as root the user `postgres`, because PostgreSQL refuses root.
    ///
    /// # Errors
    /// [`HostError::NoAccount`] as root on a machine without that user.
    pub fn for_servers() -> Result<Self, HostError> {
        let current = Uid::effective();
        if !current.is_root() {
            let user = User::from_uid(current).ok().flatten();
            let gid = nix::unistd::Gid::effective().as_raw();
            let name = user.map_or_else(|| current.to_string(), |user| user.name);
            return Ok(Self { name, uid: current.as_raw(), gid, is_switched: false });
        }
        match User::from_name("postgres") {
            Ok(Some(user)) => {
                Ok(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), is_switched: true })
            }
            _ => Err(HostError::NoAccount),
        }
    }

    /// Makes a directory that this user owns and nobody else reads; parents are made as needed.
    pub fn make_private_directory(&self, directory: &Path) -> Result<(), HostError> {
        make_directory(directory)?;
        self.own(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
            .map_err(|error| HostError::io("set the permissions of", directory, error))
    }

    /// Hands a file or directory to this user.
    pub fn own(&self, path: &Path) -> Result<(), HostError> {
        if !self.is_switched {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid)).map_err(|error| HostError::io("change the owner of", path, error))
    }

    /// Checks that this user can enter a directory, as far as it exists.
    ///
    /// # Errors
    /// [`HostError::Unreachable`] names the first directory on the way that stops it.
    pub fn check_reach(&self, directory: &Path) -> Result<(), HostError> {
        if !self.is_switched {
            return Ok(());
        }
        match self.first_barrier(directory)? {
            None => Ok(()),
            Some(barrier) => {
                Err(HostError::Unreachable { user: self.name.clone(), barrier, directory: directory.to_owned() })
            }
        }
    }

    fn first_barrier(&self, directory: &Path) -> Result<Option<PathBuf>, HostError> {
        let mut way: Vec<&Path> = directory.ancestors().collect();
        way.reverse();
        for step in way {
            let metadata = match fs::metadata(step) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(error) => return Err(HostError::io("look at", step, error)),
            };
            let shift = if metadata.uid() == self.uid {
                6
            } else if metadata.gid() == self.gid {
                3
            } else {
                0
            };
            if (metadata.mode() >> shift) & 1 == 0 {
                return Ok(Some(step.to_owned()));
            }
        }
        Ok(None)
    }
}

/// Makes a directory and its missing parents, each open to everybody whatever the umask: the
/// server's user must be able to pass.
pub fn make_directory(directory: &Path) -> Result<(), HostError> {
    let absolute = std::path::absolute(directory).map_err(|error| HostError::io("use", directory, error))?;
    let directory = absolute.as_path();
    let missing: Vec<&Path> = directory.ancestors().take_while(|step| !step.exists()).collect();
    for step in missing.into_iter().rev() {
        match fs::create_dir(step) {
            Ok(()) => fs::set_permissions(step, fs::Permissions::from_mode(0o755))
                .map_err(|error| HostError::io("set the permissions of", step, error))?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(HostError::io("make the directory", step, error)),
        }
    }
    if !directory.is_dir() {
        return Err(HostError::io("use as a directory", directory, std::io::ErrorKind::NotADirectory.into()));
    }
    Ok(())
}
