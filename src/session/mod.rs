//! What a client's session is between messages: its transaction, its settings, its prepared
//! statements and portals. Pure; the executor acts on it.
//!
//! Must not know: connections, shards' whereabouts, sockets.

pub mod columns;
pub mod commit_wait;
pub mod direct;
pub mod encoding;
pub mod identity;
pub mod mode;
pub mod parameters;
pub mod pins;
pub mod prepared;
pub mod read_from;
pub mod server_statements;
pub mod settings;
pub mod sql_prepare;
pub mod transaction;

pub use columns::{Columns, Told};
pub use encoding::ClientEncoding;
pub use mode::PoolMode;
pub use parameters::Parameters;
pub use prepared::{Parsed, Portal, PreparedStatement, Statements};
pub use read_from::ReadFrom;
pub use server_statements::{Ensured, PreparedSet};
pub use settings::{Change, Settings};
pub use transaction::{Status, Transaction};
