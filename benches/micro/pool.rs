//! The pool with connections that cost nothing.

use std::hint::black_box;
use std::sync::Arc;

use ostrakon::backend::gate::Gate;
use ostrakon::backend::pool::{ConnectFailure, Connector, Ended, Limits, Pool};

use crate::cases::Turn;

struct Nothing;

impl Connector for Nothing {
    type Connection = ();
    type Kind = u8;
    type Error = &'static str;

    async fn connect(&self, _: &u8) -> Result<(), &'static str> {
        Ok(())
    }

    fn failure(&self, _: &&'static str) -> ConnectFailure {
        ConnectFailure::Unavailable
    }

    fn end_turn(&self, (): &mut ()) -> Ended {
        Ended::Clean
    }

    async fn reset(&self, (): &mut ()) -> bool {
        true
    }

    fn is_usable(&self, (): &mut ()) -> bool {
        true
    }

    fn label(&self, (): &()) -> u32 {
        1
    }

    fn is_clean(&self, (): &()) -> bool {
        true
    }
}

/// A connection that is idle is taken and comes back.
pub fn checkout_and_return() -> Turn {
    let limits = Limits {
        size: 20,
        size_min: 0,
        checkout_timeout_ms: 60_000,
        connect_timeout_ms: 1_000,
        idle_timeout_ms: 600_000,
        lifetime_ms: 3_600_000,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let pool = Pool::new(Nothing, limits, Arc::new(Gate::new(4, 1_000_000)), 7);
    Box::new(move || {
        runtime.block_on(async {
            black_box(pool.checkout(&0).await.ok().unwrap());
        });
    })
}
