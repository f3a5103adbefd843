//! What decoded content must be, said slowly: a second opinion on `protocol::data` that shares no line with it.
//!
//! It works on the whole input and in steps that a reader can check against RFC 5321 §4.1.1.4, §4.5.2 and §2.3.8:
//! find the end, cut into lines, take the dots off, join with CRLF. For the chunks of BDAT (RFC 3030) only the middle
//! one and the last.

use ringmx::protocol::data::{Decoder, End};

use crate::random::Random;

/// What the decoder must give for input that holds end-of-data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoding {
    pub content: Vec<u8>,
    /// Octets up to end-of-data and with it.
    pub consumed: usize,
    pub end: End,
}

/// How a line is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    Crlf,
    Bare,
}

/// None where the input holds no end-of-data.
pub fn decode(input: &[u8]) -> Option<Decoding> {
    // The CRLF of the DATA command stands before the content.
    let wire = [b"\r\n", input].concat();
    let end = wire.windows(5).position(|window| window == b"\r\n.\r\n")?;
    let mut decoding = of_lines(lines(&wire[2..(end + 2).max(2)]), true);
    decoding.consumed = end + 3;
    Some(decoding)
}

/// All of the input as the content of chunks.
pub fn decode_chunks(input: &[u8]) -> Decoding {
    // A last line without an end gets one; a CR alone is an end.
    let ends = matches!(input.last(), None | Some(b'\n' | b'\r'));
    let mut decoding = of_lines(lines(&[input, if ends { b"" } else { b"\r\n" }].concat()), false);
    decoding.consumed = input.len();
    decoding
}

fn of_lines(lines: Vec<(Vec<u8>, LineEnd)>, dots_are_stuffed: bool) -> Decoding {
    let mut decoding = Decoding {
        content: Vec::new(),
        consumed: 0,
        end: End { lookalike: false, nul_lookalike: false, bare_newlines: false },
    };
    let mut begun_by = LineEnd::Crlf;
    for (text, ended_by) in lines {
        let stuffed = dots_are_stuffed && begun_by == LineEnd::Crlf && text.starts_with(b".");
        let stored = if stuffed { &text[1..] } else { &text };
        decoding.content.extend_from_slice(stored);
        decoding.content.extend_from_slice(b"\r\n");
        let has_bare_end = begun_by == LineEnd::Bare || ended_by == LineEnd::Bare;
        let without_nuls =
            |text: &[u8]| text.iter().copied().filter(|&octet| octet != 0).collect::<Vec<u8>>();
        let is_dot_without_nuls = |text: &[u8]| text != b"." && without_nuls(text) == b".";
        decoding.end.bare_newlines |= ended_by == LineEnd::Bare;
        decoding.end.lookalike |= has_bare_end && (text == b"." || stored == b".");
        decoding.end.nul_lookalike |= is_dot_without_nuls(&text) || is_dot_without_nuls(stored);
        begun_by = ended_by;
    }
    decoding
}

/// Texts and line ends. The input ends with a line end or is empty.
fn lines(wire: &[u8]) -> Vec<(Vec<u8>, LineEnd)> {
    let (mut lines, mut text, mut at) = (Vec::new(), Vec::new(), 0);
    while at < wire.len() {
        let line_end = match &wire[at..] {
            [b'\r', b'\n', ..] => Some((LineEnd::Crlf, 2)),
            [b'\r' | b'\n', ..] => Some((LineEnd::Bare, 1)),
            _ => None,
        };
        match line_end {
            Some((line_end, len)) => {
                lines.push((std::mem::take(&mut text), line_end));
                at += len;
            }
            None => {
                text.push(wire[at]);
                at += 1;
            }
        }
    }
    assert!(text.is_empty(), "end-of-data follows a line end");
    lines
}

/// What the engine's decoder gives when the input comes in these pieces; none where it saw no end-of-data.
pub fn decode_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Decoding> {
    let (mut decoder, mut content, mut before) = (Decoder::new(), Vec::new(), 0);
    for piece in pieces {
        let decoded = decoder.decode(piece, &mut content);
        if let Some(end) = decoded.end {
            assert!(decoded.consumed <= piece.len());
            return Some(Decoding { content, consumed: before + decoded.consumed, end });
        }
        assert_eq!(decoded.consumed, piece.len(), "content is taken whole");
        before += piece.len();
    }
    None
}

/// The same for the content of chunks.
pub fn chunks_in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoding {
    let (mut decoder, mut content, mut consumed) = (Decoder::of_chunks(), Vec::new(), 0);
    for piece in pieces {
        let decoded = decoder.decode(piece, &mut content);
        assert_eq!((decoded.consumed, decoded.end), (piece.len(), None), "chunks have no end of their own");
        consumed += piece.len();
    }
    let end = decoder.finish(&mut content);
    Decoding { content, consumed, end }
}

/// Pieces of random lengths, often very short.
pub fn random_pieces<'a>(input: &'a [u8], random: &mut Random) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), input);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(random.split(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// What must hold of any content that is stored: sent on with dots stuffed, it ends where it ends, whatever the next
/// hop takes for a line end, and whether or not it drops NULs, unless the decoder told of one.
pub fn assert_safe(decoding: &Decoding) {
    let Decoding { content, end, .. } = decoding;
    assert!(content.is_empty() || content.ends_with(b"\r\n"), "the last line is whole");
    let mut before = 0;
    for (at, &octet) in content.iter().enumerate() {
        assert!(octet != b'\n' || before == b'\r', "a bare LF at {at}");
        assert!(before != b'\r' || octet == b'\n', "a bare CR before {at}");
        before = octet;
    }
    assert!(end.bare_newlines || !end.lookalike, "a look-alike has a bare line end");
    let wire = send_on(content);
    assert_eq!(lax_end(&wire), wire.len(), "what a lax server takes for the end");
    if !end.nul_lookalike {
        let without_nuls: Vec<u8> = wire.into_iter().filter(|&octet| octet != 0).collect();
        assert_eq!(lax_end(&without_nuls), without_nuls.len(), "the same for one that drops NULs");
    }
}

/// Stored content as a client sends it behind DATA, the end included.
pub fn send_on(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for line in content.split_inclusive(|&octet| octet == b'\n') {
        wire.extend_from_slice(if line.starts_with(b".") { b"." } else { b"" });
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// Octets up to the first thing that any server at all could take for end-of-data, and with it: a dot between two line
/// ends of whatever kind.
fn lax_end(wire: &[u8]) -> usize {
    let is_line_end = |octet: &u8| matches!(octet, b'\r' | b'\n');
    for at in 0..wire.len() {
        let begins_line = at == 0 || is_line_end(&wire[at - 1]);
        if begins_line && wire[at] == b'.' && wire.get(at + 1).is_some_and(is_line_end) {
            return if wire[at + 1..].starts_with(b"\r\n") { at + 3 } else { at + 2 };
        }
    }
    panic!("no end at all")
}
