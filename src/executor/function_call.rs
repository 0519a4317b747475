//! FunctionCall: libpq's large object functions use it. They live on the home shard.

use bytes::Bytes;

use super::relay::Done;
use super::statement::in_failed_transaction;
use super::{Failure, Session};
use crate::error::{ClientError, ErrorId};
use crate::net::{Framed, NetError};
use crate::planner;
use crate::reshard::Touch;
use crate::session::columns::FIRST_USER_TYPE;

/// Large objects' functions by number (`pg_proc.dat`): what they do stays on one server. Any other
/// function might read tables that other shards have.
#[rustfmt::skip]
const LARGE_OBJECTS: &[u32] = &[
    715, 764, 765, 767, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172, 3457, 3458, 3459, 3460,
];

impl Session {
    /// Answers a FunctionCall message, ReadyForQuery included.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn function_call(&mut self, client: &mut Framed, call: &Bytes) -> Result<(), NetError> {
        if self.skip_to_sync {
            return Ok(());
        }
        if let Err(failure) = self.call(client, call).await {
            Self::write_failure(client, failure)?;
            self.fail_transaction().await;
        }
        self.end_message().await;
        self.ready(client).await
    }

    async fn call(&mut self, client: &mut Framed, call: &Bytes) -> Result<(), Failure> {
        self.refresh_topology(|_| Touch::EVERYTHING).await?;
        if self.transaction.is_failed() {
            return Err(in_failed_transaction().into());
        }
        let number = call.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        self.settle(client).await?;
        let number = number.unwrap_or_default();
        let is_large_object = LARGE_OBJECTS.contains(&number);
        if !is_large_object && !self.looks_at_nothing(client, number).await? {
            return Err(ClientError::new(
                ErrorId::FeatureNotSupported,
                "the function call protocol is supported for large objects and plain functions only",
            )
            .with_hint("Call the function by SELECT.")
            .into());
        }
        let home = self.topology.home();
        let done: Done = self.forward_call(client, home, call).await?;
        if let Some(link) = self.links.get_mut(&home) {
            link.wrote |= is_large_object;
        }
        done.write(client);
        Ok(())
    }

    /// One of PostgreSQL's own functions that depends on its arguments or the clock only. Its number is the same on
    /// every server.
    async fn looks_at_nothing(&mut self, client: &mut Framed, number: u32) -> Result<bool, Failure> {
        if number == 0 || number >= FIRST_USER_TYPE {
            return Ok(false);
        }
        let sql = format!("SELECT proname FROM pg_catalog.pg_proc WHERE oid = {number}");
        let name = self.ask_any(client, &sql).await?;
        Ok(planner::is_plain_function(&name))
    }
}
