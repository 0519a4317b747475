//! Resident memory with many idle clients, and with many prepared statements.

use std::time::Duration;

use crate::account::resident_kib;
use crate::frames::{Wire, parse, sync};
use crate::raw::Raw;
use crate::report::{Report, Row};
use crate::targets::{Target, Targets};

/// Idle clients of each proxy that pools; each has run a statement. In processes of their own: what another load has
/// freed would be used again, or counted.
pub fn run(targets: &mut Targets, idle: &[usize], report: &mut Report) {
    let pooling: Vec<_> = targets.named(&["pgbouncer", "ostrakon"]).iter().map(|target| target.name.clone()).collect();
    let mut rows = Vec::new();
    for name in pooling {
        let target = targets.fresh(&name);
        let mut clients = Vec::new();
        let before = resident_kib(&target.pids);
        for &count in idle {
            while clients.len() < count {
                let mut client = Raw::connect(target.port, "app", "app").unwrap();
                client.must("SELECT abalance FROM pgbench_accounts WHERE aid = 1");
                clients.push(client);
            }
            let mut row = Row::new(&target.name);
            note(&mut row, before, resident_kib(&target.pids), count);
            rows.push((count, row));
        }
    }
    for &count in idle {
        let rows = rows.iter().filter(|(of, _)| *of == count).map(|(_, row)| row.clone()).collect();
        report.table(&format!("memory with {count} idle clients"), rows);
    }
    let sessions = idle.iter().copied().max().unwrap_or(0).min(1_000);
    let row = prepared(&targets.fresh("ostrakon"), sessions);
    report.table(&format!("memory with {sessions} sessions of 1000 prepared statements"), vec![row]);
}

#[allow(clippy::cast_precision_loss)]
fn note(row: &mut Row, before: u64, after: u64, count: usize) {
    row.note("MiB", after as f64 / 1024.0);
    if count > 0 {
        row.note("KiB each", after.saturating_sub(before) as f64 / count as f64);
    }
}

fn prepared(target: &Target, sessions: usize) -> Row {
    let before = resident_kib(&target.pids);
    let mut clients = Vec::new();
    for _ in 0..sessions {
        let mut client = Wire::app(target.port, "app").unwrap();
        let mut messages: Vec<_> = (0..1_000)
            .map(|n| {
                let sql = format!("SELECT abalance + {n} FROM pgbench_accounts WHERE aid = $1");
                parse(&format!("s{n}"), &sql, &[])
            })
            .collect();
        messages.push(sync());
        client.send_frames(&messages).unwrap();
        let (frames, _) = client.hear_until(Duration::from_secs(30), |frame| frame.tag == b'Z');
        assert!(frames.iter().all(|frame| frame.tag != b'E'), "a statement was not prepared");
        clients.push(client);
    }
    let mut row = Row::new(&target.name);
    note(&mut row, before, resident_kib(&target.pids), clients.len());
    row
}
