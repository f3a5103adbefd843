//! A simulated machine with a worker on it.

use std::cell::RefCell;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use ringmx::config::Durability;
use ringmx::event::EventQueue;
use ringmx::policy::clients::Clients;
use ringmx::policy::recipient::Recipients;
use ringmx::server::{Port, PortId, Publisher, Setup, Stop, Worker};
use ringmx::session::{Guard, Service, Settings as ServiceSettings, TlsMode};
use ringmx::stats::WorkerStats;
use ringmx_ring::sim::{Client, Faults, Random, Settings, Simulation};
use ringmx_ring::{AcceptMode, Doorbell, Fd};

use super::actor::{Actor, Behaviour};
use super::probe::{Content, Ledger, Probe};
use super::recovered::{self, Records};
use super::script::{MESSAGE_LEN_MAX, Script};
use super::secure::Secure;
use super::segments::{SegmentKeeper, SimSegments, Supply, Syncs};
use super::wire::Wire;

/// What a machine is like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub settings: Settings,
    pub supply: Supply,
    /// Messages that find no segment wait for one.
    pub is_coming: bool,
    pub syncs: Syncs,
    pub segment_capacity: u64,
    pub memory_len_max: usize,
    pub message_len_max: u64,
    /// Octets of content from which on it has a file.
    pub inline_len_max: usize,
    pub connections_max: usize,
    pub accept_mode: AcceptMode,
    pub command_timeout: Duration,
    pub data_timeout: Duration,
    pub guard: Guard,
    /// One listener for each.
    pub durabilities: Vec<Durability>,
    pub async_interval: Duration,
    pub tls: TlsMode,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            supply: Supply::Plenty,
            is_coming: true,
            syncs: Syncs::All,
            segment_capacity: 64 << 10,
            memory_len_max: 64 << 20,
            message_len_max: MESSAGE_LEN_MAX,
            inline_len_max: 256 << 10,
            connections_max: 100,
            accept_mode: AcceptMode::Multishot,
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(180),
            guard: Guard::default(),
            durabilities: vec![Durability::Sync],
            async_interval: Duration::from_secs(1),
            tls: TlsMode::Off,
        }
    }
}

pub struct Machine {
    pub simulation: Simulation,
    pub worker: Worker<Probe, SimSegments>,
    pub keeper: SegmentKeeper,
    pub ledger: Rc<RefCell<Ledger>>,
    pub stats: Arc<WorkerStats>,
    pub events: EventQueue,
    pub service: Arc<Service>,
    /// None where all is in clear.
    pub secure: Option<Secure>,
    stop: Arc<Stop>,
    listeners: Vec<(Fd, Durability)>,
    wake: Fd,
    connections_count: u16,
}

impl Machine {
    pub fn new(seed: u64, plan: &Plan) -> Self {
        let simulation = Simulation::new(seed, plan.settings.clone());
        let listener = |durability: &Durability| (simulation.listen(), *durability);
        let listeners: Vec<_> = plan.durabilities.iter().map(listener).collect();
        let wake = simulation.create_bell();
        let all_durable = plan.durabilities == [Durability::Sync];
        let publisher = Publisher::new(Recipients::new(["example.com"]).expect("a domain").into());
        let service = Arc::new(Service::new(ServiceSettings {
            message_len_max: plan.message_len_max,
            guard: plan.guard.clone(),
            command_timeout: plan.command_timeout,
            data_timeout: plan.data_timeout,
            tls: plan.tls,
            ..ServiceSettings::new("mx.example")
        }));
        let bell = Doorbell::new().expect("a bell");
        let keeper = SegmentKeeper::new(&simulation, plan, seed);
        let changes = Arc::new(ArrayQueue::new(16));
        let content = Content { fds: keeper.content(), decoy: simulation.open_file(Vec::new()) };
        let (probe, ledger) =
            Probe::new(simulation.ring(), plan.syncs, bell.fd(), wake, all_durable, content);
        let stop = Arc::new(Stop { requested: AtomicBool::new(false), bell });
        let (stats, events) = (Arc::<WorkerStats>::default(), EventQueue::new(1024));
        let secure = (plan.tls != TlsMode::Off).then(Secure::default);
        let port = |(id, &(fd, durability)): (usize, &(Fd, Durability))| Port {
            id: PortId(id as u32),
            fd,
            mode: plan.accept_mode,
            service: Arc::clone(&service),
            connections_max: plan.connections_max,
            durability,
            tls: secure.as_ref().map(|secure| Arc::clone(&secure.acceptor)),
        };
        let setup = Setup {
            drain_time: DRAIN_TIME,
            worker_index: 0,
            ports: listeners.iter().enumerate().map(port).collect(),
            policy: Arc::clone(publisher.published()),
            memory_len_max: plan.memory_len_max,
            inline_len_max: plan.inline_len_max,
            clients: Arc::new(Clients::new(1024, RandomState::new())),
            async_interval: plan.async_interval,
            stats: Arc::clone(&stats),
            events: events.clone(),
            stop: Arc::clone(&stop),
            changes: Arc::clone(&changes),
            visitors: Arc::default(),
        };
        let worker = Worker::new(probe, keeper.segments(), setup);
        Self {
            simulation,
            worker,
            keeper,
            ledger,
            stats,
            events,
            service,
            secure,
            stop,
            listeners,
            wake,
            connections_count: 0,
        }
    }

    /// A client that will play this script.
    pub fn actor(&mut self, script: Script, behaviour: Behaviour) -> Actor {
        let (client, address) = self.connect();
        Actor::new(self.wire(client), address, script, behaviour, self.durability())
    }

    /// What the last client speaks through.
    pub fn wire(&self, client: Client) -> Wire {
        let opens_in_clear = self.service.settings.tls != TlsMode::Implicit;
        match &self.secure {
            None => Wire::clear(client),
            Some(secure) => {
                Wire::tls(client, secure.config(usize::from(self.connections_count)), opens_in_clear)
            }
        }
    }

    pub fn connect(&mut self) -> (Client, SocketAddr) {
        let (listener, _) = self.listeners[self.listener_index()];
        self.connections_count += 1;
        let address = SocketAddr::from(([198, 51, 100, 7], 1024 + self.connections_count));
        (self.simulation.connect_from(listener, address), address)
    }

    /// Clients come to the listeners by turns.
    fn listener_index(&self) -> usize {
        usize::from(self.connections_count) % self.listeners.len()
    }

    /// What the listener promises that the last client came to.
    pub fn durability(&self) -> Durability {
        self.listeners[usize::from(self.connections_count.saturating_sub(1)) % self.listeners.len()].1
    }

    pub fn connect_from(&mut self, address: &str) -> Client {
        self.simulation.connect_from(self.listeners[0].0, address.parse().expect("an address"))
    }

    pub fn turn(&mut self) {
        self.worker.turn().expect("the power is on");
        while self.events.pop().is_some() {}
    }

    /// One turn, no longer than until `at`.
    pub fn turn_until(&mut self, at: Option<Duration>) {
        self.simulation.stop_at(at);
        self.turn();
    }

    /// Turns until nothing happens any more without a client or a timer.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if self.simulation.is_idle() {
                return;
            }
            self.turn_until(Some(self.simulation.now() + Duration::from_millis(1)));
        }
        panic!("the machine does not come to rest");
    }

    /// Turns for this long of virtual time.
    pub fn pass(&mut self, time: Duration) {
        let until = self.simulation.now() + time;
        for _ in 0..1_000_000 {
            if self.simulation.now() >= until {
                return;
            }
            self.turn_until(Some(until));
        }
        panic!("the clock stands still at {:?}", self.simulation.now());
    }

    /// Tells the worker to drain.
    pub fn stop(&self) {
        self.stop.requested.store(true, Ordering::Release);
        self.simulation.signal(self.wake);
    }

    /// Drains the worker and checks that nothing is left of anything.
    pub fn finish(&mut self) {
        self.simulation.set_faults(Faults::NONE);
        self.stop();
        let until = self.simulation.now() + DRAIN_TIME + DRAIN_SLACK;
        let mut turns = 0;
        while !self.worker.is_drained() {
            turns += 1;
            let now = self.simulation.now();
            assert!(now < until && turns < 1_000_000, "drains for ever, at {now:?}");
            self.turn_until(Some(until));
        }
        self.settle();
        self.worker.run().expect("drained already");
        self.simulation.assert_quiet();
        assert_eq!(self.stats.connections_now.get(), 0, "connections");
        assert_eq!(self.stats.memory_octets_now.get(), 0, "memory");
        assert_eq!(self.ledger.borrow().sending_len, 0, "send buffers");
    }

    /// Cuts the power and reads back what is on the disk.
    pub fn recover(&mut self) -> Records {
        recovered::records(&self.simulation.crash(), &self.keeper)
    }

    /// What a recovery would find if the power were cut now; the machine goes on.
    pub fn recover_as_if_cut(&self, random: &mut Random) -> Records {
        recovered::records(&self.simulation.after_power_cut(random), &self.keeper)
    }

    /// What a reader finds in what the worker has published.
    pub fn published(&self) -> Records {
        recovered::published(&self.simulation, &self.keeper)
    }
}

/// What a drain may take beyond its limit: operations under way end by themselves.
/// What the machine's worker gives its sessions once it stops.
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(30);
const DRAIN_SLACK: Duration = Duration::from_secs(1);
