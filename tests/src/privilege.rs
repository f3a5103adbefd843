//! Tests that take root: skipped for those who work as somebody else, but never on the build server.

use rustix::process::geteuid;

/// Whether `test` can run. Says so where it cannot; where `RINGMX_NEED_ROOT` is set, as by `.ci/run`, that is a
/// failure.
pub fn is_root(test: &str) -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        let needed = std::env::var_os("RINGMX_NEED_ROOT").is_some();
        assert!(!needed, "{test} takes root: run the tests as root, in a container of their own if need be");
        eprintln!("SKIPPED: {test} takes root");
    }
    is_root
}
