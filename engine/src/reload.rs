//! Takes another configuration over while the server runs: built and checked whole on a thread of its own, then put in
//! the old one's place at once. Whatever is wrong with it leaves the old one in force.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use ringmx_ring::{SmallPages, give_memory_back, give_way_to_all};

use crate::config::{Config, ConfigError, check_file};
use crate::egress::Router;
use crate::limits::TURN_TIME_MAX;
use crate::policy::Policy;
use crate::server::{Publisher, Stop};
use crate::stats::WorkerStats;

/// How often policies that nobody has any more are freed.
const FREE_INTERVAL: Duration = Duration::from_millis(250);
/// Generations whose rules the log can still name.
const NAMED_GENERATIONS_COUNT: usize = 4;

/// Why the old configuration stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("the server runs the built-in quick start, which has no file; start it with --config")]
    NoFile,
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A certificate cannot be used, an address not be bound, or the spool was not made for it.
    #[error("{0}")]
    Listeners(String),
    #[error("worker {0} has not taken the new rules over; it may still use the old ones")]
    Stuck(usize),
    #[error("the server is stopping")]
    Stopping,
}

/// What a reload came to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reloaded {
    pub generation: u32,
    /// Keys of the configuration whose change takes a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Several may have waited for the same reload.
type Answer = Result<Reloaded, Arc<ReloadError>>;

/// Where a reload is asked for. Clones lead to the same place.
#[derive(Clone, Debug)]
pub struct Requests(Sender<Option<Sender<Answer>>>);

/// Where rules of the latest generations stand in their files, for those who tell of them.
#[derive(Debug, Default)]
pub struct RulePlaces(Mutex<BTreeMap<u32, Vec<Box<str>>>>);

/// A configuration on its way to whoever owns the listeners, who binds what is new in it, tells, waits until the rules
/// are in force everywhere, and offers it.
#[derive(Debug)]
pub struct Takeover {
    pub config: Arc<Config>,
    /// Told whether everything is bound, or why not.
    pub prepared: Sender<Result<(), String>>,
    /// Ends when the rules are in force.
    pub published: Receiver<()>,
    /// Dropped when the listeners are as it says.
    pub applied: Sender<()>,
}

/// Leads to the owner of the listeners. What it does not want it drops.
pub struct Owner(pub Box<dyn Fn(Takeover) + Send>);

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owner")
    }
}

/// What a reload works on.
#[derive(Debug)]
pub struct Reloader {
    /// `None` where the configuration came from no file.
    pub path: Option<PathBuf>,
    /// What the server started with, without its lists.
    pub started: Arc<Config>,
    /// What is in force, without its lists.
    pub running: Arc<Config>,
    pub owner: Owner,
    pub router: Router,
    pub publisher: Publisher,
    /// With those of what is in force.
    pub places: Arc<RulePlaces>,
    /// By worker.
    pub stats: Vec<Arc<WorkerStats>>,
    /// By worker.
    pub stops: Vec<Arc<Stop>>,
}

impl Requests {
    /// Leads nowhere: for tests.
    #[cfg(test)]
    pub(crate) fn nobody() -> Self {
        Self(channel().0)
    }

    /// Asks for a reload; its outcome goes to the log.
    pub fn ask(&self) {
        // Nobody listens any more where the server stops.
        drop(self.0.send(None));
    }

    /// Asks for a reload and waits for it.
    ///
    /// # Errors
    /// Why the old configuration stays in force.
    pub fn ask_and_wait(&self) -> Answer {
        let (answer, answers) = channel();
        drop(self.0.send(Some(answer)));
        answers.recv().unwrap_or_else(|_| Err(Arc::new(ReloadError::Stopping)))
    }
}

impl RulePlaces {
    /// The rules of a generation, by number less 1. The oldest known one gives way.
    pub fn add(&self, generation: u32, places: Vec<Box<str>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(generation, places);
        while known.len() > NAMED_GENERATIONS_COUNT {
            known.pop_first();
        }
    }

    /// File and line of a rule.
    pub fn find(&self, generation: u32, rule: u32) -> Option<Box<str>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&generation)?.get((rule as usize).checked_sub(1)?).cloned()
    }
}

impl Reloader {
    /// Starts the thread, which ends when all [`Requests`] are gone.
    ///
    /// # Errors
    /// Of the system.
    pub fn start(mut self) -> io::Result<(Requests, JoinHandle<()>)> {
        let (requests, asked) = channel();
        let thread = Builder::new().name("reload".to_owned()).spawn(move || self.run(&asked))?;
        Ok((Requests(requests), thread))
    }

    fn run(&mut self, asked: &Receiver<Option<Sender<Answer>>>) {
        // A million networks take a good part of a second to build, and there may be no core but those of workers.
        if let Err(error) = give_way_to_all() {
            tracing::warn!(%error, "a reload may delay mail: its thread cannot be made to give way");
        }
        let mut kept_before = 0;
        loop {
            match asked.recv_timeout(FREE_INTERVAL) {
                Ok(first) => {
                    // Those that came meanwhile want the same files read.
                    let waiting: Vec<_> = std::iter::once(first).chain(asked.try_iter()).flatten().collect();
                    let answer = self.reload().map_err(Arc::new);
                    tell(&answer);
                    kept_before = self.publisher.free();
                    give_memory_back();
                    for waits in waiting {
                        drop(waits.send(answer.clone()));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let kept = self.publisher.free();
                    if kept < std::mem::replace(&mut kept_before, kept) {
                        give_memory_back();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let path = self.path.as_deref().ok_or(ReloadError::NoFile)?;
        let began_at = Instant::now();
        let small_pages = SmallPages::only();
        let config = check_file(path).into_result()?;
        let needs_restart = self.started.changes_that_need_a_restart(&config);
        // What needs a restart stays as it was, for the listeners that go by it too.
        let kept = Arc::new(Config {
            workers: self.started.workers,
            spool: self.started.spool.clone(),
            timeouts: self.started.timeouts,
            ..config.without_lists()
        });
        let policy = Policy {
            generation: 0,
            recipients: Arc::clone(&config.recipients.table),
            rules: Arc::clone(&config.rules),
        };
        drop(small_pages);
        // Before the first event that names one of them.
        self.places.add(self.publisher.generation() + 1, config.rules.places());
        let built = began_at.elapsed();
        let (publish, published) = channel();
        let applied = self.bind(&kept, published)?;
        let generation = self.publisher.publish(policy);
        let taken_over = self.wait_for_workers(generation);
        if !kept.routes_like(&self.running) {
            self.router.route_by(Arc::clone(&kept));
        }
        self.running = kept;
        drop(publish);
        // Its end is the news.
        let _ = applied.recv();
        taken_over?;
        self.publisher.free();
        let octets = config.rules.memory_len() + config.recipients.table.memory_len();
        tracing::info!(generation, built_ms = built.as_millis() as u64, octets, "reloaded");
        Ok(Reloaded { generation, needs_restart })
    }

    /// Until all of its addresses are bound. What is returned ends when it is offered there.
    fn bind(&self, config: &Arc<Config>, published: Receiver<()>) -> Result<Receiver<()>, ReloadError> {
        let ((prepared, is_prepared), (applied, is_applied)) = (channel(), channel());
        (self.owner.0)(Takeover { config: Arc::clone(config), prepared, published, applied });
        match is_prepared.recv() {
            Ok(Ok(())) => Ok(is_applied),
            Ok(Err(why)) => Err(ReloadError::Listeners(why)),
            Err(_) => Err(ReloadError::Stopping),
        }
    }

    /// Until no worker lets a transaction begin under an older generation.
    fn wait_for_workers(&self, generation: u32) -> Result<(), ReloadError> {
        self.stops.iter().for_each(|stop| stop.bell.ring());
        let until = Instant::now() + TURN_TIME_MAX;
        for (index, stats) in self.stats.iter().enumerate() {
            while stats.policy_generation_now.get() < u64::from(generation) {
                if Instant::now() >= until {
                    return Err(ReloadError::Stuck(index));
                }
                sleep(Duration::from_micros(200));
            }
        }
        Ok(())
    }
}

fn tell(answer: &Answer) {
    match answer {
        Ok(Reloaded { needs_restart, .. }) if !needs_restart.is_empty() => {
            let keys = needs_restart.join(", ");
            tracing::warn!(keys, "these have changed too, and change with a restart only");
        }
        Ok(_) => {}
        Err(error) => tracing::error!("reload refused, the old configuration stays in force: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::AtomicBool;

    use ringmx_ring::Doorbell;

    use super::*;

    const TEXT: &str = "hostname = \"mx.example.com\"\n[[listener]]\nname = \"mx\"\nbind = [\"127.0.0.1:0\"]\n\
        [recipients]\ndomains = [\"example.com\"]\n[[route]]\ndomains = [\"example.com\"]\ndeliver = \"hold\"\n";

    struct Setup {
        directory: tempfile::TempDir,
        reloader: Reloader,
    }

    impl Setup {
        /// One worker, which has taken everything over already.
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("ringmx.toml");
            fs::write(&path, TEXT).unwrap();
            let running = Arc::new(Config::load(&path).unwrap());
            let stats = Arc::<WorkerStats>::default();
            stats.policy_generation_now.set(u64::MAX);
            let stop = Stop { requested: AtomicBool::new(false), bell: Doorbell::new().unwrap() };
            let reloader = Reloader {
                path: Some(path),
                started: Arc::clone(&running),
                running,
                owner: Owner(Box::new(|takeover| drop(takeover.prepared.send(Ok(()))))),
                router: Router::to_nobody(),
                publisher: Publisher::new(Policy { generation: 1, ..Policy::default() }),
                places: Arc::default(),
                stats: vec![stats],
                stops: vec![Arc::new(stop)],
            };
            Self { directory, reloader }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.directory.path().join(name), text).unwrap();
        }
    }

    #[test]
    fn new_rules_are_published_and_named() {
        let mut setup = Setup::new();
        setup.write("ringmx.toml", &format!("{TEXT}[[rule]]\nstage = \"connect\"\naction = \"drop\"\n"));
        let reloaded = setup.reloader.reload().unwrap();
        assert_eq!(reloaded, Reloaded { generation: 2, needs_restart: vec![] });
        assert_eq!(setup.reloader.publisher.published().load().rules.places().len(), 1);
        let place = setup.reloader.places.find(2, 1).unwrap();
        assert!(place.ends_with("ringmx.toml:10"), "{place}");
        assert_eq!(setup.reloader.places.find(2, 2), None);
    }

    #[test]
    fn what_is_wrong_leaves_the_old_one_in_force() {
        let mut setup = Setup::new();
        setup.write("bad", "192.0.2.0/24\n192.0.2.300\n");
        for (text, expected) in [
            (
                "[[rule]]\nstage = \"conect\"\naction = \"drop\"\n",
                "ringmx.toml:11:9: error: `stage` cannot be",
            ),
            (
                "[[rule]]\nstage = \"connect\"\naction = \"drop\"\nclient_file = \"bad\"\n",
                "bad:2: `192.0.2.300` is no",
            ),
            (
                "[[rule]]\nstage = \"connect\"\naction = \"drop\"\nclient_file = \"none\"\n",
                "none cannot be read: No such",
            ),
            ("[[rule", "ringmx.toml:10:"),
        ] {
            setup.write("ringmx.toml", &format!("{TEXT}{text}"));
            let error = setup.reloader.reload().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(setup.reloader.publisher.generation(), 1);
        }
        setup.reloader.owner =
            Owner(Box::new(|takeover| drop(takeover.prepared.send(Err("taken by x".to_owned())))));
        setup.write("ringmx.toml", TEXT);
        let error = setup.reloader.reload().unwrap_err();
        assert!(matches!(error, ReloadError::Listeners(why) if why == "taken by x"));
        setup.reloader.owner = Owner(Box::new(drop));
        assert!(matches!(setup.reloader.reload().unwrap_err(), ReloadError::Stopping));
        assert_eq!(setup.reloader.publisher.generation(), 1);
    }

    #[test]
    fn what_takes_a_restart_is_told() {
        let mut setup = Setup::new();
        let text = TEXT.replace("127.0.0.1:0", "127.0.0.1:2525").replace("\"hold\"", "\"discard\"");
        setup.write("ringmx.toml", &format!("workers = 3\n{text}[spool]\ndurability = \"none\"\n"));
        for _ in 0..2 {
            assert_eq!(setup.reloader.reload().unwrap().needs_restart, ["workers", "spool"]);
        }
    }

    #[test]
    fn who_waits_is_answered() {
        let setup = Setup::new();
        let (requests, thread) = setup.reloader.start().unwrap();
        requests.ask();
        assert!(requests.ask_and_wait().unwrap().generation >= 2);
        drop(requests);
        thread.join().unwrap();
    }

    #[test]
    fn all_who_wait_for_a_reload_that_fails_are_told() {
        let setup = Setup::new();
        setup.write("ringmx.toml", "x");
        let (requests, thread) = setup.reloader.start().unwrap();
        let asking: Vec<_> = (0..8)
            .map(|_| {
                let requests = requests.clone();
                std::thread::spawn(move || requests.ask_and_wait())
            })
            .collect();
        for asked in asking {
            asked.join().unwrap().unwrap_err();
        }
        drop(requests);
        thread.join().unwrap();
    }
}
