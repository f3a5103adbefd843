//! An echo server on simulated machines of many seeds: whatever the machine does that a healthy one may do, no octet is
//! lost, doubled or reordered, and nothing leaks. The server is what any user of a ring must be: it re-arms what ended,
//! sends on what was short, stops receiving when it cannot send, and closes when nothing is in flight.
#![cfg(feature = "sim")]

use std::fmt::Write;
use std::time::Duration;

use ringmx_ring::sim::{Client, ClientState, Faults, Random, Settings, SimRing, Simulation};
use ringmx_ring::{AcceptMode, Completion, Errno, Fd, Key, Payload, Ring, Slab, Token};

const ACCEPT: u8 = 1;
const RECV: u8 = 2;
const SEND: u8 = 3;
const CLOSE: u8 = 5;
const CANCEL: u8 = 6;

/// Octets waiting to be sent that stop the receiving.
const WAITING_LEN_MAX: usize = 1000;

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The client has ended; what waits is still sent.
    Ended,
    /// Nothing more to say; closes when nothing is in flight.
    Over,
    Closing,
}

struct Connection {
    fd: Fd,
    phase: Phase,
    recv_armed: bool,
    recv_cancelled: bool,
    send_armed: bool,
    waiting: Vec<u8>,
}

struct Echo {
    ring: SimRing,
    listener: Fd,
    accept_armed: bool,
    connections: Slab<Connection>,
    /// Everything that completed, for the comparison of two runs.
    trace: String,
}

fn token(kind: u8, key: Key) -> Token {
    Token::new(kind, key.generation, key.slot)
}

impl Echo {
    fn turn(&mut self) {
        if !self.accept_armed {
            self.accept_armed = true;
            self.ring.accept(Token::new(ACCEPT, 0, 0), self.listener, AcceptMode::Multishot);
        }
        let mut completions = Vec::new();
        self.ring.turn(Some(Duration::from_millis(20)), &mut completions).expect("power");
        for completion in completions {
            let Completion { token, result, more, .. } = completion;
            let _ = writeln!(self.trace, "{:?} {token:?} {result:?} {more}", self.ring.clock().monotonic);
            let key = Key { slot: completion.token.slot(), generation: completion.token.generation() };
            match completion.token.kind() {
                ACCEPT => self.accepted(&completion),
                CANCEL => {}
                kind => self.completed(kind, key, completion),
            }
        }
    }

    fn accepted(&mut self, completion: &Completion) {
        self.accept_armed = completion.more;
        let Ok(fd) = completion.result else { return };
        let connection = Connection {
            fd: Fd(fd as i32),
            phase: Phase::Open,
            recv_armed: false,
            recv_cancelled: false,
            send_armed: false,
            waiting: Vec::new(),
        };
        let key = self.connections.insert(connection).ok().expect("room");
        self.go_on(key);
    }

    fn completed(&mut self, kind: u8, key: Key, completion: Completion) {
        let connection = self.connections.get_mut(key).expect("closes when nothing is in flight");
        match (kind, completion.payload, completion.result) {
            (RECV, Payload::Lent(lent), Ok(_)) => {
                connection.waiting.extend_from_slice(self.ring.bytes(&lent));
                self.ring.give_back(lent);
            }
            (RECV, _, Ok(_)) if connection.phase == Phase::Open => connection.phase = Phase::Ended,
            (RECV, _, Ok(_) | Err(Errno::NO_BUFFERS | Errno::CANCELED)) => {}
            (SEND, Payload::Returned(mut bytes), Ok(sent_len)) => {
                bytes.drain(..sent_len as usize);
                bytes.append(&mut connection.waiting);
                connection.waiting = bytes;
            }
            (CLOSE, _, Ok(_)) => {
                self.connections.remove(key);
                return;
            }
            (_, _, Err(_)) => connection.phase = Phase::Over,
            (_, payload, result) => panic!("{kind}: {result:?} {payload:?}"),
        }
        match kind {
            RECV => {
                connection.recv_armed = completion.more;
                connection.recv_cancelled &= completion.more;
            }
            SEND => connection.send_armed = false,
            _ => {}
        }
        self.go_on(key);
    }

    fn go_on(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let over = matches!(connection.phase, Phase::Over | Phase::Closing);
        if !over && !connection.send_armed && !connection.waiting.is_empty() {
            connection.send_armed = true;
            let bytes = std::mem::take(&mut connection.waiting);
            self.ring.send(token(SEND, key), connection.fd, bytes, 0);
        }
        let full = connection.waiting.len() > WAITING_LEN_MAX;
        if connection.recv_armed && !connection.recv_cancelled && (full || over) {
            connection.recv_cancelled = true;
            self.ring.cancel(token(CANCEL, key), token(RECV, key));
        }
        if !connection.recv_armed && !full && connection.phase == Phase::Open {
            connection.recv_armed = true;
            self.ring.recv(token(RECV, key), connection.fd);
        }
        let idle = !connection.send_armed && !connection.recv_armed;
        if connection.phase == Phase::Ended && idle && connection.waiting.is_empty() {
            connection.phase = Phase::Over;
            self.ring.shutdown_write(connection.fd);
        }
        if connection.phase == Phase::Over && idle {
            connection.phase = Phase::Closing;
            self.ring.close(token(CLOSE, key), connection.fd);
        }
    }
}

/// A client and what passed.
struct Played {
    client: Client,
    sent: Vec<u8>,
    taken: Vec<u8>,
    ended: bool,
    /// It went away by itself: what it got is a beginning of what it sent.
    gone: bool,
}

fn act(simulation: &Simulation, random: &mut Random, played: &mut Played) {
    let client = played.client;
    match random.below(40) {
        0..15 if !played.ended => {
            let bytes: Vec<u8> = (0..random.len(1..=700)).map(|_| random.next() as u8).collect();
            simulation.send(client, &bytes);
            played.sent.extend(bytes);
        }
        15..25 => simulation.set_reading(client, random.chance(0.6)),
        25..35 => played.taken.extend(simulation.take(client)),
        35 => {
            simulation.half_close(client);
            played.ended = true;
        }
        36 if random.chance(0.3) => {
            (played.ended, played.gone) = (true, true);
            if random.chance(0.5) { simulation.reset(client) } else { simulation.close(client) }
        }
        _ => {}
    }
}

fn check(simulation: &Simulation, settings: &Settings, played: &mut Played) {
    let seed = simulation.seed();
    played.taken.extend(simulation.take(played.client));
    assert!(played.sent.starts_with(&played.taken), "seed {seed}: {:?}", played.client);
    match simulation.state(played.client) {
        ClientState::Ended => assert_eq!(played.taken.len(), played.sent.len(), "seed {seed}"),
        ClientState::Closed => assert!(played.gone, "seed {seed}"),
        ClientState::Reset if settings.faults.accept_error > 0.0 => {
            assert!(played.taken.is_empty(), "seed {seed}")
        }
        state => panic!("seed {seed}: {state:?}"),
    }
}

fn run(seed: u64, settings: &Settings) -> String {
    let simulation = Simulation::new(seed, settings.clone());
    let listener = simulation.listen();
    let ring = simulation.ring();
    let connections = Slab::new(100);
    let mut echo = Echo { ring, listener, accept_armed: false, connections, trace: String::new() };
    let mut random = Random::new(!seed);
    let mut clients: Vec<Played> = Vec::new();
    for _ in 0..150 {
        if clients.len() < 8 && random.chance(0.2) {
            let client = simulation.connect(listener);
            clients.push(Played { client, sent: Vec::new(), taken: Vec::new(), ended: false, gone: false });
        }
        clients.iter_mut().for_each(|played| act(&simulation, &mut random, played));
        echo.turn();
    }
    for played in &clients {
        simulation.half_close(played.client);
        simulation.set_reading(played.client, true);
    }
    let mut turns = 0;
    while clients.iter().any(|played| simulation.state(played.client) == ClientState::Open)
        || !echo.connections.is_empty()
    {
        echo.turn();
        turns += 1;
        assert!(turns < 100_000, "seed {seed}: does not end");
    }
    clients.iter_mut().for_each(|played| check(&simulation, settings, played));
    simulation.set_faults(Faults::NONE);
    echo.ring.cancel(Token::new(CANCEL, 0, 0), Token::new(ACCEPT, 0, 0));
    let mut last = Vec::new();
    while !simulation.is_idle() {
        echo.ring.turn(None, &mut last).expect("power");
    }
    simulation.assert_quiet();
    echo.trace
}

#[test]
fn no_octet_is_lost_whatever_a_machine_does() {
    for seed in 0..300 {
        run(seed, &Settings::random(seed));
    }
}

#[test]
fn everything_at_once() {
    for seed in 0..50 {
        let settings = Settings {
            buffers_count: 2,
            buffer_len: 100,
            socket_buffer_len: 1..=500,
            faults: Faults::ALL,
            ..Settings::default()
        };
        run(seed, &settings);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        let settings = Settings::random(seed);
        let trace = run(seed, &settings);
        assert!(trace.lines().count() > 50);
        assert!(trace == run(seed, &settings), "seed {seed}");
        assert!(trace != run(seed + 1000, &settings), "seed {seed}");
    }
}
