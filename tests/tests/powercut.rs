//! A short run of `scripts/powercut`, where it can run: as root, with FUSE, loop devices and e2fsprogs.

use std::process::{Command, Stdio};

use tests::engine::{binary, text};
use tests::source::workspace;

/// What it exits with when rights or programs are missing.
const SKIPPED: i32 = 77;

#[test]
fn no_power_cut_loses_what_was_promised() {
    let seed = std::env::var("POWERCUT_SEED").unwrap_or_else(|_| "1".to_owned());
    let mut command = Command::new(workspace().join("scripts/powercut"));
    command.args(["--filesystem", "ext4", "--cuts", "20", "--json", "--seed", &seed]).stdin(Stdio::null());
    // The server that all other tests run.
    let directory = binary("ringmx").parent().expect("a directory").to_owned();
    let output = command.env("RINGMX_BIN_DIR", directory).output().expect("scripts/powercut runs");
    let (said, warned) = (text(&output.stdout), text(&output.stderr));
    if output.status.code() == Some(SKIPPED) {
        // Past the capture of the harness, which shows nothing of a test that passes.
        let loud = format!("\n*** SKIPPED: no power was cut. {warned}");
        drop(std::fs::write("/dev/stderr", loud));
        return;
    }
    assert!(output.status.success(), "{}\n{said}\n{warned}", output.status);
    let sums: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let of = |name: &str| sums[0][name].as_u64().unwrap_or_else(|| panic!("no {name} in {said}"));
    assert_eq!((of("cuts"), of("lost"), of("corrupt"), of("failures")), (20, 0, 0, 0));
    assert!(of("acknowledged") > 100, "the load was not there: {said}");
}
