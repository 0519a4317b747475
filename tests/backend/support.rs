//! What these tests share.

use ostrakon::auth::ServerSecret;
use ostrakon::backend::{ConnectTarget, Connection};
use ostrakon::base::NodeId;

/// A target on this machine as the superuser.
pub fn target(port: u16) -> ConnectTarget {
    ConnectTarget {
        node: NodeId(u32::from(port)),
        host: "127.0.0.1".into(),
        port,
        database: "postgres".into(),
        user: "postgres".into(),
        secret: ServerSecret::default(),
        parameters: Vec::new(),
        connect_timeout_ms: 5_000,
        tls: std::sync::Arc::new(ostrakon::net::tls::Connector::disabled()),
    }
}

/// Runs a statement that must succeed and gives the first column of its rows.
pub async fn run(connection: &mut Connection, sql: &str) -> Vec<String> {
    let result = connection.simple(sql).await.expect("connection");
    assert!(result.error.is_none(), "{sql}: {:?}", result.error);
    result.rows.into_iter().map(|row| row.into_iter().next().flatten().unwrap_or_default()).collect()
}

/// Small numbers without a pattern, the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}
