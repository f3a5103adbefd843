//! The command line, and what it means once it is known to make sense.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::Pipelining;
use crate::limits::{
    CONNECTIONS_COUNT_MAX, CONTENT_LEN_MAX, MAILBOX_LEN_MAX, RECIPIENTS_COUNT_MAX, SOURCES_COUNT_MAX,
};

/// SMTP load generator on io_uring.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

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
    /// Octets of a message's content as the server stores it; KiB and MiB may follow.
    #[arg(long, short = 's', default_value = "4096", value_parser = size)]
    pub size: u64,
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
    /// Reverse-path; empty for the null reverse-path.
    #[arg(long, value_name = "ADDR", default_value = "sender@example.net", value_parser = mailbox)]
    pub from: String,
    /// Forward-path; may be given several times.
    #[arg(long, value_name = "ADDR", default_value = "recipient@example.com", value_parser = recipient)]
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

/// Cores in the order they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// The core of a thread.
    pub fn of(&self, thread_index: usize) -> usize {
        self.0[thread_index % self.0.len()]
    }
}

/// Addresses in the order connections take them; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(Vec<IpAddr>);

impl Sources {
    pub fn addresses(&self) -> &[IpAddr] {
        &self.0
    }
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

    /// What one value alone cannot tell.
    pub fn validate(&self) -> Result<(), String> {
        if self.to.len() > RECIPIENTS_COUNT_MAX {
            return Err(format!("--to: at most {RECIPIENTS_COUNT_MAX} recipients"));
        }
        Ok(())
    }
}

/// `127.0.0.2-127.0.0.9,127.1.0.1`: a range is of IPv4 addresses.
fn sources(text: &str) -> Result<Sources, String> {
    let mut addresses = Vec::new();
    for part in text.split(',') {
        let Some((first, last)) = part.split_once('-') else {
            addresses.push(part.trim().parse::<IpAddr>().map_err(|_| format!("`{part}` is not an address"))?);
            continue;
        };
        let number = |text: &str| {
            text.trim()
                .parse::<Ipv4Addr>()
                .map(u32::from)
                .map_err(|_| format!("`{text}` is not an IPv4 address"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last || (last - first) as usize >= SOURCES_COUNT_MAX {
            return Err(format!("`{part}` is not a range of at most {SOURCES_COUNT_MAX} addresses"));
        }
        addresses.extend((first..=last).map(|number| IpAddr::V4(number.into())));
    }
    if addresses.len() > SOURCES_COUNT_MAX {
        return Err(format!("at most {SOURCES_COUNT_MAX} addresses"));
    }
    Ok(Sources(addresses))
}

/// `10`, `10s`, `500ms`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit `{unit}`: use ms, s, m or h")),
    };
    let secs = number.parse::<f64>().map_err(|_| "not a number".to_owned())? * factor;
    if !(0.001..=1e6).contains(&secs) {
        return Err("must lie between 1 ms and 1,000,000 s".to_owned());
    }
    Ok(Duration::from_secs_f64(secs))
}

/// `4096`, `4KiB`, `1MiB`.
fn size(text: &str) -> Result<u64, String> {
    let number_len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        _ => return Err(format!("unknown unit `{unit}`: use KiB or MiB")),
    };
    let octets = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    octets
        .filter(|&octets| octets <= CONTENT_LEN_MAX)
        .ok_or_else(|| format!("at most {CONTENT_LEN_MAX} octets"))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().map_err(|_| "not a number".to_owned())?;
    if (0.001..=1e8).contains(&rate) {
        Ok(rate)
    } else {
        Err("must lie between 0.001 and 100,000,000".to_owned())
    }
}

/// Not the grammar of RFC 5321 §4.1.2: what a server makes of an odd mailbox may be the test. But it must not end the
/// command it stands in.
fn mailbox(text: &str) -> Result<String, String> {
    if text.len() > MAILBOX_LEN_MAX {
        return Err(format!("longer than {MAILBOX_LEN_MAX} octets"));
    }
    match text.chars().find(|&c| c.is_control() || c == '<' || c == '>') {
        Some(c) => {
            Err(format!("`{}` does not belong there; no angle brackets are needed", c.escape_default()))
        }
        None => Ok(text.to_owned()),
    }
}

fn recipient(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("empty".to_owned()) } else { mailbox(text) }
}

fn helo(text: &str) -> Result<String, String> {
    if text.contains(' ') { Err("a space does not belong there".to_owned()) } else { recipient(text) }
}

fn cores(text: &str) -> Result<Cores, String> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("`{text}` is not a core"));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= 1024 {
            return Err(format!("`{part}` is not a range of cores"));
        }
        cores.extend(first..=last);
    }
    Ok(Cores(cores))
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
        assert_eq!(run_args(&["--from", ""]).expect("parsed").from, "");
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
        ] {
            assert!(run_args(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn units_and_lists_are_read() {
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(size("50MiB"), Ok(50 << 20));
        assert_eq!(size("4 KiB"), Ok(4096));
        assert_eq!(cores("0,2-4"), Ok(Cores(vec![0, 2, 3, 4])));
        assert_eq!(Cores(vec![3, 5]).of(3), 5);
        let listed = sources("127.0.0.254-127.0.1.1,::1").expect("addresses");
        let texts: Vec<String> = listed.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["127.0.0.254", "127.0.0.255", "127.0.1.0", "127.0.1.1", "::1"]);
    }
}
