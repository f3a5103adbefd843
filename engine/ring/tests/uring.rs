//! The real ring against the real kernel.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use ringmx_ring::{
    AcceptMode, BlockBuffer, Completion, Doorbell, Errno, Fd, Options, Payload, Ring, Token, Uring,
};

const ACCEPT: Token = Token::new(1, 0, 0);
const RECV: Token = Token::new(2, 0, 0);
const SEND: Token = Token::new(3, 0, 0);
const WRITE: Token = Token::new(4, 0, 0);
const OTHER: Token = Token::new(5, 0, 0);

fn small_ring() -> Uring {
    Uring::new(Options { entries: 8, buffers_count: 4, buffer_len: 64 }).expect("io_uring")
}

fn next(ring: &mut Uring, token: Token) -> Completion {
    let mut completions = Vec::new();
    for _ in 0..100 {
        ring.turn(Some(Duration::from_millis(100)), &mut completions).expect("a turn");
        if let Some(index) = completions.iter().position(|c| c.token == token) {
            let found = completions.swap_remove(index);
            assert!(completions.iter().all(|c| matches!(c.payload, Payload::None)), "{completions:?}");
            return found;
        }
    }
    panic!("no completion of {token:?}: {completions:?}");
}

fn accepted(ring: &mut Uring) -> (TcpListener, TcpStream, Fd) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    ring.accept(ACCEPT, Fd(listener.as_raw_fd()), AcceptMode::Multishot);
    let completion = next(ring, ACCEPT);
    assert!(completion.more);
    let fd = completion.result.expect("a connection") as i32;
    assert_eq!(ring.peer(Fd(fd)), client.local_addr().ok());
    (listener, client, Fd(fd))
}

#[test]
fn a_conversation() {
    let mut ring = small_ring();
    let (_listener, mut client, fd) = accepted(&mut ring);
    ring.recv(RECV, fd);
    client.write_all(b"ping").expect("written");
    let completion = next(&mut ring, RECV);
    let Payload::Lent(lent) = completion.payload else { panic!("{completion:?}") };
    assert_eq!((ring.bytes(&lent), lent.len(), completion.more), (&b"ping"[..], 4, true));
    ring.give_back(lent);

    ring.send(SEND, fd, b"--pong".to_vec(), 2);
    let completion = next(&mut ring, SEND);
    assert_eq!(completion.result, Ok(4));
    assert!(matches!(completion.payload, Payload::Returned(bytes) if bytes == b"--pong"));
    ring.shutdown_write(fd);
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("read");
    assert_eq!(answer, "pong");

    client.shutdown(Shutdown::Write).expect("shut");
    let completion = next(&mut ring, RECV);
    assert_eq!((completion.result, completion.more), (Ok(0), false));
    ring.close(OTHER, fd);
    assert_eq!(next(&mut ring, OTHER).result, Ok(0));
}

#[test]
fn what_came_since_the_last_turn_is_known_before_the_next() {
    let mut ring = small_ring();
    let (_listener, mut client, fd) = accepted(&mut ring);
    ring.recv(RECV, fd);
    let mut none = Vec::new();
    ring.turn(Some(Duration::from_millis(1)), &mut none).expect("a turn");
    assert!(none.is_empty() && !ring.has_more());
    client.write_all(b"ping").expect("written");
    // On the loopback what is written has arrived.
    assert!(ring.has_more());
    let completion = next(&mut ring, RECV);
    assert!(!ring.has_more());
    let Payload::Lent(lent) = completion.payload else { panic!("{completion:?}") };
    ring.give_back(lent);
}

#[test]
fn cancelled_operations_end() {
    let mut ring = small_ring();
    let (_listener, _client, fd) = accepted(&mut ring);
    ring.recv(RECV, fd);
    ring.cancel(OTHER, RECV);
    assert_eq!(next(&mut ring, RECV).result, Err(Errno::CANCELED));

    // A client that reads nothing: the send cannot end by itself.
    ring.send(SEND, fd, vec![0; 32 << 20], 0);
    ring.cancel_all(OTHER, fd);
    let completion = next(&mut ring, SEND);
    assert!(completion.result != Ok(32 << 20), "{:?}", completion.result);
    ring.close(OTHER, fd);
}

#[test]
fn receiving_stops_without_buffers_and_goes_on_with_them() {
    let mut ring = small_ring();
    let (_listener, mut client, fd) = accepted(&mut ring);
    ring.recv(RECV, fd);
    client.write_all(&[b'x'; 1000]).expect("written");
    let (mut completions, mut lent) = (Vec::new(), Vec::new());
    let ended = 'received: loop {
        ring.turn(Some(Duration::from_secs(5)), &mut completions).expect("a turn");
        for completion in completions.drain(..).filter(|c| c.token == RECV) {
            match completion.payload {
                Payload::Lent(buffer) => lent.push(buffer),
                _ => break 'received completion.result,
            }
        }
    };
    assert_eq!((ended, lent.len()), (Err(Errno::NO_BUFFERS), 4));
    lent.into_iter().for_each(|buffer| ring.give_back(buffer));
    ring.recv(RECV, fd);
    ring.turn(Some(Duration::from_secs(5)), &mut completions).expect("a turn");
    assert_eq!(completions[0].result, Ok(64), "{completions:?}");
}

#[test]
fn more_operations_than_the_queue_holds() {
    let mut ring = small_ring();
    let mut file = tempfile();
    let total = 200;
    (0..total).for_each(|n| {
        ring.write(Token::new(4, 0, n), Fd(file.as_raw_fd()), u64::from(n), b"a".into(), false)
    });
    let (mut completions, mut seen) = (Vec::new(), 0);
    while seen < total {
        ring.turn(Some(Duration::from_secs(5)), &mut completions).expect("a turn");
        seen += completions.drain(..).map(|c| assert_eq!(c.result, Ok(1))).count() as u32;
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content).expect("read");
    assert_eq!(content.len(), total as usize);
}

#[test]
fn durable_writes_and_signals() {
    let mut ring = small_ring();
    let file = tempfile();
    ring.write(WRITE, Fd(file.as_raw_fd()), 4096, BlockBuffer::from(b"content"), true);
    assert_eq!(next(&mut ring, WRITE).result, Ok(7));
    assert_eq!(file.metadata().expect("a file").len(), 4103);
    ring.sync(WRITE, Fd(file.as_raw_fd()));
    assert_eq!(next(&mut ring, WRITE).result, Ok(0));

    let bell = Doorbell::new().expect("a bell");
    bell.will_wait();
    ring.await_signal(RECV, bell.fd());
    ring.signal(OTHER, bell.take_sleeper().expect("somebody waits"));
    assert_eq!(next(&mut ring, RECV).result, Ok(1));
}

#[test]
fn a_ring_that_ends_early_takes_its_operations_along() {
    let mut ring = small_ring();
    let (_listener, _client, fd) = accepted(&mut ring);
    ring.recv(RECV, fd);
    ring.send(SEND, fd, vec![0; 32 << 20], 0);
    ring.turn(Some(Duration::ZERO), &mut Vec::new()).expect("a turn");
    drop(ring);
    // SAFETY: accepted above and closed nowhere else.
    drop(unsafe { OwnedFd::from_raw_fd(fd.0) });
}

fn tempfile() -> std::fs::File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    rustix::fs::memfd_create("ring-test", flags).expect("a memory file").into()
}

/// How many of twenty connections to one socket each of two rings gets.
fn shares(mode: AcceptMode) -> [usize; 2] {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let (mut rings, mut shares) = ([small_ring(), small_ring()], [0, 0]);
    for ring in &mut rings {
        ring.accept(ACCEPT, Fd(listener.as_raw_fd()), mode);
        ring.turn(Some(Duration::ZERO), &mut Vec::new()).expect("a turn");
    }
    let mut clients = Vec::new();
    while clients.len() < 20 {
        clients.push(TcpStream::connect(listener.local_addr().expect("bound")).expect("connected"));
        while shares.iter().sum::<usize>() < clients.len() {
            for (ring, share) in rings.iter_mut().zip(&mut shares) {
                let mut completions = Vec::new();
                ring.turn(Some(Duration::from_millis(1)), &mut completions).expect("a turn");
                *share += completions.len();
                if completions.iter().any(|completion| !completion.more) {
                    ring.accept(ACCEPT, Fd(listener.as_raw_fd()), mode);
                    ring.turn(Some(Duration::ZERO), &mut Vec::new()).expect("a turn");
                }
            }
        }
    }
    shares
}

/// Those who wait on one socket are woken one at a time, and a multishot accept keeps its place in the queue.
#[test]
fn single_shot_accepts_share_a_socket_and_multishot_ones_do_not() {
    assert!(shares(AcceptMode::Single).iter().all(|&share| share > 2));
    assert!(shares(AcceptMode::Multishot).contains(&20));
}
