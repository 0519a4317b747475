//! The wall clock of a proxy, moved: libfaketime stands between the proxy and the system's clock. What only goes on (the
//! monotonic clock) is left alone, as a clock that somebody sets leaves it alone.

use std::fs;
use std::path::PathBuf;

use crate::cluster::run;
use crate::set::{Set, words};

/// Debian's package libfaketime.
fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next().expect("libfaketime is there: package libfaketime")
}

impl Set {
    fn clock_file(&self, proxy: &str) -> PathBuf {
        self.ground.host(proxy).directory.join("clock")
    }

    /// What a proxy with a clock of its own is started with.
    pub fn clock_words(&self, proxy: &str) -> Vec<String> {
        let (library, file) = (library(), self.clock_file(proxy));
        words(&[
            "env",
            &format!("LD_PRELOAD={}", library.display()),
            &format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
            "FAKETIME_CACHE_DURATION=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "DONT_FAKE_MONOTONIC=1",
            "FAKETIME_DISABLE_SHM=1",
        ])
    }

    /// The proxy's clock is so much ahead or behind from now on (`+1h`, `-2h`).
    pub fn move_clock(&self, proxy: &str, offset: &str) {
        let file = self.clock_file(proxy);
        fs::write(&file, format!("{offset}\n")).unwrap();
    }

    /// By how many seconds the clock of a proxy was ahead when it last said anything.
    pub fn clock_ahead(&self, proxy: &str) -> Option<i64> {
        let seconds = |arguments: &[&str]| {
            run(std::process::Command::new("date").args(arguments)).trim().parse::<i64>().unwrap_or_default()
        };
        let log = self.log(proxy);
        let stamp =
            log.lines().rev().find_map(|line| line.split_whitespace().next().filter(|word| word.ends_with('Z')))?;
        Some(seconds(&["-d", stamp, "+%s"]) - seconds(&["+%s"]))
    }
}
