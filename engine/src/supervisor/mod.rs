//! The main thread: binds, opens the spool, starts every thread, waits for a signal ([`watch`]), and stops in order.

mod watch;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use ringmx_ring::{BindError, Listening, available_cores};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin::control::{self, ControlHandles, SpoolMode};
use crate::config::Config;
use crate::egress::{self, EgressError, Router};
use crate::limits::EVENTS_COUNT_MAX;
use crate::policy::Policy;
use crate::privileges::{Identity, PrivilegeError, become_for_good, to_become};
use crate::readiness::{Obstacle, Readiness};
use crate::reload::{Owner, Reloader, Requests, RulePlaces, Takeover};
use crate::server::{
    Helper, Listeners, Publisher, Unproven, Visitors, WatchOptions, Workers, WorkersError, WorkersOptions,
    who_listens,
};
use crate::store::{Keeper, Marks, ShardFeed, ShardHandles, Spool, SpoolOptions, StoreError, Writes};
use crate::systemd::{self, Handed};
use crate::tls::{Renewal, TlsError};

use watch::{Watch, content_max};

/// Descriptors besides those of connections: sockets, segments, Maildir files.
const OTHER_DESCRIPTORS_COUNT: u64 = 1024;
/// Why the server did not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Bind(BindError),
    #[error("{address} is taken: {by}; stop it, or bind another address")]
    Taken { address: SocketAddr, by: String },
    #[error("{0}")]
    Admin(#[source] io::Error),
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    #[error("{address} was handed in by the service manager, and no listener binds it: add it to a `bind`")]
    NotConfigured { address: SocketAddr },
    #[error(
        "{address} was handed in by the service manager for the listener `{name}`, which does not bind it: \
         add it to its `bind`, or give the socket the name of another (FileDescriptorName=)"
    )]
    NotOfListener { address: SocketAddr, name: String },
    #[error("{0}; find what comes between (packet filter, another server, a proxy) and start again")]
    Unproven(#[from] Unproven),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error(transparent)]
    Workers(#[from] WorkersError),
    #[error("a worker ended: {0}")]
    WorkerEnded(#[source] io::Error),
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::System { what, source }
}

impl From<BindError> for ServeError {
    fn from(error: BindError) -> Self {
        match error {
            BindError::Taken { address } => Self::Taken { address, by: who_listens(address) },
            error => Self::Bind(error),
        }
    }
}

type Taken = (Renewal, Listeners, Option<TcpListener>);

/// What the main thread waits for.
enum Notice {
    Signal(i32),
    WorkerEnded(io::Result<()>),
    /// Another configuration wants to be in force.
    Takeover(Box<Takeover>),
}

/// Serves until SIGTERM or SIGINT, then drains. `path`: the file that `config` came from, which a reload reads again.
///
/// # Errors
/// Whatever keeps it from serving; then nothing is left running.
pub fn run(config: Config, path: Option<&Path>) -> Result<(), ServeError> {
    let cores = cores_for(config.workers)?;
    raise_descriptor_limit(&config);
    // Everything that can be taken by somebody else comes first.
    let (renewal, listeners, admin) = take_addresses(&config)?;
    let (writes, keeper, shards, feeds) = open_spool(&config)?;
    let kept = Arc::new(config.without_lists());
    let egress = egress::start(feeds, Arc::clone(&kept), config.workers.div_ceil(2))?;

    let (notify, notices) = watch_signals()?;
    let owner = owner(notify.clone());
    let (publisher, places) = publish(&config);
    // The first lists live as long as their policy.
    drop(config);
    let visitors = Arc::new(Visitors::default());
    let options = workers_options(&kept, &listeners, &visitors, &publisher, &cores);
    let ended = move |result| drop(notify.send(Notice::WorkerEnded(result)));
    let reader = |shard| egress.doorbell(shard).expect("the spool gives a feed for each shard with handles");
    let mut workers = Workers::start(shards, reader, &options, ended)?;

    let ((commands, commanded), stop_control) = (channel(), control::Stop::default());
    let (readiness, tls) = (Arc::new(Readiness::new()), Arc::clone(renewal.tls()));
    let (reloads, reloading) =
        start_reloads(&kept, path, publisher, &places, &workers, (owner, egress.router()))?;
    let control = control::spawn(ControlHandles {
        worker_stats: workers.stats.clone(),
        events: workers.events.clone(),
        places,
        reloads: reloads.clone(),
        admin,
        control: bind_control(&kept),
        commands,
        egress: egress.router(),
        readiness: Arc::clone(&readiness),
        spool: SpoolMode::new(&kept, writes),
        board: Arc::clone(listeners.board()),
        visitors: Arc::clone(&visitors),
        delivery_stats: egress.stats().to_vec(),
        told: Arc::clone(egress.events_stats()),
        keeper: Arc::clone(keeper.state()),
        tls,
        stop: stop_control.clone(),
    })
    .map_err(system("cannot start the control thread"))?;
    let proof = proof(&kept, &listeners, visitors, &readiness);
    let mut watch = Watch {
        readiness: &readiness,
        keeper: &keeper,
        stats: &workers.stats,
        spool_content_max: content_max(&kept, &kept),
        config: Config::clone(&kept),
        reloads: &reloads,
        renewal,
        listeners,
        changes: workers.change_senders(),
        commanded,
    };
    let ended = watch.prove(proof).and_then(|looking| watch.until_end(&notices, &looking));
    // A reload that waits for its takeover ends here.
    drop(notices);
    systemd::notify("STOPPING=1");
    readiness.set(Obstacle::Draining);
    workers.stop();
    egress.stop();
    drop((keeper, reloads));
    stop_control.stop();
    check_end("control", matches!(control.join(), Ok(Ok(()))));
    check_end("reload", reloading.join().is_ok());
    ended
}

fn workers_options<'a>(
    config: &Config,
    listeners: &'a Listeners,
    visitors: &'a Arc<Visitors>,
    publisher: &'a Publisher,
    cores: &'a [usize],
) -> WorkersOptions<'a> {
    WorkersOptions {
        listeners,
        visitors,
        policy: publisher.published(),
        cores,
        memory_len_max: usize::try_from(config.spool.memory).unwrap_or(usize::MAX),
        inline_len_max: usize::try_from(config.spool.inline_size).unwrap_or(usize::MAX),
        events_count_max: EVENTS_COUNT_MAX,
        async_interval: config.spool.async_interval,
        drain_time: config.timeouts.drain,
    }
}

/// Leads here: the main thread owns the listeners.
fn owner(notify: Sender<Notice>) -> Owner {
    Owner(Box::new(move |takeover| drop(notify.send(Notice::Takeover(Box::new(takeover))))))
}

fn check_end(thread: &str, is_well: bool) {
    if !is_well {
        tracing::error!(thread, "a thread did not end well");
    }
}

fn proof(
    config: &Config,
    listeners: &Listeners,
    visitors: Arc<Visitors>,
    readiness: &Arc<Readiness>,
) -> WatchOptions {
    let (board, readiness) = (Arc::clone(listeners.board()), Arc::clone(readiness));
    WatchOptions { board, visitors, readiness, interval: config.watch_interval }
}

/// A thread that reads the configuration again when it is asked to.
fn start_reloads(
    config: &Arc<Config>,
    path: Option<&Path>,
    publisher: Publisher,
    places: &Arc<RulePlaces>,
    workers: &Workers,
    (owner, router): (Owner, Router),
) -> Result<(Requests, JoinHandle<()>), ServeError> {
    let reloader = Reloader {
        path: path.map(Path::to_owned),
        started: Arc::clone(config),
        running: Arc::clone(config),
        owner,
        router,
        publisher,
        places: Arc::clone(places),
        stats: workers.stats.clone(),
        stops: workers.stops().collect(),
    };
    reloader.start().map_err(system("cannot start the reload thread"))
}

/// The cores to pin to; none with more workers than cores, where nobody has one alone.
fn cores_for(workers_count: usize) -> Result<Vec<usize>, ServeError> {
    let cores = available_cores().map_err(system("cannot read which cores are available"))?;
    Ok(if workers_count <= cores.len() { cores } else { Vec::new() })
}

/// Reads the keys and binds everything, and gives away the rights that this takes.
fn take_addresses(config: &Config) -> Result<Taken, ServeError> {
    let mut renewal = Renewal::begin(config, Instant::now())?;
    let renewed = renewal.prepare(config)?;
    let mut handed = handed_sockets(config)?;
    let mut listeners = Listeners::bind(config, &renewed.certified, &mut handed)?;
    renewal.commit(renewed);
    if let Some(Listening { address, .. }) = handed.first() {
        return Err(ServeError::NotConfigured { address: *address });
    }
    let admin = config.admin.map(control::bind).transpose().map_err(ServeError::Admin)?;
    give_rights_away(config, &mut listeners)?;
    listeners.log();
    log_admin(admin.as_ref());
    Ok((renewal, listeners, admin))
}

/// What the service manager hands in. A socket with the name of a listener has to be one of that listener's; other
/// names say nothing.
fn handed_sockets(config: &Config) -> Result<Vec<Listening>, ServeError> {
    let handed = systemd::handed_sockets()?;
    for Handed { listening: Listening { address, .. }, name } in &handed {
        let of_name = config.listeners.iter().find(|listener| Some(&listener.name) == name.as_ref());
        if let Some(listener) = of_name.filter(|listener| !listener.bind.contains(address)) {
            return Err(ServeError::NotOfListener { address: *address, name: listener.name.clone() });
        }
    }
    Ok(handed.into_iter().map(|handed| handed.listening).collect())
}

/// The spool with the first segments of each shard.
fn open_spool(config: &Config) -> Result<(Writes, Keeper, Vec<ShardHandles>, Vec<ShardFeed>), ServeError> {
    let spool = Spool::open(spool_options(config))?;
    let writes = spool.writes();
    tracing::info!(path = %config.spool.path.display(), %writes, "spool");
    let (keeper, shards, feeds) = spool.start()?;
    // Without a segment the first clients would be told that there is no room.
    while keeper.state().is_healthy() && shards.iter().any(|shard| shard.ready.is_empty()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((writes, keeper, shards, feeds))
}

/// The first policy.
fn publish(config: &Config) -> (Publisher, Arc<RulePlaces>) {
    let (recipients, rules) = (Arc::clone(&config.recipients.table), Arc::clone(&config.rules));
    let publisher = Publisher::new(Policy { generation: 1, recipients, rules });
    let places = Arc::<RulePlaces>::default();
    places.add(publisher.generation(), config.rules.places());
    (publisher, places)
}

/// Becomes `user`, and lets a helper keep what binding takes. There is one thread yet.
fn give_rights_away(config: &Config, listeners: &mut Listeners) -> Result<(), ServeError> {
    let Some(identity) = to_become(config.user.as_deref(), config.group.as_deref())? else { return Ok(()) };
    let helper = Helper::start(identity.user, identity.group).map_err(PrivilegeError::Helper)?;
    listeners.bind_by(helper);
    become_for_good(&identity)?;
    let Identity { user, group, .. } = identity;
    tracing::info!(user, group, "rights given away; a helper keeps what binding takes");
    Ok(())
}

fn bind_control(config: &Config) -> Option<UnixListener> {
    let bound = control::bind_control(&config.spool.path);
    if let Err(error) = &bound {
        tracing::warn!(%error, "no control socket in the spool: `ringmx listener` cannot ask this server");
    }
    bound.ok()
}

fn log_admin(admin: Option<&TcpListener>) {
    if let Some(address) = admin.and_then(|admin| admin.local_addr().ok()) {
        tracing::info!(%address, "admin HTTP");
    }
}

fn spool_options(config: &Config) -> SpoolOptions {
    let record_content_max = content_max(config, config);
    let options = SpoolOptions::new(&config.spool.path, config.workers as u16, record_content_max);
    let (segment_size, retention) = (config.spool.segment_size, config.spool.retention);
    let marks = Marks { free_min: config.spool.min_free };
    SpoolOptions { segment_size, retention, marks, ..options }
}

/// A thread that turns signals into notices.
fn watch_signals() -> Result<(Sender<Notice>, Receiver<Notice>), ServeError> {
    let (notify, notices) = channel();
    let notifying = notify.clone();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(system("cannot handle signals"))?;
    let mut body = move || signals.forever().all(|signal| notifying.send(Notice::Signal(signal)).is_ok());
    let spawned = Builder::new().name("signals".into()).spawn(move || {
        body();
    });
    spawned.map(|_| (notify, notices)).map_err(system("cannot start the signal thread"))
}

/// Each connection is a descriptor. Raises the process's limit to what the configuration may need, or says how far it
/// got.
fn raise_descriptor_limit(config: &Config) {
    let connections: usize = config.listeners.iter().map(|listener| listener.connections_max).sum();
    // Each may have a file for its content, too.
    let wanted = 2 * (connections * config.workers) as u64 + OTHER_DESCRIPTORS_COUNT;
    let limit = getrlimit(Resource::Nofile);
    // No limit, or enough.
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum.map(|maximum| maximum.max(wanted)) };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return;
    }
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let got = if setrlimit(Resource::Nofile, most).is_ok() { limit.maximum } else { limit.current };
    if got.is_none_or(|got| got >= wanted) {
        return;
    }
    tracing::warn!(
        wanted,
        got = got.unwrap_or_default(),
        "fewer descriptors than two for each of connections_max * workers: connections beyond are refused; raise the \
         hard limit (ulimit -Hn, systemd LimitNOFILE=) or lower connections_max"
    );
}
