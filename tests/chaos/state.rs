//! What is there after repair: read from every node, around the proxies.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::checker::{Contents, Final, Node, Shard};
use crate::cluster::eventually;
use crate::load::{ACCOUNTS, BALANCE, KEYS};
use crate::set::{SHARDS, Set, nodes_of};

/// In-doubt transactions are finished within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything of the scenarios from the first to the last, when all nodes have all there is.
pub fn read(set: &Set, first: i64, last: i64) -> Final {
    let leaders = || SHARDS.map(|shard| set.leader(shard));
    for _ in 0..4 {
        let before = leaders();
        let state = read_once(set, first, last);
        // On a busy machine somebody may take over while nodes are read.
        if leaders() == before && set.is_whole() {
            return state;
        }
        set.repair();
    }
    read_once(set, first, last)
}

fn read_once(set: &Set, first: i64, last: i64) -> Final {
    let _quiet = eventually(PATIENCE, || is_quiet(set));
    let mut shards = BTreeMap::new();
    for shard in SHARDS {
        let rows = set.nodes("p1").unwrap();
        let recorded = rows.iter().find(|row| row.shard == shard && row.is_primary).map(|row| row.name.clone());
        let other = set.leader(shard).0;
        let recorded_primary = recorded.unwrap_or_default();
        let is_recorded_open = other == recorded_primary;
        let nodes = nodes_of(shard).map(|node| (node.clone(), read_node(set, &node, first, last)));
        shards.insert(shard.to_owned(), Shard { recorded_primary, is_recorded_open, nodes: nodes.into() });
    }
    let accounts = (first..=last).flat_map(|scenario| (0..ACCOUNTS).map(move |key| scenario * KEYS + key));
    Final { shards, balances: accounts.map(|account| (account, BALANCE)).collect() }
}

/// Nothing is prepared, and replicas have all that primaries have.
fn is_quiet(set: &Set) -> bool {
    SHARDS.iter().all(|shard| {
        let (primary, _) = set.leader(shard);
        let Ok(at) = set.ask(&primary, "SELECT pg_current_wal_insert_lsn(), (SELECT count(*) FROM pg_prepared_xacts)")
        else {
            return false;
        };
        at[0][1] == "0"
            && nodes_of(shard).iter().filter(|node| **node != primary).all(|node| {
                let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{}'::pg_lsn", at[0][0]);
                set.ask(node, &sql).is_ok_and(|rows| rows[0][0] == "t")
            })
    })
}

fn read_node(set: &Set, node: &str, first: i64, last: i64) -> Node {
    let ask = |sql: &str| set.ask(node, sql).unwrap_or_else(|error| panic!("{node}: {error}"));
    let number = |text: &String| text.parse::<i64>().unwrap();
    let range = format!("k >= {} AND k < {}", first * KEYS, (last + 1) * KEYS);
    let table = |name: &str, columns: &str| ask(&format!("SELECT {columns} FROM {name} WHERE {range} ORDER BY k"));
    let pairs = |name: &str| table(name, "k, v").iter().map(|row| (number(&row[0]), number(&row[1]))).collect();
    let list =
        |row: &Vec<String>| (number(&row[0]), row[1].split_whitespace().map(|word| word.parse().unwrap()).collect());
    let contents = Contents {
        inserts: table("inserts", "k").iter().map(|row| number(&row[0])).collect(),
        registers: pairs("registers"),
        accounts: pairs("accounts"),
        transfers: table("transfers", "k, a, b, amount")
            .iter()
            .map(|row| (number(&row[0]), number(&row[1]), number(&row[2]), number(&row[3])))
            .collect(),
        lists: table("lists", "k, v").iter().map(list).collect(),
        cells: pairs("cells"),
    };
    // A standby's own checkpoints lag behind: it is on the timeline that it receives.
    let facts = ask("SELECT pg_is_in_recovery(), (SELECT count(*) FROM pg_prepared_xacts), \
         coalesce((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint()))");
    let timeline = match facts[0][0].as_str() {
        "t" => facts[0][2].parse().unwrap(),
        _ => {
            let segment = ask("SELECT substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8)");
            u64::from_str_radix(&segment[0][0], 16).unwrap()
        }
    };
    Node { is_in_recovery: facts[0][0] == "t", timeline, prepared: facts[0][1].parse().unwrap(), contents }
}
