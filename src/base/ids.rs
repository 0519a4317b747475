//! Newtypes for the things that have an identity.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A shard: a primary and its replicas. Numbered from 1 and never reused.
    ShardId(u32), "s"
);
id!(
    /// A PostgreSQL server. Numbered from 1 and never reused.
    NodeId(u32), "n"
);
id!(
    /// One of the fixed hash slots of the keyspace.
    ///
    /// # Units
    /// 0 to 16,383.
    BucketId(u16), "b"
);
id!(
    /// Version of the topology; only grows.
    Epoch(u64), ""
);
id!(
    /// Version of a shard's leadership; only grows.
    Term(u64), ""
);
