//! The command line.

mod admin;
mod check;
mod explain;
mod listener;
mod probe;
mod queue;
mod reload;
mod serve;
mod spool;

use std::io::{self, BufWriter};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{ConfigError, LogFormat};
use crate::privileges::become_binder;
use crate::server::serve_helper;
use crate::store::StoreError;

/// SMTP ingress engine: the server behind a domain's MX record.
#[derive(Debug, Parser)]
#[command(name = "ringmx", version, about, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ringmx serve                               mail for localhost and example.com on 127.0.0.1:2525
  ringmx serve --config /etc/ringmx.toml
  ringmx check --config /etc/ringmx.toml --strict
  ringmx explain --config /etc/ringmx.toml --client 192.0.2.7
  ringmx queue ls --config /etc/ringmx.toml
  ringmx spool stat --spool /var/spool/ringmx

Exit status: 0 done, 1 it failed (see each command), 2 wrong usage or configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(ServeArgs),
    Check(CheckArgs),
    Explain(explain::ExplainArgs),
    Probe(probe::ProbeArgs),
    Listener(listener::ListenerArgs),
    Queue(queue::QueueArgs),
    Reload(reload::ReloadArgs),
    /// The process that keeps the right to bind; the server starts it
    #[command(hide = true)]
    BindHelper {
        user: u32,
        group: u32,
    },
    Spool(spool::SpoolArgs),
}

/// Receive mail, in the foreground; the log goes to stderr
///
/// SIGTERM and SIGINT stop it once its sessions have ended.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --config, the quick start: mail for localhost and example.com at 127.0.0.1:2525,
spool in ./ringmx-data, delivery to the Maildir ./ringmx-data/maildir, admin HTTP at
127.0.0.1:8025.

Examples:
  ringmx serve
  ringmx serve --config /etc/ringmx.toml --log-format json

Exit status: 0 stopped by a signal, 1 it could not start or go on, 2 wrong usage or
configuration.")]
struct ServeArgs {
    /// The configuration; without it, the built-in quick start
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines look; without it, as `format` in [log] says
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormatArg>,
}

/// Read configurations and say what is wrong with them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ringmx check --config /etc/ringmx.toml
  ringmx check --config /etc/ringmx.toml --strict --json
  ringmx check front.toml back.toml           also what shows only side by side
  ringmx check mx.toml --from 127.0.0.1:8025  and whether the running server is like it

Exit status: 0 fine, 1 warnings with --strict, 2 errors.")]
struct CheckArgs {
    /// The configuration; without any, the built-in quick start
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// More configurations, to be compared
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A running server, by its admin HTTP
    #[arg(long, value_name = "ADDRESS")]
    from: Vec<SocketAddr>,
    /// The findings as one JSON object
    #[arg(long)]
    json: bool,
    /// Let warnings count: exit status 1
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormatArg {
    Human,
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(format: LogFormatArg) -> Self {
        match format {
            LogFormatArg::Human => Self::Human,
            LogFormatArg::Json => Self::Json,
        }
    }
}

/// Why a command that only reads came to no result.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the configuration is wrong\n{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Server(String),
    #[error("cannot read the events at {}: {source}", path.display())]
    Events { path: PathBuf, source: io::Error },
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Runs what the command line asks for and gives the exit status.
pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => return serve::run(&args),
        Command::Check(args) => check::run(&args, &mut io::stdout().lock()),
        Command::Explain(args) => explain::run(&args, &mut BufWriter::new(io::stdout().lock())),
        Command::BindHelper { user, group } => return bind_helper(user, group),
        Command::Listener(args) => listener::run(&args, &mut io::stdout().lock()),
        Command::Queue(args) => queue::run(&args, &mut BufWriter::new(io::stdout().lock())),
        Command::Reload(args) => reload::run(&args, &mut io::stdout().lock()),
        Command::Probe(args) => probe::run(&args, &mut io::stdout().lock()),
        Command::Spool(args) => spool::run(&args, &mut BufWriter::new(io::stdout().lock())),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        // Whoever stops reading has read enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ringmx: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Its end of the socket pair is its standard input.
fn bind_helper(user: u32, group: u32) -> ExitCode {
    let served = become_binder(user, group).and_then(|()| serve_helper(io::stdin().as_fd()));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringmx bind-helper: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn commands_parse() {
        for line in [
            "ringmx serve",
            "ringmx serve --config a.toml --log-format json",
            "ringmx check --json --strict",
            "ringmx check a.toml b.toml --from 127.0.0.1:8025",
            "ringmx explain --client 192.0.2.1 --mail <> --rcpt a@b --rcpt c@d",
            "ringmx probe mx.example:smtp --json",
            "ringmx probe 192.0.2.1 --admin 127.0.0.1:8025 --timeout 5",
            "ringmx listener ls --json --spool x",
            "ringmx listener add mx 127.0.0.1:smtp --config a.toml",
            "ringmx listener rm [::1]:25",
            "ringmx reload --config a.toml --json",
            "ringmx queue ls --held --json",
            "ringmx queue retry --all --config a.toml",
            "ringmx queue rm 0CH1611EAG081-1 0CH1611EAG081-2 --spool x",
            "ringmx queue bounce --sender <> --domain example.com",
            "ringmx spool ls",
            "ringmx spool cat 0CH1611EAG081-1 --spool x",
            "ringmx spool verify --config a.toml --json",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "ringmx",
            "ringmx serve x",
            "ringmx explain",
            "ringmx probe",
            "ringmx spool",
            "ringmx queue",
            "ringmx queue retry --all --held",
            "ringmx queue rm not-an-id",
            "ringmx reload --admin 127.0.0.1:8025",
            "ringmx spool ls --spool a --config b",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
