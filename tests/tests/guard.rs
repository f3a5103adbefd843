//! Whom a worker lets wait, turns away and cuts off, on a simulated machine: each bound of the connections is reached.

use std::time::Duration;

use ringmx::limits;
use ringmx::session::{EarlyTalker, Guard};
use ringmx_ring::sim::{Client, ClientState, Faults};
use tests::simulation::machine::{Machine, Plan};

const FAULT: &[u8] = b"XYZZY\r\n";

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn machine(guard: Guard) -> Machine {
    Machine::new(1, &Plan { guard, ..Plan::default() })
}

fn take(machine: &Machine, client: Client) -> String {
    String::from_utf8(machine.simulation.take(client)).expect("ASCII")
}

/// What is said to a client that says this.
fn say(machine: &mut Machine, client: Client, octets: &[u8]) -> String {
    machine.simulation.send(client, octets);
    machine.settle();
    take(machine, client)
}

#[test]
fn more_than_can_be_told_are_closed_without_a_word() {
    let mut machine = Machine::new(1, &Plan { connections_max: 1, ..Plan::default() });
    let (served, _) = machine.connect();
    machine.settle();
    let clients: Vec<Client> =
        (0..limits::SHED_CONNECTIONS_COUNT_MAX + 10).map(|_| machine.connect().0).collect();
    machine.settle();
    let told = clients.iter().filter(|client| take(&machine, **client).starts_with("421 4.3.2 ")).count();
    assert_eq!(told, limits::SHED_CONNECTIONS_COUNT_MAX);
    assert_eq!(machine.stats.connections_shed.get() as usize, clients.len());
    machine.pass(limits::LINGER_TIME_MAX + secs(1));
    assert_eq!(machine.stats.connections_now.get(), 1);
    assert!(take(&machine, served).starts_with("220 "));
    machine.finish();
}

#[test]
fn an_eleventh_connection_is_refused_until_one_has_gone() {
    let mut guard = Guard::default();
    guard.client_limits.client.open_max = Some(10);
    let mut machine = machine(guard);
    let clients: Vec<Client> = (0..10).map(|_| machine.connect().0).collect();
    machine.settle();
    let (eleventh, _) = machine.connect();
    machine.settle();
    assert!(take(&machine, eleventh).starts_with("421 4.7.0 too many connections "));
    assert_eq!((machine.stats.clients_limited.get(), machine.stats.connections_shed.get()), (1, 0));
    machine.simulation.reset(clients[3]);
    machine.simulation.close(eleventh);
    machine.settle();
    let (next, _) = machine.connect();
    machine.settle();
    assert!(take(&machine, next).starts_with("220 "));
    machine.finish();
}

/// Who is over its limit and comes again and again takes neither the places of others nor their refusals.
#[test]
fn a_client_over_its_limit_keeps_nobody_out() {
    let mut guard = Guard::default();
    guard.client_limits.client.open_max = Some(1);
    let mut machine = Machine::new(1, &Plan { connections_max: 3, guard, ..Plan::default() });
    let clients: Vec<Client> = (0..300).map(|_| machine.connect().0).collect();
    machine.settle();
    let told = clients.iter().filter(|client| take(&machine, **client).starts_with("421 4.7.0 ")).count();
    assert!((1..=limits::SHED_CONNECTIONS_COUNT_MAX).contains(&told), "{told}");
    assert_eq!(machine.stats.clients_limited.get() + machine.stats.connections_shed.get(), 299);
    let others = ["203.0.113.1:1025", "203.0.113.2:1025"].map(|address| machine.connect_from(address));
    machine.settle();
    assert!(others.iter().all(|client| take(&machine, *client).starts_with("220 ")));
    machine.pass(limits::LINGER_TIME_MAX + secs(1));
    assert_eq!(machine.stats.connections_now.get(), 3);
    machine.finish();
}

#[test]
fn a_tarpit_reads_nothing_and_holds_nothing() {
    let mut machine = machine(Guard { tarpit: secs(5), ..Guard::default() });
    let (client, _) = machine.connect();
    machine.settle();
    let faults = FAULT.repeat(usize::from(limits::FAULTS_COUNT_MAX / 2) + 1);
    let replies = say(&mut machine, client, &faults);
    assert_eq!(replies.matches("500 5.5.1").count(), 11, "each is answered at once: {replies}");
    let before = machine.stats.octets_received.get();
    machine.simulation.send(client, b"NOOP\r\n");
    machine.pass(secs(4));
    assert_eq!((machine.stats.octets_received.get(), &take(&machine, client)[..]), (before, ""));
    machine.pass(secs(2));
    assert!(take(&machine, client).starts_with("250 "));
    // The next fault costs the same again.
    machine.simulation.send(client, &[FAULT, b"QUIT\r\n"].concat());
    machine.pass(secs(3));
    assert!(take(&machine, client).starts_with("500 "));
    machine.pass(secs(3));
    assert!(take(&machine, client).starts_with("221 "));
    assert_eq!(machine.stats.tarpits.get(), 2);
    machine.finish();
}

#[test]
fn a_client_that_leaves_a_tarpit_is_gone() {
    for leave in [ringmx_ring::sim::Simulation::reset, ringmx_ring::sim::Simulation::close] {
        let mut machine = machine(Guard { tarpit: secs(5), ..Guard::default() });
        let (client, _) = machine.connect();
        machine.settle();
        say(&mut machine, client, &FAULT.repeat(11));
        leave(&machine.simulation, client);
        machine.pass(secs(20));
        assert_eq!(machine.stats.connections_now.get(), 0);
        machine.finish();
    }
}

#[test]
fn a_greeting_waits_for_early_talkers() {
    for early_talker in [EarlyTalker::Reject, EarlyTalker::Close, EarlyTalker::Note] {
        let mut machine = machine(Guard { greet_delay: secs(5), early_talker, ..Guard::default() });
        let [patient, early] = [(); 2].map(|()| machine.connect().0);
        machine.pass(secs(2));
        machine.simulation.send(early, b"EHLO client.example\r\n");
        machine.pass(secs(2));
        assert_eq!(take(&machine, patient), "");
        let said = take(&machine, early);
        let expected = if early_talker == EarlyTalker::Reject { "554 5.5.0 " } else { "" };
        assert!(
            said.starts_with(expected) && said.is_empty() == expected.is_empty(),
            "{early_talker:?}: {said}"
        );
        machine.pass(secs(2));
        assert!(take(&machine, patient).starts_with("220 "));
        let said = take(&machine, early);
        if early_talker == EarlyTalker::Note {
            assert!(said.starts_with("220 ") && said.contains("\r\n250 "), "{said}");
        } else {
            assert_eq!(said, "");
            machine.pass(limits::LINGER_TIME_MAX);
            assert_eq!(machine.simulation.state(early), ClientState::Ended);
        }
        assert_eq!(machine.stats.early_talkers.get(), 1);
        machine.finish();
    }
}

#[test]
fn a_proxy_names_the_client_in_any_pieces() {
    let header = b"PROXY TCP4 203.0.113.9 192.0.2.25 40001 25\r\n";
    for at in 0..=header.len() {
        let proxies = ["198.51.100.0/24".parse().expect("a network")].into_iter().collect();
        let mut machine = machine(Guard { proxies, ..Guard::default() });
        let (client, _) = machine.connect();
        machine.settle();
        assert_eq!(take(&machine, client), "");
        let (head, tail) = header.split_at(at);
        let (first, second) = (say(&mut machine, client, head), say(&mut machine, client, tail));
        assert!([first, second].concat().starts_with("220 "), "split at {at}");
        machine.finish();
    }
}

#[test]
fn a_proxy_without_a_header_is_cut_off_in_silence() {
    let proxies = ["198.51.100.0/24".parse().expect("a network")].into_iter().collect();
    let mut machine = machine(Guard { proxies, ..Guard::default() });
    let [silent, other] = [(); 2].map(|()| machine.connect().0);
    machine.settle();
    assert_eq!(say(&mut machine, other, b"EHLO client.example\r\n"), "");
    machine.pass(limits::PROXY_HEADER_TIME_MAX + limits::LINGER_TIME_MAX + secs(1));
    for client in [silent, other] {
        assert_eq!(take(&machine, client), "");
        assert_eq!(machine.simulation.state(client), ClientState::Ended);
    }
    assert_eq!((machine.stats.proxies_refused.get(), machine.stats.faults.get()), (2, 0));
    machine.finish();
}

/// An octet a minute keeps no session open, neither within a command nor within content.
#[test]
fn a_client_that_drips_is_cut_off() {
    let content = &b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n"[..];
    for (head, within) in [(&b""[..], 300), (content, 180)] {
        let mut machine = machine(Guard::default());
        let (client, _) = machine.connect();
        machine.settle();
        say(&mut machine, client, head);
        let mut said = String::new();
        for _ in 0..within / 60 {
            machine.simulation.send(client, b"x");
            machine.pass(secs(60));
            said += &take(&machine, client);
        }
        machine.pass(secs(1));
        said += &take(&machine, client);
        assert!(said.starts_with("421 4.4.2 "), "{said}");
        machine.finish();
    }
}

/// Enough for each time-out, and yet not for ever.
#[test]
fn content_has_a_time_for_all_of_it() {
    let mut machine = machine(Guard::default());
    let (client, _) = machine.connect();
    machine.settle();
    say(&mut machine, client, b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n");
    take(&machine, client);
    for _ in 0..limits::DATA_TIME_MAX.as_secs() / 160 {
        machine.simulation.send(client, &[b'x'; limits::DATA_PROGRESS_LEN as usize]);
        machine.pass(secs(160));
        assert_eq!(take(&machine, client), "");
    }
    machine.simulation.send(client, &[b'x'; limits::DATA_PROGRESS_LEN as usize]);
    machine.pass(secs(161));
    assert!(take(&machine, client).starts_with("421 4.4.2 content takes too long"));
    machine.finish();
}

/// The last reply has a time to be sent, however much the client sends meanwhile.
#[test]
fn a_last_reply_that_nobody_reads_is_given_up() {
    let mut plan = Plan::default();
    plan.settings.socket_buffer_len = 64..=64;
    let mut machine = Machine::new(1, &plan);
    let (client, _) = machine.connect();
    machine.settle();
    machine.simulation.set_reading(client, false);
    machine.simulation.send(client, b"EHLO a\r\nQUIT\r\n");
    machine.pass(limits::LAST_REPLY_TIME_MAX - secs(1));
    assert_eq!(machine.stats.connections_now.get(), 1);
    machine.pass(secs(2));
    assert_eq!(machine.stats.connections_now.get(), 0);
    machine.finish();
}

/// Behind the last reply, what still comes is read and thrown away, but neither for long nor much of it.
#[test]
fn lingering_has_a_time_and_an_amount() {
    let mut machine = machine(Guard::default());
    let [silent, busy] = [(); 2].map(|()| machine.connect().0);
    machine.settle();
    for client in [silent, busy] {
        assert!(say(&mut machine, client, b"QUIT\r\n").contains("221 "));
    }
    let before = machine.stats.octets_received.get();
    machine.simulation.send(busy, &vec![b'x'; 3 * limits::LINGER_LEN_MAX]);
    machine.pass(secs(1));
    assert_eq!(machine.stats.connections_now.get(), 1, "too much of it ends it at once");
    let received = (machine.stats.octets_received.get() - before) as usize;
    assert!((limits::LINGER_LEN_MAX..2 * limits::LINGER_LEN_MAX).contains(&received), "{received}");
    machine.pass(limits::LINGER_TIME_MAX);
    assert_eq!(machine.stats.connections_now.get(), 0);
    machine.finish();
}

/// Each connection has a message under way, and sends as much behind it as a turn can bring.
#[test]
fn input_behind_many_commits_is_bounded() {
    let mut plan = Plan { segment_capacity: 1 << 20, connections_max: 500, ..Plan::default() };
    plan.settings.write_time_max = secs(200);
    plan.settings.buffer_len = 16 << 10;
    plan.settings.socket_buffer_len = 1 << 20..=1 << 20;
    let mut machine = Machine::new(9, &plan);
    let turn_len_max = usize::from(plan.settings.buffers_count) * plan.settings.buffer_len;
    let clients: Vec<Client> = (0..450).map(|_| machine.connect().0).collect();
    machine.pass(secs(1));
    let message = b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\nx\r\n.\r\n";
    clients.iter().for_each(|client| machine.simulation.send(*client, message));
    machine.pass(secs(1));
    let mut held_max = 0;
    for client in &clients {
        machine.simulation.send(*client, &b"NOOP\r\n".repeat(40_000));
        machine.turn_until(Some(machine.simulation.now() + Duration::from_millis(1)));
        held_max = held_max.max(machine.stats.input_octets_now.get() as usize);
    }
    assert!(held_max > limits::PARKED_INPUTS_LEN_MAX / 2, "{held_max}: the test reaches the bound");
    assert!(held_max <= limits::PARKED_INPUTS_LEN_MAX + turn_len_max, "{held_max}");
    assert!(machine.stats.inputs_dropped.get() > 0);
    clients.iter().for_each(|client| machine.simulation.reset(*client));
    machine.pass(secs(400));
    assert_eq!(machine.stats.input_octets_now.get(), 0);
    machine.finish();
}

#[test]
fn accepting_pauses_when_it_fails() {
    let mut plan = Plan::default();
    plan.settings.faults = Faults { accept_error: 1.0, ..Faults::NONE };
    let mut machine = Machine::new(1, &plan);
    // Of these, some are aborted while they wait, which is no reason to pause.
    for _ in 0..100 {
        machine.connect();
    }
    machine.pass(limits::ACCEPT_PAUSE * 10);
    let turns = machine.stats.turns.get();
    assert!(turns < 60, "it does not ask again and again: {turns} turns");
    machine.simulation.set_faults(Faults::NONE);
    let (client, _) = machine.connect();
    machine.pass(limits::ACCEPT_PAUSE * 2);
    assert!(take(&machine, client).starts_with("220 "));
    machine.finish();
}
