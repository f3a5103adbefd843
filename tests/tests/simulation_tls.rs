//! TLS on a simulated machine: what a turn does of handshakes while the clock goes as a test tells it.

use std::time::Duration;

use ringmx::limits;
use ringmx::session::TlsMode;
use tests::simulation::machine::{Machine, Plan};
use tests::simulation::wire::Wire;

const CLIENTS_COUNT: usize = 12;

/// A client whose ClientHello is ready, and not sent.
fn ready(machine: &mut Machine) -> Wire {
    let (client, _) = machine.connect();
    let mut wire = machine.wire(client);
    while wire.records_len() == 0 {
        machine.settle();
        assert!(wire.take(&machine.simulation).is_empty());
    }
    wire
}

/// Who comes at the same time is served by turns, and somebody in clear at once.
#[test]
fn a_turn_gives_handshakes_its_part_of_the_time_and_one_at_least() {
    let time_max = limits::HANDSHAKES_TURN_TIME_MAX;
    for (step, at_once) in [(time_max * 3, 1), (time_max, 1), (time_max / 2, 2), (time_max / 4, 4)] {
        let mut machine = Machine::new(1, &Plan { tls: TlsMode::StartTls, ..Plan::default() });
        let mut wires: Vec<Wire> = (0..CLIENTS_COUNT).map(|_| ready(&mut machine)).collect();
        let (client, _) = machine.connect();
        machine.settle();
        machine.simulation.take(client);
        machine.ledger.borrow_mut().clock_step = step;
        for wire in &mut wires {
            let len = wire.records_len();
            wire.send_records(&machine.simulation, len);
        }
        machine.simulation.send(client, b"NOOP\r\n");
        let commands = machine.stats.commands.get();
        let (mut done_count, mut waited_turns) = (0, 0);
        while done_count < CLIENTS_COUNT {
            let (turns, sends) = (machine.stats.handshake_turns.get(), machine.ledger.borrow().sends);
            let answered = machine.stats.commands.get();
            machine.turn();
            if machine.stats.handshake_turns.get() == turns {
                continue;
            }
            let answers = machine.stats.commands.get() - answered;
            let count = (machine.ledger.borrow().sends - sends - answers) as usize;
            assert!((1..=at_once).contains(&count), "{count} handshakes in a turn, {step:?} each");
            done_count += count;
            waited_turns += usize::from(count == at_once && done_count < CLIENTS_COUNT);
        }
        assert!(waited_turns > 1, "{step:?} each: nobody had to wait");
        assert_eq!(machine.stats.commands.get() - commands, 1, "in clear there is no need to wait");
        machine.ledger.borrow_mut().clock_step = Duration::ZERO;
        machine.settle();
        assert_eq!(machine.simulation.take(client), b"250 2.0.0 ok\r\n");
        machine.finish();
    }
}
