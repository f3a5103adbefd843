//! `loadgen self-test`: what the generator itself can do. The load runs against the sink, each on cores of its own, so
//! that nothing but the two and loopback TCP is in the way.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io;
use std::path::Path;

use ringmx_ring::available_cores;
use serde::Serialize;
use serde_json::Value;

use crate::limits::CONNECTIONS_COUNT_MAX;
use crate::options::{Cores, LoadArgs, SelfTestArgs, SinkArgs};
use crate::report::Report;
use crate::run::{RunError, drive, print};
use crate::sink;

/// Busier than that, a thread is what the others wait for.
const BUSY_CORES: f64 = 0.95;

/// What the generator reached, and what that says of another run.
#[derive(Debug, Serialize)]
pub struct SelfTest {
    pub ceiling_messages_per_sec: f64,
    /// The generator's own, and the sink's.
    pub cpu_us_per_message: f64,
    pub cpu_cores: f64,
    pub sink_cpu_us_per_message: f64,
    pub sink_cpu_cores: f64,
    /// Who had no more to give: `generator`, `sink`, or `neither`. Where it was not the generator, its ceiling is
    /// higher.
    pub bottleneck: &'static str,
    /// Both had to share a core: there is no more than one.
    pub shared_core: bool,
    pub against: Option<Against>,
    pub run: Report,
}

/// The ceiling beside a run's result.
#[derive(Debug, Serialize)]
pub struct Against {
    pub file: String,
    pub messages_per_sec: f64,
    /// The ceiling over that, and how large it has to be.
    pub ratio: f64,
    pub factor: f64,
    pub enough: bool,
}

/// True: done, and the ceiling is high enough where that was asked.
pub fn run(args: &SelfTestArgs) -> Result<bool, RunError> {
    let mut load = args.load.clone();
    if load.profile().is_some() || load.tls.is_some() || load.misbehave.is_some() {
        let reason = "the ceiling is that of a closed loop in clear, without --rate, --ramp, --steps, --tls and --misbehave";
        return Err(RunError::Usage(reason.to_owned()));
    }
    let result = args.against.as_deref().map(read).transpose()?;
    let (sink_cores, shared_core) = place(&mut load, args.sink_cpu.as_ref())?;
    let sink = sink::start(&SinkArgs {
        bind: ([127, 0, 0, 1], 0).into(),
        threads: load.threads,
        cpu: Some(sink_cores),
        connections_max: CONNECTIONS_COUNT_MAX.min(load.connections),
        no_pipelining: false,
    })?;
    let driven = drive(sink.address, &load);
    let totals = sink.finish()?;
    let driven = driven?;
    let report = driven.report("the sink", &load, driven.cpu_secs - totals.cpu_secs);
    driven.write_files(&load, &report)?;
    if let Some(error) = driven.failure {
        return Err(error);
    }
    let sink_cpu_cores = totals.cpu_secs / driven.wall_secs;
    let threads = f64::from(load.threads);
    let test = SelfTest {
        ceiling_messages_per_sec: report.messages_per_sec,
        cpu_us_per_message: report.cpu_us_per_message,
        cpu_cores: report.cpu_cores,
        sink_cpu_us_per_message: totals.cpu_secs * 1e6 / totals.messages_count.max(1) as f64,
        sink_cpu_cores,
        bottleneck: match (report.cpu_cores / threads, sink_cpu_cores / threads) {
            (own, of_sink) if own >= BUSY_CORES && own >= of_sink => "generator",
            (_, of_sink) if of_sink >= BUSY_CORES => "sink",
            _ => "neither",
        },
        shared_core,
        against: result.map(|(file, value)| compare(file, &value, &report, args.factor)).transpose()?,
        run: report,
    };
    print(load.json.as_deref(), &test)?;
    Ok(test.run.errors_count == 0 && test.against.is_none_or(|against| against.enough))
}

/// Puts the two on cores of their own where there are some: the sink's, and whether one has to do for both.
fn place(load: &mut LoadArgs, wanted: Option<&Cores>) -> Result<(Cores, bool), RunError> {
    let available = available_cores()?;
    let of_sink = wanted.map_or_else(|| available[..1].to_vec(), Cores::to_vec);
    let rest: Vec<usize> = available.into_iter().filter(|core| !of_sink.contains(core)).collect();
    let of_load = match &load.cpu {
        Some(cores) => cores.to_vec(),
        None if rest.is_empty() => of_sink.clone(),
        None => rest,
    };
    let shared = of_load.iter().any(|core| of_sink.contains(core));
    load.cpu = Some(Cores::new(of_load));
    Ok((Cores::new(of_sink), shared))
}

fn read(path: &Path) -> Result<(String, Value), RunError> {
    let text = fs::read_to_string(path).map_err(|error| RunError::file(path, error))?;
    let value = serde_json::from_str(&text)
        .map_err(|error| RunError::file(path, io::Error::new(io::ErrorKind::InvalidData, error)))?;
    Ok((path.display().to_string(), value))
}

/// What has to be the same in both runs for their messages a second to be compared.
const SAME: [&str; 10] = [
    "connections",
    "threads",
    "size",
    "recipients",
    "transfer",
    "chunk",
    "body",
    "smtputf8",
    "pipelining",
    "messages_per_connection",
];

fn compare(file: String, result: &Value, report: &Report, factor: f64) -> Result<Against, RunError> {
    let not_a_result = || RunError::Usage(format!("{file}: is not what `loadgen run --json` writes"));
    let messages_per_sec =
        result["messages_per_sec"].as_f64().filter(|rate| *rate > 0.0).ok_or_else(not_a_result)?;
    let own = serde_json::to_value(&report.setup).map_err(io::Error::other)?;
    for name in SAME {
        if result["setup"][name] != own[name] {
            return Err(RunError::Usage(format!(
                "{file}: was measured with {name} {}, this with {}: give both the same options",
                result["setup"][name], own[name]
            )));
        }
    }
    let ratio = report.messages_per_sec / messages_per_sec;
    Ok(Against { file, messages_per_sec, ratio, factor, enough: ratio >= factor })
}

impl Display for SelfTest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.run)?;
        writeln!(
            f,
            "ceiling     {:.0} messages/s; generator {:.2} us CPU a message, {:.2} cores; sink {:.2} us, {:.2} cores",
            self.ceiling_messages_per_sec,
            self.cpu_us_per_message,
            self.cpu_cores,
            self.sink_cpu_us_per_message,
            self.sink_cpu_cores,
        )?;
        match self.bottleneck {
            "generator" => write!(f, "            the generator had no more to give: it is its ceiling")?,
            "sink" => {
                write!(f, "            the sink had no more to give: the generator's own ceiling is higher")?
            }
            _ => write!(f, "            neither was busy all the time: more connections may give more")?,
        }
        if self.shared_core {
            write!(f, "\n            both were on one core: with one for each it is higher")?;
        }
        if let Some(Against { file, messages_per_sec, ratio, factor, enough }) = &self.against {
            let verdict = if *enough { "enough" } else { "NOT enough: that result may be the generator's" };
            write!(
                f,
                "\n{file}: {messages_per_sec:.0} messages/s; ceiling / that {ratio:.2}, {factor} needed: {verdict}"
            )?;
        }
        Ok(())
    }
}
