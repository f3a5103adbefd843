//! Whole sessions: whatever comes in whatever pieces.

use std::time::Duration;

use ringmx::limits;
use ringmx::policy::newline::BareNewline;
use ringmx::protocol::proxy;
use ringmx::session::Error;

use crate::matrix::{self, LINES, Model, State};
use crate::oracle;
use crate::pair::{Commits, Options, Pair, Stored};
use crate::phases::{GUARDED, PHASES, Phase, WITHIN_CHUNKS};
use crate::proxy::{self as slow_proxy, Read};
use crate::random::Random;

/// A session in the phase that the first octet names, its journal and its tarpit as the second says; the third seeds
/// the splits.
/// Whatever comes in whatever pieces, replies and stored messages are the same, and at the end nothing is held.
pub fn fuzz_session(data: &[u8]) {
    let [phase, journal, seed, input @ ..] = data else { return };
    let phases = [PHASES, WITHIN_CHUNKS, GUARDED].concat();
    let phase = phases[usize::from(*phase) % phases.len()];
    let whole = converse(phase, *journal, &[input]);
    let pieces = oracle::random_pieces(input, &mut Random::new(u64::from(*seed)));
    assert_eq!(converse(phase, *journal, &pieces), whole, "{phase:?} in pieces");
    for message in &whole.1 {
        assert!(!message.recipients.is_empty());
        assert!(message.recipients.iter().all(|mailbox| {
            let domain = mailbox.rsplit(|&octet| octet == b'@').next().unwrap_or_default();
            mailbox == b"postmaster"
                || domain.eq_ignore_ascii_case(b"example.com")
                || domain.starts_with(b"[")
        }));
    }
}

/// A PROXY header, and a session behind it: read as the slow reader reads it, from every prefix of it and in pieces.
/// The first octet seeds the pieces.
pub fn fuzz_proxy(data: &[u8]) {
    let Some((&seed, input)) = data.split_first() else { return };
    let read = |input: &[u8]| match proxy::parse(input) {
        Ok(None) => Read::Begun,
        Ok(Some((header, consumed))) => Read::Header(header.origin, consumed),
        Err(_) => Read::Malformed,
    };
    let whole = read(input);
    assert_eq!(whole, slow_proxy::read(input));
    // What comes behind does not change what was decided.
    let mut decided = Read::Begun;
    for end in 0..=input.len().min(limits::PROXY_HEADER_LEN_MAX) {
        let now = read(&input[..end]);
        assert!(decided == Read::Begun || decided == now, "{end} octets: {decided:?}, then {now:?}");
        decided = now;
    }
    let mut options = Options::default();
    options.guard.proxies = ["192.0.2.0/24".parse().expect("a network")].into_iter().collect();
    let converse = |pieces: &[&[u8]]| {
        let mut pair = Pair::new(&options);
        pair.greet(None);
        assert!(pair.replies().is_empty(), "the proxy speaks first");
        pieces.iter().for_each(|piece| pair.send(piece));
        let is_closed = pair.is_closed();
        let replies = pair.replies();
        pair.wait(Duration::from_secs(3600));
        pair.replies();
        assert!(pair.is_closed(), "time runs out");
        (is_closed, replies)
    };
    let (is_closed, replies) = converse(&[input]);
    assert_eq!(replies.is_empty(), !matches!(whole, Read::Header(..)), "greeted behind a header only");
    assert!(is_closed || whole != Read::Malformed);
    let pieces = oracle::random_pieces(input, &mut Random::new(u64::from(seed)));
    assert_eq!(converse(&pieces), (is_closed, replies), "in pieces");
}

fn converse(phase: Phase, journal: u8, pieces: &[&[u8]]) -> (Vec<u8>, Vec<Stored>) {
    let mut options = Options { max_message_size: 2000, memory_max: 1 << 20, ..Options::default() };
    if journal & 4 != 0 {
        options.guard.tarpit = Duration::from_secs(1);
    }
    let mut pair = phase.pair(&options);
    let result = if journal & 1 == 0 { Ok(()) } else { Err(Error::SpoolFailed) };
    if pair.is_committing() {
        pair.complete(result);
    }
    match (journal & 2 == 0, result) {
        (true, Ok(())) => pair.set_commits(Commits::Succeed),
        (true, Err(error)) => pair.set_commits(Commits::Fail(error)),
        (false, _) => pair.set_commits(Commits::Wait),
    }
    for piece in pieces {
        pair.send(piece);
        while pair.is_committing() {
            pair.complete(result);
        }
    }
    // A client that is made to wait is read from later.
    pair.wait(Duration::from_secs(3600));
    while pair.is_committing() {
        pair.complete(result);
        pair.wait(Duration::from_secs(3600));
    }
    assert!(pair.is_closed(), "time runs out in every phase");
    (pair.replies(), std::mem::take(&mut pair.stored))
}

/// Messages in chunks of BDAT: an octet for each chunk says how long it is and whether it is the last, and its octets
/// follow. The first octet seeds the splits. Each chunk is answered, and what is stored is what the oracle makes of all
/// chunks of a message, wherever they were cut.
pub fn fuzz_bdat(data: &[u8]) {
    let Some((&seed, mut rest)) = data.split_first() else { return };
    let (mut input, mut codes, mut stored) = (b"EHLO client.example\r\n".to_vec(), vec![250], Vec::new());
    let (mut content, mut is_open, mut refused_count) = (Vec::new(), false, 0);
    while let [head, tail @ ..] = rest
        // Within the session's budgets.
        && refused_count < limits::FAULTS_COUNT_MAX - 1
        && codes.len() < limits::COMMANDS_COUNT_MAX as usize - 10
    {
        let (chunk, behind) = tail.split_at(usize::from(head & 0x7f).min(tail.len()));
        let is_last = head & 0x80 != 0;
        rest = behind;
        if !is_open {
            input.extend_from_slice(b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n");
            codes.extend([250, 250]);
            content.clear();
        }
        is_open = !is_last;
        let last = if is_last { " LAST" } else { "" };
        input.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
        input.extend_from_slice(chunk);
        content.extend_from_slice(chunk);
        let decoding = oracle::decode_chunks(&content);
        let is_taken = !is_last || BareNewline::Normalize.verdict(decoding.end).is_ok();
        codes.push(if is_taken { 250 } else { 554 });
        match (is_last, is_taken) {
            (true, true) => {
                stored.push(decoding.content);
                refused_count = 0;
            }
            (true, false) => refused_count += 1,
            (false, _) => {}
        }
    }
    input.extend_from_slice(b"QUIT\r\n");
    codes.push(221);
    let converse = |pieces: &[&[u8]]| {
        let mut pair = Pair::greeted(&Options::default());
        pair.set_commits(Commits::Succeed);
        pieces.iter().for_each(|piece| pair.send(piece));
        // The session goes on when its client has read what there is room for.
        let mut replies = Vec::new();
        loop {
            let more = pair.replies();
            if more.is_empty() {
                break;
            }
            replies.extend(more);
        }
        assert!(pair.is_closed());
        let contents: Vec<Vec<u8>> = pair.stored.iter().map(|message| message.content.clone()).collect();
        (matrix::codes(&replies), contents)
    };
    let expected = (codes, stored);
    assert_eq!(converse(&[&input]), expected, "{}", input.escape_ascii());
    let pieces = oracle::random_pieces(&input, &mut Random::new(u64::from(seed)));
    assert_eq!(converse(&pieces), expected, "in pieces: {}", input.escape_ascii());
}

/// Lines of the matrix, an octet for each, behind the phase and the seed of the splits: answered as the model says.
pub fn fuzz_walk(data: &[u8]) {
    let [phase, seed, walk @ ..] = data else { return };
    let phase = PHASES[usize::from(*phase) % PHASES.len()];
    let (mut model, mut input, mut expected) = (Model::new(phase), Vec::new(), Vec::new());
    for step in walk {
        let (line, class) = LINES[usize::from(*step) % LINES.len()];
        expected.extend(model.line(line, class));
        input.extend_from_slice(line.as_bytes());
        input.extend_from_slice(b"\r\n");
    }
    let mut pair = phase.pair(&Options::default());
    if pair.is_committing() {
        pair.complete(Ok(()));
        pair.set_commits(Commits::Succeed);
        pair.replies();
    }
    for piece in oracle::random_pieces(&input, &mut Random::new(u64::from(*seed))) {
        pair.send(piece);
    }
    assert_eq!(matrix::codes(&pair.replies()), expected, "{phase:?}: {}", input.escape_ascii());
    assert_eq!(pair.is_closed(), model.state == State::Closed, "{phase:?}: {}", input.escape_ascii());
}
