//! The results: a table for people, JSON for scripts.

use std::fmt::{self, Display, Formatter};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::mischief::Tally;
use crate::stats::{ErrorEntry, Interval, Stats};
use crate::timeline::Rates;

/// How the run was asked for; repeated in its report, so that a figure never stands alone.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    pub server: String,
    pub connections: u32,
    pub threads: u32,
    /// Octets of a message's content; of several sizes the mean.
    pub size: u64,
    pub sizes: SizesOf,
    pub recipients: usize,
    /// `data` or `bdat`, and the octets of a chunk at most where that was asked for.
    pub transfer: &'static str,
    pub chunk: Option<u64>,
    /// `7bit` or `8bitmime`.
    pub body: &'static str,
    pub smtputf8: bool,
    pub pipelining: &'static str,
    pub tls: &'static str,
    /// `closed`, or `open` at so many messages a second.
    pub arrivals: &'static str,
    pub rate: Option<f64>,
    /// The rate over time, in words.
    pub profile: Option<String>,
    /// The open loop's arrivals are a Poisson process, not evenly spaced.
    pub poisson: bool,
    pub messages_per_connection: Option<u64>,
    /// The first part of this run's tokens.
    pub run: String,
    /// The kernel's and the generator's versions.
    pub kernel: String,
    pub version: &'static str,
}

/// How long messages were.
#[derive(Clone, Debug, Serialize)]
pub struct SizesOf {
    /// `fixed`, `lognormal` or `corpus`.
    pub from: &'static str,
    /// How many different messages, and their octets.
    pub count: usize,
    pub least: usize,
    pub most: usize,
}

/// Latencies of one interval, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    pub interval: Interval,
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub p99_99_us: f64,
    pub max_us: f64,
}

impl Latency {
    fn new(interval: Interval, histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            interval,
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            p99_99_us: at(0.9999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }

    fn cells(&self) -> [String; 7] {
        let values =
            [self.p50_us, self.p90_us, self.p99_us, self.p99_9_us, self.p99_99_us, self.max_us, self.mean_us];
        values.map(|us| if self.count == 0 { "-".to_owned() } else { micros(us) })
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub setup: Setup,
    /// Ended by a signal before its time.
    pub interrupted: bool,
    pub started: u64,
    pub accepted: u64,
    pub refused: u64,
    pub in_doubt: u64,
    pub handshakes: u64,
    pub handshakes_resumed: u64,
    pub aborted: u64,
    pub missed: u64,
    pub connections_opened: u64,
    /// From the first MAIL to the last 250.
    pub busy_secs: f64,
    pub messages_per_sec: f64,
    pub content_octets_per_sec: f64,
    /// The generator's own CPU time, user and system, per accepted message.
    pub cpu_us_per_message: f64,
    /// The same as a share of one core.
    pub cpu_cores: f64,
    pub latencies: Vec<Latency>,
    pub errors_count: u64,
    pub errors: Vec<ErrorEntry>,
    /// Clients that were asked to; but for the generator's CPU, nothing of theirs is in what stands above.
    pub misbehaving: Vec<Tally>,
    pub timeline: Rates,
}

impl Report {
    /// `cpu_secs`: what the process used for the run; `wall_secs`: how long that was.
    pub fn new(setup: Setup, stats: &Stats, cpu_secs: f64, wall_secs: f64, interrupted: bool) -> Self {
        let busy_secs = stats.busy_secs();
        let messages_per_sec = ratio(stats.accepted as f64, busy_secs);
        let content_octets_per_sec = ratio(stats.accepted_octets as f64, busy_secs);
        let latency = |&interval: &Interval| Latency::new(interval, stats.histogram(interval));
        Self {
            setup,
            interrupted,
            started: stats.started,
            accepted: stats.accepted,
            refused: stats.refused,
            in_doubt: stats.in_doubt,
            handshakes: stats.handshakes,
            handshakes_resumed: stats.handshakes_resumed,
            aborted: stats.aborted,
            missed: stats.missed,
            connections_opened: stats.connections_opened,
            busy_secs,
            messages_per_sec,
            content_octets_per_sec,
            cpu_us_per_message: ratio(cpu_secs * 1e6, stats.accepted as f64),
            cpu_cores: ratio(cpu_secs, wall_secs),
            latencies: Interval::ALL.iter().map(latency).collect(),
            errors_count: stats.errors.total(),
            errors: stats.errors.sorted(),
            misbehaving: Vec::new(),
            timeline: Rates::default(),
        }
    }
}

/// Nothing over nothing is nothing, in a report.
fn ratio(value: f64, per: f64) -> f64 {
    if per > 0.0 { value / per } else { 0.0 }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let setup = &self.setup;
        let each = setup.messages_per_connection.map_or(String::new(), |n| format!(" ({n} messages each)"));
        let spacing = if setup.poisson { " (Poisson)" } else { "" };
        let rate = setup.profile.as_ref().map_or(String::new(), |rate| format!(" at {rate}{spacing}"));
        writeln!(
            f,
            "{}: connections {}{each}, threads {}, {}, recipients {}, pipelining {}, {} loop{rate}{}",
            setup.server,
            setup.connections,
            setup.threads,
            setup.octets(),
            setup.recipients,
            setup.pipelining,
            setup.arrivals,
            setup.extensions(),
        )?;
        writeln!(
            f,
            "messages    {} started, {} accepted, {} refused, {} in doubt, {} aborted; {} connections opened",
            self.started, self.accepted, self.refused, self.in_doubt, self.aborted, self.connections_opened,
        )?;
        if self.handshakes > 0 {
            let Self { handshakes, handshakes_resumed, .. } = self;
            writeln!(f, "TLS         {}, {handshakes} handshakes, {handshakes_resumed} resumed", setup.tls)?;
        }
        if self.missed > 0 {
            writeln!(f, "arrivals    {} were due and found no free connection", self.missed)?;
        }
        writeln!(
            f,
            "time        {:.3} s from the first MAIL to the last 250{}; {:.1} MB/s of content",
            self.busy_secs,
            if self.interrupted { ", interrupted" } else { "" },
            self.content_octets_per_sec / 1e6,
        )?;
        writeln!(f, "own CPU     {:.2} us a message, {:.2} cores", self.cpu_us_per_message, self.cpu_cores)?;
        self.write_latencies(f)?;
        self.write_errors(f)?;
        let whole = self.latencies.last().map_or_else(Default::default, Latency::cells);
        let [p50, p90, p99, p99_9, _, max, _] = whole;
        write!(
            f,
            "{:.0} messages/s, latency p50 {p50} p90 {p90} p99 {p99} p99.9 {p99_9} max {max}, \
             own CPU {:.2} us a message, {} errors",
            self.messages_per_sec, self.cpu_us_per_message, self.errors_count,
        )
    }
}

impl Setup {
    fn octets(&self) -> String {
        let SizesOf { from, count, least, most } = self.sizes;
        if least == most {
            return format!("octets {}", self.size);
        }
        format!("octets {least} to {most}, {} in the mean ({count} messages, {from})", self.size)
    }

    /// What is not sent to every server.
    fn extensions(&self) -> String {
        let mut text = String::new();
        if self.transfer == "bdat" {
            text.push_str(", BDAT");
            if let Some(chunk) = self.chunk {
                text.push_str(&format!(" of {chunk} octets"));
            }
        }
        if self.body == "8bitmime" {
            text.push_str(", 8BITMIME");
        }
        if self.smtputf8 {
            text.push_str(", SMTPUTF8");
        }
        text
    }
}

impl Report {
    /// What one group of commands hides, if the run had one.
    pub fn grouped(&self) -> Option<&'static str> {
        let count = |wanted| self.latencies.iter().find(|of| of.interval == wanted).map_or(0, |of| of.count);
        if count(Interval::Recipients) > 0 || count(Interval::Final) == 0 {
            return None;
        }
        Some(if self.setup.transfer == "bdat" {
            "pipelined: MAIL, RCPT and BDAT leave together and are answered together; the final interval is theirs, too"
        } else {
            "pipelined: MAIL, RCPT and DATA leave together; MAIL -> 354 holds the replies to all of them"
        })
    }

    fn write_latencies(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:<19} {:>9}", "latency", "count")?;
        for name in ["p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"] {
            write!(f, " {name:>8}")?;
        }
        writeln!(f)?;
        for latency in &self.latencies {
            write!(f, "  {:<17} {:>9}", latency.interval.description(), latency.count)?;
            for cell in latency.cells() {
                write!(f, " {cell:>8}")?;
            }
            writeln!(f)?;
        }
        if let Some(note) = self.grouped() {
            writeln!(f, "  {note}")?;
        }
        Ok(())
    }

    fn write_errors(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.errors_count > 0 {
            writeln!(f, "errors      {}", self.errors_count)?;
        }
        for error in &self.errors {
            let code = if error.code == 0 { String::new() } else { format!("{} ", error.code) };
            let (kind, example) = (error.kind.description(), &error.example);
            let first = if code.is_empty() && example.is_empty() {
                String::new()
            } else {
                format!(": {code}{example}")
            };
            writeln!(f, "  {:>9}  {kind}{first}", error.count)?;
        }
        for tally in &self.misbehaving {
            let Tally { kind, clients, connections_opened, done, refused, ended_by_server, failed } = tally;
            writeln!(
                f,
                "misbehaving {}: {clients} clients, {connections_opened} connections, {done} {}; refused {refused}, \
                 ended by the server {ended_by_server}, failed {failed}",
                kind.name(),
                kind.description(),
            )?;
        }
        Ok(())
    }
}

/// Three to four digits with their unit.
fn micros(us: f64) -> String {
    match us {
        us if us < 100.0 => format!("{us:.1}us"),
        us if us < 10_000.0 => format!("{us:.0}us"),
        us if us < 1_000_000.0 => format!("{:.1}ms", us / 1e3),
        us => format!("{:.2}s", us / 1e6),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::stats::ErrorKind;

    pub(crate) fn setup() -> Setup {
        Setup {
            server: "127.0.0.1:25".into(),
            connections: 5,
            threads: 1,
            size: 1000,
            sizes: SizesOf { from: "fixed", count: 1, least: 1000, most: 1000 },
            recipients: 1,
            transfer: "data",
            chunk: None,
            body: "7bit",
            smtputf8: false,
            pipelining: "where offered",
            tls: "off",
            arrivals: "closed",
            rate: None,
            profile: None,
            poisson: false,
            messages_per_connection: None,
            run: "0".into(),
            kernel: "6.1".into(),
            version: "0",
        }
    }

    fn report(stats: &Stats) -> Report {
        Report::new(setup(), stats, 0.5, 1.0, false)
    }

    #[test]
    fn the_last_line_sums_up() {
        let mut stats = Stats::default();
        (stats.started, stats.accepted) = (100, 100);
        (stats.first_at, stats.last_at) = (Some(0), 500_000_000);
        (1..=100).for_each(|n| stats.record(Interval::Transaction, n * 1_000_000));
        stats.errors.add(ErrorKind::ContentRefused, 452, b"4.3.1 full");
        let text = report(&stats).to_string();
        let last = text.lines().last().expect("lines");
        assert!(last.starts_with("200 messages/s, latency p50 50.0ms p90 90.0ms"), "{last}");
        assert!(last.ends_with("own CPU 5000.00 us a message, 1 errors"), "{last}");
        assert!(text.contains("1  content refused: 452 4.3.1 full\n"), "{text}");
    }

    #[test]
    fn a_run_without_a_message_has_a_report() {
        let report = report(&Stats::default());
        assert!(report.to_string().ends_with(
            "0 messages/s, latency p50 - p90 - p99 - p99.9 - max -, own CPU 0.00 us a message, 0 errors"
        ));
        let json = serde_json::to_value(&report).expect("serialised");
        assert_eq!(json["latencies"][7]["interval"], "transaction");
        assert_eq!(json["messages_per_sec"], 0.0);
    }
}
