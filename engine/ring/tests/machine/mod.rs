//! The kernel and the simulation behind one face: a ring, its clients and its files.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use ringmx_ring::sim::{Client, ClientState, Settings, SimRing, Simulation};
use ringmx_ring::{Doorbell, Fd, Options, Ring, Uring};

pub(crate) const BUFFERS_COUNT: u16 = 4;
pub(crate) const BUFFER_LEN: u32 = 64;

/// How a connection ends for a client that reads all there is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Open,
    Ended,
    Reset,
}

/// A ring and the world around it.
pub(crate) trait Machine {
    type Ring: Ring;
    fn ring(&mut self) -> &mut Self::Ring;
    fn listener(&self) -> Fd;
    /// Connects the next client; they are numbered from 0.
    fn connect(&mut self);
    fn client_send(&mut self, client: usize, bytes: &[u8]);
    fn client_half_close(&mut self, client: usize);
    fn client_close(&mut self, client: usize);
    fn client_reset(&mut self, client: usize);
    fn client_read(&mut self, client: usize) -> (Vec<u8>, End);
    fn create_file(&mut self, len: usize) -> Fd;
    fn content(&mut self, file: Fd) -> Vec<u8>;
    /// Where one waits, and what one rings.
    fn create_bell(&mut self) -> (Fd, Fd);
}

pub(crate) struct Kernel {
    ring: Uring,
    listener: TcpListener,
    clients: Vec<Option<TcpStream>>,
    files: Vec<std::fs::File>,
    bells: Vec<Doorbell>,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        let options = Options { entries: 8, buffers_count: BUFFERS_COUNT, buffer_len: BUFFER_LEN };
        let ring = Uring::new(options).expect("io_uring");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        Self { ring, listener, clients: Vec::new(), files: Vec::new(), bells: Vec::new() }
    }

    fn client(&mut self, client: usize) -> &mut TcpStream {
        self.clients[client].as_mut().expect("not closed")
    }
}

impl Machine for Kernel {
    type Ring = Uring;

    fn ring(&mut self) -> &mut Uring {
        &mut self.ring
    }

    fn listener(&self) -> Fd {
        Fd(self.listener.as_raw_fd())
    }

    fn connect(&mut self) {
        let client = TcpStream::connect(self.listener.local_addr().expect("bound")).expect("connected");
        client.set_nodelay(true).expect("an option");
        self.clients.push(Some(client));
    }

    fn client_send(&mut self, client: usize, bytes: &[u8]) {
        self.client(client).write_all(bytes).expect("written");
    }

    fn client_half_close(&mut self, client: usize) {
        self.client(client).shutdown(Shutdown::Write).expect("shut");
    }

    fn client_close(&mut self, client: usize) {
        self.clients[client] = None;
    }

    fn client_reset(&mut self, client: usize) {
        let socket = socket2::Socket::from(self.clients[client].take().expect("not closed"));
        socket.set_linger(Some(Duration::ZERO)).expect("an option");
    }

    fn client_read(&mut self, client: usize) -> (Vec<u8>, End) {
        let client = self.client(client);
        client.set_read_timeout(Some(Duration::from_millis(50))).expect("an option");
        let mut bytes = Vec::new();
        let end = match client.read_to_end(&mut bytes) {
            Ok(_) => End::Ended,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
            Err(error) if error.kind() == ErrorKind::WouldBlock => End::Open,
            Err(error) => panic!("{error}"),
        };
        (bytes, end)
    }

    fn create_file(&mut self, len: usize) -> Fd {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = std::fs::File::from(rustix::fs::memfd_create("agreement", flags).expect("a memory file"));
        file.set_len(len as u64).expect("room");
        self.files.push(file);
        Fd(self.files.last().expect("just pushed").as_raw_fd())
    }

    fn content(&mut self, fd: Fd) -> Vec<u8> {
        let mut file = self.files.iter().find(|file| file.as_raw_fd() == fd.0).expect("a file");
        let mut content = Vec::new();
        file.read_to_end(&mut content).expect("read");
        content
    }

    fn create_bell(&mut self) -> (Fd, Fd) {
        let bell = Doorbell::new().expect("a bell");
        bell.will_wait();
        let ends = (bell.fd(), bell.take_sleeper().expect("somebody waits"));
        self.bells.push(bell);
        ends
    }
}

pub(crate) struct Simulated {
    pub(crate) simulation: Simulation,
    ring: SimRing,
    listener: Fd,
    clients: Vec<Client>,
}

impl Simulated {
    pub(crate) fn new() -> Self {
        let settings =
            Settings { buffers_count: BUFFERS_COUNT, buffer_len: BUFFER_LEN as usize, ..Settings::default() };
        let simulation = Simulation::new(0, settings);
        let (ring, listener) = (simulation.ring(), simulation.listen());
        Self { simulation, ring, listener, clients: Vec::new() }
    }
}

impl Machine for Simulated {
    type Ring = SimRing;

    fn ring(&mut self) -> &mut SimRing {
        &mut self.ring
    }

    fn listener(&self) -> Fd {
        self.listener
    }

    fn connect(&mut self) {
        self.clients.push(self.simulation.connect(self.listener));
    }

    fn client_send(&mut self, client: usize, bytes: &[u8]) {
        self.simulation.send(self.clients[client], bytes);
    }

    fn client_half_close(&mut self, client: usize) {
        self.simulation.half_close(self.clients[client]);
    }

    fn client_close(&mut self, client: usize) {
        self.simulation.close(self.clients[client]);
    }

    fn client_reset(&mut self, client: usize) {
        self.simulation.reset(self.clients[client]);
    }

    fn client_read(&mut self, client: usize) -> (Vec<u8>, End) {
        let mut completions = Vec::new();
        let passes = Some(Duration::from_millis(50));
        self.ring.turn(passes, &mut completions).expect("power");
        assert!(completions.is_empty(), "{completions:?}");
        let client = self.clients[client];
        let end = match self.simulation.state(client) {
            ClientState::Open => End::Open,
            ClientState::Ended => End::Ended,
            ClientState::Reset => End::Reset,
            state => panic!("{state:?}"),
        };
        (self.simulation.take(client), end)
    }

    fn create_file(&mut self, len: usize) -> Fd {
        self.simulation.create_file(len)
    }

    fn content(&mut self, file: Fd) -> Vec<u8> {
        self.simulation.content(file)
    }

    fn create_bell(&mut self) -> (Fd, Fd) {
        let bell = self.simulation.create_bell();
        (bell, bell)
    }
}
