//! The command line, and what it means once it is known to make sense.

mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::values::{Cores, Size, Sources};
use self::values::{chunk, cores, duration, helo, mailbox, rate, recipient, sources};
use crate::client::Pipelining;
use crate::limits::{CONNECTIONS_COUNT_MAX, RECIPIENTS_COUNT_MAX};

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
  loadgen run 127.0.0.1:2525 --bdat --pipelined --size lognormal:8KiB,1.5 --seed 7
  loadgen run 127.0.0.1:2525 --bdat --chunk 64KiB --corpus ~/Maildir/cur --body 8bitmime
  loadgen run 127.0.0.1:2525 --smtputf8 --to empfänger@example.com
  loadgen run 127.0.0.1:2525 --tls starttls --tls-resume --messages-per-connection 1
  loadgen run 127.0.0.1:2525 --ledger acknowledged --messages 100000

Exit status: 0 done, 1 it could not be done, or had errors and --fail-on errors, 2 usage.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sends mail to a server, checks every reply and measures.
    Run(Box<RunArgs>),
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
    /// Connections held at once.
    #[arg(long, short = 'c', default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_COUNT_MAX)))]
    pub connections: u32,
    /// End after so many messages.
    #[arg(long, short = 'm', value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// End after so long: seconds, or a number with ms, s, m or h [default: 10s, unless --messages is given].
    #[arg(long, short = 'd', value_parser = duration)]
    pub duration: Option<Duration>,
    /// Octets of a message's content as the server stores it: 4096, 4KiB, 1MiB; or drawn for each message from
    /// lognormal:MEDIAN,SIGMA, where SIGMA is the deviation of the natural logarithm: lognormal:8KiB,1.5.
    #[arg(long, short = 's', default_value = "4096", value_parser = Size::parse)]
    pub size: Size,
    /// Send the files of a directory, each a message, in an order that the seed decides; a field X-Loadgen is put in
    /// front, and line ends are made CR LF.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "size")]
    pub corpus: Option<PathBuf>,
    /// Of the sizes that are drawn, and of which message comes when.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Send content by BDAT (CHUNKING): one chunk, and with pipelining MAIL, RCPT, BDAT and the content in one go.
    #[arg(long)]
    pub bdat: bool,
    /// Chunks of at most so many octets.
    #[arg(long, value_name = "SIZE", requires = "bdat", value_parser = chunk)]
    pub chunk: Option<u64>,
    /// 8bitmime: content with octets above 127, and BODY=8BITMIME.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = BodyArg::SevenBit)]
    pub body: BodyArg,
    /// MAIL with SMTPUTF8: addresses and content that are not ASCII [default of --from and --to then:
    /// sënder@example.net, empfänger@example.com].
    #[arg(long)]
    pub smtputf8: bool,
    /// Open loop: messages a second at fixed times; latency counts from the intended time.
    #[arg(long, short = 'r', conflicts_with = "closed", value_parser = rate)]
    pub rate: Option<f64>,
    /// The open loop's arrivals are a Poisson process of that mean rate, as of clients who know nothing of each other.
    #[arg(long, requires = "rate")]
    pub poisson: bool,
    /// Closed loop: each connection begins its next message as soon as the last is answered (the default).
    #[arg(long)]
    pub closed: bool,
    /// Send MAIL, RCPT and DATA in one group, and fail where the server does not offer PIPELINING [default: where it
    /// does].
    #[arg(long, conflicts_with = "no_pipelining")]
    pub pipelined: bool,
    /// One command per round trip.
    #[arg(long)]
    pub no_pipelining: bool,
    /// Speak TLS; the server's certificate is not checked.
    #[arg(long, value_name = "WHEN", value_enum)]
    pub tls: Option<TlsArg>,
    /// Resume TLS sessions by tickets [default: each handshake is a full one].
    #[arg(long, requires = "tls")]
    pub tls_resume: bool,
    /// TLS 1.2 instead of 1.3.
    #[arg(long = "tls-1-2", requires = "tls")]
    pub tls_1_2: bool,
    /// The name asked for by TLS.
    #[arg(long, value_name = "NAME", default_value = "localhost", requires = "tls")]
    pub tls_name: String,
    /// Threads, each with its own ring.
    #[arg(long, short = 't', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Messages on one connection before it is closed and opened anew [default: no limit].
    #[arg(long, visible_alias = "reuse", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages_per_connection: Option<u64>,
    /// Argument of EHLO.
    #[arg(long, default_value = "loadgen.example", value_parser = helo)]
    pub helo: String,
    /// Reverse-path; empty for the null reverse-path [default: sender@example.net].
    #[arg(long, value_name = "ADDR", value_parser = mailbox)]
    pub from: Option<String>,
    /// Forward-path; may be given several times [default: recipient@example.com].
    #[arg(long, value_name = "ADDR", value_parser = recipient)]
    pub to: Vec<String>,
    /// Longest wait for a reply, or to connect.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
    /// Addresses of this machine to connect from, in turn: 127.0.0.2-127.0.0.200,127.1.0.1.
    #[arg(long, value_name = "LIST", value_parser = sources)]
    pub source: Option<Sources>,
    /// Cores to keep the threads on, in turn: 0,2-3.
    #[arg(long, value_name = "LIST", value_parser = cores)]
    pub cpu: Option<Cores>,
    /// Write each interval's percentiles as DIR/INTERVAL.hgrm, in microseconds.
    #[arg(long, value_name = "DIR")]
    pub hgrm: Option<PathBuf>,
    /// Write the results as JSON; `-` for standard output, where the text goes otherwise.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Append a line for each message that got its 250: its token and the reply's text.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Sync the ledger before its messages count, so that it outlives this machine's power, too.
    #[arg(long, requires = "ledger")]
    pub ledger_sync: bool,
    /// End the run at the first error.
    #[arg(long)]
    pub fail_fast: bool,
    /// When to exit with status 1.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = FailOn::Nothing)]
    pub fail_on: FailOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsArg {
    /// By STARTTLS.
    Starttls,
    /// From the first octet.
    Implicit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BodyArg {
    /// US-ASCII.
    #[value(name = "7bit")]
    SevenBit,
    /// RFC 6152.
    #[value(name = "8bitmime")]
    EightBitMime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Only when the run could not be carried out.
    Nothing,
    /// Also when any error was counted.
    Errors,
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

impl RunArgs {
    pub fn pipelining(&self) -> Pipelining {
        match (self.pipelined, self.no_pipelining) {
            (true, _) => Pipelining::Required,
            (_, true) => Pipelining::Off,
            _ => Pipelining::Offered,
        }
    }

    /// How long the run lasts at the most; `None` where only the number of messages ends it.
    pub fn duration_max(&self) -> Option<Duration> {
        let default = if self.messages.is_some() { None } else { Some(Duration::from_secs(10)) };
        self.duration.or(default)
    }

    /// Without angle brackets.
    pub fn reverse_path(&self) -> &str {
        let default = if self.smtputf8 { "sënder@example.net" } else { "sender@example.net" };
        self.from.as_deref().unwrap_or(default)
    }

    /// Without angle brackets; at least one.
    pub fn forward_paths(&self) -> Vec<String> {
        let default = if self.smtputf8 { "empfänger@example.com" } else { "recipient@example.com" };
        if self.to.is_empty() { vec![default.to_owned()] } else { self.to.clone() }
    }

    /// Content has octets above 127. RFC 6531 §3.6: where addresses are not ASCII, header sections are not, either.
    pub fn is_eight_bit(&self) -> bool {
        self.body == BodyArg::EightBitMime || self.smtputf8
    }

    /// What one value alone cannot tell.
    pub fn validate(&self) -> Result<(), String> {
        if self.to.len() > RECIPIENTS_COUNT_MAX {
            return Err(format!("--to: at most {RECIPIENTS_COUNT_MAX} recipients"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_args(args: &[&str]) -> Result<RunArgs, String> {
        let cli = Cli::try_parse_from([&["loadgen", "run", "127.0.0.1:25"], args].concat())
            .map_err(|error| error.to_string())?;
        match cli.command {
            Command::Run(args) => Ok(*args),
            Command::Sink(_) | Command::Verify(_) => Err("not run".to_owned()),
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
