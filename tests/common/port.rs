//! Ports for servers of tests.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// A port that nothing listened on a moment ago, and that no connection is given as its own: below those that systems
/// hand out, and above those that tests name and `up` takes.
pub fn free_port() -> u16 {
    const FIRST: u32 = 25_500;
    const COUNT: u32 = 7_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Tests are processes of their own, with process ids one after the other.
    let start = std::process::id().wrapping_mul(61);
    for _ in 0..COUNT {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + start.wrapping_add(number) % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
