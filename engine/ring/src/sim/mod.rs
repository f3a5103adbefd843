//! A network and a disk in memory behind [`Ring`](crate::Ring): deterministic, in virtual time, every choice from one
//! seed.
//!
//! The test holds a [`Simulation`] and plays the clients and the operator; what is tested holds its [`SimRing`]. All is
//! one thread: the world moves in [`Ring::turn`](crate::Ring::turn) only, which also moves the clock, to the next thing
//! that happens or to the time-out. Two runs with the same seed, settings and calls are the same.
//!
//! What the kernel promises holds here too: one final completion for each operation, held bytes come back, completions
//! of one multishot operation in order, and a connection that lives as long as an operation refers to it. What the
//! kernel merely usually does, does not hold: see [`Faults`]. Numbers of descriptors are used again at once.
//!
//! A turn that would wait for ever, with nothing to come and no time-out, returns with nothing, as on a signal.
//!
//! ```
//! use ringmx_ring::sim::{ClientState, Faults, Settings, Simulation};
//! use ringmx_ring::{AcceptMode, BlockBuffer, Fd, Ring, Token};
//!
//! let mut simulation = Simulation::new(7, Settings { faults: Faults::HARMLESS, ..Settings::default() });
//! let (listener, file, mut ring) = (simulation.listen(), simulation.create_file(4096), simulation.ring());
//! let client = simulation.connect(listener);
//! ring.accept(Token::new(1, 0, 0), listener, AcceptMode::Single);
//! ring.write(Token::new(2, 0, 0), file, 0, BlockBuffer::from(b"content"), true);
//! let mut completions = Vec::new();
//! while !simulation.is_idle() {
//!     ring.turn(None, &mut completions)?;
//! }
//! let accepted = completions.iter().find(|completion| completion.token.kind() == 1);
//! ring.close(Token::new(3, 0, 0), Fd(accepted.expect("done").result.expect("a connection") as i32));
//! while !simulation.is_idle() {
//!     ring.turn(None, &mut completions)?;
//! }
//! assert_eq!(simulation.state(client), ClientState::Ended);
//! simulation.assert_quiet();
//! assert!(simulation.crash().file(file).starts_with(b"content"));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Misuse stops the test with the seed in the message: two `recv`, two `send` or two overlapping writes at once, a
//! close of what is not open, a buffer given back twice, an operation on the wrong kind of descriptor.

mod attempt;
mod descriptors;
mod disk;
mod network;
mod operation;
mod random;
mod ring;
mod settings;
#[cfg(test)]
mod tests;
mod world;

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use self::descriptors::Object;
pub use self::disk::Disk;
use self::disk::{Certainty, File};
pub use self::network::ClientState;
use self::network::Connection;
use self::operation::Kind;
pub use self::random::Random;
pub use self::ring::SimRing;
pub use self::settings::{Faults, Settings};
use self::world::World;
use crate::{Errno, Fd};

/// A client of the simulation, from [`Simulation::connect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(usize);

/// The owner's side of a simulated machine. Clones are the same machine.
#[derive(Clone)]
pub struct Simulation {
    world: Rc<RefCell<World>>,
}

impl Simulation {
    pub fn new(seed: u64, settings: Settings) -> Self {
        Self { world: Rc::new(RefCell::new(World::new(seed, settings))) }
    }

    fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    /// The ring of this machine. When it is dropped, all that it had in flight ends silently, and another can be taken;
    /// descriptors stay open.
    ///
    /// # Panics
    /// While an earlier one exists.
    pub fn ring(&self) -> SimRing {
        SimRing::new(&self.world)
    }

    pub fn seed(&self) -> u64 {
        self.world().seed
    }

    // Time and faults.

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        self.world().now
    }

    /// No turn goes beyond this moment, however long its time-out: it returns with nothing, as on a signal. For a
    /// client that acts before a timer of the server does.
    pub fn stop_at(&self, at: Option<Duration>) {
        self.world().stop_at = at;
    }

    /// Nothing will happen until a client, the owner, or a timer of the ring's user acts.
    pub fn is_idle(&self) -> bool {
        self.world().is_idle()
    }

    /// From now on. `Faults::NONE` lets a run come to rest.
    pub fn set_faults(&self, faults: Faults) {
        self.world().settings.faults = faults;
    }

    /// Every write fails so: `Errno::NO_SPACE` is a full disk.
    pub fn set_write_error(&self, error: Option<Errno>) {
        self.world().write_error = error;
    }

    // Descriptors.

    /// A listening socket.
    pub fn listen(&self) -> Fd {
        let mut world = self.world();
        world.listeners.push(Some(VecDeque::new()));
        let listener = world.listeners.len() - 1;
        world.descriptors.open(Object::Listener(listener)).0
    }

    /// A file of `len` zeros that are on disk, as is its name.
    pub fn create_file(&self, len: usize) -> Fd {
        self.open_file(vec![0; len])
    }

    /// A file with this content on disk, such as one that survived a [`crash`](Self::crash).
    pub fn open_file(&self, content: Vec<u8>) -> Fd {
        let mut world = self.world();
        let file = world.files.len();
        let fd = world.descriptors.open(Object::File(file)).0;
        world.files.push((fd, File::new(content)));
        fd
    }

    pub fn create_bell(&self) -> Fd {
        let mut world = self.world();
        world.bells.push(0);
        let bell = world.bells.len() - 1;
        world.descriptors.open(Object::Bell(bell)).0
    }

    /// Closes a descriptor as its owner, outside the ring.
    pub fn close_fd(&self, fd: Fd) {
        let mut world = self.world();
        let Some(description) = world.descriptors.close(fd) else {
            world.misuse(&format!("the owner's close of {fd:?}, which is not open"));
        };
        world.release(description);
        world.descriptors.free(fd);
    }

    /// Adds one to an bell, as another thread does.
    pub fn signal(&self, bell: Fd) {
        let mut world = self.world();
        let (description, index) = world.bell(bell);
        world.bells[index] += 1;
        world.wake(description);
    }

    /// Takes what an bell has counted.
    pub fn take_signals(&self, bell: Fd) -> u64 {
        let mut world = self.world();
        let (_, index) = world.bell(bell);
        std::mem::take(&mut world.bells[index])
    }

    // Clients.

    /// Connects from an address of its own.
    pub fn connect(&self, listener: Fd) -> Client {
        let number = self.world().connections.len();
        let address = ([192, 0, 2, (number % 254) as u8 + 1], 1024 + (number % 60_000) as u16);
        self.connect_from(listener, address.into())
    }

    pub fn connect_from(&self, listener: Fd, address: SocketAddr) -> Client {
        let mut world = self.world();
        let client = world.connections.len();
        match world.descriptors.find(listener).map(|found| (found, world.descriptors.object(found))) {
            Some((description, Object::Listener(listener))) => {
                let range = world.settings.socket_buffer_len.clone();
                let socket_buffer_len = world.random.len(range);
                world.connections.push(Connection::new(address, socket_buffer_len));
                if let Some(waiting) = &mut world.listeners[listener] {
                    waiting.push_back(client);
                }
                world.wake(description);
            }
            _ => world.connections.push(Connection::refused(address)),
        }
        Client(client)
    }

    /// The client sends; what finds no room in the server's socket follows as that is read. Does nothing where the
    /// connection is gone.
    ///
    /// # Panics
    /// After the client's own end of stream.
    pub fn send(&self, client: Client, bytes: &[u8]) {
        assert!(!self.world().connections[client.0].has_client_ended(), "{client:?} has ended its stream");
        self.play(client, |connection| connection.client_send(bytes));
    }

    /// Takes what has arrived at the client.
    pub fn take(&self, client: Client) -> Vec<u8> {
        self.world().connections[client.0].take_inbox()
    }

    pub fn state(&self, client: Client) -> ClientState {
        self.world().connections[client.0].state()
    }

    /// Ends the client's direction of the stream, behind what it sent.
    pub fn half_close(&self, client: Client) {
        self.play(client, Connection::client_half_close);
    }

    /// Closes the client's socket: a reset if it holds bytes not taken, else an end of stream, and whatever the server
    /// sends then is answered with a reset.
    pub fn close(&self, client: Client) {
        self.play(client, Connection::client_close);
    }

    pub fn reset(&self, client: Client) {
        self.play(client, Connection::client_reset);
    }

    /// Whether the client takes what arrives; if not, the server's socket fills up and its sends wait.
    pub fn set_reading(&self, client: Client, reading: bool) {
        self.play(client, |connection| connection.set_reading(reading));
    }

    fn play(&self, client: Client, act: impl FnOnce(&mut Connection)) {
        let mut world = self.world();
        act(&mut world.connections[client.0]);
        world.touch(client.0);
    }

    // Disk.

    /// What a reader of the open file sees now.
    pub fn content(&self, file: Fd) -> Vec<u8> {
        let mut world = self.world();
        world.file(file).content()
    }

    /// What of the open file is on disk for sure.
    pub fn durable_content(&self, file: Fd) -> Vec<u8> {
        let mut world = self.world();
        world.file(file).durable()
    }

    /// The owner writes to an open file. What is not durable may get lost when the power is cut.
    pub fn write_file(&self, file: Fd, offset: u64, bytes: &[u8], durable: bool) {
        let certainty = if durable { Certainty::Durable } else { Certainty::Cached };
        self.world().file(file).write(offset as usize, bytes, certainty);
    }

    /// Cuts the power; the ring fails from now on. What is on disk is drawn as by
    /// [`after_power_cut`](Self::after_power_cut).
    pub fn crash(&mut self) -> Disk {
        self.world().power_is_cut = true;
        let mut random = self.world().random.clone();
        self.after_power_cut(&mut random)
    }

    /// What would be on disk if the power were cut now; nothing changes. Writes that completed as durable are there
    /// whole; of every other write, completed, in flight or queued, any subset of its 512-octet sectors.
    pub fn after_power_cut(&self, random: &mut Random) -> Disk {
        let world = self.world();
        let mut in_flight: Vec<Vec<(usize, &[u8])>> = world.files.iter().map(|_| Vec::new()).collect();
        let submitted = world.operations.values().map(|operation| (operation.description, &operation.kind));
        let queued = world.queued.iter().map(|(_, fd, kind)| (world.descriptors.find(*fd), kind));
        for (description, kind) in submitted.chain(queued) {
            let object = description.map(|description| world.descriptors.object(description));
            if let (Kind::Write { bytes, offset, .. }, Some(Object::File(file))) = (kind, object)
                && offset.saturating_add(bytes.len() as u64) <= disk::FILE_LEN_MAX
            {
                in_flight[file].push((*offset as usize, bytes));
            }
        }
        let files = world.files.iter().zip(in_flight);
        Disk::new(
            files.map(|((fd, file), writes)| (*fd, file.after_power_cut(&writes, &mut *random))).collect(),
        )
    }

    // Checks.

    /// # Panics
    /// Unless nothing is queued or in flight, every accepted connection is closed, and every buffer is given back.
    /// Listeners, files and bells belong to the owner and may be open.
    pub fn assert_quiet(&self) {
        let world = self.world();
        let pending: Vec<String> = world
            .operations
            .values()
            .map(|operation| (operation.token, operation.fd, &operation.kind))
            .chain(world.queued.iter().map(|(token, fd, kind)| (*token, *fd, kind)))
            .map(|(token, fd, kind)| format!("{} of {token:?} on {fd:?}", kind.name()))
            .collect();
        if !pending.is_empty() {
            world.misuse(&format!("not quiet, in flight: {pending:?}"));
        }
        let is_connection = |object| matches!(object, Object::Connection(_));
        let open: Vec<_> = world.descriptors.numbers().filter(|(_, object)| is_connection(*object)).collect();
        if !open.is_empty() {
            world.misuse(&format!("not quiet, still open: {open:?}"));
        }
        let lent_count = usize::from(world.settings.buffers_count) - world.free_buffers.len();
        if lent_count > 0 {
            world.misuse(&format!("not quiet: {lent_count} buffers are not given back"));
        }
    }
}
