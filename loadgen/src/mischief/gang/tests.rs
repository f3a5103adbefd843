//! A gang driven by hand: what each kind says, and what is counted of it.

use super::*;
use crate::crew::Crew;
use crate::stats::ErrorKind;
use crate::workload::tests::recipe;

const DRIP_AFTER: usize = 1000;
const MS: u64 = 1_000_000;

fn gang(kind: Kind) -> Gang {
    gang_of(vec![(kind, 1)])
}

fn gang_of(counts: Vec<(Kind, u32)>) -> Gang {
    Gang::new(Plan {
        run: 1,
        first_connection: 10,
        counts,
        sources: Vec::new(),
        reply_timeout: Duration::from_secs(1),
        workload: Arc::new(Workload::new(&recipe(1000)).expect("room")),
        drip_after: DRIP_AFTER,
    })
}

/// A server that takes everything.
fn kind(sent: &[u8]) -> &'static [u8] {
    match sent.get(..4) {
        Some(b"EHLO" | b"MAIL" | b"RCPT") => b"250 ok\r\n",
        Some(b"DATA") => b"354 go\r\n",
        _ => b"",
    }
}

/// Plays kernel and server for so many milliseconds; gives all that was sent. A server that never `takes` leaves the
/// first send unfinished.
fn play(gang: &mut Gang, millis: u64, greeting: &[u8], takes: bool) -> Vec<Vec<u8>> {
    let mut sends = Vec::new();
    for now in (gang.now / MS..gang.now / MS + millis).map(|now| now * MS) {
        gang.advance(now);
        for slot in std::mem::take(&mut gang.wishes.opening) {
            gang.on_connected(slot);
            if gang.reads(slot) {
                gang.on_received(slot, now, greeting);
            }
        }
        for slot in std::mem::take(&mut gang.wishes.sending) {
            let mut out = Vec::new();
            gang.transmit(slot, now, &mut out);
            if out.is_empty() {
                continue;
            }
            if takes {
                gang.on_sent(slot);
            }
            let reply = kind(&out);
            sends.push(out);
            if gang.reads(slot) && gang.is_open(slot) && !reply.is_empty() {
                gang.on_received(slot, now, reply);
            }
        }
        for slot in std::mem::take(&mut gang.wishes.closing) {
            gang.on_closed(slot, now);
        }
    }
    sends
}

fn ended(mut gang: Gang) -> Tally {
    gang.stop(gang.now, false);
    for slot in std::mem::take(&mut gang.wishes.closing) {
        gang.on_closed(slot, gang.now);
    }
    assert!(gang.is_done() && gang.open_count == 0 && gang.opening_count == 0);
    gang.tallies().remove(0)
}

fn ends(octets: &[u8]) -> bool {
    octets.ends_with(b"\r\n.\r\n")
}

#[test]
fn drip_sends_an_octet_a_second_and_never_ends() {
    let mut gang = gang(Kind::Drip);
    let sends = play(&mut gang, 10_500, b"220 mx\r\n", true);
    let dripped = sends.iter().filter(|octets| octets.as_slice() == b"x").count();
    assert!((9..=10).contains(&dripped) && !sends.iter().any(|octets| ends(octets)), "{dripped}");
    let at_once: Vec<usize> = sends.iter().map(Vec::len).filter(|&len| len > DRIP_AFTER).collect();
    assert_eq!(at_once, [DRIP_AFTER + 1]);
    let tally = ended(gang);
    assert_eq!((tally.connections_opened, tally.done, tally.failed), (1, 1, 0));
}

#[test]
fn half_open_says_nothing_for_ever() {
    let mut gang = gang(Kind::HalfOpen);
    assert_eq!(play(&mut gang, 10_000, b"220 mx\r\n", true).len(), 0);
    let tally = ended(gang);
    assert_eq!((tally.connections_opened, tally.done), (1, 1));
}

#[test]
fn content_ends_half_way_before_a_reset_and_whole_before_vanishing() {
    for (kind, whole) in [(Kind::Rst, false), (Kind::Vanish, true)] {
        let mut gang = gang(kind);
        let sends = play(&mut gang, 1000, b"220 mx\r\n", true);
        let contents: Vec<_> = sends.iter().filter(|octets| octets.starts_with(b"Date: ")).collect();
        assert!(contents.iter().all(|octets| ends(octets) == whole), "{kind:?}");
        let tokens: std::collections::BTreeSet<_> = contents.iter().map(|octets| &octets[100..200]).collect();
        assert_eq!(tokens.len(), contents.len(), "each is a message of its own");
        let count = contents.len() as u64;
        let tally = ended(gang);
        // A pause lies between them.
        assert!((5..15).contains(&count), "{kind:?}: {count}");
        assert_eq!((tally.done, tally.failed, tally.refused), (count, 0, 0), "{kind:?}");
    }
}

#[test]
fn an_early_talker_does_not_wait_for_the_greeting() {
    let mut gang = gang(Kind::Early);
    let sends = play(&mut gang, 1000, b"", true);
    assert!(sends[0].starts_with(b"EHLO loadgen.example\r\nMAIL FROM:<"));
    gang.on_received(0, gang.now, b"554 5.5.0 too early\r\n");
    let tally = ended(gang);
    assert_eq!((tally.done, tally.refused), (1, 1));
}

#[test]
fn never_reads_is_done_when_the_server_takes_no_more() {
    let mut taken = gang(Kind::NeverReads);
    let sends = play(&mut taken, 1000, b"", true);
    assert!((45..55).contains(&sends.len()) && sends.iter().all(|octets| octets.len() <= 4096));
    assert_eq!(ended(taken).done, 0);
    let mut stuck = gang(Kind::NeverReads);
    assert_eq!(play(&mut stuck, 3000, b"", false).len(), 1);
    assert_eq!(ended(stuck).done, 1);
}

#[test]
fn refusals_closings_and_silence_are_told_apart() {
    let mut refused = gang(Kind::Vanish);
    play(&mut refused, 50, b"554 no\r\n", true);
    let mut closed = gang(Kind::Drip);
    play(&mut closed, 50, b"220 mx\r\n", true);
    closed.on_lost(0, ErrorKind::ConnectionReset, b"");
    let mut silent = gang(Kind::Rst);
    play(&mut silent, 1050, b"", true);
    let tallies = [refused, closed, silent].map(ended);
    let counts = tallies.map(|tally| [tally.refused, tally.ended_by_server, tally.failed]);
    assert_eq!(counts, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]);
}

#[test]
fn all_have_their_turn_where_nobody_can_connect() {
    let mut gang = gang_of(vec![(Kind::Drip, 1000), (Kind::Vanish, 1000)]);
    for now in (0..1000).map(|now| now * MS) {
        gang.advance(now);
        assert!(gang.opening_count <= OPENING_COUNT_MAX);
        for slot in std::mem::take(&mut gang.wishes.opening) {
            gang.on_lost(slot, ErrorKind::ConnectRefused, b"");
        }
        for slot in std::mem::take(&mut gang.wishes.closing) {
            gang.on_closed(slot, now);
        }
    }
    gang.stop(gang.now, false);
    assert!(gang.is_done());
    let failed: Vec<u64> = gang.tallies().iter().map(|tally| tally.failed).collect();
    assert!(failed.iter().all(|&count| count > 4000), "{failed:?}");
}
