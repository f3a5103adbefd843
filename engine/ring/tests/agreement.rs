//! The simulated ring against the kernel's: the same calls, the same answers.
#![cfg(feature = "sim")]

mod machine;

use std::time::Duration;

use machine::{BUFFER_LEN, BUFFERS_COUNT, End, Kernel, Machine, Simulated};
use ringmx_ring::sim::Random;
use ringmx_ring::{AcceptMode, BlockBuffer, Completion, Errno, Fd, Lent, Payload, Ring, Token};

const ACCEPT: Token = Token::new(1, 0, 0);
const RECV: Token = Token::new(2, 0, 0);
const SEND: Token = Token::new(3, 0, 0);
const CANCEL: Token = Token::new(5, 0, 0);
const OTHER: Token = Token::new(6, 0, 0);

/// A machine, what completed but was not asked for yet, and the answers so far.
struct Scene<M> {
    machine: M,
    completions: Vec<Completion>,
    answers: Vec<String>,
}

impl<M: Machine> Scene<M> {
    fn new(machine: M) -> Self {
        Self { machine, completions: Vec::new(), answers: Vec::new() }
    }

    fn next(&mut self, token: Token) -> Completion {
        for _ in 0..50 {
            if let Some(index) = self.completions.iter().position(|completion| completion.token == token) {
                return self.completions.remove(index);
            }
            let timeout = Some(Duration::from_millis(100));
            self.machine.ring().turn(timeout, &mut self.completions).expect("a turn");
        }
        panic!("no completion of {token:?}: {:?}", self.completions);
    }

    /// Waits for an operation's next completion and notes everything about it. Lent buffers are kept.
    fn note(&mut self, what: &str, token: Token) -> Option<Lent> {
        let Completion { result, more, payload, .. } = self.next(token);
        let (payload, lent) = match payload {
            Payload::None => (String::new(), None),
            Payload::Returned(bytes) => (format!("returned {}", bytes.escape_ascii()), None),
            Payload::Written(bytes) => (format!("written {}", bytes.escape_ascii()), None),
            Payload::Lent(lent) => {
                (format!("lent {}", self.machine.ring().bytes(&lent).escape_ascii()), Some(lent))
            }
        };
        self.answers.push(format!("{what}: {result:?} {more} {payload}"));
        lent
    }

    fn note_and_give_back(&mut self, what: &str, token: Token) {
        if let Some(lent) = self.note(what, token) {
            self.machine.ring().give_back(lent);
        }
    }

    fn note_client(&mut self, what: &str, client: usize) {
        let (bytes, end) = self.machine.client_read(client);
        // What a reset destroys depends on who was faster.
        let bytes = if end == End::Reset { Vec::new() } else { bytes };
        self.answers.push(format!("{what}: {} {end:?}", bytes.escape_ascii()));
    }

    /// Nothing completes in a while.
    fn note_silence(&mut self, what: &str) {
        let timeout = Some(Duration::from_millis(30));
        self.machine.ring().turn(timeout, &mut self.completions).expect("a turn");
        self.answers.push(format!("{what}: {}", self.completions.is_empty()));
    }

    fn accepted(&mut self) -> Fd {
        self.machine.connect();
        let listener = self.machine.listener();
        self.machine.ring().accept(ACCEPT, listener, AcceptMode::Single);
        let completion = self.next(ACCEPT);
        assert!(!completion.more);
        Fd(completion.result.expect("a connection") as i32)
    }

    fn close(&mut self, fd: Fd) {
        self.machine.ring().close(OTHER, fd);
        self.note("close", OTHER);
    }
}

/// Plays a scenario on both machines and compares what they answer.
macro_rules! agree {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let mut kernel = Scene::new(Kernel::new());
            scenario::$name(&mut kernel);
            let mut simulated = Scene::new(Simulated::new());
            scenario::$name(&mut simulated);
            assert!(!kernel.answers.is_empty());
            assert_eq!(simulated.answers, kernel.answers, "left the simulation, right the kernel");
        }
    )*};
}

agree! {
    accepting
    cancelling
    cancelling_everything
    a_reset_after_bytes
    a_reset_before_the_accept
    a_client_that_closed
    a_reset_ends_what_waits
    a_descriptor_that_is_not_open
    an_empty_pool
    closing_with_unread_input
    receiving_once
    closing_while_receiving
    shutting_down
    writing
    signalling
}

mod scenario {
    use super::*;

    pub(super) fn accepting(scene: &mut Scene<impl Machine>) {
        let listener = scene.machine.listener();
        (0..3).for_each(|_| scene.machine.connect());
        scene.machine.ring().accept(ACCEPT, listener, AcceptMode::Single);
        scene.machine.ring().accept(OTHER, listener, AcceptMode::Multishot);
        let mut fds = Vec::new();
        for token in [ACCEPT, OTHER, OTHER] {
            let completion = scene.next(token);
            scene.answers.push(format!("{:?} {}", completion.result.is_ok(), completion.more));
            fds.push(Fd(completion.result.expect("a connection") as i32));
        }
        fds.into_iter().for_each(|fd| scene.close(fd));
        scene.machine.ring().cancel(CANCEL, OTHER);
        scene.note("cancelled accept", OTHER);
        scene.note("cancel", CANCEL);
    }

    pub(super) fn cancelling(scene: &mut Scene<impl Machine>) {
        let fd = scene.accepted();
        scene.machine.ring().cancel(CANCEL, RECV);
        scene.note("nothing to cancel", CANCEL);
        scene.machine.ring().recv(RECV, fd);
        scene.machine.ring().cancel(CANCEL, RECV);
        scene.note("recv", RECV);
        scene.note("cancel", CANCEL);
        scene.machine.client_send(0, b"first");
        scene.machine.ring().recv(RECV, fd);
        scene.machine.ring().cancel(CANCEL, RECV);
        scene.note_and_give_back("bytes come first", RECV);
        scene.note("recv", RECV);
        scene.note("cancel", CANCEL);
        // Operations that hold bytes are not found by their token.
        let (ear, _) = scene.machine.create_bell();
        scene.machine.ring().await_signal(OTHER, ear);
        scene.machine.ring().cancel(CANCEL, OTHER);
        scene.note("cancel", CANCEL);
        scene.machine.ring().cancel_all(CANCEL, ear);
        scene.note("cancel_all", CANCEL);
        scene.note("await_signal", OTHER);
        scene.close(fd);
    }

    pub(super) fn cancelling_everything(scene: &mut Scene<impl Machine>) {
        let fd = scene.accepted();
        scene.machine.ring().cancel_all(CANCEL, fd);
        scene.note("nothing", CANCEL);
        scene.machine.ring().recv(RECV, fd);
        scene.machine.ring().send(SEND, fd, vec![0; 32 << 20], 0);
        scene.machine.ring().cancel_all(CANCEL, fd);
        scene.note("recv", RECV);
        let completion = scene.next(SEND);
        let short = completion.result.is_ok_and(|len| len > 0 && len < 32 << 20);
        scene.answers.push(format!("send: {short}, {}", matches!(completion.payload, Payload::Returned(_))));
        scene.note("cancel_all", CANCEL);
        scene.close(fd);
    }

    pub(super) fn a_reset_after_bytes(scene: &mut Scene<impl Machine>) {
        let fd = scene.accepted();
        scene.machine.client_send(0, b"bytes");
        scene.machine.client_reset(0);
        let peer = scene.machine.ring().peer(fd);
        scene.answers.push(format!("peer {peer:?}"));
        scene.machine.ring().recv(RECV, fd);
        scene.note_and_give_back("bytes", RECV);
        scene.note("reset", RECV);
        scene.machine.ring().recv(RECV, fd);
        scene.note("told once", RECV);
        scene.machine.ring().send(SEND, fd, b"reply".to_vec(), 0);
        scene.note("send", SEND);
        scene.machine.ring().shutdown_write(fd);
        scene.close(fd);
    }

    pub(super) fn a_reset_before_the_accept(scene: &mut Scene<impl Machine>) {
        scene.machine.connect();
        scene.machine.client_reset(0);
        let listener = scene.machine.listener();
        scene.machine.ring().accept(ACCEPT, listener, AcceptMode::Multishot);
        let fd = Fd(scene.next(ACCEPT).result.expect("a connection") as i32);
        let peer = scene.machine.ring().peer(fd);
        scene.answers.push(format!("peer {peer:?}"));
        scene.machine.ring().send(SEND, fd, b"reply".to_vec(), 0);
        scene.note("send", SEND);
        scene.machine.ring().recv(RECV, fd);
        scene.note("recv", RECV);
        scene.close(fd);
    }

    pub(super) fn a_client_that_closed(scene: &mut Scene<impl Machine>) {
        let fd = scene.accepted();
        scene.machine.client_close(0);
        scene.machine.ring().recv(RECV, fd);
        scene.note("end", RECV);
        scene.machine.ring().send(SEND, fd, b"to nobody".to_vec(), 3);
        scene.note("send", SEND);
        scene.note_silence("the reset comes");
        scene.machine.ring().recv(RECV, fd);
        scene.note("end again", RECV);
        scene.machine.ring().send(SEND, fd, b"to nobody".to_vec(), 0);
        scene.note("send", SEND);
        scene.close(fd);
    }

    pub(super) fn a_reset_ends_what_waits(scene: &mut Scene<impl Machine>) {
        let fd = scene.accepted();
        scene.machine.ring().recv(RECV, fd);
        scene.note_silence("armed");
        scene.machine.client_reset(0);
        scene.note("recv", RECV);
        scene.close(fd);
    }

    pub(super) fn a_descriptor_that_is_not_open(scene: &mut Scene<impl Machine>) {
        let fd = Fd(1_000_000);
        let ring = scene.machine.ring();
        ring.recv(RECV, fd);
        ring.send(SEND, fd, b"bytes".to_vec(), 1);
        ring.accept(ACCEPT, fd, AcceptMode::Multishot);
        ring.cancel_all(CANCEL, fd);
        ring.shutdown_write(fd);
        for token in [RECV, SEND, ACCEPT, CANCEL] {
            scene.note("not open", token);
        }
        scene.machine.ring().write(OTHER, fd, 0, BlockBuffer::from(b"bytes"), true);
        scene.note("write", OTHER);
        scene.machine.ring().sync(OTHER, fd);
        scene.note("sync", OTHER);
        scene.machine.ring().await_signal(OTHER, fd);
        scene.note("await_signal", OTHER);
        let peer = scene.machine.ring().peer(fd);
        scene.answers.push(format!("peer {peer:?}"));
    }

    pub(super) fn an_empty_pool(scene: &mut Scene<impl Machine>) {
        let fd = scene.accepted();
        let pool_len = usize::from(BUFFERS_COUNT) * BUFFER_LEN as usize;
        scene.machine.ring().recv(RECV, fd);
        scene.machine.client_send(0, &vec![b'x'; pool_len + 100]);
        let mut lent = Vec::new();
        (0..BUFFERS_COUNT).for_each(|_| lent.extend(scene.note("bytes", RECV)));
        scene.note("no buffers", RECV);
        scene.machine.ring().recv(RECV, fd);
        scene.note("still none", RECV);
        lent.into_iter().for_each(|buffer| scene.machine.ring().give_back(buffer));
        scene.machine.ring().recv(RECV, fd);
        let mut lent = Vec::new();
        (0..2).for_each(|_| lent.extend(scene.note("bytes", RECV)));
        for _ in 0..2 {
            scene.machine.client_send(0, b"y");
            lent.extend(scene.note("bytes", RECV));
        }
        scene.machine.client_half_close(0);
        scene.note("an end is not told without a buffer", RECV);
        lent.into_iter().for_each(|buffer| scene.machine.ring().give_back(buffer));
        scene.machine.ring().recv(RECV, fd);
        scene.note("end", RECV);
        scene.close(fd);
    }

    pub(super) fn closing_with_unread_input(scene: &mut Scene<impl Machine>) {
        let fd = scene.accepted();
        scene.machine.client_send(0, b"not read");
        scene.machine.ring().send(SEND, fd, b"the last reply".to_vec(), 0);
        scene.note("send", SEND);
        scene.close(fd);
        scene.note_client("client", 0);
    }

    pub(super) fn receiving_once(scene: &mut Scene<impl Machine>) {
        let fd = scene.accepted();
        scene.machine.ring().recv_once(RECV, fd);
        scene.note_silence("nothing has come");
        scene.machine.client_send(0, b"first");
        scene.note_and_give_back("first", RECV);
        scene.machine.client_send(0, b"second");
        scene.note_silence("it is over");
        scene.machine.ring().recv_once(RECV, fd);
        scene.note_and_give_back("second", RECV);
        scene.machine.ring().recv_once(RECV, fd);
        scene.machine.ring().cancel(CANCEL, RECV);
        scene.note("recv", RECV);
        scene.note("cancel", CANCEL);
        scene.machine.client_half_close(0);
        scene.machine.ring().recv_once(RECV, fd);
        scene.note_and_give_back("end", RECV);
        scene.close(fd);
    }

    pub(super) fn closing_while_receiving(scene: &mut Scene<impl Machine>) {
        let fd = scene.accepted();
        scene.machine.ring().recv(RECV, fd);
        scene.note_silence("armed");
        scene.close(fd);
        scene.note_client("still connected", 0);
        scene.machine.client_send(0, b"bytes");
        scene.note_and_give_back("still received", RECV);
        scene.machine.ring().cancel(CANCEL, RECV);
        scene.note("recv", RECV);
        scene.note("cancel", CANCEL);
        scene.note_client("ended", 0);
    }

    pub(super) fn shutting_down(scene: &mut Scene<impl Machine>) {
        let fd = scene.accepted();
        scene.machine.ring().send(SEND, fd, b"xxreply".to_vec(), 2);
        scene.note("send", SEND);
        for _ in 0..2 {
            scene.machine.ring().shutdown_write(fd);
        }
        scene.machine.ring().send(SEND, fd, b"more".to_vec(), 0);
        scene.note("send", SEND);
        scene.note_client("client", 0);
        scene.machine.client_send(0, b"still heard");
        scene.machine.client_half_close(0);
        scene.machine.ring().recv(RECV, fd);
        scene.note_and_give_back("bytes", RECV);
        for _ in 0..2 {
            scene.note("end", RECV);
            scene.machine.ring().recv(RECV, fd);
        }
        scene.note("end", RECV);
        scene.close(fd);
        scene.note_client("client", 0);
    }

    pub(super) fn writing(scene: &mut Scene<impl Machine>) {
        let file = scene.machine.create_file(10);
        let writes: [(u64, &[u8], bool); 4] =
            [(2, b"abcd", false), (4, b"XY", true), (15, b"beyond", true), (0, b"", false)];
        for (offset, bytes, durable) in writes {
            scene.machine.ring().write(OTHER, file, offset, BlockBuffer::from(bytes), durable);
            scene.note("write", OTHER);
            scene.machine.ring().sync(OTHER, file);
            scene.note("sync", OTHER);
        }
        let content = scene.machine.content(file);
        scene.answers.push(content.escape_ascii().to_string());
    }

    pub(super) fn signalling(scene: &mut Scene<impl Machine>) {
        let (ear, button) = scene.machine.create_bell();
        for _ in 0..2 {
            scene.machine.ring().signal(OTHER, button);
            scene.note("signal", OTHER);
        }
        scene.machine.ring().await_signal(RECV, ear);
        scene.note("await_signal", RECV);
        scene.machine.ring().await_signal(RECV, ear);
        scene.note_silence("waits");
        scene.machine.ring().signal(OTHER, button);
        scene.note("signal", OTHER);
        scene.note("await_signal", RECV);
    }
}

/// What was sent by the client in seeded pieces, received, sent back in seeded pieces, and read.
fn echo(scene: &mut Scene<impl Machine>, random: &mut Random) {
    let fd = scene.accepted();
    scene.machine.ring().recv(RECV, fd);
    let mut received = Vec::new();
    for _ in 0..random.len(0..=8) {
        let piece: Vec<u8> = (0..random.len(1..=500)).map(|_| random.next() as u8).collect();
        scene.machine.client_send(0, &piece);
        let whole_len = received.len() + piece.len();
        while received.len() < whole_len {
            let completion = scene.next(RECV);
            match completion.payload {
                Payload::Lent(lent) => {
                    received.extend_from_slice(scene.machine.ring().bytes(&lent));
                    scene.machine.ring().give_back(lent);
                }
                _ => assert_eq!(completion.result, Err(Errno::NO_BUFFERS)),
            }
            if !completion.more {
                scene.machine.ring().recv(RECV, fd);
            }
        }
    }
    scene.machine.client_half_close(0);
    while scene.next(RECV).result == Err(Errno::NO_BUFFERS) {
        scene.machine.ring().recv(RECV, fd);
    }
    let mut sent_len = 0;
    while sent_len < received.len() {
        let end = random.len(sent_len + 1..=received.len());
        scene.machine.ring().send(SEND, fd, received[..end].to_vec(), sent_len);
        sent_len += scene.next(SEND).result.expect("sent") as usize;
    }
    scene.machine.ring().shutdown_write(fd);
    scene.close(fd);
    scene.note_client("echo", 0);
}

#[test]
fn echoes() {
    for seed in 0..50 {
        let mut kernel = Scene::new(Kernel::new());
        echo(&mut kernel, &mut Random::new(seed));
        let mut simulated = Scene::new(Simulated::new());
        echo(&mut simulated, &mut Random::new(seed));
        simulated.machine.simulation.assert_quiet();
        assert_eq!(simulated.answers, kernel.answers, "seed {seed}");
    }
}
