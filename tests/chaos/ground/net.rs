//! Networks of this machine: which addresses are free, and whose processes are whose.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A second number of addresses 10.x.… that nobody on this machine uses.
pub fn free_block() -> u8 {
    let known = |what: &str| {
        let output = Command::new("ip").args(["-4", what]).output().expect("`ip` is there: package iproute2");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let known = known("addr") + &known("route");
    let start = std::process::id() % 100;
    let block = (0..100).map(|more| 100 + (start + more) % 100).find(|block| !known.contains(&format!("10.{block}.")));
    u8::try_from(block.expect("free addresses 10.100.0.0 to 10.199.255.255")).unwrap()
}

/// Live processes (no zombies) of a network, with their names.
pub fn processes_on(network: &Path) -> Vec<(u32, String)> {
    use std::os::unix::fs::MetadataExt;
    let Ok(wanted) = fs::metadata(network).map(|meta| (meta.dev(), meta.ino())) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let is_there = fs::metadata(entry.path().join("ns/net")).is_ok_and(|meta| (meta.dev(), meta.ino()) == wanted);
        if let (true, Ok(name)) = (is_there, fs::read_to_string(entry.path().join("comm"))) {
            found.push((pid, name.trim().to_owned()));
        }
    }
    found
}
