//! What a load is: the options of `run` and of `self-test`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::{
    Cores, Size, Sources, at_once, chunk, cores, duration, helo, mailbox, recipient, sources,
};
use crate::client::Pipelining;
use crate::limits::{CONNECTIONS_COUNT_MAX, RECIPIENTS_COUNT_MAX};
use crate::mischief::Shares;
use crate::profile::{Profile, rate};

#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Connections held at once.
    #[arg(long, short = 'c', default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_COUNT_MAX)))]
    pub connections: u32,
    /// End after so many messages.
    #[arg(long, short = 'm', value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// End after so long: seconds, or a number with ms, s, m or h [default: 10s, unless --messages, --ramp or --steps
    /// is given].
    #[arg(long, short = 'd', value_parser = duration)]
    pub duration: Option<Duration>,
    /// Octets of a message's content as the server stores it: 4096, 4KiB, 1MiB; or drawn for each message from
    /// lognormal:MEDIAN,SIGMA, where SIGMA is the deviation of the natural logarithm: lognormal:8KiB,1.5. None is
    /// drawn above 64 MiB.
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
    #[arg(long, short = 'r', group = "open", value_parser = rate)]
    pub rate: Option<f64>,
    /// Open loop whose rate changes evenly, and stays where it got: 100:5000:30. It is the run's duration, too, where
    /// none is given.
    #[arg(long, group = "open", value_name = "FROM:TO:SECONDS", value_parser = Profile::parse_ramp)]
    pub ramp: Option<Profile>,
    /// Open loop of several rates, each for so long: 1000,2000,4000:10.
    #[arg(long, group = "open", value_name = "R1,R2,..:SECONDS", value_parser = Profile::parse_steps)]
    pub steps: Option<Profile>,
    /// The open loop's arrivals are a Poisson process of that mean rate, as of clients who know nothing of each other.
    #[arg(long, requires = "open")]
    pub poisson: bool,
    /// Closed loop: each connection begins its next message as soon as the last is answered (the default).
    #[arg(long, conflicts_with = "open")]
    pub closed: bool,
    /// Let a share of the connections misbehave, in per cent: drip=5,vanish=1. They are counted apart. Kinds: drip (an
    /// octet of content a second), half-open (says nothing), rst (resets in content), early (speaks before the 220),
    /// never-reads, vanish (gone before the 250).
    #[arg(long, value_name = "KIND=PERCENT,..", conflicts_with = "tls", value_parser = Shares::parse)]
    pub misbehave: Option<Shares>,
    /// Octets of content that who drips sends at once, before it drips: 120KiB.
    #[arg(long, value_name = "SIZE", default_value = "0", requires = "misbehave", value_parser = at_once)]
    pub drip_after: u64,
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
    /// Write a report that a browser shows, with plots, in one file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
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

impl LoadArgs {
    pub fn pipelining(&self) -> Pipelining {
        match (self.pipelined, self.no_pipelining) {
            (true, _) => Pipelining::Required,
            (_, true) => Pipelining::Off,
            _ => Pipelining::Offered,
        }
    }

    /// How long the run lasts at the most; `None` where only the number of messages ends it.
    pub fn duration_max(&self) -> Option<Duration> {
        let of_profile = self.profile().and_then(|profile| profile.secs()).map(Duration::from_secs_f64);
        let default = if self.messages.is_some() { None } else { Some(Duration::from_secs(10)) };
        self.duration.or(of_profile).or(default)
    }

    /// When messages are due; none: in a closed loop.
    pub fn profile(&self) -> Option<Profile> {
        self.rate.map(Profile::steady).or_else(|| self.ramp.clone()).or_else(|| self.steps.clone())
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
        if let Some(shares) = &self.misbehave {
            shares.of(self.connections)?;
        }
        Ok(())
    }
}
