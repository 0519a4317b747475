//! Wall clocks that jump.

use nix::sys::signal::Signal;

use super::{PLAIN, Run, Scenario};

pub fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        number: 25,
        name: "a proxy's clock jumps ahead, then back, and primaries are killed",
        fault: jump,
        outage_max_ms: Some(8_000),
        ..PLAIN
    }]
}

fn jump(run: &mut Run) {
    let term = run.term;
    run.set.change_clock("p1", true);
    run.set.repair();
    for (offset, least, most) in [("+1h", 3_000, 4_000), ("-2h", -8_000, -7_000)] {
        run.set.move_clock("p1", offset);
        run.wait_ms(1_500);
        (run.primary, run.term) = run.set.leader("s1");
        run.set.ground.signal(&run.primary, "postgres", Signal::SIGKILL);
        run.wait_for_another_term();
        run.wait_ms(1_000);
        let ahead = run.set.clock_ahead("p1");
        println!("  p1's clock is ahead by {ahead:?} s");
        run.claim(ahead.is_some_and(|ahead| ahead > least && ahead < most), &format!("the clock jumped: {ahead:?}"));
        run.set.repair();
    }
    run.set.change_clock("p1", false);
    run.term = term;
}
