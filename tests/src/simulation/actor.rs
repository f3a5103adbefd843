//! A client: a script, the manner in which it is said, and how it ends.

use std::net::SocketAddr;
use std::time::Duration;

use ringmx::config::Durability;
use ringmx_ring::sim::{Client, ClientState, Random, Simulation};

use super::script::{Kind, Script, Step};
use super::wire::Wire;

/// What a client waits for before it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Each reply.
    Interactive,
    /// The replies of a group that ends with DATA or with end-of-data (RFC 2920 §3.1).
    Groups,
    /// As `Groups`, but the next group follows an end-of-data at once.
    EagerGroups,
    /// Nothing.
    Reckless,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Always,
    /// On and off.
    Slow,
    Never,
}

/// What a client does when it has said all that it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The script ends with QUIT: waits for the end.
    Quit,
    HalfClose,
    /// Says nothing more.
    Silence,
    Close,
    Reset,
}

#[derive(Clone, Debug)]
pub struct Behaviour {
    pub manner: Manner,
    pub reading: Reading,
    pub ending: Ending,
    /// The ending comes after so many octets, wherever that is.
    pub cut: Option<usize>,
    /// Octets sent at once, at most.
    pub chunk_len_max: usize,
    /// Longest time between two acts.
    pub pause_max: Duration,
}

impl Behaviour {
    pub const PLAIN: Self = Self {
        manner: Manner::Interactive,
        reading: Reading::Always,
        ending: Ending::Quit,
        cut: None,
        chunk_len_max: usize::MAX,
        pause_max: Duration::ZERO,
    };

    pub fn random(random: &mut Random) -> Self {
        let manners = [Manner::Interactive, Manner::Groups, Manner::EagerGroups, Manner::Reckless];
        let (chunk_len_max, pause_ms_max) =
            [(1, 0), (3, 1), (200, 50), (usize::MAX, 0), (usize::MAX, 300)][random.len(0..=4)];
        let mut behaviour = Self {
            manner: manners[random.len(0..=3)],
            chunk_len_max,
            pause_max: Duration::from_millis(pause_ms_max),
            ..Self::PLAIN
        };
        behaviour.reading = match random.len(0..=9) {
            0 => Reading::Never,
            // Not octet by octet: the server's patience would end first.
            1 | 2 if chunk_len_max >= 200 => Reading::Slow,
            _ => Reading::Always,
        };
        behaviour.ending = match random.len(0..=11) {
            0 => Ending::Close,
            1 => Ending::Reset,
            2 => Ending::HalfClose,
            3 => Ending::Silence,
            _ => Ending::Quit,
        };
        if behaviour.ending != Ending::Quit && random.chance(0.7) {
            behaviour.cut = Some(random.len(0..=2000));
        }
        behaviour
    }

    /// Every reply must reach this client.
    pub fn stays(&self) -> bool {
        self.reading != Reading::Never && !matches!(self.ending, Ending::Close | Ending::Reset)
    }
}

/// One client under way.
#[derive(Debug)]
pub struct Actor {
    pub client: Client,
    pub wire: Wire,
    pub address: SocketAddr,
    pub behaviour: Behaviour,
    pub script: Script,
    /// What the listener promises that it came to.
    pub durability: Durability,
    /// All that it sent.
    pub sent: Vec<u8>,
    /// All that it got.
    pub inbox: Vec<u8>,
    steps: std::vec::IntoIter<Step>,
    /// Not sent yet.
    outbound: Vec<u8>,
    /// Replies that are owed to what was sent, the greeting included; and those that came, with the last code.
    owed_count: usize,
    replies_count: usize,
    last_code: u16,
    parsed_len: usize,
    reading: bool,
    next_at: Duration,
    /// When something was last sent or got.
    active_at: Duration,
    has_ended: bool,
}

impl Actor {
    pub fn new(
        wire: Wire,
        address: SocketAddr,
        mut script: Script,
        behaviour: Behaviour,
        durability: Durability,
    ) -> Self {
        if behaviour.ending == Ending::Quit {
            script.line("QUIT\r\n");
        }
        // Behind STARTTLS there is no other greeting.
        let owed_count = usize::from(!wire.opens_in_clear());
        Self {
            client: wire.client,
            wire,
            address,
            steps: script.steps.clone().into_iter(),
            behaviour,
            script,
            durability,
            sent: Vec::new(),
            inbox: Vec::new(),
            outbound: Vec::new(),
            owed_count,
            replies_count: 0,
            last_code: 0,
            parsed_len: 0,
            reading: true,
            next_at: Duration::ZERO,
            active_at: Duration::ZERO,
            has_ended: false,
        }
    }

    /// When it wants to act or to look whether something has come; `None` when it has said all.
    pub fn next_at(&self, now: Duration) -> Option<Duration> {
        if self.behaviour.reading == Reading::Slow {
            return Some(self.next_at);
        }
        if self.has_ended {
            return None;
        }
        // Less often the longer nothing comes.
        let look_at = now + now.saturating_sub(self.active_at).max(Duration::from_millis(1));
        let has_words = !self.outbound.is_empty() || self.may_go_on();
        let can_act = self.wire.has_records() || (has_words && self.wire.is_quiet());
        Some(if can_act { self.next_at } else { look_at })
    }

    /// Gone, or nothing will come any more.
    pub fn is_done(&self, simulation: &Simulation) -> bool {
        simulation.state(self.client) != ClientState::Open
    }

    /// Codes of the replies that have come so far, the greeting first.
    pub fn codes(&self) -> Vec<u16> {
        codes(&self.inbox).0
    }

    pub fn act(&mut self, simulation: &Simulation, random: &mut Random) {
        self.take(simulation);
        if self.is_done(simulation) || simulation.now() < self.next_at {
            return;
        }
        let pause = random.below(self.behaviour.pause_max.as_micros() as u64 + 1);
        self.next_at = simulation.now() + Duration::from_micros(pause);
        self.read(simulation, random);
        if self.has_ended {
            return;
        }
        if self.outbound.is_empty() && self.may_go_on() {
            self.say_more();
        }
        self.send(simulation, random);
    }

    pub fn take(&mut self, simulation: &Simulation) {
        let heard_len = self.wire.heard_len;
        self.inbox.extend(self.wire.take(simulation));
        if self.wire.heard_len > heard_len {
            self.active_at = simulation.now();
        }
        let (codes, len) = codes(&self.inbox[self.parsed_len..]);
        self.parsed_len += len;
        self.replies_count += codes.len();
        self.last_code = codes.last().copied().unwrap_or(self.last_code);
    }

    fn read(&mut self, simulation: &Simulation, random: &mut Random) {
        let reading = match self.behaviour.reading {
            Reading::Always => return,
            Reading::Never => false,
            Reading::Slow => random.chance(0.3),
        };
        if reading != std::mem::replace(&mut self.reading, reading) {
            simulation.set_reading(self.client, reading);
        }
        if self.behaviour.reading == Reading::Slow {
            self.next_at = simulation.now() + Duration::from_micros(random.below(20_000) + 1);
        }
    }

    fn may_go_on(&self) -> bool {
        self.behaviour.manner == Manner::Reckless || self.replies_count >= self.owed_count
    }

    /// The next steps that this client's manner says at once.
    fn say_more(&mut self) {
        let eager = matches!(self.behaviour.manner, Manner::EagerGroups | Manner::Reckless);
        loop {
            let next = self.steps.as_slice().first().map(|step| step.kind);
            let refused = next == Some(Kind::Content)
                && self.behaviour.manner != Manner::Reckless
                && self.last_code != 354;
            let Some(step) = self.steps.next() else { return };
            if refused {
                continue;
            }
            self.outbound.extend_from_slice(&step.octets);
            self.owed_count += 1;
            let waits = match self.behaviour.manner {
                Manner::Interactive => true,
                Manner::Reckless => false,
                Manner::Groups | Manner::EagerGroups => {
                    step.kind == Kind::Data || (step.kind == Kind::Content && !eager)
                }
            };
            if waits {
                return;
            }
        }
    }

    /// So many octets may still be said.
    fn room(&self) -> usize {
        self.behaviour.cut.map_or(usize::MAX, |cut| cut - self.sent.len())
    }

    /// How many of so many octets go at once.
    fn chunk_len(&self, len: usize, random: &mut Random) -> usize {
        let len = len.min(self.behaviour.chunk_len_max);
        if len > 1 && random.chance(0.5) { random.len(1..=len) } else { len }
    }

    fn send_in_clear(&mut self, simulation: &Simulation, random: &mut Random) {
        let len = self.chunk_len(self.outbound.len(), random).min(self.room());
        let chunk: Vec<u8> = self.outbound.drain(..len).collect();
        if !chunk.is_empty() {
            simulation.send(self.client, &chunk);
            self.active_at = simulation.now();
            self.sent.extend(chunk);
        }
    }

    /// What there is to say is sealed at once; its records go in pieces.
    fn send_records(&mut self, simulation: &Simulation, random: &mut Random) {
        let len = self.outbound.len().min(self.room());
        let plain: Vec<u8> = self.outbound.drain(..len).collect();
        self.wire.write(&plain);
        self.sent.extend(plain);
        let records_len = self.wire.records_len();
        let len = self.chunk_len(records_len, random);
        if len > 0 {
            self.wire.send_records(simulation, len);
            self.active_at = simulation.now();
        }
    }

    /// Some of those who just go do so within a record, or within the handshake.
    fn leaves_in_the_middle(&self) -> bool {
        matches!(self.behaviour.ending, Ending::Close | Ending::Reset)
            && self.address.port().is_multiple_of(2)
    }

    fn send(&mut self, simulation: &Simulation, random: &mut Random) {
        if self.wire.is_clear() {
            self.send_in_clear(simulation, random);
        } else {
            self.send_records(simulation, random);
        }
        let said_all = self.outbound.is_empty() && self.steps.as_slice().is_empty();
        if !said_all && self.behaviour.cut != Some(self.sent.len()) {
            return;
        }
        if !self.wire.is_quiet() && !self.leaves_in_the_middle() {
            return;
        }
        if self.behaviour.ending == Ending::HalfClose && self.wire.say_goodbye() {
            return;
        }
        self.has_ended = true;
        match self.behaviour.ending {
            Ending::Quit | Ending::Silence => {}
            Ending::HalfClose => simulation.half_close(self.client),
            Ending::Close => simulation.close(self.client),
            Ending::Reset => simulation.reset(self.client),
        }
    }
}

/// Codes of the whole replies in `octets`, and how many octets they take.
pub(super) fn codes(octets: &[u8]) -> (Vec<u16>, usize) {
    let (mut codes, mut len, mut line_end) = (Vec::new(), 0, 0);
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        line_end += line.len();
        if !line.ends_with(b"\r\n") {
            break;
        }
        let shown = String::from_utf8_lossy(line);
        let code = shown.get(..3).and_then(|code| code.parse().ok());
        let code = code.unwrap_or_else(|| panic!("not a reply: {shown:?}"));
        match line[3] {
            b' ' => {
                codes.push(code);
                len = line_end;
            }
            b'-' => {}
            _ => panic!("not a reply: {shown:?}"),
        }
    }
    (codes, len)
}
