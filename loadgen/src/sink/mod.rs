//! `loadgen sink`: takes mail and discards it. Against it, a run shows the generator's own ceiling.

mod server;
pub mod session;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use ringmx_ring::{AcceptMode, Exclusivity, Options, Request, Uring, listen, pin_to_core};
use signal_hook::consts::{SIGINT, SIGTERM};

use self::server::Server;
pub use self::server::Totals;
use crate::options::SinkArgs;
use crate::process::{cpu_secs, raise_descriptor_limit, thread_cpu_secs};
use crate::run::RunError;

const RING: Options = Options { entries: 4096, buffers_count: 1024, buffer_len: 16 << 10 };

/// Serves until SIGINT or SIGTERM; the first line printed says where.
pub fn run(args: &SinkArgs) -> Result<(), RunError> {
    let running = start(args)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&running.stop))?;
    }
    writeln!(io::stdout(), "listening on {}", running.address)?;
    let Totals { messages_count, connections_count, .. } = running.wait()?;
    let cpu_us = cpu_secs() * 1e6 / messages_count.max(1) as f64;
    writeln!(
        io::stdout(),
        "{messages_count} messages on {connections_count} connections, own CPU {cpu_us:.2} us a message"
    )?;
    Ok(())
}

/// Threads that take mail.
pub struct Running {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Totals, RunError>>>,
}

/// Binds and serves.
pub fn start(args: &SinkArgs) -> Result<Running, RunError> {
    raise_descriptor_limit(u64::from(args.connections_max) * u64::from(args.threads));
    let threads_count = args.threads as usize;
    let request = Request { address: args.bind, threads_count, owner: private_owner(), exclusive: true };
    let listening = listen(&request)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mode = match (listening.exclusivity, args.threads) {
        (Exclusivity::Shared, 2..) => AcceptMode::Single,
        _ => AcceptMode::Multishot,
    };
    let mut threads = Vec::new();
    for index in 0..threads_count {
        let listener = listening.sockets[index % listening.sockets.len()].try_clone()?;
        let core = args.cpu.as_ref().map(|cores| cores.of(index));
        let (stop, args) = (Arc::clone(&stop), (!args.no_pipelining, args.connections_max));
        let work = move || {
            let result = work(core, &listener, mode, args, &stop);
            stop.fetch_or(result.is_err(), Ordering::Relaxed);
            result
        };
        threads.push(std::thread::Builder::new().name(format!("sink-{index}")).spawn(work)?);
    }
    Ok(Running { address: listening.address, stop, threads })
}

impl Running {
    /// Ends it.
    pub fn finish(self) -> Result<Totals, RunError> {
        self.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    fn wait(self) -> Result<Totals, RunError> {
        let mut totals = Totals::default();
        for thread in self.threads {
            let of_thread = thread.join().map_err(|_| RunError::Panicked)??;
            totals.messages_count += of_thread.messages_count;
            totals.connections_count += of_thread.connections_count;
            totals.cpu_secs += of_thread.cpu_secs;
        }
        Ok(totals)
    }
}

/// The owner that seals a group of listening sockets: a number that no user has.
fn private_owner() -> u32 {
    0x7000_0000 | std::process::id()
}

fn work(
    core: Option<usize>,
    listener: &TcpListener,
    mode: AcceptMode,
    (pipelining, connections_max): (bool, u32),
    stop: &AtomicBool,
) -> Result<Totals, RunError> {
    if let Some(core) = core {
        pin_to_core(core).map_err(|error| RunError::Pin { core, error })?;
    }
    let mut ring = Uring::new(RING)?;
    let totals = Server::new(&mut ring, listener, mode, pipelining, connections_max).run(stop)?;
    Ok(Totals { cpu_secs: thread_cpu_secs(), ..totals })
}
