//! TCP ports: which are free, and who has the others.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use super::HostError;

/// First port that is tried for a server.
pub const FIRST: u16 = 15_500;

/// Last port that is tried for a server.
pub const LAST: u16 = 25_499;

/// Checks that an address can be listened on.
///
/// # Errors
/// [`HostError::PortInUse`] with the owner as far as `/proc` tells; `advice` completes the sentence
/// "stop that program".
pub fn check_free(address: SocketAddr, advice: &'static str) -> Result<(), HostError> {
    if address.port() == 0 {
        return Ok(());
    }
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(HostError::PortInUse {
            address: address.ip().to_string(),
            port: address.port(),
            owner: owner(address.port()).unwrap_or_else(|| "another program".to_owned()),
            advice,
        }),
        Err(error) => Err(HostError::io("listen on", std::path::Path::new(&address.to_string()), error)),
    }
}

/// A server's address: servers listen on loopback only.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// The lowest `count` ports from `first` up that nobody listens on now.
pub fn choose(first: u16, count: usize) -> Result<Vec<u16>, HostError> {
    let ports: Vec<u16> =
        (first..=LAST).filter(|port| TcpListener::bind(loopback(*port)).is_ok()).take(count).collect();
    if ports.len() < count {
        return Err(HostError::NoFreePort { from: first, to: LAST });
    }
    Ok(ports)
}

/// The process that listens on a port, as `pid 123 (postgres)`; `None` where that cannot be told.
pub fn owner(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok()).any(|link| {
            let link = link.to_string_lossy();
            inodes.iter().any(|inode| *link == format!("socket:[{inode}]"))
        });
        if holds {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("pid {pid} ({})", name.trim()));
        }
    }
    None
}

/// Inodes of listening sockets (state 0A) on a port, from the text of `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let matches = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A";
            matches.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_owner() {
        let listener = TcpListener::bind(loopback(0)).unwrap();
        let address = listener.local_addr().unwrap();
        let error = check_free(address, "").unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(listener);
        check_free(address, "").unwrap();
    }

    #[test]
    fn chosen_ports_are_free_and_distinct() {
        let ports = choose(FIRST, 3).unwrap();
        assert_eq!(ports.len(), 3);
        assert!(ports.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
