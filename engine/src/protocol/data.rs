//! Decoding of the content that follows DATA: end-of-data, transparency, line ends.
//!
//! What is on the wire and what is stored differ in three ways, each one rule:
//!
//! 1. **End-of-data** is `CRLF . CRLF` and nothing else (RFC 5321 §4.1.1.4). The CRLF that ended the DATA command
//!    counts as the first, so `. CRLF` at once is empty content. The CRLF before the dot belongs to the content.
//! 2. **Transparency** (§4.5.2): a dot that begins a line is taken off. A *line* is what CRLF begins: a client that
//!    lets a bare LF through does not count it as a line end, or it would have sent CRLF, so it put no dot behind it
//!    and none is taken off: `LF .x` keeps its dot, and so does `LF ..`. Where that guess is wrong a dot is kept too
//!    many; the other guess would lose a dot of the content.
//! 3. **Line ends**: a CR that no LF follows, or an LF that no CR precedes, is stored as CRLF. So the stored form has
//!    no line end but CRLF, and a next hop that gets it with transparency applied meets end-of-data exactly once,
//!    whatever it takes for a line end.
//!
//! A **look-alike** is what some other server could take for end-of-data and this one does not: a line that is a single
//! dot, on the wire or as stored, and one of whose two line ends is bare (`LF . LF`, `LF . CRLF`, `CRLF . CR`,
//! `CR . CRLF`, `CRLF .. LF`, ...). No honest client sends one; whoever hides a second transaction in a first does
//! (SMTP smuggling). It does not end the data: decoding goes on to the true end, so that the session stays in step with
//! what the client means, and the message is refused there. So a stored line that is a single dot is always one the
//! client sent as `CRLF .. CRLF`.

use super::scan::{CR, LF, find_odd_pair};

/// Takes content in, in order, in spans as long as the input allows.
pub trait Sink {
    fn content(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn content(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// The true end of the data was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The content held an end-of-data look-alike: refuse the message.
    pub lookalike: bool,
    /// The content held a bare CR or a bare LF, stored as CRLF.
    pub bare_newlines: bool,
}

/// What one call took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Octets of the input used up; all of them unless `end` is set. What follows the end is the next command.
    pub consumed: usize,
    pub end: Option<End>,
}

/// How the line before ended: what the first octet of a line means depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    Crlf,
    Bare,
}

/// What the octets since the last line end were. Octets not yet given to the sink are held in the state itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// None: a line begins.
    Begin(LineEnd),
    /// A dot behind CRLF, taken off.
    Stuffed,
    /// The same and a CR, which is held back.
    StuffedCr,
    /// What is stored as a single dot: a dot behind a bare line end, or two behind CRLF.
    Dot(LineEnd),
    /// The same and a CR, which is held back.
    DotCr(LineEnd),
    /// Anything else, the last of it not a CR.
    Text,
    /// Anything else or nothing, and a CR, which is held back.
    TextCr,
}

/// What became of one octet.
enum Step {
    Taken,
    /// It is looked at again in the new state.
    Again,
    End,
}

/// The decoder of one transaction's content; resumes at any octet.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    lookalike: bool,
    bare_newlines: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// Ready for the first octet behind the 354.
    pub fn new() -> Self {
        Self { state: State::Begin(LineEnd::Crlf), lookalike: false, bare_newlines: false }
    }

    /// Decodes `input`, gives content to `sink`, stops behind end-of-data; then it is as new.
    pub fn decode(&mut self, input: &[u8], sink: &mut impl Sink) -> Decoded {
        let mut at = 0;
        while at < input.len() {
            if self.state == State::Text {
                at += self.text(&input[at..], sink);
            } else {
                match self.step(input[at], sink) {
                    Step::Taken => at += 1,
                    Step::Again => {}
                    Step::End => {
                        let end = End { lookalike: self.lookalike, bare_newlines: self.bare_newlines };
                        *self = Self::new();
                        return Decoded { consumed: at + 1, end: Some(end) };
                    }
                }
            }
        }
        Decoded { consumed: at, end: None }
    }

    /// Lines as they should be, up to the first octet that needs a look. `rest` is not empty; at least one octet is
    /// taken.
    fn text(&mut self, rest: &[u8], sink: &mut impl Sink) -> usize {
        if rest[0] == LF {
            // The state says that no CR stands before it.
            self.bare(sink);
            return 1;
        }
        let last = find_odd_pair(rest).unwrap_or(rest.len() - 1);
        // All that is before `last` is plain, and so is `last` as the second of its pair: an LF there follows a CR.
        let (state, plain) = match rest[last] {
            CR => (State::TextCr, &rest[..last]),
            LF => (State::Begin(LineEnd::Crlf), &rest[..=last]),
            _ => (State::Text, &rest[..=last]),
        };
        self.state = state;
        if !plain.is_empty() {
            sink.content(plain);
        }
        last + 1
    }

    /// One octet where a line begins or ends.
    fn step(&mut self, octet: u8, sink: &mut impl Sink) -> Step {
        match (self.state, octet) {
            (State::Begin(LineEnd::Crlf), b'.') => self.state = State::Stuffed,
            (State::Begin(LineEnd::Bare), b'.') => {
                self.state = State::Dot(LineEnd::Bare);
                sink.content(b".");
            }
            (State::Begin(_), LF) => self.bare(sink),

            (State::Stuffed, CR) => self.state = State::StuffedCr,
            (State::Stuffed, LF) => self.bare_lookalike(sink),
            (State::Stuffed, b'.') => {
                self.state = State::Dot(LineEnd::Crlf);
                sink.content(b".");
            }
            (State::StuffedCr, LF) => return Step::End,
            (State::StuffedCr, _) => {
                self.bare_lookalike(sink);
                return Step::Again;
            }

            (State::Dot(begun_by), CR) => self.state = State::DotCr(begun_by),
            (State::Dot(_), LF) => self.bare_lookalike(sink),
            (State::DotCr(begun_by), LF) => {
                self.lookalike |= begun_by == LineEnd::Bare;
                self.crlf(sink);
            }
            (State::DotCr(_), _) => {
                self.bare_lookalike(sink);
                return Step::Again;
            }

            (State::TextCr, LF) => self.crlf(sink),
            (State::TextCr, _) => {
                self.bare(sink);
                return Step::Again;
            }
            (State::Begin(_) | State::Stuffed | State::Dot(_) | State::Text, _) => {
                self.state = State::Text;
                return Step::Again;
            }
        }
        Step::Taken
    }

    fn crlf(&mut self, sink: &mut impl Sink) {
        sink.content(b"\r\n");
        self.state = State::Begin(LineEnd::Crlf);
    }

    fn bare(&mut self, sink: &mut impl Sink) {
        sink.content(b"\r\n");
        self.state = State::Begin(LineEnd::Bare);
        self.bare_newlines = true;
    }

    fn bare_lookalike(&mut self, sink: &mut impl Sink) {
        self.bare(sink);
        self.lookalike = true;
    }
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
