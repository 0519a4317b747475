//! `ostrakon up` as its users meet it: the tour of the README, psql's own commands, and clear errors.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::Duration;

use crate::cluster::{Up, eventually, free_port, pg_bin};

fn psql(port: u16) -> Command {
    let mut command = Command::new(pg_bin().join("psql"));
    command.args(["-X", "-h", "127.0.0.1", "-p", &port.to_string(), "-U", "app", "-v", "ON_ERROR_STOP=1", "app"]);
    command.env("PAGER", "cat");
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The README's block that is marked as the tour.
fn tour() -> Option<String> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).ok()?;
    let (_, rest) = readme.split_once("```sql tour\n")?;
    rest.split_once("```").map(|(block, _)| block.to_owned())
}

#[test]
fn the_readme_tour_and_psqls_commands_run_against_up_demo() {
    let tour = tour().expect("README.md has a block that begins with ```sql tour");
    let up = Up::start(2, 1, &["--demo"]);
    let script = up.directory.path().join("tour.sql");
    fs::write(&script, tour).unwrap();
    let output = psql(up.port).arg("-f").arg(&script).output().unwrap();
    println!("{}", text(&output));
    assert!(output.status.success(), "the tour:\n{}", text(&output));
    for (command, wanted) in
        [("\\d", "users"), ("\\dt+", "orders"), ("\\d users", "email"), ("\\l", "app"), ("\\df", "List of functions")]
    {
        let output = psql(up.port).args(["-c", command]).output().unwrap();
        assert!(output.status.success() && text(&output).contains(wanted), "{command}:\n{}", text(&output));
    }
    let status = up.status();
    assert_eq!(status["shards"].as_array().unwrap().len(), 2, "{status}");
    for node in status["shards"].as_array().unwrap().iter().flat_map(|shard| shard["nodes"].as_array().unwrap()) {
        assert!(matches!(node["state"].as_str(), Some("up" | "streaming")), "{status}");
    }
}

/// `up` fails, says these words, and leaves nothing running.
fn fails(up: &Up, further: &[&str], words: &[&str]) {
    let output = up.up_command(1, 0).args(further).output().unwrap();
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(eventually(Duration::from_secs(5), || up.processes().is_empty()), "{:?} are left", up.processes());
}

#[test]
fn a_port_in_use_is_said_and_nothing_is_left_running() {
    let up = Up::prepare();
    let _holder = TcpListener::bind(("127.0.0.1", up.port)).unwrap();
    fails(&up, &[], &[&up.port.to_string(), "in use"]);
    fails(&up, &["--detach"], &[&up.port.to_string(), "in use"]);
}

#[test]
fn a_missing_postgresql_is_said_and_nothing_is_left_running() {
    let up = Up::prepare();
    fails(&up, &["--pg-bin", "/nonexistent/bin"], &["/nonexistent/bin"]);
}

#[test]
fn a_directory_with_something_else_in_it_is_left_alone() {
    let up = Up::prepare();
    let node = up.data().join("nodes/s1a");
    fs::create_dir_all(&node).unwrap();
    fs::write(node.join("thesis.txt"), "four years of work").unwrap();
    fails(&up, &[], &["s1a"]);
    assert_eq!(fs::read_to_string(node.join("thesis.txt")).unwrap(), "four years of work");
}

#[test]
fn a_data_directory_that_lost_its_files_is_said() {
    let up = Up::prepare();
    let node = up.data().join("nodes/s1a");
    fs::create_dir_all(&node).unwrap();
    fs::write(node.join("PG_VERSION"), "15\n").unwrap();
    fails(&up, &[], &[&up.data().display().to_string()]);
}

#[test]
fn a_file_in_place_of_the_directory_is_said() {
    let up = Up::prepare();
    fs::write(up.data(), "not a directory").unwrap();
    fails(&up, &[], &[&up.data().display().to_string()]);
}

#[test]
fn a_second_up_on_the_same_directory_is_refused_while_the_first_runs() {
    let up = Up::start(1, 0, &[]);
    let output = crate::cluster::ostrakon()
        .arg("up")
        .arg("--data")
        .arg(up.data())
        .args(["--listen", &format!("127.0.0.1:{}", free_port())])
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    assert_eq!(up.app().must("SELECT 1").value(), "1", "the first one still serves");
}
