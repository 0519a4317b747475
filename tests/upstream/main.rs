//! The judge of the upstream suites is right; the suites themselves are run by `make upstream`.

use std::process::Command;

#[test]
fn the_comparer_finds_planted_differences() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upstream");
    let output = Command::new("python3")
        .args(["-B", "compare_test.py"])
        .current_dir(directory)
        .output()
        .expect("python3 is needed for the upstream suites");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("\nOK"), "{said}");
}
