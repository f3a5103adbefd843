//! Builds of the server that lack one of its syncs. A test of lost power that passes them proves nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::source::workspace;

use crate::Error;
use crate::system::run;

/// Values of `ringmx_mutant`; what each build lacks.
pub(crate) const MUTANTS: &[(&str, &str)] = &[
    ("no_dsync", "the sync of each batch"),
    ("no_segment_sync", "the sync of a segment's header and blocks before its first batch"),
    ("no_directory_sync", "the syncs of directories"),
    ("no_file_sync", "the sync of a large message's file before the record that names it"),
];

/// Builds one; its path. Dependencies are built once for all of them, apart from those of the normal build.
pub(crate) fn build(mutant: &str) -> Result<PathBuf, Error> {
    let target = workspace().join("target/mutants");
    let directory = target.join(mutant);
    std::fs::create_dir_all(&directory).map_err(Error::io("create the directory of a mutant"))?;
    let wrapper = directory.join("rustc");
    write_wrapper(&wrapper, mutant)?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "-p", "ringmx", "--target-dir"]).arg(&target);
    // Cargo builds anew what another wrapper built, and only the workspace's own crates go through it.
    run(cargo.env("RUSTC_WORKSPACE_WRAPPER", &wrapper).current_dir(workspace()))?;
    let built = directory.join("ringmx");
    std::fs::copy(target.join("debug/ringmx"), &built).map_err(Error::io("copy a mutant"))?;
    Ok(built)
}

/// A compiler that sets the mutant's cfg.
fn write_wrapper(path: &Path, mutant: &str) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;

    let script = format!("#!/bin/sh\nexec \"$@\" --cfg 'ringmx_mutant=\"{mutant}\"'\n");
    std::fs::write(path, script)
        .and_then(|()| std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)))
        .map_err(Error::io("write the wrapper of a mutant"))
}
