//! The decoder against a naive oracle: a table, every split, one octet at a time, and generated content.

use proptest::prelude::*;

use super::*;

/// What a whole decoding came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    content: Vec<u8>,
    consumed: usize,
    end: Option<End>,
}

/// The rules of the module's documentation on the whole of the wire, line by line, with nothing to resume. `None`: no
/// end.
fn oracle(wire: &[u8]) -> Option<Outcome> {
    let mut content = Vec::new();
    let mut end = CLEAN;
    let (mut at, mut begun_by_crlf) = (0, true);
    loop {
        let len = wire[at..].iter().position(|&octet| octet == CR || octet == LF)?;
        let line = &wire[at..at + len];
        at += len;
        let ended_by_crlf = wire[at..].starts_with(b"\r\n");
        at += if ended_by_crlf { 2 } else { 1 };
        if begun_by_crlf && line == b"." && ended_by_crlf {
            return Some(Outcome { content, consumed: at, end: Some(end) });
        }
        let stored = line.strip_prefix(b".").filter(|_| begun_by_crlf).unwrap_or(line);
        end.bare_newlines |= !ended_by_crlf;
        end.lookalike |= (line == b"." || stored == b".") && !(begun_by_crlf && ended_by_crlf);
        end.nul_lookalike |= is_dot_among_nuls(line) || is_dot_among_nuls(stored);
        content.extend_from_slice(stored);
        content.extend_from_slice(b"\r\n");
        begun_by_crlf = ended_by_crlf;
    }
}

fn is_dot_among_nuls(line: &[u8]) -> bool {
    let dots = line.iter().filter(|&&octet| octet == b'.').count();
    line.len() > 1 && dots == 1 && line.iter().all(|&octet| octet == 0 || octet == b'.')
}

/// Decodes `parts` as they would arrive one after the other; what follows the end within a part stays unread.
fn decode<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new();
    let mut outcome = Outcome { content: Vec::new(), consumed: 0, end: None };
    for part in parts {
        let decoded = decoder.decode(part, &mut outcome.content);
        outcome.consumed += decoded.consumed;
        outcome.end = decoded.end;
        if decoded.end.is_some() {
            break;
        }
        assert_eq!(decoded.consumed, part.len());
    }
    outcome
}

fn check_all_ways(wire: &[u8]) -> Outcome {
    let expected = oracle(wire).expect("the wire holds an end");
    assert_eq!(decode([wire]), expected, "whole: {:?}", wire.escape_ascii().to_string());
    assert_eq!(decode(wire.chunks(1)), expected, "octets: {:?}", wire.escape_ascii().to_string());
    for at in 0..=wire.len() {
        let (head, tail) = wire.split_at(at);
        assert_eq!(decode([head, tail]), expected, "split at {at}: {:?}", wire.escape_ascii().to_string());
    }
    expected
}

const CLEAN: End = End { lookalike: false, nul_lookalike: false, bare_newlines: false };
const BARE: End = End { bare_newlines: true, ..CLEAN };
const LOOKALIKE: End = End { lookalike: true, ..BARE };
const NUL: End = End { nul_lookalike: true, ..CLEAN };
const BARE_NUL: End = End { nul_lookalike: true, ..BARE };

/// Wire, stored content, verdict. What follows the end is a command.
const SEEDS: &[(&[u8], &[u8], End)] = &[
    (b".\r\n", b"", CLEAN),
    (b"\r\n.\r\n", b"\r\n", CLEAN),
    (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", CLEAN),
    (b"a\r\n\r\nb\r\n.\r\n.\r\n", b"a\r\n\r\nb\r\n", CLEAN),
    // Transparency.
    (b"..\r\n.\r\n", b".\r\n", CLEAN),
    (b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n", CLEAN),
    (b"a\r\n..b\r\n...\r\n.\r\n", b"a\r\n.b\r\n..\r\n", CLEAN),
    (b".a\r\n. \r\n.\r\n", b"a\r\n \r\n", CLEAN),
    (b"a.\r\na.b\r\n.\r\n", b"a.\r\na.b\r\n", CLEAN),
    (b"a\r\n.\0x\r\n.\r\n", b"a\r\n\0x\r\n", CLEAN),
    (b"a\0b\0.\r\n\0\r\n.\r\n", b"a\0b\0.\r\n\0\r\n", CLEAN),
    (b"\0..\r\n\0. \r\n.\r\n", b"\0..\r\n\0. \r\n", CLEAN),
    // Bare line ends become CRLF and do not begin a line for transparency.
    (b"a\nb\rc\r\n.\r\n", b"a\r\nb\r\nc\r\n", BARE),
    (b"a\r\r\nb\r\n.\r\n", b"a\r\n\r\nb\r\n", BARE),
    (b"a\n\r\nb\n\nc\r\n.\r\n", b"a\r\n\r\nb\r\n\r\nc\r\n", BARE),
    (b"a\r\n\nb\r\n.\r\n", b"a\r\n\r\nb\r\n", BARE),
    (b"a\n.b\r\n.\r\n", b"a\r\n.b\r\n", BARE),
    (b"a\r.b\r\n.\r\n", b"a\r\n.b\r\n", BARE),
    (b"a\n..\r\n.\r\n", b"a\r\n..\r\n", BARE),
    (b"a\n..\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n", BARE),
    (b"a\r..\rb\r\n.\r\n", b"a\r\n..\r\nb\r\n", BARE),
    (b"a\r\n.b\n.\x2e\r\n.\r\n", b"a\r\nb\r\n..\r\n", BARE),
    // A bare line end directly before a true end changes nothing about the end.
    (b"a\r\r\n.\r\n", b"a\r\n\r\n", BARE),
    (b"a\n\r\n.\r\n", b"a\r\n\r\n", BARE),
    // Look-alikes: each of the nine pairs of line ends around the dot but the true one.
    (b"a\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n", LOOKALIKE),
    (b"a\n.\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n", LOOKALIKE),
    (b"a\n.\rb\r\n.\r\n", b"a\r\n.\r\nb\r\n", LOOKALIKE),
    (b"a\r.\rb\r\n.\r\n", b"a\r\n.\r\nb\r\n", LOOKALIKE),
    (b"a\r.\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n", LOOKALIKE),
    (b"a\r.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n", LOOKALIKE),
    (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n", LOOKALIKE),
    (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\r\nb\r\n", LOOKALIKE),
    // The same at the very beginning, and with more line ends around.
    (b".\nb\r\n.\r\n", b"\r\nb\r\n", LOOKALIKE),
    (b".\rb\r\n.\r\n", b"\r\nb\r\n", LOOKALIKE),
    (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\n\r\n\r\nb\r\n", LOOKALIKE),
    (b"a\r\n.\r\r\n.\r\n", b"a\r\n\r\n\r\n", LOOKALIKE),
    (b"a\n\n.\r\n\r\n.\r\n", b"a\r\n\r\n.\r\n\r\n", LOOKALIKE),
    (b"a\r\n\n.\r\n.\r\n", b"a\r\n\r\n.\r\n", LOOKALIKE),
    (b"a\r\n.\n\r\n.\r\n", b"a\r\n\r\n\r\n", LOOKALIKE),
    (b"a\r\n.\r.\r\nb\r\n.\r\n", b"a\r\n\r\n.\r\nb\r\n", LOOKALIKE),
    (b"a\n.\r\n.\r\n", b"a\r\n.\r\n", LOOKALIKE),
    // What transparency makes a single dot, with a bare line end behind it.
    (b"a\r\n..\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n", LOOKALIKE),
    (b"a\r\n..\rb\r\n.\r\n", b"a\r\n.\r\nb\r\n", LOOKALIKE),
    (b"..\nb\r\n.\r\n", b".\r\nb\r\n", LOOKALIKE),
    // With NULs dropped: as sent, as stored, and both.
    (b"a\r\n.\0\r\n.\r\n", b"a\r\n\0\r\n", NUL),
    (b"a\r\n\0.\r\n.\r\n", b"a\r\n\0.\r\n", NUL),
    (b"\0.\0\0\r\n.\r\n", b"\0.\0\0\r\n", NUL),
    (b"a\r\n.\0.\r\n.\r\n", b"a\r\n\0.\r\n", NUL),
    (b"a\r\n..\0\r\n.\r\n", b"a\r\n.\0\r\n", NUL),
    (b"a\n.\0\nb\r\n.\r\n", b"a\r\n.\0\r\nb\r\n", BARE_NUL),
    (b"a\r\0.\r.\r\n.\r\n", b"a\r\n\0.\r\n.\r\n", End { nul_lookalike: true, ..LOOKALIKE }),
    (b"a\r\0\n.\r\n.\r\n", b"a\r\n\0\r\n.\r\n", LOOKALIKE),
    // What is hidden behind a look-alike is content, not commands.
    (
        b"a\n.\nMAIL FROM:<x@y>\r\nRCPT TO:<z@y>\r\nDATA\r\n\r\nb\r\n.\r\nQUIT\r\n",
        b"a\r\n.\r\nMAIL FROM:<x@y>\r\nRCPT TO:<z@y>\r\nDATA\r\n\r\nb\r\n",
        LOOKALIKE,
    ),
];

#[test]
fn seeds_decode_the_same_however_they_are_split() {
    for &(wire, content, end) in SEEDS {
        for padding in [0, 1, 15, 16, 17, 40] {
            let padding = &b"0123456789abcdef0123456789abcdef01234567\r\n"[..padding];
            let padding = if padding.is_empty() { Vec::new() } else { [padding, b"\r\n"].concat() };
            let outcome = check_all_ways(&[&padding, wire].concat());
            let what = wire.escape_ascii().to_string();
            assert_eq!(outcome.end, Some(end), "{what}");
            assert_eq!(outcome.content, [&padding, content].concat(), "{what}");
        }
    }
}

#[test]
fn commands_behind_the_end_stay_unread() {
    let outcome = decode([&b"a\r\n.\r\nQUIT\r\n"[..]]);
    assert_eq!(outcome.consumed, 6);
}

#[test]
fn without_an_end_everything_is_taken() {
    for wire in [&b""[..], b".", b".\r", b"a\r\n.\r", b"a\r", b"\n.\r\n", b"\r.\r", b"a\n.\n.\n"] {
        let outcome = decode([wire]);
        assert_eq!((outcome.consumed, outcome.end), (wire.len(), None));
        assert_eq!(decode(wire.chunks(1)), outcome);
    }
}

/// Every wire of up to eight octets over the five that matter.
#[test]
fn all_short_wires_agree_with_the_oracle() {
    let alphabet = [CR, LF, b'.', 0, b'x'];
    for len in 0..=8u32 {
        for number in 0..5usize.pow(len) {
            let octets = (0..len).map(|place| alphabet[number / 5usize.pow(place) % 5]);
            let wire = octets.chain(*b"\r\n.\r\n").collect::<Vec<u8>>();
            let expected = oracle(&wire).expect("the wire holds an end");
            assert_eq!(decode([&wire[..]]), expected, "{:?}", wire.escape_ascii().to_string());
            assert_eq!(decode(wire.chunks(1)), expected, "{:?}", wire.escape_ascii().to_string());
            check_stored(&expected);
        }
    }
}

/// The promise of the stored form: no line end but CRLF; sent on with transparency, it ends once and comes out the
/// same.
fn check_stored(outcome: &Outcome) {
    let content = &outcome.content[..];
    assert!(content.is_empty() || content.ends_with(b"\r\n"));
    let mut wire = Vec::new();
    for line in content.split_inclusive(|&octet| octet == LF) {
        let text = line.strip_suffix(b"\r\n").expect("a stored line ends with CRLF");
        assert!(!text.contains(&CR) && !text.contains(&LF));
        wire.extend_from_slice(if text.starts_with(b".") { b"." } else { b"" });
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    let again = decode([&wire[..]]);
    assert_eq!((&again.content[..], again.consumed), (content, wire.len()));
    let end = again.end.expect("the end is there");
    assert!(!end.bare_newlines && !end.lookalike);
}

/// A large message comes in few spans: clean lines are not cut.
#[test]
fn clean_lines_are_given_in_one_span() {
    struct Spans(usize);
    impl Sink for Spans {
        fn content(&mut self, _: &[u8]) {
            self.0 += 1;
        }
    }
    let mut wire = b"Subject: x\r\n\r\n".to_vec();
    wire.extend(b"a line of text\r\n".repeat(1000));
    wire.extend(b".\r\n");
    let mut spans = Spans(0);
    assert!(Decoder::new().decode(&wire, &mut spans).end.is_some());
    assert_eq!(spans.0, 1);
}

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => "[a-z. ]{0,40}".prop_map(String::into_bytes),
        2 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => Just(b"\0".to_vec()),
        6 => Just(b"\r\n".to_vec()),
        2 => Just(b"\n".to_vec()),
        2 => Just(b"\r".to_vec()),
        3 => Just(b".".to_vec()),
        1 => Just(b"\r\n.\r".to_vec()),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn generated_wires_agree_with_the_oracle(mut wire in pieces(), chunk_len in 1usize..70) {
        wire.extend_from_slice(b"\r\n.\r\n");
        let expected = oracle(&wire).expect("the wire holds an end");
        prop_assert_eq!(&decode([&wire[..]]), &expected);
        prop_assert_eq!(&decode(wire.chunks(chunk_len)), &expected);
        check_stored(&expected);
    }

    /// Honest clients: any CRLF content with transparency applied comes out as it was.
    #[test]
    fn honest_content_comes_out_byte_for_byte(lines in proptest::collection::vec("[ -~\u{80}-\u{ff}]{0,90}", 0..30)) {
        let content = lines.iter().flat_map(|line| [line, "\r\n"]).collect::<String>().into_bytes();
        check_stored(&Outcome { content, consumed: 0, end: None });
    }
}
