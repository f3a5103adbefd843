//! Decoding of the content that follows DATA or BDAT: end-of-data, transparency, line ends.
//!
//! What is on the wire and what is stored differ in three ways, each one rule. In the chunks of BDAT (RFC 3030) the
//! first two do not exist: counts tell where they end, and a dot is a dot.
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
//! what the client means, and the session decides there. Where it is refused, a stored line that is a single dot is
//! always one the client sent as `CRLF .. CRLF`, or as `CRLF . CRLF` in a chunk.
//!
//! A **NUL** is content like any other octet. But some servers drop NULs, and a line that begins with one gets no dot
//! put before it: `CRLF NUL . CRLF` would be the end of the data to such a next hop. So a line that is a single dot but
//! for NULs, on the wire or as stored, is told of too, and is refused whatever the policy on line ends.

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The content held an end-of-data look-alike.
    pub lookalike: bool,
    /// The content held a line that is an end-of-data look-alike once its NULs are dropped.
    pub nul_lookalike: bool,
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
    /// NULs, at least one, and dots, as long as without the NULs it could be what is looked for.
    Nuls(NulLine),
    /// The same and a CR, which is held back.
    NulsCr(NulLine),
    /// Anything else, the last of it not a CR.
    Text,
    /// Anything else or nothing, and a CR, which is held back.
    TextCr,
}

/// A line of NULs and dots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NulLine {
    /// A dot was taken off its front.
    stuffed: bool,
    /// It has a dot as it is stored.
    dotted: bool,
}

/// How content is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Behind DATA: a dot on a line of its own ends it.
    Dot,
    /// Behind BDAT: counts of octets.
    Count,
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
    framing: Framing,
    state: State,
    end: End,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// Ready for the first octet behind the 354.
    pub fn new() -> Self {
        Self::framed_by(Framing::Dot)
    }

    /// Ready for the first octet of the first chunk. Its content has no end of its own: [`finish`](Self::finish) says
    /// where it is.
    pub fn of_chunks() -> Self {
        Self::framed_by(Framing::Count)
    }

    fn framed_by(framing: Framing) -> Self {
        Self { framing, state: State::Begin(LineEnd::Crlf), end: End::default() }
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
                        let end = self.end;
                        *self = Self::framed_by(self.framing);
                        return Decoded { consumed: at + 1, end: Some(end) };
                    }
                }
            }
        }
        Decoded { consumed: at, end: None }
    }

    /// The last chunk is over. Its last line gets the CRLF that it may lack; then the decoder is as new.
    pub fn finish(&mut self, sink: &mut impl Sink) -> End {
        match self.state {
            State::Begin(_) => {}
            // A CR is held back that no LF follows: its line ends with it.
            State::TextCr => self.bare(sink),
            State::StuffedCr | State::DotCr(_) => self.bare_lookalike(sink),
            State::NulsCr(line) => {
                self.end_nuls(line);
                self.bare(sink);
            }
            State::Nuls(line) => {
                self.end_nuls(line);
                self.crlf(sink);
            }
            State::Dot(begun_by) => {
                self.end.lookalike |= begun_by == LineEnd::Bare;
                self.crlf(sink);
            }
            State::Stuffed | State::Text => self.crlf(sink),
        }
        let end = self.end;
        *self = Self::framed_by(self.framing);
        end
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
            (State::Begin(LineEnd::Crlf), b'.') if self.framing == Framing::Dot => {
                self.state = State::Stuffed;
            }
            (State::Begin(begun_by), b'.') => {
                self.state = State::Dot(begun_by);
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
                self.end.lookalike |= begun_by == LineEnd::Bare;
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
            _ => return self.step_nuls(octet, sink),
        }
        Step::Taken
    }

    /// One octet of a line that may be NULs and dots, or else is text.
    fn step_nuls(&mut self, octet: u8, sink: &mut impl Sink) -> Step {
        let line = |stuffed, dotted| State::Nuls(NulLine { stuffed, dotted });
        self.state = match (self.state, octet) {
            (State::Begin(_), 0) => line(false, false),
            (State::Stuffed, 0) => line(true, false),
            (State::Dot(_), 0) => line(false, true),
            (State::Nuls(nuls), 0) => State::Nuls(nuls),
            (State::Nuls(NulLine { stuffed, dotted: false }), b'.') => line(stuffed, true),
            (State::Nuls(nuls), CR) => {
                self.state = State::NulsCr(nuls);
                return Step::Taken;
            }
            (State::NulsCr(nuls), _) => {
                self.end_nuls(nuls);
                self.state = State::TextCr;
                return Step::Again;
            }
            (state, _) => {
                // The LF that ends a line of NULs is a bare one, as any in text.
                if let (State::Nuls(nuls), LF) = (state, octet) {
                    self.end_nuls(nuls);
                }
                self.state = State::Text;
                return Step::Again;
            }
        };
        sink.content(&[octet]);
        Step::Taken
    }

    /// The line ends: without its NULs it is a single dot as the client sent it, or as it is stored.
    fn end_nuls(&mut self, line: NulLine) {
        self.end.nul_lookalike |= line.stuffed || line.dotted;
    }

    fn crlf(&mut self, sink: &mut impl Sink) {
        sink.content(b"\r\n");
        self.state = State::Begin(LineEnd::Crlf);
    }

    fn bare(&mut self, sink: &mut impl Sink) {
        sink.content(b"\r\n");
        self.state = State::Begin(LineEnd::Bare);
        self.end.bare_newlines = true;
    }

    fn bare_lookalike(&mut self, sink: &mut impl Sink) {
        self.bare(sink);
        self.end.lookalike = true;
    }
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
