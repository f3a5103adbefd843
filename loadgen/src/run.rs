//! `loadgen run`: threads, signals, the progress bar, the report.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ringmx_ring::{BindError, Options, SetupError, Uring, pin_to_core};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::client::Pipelining;
use crate::corpus::{self, CorpusError};
use crate::hgrm;
use crate::ledger::Ledger;
use crate::options::{FailOn, RunArgs, Size, TlsArg};
use crate::pace::Pace;
use crate::process::{cpu_secs, raise_descriptor_limit};
use crate::report::{Report, Setup, SizesOf};
use crate::secure::{Begin, Terms};
use crate::slot::Orders;
use crate::stats::Stats;
use crate::worker::{Assignment, Control, Live, Worker};
use crate::workload::{Contents, Recipe, TooSmall, Transfer, Workload};

/// Replies are short; what does not fit into one buffer comes in the next.
const RING: Options = Options { entries: 4096, buffers_count: 2048, buffer_len: 2048 };
/// Descriptors besides the connections.
const DESCRIPTORS_SPARE: u64 = 64;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

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
    /// What was asked for makes no sense, as opposed to: it could not be done.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::TooSmall(_) | Self::Corpus(_) | Self::Resolve { .. })
    }
}

/// Carries a run out. True: fine, as far as `--fail-on` wants to know.
pub fn run(args: &RunArgs) -> Result<bool, RunError> {
    args.validate().map_err(RunError::Usage)?;
    let server = resolve(&args.server)?;
    let workload = Arc::new(Workload::new(&recipe(args)?)?);
    check_descriptors(args.connections)?;
    let control = Arc::new(Control::default());
    for signal in [SIGINT, SIGTERM] {
        // The second one ends the program at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&control.interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&control.interrupted))?;
    }
    let run = run_number();
    let threads_count = args.threads.min(args.connections);
    let (started, cpu_before) = (Instant::now(), cpu_secs());
    let mut threads = Vec::new();
    let tls = tls(args)?;
    for index in 0..threads_count {
        let orders = orders(args, index, threads_count, run, &workload, tls.as_ref())?;
        threads.push(spawn(args, index, server, orders, started, &control)?);
    }
    show_progress(args, &threads, started);
    let mut stats = Stats::default();
    let mut failure = None;
    for (thread, _) in threads {
        match thread.join() {
            Ok(Ok(measured)) => stats.merge(&measured),
            Ok(Err(error)) => failure = Some(error),
            Err(_) => failure = Some(RunError::Panicked),
        }
    }
    let (cpu_secs, wall_secs) = (cpu_secs() - cpu_before, started.elapsed().as_secs_f64());
    let interrupted = control.interrupted.load(Ordering::Relaxed);
    let report =
        Report::new(setup(args, threads_count, run, &workload), &stats, cpu_secs, wall_secs, interrupted);
    if let Some(directory) = &args.hgrm {
        hgrm::write(directory, &stats)
            .map_err(|error| RunError::File { path: directory.display().to_string(), error })?;
    }
    print(args.json.as_deref(), &report)?;
    match failure {
        Some(error) => Err(error),
        None => Ok(args.fail_on == FailOn::Nothing || report.errors_count == 0),
    }
}

/// What the run sends.
fn recipe(args: &RunArgs) -> Result<Recipe, RunError> {
    let octets = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
    let contents = match (&args.corpus, args.size) {
        (Some(directory), _) => Contents::Files(corpus::load(directory, args.is_eight_bit())?),
        (None, Size::Fixed(len)) => Contents::Fixed(octets(len)),
        (None, Size::LogNormal { median, sigma }) => Contents::LogNormal { median: median as f64, sigma },
    };
    let transfer = match (args.bdat, args.chunk) {
        (false, _) => Transfer::Data,
        (true, chunk) => Transfer::Bdat { chunk_len: chunk.map_or(usize::MAX, octets) },
    };
    Ok(Recipe {
        helo: args.helo.clone(),
        reverse_path: args.reverse_path().to_owned(),
        forward_paths: args.forward_paths(),
        contents,
        transfer,
        eight_bit: args.is_eight_bit(),
        utf8: args.smtputf8,
        seed: args.seed,
        now: SystemTime::now(),
    })
}

fn resolve(server: &str) -> Result<SocketAddr, RunError> {
    let failed = |error| RunError::Resolve { server: server.to_owned(), error };
    let mut addresses = server.to_socket_addrs().map_err(failed)?;
    addresses.next().ok_or_else(|| failed(io::Error::other("no address")))
}

fn check_descriptors(connections_count: u32) -> Result<(), RunError> {
    let needed = u64::from(connections_count) + DESCRIPTORS_SPARE;
    let limit = raise_descriptor_limit(needed);
    if limit >= needed {
        return Ok(());
    }
    Err(RunError::Usage(format!(
        "{connections_count} connections need {needed} descriptors, and the limit is {limit}: raise it (`ulimit -Hn`)"
    )))
}

/// What all threads have in common, so that one resumes what another began.
fn tls(args: &RunArgs) -> Result<Option<Terms>, RunError> {
    let Some(when) = args.tls else { return Ok(None) };
    let begin = match when {
        TlsArg::Starttls => Begin::StartTls,
        TlsArg::Implicit => Begin::AtOnce,
    };
    Terms::new(begin, &args.tls_name, args.tls_resume, args.tls_1_2).map(Some).map_err(RunError::Usage)
}

/// One thread's share.
fn orders(
    args: &RunArgs,
    index: u32,
    threads_count: u32,
    run: u64,
    workload: &Arc<Workload>,
    tls: Option<&Terms>,
) -> Result<Orders, RunError> {
    let share =
        |index: u32| args.connections / threads_count * index + index.min(args.connections % threads_count);
    let end_at = args.duration_max().map(|duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    let open_ledger = |path: &Path| {
        Ledger::open(path, args.ledger_sync)
            .map_err(|error| RunError::File { path: path.display().to_string(), error })
    };
    let mut pace = Pace::share(index, threads_count, args.messages, end_at, args.rate);
    if args.poisson {
        pace = pace.poisson(run.wrapping_add(u64::from(index) << 32));
    }
    Ok(Orders {
        run,
        first_connection: share(index),
        connections_count: share(index + 1) - share(index),
        pipelining: args.pipelining(),
        sources: args.source.as_ref().map_or_else(Vec::new, |sources| sources.addresses().to_vec()),
        tls: tls.cloned(),
        messages_per_connection: args.messages_per_connection,
        reply_timeout: args.timeout,
        workload: Arc::clone(workload),
        pace,
        ledger: args.ledger.as_deref().map(open_ledger).transpose()?,
    })
}

type Thread = (JoinHandle<Result<Stats, RunError>>, Arc<Live>);

fn spawn(
    args: &RunArgs,
    index: u32,
    server: SocketAddr,
    orders: Orders,
    started: Instant,
    control: &Arc<Control>,
) -> Result<Thread, RunError> {
    let live = Arc::new(Live::default());
    let core = args.cpu.as_ref().map(|cores| cores.of(index as usize));
    let assignment = Assignment {
        server,
        orders,
        started,
        fail_fast: args.fail_fast,
        control: Arc::clone(control),
        live: Arc::clone(&live),
    };
    let control = Arc::clone(control);
    let work = move || {
        let result = work(core, assignment);
        // One thread less is another load than the one asked for: the run ends.
        control.failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    };
    let thread = std::thread::Builder::new().name(format!("loadgen-{index}")).spawn(work)?;
    Ok((thread, live))
}

fn work(core: Option<usize>, assignment: Assignment) -> Result<Stats, RunError> {
    if let Some(core) = core {
        pin_to_core(core).map_err(|error| RunError::Pin { core, error })?;
    }
    // The ring belongs to the thread that makes it.
    let mut ring = Uring::new(RING)?;
    Ok(Worker::run(&mut ring, assignment)?)
}

/// Waits for the threads to end; meanwhile, on a terminal, shows how far they are.
fn show_progress(args: &RunArgs, threads: &[Thread], started: Instant) {
    let bar = progress_bar(args);
    while threads.iter().any(|(thread, _)| !thread.is_finished()) {
        // Ends early when a thread does: a short run is not made longer by its display.
        for _ in 0..PROGRESS_INTERVAL.as_millis() / 10 {
            if threads.iter().all(|(thread, _)| thread.is_finished()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if bar.is_hidden() {
            continue;
        }
        let sum = |count: fn(&Live) -> u64| threads.iter().map(|(_, live)| count(live)).sum::<u64>();
        let accepted = sum(|live| live.accepted.load(Ordering::Relaxed));
        let errors = sum(|live| live.errors.load(Ordering::Relaxed));
        let open = sum(|live| live.open.load(Ordering::Relaxed));
        let elapsed = started.elapsed();
        let rate = accepted as f64 / elapsed.as_secs_f64();
        let position = if args.messages.is_some() { accepted } else { elapsed.as_millis() as u64 };
        bar.set_position(position);
        bar.set_message(format!(
            "{accepted} accepted, {rate:.0} messages/s, {open} connections, {errors} errors"
        ));
    }
    bar.finish_and_clear();
}

fn progress_bar(args: &RunArgs) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let duration_ms = args.duration_max().map_or(0, |duration| duration.as_millis() as u64);
    let len = args.messages.unwrap_or(duration_ms);
    let style = ProgressStyle::with_template("{elapsed:>4} {bar:30} {msg}").expect("a valid template");
    ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr()).with_style(style)
}

fn print(json: Option<&Path>, report: &Report) -> Result<(), RunError> {
    let text = match json {
        Some(path) => {
            let mut text = serde_json::to_string_pretty(report).map_err(io::Error::other)?;
            text.push('\n');
            if path == Path::new("-") {
                return Ok(io::stdout().write_all(text.as_bytes())?);
            }
            fs::write(path, text)
                .map_err(|error| RunError::File { path: path.display().to_string(), error })?;
            report.to_string()
        }
        None => report.to_string(),
    };
    Ok(writeln!(io::stdout(), "{text}")?)
}

fn setup(args: &RunArgs, threads: u32, run: u64, workload: &Workload) -> Setup {
    let spread = workload.spread();
    Setup {
        server: args.server.clone(),
        connections: args.connections,
        threads,
        size: spread.mean.round() as u64,
        sizes: SizesOf {
            from: match (&args.corpus, args.size) {
                (Some(_), _) => "corpus",
                (None, Size::Fixed(_)) => "fixed",
                (None, Size::LogNormal { .. }) => "lognormal",
            },
            count: spread.count,
            least: spread.least,
            most: spread.most,
        },
        recipients: args.forward_paths().len(),
        transfer: if args.bdat { "bdat" } else { "data" },
        chunk: args.chunk,
        body: if args.is_eight_bit() { "8bitmime" } else { "7bit" },
        smtputf8: args.smtputf8,
        pipelining: match args.pipelining() {
            Pipelining::Offered => "where offered",
            Pipelining::Required => "on",
            Pipelining::Off => "off",
        },
        tls: match args.tls {
            None => "off",
            Some(TlsArg::Starttls) => "starttls",
            Some(TlsArg::Implicit) => "implicit",
        },
        arrivals: if args.rate.is_some() { "open" } else { "closed" },
        poisson: args.poisson,
        rate: args.rate,
        messages_per_connection: args.messages_per_connection,
        run: format!("{run:016x}"),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// Names the run: microseconds since 1970 and the process, so that two runs differ.
fn run_number() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since_1970.as_micros() as u64) << 12 | u64::from(std::process::id() & 0xfff)
}
