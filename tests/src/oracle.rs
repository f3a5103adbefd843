//! What decoded content must be, said slowly: a second opinion on `protocol::data` that shares no line with it.
//!
//! It works on the whole input and in steps that a reader can check against RFC 5321 §4.1.1.4, §4.5.2 and §2.3.8:
//! find the end, cut into lines, take the dots off, join with CRLF.

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
    let lines = lines(&wire[2..(end + 2).max(2)]);
    let mut decoding = Decoding {
        content: Vec::new(),
        consumed: end + 3,
        end: End { lookalike: false, bare_newlines: false },
    };
    let mut begun_by = LineEnd::Crlf;
    for (text, ended_by) in lines {
        let stuffed = begun_by == LineEnd::Crlf && text.starts_with(b".");
        let stored = if stuffed { &text[1..] } else { &text };
        decoding.content.extend_from_slice(stored);
        decoding.content.extend_from_slice(b"\r\n");
        let has_bare_end = begun_by == LineEnd::Bare || ended_by == LineEnd::Bare;
        decoding.end.bare_newlines |= ended_by == LineEnd::Bare;
        decoding.end.lookalike |= has_bare_end && (text == b"." || stored == b".");
        begun_by = ended_by;
    }
    Some(decoding)
}

/// Texts and line ends. The input ends with CRLF or is empty.
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

/// What must hold of any content that is stored: whoever sends it on with dots stuffed and takes any line end for a
/// line end meets end-of-data where it is, and not before.
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
}
