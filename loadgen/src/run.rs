//! `loadgen run`: a load on a server, and the report.

mod drive;
mod progress;
mod setup;

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use ringmx_ring::{BindError, SetupError};
use serde::Serialize;

pub(crate) use self::drive::drive;
use crate::corpus::CorpusError;
use crate::options::{FailOn, RunArgs};
use crate::workload::TooSmall;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    TooSmall(#[from] TooSmall),
    #[error("--corpus: {0}")]
    Corpus(#[from] CorpusError),
    #[error("{server}: {error}")]
    Resolve { server: String, error: io::Error },
    #[error(transparent)]
    Ring(#[from] SetupError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("core {core}: {error}")]
    Pin { core: usize, error: io::Error },
    #[error("{path}: {error}")]
    File { path: String, error: io::Error },
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("a thread of the generator panicked")]
    Panicked,
}

impl RunError {
    pub(crate) fn file(path: &Path, error: io::Error) -> Self {
        Self::File { path: path.display().to_string(), error }
    }

    /// What was asked for makes no sense, as opposed to: it could not be done.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::TooSmall(_) | Self::Corpus(_) | Self::Resolve { .. })
    }
}

/// Carries a run out. True: fine, as far as `--fail-on` wants to know.
pub fn run(args: &RunArgs) -> Result<bool, RunError> {
    let driven = drive(resolve(&args.server)?, &args.load)?;
    let report = driven.report(&args.server, &args.load, driven.cpu_secs);
    driven.write_files(&args.load, &report)?;
    print(args.load.json.as_deref(), &report)?;
    match driven.failure {
        Some(error) => Err(error),
        None => Ok(args.load.fail_on == FailOn::Nothing || report.errors_count == 0),
    }
}

fn resolve(server: &str) -> Result<SocketAddr, RunError> {
    let failed = |error| RunError::Resolve { server: server.to_owned(), error };
    let mut addresses = server.to_socket_addrs().map_err(failed)?;
    addresses.next().ok_or_else(|| failed(io::Error::other("no address")))
}

/// JSON where that was asked for, and text where JSON does not go to the same place.
pub(crate) fn print<T: Serialize + ToString>(json: Option<&Path>, report: &T) -> Result<(), RunError> {
    if let Some(path) = json {
        let mut text = serde_json::to_string_pretty(report).map_err(io::Error::other)?;
        text.push('\n');
        if path == Path::new("-") {
            return Ok(io::stdout().write_all(text.as_bytes())?);
        }
        fs::write(path, text).map_err(|error| RunError::file(path, error))?;
    }
    Ok(writeln!(io::stdout(), "{}", report.to_string())?)
}
