//! File systems of limited size, and what fills them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::run;

/// A file system in memory over a host's directory. It has to be there before the host is, which then sees it, too.
pub struct Disk(PathBuf);

impl Disk {
    pub fn make(path: &Path, size_mb: u32) -> Self {
        let options = format!("size={size_mb}m,mode=0755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "ostrakon-chaos"]).arg(path));
        Self(path.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// A file that takes all the room that is left, until it is dropped.
pub struct Filler(PathBuf);

impl Filler {
    pub fn fill(directory: &Path) -> Self {
        let filler = Self(directory.join("filler"));
        let mut file = File::create(&filler.0).unwrap();
        // The last piece may be a small one.
        for size in [1 << 20, 1 << 12] {
            let piece = vec![0_u8; size];
            while file.write_all(&piece).is_ok() {}
        }
        filler
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
