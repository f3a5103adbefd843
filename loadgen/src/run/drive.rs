//! Threads, signals, and what they measured together.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use ringmx_ring::{Options, Uring, pin_to_core};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{RunError, progress, setup};
use crate::crew::Crew;
use crate::fleet::Fleet;
use crate::hgrm;
use crate::html;
use crate::ledger::Ledger;
use crate::mischief::{Gang, Kind, Plan, Tally};
use crate::options::LoadArgs;
use crate::pace::Pace;
use crate::process::{cpu_secs, raise_descriptor_limit};
use crate::report::Report;
use crate::secure::Terms;
use crate::slot::Orders;
use crate::stats::Stats;
use crate::timeline::Timeline;
use crate::worker::{Assignment, Control, Live, Worker};
use crate::workload::Workload;

/// Replies are short; what does not fit into one buffer comes in the next.
const RING: Options = Options { entries: 4096, buffers_count: 2048, buffer_len: 2048 };
/// Descriptors besides the connections.
const DESCRIPTORS_SPARE: u64 = 64;

/// What a load came to.
pub(crate) struct Driven {
    pub(crate) stats: Stats,
    misbehaving: Vec<Tally>,
    timeline: Timeline,
    /// Of this process, for the run; and how long that was.
    pub(crate) cpu_secs: f64,
    pub(crate) wall_secs: f64,
    interrupted: bool,
    run: u64,
    threads_count: u32,
    workload: Arc<Workload>,
    /// Why it ended before its time, where it did.
    pub(crate) failure: Option<RunError>,
}

impl Driven {
    /// `cpu_secs`: of it, the generator's.
    pub(crate) fn report(&self, server: &str, args: &LoadArgs, cpu_secs: f64) -> Report {
        let setup = setup::setup(server, args, self.threads_count, self.run, &self.workload);
        let mut report = Report::new(setup, &self.stats, cpu_secs, self.wall_secs, self.interrupted);
        report.misbehaving.clone_from(&self.misbehaving);
        report.timeline = self.timeline.rates();
        report
    }

    /// Writes what was asked for besides the report.
    pub(crate) fn write_files(&self, args: &LoadArgs, report: &Report) -> Result<(), RunError> {
        if let Some(directory) = &args.hgrm {
            hgrm::write(directory, &self.stats).map_err(|error| RunError::file(directory, error))?;
        }
        if let Some(path) = &args.html {
            std::fs::write(path, html::page(report, &self.stats))
                .map_err(|error| RunError::file(path, error))?;
        }
        Ok(())
    }
}

/// Puts the load on the server until it is over, or somebody interrupts it.
pub(crate) fn drive(server: SocketAddr, args: &LoadArgs) -> Result<Driven, RunError> {
    args.validate().map_err(RunError::Usage)?;
    let workload = Arc::new(Workload::new(&setup::recipe(args)?)?);
    check_descriptors(args.connections)?;
    let control = Arc::new(Control::default());
    for signal in [SIGINT, SIGTERM] {
        // The second one ends the program at once.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&control.interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&control.interrupted))?;
    }
    let run = setup::run_number();
    let counts = args.misbehave.as_ref().map(|shares| shares.of(args.connections)).transpose();
    let counts = counts.map_err(RunError::Usage)?.unwrap_or_default();
    let connections = args.connections - counts.iter().map(|&(_, count)| count).sum::<u32>();
    let threads_count = args.threads.min(connections);
    let tls = setup::tls(args)?;
    let (started, cpu_before) = (Instant::now(), cpu_secs());
    let crowd = Crowd { args, server, started, control: &control };
    let mut threads = Vec::new();
    for index in 0..threads_count {
        let orders = orders(args, index, threads_count, (connections, run), &workload, tls.as_ref())?;
        threads.push(crowd.spawn(index, Fleet::new(orders))?);
    }
    let gang = match counts.is_empty() {
        true => None,
        false => Some(crowd.spawn(threads_count, Gang::new(plan(args, run, connections, counts)?))?),
    };
    let timeline = progress::show(args, &threads, started, (cpu_before, gang.as_ref()));
    control.finished.store(true, Ordering::Relaxed);
    let (mut stats, mut misbehaving, mut failure) = (Stats::default(), Vec::new(), None);
    for thread in threads {
        match thread.join() {
            Ok(fleet) => stats.merge(&fleet.stats),
            Err(error) => failure = Some(error),
        }
    }
    match gang.map(Thread::join) {
        None => {}
        Some(Ok(gang)) => misbehaving = gang.tallies(),
        Some(Err(error)) => failure = Some(error),
    }
    Ok(Driven {
        stats,
        misbehaving,
        timeline,
        cpu_secs: cpu_secs() - cpu_before,
        wall_secs: started.elapsed().as_secs_f64(),
        interrupted: control.interrupted.load(Ordering::Relaxed),
        run,
        threads_count,
        workload,
        failure,
    })
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

/// What the clients that misbehave are told.
fn plan(
    args: &LoadArgs,
    run: u64,
    first_connection: u32,
    counts: Vec<(Kind, u32)>,
) -> Result<Plan, RunError> {
    Ok(Plan {
        run,
        first_connection,
        counts,
        sources: sources(args),
        reply_timeout: args.timeout,
        workload: Arc::new(Workload::new(&setup::mischief_recipe(args))?),
        drip_after: args.drip_after as usize,
    })
}

fn sources(args: &LoadArgs) -> Vec<IpAddr> {
    args.source.as_ref().map_or_else(Vec::new, |sources| sources.addresses().to_vec())
}

/// One thread's share.
fn orders(
    args: &LoadArgs,
    index: u32,
    threads_count: u32,
    (connections, run): (u32, u64),
    workload: &Arc<Workload>,
    tls: Option<&Terms>,
) -> Result<Orders, RunError> {
    let share = |index: u32| connections / threads_count * index + index.min(connections % threads_count);
    let end_at = args.duration_max().map(|duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    let open_ledger =
        |path: &Path| Ledger::open(path, args.ledger_sync).map_err(|error| RunError::file(path, error));
    let mut pace = Pace::share(index, threads_count, args.messages, end_at, args.profile().as_ref());
    if args.poisson {
        pace = pace.poisson(run.wrapping_add(u64::from(index) << 32));
    }
    Ok(Orders {
        run,
        first_connection: share(index),
        connections_count: share(index + 1) - share(index),
        pipelining: args.pipelining(),
        sources: sources(args),
        tls: tls.cloned(),
        messages_per_connection: args.messages_per_connection,
        reply_timeout: args.timeout,
        workload: Arc::clone(workload),
        pace,
        ledger: args.ledger.as_deref().map(open_ledger).transpose()?,
    })
}

/// A thread that works for a crew, and what it shows meanwhile.
pub(super) struct Thread<C> {
    handle: JoinHandle<Result<C, RunError>>,
    pub(super) live: Arc<Live>,
}

impl<C> Thread<C> {
    pub(super) fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    fn join(self) -> Result<C, RunError> {
        self.handle.join().map_err(|_| RunError::Panicked)?
    }
}

/// What all threads have in common.
struct Crowd<'a> {
    args: &'a LoadArgs,
    server: SocketAddr,
    started: Instant,
    control: &'a Arc<Control>,
}

impl Crowd<'_> {
    fn spawn<C: Crew + Send + 'static>(&self, index: u32, crew: C) -> Result<Thread<C>, RunError> {
        let live = Arc::new(Live::default());
        let core = self.args.cpu.as_ref().map(|cores| cores.of(index as usize));
        let assignment = Assignment {
            server: self.server,
            started: self.started,
            fail_fast: self.args.fail_fast,
            control: Arc::clone(self.control),
            live: Arc::clone(&live),
        };
        let control = Arc::clone(self.control);
        let work = move || {
            let result = work(core, crew, assignment);
            // One thread less is another load than the one asked for: the run ends.
            control.failed.fetch_or(result.is_err(), Ordering::Relaxed);
            result
        };
        let handle = std::thread::Builder::new().name(format!("loadgen-{index}")).spawn(work)?;
        Ok(Thread { handle, live })
    }
}

fn work<C: Crew>(core: Option<usize>, crew: C, assignment: Assignment) -> Result<C, RunError> {
    if let Some(core) = core {
        pin_to_core(core).map_err(|error| RunError::Pin { core, error })?;
    }
    // The ring belongs to the thread that makes it.
    let mut ring = Uring::new(RING)?;
    Ok(Worker::run(&mut ring, crew, assignment)?)
}
