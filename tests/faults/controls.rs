//! Each checker of this suite is shown to fail once.

use std::time::Duration;

use crate::aftermath::{Baseline, Told, complaints, judge, look_around, wrong_rows};
use crate::catalogue::{Exchange, Writes, catalogue};
use crate::conversation::{End, Transcript, connect, converse};
use crate::frames::{Frame, Leave, Wire};
use crate::normal::difference;
use crate::world::World;

fn error(severity: &str, code: &str) -> Frame {
    Frame::new(b'E', format!("S{severity}\0V{severity}\0C{code}\0Mx\0\0"))
}

fn row(text: &str) -> Frame {
    let mut body = vec![0, 1];
    body.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    body.extend_from_slice(text.as_bytes());
    Frame::new(b'D', body)
}

fn named(name: &str) -> Exchange {
    catalogue(1).into_iter().find(|exchange| exchange.name == name).unwrap()
}

#[test]
fn a_changed_a_missing_and_a_swapped_reply_are_seen() {
    let good = vec![row("1"), row("2"), Frame::new(b'C', *b"SELECT 2\0"), Frame::new(b'Z', *b"I")];
    assert_eq!(difference(&good, &good), None);
    let plant = |change: fn(&mut Vec<Frame>)| {
        let mut frames = good.clone();
        change(&mut frames);
        difference(&good, &frames)
    };
    assert!(plant(|frames| frames.swap(0, 1)).is_some());
    assert!(plant(|frames| frames[3].body = b"T".to_vec()).is_some());
    assert!(plant(|frames| frames[2].body = b"SELECT 3\0".to_vec()).is_some());
    assert!(plant(|frames| frames.truncate(3)).is_some());
    assert!(plant(|frames| frames.push(row("leftover"))).is_some());
    assert!(difference(&[error("ERROR", "22012")], &[error("ERROR", "22003")]).is_some());
}

#[test]
fn what_a_broken_connection_may_not_do_is_seen_by_the_judge() {
    let exchange = named("simple: one row");
    let good = vec![row("1"), Frame::new(b'Z', *b"I")];
    let baseline = Baseline::new(&good, 7);
    let of = |frames: &[Frame], end: End| {
        judge(&baseline, &exchange, &Transcript { frames: frames.to_vec(), end }, 7).1.len()
    };
    assert_eq!(of(&good, End::Done), 0);
    assert_eq!(of(&[row("1")], End::Closed), 0);
    assert_eq!(of(&[row("1"), error("FATAL", "57P01")], End::Closed), 0);
    assert_eq!(of(&[error("ERROR", "08006"), Frame::new(b'Z', *b"I")], End::Done), 0);
    assert_eq!(of(&[row("1")], End::Stuck), 1, "no answer");
    assert_eq!(of(&[row("another's")], End::Closed), 1, "the row of another");
    assert_eq!(of(&[row("1"), error("ERROR", "XX000")], End::Closed), 1, "not the error of a broken connection");
    assert_eq!(of(&[error("FATAL", "57P01")], End::Done), 1, "a session goes on behind FATAL");
}

#[test]
fn lost_ghostly_and_half_writes_are_seen() {
    let writes = Writes { rows: 3, ready: 1 };
    let wrong = |there: usize, told: Told| wrong_rows(writes, there, told).is_some();
    assert!(!wrong(3, Told::Done) && !wrong(0, Told::Failed) && !wrong(0, Told::Nothing) && !wrong(3, Told::Nothing));
    assert!(wrong(0, Told::Done), "an acknowledged write is lost");
    assert!(wrong(3, Told::Failed), "what was reported as failed is there");
    assert!(wrong(2, Told::Nothing), "half of it is there");
}

/// A reply that belongs to nobody, planted between server and product, is found by the exchange's own
/// comparison and by the fresh session's look.
#[test]
fn a_leftover_row_is_seen() {
    let world = World::start(1, "size = 1");
    let exchange = named("simple: one row");
    let run = |world: &World| {
        let mut wire = connect(world.port(), &exchange).unwrap();
        let transcript = converse(&mut wire, &exchange);
        wire.leave(Leave::Terminate);
        transcript
    };
    let baseline = Baseline::new(&run(&world).frames, 7);
    world.taps[0].plant(row("leftover").bytes());
    let (_, found) = judge(&baseline, &exchange, &run(&world), 7);
    assert!(found.iter().any(|text| text.contains("something else")), "{found:?}");
    world.taps[0].plant(row("leftover").bytes());
    assert!(look_around(&world, 2).unwrap_err().contains("another's reply"));
}

/// A session that keeps its transaction open is a leaked connection to everybody else.
#[test]
fn a_leaked_connection_and_what_is_left_on_it_are_seen() {
    let mut world = World::start(1, "size = 1\ncheckout_timeout_ms = 300");
    world.tidy = Duration::from_millis(300);
    assert_eq!(complaints(&mut world, None, 1, Told::Nothing), Vec::<String>::new());
    let mut holder = Wire::app(world.port(), "app").unwrap();
    holder.simple("BEGIN").unwrap();
    holder.simple("SELECT pg_advisory_xact_lock(5)").unwrap();
    let found = complaints(&mut world, None, 2, Told::Nothing).join("\n");
    for part in ["left behind: backend", "advisory lock 5", "no fresh session", "the pool leaks: 1 used"] {
        assert!(found.contains(part), "{part} is missing in {found}");
    }
    holder.simple("ROLLBACK").unwrap();
    assert_eq!(complaints(&mut world, None, 3, Told::Nothing), Vec::<String>::new());
}

/// A setting that another session finds.
#[test]
fn a_foreign_setting_is_seen() {
    let world = World::start(1, "size = 1");
    let mut other = world.cluster.shards[0].superuser();
    other.must("ALTER ROLE app SET work_mem = '5MB'");
    // The connection that is made next has it.
    world.taps[0].cut_all();
    let seen = crate::cluster::eventually(Duration::from_secs(5), || {
        look_around(&world, 1).is_ok_and(|seen| seen != world.first_look)
    });
    assert!(seen, "a setting of another's making is not seen");
}

/// An answer that does not come is called stuck.
#[test]
fn silence_is_seen() {
    let server = crate::cluster::Server::start_all(&["silent".into()]);
    let mut wire = Wire::app(server[0].port, "app").unwrap();
    let mut exchange = named("ended: in its own time");
    exchange.steps.truncate(0);
    exchange.steps.push(crate::catalogue::Step::Send(vec![crate::frames::query("SELECT pg_sleep(30)")]));
    exchange.steps.push(crate::catalogue::Step::Until(b'Z'));
    assert_eq!(converse(&mut wire, &exchange).end, End::Stuck);
    server[0].superuser().must("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'");
}
