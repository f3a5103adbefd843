//! A session from outside: how it ends in every phase, every split of a conversation. `matrix.rs` has what it answers.

use std::time::Duration;

use tests::matrix::LINES;
use tests::pair::{Commits, Options, Pair, Stored};
use tests::phases::{GUARDED, PHASES, Phase, WITHIN_CHUNKS};

#[test]
fn time_runs_out_behind_every_pair_of_commands_in_every_phase() {
    for phase in PHASES.iter().chain(GUARDED).chain(WITHIN_CHUNKS) {
        for (first, _) in LINES {
            for (second, _) in LINES.iter().step_by(3) {
                let mut pair = phase.pair(&Options::default());
                pair.send(format!("{first}\r\n{second}\r\n").as_bytes());
                if pair.is_committing() {
                    pair.complete(Ok(()));
                }
                pair.replies();
                pair.wait(Duration::from_secs(3600));
                pair.replies();
                assert!(pair.is_closed(), "{phase:?}: {first:?} {second:?}: time runs out");
            }
        }
    }
}

#[test]
fn a_session_ends_cleanly_in_every_phase() {
    for phase in PHASES.iter().chain(GUARDED).chain(WITHIN_CHUNKS) {
        type End = fn(&mut Pair, Phase);
        let ends: [End; 4] = [
            |pair, _| pair.vanish(),
            |pair, _| pair.end_input(),
            |pair, _| pair.wait(Duration::from_secs(3600)),
            |pair, phase| {
                pair.stop();
                pair.send(&vec![b'x'; phase.left_len()]);
                pair.send(b"\r\n.\r\nQUIT\r\n");
            },
        ];
        for end in ends {
            let mut pair = phase.pair(&Options::default());
            end(&mut pair, *phase);
            if pair.is_committing() {
                pair.complete(Ok(()));
                pair.wait(Duration::from_secs(3600));
            }
            if pair.is_delayed() {
                pair.wait(Duration::from_secs(3600));
            }
            pair.replies();
            assert!(pair.is_closed(), "{phase:?}");
            assert_eq!(pair.content_octets_held(), 0, "{phase:?}");
        }
    }
}

/// Much of what a session can meet, in few octets.
const CONVERSATION: &[u8] = b"EHLO c\r\nMAIL FROM:<a@b> SIZE=9\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<x@y>\r\nDATA\r\n\
    S: x\r\n\r\n..y\r\nz\nw\r.\xff\r\n.\r\nNO\rOP\r\nBDAT 5\r\nQUIT\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nDATA\r\n.\r\n\
    MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nx\n.\r\ny\r\n.\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:<\xc3\xa9@example.com>\
    \r\nBDAT 7\r\na\r\n.\r\nbBDAT 6 LAST\r\n\r\nc\nd\rRSET\r\nQUIT\r\nNOOP\r\n";

fn converse(pieces: &[&[u8]], commits: Commits) -> (Vec<u8>, Vec<Stored>) {
    let mut pair = Pair::greeted(&Options::default());
    pair.set_commits(commits);
    for piece in pieces {
        pair.send(piece);
        while pair.is_committing() {
            pair.complete(Ok(()));
        }
    }
    (pair.replies(), std::mem::take(&mut pair.stored))
}

#[test]
fn every_split_of_a_conversation_gives_the_same() {
    let whole = converse(&[CONVERSATION], Commits::Succeed);
    let text = String::from_utf8_lossy(&whole.0);
    assert!(whole.1.len() == 3 && text.contains("554 5.6.0") && text.ends_with("goodbye\r\n"), "{text}");
    assert_eq!(converse(&CONVERSATION.chunks(1).collect::<Vec<_>>(), Commits::Wait), whole);
    for first in 0..=CONVERSATION.len() {
        let (head, rest) = CONVERSATION.split_at(first);
        for second in (0..=rest.len()).step_by(3) {
            let (middle, tail) = rest.split_at(second);
            assert_eq!(
                converse(&[head, middle, tail], Commits::Wait),
                whole,
                "split at {first} and {second} on"
            );
        }
    }
}

#[test]
fn command_lines_at_the_limit_at_every_split() {
    use ringmx::limits::COMMAND_LINE_LEN_MAX;
    for len in COMMAND_LINE_LEN_MAX - 3..COMMAND_LINE_LEN_MAX + 4 {
        let line = [&b"NOOP "[..], &vec![b'x'; len - 7], b"\r\nNOOP\r\n"].concat();
        let whole = converse(&[&line], Commits::Succeed);
        let expected = if len <= COMMAND_LINE_LEN_MAX { "250 2.0.0" } else { "500 5.5.2" };
        assert!(whole.0.starts_with(expected.as_bytes()), "{len}");
        for at in 0..=line.len() {
            let (head, tail) = line.split_at(at);
            assert_eq!(converse(&[head, tail], Commits::Succeed), whole, "{len} octets, split at {at}");
        }
    }
}
