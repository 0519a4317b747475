//! What each view shows, column by column: the order of columns in answers, and the page in `docs/`.

/// A view.
pub(super) struct ViewSpec {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Name and meaning, in order.
    pub(super) columns: &'static [(&'static str, &'static str)],
}

const SHARD_COLUMNS: &[(&str, &str)] = &[
    ("id", "the shard's number"),
    ("name", "its name"),
    ("buckets", "how many of the 16,384 buckets it owns"),
    ("pins", "how many keys are pinned to it"),
    ("term", "version of its leadership; only grows"),
    ("weight", "its share of the ring relative to the others"),
];

const NODE_COLUMNS: &[(&str, &str)] = &[
    ("shard", "the shard's name"),
    ("name", "the node's name"),
    ("role", "`primary` or `replica`"),
    ("host", "host name or address"),
    ("port", "TCP port"),
    ("state", "`up`, `streaming`, `detached`, `down` or `unknown`; every node is asked now"),
    ("lag_bytes", "how far a replica is behind; empty for a primary"),
    ("buckets", "buckets of its shard"),
    ("term", "version of the shard's leadership; empty where nobody leads it"),
    (
        "sync",
        "commits wait for it: it is in the synchronous set, and in the one before while the set changes; empty where nobody leads the shard",
    ),
    ("lsn", "written by a primary, replayed by a replica; empty where it does not answer"),
    (
        "agent",
        "what its agent said last: `running`, `stopped`, `empty`, `making`; `leaving` and `renewed` were asked for; empty \
         without an agent",
    ),
    (
        "waits",
        "why its shard takes no writes now and what it waits for; empty when it takes them, and where nobody leads it",
    ),
];

/// All views, in the order of the documentation.
pub(super) const VIEWS: &[ViewSpec] = &[
    ViewSpec { name: "status", about: "The nodes and how they are.", columns: NODE_COLUMNS },
    ViewSpec { name: "topology", about: "The shards; as JSON the whole topology.", columns: SHARD_COLUMNS },
    ViewSpec { name: "shards", about: "The shards.", columns: SHARD_COLUMNS },
    ViewSpec { name: "nodes", about: "The nodes and how they are.", columns: NODE_COLUMNS },
    ViewSpec {
        name: "tables",
        about: "Where tables live.",
        columns: &[
            ("schema", "schema"),
            ("name", "name"),
            ("placement", "`sharded`, `reference` or `single`"),
            ("key", "columns of the sharding key"),
            ("home", "the shard of a single table"),
            ("declared", "declared, not placed by a rule or by default"),
            ("exists", "it exists on the servers"),
        ],
    },
    ViewSpec {
        name: "drift",
        about: "What the shards have not alike, by their catalogs as they are now: empty when all is well.",
        columns: &[
            ("kind", "`table`, `column`, `index`, `constraint`, `function`, `type`, `role` …"),
            ("name", "the object's full name"),
            ("shard", "the shard that differs from the first one"),
            ("state", "`missing` there, `extra` there, or `different`"),
        ],
    },
    ViewSpec {
        name: "reshard",
        about: "The resharding job.",
        columns: &[
            ("phase", "`preparing`, `moving`, `moved` (waits for FINISH or REVERSE), `cleaning`, or `none`"),
            ("paused", "no step begins; `trouble` says why, if nobody asked for it"),
            ("reversed", "buckets go back"),
            ("buckets_total", "buckets that the job moves"),
            ("buckets_left", "those that have still to move"),
            ("rows_moved", "rows that were moved"),
            ("rows_left", "rows in the buckets left, as they were counted at the start"),
            ("bytes_moved", "bytes of the rows moved, as they went over the wire, since this proxy was started"),
            ("steps", "steps that counted"),
            ("pause_longest_ms", "the longest time that what reads moving buckets, or all, waited for a step"),
            ("pause_mean_ms", "the same on average"),
            ("hold_longest_ms", "the longest time that writes to moving buckets waited for a step"),
            ("hold_mean_ms", "the same on average"),
            ("waited", "statements that waited for a step"),
            ("wait_longest_ms", "the longest wait of one statement"),
            ("wait_median_ms", "half of those that waited waited no longer"),
            ("rows_next", "rows that the next step takes"),
            (
                "step_parts_ms",
                "what a step spends its time on, on average since the proxy was started: writing its record, waiting for writers, moving \
                 rows, preparing, waiting for readers, writing the new owner, committing",
            ),
            ("trouble", "why it does not get on at the moment"),
        ],
    },
    ViewSpec {
        name: "pins",
        about: "Pinned keys: each has a bucket of its own.",
        columns: &[
            ("key", "its values"),
            ("shard", "where it lives now"),
            ("bucket", "its own"),
            ("hash_slot", "the bucket that it would be in"),
            ("hash_slot_shard", "where that is"),
            ("settled", "no job brings it elsewhere"),
        ],
    },
    ViewSpec {
        name: "pools",
        about: "The pools of server connections: one for each node, database and user.",
        columns: &[
            ("node", "the node"),
            ("database", "database"),
            ("user", "role"),
            ("mode", "when a session gives its connection back: `transaction`, `session` or `statement`"),
            ("size", "most connections"),
            ("idle", "connections that wait for work"),
            ("used", "connections that sessions hold"),
            ("opening", "connections being opened, or waiting for their turn to be"),
            ("resetting", "connections from which a session is being wiped"),
            ("waiting", "sessions that wait for a connection, first come, first served"),
            ("longest_wait_ms", "how long the first of them has waited"),
            ("opened_total", "connections opened since the pool was made"),
            ("resets_total", "connections wiped since the pool was made"),
            ("turns_total", "transactions, and statements outside of them, that ended since the pool was made"),
        ],
    },
    ViewSpec {
        name: "servers",
        about: "The connections of all pools.",
        columns: &[
            ("node", "the node"),
            ("database", "database"),
            ("user", "role"),
            ("pid", "process id on the node, as in `pg_stat_activity`"),
            ("state", "`idle`, `used` or `resetting`"),
            ("client", "process id that the client was told who holds it, as in SHOW CLIENTS"),
            ("age_s", "how long ago it was opened"),
            ("idle_s", "how long it has been idle"),
        ],
    },
    ViewSpec {
        name: "clients",
        about: "The clients that are connected, those of the admin database included.",
        columns: &[
            ("pid", "process id that the client was told; cancel requests and `pg_terminate_backend` take it"),
            ("user", "role"),
            ("database", "database"),
            ("address", "where it connects from"),
            ("mode", "when it gives its connections back; empty for the admin database"),
            ("state", "`active` while it holds a server connection, else `idle`"),
            ("servers", "the connections it holds: shard and process id"),
            ("connected_s", "how long it has been connected"),
        ],
    },
    ViewSpec {
        name: "proxies",
        about: "The proxies that share the store; none where it is embedded.",
        columns: &[
            ("name", "the proxy's name"),
            ("listen", "where its clients connect"),
            ("version", "its version"),
            ("this", "it is the one that answers"),
        ],
    },
    ViewSpec {
        name: "help",
        about: "All commands.",
        columns: &[("command", "what to write"), ("about", "what it does")],
    },
    ViewSpec { name: "version", about: "The version.", columns: &[("version", "of the proxy")] },
];

/// Commands beside SHOW: text and meaning.
pub(super) const COMMANDS: &[(&str, &str)] = &[
    (
        "TABLE SHARD name KEY (columns) [DRY RUN]",
        "spreads a table over the shards by a key; DRY RUN: only looks whether it may be",
    ),
    ("TABLE REFERENCE name [DRY RUN]", "keeps a copy of a table on every shard"),
    ("TABLE SINGLE name [HOME shard] [DRY RUN]", "keeps a table whole on one shard"),
    (
        "SHARD ADD name NODES (node 'host' port, …) [DRY RUN]",
        "takes a shard into the cluster, without buckets; the primary comes first",
    ),
    (
        "SHARD REMOVE name [DRY RUN]",
        "takes a shard out of the cluster that owns no bucket and has no row of a sharded table",
    ),
    (
        "PIN KEY (value, …) TO shard [TABLE table] [HOLD seconds] [DRY RUN]",
        "gives one key a bucket of its own and moves it to a shard; DRY RUN: only what would move. TABLE says whose key it is, \
         where tables have keys of several types; HOLD lets writes to it wait so long when the key has many rows",
    ),
    (
        "UNPIN KEY (value, …) [TABLE table] [HOLD seconds] [DRY RUN]",
        "moves a pinned key back to the shard of its hash slot",
    ),
    (
        "REBALANCE [DRY RUN]",
        "measures rows and bytes of all buckets and the shards' work, and moves as little as gives every shard its share; \
         refused when nothing is gained. Work is counted in turns: transactions, and statements outside of them",
    ),
    ("RESHARD PLAN [EMPTY shard]", "says what a job would move, and what would stop it"),
    (
        "RESHARD START [EMPTY shard] [HOLD seconds] [DRY RUN]",
        "begins to move buckets: to shards that have too few, or all away from one. HOLD lets writes to moving buckets wait so \
         long for a step, so that big buckets can be moved; usual are 0.3 s",
    ),
    ("RESHARD PAUSE [DRY RUN]", "no further step for now; RESHARD RESUME [DRY RUN] goes on"),
    ("RESHARD REVERSE [DRY RUN]", "moves buckets back to where they were when the job began"),
    ("RESHARD FINISH [DRY RUN]", "ends a job whose buckets have all moved"),
    ("RESHARD CANCEL [DRY RUN]", "ends a job where it is: buckets that have moved stay where they are"),
    ("RESHARD VERIFY", "looks at every row of every shard: is it where it belongs?"),
    ("EXPLAIN statement", "says where a statement goes and why, without running it"),
    ("FORGET PROXY name", "no longer waits for a proxy that shared the store and is gone for good"),
    (
        "NODE ADD node SHARD shard HOST 'host' PORT port [ZONE 'zone'] [DRY RUN]",
        "a further replica: its agent fills it, or it streams already",
    ),
    (
        "NODE REMOVE node [DRY RUN]",
        "commits go on without a replica, then it is no part of the cluster any more; its server is left alone",
    ),
    (
        "NODE REBUILD node [DRY RUN]",
        "commits go on without a replica, and it is copied from the primary, whatever it has",
    ),
    ("NODE RESTART node [DRY RUN]", "stops and starts the server of a replica; returns when it runs again"),
    ("AGENT node 'report' | CHECKPOINT", "for `ostrakon agent`: says how a node is, and asks what is to be done to it"),
    ("RECONNECT", "replaces every server connection: idle ones now, those in use when they come back"),
    (
        "SWITCHOVER shard [TO node] [DRY RUN]",
        "makes another node primary once every transaction has ended; new ones wait meanwhile. Tells how long that was",
    ),
    (
        "FAILOVER shard [TO node] [ALLOW DATA LOSS] [DRY RUN]",
        "takes the primary as lost. ALLOW DATA LOSS, with TO or without, does with fewer nodes than prove that nothing \
         acknowledged is lost",
    ),
    (
        "PAUSE [seconds]",
        "lets nobody begin anything new on a server (clients wait), and returns when every transaction has ended and no \
         server connection is open; ends by itself after so many seconds (60), and is taken back when a transaction \
         lasts as long",
    ),
    ("RESUME", "ends the pause"),
    (
        "DRAIN [seconds] [AFTER seconds]",
        "`/readyz` says no from now on; after so many seconds (0) no client is taken any more and each session ends when it is in no \
         transaction; what is left after so many seconds (60) is ended, and the process ends",
    ),
    (
        "KILL pid",
        "ends the session with that number of SHOW CLIENTS: its client is told 57P01, what it has open is rolled back",
    ),
    (
        "RELOAD [FORMAT JSON]",
        "reads the configuration again, as SIGHUP does, and lists the settings that have changed: `in force` from now on, \
         or `after a restart`",
    ),
];

/// The page of the reference.
#[cfg(test)]
fn page() -> String {
    use std::fmt::Write as _;

    let mut page = String::from(
        "# The admin database\n\nReached with psql on the proxy's own port: `psql -h 127.0.0.1 -p 6432 ostrakon`. It speaks the simple\n\
         query protocol. A few places are kept for it when `clients_max` is reached (`clients_reserved`).\n\n\
         This page is generated from `src/admin/reference.rs`; a test checks that it is fresh.\n\n\
         ## Commands\n\n| command | what it does |\n|---|---|\n\
         | `SHOW view [FORMAT JSON]` | shows one of the views below; as JSON in one row |\n",
    );
    for (command, about) in COMMANDS {
        let _ = writeln!(page, "| `{command}` | {about} |");
    }
    for view in VIEWS {
        let _ = write!(
            page,
            "\n## SHOW {}\n\n{}\n\n| column | meaning |\n|---|---|\n",
            view.name.to_uppercase(),
            view.about
        );
        for (name, meaning) in view.columns {
            let _ = writeln!(page, "| {name} | {meaning} |");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reference_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/admin.md");
        let page = super::page();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == page, "docs/reference/admin.md is not what the code says; run with UPDATE=1");
    }
}
