//! Pipelines of a hundred single-row inserts: how long until the last answer is there.

use std::time::{Duration, Instant};

use crate::account::cpu_us;
use crate::frames::{Wire, bind, execute, parse, sync};
use crate::report::{Report, Row};
use crate::targets::{Target, Targets};

/// Inserts of a pipeline.
const INSERTS: u32 = 100;

/// Pipelines of one round.
const PIPELINES: u32 = 20;

/// Through everything, with one key and with many.
pub fn run(targets: &Targets, rounds: usize, report: &mut Report) {
    for (name, step) in [("pipeline of 100 inserts of one key", 0), ("pipeline of 100 inserts of 100 keys", 1)] {
        let measured =
            [targets.plain("direct"), targets.plain("pgbouncer"), targets.plain("ostrakon"), &targets.sharded];
        let mut rows: Vec<Row> = measured.iter().map(|target| Row::new(&target.name)).collect();
        for round in 0..=rounds {
            for (target, row) in measured.iter().zip(&mut rows) {
                let (each, cpu) = once(target, step);
                // The first round warms up.
                if round > 0 {
                    row.note("p50 us", each);
                    if !target.pids.is_empty() {
                        row.note("cpu us", cpu);
                    }
                }
            }
        }
        report.table(name, rows);
    }
}

/// Median time of a pipeline, and the proxy's CPU for one, in microseconds.
fn once(target: &Target, step: u32) -> (f64, f64) {
    let mut client = Wire::app(target.port, "app").unwrap();
    let sql = "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, $1, 5, '2026-01-31')";
    let before = cpu_us(&target.pids);
    let mut times: Vec<f64> = (0..PIPELINES)
        .map(|pipeline| {
            let mut messages = vec![parse("", sql, &[23])];
            for insert in 0..INSERTS {
                let aid = (1 + pipeline + step * insert * 7_919).to_string();
                messages.extend([bind("", "", &[Some(&aid)]), execute("", 0)]);
            }
            messages.push(sync());
            let begun = Instant::now();
            client.send_frames(&messages).unwrap();
            let (frames, _) = client.hear_until(Duration::from_secs(30), |frame| frame.tag == b'Z');
            let took = begun.elapsed();
            let done = frames.iter().filter(|frame| frame.tag == b'C').count();
            assert_eq!(done, INSERTS as usize, "{}: {:?}", target.name, frames.last());
            took.as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], (cpu_us(&target.pids) - before) / f64::from(PIPELINES))
}
