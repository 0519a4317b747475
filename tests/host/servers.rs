use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostrakon::host::{HostError, Machine, ServerState, Step, Was, process, replication};

use crate::support::{Place, run, spec, value, within_limit};

fn quiet(_: Step) {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_streams_and_both_come_back_with_their_data() {
    within_limit(async {
        let place = Place::new();
        let (primary, replica) = (spec("s1a", 15_840), spec("s1b", 15_841));
        let slots = [replica.name.clone()];

        assert_eq!(place.machine.ensure_primary(&primary, &slots, &quiet).await.unwrap(), Was::Made);
        assert_eq!(place.machine.ensure_replica(&replica, &primary, &quiet).await.unwrap(), Was::Made);
        run(&primary, "CREATE TABLE kept (a int); INSERT INTO kept SELECT generate_series(1, 100)").await;
        let count = "SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming'";
        assert_eq!(value(&primary, count).await, "1");
        assert_eq!(value(&replica, "SELECT pg_is_in_recovery()::text").await, "true");
        for (server, name) in [(&primary, "s1a"), (&replica, "s1b")] {
            for (setting, expected) in [
                ("cluster_name", name),
                ("data_checksums", "on"),
                ("wal_level", "logical"),
                ("server_encoding", "UTF8"),
                ("max_prepared_transactions", "100"),
                ("wal_retrieve_retry_interval", "20ms"),
                ("listen_addresses", "127.0.0.1"),
            ] {
                assert_eq!(value(server, &format!("SELECT current_setting('{setting}')")).await, expected, "{name}");
            }
        }

        // Adoption: the same processes, whoever asks.
        let before = (place.pid("s1a"), place.pid("s1b"));
        let again = Machine::open(place.path(), None).unwrap();
        assert_eq!(again.ensure_primary(&primary, &slots, &quiet).await.unwrap(), Was::Adopted);
        assert_eq!(again.ensure_replica(&replica, &primary, &quiet).await.unwrap(), Was::Adopted);
        assert_eq!((place.pid("s1a"), place.pid("s1b")), before);

        assert!(place.machine.stop("s1a").await.unwrap());
        assert!(place.machine.stop("s1b").await.unwrap());
        assert!(!place.machine.stop("s1b").await.unwrap(), "stopping twice is no error");
        assert_eq!(place.machine.state("s1a"), ServerState::Stopped);

        assert_eq!(place.machine.ensure_primary(&primary, &slots, &quiet).await.unwrap(), Was::Started);
        assert_eq!(place.machine.ensure_replica(&replica, &primary, &quiet).await.unwrap(), Was::Started);
        assert_eq!(value(&replica, "SELECT count(*)::text FROM kept").await, "100");
    })
    .await;
}

/// As a killed `up` and the one that resumes: the server is at it still for the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_being_made_already_is_taken_as_made() {
    within_limit(async {
        let place = Place::new();
        let server = spec("s1a", 15_848);
        place.machine.ensure_primary(&server, &[], &quiet).await.unwrap();
        for round in 0..5 {
            let (role, database) = (format!("role{round}"), format!("database{round}"));
            let makers: Vec<_> = (0..4).map(|_| replication::ensure_database(&server, &role, &database)).collect();
            for made in futures_util::future::join_all(makers).await {
                made.unwrap();
            }
            let found = format!("SELECT count(*)::text FROM pg_database WHERE datname = '{database}'");
            assert_eq!(value(&server, &found).await, "1");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_with_a_reused_pid_starts_again() {
    within_limit(async {
        let place = Place::new();
        let server = spec("s1a", 15_844);
        place.machine.ensure_primary(&server, &[], &quiet).await.unwrap();
        run(&server, "CREATE TABLE kept (a int)").await;
        let pid = place.pid("s1a");
        let directory = place.machine.data_directory("s1a");
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
        while !process::working_in(&directory).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(place.machine.state("s1a"), ServerState::Stopped, "a stale file is no server");

        // Another program of the servers' user now has the number.
        let mut bystander = bystander(&place.machine);
        let file = directory.join("postmaster.pid");
        let text = fs::read_to_string(&file).unwrap();
        let rest = text.split_once('\n').unwrap().1;
        fs::write(&file, format!("{}\n{rest}", bystander.id())).unwrap();
        assert_eq!(place.machine.state("s1a"), ServerState::Stopped);
        assert!(!place.machine.stop("s1a").await.unwrap(), "the bystander is left alone");
        assert!(process::is_alive(bystander.id()));

        assert_eq!(place.machine.ensure_primary(&server, &[], &quiet).await.unwrap(), Was::Started);
        assert_eq!(value(&server, "SELECT count(*)::text FROM kept").await, "0");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    })
    .await;
}

fn bystander(machine: &Machine) -> std::process::Child {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("sleep");
    command.arg("300");
    if machine.account().is_switched {
        command.uid(machine.account().uid).gid(machine.account().gid);
    }
    command.spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_made_directory_is_made_again() {
    within_limit(async {
        let place = Place::new();
        let server = spec("s1a", 15_848);
        let making = place.path().join("nodes/s1a.making");
        fs::create_dir_all(making.join("base")).unwrap();
        fs::write(making.join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(place.machine.state("s1a"), ServerState::HalfMade);
        assert_eq!(place.machine.ensure_primary(&server, &[], &quiet).await.unwrap(), Was::Made);
        assert!(!making.exists());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_making_leaves_nothing_and_can_be_resumed() {
    within_limit(async {
        let place = Place::new();
        let server = spec("s1a", 15_850);
        let machine = place.machine.clone();
        let cancel = move |step: Step| {
            if step == Step::Initialise {
                machine.cancel();
            }
        };
        let error = place.machine.ensure_primary(&server, &[], &cancel).await.unwrap_err();
        assert!(matches!(error, HostError::Cancelled), "{error}");
        assert_eq!(place.machine.state("s1a"), ServerState::Absent);
        let again = Machine::open(place.path(), None).unwrap();
        assert_eq!(again.ensure_primary(&server, &[], &quiet).await.unwrap(), Was::Made);
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_named_and_nothing_is_made() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:15852").unwrap();
    let error = place.machine.ensure_primary(&spec("s1a", 15_852), &[], &quiet).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, HostError::PortInUse { port: 15_852, .. }), "{text}");
    assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    assert_eq!(place.machine.state("s1a"), ServerState::Absent);
    drop(listener);
}

#[tokio::test]
async fn a_directory_that_is_something_else_is_left_alone() {
    let place = Place::new();
    let directory = place.path().join("nodes/s1a");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("thesis.txt"), "years of work").unwrap();
    let error = place.machine.ensure_primary(&spec("s1a", 15_854), &[], &quiet).await.unwrap_err();
    assert!(matches!(error, HostError::NotOurs { .. }), "{error}");
    assert!(directory.join("thesis.txt").exists());
}

#[test]
fn a_directory_that_servers_cannot_reach_is_named_with_the_fix() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let closed = tempfile::tempdir().unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = Machine::open(&closed.path().join("data"), None).unwrap_err();
    let HostError::Unreachable { barrier, .. } = &error else { panic!("{error}") };
    assert_eq!(barrier, &fs::canonicalize(closed.path()).unwrap());
    assert!(error.to_string().contains("chmod o+x"), "{error}");
}
