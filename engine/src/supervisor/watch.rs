//! The main thread while the server runs: readiness, signals, changes of listeners, certificates that are renewed.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGHUP;

use super::{Notice, ServeError, raise_descriptor_limit, system};
use crate::admin::control::{Command, Verb};
use crate::config::Config;
use crate::limits::{CERTIFICATE_RENEWAL_TIME_MAX, PORTS_COUNT_MAX, TURN_TIME_MAX};
use crate::readiness::{Obstacle, Readiness, Warning};
use crate::reload::{Requests, Takeover};
use crate::server::{ChangeSender, Listeners, Watch as PortWatch, WatchOptions};
use crate::spool::record::content_len_max;
use crate::stats::WorkerStats;
use crate::store::{Keeper, Room};
use crate::systemd;
use crate::tls::Renewal;

/// How often readiness is judged anew, and the files of certificates looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
// A change is seen at one look and read at the next; reading takes its part of the time, too.
const _: () = assert!(4 * WATCH_INTERVAL.as_millis() <= CERTIFICATE_RENEWAL_TIME_MAX.as_millis());

/// What readiness depends on while the server runs.
pub(super) struct Watch<'a> {
    pub(super) readiness: &'a Readiness,
    pub(super) keeper: &'a Keeper,
    pub(super) stats: &'a [Arc<WorkerStats>],
    /// As it is now.
    pub(super) config: Config,
    /// Octets of content that a segment of the spool has room for.
    pub(super) spool_content_max: u64,
    pub(super) reloads: &'a Requests,
    pub(super) renewal: Renewal,
    pub(super) listeners: Listeners,
    pub(super) changes: Vec<ChangeSender>,
    pub(super) commanded: Receiver<Command>,
}

impl Watch<'_> {
    /// Proves that the addresses are ours; then somebody looks again until what is returned is dropped.
    pub(super) fn prove(&self, proof: WatchOptions) -> Result<PortWatch, ServeError> {
        proof.look()?;
        PortWatch::start(proof).map_err(system("cannot start the watch over the addresses"))
    }

    /// Returns when the server is to stop.
    pub(super) fn until_end(
        &mut self,
        notices: &Receiver<Notice>,
        looking: &PortWatch,
    ) -> Result<(), ServeError> {
        loop {
            self.judge();
            while let Ok(Command { verb, answer }) = self.commanded.try_recv() {
                let done = self.change(&verb);
                looking.poke();
                // Whoever asked may be gone.
                let _ = answer.send(done);
            }
            match notices.recv_timeout(WATCH_INTERVAL) {
                Ok(Notice::Signal(SIGHUP)) => self.reloads.ask(),
                Ok(Notice::Takeover(takeover)) => {
                    self.take_over(*takeover);
                    looking.poke();
                }
                Ok(Notice::Signal(signal)) => {
                    tracing::info!(signal, "stopping: no new mail; sessions may finish theirs");
                    return Ok(());
                }
                Ok(Notice::WorkerEnded(result)) => {
                    self.readiness.set(Obstacle::WorkerFailed);
                    let error = result.err().unwrap_or_else(|| io::Error::other("without a reason"));
                    tracing::error!(%error, "a worker ended");
                    return Err(ServeError::WorkerEnded(error));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.renewal.look(Instant::now());
        }
    }

    /// Adds or removes an address, until the configuration is read again.
    fn change(&mut self, verb: &Verb) -> Result<String, String> {
        let mut config = self.config.clone();
        let done = change_config(&mut config, verb)?;
        self.apply(config, || ())?;
        tracing::info!(done, "changed by `ringmx listener`");
        Ok(done)
    }

    /// Makes the listeners what another configuration says, once its rules are in force.
    fn take_over(&mut self, takeover: Takeover) {
        let Takeover { config, prepared, published, applied } = takeover;
        let ready = || {
            drop(prepared.send(Ok(())));
            // It ends without a word.
            let _ = published.recv();
        };
        if let Err(why) = self.apply(Config::clone(&config), ready) {
            drop(prepared.send(Err(why)));
        }
        drop(applied);
    }

    /// Reads certificates and binds what is new, waits until the rest is `ready`, and offers it.
    fn apply(&mut self, config: Config, ready: impl FnOnce()) -> Result<(), String> {
        if content_max(&config, &self.config) > self.spool_content_max {
            return Err(format!(
                "a listener's max_message_size is beyond the {} octets that the segments of the spool were made for; \
                 restart to raise it",
                self.spool_content_max
            ));
        }
        let renewed = self.renewal.prepare(&config).map_err(|error| error.to_string())?;
        let bound = self.listeners.prepare(&config, &renewed.certified);
        let bound = bound.map_err(|error| ServeError::from(error).to_string())?;
        raise_descriptor_limit(&config);
        ready();
        self.renewal.commit(renewed);
        let latch = self.listeners.apply(bound, &self.changes);
        let began_at = Instant::now();
        while !latch.is_open() && began_at.elapsed() < TURN_TIME_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.config = config;
        Ok(())
    }

    fn judge(&self) {
        let is_proved = self.readiness.obstacles().all(|obstacle| obstacle != Obstacle::PortLost);
        if is_proved && self.readiness.clear(Obstacle::Starting) {
            let Config { workers, spool, .. } = &self.config;
            tracing::info!(workers, durability = %spool.durability, "ready");
            systemd::notify("READY=1");
        }
        self.readiness.warn(Warning::CertificatesStale, self.renewal.tls().is_stale());
        self.set(Obstacle::SpoolFull, !self.keeper.state().is_healthy());
        self.set(Obstacle::SpoolLow, self.keeper.state().storage().room() > Room::Plenty);
        self.set(Obstacle::MemoryFull, self.stats.iter().any(|stats| stats.memory_full_now.get() > 0));
        self.set(Obstacle::ShardFailed, self.stats.iter().any(|stats| stats.shards_failed.get() > 0));
    }

    fn set(&self, obstacle: Obstacle, there: bool) {
        let changed = if there { self.readiness.set(obstacle) } else { self.readiness.clear(obstacle) };
        if changed && there {
            tracing::error!(reason = obstacle.text(), "not ready");
        } else if changed {
            tracing::info!(reason = obstacle.text(), "over");
        }
    }
}

fn change_config(config: &mut Config, verb: &Verb) -> Result<String, String> {
    let of_address = |config: &Config, address| {
        config.listeners.iter().position(|listener| listener.bind.contains(address))
    };
    match verb {
        Verb::AddAddress { listener: name, address } => {
            if let Some(index) = of_address(config, address).filter(|_| address.port() != 0) {
                return Err(format!(
                    "the listener `{}` binds {address} already",
                    config.listeners[index].name
                ));
            }
            let names: Vec<_> = config.listeners.iter().map(|listener| listener.name.clone()).collect();
            let known = config.listeners.iter_mut().find(|listener| listener.name == *name);
            let unknown = || format!("there is no listener `{name}`; there are {}", names.join(", "));
            known.ok_or_else(unknown)?.bind.push(*address);
            if config.listeners.iter().map(|listener| listener.bind.len()).sum::<usize>() > PORTS_COUNT_MAX {
                return Err(format!("there are {PORTS_COUNT_MAX} addresses already"));
            }
            Ok(format!("the listener `{name}` listens on {address} too"))
        }
        Verb::RemoveAddress(address) => {
            let none = || format!("no listener binds {address} (`ringmx listener ls`)");
            let index = of_address(config, address).ok_or_else(none)?;
            let listener = &mut config.listeners[index];
            listener.bind.retain(|bound| bound != address);
            Ok(format!("the listener `{}` listens no longer on {address}", listener.name))
        }
    }
}

/// Octets of content in one record, with the spool that the server `started` with.
pub(super) fn content_max(config: &Config, started: &Config) -> u64 {
    let largest = config.listeners.iter().map(|listener| listener.max_message_size).max().unwrap_or_default();
    content_len_max(started.spool.inline_size).min(largest)
}
