//! The control thread's life: log, answer, until told to stop.

use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use super::http::{self, Answers};
use super::log::EventLog;
pub use super::metrics::SpoolMode;
use super::metrics::{self, Sources};
use crate::egress::{EgressStats, EventsStats, Router};
use crate::event::EventQueue;
use crate::readiness::Readiness;
use crate::reload::{Requests, RulePlaces};
use crate::server::{Board, Visitors, who_listens};
use crate::stats::WorkerStats;
use crate::store::KeeperState;
use crate::tls::ListenersTls;

/// How often the workers' events are looked at; also the longest a stop waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The name of the control socket in the spool: who may open it may change what the server does.
pub const CONTROL_SOCKET: &str = "control";

/// What only the main thread can do.
#[derive(Debug)]
pub struct Command {
    pub verb: Verb,
    /// What was done, or why not, in words.
    pub answer: oneshot::Sender<Result<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Listen on one more address.
    AddAddress {
        listener: String,
        address: SocketAddr,
    },
    RemoveAddress(SocketAddr),
}

/// Tells the control thread to end. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// What the control thread watches.
#[derive(Debug)]
pub struct ControlHandles {
    /// Position is the worker's index, here and in `events`.
    pub worker_stats: Vec<Arc<WorkerStats>>,
    pub events: Vec<EventQueue>,
    /// Where the rules stand that events name.
    pub places: Arc<RulePlaces>,
    /// Where a reload is asked for.
    pub reloads: Requests,
    /// Bound by the caller ([`bind`]), so that an address in use is an error before anything starts.
    pub admin: Option<TcpListener>,
    /// The same for the control socket ([`bind_control`]).
    pub control: Option<UnixListener>,
    pub commands: Sender<Command>,
    /// Where orders for mail that waits are left.
    pub egress: Router,
    pub readiness: Arc<Readiness>,
    pub spool: SpoolMode,
    pub board: Arc<Board>,
    pub visitors: Arc<Visitors>,
    /// By shard.
    pub delivery_stats: Vec<Arc<EgressStats>>,
    /// Of the events stream.
    pub told: Arc<EventsStats>,
    pub keeper: Arc<KeeperState>,
    pub tls: Arc<ListenersTls>,
    pub stop: Stop,
}

impl Stop {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The listener of the admin HTTP.
///
/// # Errors
/// Of the system, with the address and what to do.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => who_listens(address),
            _ => error.to_string(),
        };
        let message = format!("cannot bind the admin HTTP to {address}: {reason}; change bind in [admin]");
        io::Error::new(error.kind(), message)
    })
}

/// The control socket in the spool. One that a former server left there is replaced: the spool is locked by now.
///
/// # Errors
/// Of the system.
pub fn bind_control(spool: &Path) -> io::Result<UnixListener> {
    let path = spool.join(CONTROL_SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Starts the control thread. It ends within 50 ms after [`Stop::stop`], the last events logged.
///
/// # Errors
/// Of the system, when there can be no thread.
pub fn spawn(handles: ControlHandles) -> io::Result<JoinHandle<io::Result<()>>> {
    Builder::new().name("control".to_owned()).spawn(move || run(handles))
}

/// Logs and answers on this thread until told to stop.
///
/// # Errors
/// Of the system, before the first answer; later ones are logged.
pub fn run(handles: ControlHandles) -> io::Result<()> {
    let ControlHandles { worker_stats, events, places, reloads, spool, tls, .. } = handles;
    let ControlHandles { admin, control, commands, egress, readiness, board, visitors, .. } = handles;
    let ControlHandles { delivery_stats, told, keeper, stop, .. } = handles;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let sources = Sources {
        worker_stats,
        events: events.clone(),
        delivery_stats,
        told,
        tls,
        spool,
        board: Arc::clone(&board),
        keeper,
        readiness: Arc::clone(&readiness),
        started_unix_secs: started.as_secs_f64(),
    };
    let registry = metrics::registry(sources);
    let answers = Arc::new(Answers { registry, readiness, board, visitors, reloads });
    let mut log = EventLog::new(events, places);
    runtime.block_on(async {
        if let Some(listener) = control {
            let answers = Arc::clone(&answers);
            tokio::spawn(async {
                if let Err(error) = http::serve_control(listener, answers, commands, egress).await {
                    tracing::error!(%error, "the control socket ended");
                }
            });
        }
        if let Some(listener) = admin {
            tokio::spawn(async {
                if let Err(error) = http::serve(listener, answers).await {
                    tracing::error!(%error, "the admin HTTP ended");
                }
            });
        }
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_set() {
            ticks.tick().await;
            log.drain();
        }
    });
    log.drain();
    // Connections of the admin HTTP that are still open end with the runtime.
    runtime.shutdown_background();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;
    use crate::readiness::Obstacle;

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_while_it_runs_and_ends_when_told() {
        let admin = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = admin.local_addr().unwrap();
        let readiness = Arc::new(Readiness::new());
        let stop = Stop::default();
        let thread = spawn(ControlHandles {
            worker_stats: vec![Arc::default()],
            events: vec![EventQueue::new(8)],
            places: Arc::default(),
            reloads: Requests::nobody(),
            admin: Some(admin),
            control: None,
            commands: std::sync::mpsc::channel().0,
            egress: Router::to_nobody(),
            readiness: Arc::clone(&readiness),
            spool: SpoolMode { durability: crate::config::Durability::None, ..SpoolMode::EXAMPLE },
            board: Arc::new(Board::example()),
            visitors: Arc::default(),
            delivery_stats: Vec::new(),
            told: Arc::default(),
            keeper: Arc::default(),
            tls: Arc::default(),
            stop: stop.clone(),
        })
        .unwrap();
        assert!(ask(address, "/healthz").starts_with("HTTP/1.1 200 OK"));
        let answer = ask(address, "/readyz");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nnot ready: starting: the listeners are not up yet\n"), "{answer}");
        readiness.clear(Obstacle::Starting);
        assert!(ask(address, "/readyz").ends_with("\r\n\r\nready\n"));
        let answer = ask(address, "/metrics");
        assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
        assert!(answer.contains("ringmx_spool_info{durability=\"none\",writes=\"direct\"} 1\n"), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        let answer = ask(address, "/listeners");
        assert!(
            answer.contains("\"address\": \"192.0.2.1:25\"") && answer.contains("\"sealed\""),
            "{answer}"
        );
        assert!(ask(address, "/visitors/x").starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "/").starts_with("HTTP/1.1 404 "));
        // What changes something is not for those who are known by nothing.
        assert!(ask(address, "/reload").starts_with("HTTP/1.1 404 "));

        let taken = bind(address).unwrap_err().to_string();
        assert!(taken.starts_with(&format!("cannot bind the admin HTTP to {address}: ")), "{taken}");
        // An open connection does not keep the thread.
        let _idle = TcpStream::connect(address).unwrap();
        stop.stop();
        thread.join().unwrap().unwrap();
    }
}
