use std::collections::HashSet;
use std::time::Duration;

use super::*;
use crate::{AcceptMode, BlockBuffer, Completion, Payload, Ring, Token};

const ACCEPT: Token = Token::new(1, 0, 0);
const RECV: Token = Token::new(2, 0, 0);
const SEND: Token = Token::new(3, 0, 0);
const WRITE: Token = Token::new(4, 0, 0);
const CLOSE: Token = Token::new(5, 0, 0);
const OTHER: Token = Token::new(6, 0, 0);

fn calm(settings: Settings) -> (Simulation, SimRing, Fd) {
    let simulation = Simulation::new(1, settings);
    let (ring, listener) = (simulation.ring(), simulation.listen());
    (simulation, ring, listener)
}

fn turn(ring: &mut SimRing) -> Vec<Completion> {
    let mut completions = Vec::new();
    ring.turn(None, &mut completions).expect("power");
    completions
}

/// Turns until nothing happens any more.
fn turns(simulation: &Simulation, ring: &mut SimRing) -> Vec<Completion> {
    let mut completions = Vec::new();
    for _ in 0..1000 {
        ring.turn(None, &mut completions).expect("power");
        if simulation.is_idle() {
            return completions;
        }
    }
    panic!("no rest: {completions:?}");
}

fn only(completions: Vec<Completion>) -> Completion {
    let [completion] = <[_; 1]>::try_from(completions).expect("one completion");
    completion
}

/// As the kernel writes a result: below zero it is an errno.
fn code(result: Result<u32, Errno>) -> i64 {
    result.map_or_else(|error| -i64::from(error.0), i64::from)
}

/// Tokens and results in the order of the tokens' kinds, for what may complete in any order.
fn sorted(completions: &[Completion]) -> Vec<(u8, i64, bool)> {
    let mut results: Vec<_> = completions.iter().map(|c| (c.token.kind(), code(c.result), c.more)).collect();
    results.sort_unstable();
    results
}

/// Accepts one connection by a single-shot operation.
fn accept(ring: &mut SimRing, listener: Fd) -> Fd {
    ring.accept(ACCEPT, listener, AcceptMode::Single);
    let completion = only(turn(ring));
    assert!(!completion.more);
    Fd(completion.result.expect("a connection") as i32)
}

fn with_faults(faults: Faults) -> Settings {
    Settings { faults, ..Settings::default() }
}

#[test]
fn a_conversation() {
    let (simulation, mut ring, listener) = calm(Settings::default());
    let client = simulation.connect_from(listener, ([198, 51, 100, 7], 4321).into());
    let fd = accept(&mut ring, listener);
    assert_eq!(ring.peer(fd), Some(([198, 51, 100, 7], 4321).into()));
    ring.recv(RECV, fd);
    simulation.send(client, b"ping");
    let completion = only(turn(&mut ring));
    let Payload::Lent(lent) = completion.payload else { panic!("{completion:?}") };
    assert_eq!((ring.bytes(&lent), completion.result, completion.more), (&b"ping"[..], Ok(4), true));
    ring.give_back(lent);

    ring.send(SEND, fd, b"--pong".to_vec(), 2);
    let completion = only(turn(&mut ring));
    assert_eq!(completion.result, Ok(4));
    assert!(matches!(completion.payload, Payload::Returned(bytes) if bytes == b"--pong"));
    ring.shutdown_write(fd);
    simulation.half_close(client);
    assert_eq!(sorted(&turns(&simulation, &mut ring)), [(2, 0, false)]);
    assert_eq!((simulation.take(client), simulation.state(client)), (b"pong".to_vec(), ClientState::Ended));
    ring.close(CLOSE, fd);
    assert_eq!(only(turn(&mut ring)).result, Ok(0));
    assert_eq!((simulation.state(client), ring.peer(fd)), (ClientState::Ended, None));
    simulation.assert_quiet();
}

#[test]
fn the_clock_goes_to_the_next_event_the_time_out_or_the_stop() {
    let (simulation, mut ring, listener) = calm(Settings::default());
    let mut none = Vec::new();
    ring.turn(Some(Duration::from_secs(5)), &mut none).expect("power");
    assert_eq!((none.len(), simulation.now()), (0, Duration::from_secs(5)));
    assert_eq!(ring.clock().unix, Duration::from_secs(1_700_000_005));
    simulation.stop_at(Some(Duration::from_secs(7)));
    ring.turn(Some(Duration::from_secs(60)), &mut none).expect("power");
    ring.turn(None, &mut none).expect("power");
    assert_eq!((none.len(), simulation.now()), (0, Duration::from_secs(7)));
    simulation.stop_at(None);
    ring.turn(None, &mut none).expect("power");
    assert!(none.is_empty() && simulation.is_idle());

    let file = simulation.create_file(4096);
    ring.write(WRITE, file, 0, BlockBuffer::from(&[1]), true);
    assert_eq!(only(turn(&mut ring)).token, WRITE);
    assert!(simulation.now() > Duration::from_secs(7));
    assert!(simulation.now() <= Duration::from_secs(7) + Settings::default().write_time_max);
    assert_eq!(simulation.state(simulation.connect(file)), ClientState::Refused);
    assert_eq!(simulation.state(simulation.connect(listener)), ClientState::Open);
}

#[test]
fn what_came_since_the_last_turn_is_known_before_the_next() {
    let (simulation, mut ring, listener) = calm(Settings::default());
    let client = simulation.connect(listener);
    let fd = accept(&mut ring, listener);
    ring.recv(RECV, fd);
    assert!(turn(&mut ring).is_empty() && !ring.has_more());
    simulation.send(client, b"ping");
    while !ring.has_more() {
        assert!(turn(&mut ring).is_empty(), "it travels");
    }
    let Payload::Lent(lent) = only(turn(&mut ring)).payload else { panic!("nothing received") };
    assert!(!ring.has_more());
    ring.give_back(lent);
}

#[test]
fn a_closed_number_is_used_again_but_an_armed_operation_keeps_the_connection() {
    let (simulation, mut ring, listener) = calm(Settings::default());
    let (first, second) = (simulation.connect(listener), simulation.connect(listener));
    let fd = accept(&mut ring, listener);
    ring.recv(RECV, fd);
    ring.close(CLOSE, fd);
    ring.send(SEND, fd, b"late".to_vec(), 0);
    let completions = turns(&simulation, &mut ring);
    let results: Vec<_> = completions.iter().map(|c| (c.token, c.result)).collect();
    assert_eq!(results, [(CLOSE, Ok(0)), (SEND, Err(Errno::BAD_DESCRIPTOR))]);
    assert!(matches!(&completions[1].payload, Payload::Returned(bytes) if bytes == b"late"));
    assert_eq!(simulation.state(first), ClientState::Open);
    assert_eq!(accept(&mut ring, listener), fd);
    ring.cancel(OTHER, RECV);
    assert_eq!(sorted(&turns(&simulation, &mut ring)), [(2, -125, false), (6, 0, false)]);
    assert_eq!((simulation.state(first), simulation.state(second)), (ClientState::Ended, ClientState::Open));
}

#[test]
fn a_client_that_does_not_read_makes_sends_wait() {
    let settings = Settings { socket_buffer_len: 10..=10, ..Settings::default() };
    let (simulation, mut ring, listener) = calm(settings);
    let client = simulation.connect(listener);
    let fd = accept(&mut ring, listener);
    simulation.set_reading(client, false);
    ring.send(SEND, fd, vec![b'x'; 35], 0);
    assert!(turns(&simulation, &mut ring).is_empty() && simulation.take(client).is_empty());
    simulation.set_reading(client, true);
    assert_eq!(only(turns(&simulation, &mut ring)).result, Ok(35));
    assert_eq!(simulation.take(client), [b'x'; 35]);

    simulation.set_reading(client, false);
    ring.send(SEND, fd, vec![b'x'; 35], 0);
    ring.cancel_all(OTHER, fd);
    assert_eq!(sorted(&turns(&simulation, &mut ring)), [(3, 10, false), (6, 1, false)]);
}

#[test]
fn an_empty_pool_ends_receives() {
    let settings = Settings { buffers_count: 2, buffer_len: 4, ..Settings::default() };
    let (simulation, mut ring, listener) = calm(settings);
    let client = simulation.connect(listener);
    let fd = accept(&mut ring, listener);
    simulation.send(client, b"0123456789");
    ring.recv(RECV, fd);
    let mut completions = turns(&simulation, &mut ring);
    let last = completions.pop().expect("a completion");
    assert_eq!((last.result, last.more, completions.len()), (Err(Errno::NO_BUFFERS), false, 2));
    for completion in completions {
        let Payload::Lent(lent) = completion.payload else { panic!("{completion:?}") };
        ring.give_back(lent);
    }
    ring.recv(RECV, fd);
    assert_eq!(turns(&simulation, &mut ring)[0].result, Ok(2));
}

#[test]
fn descriptors_run_out_as_the_kernel_says_it() {
    let (simulation, mut ring, listener) = calm(Settings { fds_max: 2, ..Settings::default() });
    simulation.connect(listener);
    let fd = accept(&mut ring, listener);
    ring.accept(ACCEPT, listener, AcceptMode::Multishot);
    let completion = only(turn(&mut ring));
    assert_eq!((completion.result, completion.more), (Err(Errno::PROCESS_FILES), false));
    ring.close(CLOSE, fd);
    ring.accept(ACCEPT, listener, AcceptMode::Multishot);
    assert_eq!(only(turn(&mut ring)).token, CLOSE);
    simulation.close_fd(listener);
    assert_eq!(simulation.state(simulation.connect(listener)), ClientState::Refused);
}

#[test]
fn signals_count() {
    let (simulation, mut ring, _) = calm(Settings::default());
    let bell = simulation.create_bell();
    ring.await_signal(RECV, bell);
    assert!(turn(&mut ring).is_empty());
    simulation.signal(bell);
    simulation.signal(bell);
    let completion = only(turn(&mut ring));
    assert_eq!(completion.result, Ok(2));
    assert!(matches!(completion.payload, Payload::Returned(bytes) if bytes.starts_with(b"!!\0")));
    ring.signal(OTHER, bell);
    assert_eq!(only(turn(&mut ring)).result, Ok(1));
    assert_eq!((simulation.take_signals(bell), simulation.take_signals(bell)), (1, 0));
}

#[test]
fn a_power_cut_keeps_what_completed_as_durable_and_tears_the_rest() {
    let mut torn = HashSet::new();
    for seed in 0..200 {
        let mut simulation = Simulation::new(seed, Settings::default());
        let mut ring = simulation.ring();
        let file = simulation.create_file(8192);
        ring.write(WRITE, file, 0, BlockBuffer::from(&[1; 2048]), true);
        assert_eq!(only(turn(&mut ring)).result, Ok(2048));
        ring.write(WRITE, file, 2048, BlockBuffer::from(&[2; 1024]), false);
        assert_eq!(only(turn(&mut ring)).result, Ok(1024));
        ring.write(WRITE, file, 4096, BlockBuffer::from(&[3; 1024]), true);
        ring.turn(Some(Duration::ZERO), &mut Vec::new()).expect("power");
        ring.write(WRITE, file, 6144, BlockBuffer::from(&[4; 1024]), true);
        assert!(simulation.durable_content(file)[2048..].iter().all(|byte| *byte == 0));

        let disk = simulation.crash();
        assert!(ring.turn(None, &mut Vec::new()).is_err(), "seed {seed}");
        let content = disk.file(file);
        assert_eq!((content.len(), &content[..2048]), (8192, &[1; 2048][..]), "seed {seed}");
        torn.insert([2048, 2560, 4096, 4608, 6144, 6656].map(|offset| content[offset]));
    }
    assert!(torn.len() > 30, "{}", torn.len());
}

#[test]
fn a_sync_covers_the_writes_that_completed_before_it_was_asked_for() {
    let mut torn = HashSet::new();
    for seed in 0..200 {
        let mut simulation = Simulation::new(seed, with_faults(Faults::HARMLESS));
        let mut ring = simulation.ring();
        let file = simulation.create_file(4096);
        ring.write(WRITE, file, 0, BlockBuffer::from(&[1; 1024]), false);
        turns(&simulation, &mut ring);
        ring.write(WRITE, file, 2048, BlockBuffer::from(&[2; 1024]), false);
        ring.sync(OTHER, file);
        let ended = turns(&simulation, &mut ring);
        assert!(ended.iter().any(|end| end.token == OTHER && end.result == Ok(0)), "seed {seed}");
        let content = simulation.crash().file(file).to_vec();
        assert!(content[..1024].iter().all(|byte| *byte == 1), "seed {seed}");
        torn.insert([2048, 2560].map(|offset| content[offset]));
    }
    assert_eq!(torn.len(), 4);
}

#[test]
fn failed_and_short_writes_tell_the_truth() {
    let faults = Faults { write_error: 0.3, short_write: 0.3, ..Faults::NONE };
    let mut seen = HashSet::new();
    for seed in 0..200 {
        let mut simulation = Simulation::new(seed, with_faults(faults));
        let mut ring = simulation.ring();
        let file = simulation.create_file(2048);
        ring.write(WRITE, file, 0, BlockBuffer::from(&[1; 2048]), true);
        let result = only(turn(&mut ring)).result;
        let content = simulation.crash().file(file).to_vec();
        let reached = content.iter().filter(|byte| **byte == 1).count();
        match result {
            Ok(len) => assert_eq!(reached, len as usize, "seed {seed}"),
            Err(Errno::NO_SPACE) => assert_eq!(reached, 0, "seed {seed}"),
            Err(error) => assert_eq!(error, Errno::IO, "seed {seed}"),
        }
        seen.insert(code(result).clamp(-28, 1) * i64::from(result != Ok(2048)));
    }
    assert_eq!(seen, HashSet::from([0, 1, -5, -28]));

    let (simulation, mut ring, _) = calm(Settings::default());
    let file = simulation.create_file(0);
    simulation.set_write_error(Some(Errno::NO_SPACE));
    ring.write(WRITE, file, 0, BlockBuffer::from(&[1]), true);
    assert_eq!(only(turn(&mut ring)).result, Err(Errno::NO_SPACE));
    simulation.set_write_error(None);
    ring.write(WRITE, file, u64::MAX, BlockBuffer::from(&[1]), true);
    assert_eq!(only(turn(&mut ring)).result, Err(Errno(27)));
}

#[test]
fn every_end_of_a_cancelled_receive_occurs() {
    let faults = Faults { cancel_race: 0.7, delay: 0.3, reorder: 0.5, ..Faults::NONE };
    let mut seen = HashSet::new();
    for seed in 0..300 {
        let simulation = Simulation::new(seed, with_faults(faults));
        let (mut ring, listener) = (simulation.ring(), simulation.listen());
        let client = simulation.connect(listener);
        let fd = accept(&mut ring, listener);
        ring.recv(RECV, fd);
        turn(&mut ring);
        simulation.send(client, b"bytes");
        simulation.half_close(client);
        ring.cancel(OTHER, RECV);
        let completions = turns(&simulation, &mut ring);
        assert_eq!(completions.iter().filter(|c| c.token == RECV && !c.more).count(), 1, "seed {seed}");
        let received =
            completions.iter().filter(|c| c.token == RECV).map(|c| code(c.result)).collect::<Vec<_>>();
        let cancelled = completions.iter().find(|c| c.token == OTHER).map(|c| code(c.result));
        let cancel_is_first = completions[0].token == OTHER;
        seen.insert((received, cancelled, cancel_is_first));
    }
    for expected in [
        (vec![-125], Some(0), true),
        (vec![-125], Some(0), false),
        (vec![5, -125], Some(0), false),
        (vec![5, -125], Some(-114), true),
    ] {
        assert!(seen.contains(&expected), "{expected:?} is not among {seen:?}");
    }
}

#[test]
fn a_ring_that_ends_takes_its_operations_along() {
    let (simulation, mut ring, listener) = calm(Settings { buffers_count: 1, ..Settings::default() });
    let client = simulation.connect(listener);
    let fd = accept(&mut ring, listener);
    ring.recv(RECV, fd);
    simulation.send(client, b"bytes");
    assert_eq!(turn(&mut ring).len(), 1);
    ring.send(SEND, fd, b"bytes".to_vec(), 0);
    drop(ring);
    let mut ring = simulation.ring();
    assert!(turns(&simulation, &mut ring).is_empty());
    ring.close(CLOSE, fd);
    assert_eq!(only(turn(&mut ring)).result, Ok(0));
    simulation.assert_quiet();
}

fn misused(misuse: impl FnOnce(&Simulation, &mut SimRing, Fd)) {
    let (simulation, mut ring, listener) = calm(Settings::default());
    simulation.connect(listener);
    let fd = accept(&mut ring, listener);
    misuse(&simulation, &mut ring, fd);
    turn(&mut ring);
}

#[test]
#[should_panic(
    expected = "seed 1, at 0ns: recv on Fd(4) while Token(kind 2, generation 0, slot 0) is in flight"
)]
fn two_receives_on_one_socket() {
    misused(|_, ring, fd| {
        ring.recv(RECV, fd);
        ring.recv(OTHER, fd);
    });
}

#[test]
#[should_panic(expected = "seed 1, at 0ns: write on Fd(5) while")]
fn two_writes_to_one_place() {
    misused(|simulation, ring, _| {
        let file = simulation.create_file(0);
        ring.write(WRITE, file, 0, BlockBuffer::from(&[0; 513]), true);
        ring.write(WRITE, file, 512, BlockBuffer::from(&[0; 512]), true);
    });
}

#[test]
#[should_panic(expected = "seed 1, at 0ns: close of Fd(4), which is not open")]
fn a_close_too_many() {
    misused(|_, ring, fd| {
        ring.close(CLOSE, fd);
        ring.close(CLOSE, fd);
    });
}

#[test]
#[should_panic(expected = "seed 1, at 0ns: buffer 0 is given back twice")]
fn a_buffer_given_back_twice() {
    misused(|_, ring, _| ring.give_back(crate::Lent { buffer_index: 0, len: 0 }));
}

#[test]
#[should_panic(expected = "seed 1, at 0ns: not quiet, still open: [(Fd(4), Connection(0))]")]
fn a_connection_left_open() {
    misused(|simulation, _, _| simulation.assert_quiet());
}

#[test]
#[should_panic(expected = "seed 1, at 0ns: not quiet, in flight: [\"recv of Token(kind 2")]
fn an_operation_left_in_flight() {
    misused(|simulation, ring, fd| {
        ring.recv(RECV, fd);
        turn(ring);
        simulation.assert_quiet();
    });
}

#[test]
#[should_panic(expected = "seed 1, at 0ns: recv on File(0)")]
fn an_operation_on_the_wrong_kind_of_descriptor() {
    misused(|simulation, ring, _| ring.recv(RECV, simulation.create_file(0)));
}
