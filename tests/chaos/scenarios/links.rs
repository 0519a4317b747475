//! Networks that are cut, wholly or in part.

use super::{Moves, PLAIN, Run, Scenario};
use crate::ground::Net;
use crate::set::{MEMBERS, PROXIES};

const SILENT_MS: Option<u64> = Some(8_000);

pub fn scenarios() -> Vec<Scenario> {
    let plain = |number, name, fault| Scenario { number, name, fault, outage_max_ms: SILENT_MS, ..PLAIN };
    vec![
        Scenario {
            is_core: true,
            ..plain(7, "the primary is off all networks, and back after another was promoted", isolate)
        },
        Scenario {
            is_core: true,
            outage_max_ms: None,
            term: Moves::MayGrow,
            ..plain(8, "the primary is off the replication network for 4 s", cut_replication)
        },
        Scenario {
            outage_max_ms: Some(20_000),
            term: Moves::MayGrow,
            ..plain(9, "proxies are cut from the primary while its standbys stream", cut_proxies)
        },
        Scenario {
            term: Moves::MayGrow,
            outage_max_ms: None,
            ..plain(10, "replication is cut one-way, then the other way", one_way)
        },
        Scenario {
            is_core: true,
            outage_max_ms: Some(2_500),
            term: Moves::Stays,
            ..plain(16, "etcd loses its leader, then its quorum, then is away", etcd)
        },
    ]
}

fn isolate(run: &mut Run) {
    Net::ALL.iter().for_each(|net| run.set.ground.attach(&run.primary, *net, false));
    run.wait_for_another_term();
    run.wait_ms(500);
    Net::ALL.iter().for_each(|net| run.set.ground.attach(&run.primary, *net, true));
    run.wait_ms(2_000);
}

fn cut_replication(run: &mut Run) {
    run.set.ground.attach(&run.primary, Net::Replication, false);
    run.wait_ms(4_000);
    run.set.ground.attach(&run.primary, Net::Replication, true);
    run.wait_ms(4_000);
}

fn cut_proxies(run: &mut Run) {
    let cut = |is_cut| {
        for proxy in PROXIES {
            run.set.ground.drop_packets(proxy, &run.primary, is_cut);
            run.set.ground.drop_packets(&run.primary, proxy, is_cut);
        }
    };
    cut(true);
    run.wait_ms(14_000);
    cut(false);
    run.wait_ms(2_000);
}

fn one_way(run: &mut Run) {
    let standbys = run.standbys();
    for is_outward in [true, false] {
        let cut = |is_cut| {
            for standby in &standbys {
                let (from, to) = if is_outward { (&run.primary, standby) } else { (standby, &run.primary) };
                run.set.ground.drop_packets(from, to, is_cut);
            }
        };
        cut(true);
        run.wait_ms(2_500);
        cut(false);
        run.wait_ms(2_500);
    }
}

/// Nothing of it matters while the primaries are well: writes go on, and no term moves.
fn etcd(run: &mut Run) {
    use nix::sys::signal::Signal;
    for member in MEMBERS {
        run.set.ground.signal(member, "etcd", Signal::SIGSTOP);
        run.wait_ms(1_500);
    }
    run.wait_ms(3_000);
    for member in MEMBERS {
        run.set.ground.signal(member, "etcd", Signal::SIGCONT);
    }
    run.wait_ms(2_000);
}
