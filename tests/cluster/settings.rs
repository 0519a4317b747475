//! Settings belong to the session that made them, whatever connections it used.

use crate::cluster::{Cluster, Placement};

#[test]
fn settings_made_in_a_transaction_over_two_shards_stay_with_their_session() {
    let cluster = Cluster::start(2, &[("counters", Placement::Key(&["id"]))]);
    let mut first = cluster.app();
    first.must("CREATE TABLE counters (id bigint PRIMARY KEY, n int NOT NULL)");
    let rows: Vec<String> = (1..=20).map(|id| format!("({id}, 0)")).collect();
    first.must(&format!("INSERT INTO counters VALUES {}", rows.join(", ")));
    first.must("BEGIN");
    first.must("UPDATE counters SET n = 1");
    first.must("SET statement_timeout = '7777s'");
    first.must("COMMIT");
    assert_eq!(first.must("SHOW statement_timeout").value(), "7777s");
    drop(first);
    let mut second = cluster.app();
    for id in 1..=20 {
        let seen = second.must(&format!("SELECT current_setting('statement_timeout') FROM counters WHERE id = {id}"));
        assert_eq!(seen.value(), "0", "a setting of another session");
    }
}
