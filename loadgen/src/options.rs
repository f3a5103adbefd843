//! The command line, and what it means once it is known to make sense.

mod load;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use self::load::{BodyArg, FailOn, LoadArgs, TlsArg};
pub use self::values::{Cores, Size, Sources};
use self::values::{cores, factor};
use crate::limits::CONNECTIONS_COUNT_MAX;

/// SMTP load generator on io_uring.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const RUN_EXAMPLES: &str = "\
Examples:
  loadgen run 127.0.0.1:2525 --to me@example.com --duration 30s
  loadgen run 127.0.0.1:2525 --rate 5000 --poisson --hgrm latencies --json result.json
  loadgen run 127.0.0.1:2525 --ramp 100:5000:30 --html report.html
  loadgen run 127.0.0.1:2525 --steps 1000,2000,4000:10 --poisson
  loadgen run 127.0.0.1:2525 --connections 200 --misbehave drip=10,never-reads=5,vanish=1
  loadgen run 127.0.0.1:2525 --connections 10001 --misbehave drip=99.99 --drip-after 120KiB --rate 1
  loadgen run 127.0.0.1:2525 --bdat --pipelined --size lognormal:8KiB,1.5 --seed 7
  loadgen run 127.0.0.1:2525 --bdat --chunk 64KiB --corpus ~/Maildir/cur --body 8bitmime
  loadgen run 127.0.0.1:2525 --smtputf8 --to empfänger@example.com
  loadgen run 127.0.0.1:2525 --tls starttls --tls-resume --messages-per-connection 1
  loadgen run 127.0.0.1:2525 --ledger acknowledged --ledger-sync --messages 100000
  loadgen run 127.0.0.1:2525 --no-pipelining --timeout 10s --fail-fast --fail-on errors
  loadgen run 127.0.0.1:2525 -c 20000 --source 127.0.0.2-127.0.0.9 --threads 2 --cpu 2-3
  loadgen run 127.0.0.1:2525 -c 20000 --source 127.0.0.2-127.0.0.9 --rate 0.01 --duration 10m

Exit status: 0 done, 1 it could not be done, or had errors and --fail-on errors, 2 usage.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sends mail to a server, checks every reply and measures.
    Run(Box<RunArgs>),
    /// Shows what the generator itself can do: the same load on a server of its own that discards all.
    SelfTest(Box<SelfTestArgs>),
    /// Holds a ledger of acknowledged messages against what a server stored or delivered.
    Verify(VerifyArgs),
    /// A server that takes mail and discards it: shows what the generator itself can do.
    Sink(SinkArgs),
}

#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArgs {
    /// The server, as HOST:PORT; an IPv6 address as [ADDRESS]:PORT.
    #[arg(value_name = "HOST:PORT")]
    pub server: String,
    #[command(flatten)]
    pub load: LoadArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loadgen self-test --connections 50 --pipelined
  loadgen self-test --connections 50 --pipelined --against result.json

The options are those of the run whose figures are in question; --against compares, and says so where they differ.

Exit status: 0 done, 1 it could not be done, or the ceiling is below --factor times that result, 2 usage.")]
pub struct SelfTestArgs {
    #[command(flatten)]
    pub load: LoadArgs,
    /// Cores of the sink [default: the first one; the generator has the others then, without --cpu].
    #[arg(long, value_name = "LIST", value_parser = cores)]
    pub sink_cpu: Option<Cores>,
    /// The JSON of the run whose figures are in question.
    #[arg(long, value_name = "RESULT.json")]
    pub against: Option<PathBuf>,
    /// How far the ceiling has to be above that run's messages a second.
    #[arg(long, value_name = "RATIO", default_value_t = 1.3, value_parser = factor)]
    pub factor: f64,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loadgen verify ledger --maildir /var/mail/ringmx
  loadgen verify ledger --spool /var/spool/ringmx --maildir /var/mail/ringmx --json

Exit status: 0 all that was acknowledged is stored, 1 some is not or it cannot be read, 2 usage.")]
pub struct VerifyArgs {
    /// What `loadgen run --ledger` wrote; several are one.
    #[arg(value_name = "LEDGER", required = true)]
    pub ledger: Vec<PathBuf>,
    /// A Maildir: its new and cur.
    #[arg(long, value_name = "DIR")]
    pub maildir: Vec<PathBuf>,
    /// A file of messages, each behind a line that begins with From.
    #[arg(long, value_name = "FILE")]
    pub mbox: Vec<PathBuf>,
    /// A directory with a message in each file.
    #[arg(long, value_name = "DIR")]
    pub files: Vec<PathBuf>,
    /// A spool of ringmx, read by `ringmx spool export`, also while the server runs.
    #[arg(long, value_name = "DIR")]
    pub spool: Vec<PathBuf>,
    /// The program that reads spools.
    #[arg(long, value_name = "PROGRAM", default_value = "ringmx")]
    pub ringmx: PathBuf,
    /// Exit with status 1 also where a message is stored more than once.
    #[arg(long)]
    pub fail_on_duplicates: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loadgen sink --bind 127.0.0.1:2526 --cpu 0
  loadgen sink --bind 127.0.0.1:0 --threads 2 --no-pipelining

It says where it listens, takes mail until SIGINT or SIGTERM, and then how much, and its CPU per message.")]
pub struct SinkArgs {
    /// Where to listen; port 0 lets the kernel choose.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:2526")]
    pub bind: SocketAddr,
    /// Threads, each with its own ring.
    #[arg(long, short = 't', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Cores to keep the threads on, in turn: 0,2-3.
    #[arg(long, value_name = "LIST", value_parser = cores)]
    pub cpu: Option<Cores>,
    /// Connections a thread takes at most.
    #[arg(long, default_value_t = 65_536)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_COUNT_MAX)))]
    pub connections_max: u32,
    /// Do not offer PIPELINING.
    #[arg(long)]
    pub no_pipelining: bool,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::Pipelining;

    fn run_args(args: &[&str]) -> Result<LoadArgs, String> {
        let cli = Cli::try_parse_from([&["loadgen", "run", "127.0.0.1:25"], args].concat())
            .map_err(|error| error.to_string())?;
        match cli.command {
            Command::Run(args) => Ok(args.load),
            Command::Sink(_) | Command::Verify(_) | Command::SelfTest(_) => Err("not run".to_owned()),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_bounded() {
        let args = run_args(&[]).expect("parsed");
        assert_eq!(args.duration_max(), Some(Duration::from_secs(10)));
        assert_eq!(args.pipelining(), Pipelining::Offered);
        let ramp = run_args(&["--ramp", "1:5:30", "--poisson"]).expect("parsed");
        assert_eq!(ramp.duration_max(), Some(Duration::from_secs(30)));
        assert_eq!(run_args(&["--messages", "5"]).expect("parsed").duration_max(), None);
        assert_eq!(run_args(&["--to", "a@b", "--to", "c@d"]).expect("parsed").to, ["a@b", "c@d"]);
        assert_eq!(run_args(&["--from", ""]).expect("parsed").reverse_path(), "");
        assert_eq!(run_args(&["--reuse", "5"]).expect("parsed").messages_per_connection, Some(5));
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        for args in [
            &["--rate", "5", "--closed"][..],
            &["--pipelined", "--no-pipelining"],
            &["--rate", "NaN"],
            &["--duration", "5 weeks"],
            &["--duration", "0"],
            &["--size", "99999GiB"],
            &["--size", "2000MiB"],
            &["--connections", "0"],
            &["--to", ""],
            &["--from", "a\r\nDATA"],
            &["--to", "<a@b>"],
            &["--cpu", "3-1"],
            &["--cpu", "x"],
            &["--source", "127.0.0.9-127.0.0.2"],
            &["--source", "10.0.0.0-10.255.255.255"],
            &["--source", "localhost"],
            &["--poisson"],
            &["--rate", "5", "--ramp", "1:2:3"],
            &["--steps", "1,2:3", "--closed"],
            &["--misbehave", "drip"],
            &["--misbehave", "drip=5", "--tls", "starttls"],
            &["--misbehave", "drip=5", "--drip-after", "1MiB"],
            &["--drip-after", "1KiB"],
            &["--ledger-sync"],
            &["--chunk", "100"],
            &["--bdat", "--chunk", "0"],
            &["--corpus", "x", "--size", "100"],
            &["--body", "binarymime"],
        ] {
            assert!(run_args(args).is_err(), "{args:?}");
        }
    }
}
