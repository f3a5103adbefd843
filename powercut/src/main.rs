//! Cuts the power under the real server, on real filesystems, and counts what is lost.
//!
//! A filesystem lies on a loop device over a file that a FUSE filesystem of ours serves ([`fuse`]), so that every write
//! and every flush that reaches the disk is seen and logged. The server runs on it under load, and the clients note
//! where the log was when they saw each 250 ([`recording`]). From the log come as many power cuts as one likes: all
//! that the last flush covered, and any part of what was written since ([`disk`]). Each is mounted, the server starts
//! on it and delivers ([`check`]). What got its 250 before the cut must be there, whole.

#![deny(unsafe_code)]

mod campaign;
mod check;
mod disk;
mod fuse;
mod load;
mod message;
mod mutants;
mod recording;
mod report;
mod system;

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::campaign::{Campaign, Sum};
use crate::fuse::Disks;
use crate::recording::Bench;
use crate::report::{MutantRow, Progress};
use crate::system::Filesystem;

/// Something was lost, or a mutant survived.
const FAILED: u8 = 1;
/// The test itself could not be done.
const BROKEN: u8 = 2;
/// Not run at all, as tools or rights are missing; what test harnesses take for "skipped".
const SKIPPED: u8 = 77;

/// A directory that every system has. What this program mounts on it, nobody else sees.
const PRIVATE: &str = "/mnt";

/// Cut the power under ringmx on real filesystems, and count what is lost
#[derive(Debug, Parser)]
#[command(after_help = "\
Runs as root: it mounts filesystems on loop devices, in a mount namespace of its own.

Examples:
  scripts/powercut
  scripts/powercut --filesystem xfs --cuts 1000 --seed 7
  scripts/powercut --mutants

Exit status: 0 nothing was lost, 1 something was lost or a mutant survived, 2 the test broke,
77 it was skipped as rights or programs are missing.")]
struct Arguments {
    /// On which filesystems; ext4, xfs and btrfs if none is named
    #[arg(long, value_enum, value_delimiter = ',')]
    filesystem: Vec<Filesystem>,
    /// Power cuts on each filesystem
    #[arg(long, default_value_t = 100)]
    cuts: usize,
    /// Draws messages, cuts and what they leave; a random one if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Build the server without one of its syncs, for each of them: the test must fail
    #[arg(long)]
    mutants: bool,
    /// One of them only
    #[arg(long, requires = "mutants", value_name = "NAME")]
    mutant: Option<String>,
    /// Write the image of each cut that lost something into this directory
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// JSON on standard output instead of a table
    #[arg(long)]
    json: bool,
    /// Set by the program itself
    #[arg(long, hide = true)]
    in_own_namespace: bool,
}

/// Why the test could not be done.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{command}: {said}")]
    Program { command: String, said: String },
    #[error("{0} does not reach the disk as a flush behind its write; this kernel cannot run the test")]
    NoFlush(&'static str),
    #[error("the server does not start:\n{0}")]
    NotServed(String),
    #[error("a client: {0}; the server's log:\n{1}")]
    Load(io::Error, String),
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    fn io(what: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.to_owned(), source }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filesystems = match &arguments.filesystem[..] {
        // A mutant that every journal covers up for must die where there is none.
        [] if arguments.mutants => {
            vec![Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs, Filesystem::Ext2]
        }
        [] => vec![Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs],
        named => named.to_vec(),
    };
    let missing = system::missing(&filesystems);
    if !missing.is_empty() {
        eprintln!("powercut: SKIPPED, no power was cut:");
        missing.iter().for_each(|what| eprintln!("  {what}"));
        return ExitCode::from(SKIPPED);
    }
    if !arguments.in_own_namespace {
        return ExitCode::from(broken(&enter_namespace()));
    }
    match run(&arguments, &filesystems) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => ExitCode::from(broken(&error)),
    }
}

fn broken(error: &Error) -> u8 {
    eprintln!("powercut: {error}");
    BROKEN
}

/// Becomes the first process of namespaces of its own; returns only if it cannot. Whatever ends this program ends its
/// servers and its mounts too.
fn enter_namespace() -> Error {
    let this = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--",
    ]);
    let error = unshare.arg(this).arg("--in-own-namespace").args(std::env::args_os().skip(1)).exec();
    Error::io("run unshare")(error)
}

fn run(arguments: &Arguments, filesystems: &[Filesystem]) -> Result<bool, Error> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(Error::io("catch signals"))?;
    }
    system::run(Command::new("mount").args(["-t", "tmpfs", "powercut", PRIVATE]))?;
    let seed = arguments.seed.unwrap_or_else(random_seed);
    let campaign = |filesystem| Campaign {
        filesystem,
        cuts_count: arguments.cuts,
        seed,
        until_bad: arguments.mutants,
        keep: arguments.keep.as_deref(),
        interrupted: &interrupted,
    };
    if arguments.mutants {
        run_mutants(arguments, filesystems, campaign)
    } else {
        run_server(arguments, filesystems, campaign)
    }
}

fn run_server<'a>(
    arguments: &Arguments,
    filesystems: &[Filesystem],
    campaign: impl Fn(Filesystem) -> Campaign<'a>,
) -> Result<bool, Error> {
    let ringmx = tests::engine::binary("ringmx");
    let mut sums = Vec::new();
    for &filesystem in filesystems {
        sums.push(run_one(&ringmx, campaign(filesystem), &filesystem.to_string())?);
    }
    report::print_sums(&sums, arguments.json);
    Ok(sums.iter().all(Sum::is_good))
}

/// Every mutant must die on one of the filesystems at least.
fn run_mutants<'a>(
    arguments: &Arguments,
    filesystems: &[Filesystem],
    campaign: impl Fn(Filesystem) -> Campaign<'a>,
) -> Result<bool, Error> {
    let is_chosen = |name: &str| arguments.mutant.as_deref().is_none_or(|chosen| chosen == name);
    let mut rows = Vec::new();
    for &(mutant, lacks) in mutants::MUTANTS.iter().filter(|(name, _)| is_chosen(name)) {
        eprintln!("building the server without {lacks} ({mutant})");
        let ringmx = mutants::build(mutant)?;
        for &filesystem in filesystems {
            let sum = run_one(&ringmx, campaign(filesystem), &format!("{mutant} on {filesystem}"))?;
            rows.push(MutantRow { mutant, sum });
        }
    }
    report::print_mutants(&rows, arguments.json);
    let is_killed =
        |row: &MutantRow| rows.iter().any(|other| other.mutant == row.mutant && !other.sum.is_good());
    Ok(!rows.is_empty() && rows.iter().all(is_killed))
}

/// One filesystem, on a bench of its own that goes with it.
fn run_one(ringmx: &Path, campaign: Campaign<'_>, title: &str) -> Result<Sum, Error> {
    let temporary = tempfile::Builder::new().prefix("powercut-").tempdir_in(PRIVATE);
    let temporary = temporary.map_err(Error::io("create a temporary directory"))?;
    let [disks, directory] = ["disks", "mounted"].map(|name| temporary.path().join(name));
    for path in [&disks, &directory] {
        std::fs::create_dir(path).map_err(Error::io("create a directory to mount on"))?;
    }
    let disks = Disks::mount(&disks).map_err(Error::io("mount the disks by FUSE"))?;
    let bench = Bench { disks, directory, ringmx: ringmx.to_owned() };
    let progress = Progress::new(title, campaign.seed, campaign.cuts_count);
    campaign.run(&bench, |sum| progress.show(sum))
}

fn random_seed() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed again.
    u64::from(time.subsec_nanos()) ^ (time.as_secs() & 0xFFFF)
}
