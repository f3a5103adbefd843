//! What is fuzzed: plain functions of octets that panic when something does not hold.
//!
//! `tests/fuzz_smoke.rs` runs them for some seconds with seeded inputs, the libFuzzer targets in `fuzz/` for as long as
//! one likes. Adding one: write it here, add it to [`TARGETS`], and a file of three lines to `fuzz/fuzz_targets`.

use std::ops::Range;
use std::time::Duration;

use ringmx::config;
use ringmx::id::{MessageId, SessionId};
use ringmx::limits;
use ringmx::protocol::command::{self, Command};
use ringmx::protocol::envelope::{Envelope, Writer};
use ringmx::protocol::extension::{Extension, Extensions};
use ringmx::protocol::params::{MailParams, RcptParams};
use ringmx::protocol::path::{ForwardPath, Mailbox, ReversePath};
use ringmx::protocol::proxy;
use ringmx::session::Error;
use ringmx::spool::FORMAT_VERSION;
use ringmx::spool::ack::Ack;
use ringmx::spool::batch::Batch;
use ringmx::spool::record::{self, RecordMeta};
use ringmx::spool::recover;
use ringmx::spool::segment::{FIRST_BATCH_AT, Role, SegmentHeader};
use ringmx::spool::walk::{Found, Walk};
use ringmx_ring::BlockBuffer;

use crate::matrix::{self, LINES, Model, State};
use crate::oracle;
use crate::pair::{Commits, Options, Pair, Stored};
use crate::phases::{GUARDED, PHASES, Phase, WITHIN_CHUNKS};
use crate::proxy::{self as slow_proxy, Read};
use crate::random::Random;

/// A function to fuzz, and the words its inputs are made of.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub words: &'static [&'static str],
}

const COMMANDS: &[&str] = &[
    "EHLO client.example\r\n",
    "HELO x\r\n",
    "MAIL FROM:<a@example.org>\r\n",
    "MAIL FROM:<>",
    " SIZE=1000",
    " BODY=8BITMIME",
    "RCPT TO:<b@example.com>\r\n",
    "RCPT TO:<Postmaster>\r\n",
    "RCPT TO:<b@example.org>\r\n",
    "DATA\r\n",
    "RSET\r\n",
    "NOOP\r\n",
    "QUIT\r\n",
    "BDAT 5\r\n",
    "BDAT 0 LAST\r\n",
    "BDAT 30 LAST\r\n",
    " SMTPUTF8",
    "\r\n.\r\n",
    "\n.\r\n",
    "\r\n.\n",
    ".\r\n",
    "..",
    "\r\n",
    "\n",
    "\r",
    "Received: x\r\n",
    "\0",
    "\u{e9}",
];

const PATHS: &[&str] = &[
    "<",
    ">",
    "@",
    ":",
    ",",
    ".",
    "\"",
    "\\",
    "[",
    "]",
    "a",
    "b@example.com",
    "IPv6:",
    "::1",
    "192.0.2.1",
    "postmaster",
    "MAIL FROM:",
    "RCPT TO:",
    "EHLO ",
    " ",
    "-",
    "_",
    "<@x,@y:",
    "\u{e9}",
    "\x7f",
];

const PARAMS: &[&str] = &[
    " ",
    "SIZE=",
    "BODY=",
    "8BITMIME",
    "7BIT",
    "0",
    "18446744073709551616",
    "=",
    "X",
    "-",
    "\0",
    "SMTPUTF8",
    "RET=",
    "FULL",
    "HDRS",
    "ENVID=",
    "NOTIFY=",
    "NEVER",
    "SUCCESS",
    "DELAY",
    ",",
    "ORCPT=",
    "rfc822;",
    "utf-8;",
    "+2B",
    "\u{e9}",
];

const TOML: &[&str] = &[
    "hostname = \"mx.example\"\n",
    "workers = 2\n",
    "[[listener]]\nname = \"mx\"\nbind = [\"127.0.0.1:25\"]\n",
    "max_message_size = \"50MiB\"\n",
    "[spool]\npath = \"spool\"\n",
    "durability = \"none\"\n",
    "[recipients]\ndomains = [\"example.com\"]\n",
    "[[route]]\ndomains = [\"*\"]\ndeliver = \"maildir\"\npath = \"{domain}/{local}\"\n",
    "retry = [\"1m\"]\n",
    "[admin]\nbind = \"127.0.0.1:8025\"\n",
    "{ env = \"NO_SUCH_NAME\" }",
    "{ file = \"/dev/null\" }",
    "\"",
    "[",
    "]",
    "=",
    "\n",
];

const PROXY: &[&str] = &[
    "PROXY ",
    "TCP4 192.0.2.1 192.0.2.25 40000 25",
    "TCP6 2001:db8::1 ::1 40000 25",
    "UNKNOWN",
    "\r\n",
    " ",
    "0",
    "\r\n\r\n\0\r\nQUIT\n",
    "\x21\x11\0\x0c",
    "\x20\0\0\0",
    "\x03\0\x04",
    "\x05\0\x01",
    "\x20\0\x05",
    "EHLO x\r\n",
];

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "command", run: fuzz_command, words: COMMANDS },
    Target { name: "path", run: fuzz_path, words: PATHS },
    Target { name: "params", run: fuzz_params, words: PARAMS },
    Target {
        name: "decoder",
        run: fuzz_decoder,
        words: &["\r\n", "\r\n.", "\n", "\r", ".", "\0", "a", "text"],
    },
    Target { name: "session", run: fuzz_session, words: COMMANDS },
    Target { name: "walk", run: fuzz_walk, words: &["\0", "\u{8}", "\u{20}", "\u{27}", "\u{37}", "\u{40}"] },
    Target { name: "proxy", run: fuzz_proxy, words: PROXY },
    Target { name: "envelope", run: fuzz_envelope, words: &["\u{1}", "\u{0}", "\u{5}", "a@b"] },
    Target { name: "recover", run: fuzz_recover, words: &["RMXr", "RMXb", "\0\0\0\0\0\0\0\0"] },
    Target { name: "ack", run: fuzz_ack, words: &["\0\0\0\0"] },
    Target { name: "config", run: fuzz_config, words: TOML },
];

/// A line: what it means can be written down and read again.
pub fn fuzz_command(data: &[u8]) {
    let line = data.split(|&octet| octet == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let Ok(command) = command::parse(line, Extensions::DEFAULT.with(Extension::Dsn)) else { return };
    let verb = command.verb().as_bytes();
    assert!(line[..verb.len()].eq_ignore_ascii_case(verb));
    // RFC 5321 §4.1.1: white space before the line end is let through.
    let text = str::from_utf8(line.trim_ascii_end()).expect("only UTF-8 is taken");
    assert!(!text.contains(|c: char| c.is_ascii_control()), "no control octet is taken");
    match command {
        Command::Ehlo(name) | Command::Helo(name) => {
            assert!((1..=limits::DOMAIN_LEN_MAX).contains(&name.0.len()));
            assert!(!name.0.iter().any(|octet| b" ()<>,;\"\\".contains(octet)), "fit for a trace field");
        }
        Command::Mail(mail) => {
            if let ReversePath::Mailbox(mailbox) = mail.reverse_path {
                judge_mailbox(&mailbox);
            }
            assert!(line.is_ascii() || mail.params.smtputf8);
        }
        Command::Rcpt(rcpt) => {
            if let ForwardPath::Mailbox(mailbox) = rcpt.forward_path {
                judge_mailbox(&mailbox);
            }
        }
        _ => {}
    }
}

/// A path: its stored form is read back as the same.
pub fn fuzz_path(data: &[u8]) {
    if let Ok((path, rest)) = ForwardPath::parse(data) {
        assert!(data.ends_with(rest) && data.len() > rest.len());
        let mut stored = Vec::new();
        path.write(&mut stored);
        assert_eq!(ForwardPath::parse_stored(&stored), Ok(path));
    }
    if let Ok((ReversePath::Mailbox(mailbox), _)) = ReversePath::parse(data) {
        judge_mailbox(&mailbox);
    }
    if let Ok(mailbox) = Mailbox::parse(data) {
        judge_mailbox(&mailbox);
    }
}

fn judge_mailbox(mailbox: &Mailbox<'_>) {
    assert!((1..=limits::LOCAL_PART_LEN_MAX).contains(&mailbox.local_part.as_bytes().len()));
    assert!((1..=limits::DOMAIN_LEN_MAX).contains(&mailbox.domain.as_bytes().len()));
    let mut stored = Vec::new();
    mailbox.write(&mut stored);
    let text = str::from_utf8(&stored).expect("UTF-8");
    assert!(!text.contains(|c: char| c.is_control()));
    assert_eq!(Mailbox::parse(&stored).as_ref(), Ok(mailbox));
}

/// Parameters: what is taken is taken whatever the case of its letters, and unknown where it is not offered.
pub fn fuzz_params(data: &[u8]) {
    let (offered, upper) = (Extensions::DEFAULT.with(Extension::Dsn), data.to_ascii_uppercase());
    if let Ok(params) = MailParams::parse(data, offered) {
        let again = MailParams::parse(&upper, offered).expect("the same in capitals");
        assert_eq!((params.size, params.body, params.smtputf8), (again.size, again.body, again.smtputf8));
        assert_eq!(params.ret, again.ret);
        let without = MailParams::parse(data, Extensions::DEFAULT);
        assert_eq!(without.is_ok(), params.ret.is_none() && params.envid.is_none());
    }
    if let Ok(params) = RcptParams::parse(data, offered) {
        let again = RcptParams::parse(&upper, offered).expect("the same in capitals");
        assert_eq!(params.notify, again.notify);
        let without = RcptParams::parse(data, Extensions::DEFAULT);
        assert_eq!(without.is_ok(), params == RcptParams::default());
    }
}

/// Content: whole, by octets and in random pieces as the oracle says. The first octet seeds the pieces.
pub fn fuzz_decoder(data: &[u8]) {
    let Some((&seed, input)) = data.split_first() else { return };
    let mut random = Random::new(u64::from(seed));
    let expected = oracle::decode_chunks(input);
    assert_eq!(oracle::chunks_in_pieces([input]), expected);
    assert_eq!(oracle::chunks_in_pieces(input.chunks(1)), expected);
    assert_eq!(oracle::chunks_in_pieces(oracle::random_pieces(input, &mut random)), expected);
    oracle::assert_safe(&expected);

    let expected = oracle::decode(input);
    assert_eq!(oracle::decode_pieces([input]), expected);
    assert_eq!(oracle::decode_pieces(input.chunks(1)), expected);
    assert_eq!(oracle::decode_pieces(oracle::random_pieces(input, &mut random)), expected);
    if let Some(expected) = expected {
        oracle::assert_safe(&expected);
    }
}

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

/// An envelope: any octets are read or refused; one that is written is read back.
pub fn fuzz_envelope(data: &[u8]) {
    if let Ok(envelope) = Envelope::parse(data) {
        assert_eq!(envelope.recipients().count(), envelope.recipients_count());
        assert!(envelope.recipients().all(|recipient| !recipient.is_empty()));
    }
    let mut written = Vec::new();
    let mut recipients = 0;
    Writer(&mut written).reverse_path(None);
    for line in data.split(|&octet| octet == b'\n') {
        if let Ok(mailbox) = Mailbox::parse(line) {
            Writer(&mut written).forward_path(&ForwardPath::Mailbox(mailbox));
            recipients += 1;
        }
    }
    assert_eq!(
        Envelope::parse(&written).map(|envelope| envelope.recipients_count()).ok(),
        (recipients > 0).then_some(recipients)
    );
}

/// A segment of some batches, damaged as the input says: recovery and the walk end, stay within it, and give nothing
/// but what was written.
pub fn fuzz_recover(data: &[u8]) {
    let Some((seed, damage)) = data.split_first_chunk::<2>() else { return };
    let mut random = Random::new(u64::from(u16::from_le_bytes(*seed)));
    let Segment { header, bytes: intact, written } = segment(&mut random);
    let (mut bytes, mut has_copies) = (intact.clone(), false);
    // Groups of octets: where, and with what.
    for change in damage.chunks(6) {
        let [place @ .., kind, value] = change else { continue };
        let place = place.iter().fold(0usize, |place, &octet| place << 8 | usize::from(octet)) % bytes.len();
        match kind % 8 {
            0 => bytes.truncate(place),
            1 => bytes[place & !4095..].fill(0),
            2 => {
                let end = (place + usize::from(*value) * 16).min(bytes.len());
                bytes[place..end].fill(0);
            }
            3 => {
                // A block from somewhere else.
                let from = usize::from(*value) * 512 % bytes.len();
                let len = 512.min(bytes.len() - from).min(bytes.len() - place);
                bytes.copy_within(from..from + len, place);
                has_copies = true;
            }
            _ => bytes[place] ^= value,
        }
        if bytes.is_empty() {
            break;
        }
    }
    let len = bytes.len() as u64;
    let extent = recover::recover(&bytes[..], &header, len).expect("memory can be read");
    assert!(extent.end <= header.capacity.min(len).max(FIRST_BATCH_AT), "{extent:?}");
    let end = extent.end.min(len);
    let found = walk(&bytes, &header, end);
    for record in &found {
        assert!(written.iter().any(|(_, written)| written == record), "never written: {:?}", record.0);
    }
    // Damage takes what it touches. (A copy may hide others: a record's header says how much is its own.)
    for (place, record) in &written {
        let is_whole = place.end as u64 <= end && bytes[place.clone()] == intact[place.clone()];
        assert!(has_copies || !is_whole || found.contains(record), "lost although whole: {:?}", record.0);
    }
    let _ = SegmentHeader::parse(&bytes);
}

/// Id, envelope and content.
type Written = (MessageId, Vec<u8>, Vec<u8>);

/// A segment's octets, and the records in it with where each stands.
struct Segment {
    header: SegmentHeader,
    bytes: Vec<u8>,
    written: Vec<(Range<usize>, Written)>,
}

/// Three or so batches of some records, as a worker would write them.
fn segment(random: &mut Random) -> Segment {
    let header = SegmentHeader {
        version: FORMAT_VERSION,
        role: Role::Intake,
        shard: 1,
        number: 7,
        epoch: 5,
        key: random.number(),
        capacity: 1 << 20,
    };
    let (mut bytes, mut written) = (header.encode().to_vec(), Vec::new());
    for sequence in 0..1 + random.below(3) as u32 {
        let offset = bytes.len() as u64;
        let mut batch = Batch::begin(BlockBuffer::new(), header.epoch, header.key, offset, sequence);
        for _ in 0..1 + random.below(4) {
            let id =
                MessageId { session: SessionId(random.number()), transaction: 1 + random.below(9) as u32 };
            let envelope = vec![b'e'; random.below(100)];
            let content = vec![random.number() as u8; random.below(6000)];
            let start =
                batch.append(&RecordMeta { id, ..RecordMeta::default() }, &envelope, &[&content]) as usize;
            let len = record::encoded_len(envelope.len(), content.len());
            written.push((start..start + len, (id, envelope, content)));
        }
        bytes.extend_from_slice(&batch.finish(offset));
    }
    Segment { header, bytes, written }
}

fn walk(bytes: &[u8], header: &SegmentHeader, limit: u64) -> Vec<Written> {
    let (mut walk, mut found, mut steps, mut at) = (Walk::new(header), Vec::new(), 0usize, 0);
    while let Some(step) = walk.next(bytes, limit).expect("memory can be read") {
        match step {
            Found::Record(record) => {
                assert!(record.offset_in_segment + record.encoded_len as u64 <= limit);
                found.push((record.meta.id, record.envelope.to_vec(), record.content.to_vec()));
            }
            Found::Damage(damage) => {
                assert!(damage.len > 0 && damage.offset + damage.len <= limit, "{damage:?}")
            }
        }
        assert!(walk.position() >= at, "the walk goes forward");
        at = walk.position();
        steps += 1;
        assert!(steps <= bytes.len(), "the walk ends");
    }
    found
}

/// An acknowledgement: what is read is read again when it is written.
pub fn fuzz_ack(data: &[u8]) {
    if let Some(ack) = Ack::parse(data) {
        assert_eq!(Ack::parse(&ack.encode()), Some(ack));
    }
}

/// A configuration: any text is read or refused with a place.
pub fn fuzz_config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let checked = config::check_text(text, "fuzz.toml");
    assert_eq!(
        checked.config.is_none(),
        checked.findings.iter().any(|finding| finding.severity == config::Severity::Error)
    );
}
