//! The server's side of a session that takes everything and keeps nothing: just enough to be talked to by a client.

use memchr::{memchr, memmem};

/// Longest command line that is waited for, CR LF included.
const LINE_LEN_MAX: usize = 4096;
const END_OF_DATA: &[u8] = b"\r\n.\r\n";
/// Octets of content before the end of data that one receive may have cut off.
const TAIL_LEN: usize = END_OF_DATA.len() - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Command,
    /// The last octets of the content so far, as many as `tail_len`.
    Content {
        tail: [u8; TAIL_LEN],
        tail_len: usize,
    },
    /// Octets of a chunk that are still to come, and whether it is the last.
    Chunk {
        left: u64,
        last: bool,
    },
    Closed,
}

/// One session. Received octets in, replies out; no socket.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    /// The beginning of a command whose end has not come yet.
    line: Vec<u8>,
    /// Taken so far.
    pub messages_count: u64,
}

impl Session {
    /// Greets.
    pub fn new(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(b"220 sink.invalid ESMTP\r\n");
        Self { phase: Phase::Command, line: Vec::new(), messages_count: 0 }
    }

    /// The connection is to be closed once `out` is sent.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Takes all of `input`, and appends replies to `out`. `pipelining`: EHLO offers it.
    pub fn receive(&mut self, pipelining: bool, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            let consumed = match self.phase {
                Phase::Command => self.command(pipelining, input, out),
                Phase::Content { tail, tail_len } => self.content(tail, tail_len, input, out),
                Phase::Chunk { left, last } => self.chunk(left, last, input.len(), out),
                Phase::Closed => return,
            };
            input = &input[consumed..];
        }
    }

    fn command(&mut self, pipelining: bool, input: &[u8], out: &mut Vec<u8>) -> usize {
        let end = memchr(b'\n', input);
        let taken_len = end.map_or(input.len(), |end| end + 1);
        if self.line.len() + taken_len > LINE_LEN_MAX {
            out.extend_from_slice(b"421 line too long\r\n");
            self.phase = Phase::Closed;
        } else if end.is_none() {
            self.line.extend_from_slice(input);
        } else if self.line.is_empty() {
            self.answer(pipelining, &input[..taken_len], out);
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(&input[..taken_len]);
            self.answer(pipelining, &line, out);
            line.clear();
            self.line = line;
        }
        taken_len
    }

    fn answer(&mut self, pipelining: bool, line: &[u8], out: &mut Vec<u8>) {
        let verb =
            line.get(..4).map(|verb| [verb[0], verb[1], verb[2], verb[3]].map(|c| c.to_ascii_uppercase()));
        match verb.as_ref().map(|verb| &verb[..]) {
            Some(b"MAIL" | b"RCPT" | b"RSET" | b"NOOP") => out.extend_from_slice(b"250 ok\r\n"),
            Some(b"DATA") => {
                out.extend_from_slice(b"354 go on\r\n");
                // The line end of DATA is the first half of an immediate end of data.
                self.phase = Phase::Content { tail: *b"\r\n\0\0", tail_len: 2 };
            }
            Some(b"BDAT") => match chunk(line) {
                Some((left, last)) => {
                    self.phase = Phase::Chunk { left, last };
                    // An empty chunk has come already.
                    if left == 0 {
                        self.chunk(left, last, 0, out);
                    }
                }
                None => out.extend_from_slice(b"501 BDAT takes a length, and LAST\r\n"),
            },
            // By LMTP with one recipient a message, whose reply is the same.
            Some(b"EHLO" | b"LHLO") => {
                let pipelining: &[u8] = if pipelining { b"250-PIPELINING\r\n" } else { b"" };
                out.extend_from_slice(b"250-sink.invalid\r\n");
                out.extend_from_slice(pipelining);
                out.extend_from_slice(b"250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250 SIZE\r\n");
            }
            Some(b"HELO") => out.extend_from_slice(b"250 sink.invalid\r\n"),
            Some(b"QUIT") => {
                out.extend_from_slice(b"221 bye\r\n");
                self.phase = Phase::Closed;
            }
            _ => out.extend_from_slice(b"500 unknown\r\n"),
        }
    }

    /// Takes what is there of a chunk; its reply follows its last octet.
    fn chunk(&mut self, left: u64, last: bool, input_len: usize, out: &mut Vec<u8>) -> usize {
        let taken = left.min(input_len as u64);
        self.phase = Phase::Chunk { left: left - taken, last };
        if left == taken {
            self.phase = Phase::Command;
            self.messages_count += u64::from(last);
            out.extend_from_slice(if last { b"250 2.0.0 discarded\r\n" } else { b"250 2.0.0 go on\r\n" });
        }
        taken as usize
    }

    fn content(&mut self, tail: [u8; TAIL_LEN], tail_len: usize, input: &[u8], out: &mut Vec<u8>) -> usize {
        // An end of data that began in an earlier receive lies within the tail and as many octets behind it.
        let mut seam = [0; 2 * TAIL_LEN];
        let head_len = input.len().min(TAIL_LEN);
        seam[..tail_len].copy_from_slice(&tail[..tail_len]);
        seam[tail_len..tail_len + head_len].copy_from_slice(&input[..head_len]);
        let seam = &seam[..tail_len + head_len];
        let end = memmem::find(seam, END_OF_DATA)
            .map(|at| at + END_OF_DATA.len() - tail_len)
            .or_else(|| memmem::find(input, END_OF_DATA).map(|at| at + END_OF_DATA.len()));
        if let Some(consumed) = end {
            self.messages_count += 1;
            out.extend_from_slice(b"250 2.0.0 discarded\r\n");
            self.phase = Phase::Command;
            return consumed;
        }
        let last = if input.len() >= TAIL_LEN { input } else { seam };
        let last = &last[last.len().saturating_sub(TAIL_LEN)..];
        let mut tail = [0; TAIL_LEN];
        tail[..last.len()].copy_from_slice(last);
        self.phase = Phase::Content { tail, tail_len: last.len() };
        input.len()
    }
}

/// The argument of BDAT (RFC 3030 §2).
fn chunk(line: &[u8]) -> Option<(u64, bool)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace().skip(1);
    let left = words.next()?.parse().ok()?;
    match words.next() {
        None => Some((left, false)),
        Some(word) => word.eq_ignore_ascii_case("LAST").then_some((left, true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(pieces: &[&[u8]]) -> (String, u64) {
        let mut out = Vec::new();
        let mut session = Session::new(&mut out);
        for piece in pieces {
            session.receive(true, piece, &mut out);
        }
        (String::from_utf8(out).expect("ASCII"), session.messages_count)
    }

    #[test]
    fn the_same_replies_whatever_the_split() {
        let input =
            b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nhi\r\n..\r\n\r\n.x\r\n.\r\nDATA\r\n.\r\n\
            BDAT 3\r\n\r\n.BDAT 0 LAST\r\nBDAT x\r\nQUIT\r\nNOOP\r\n";
        let (whole, messages_count) = replies(&[input]);
        assert_eq!(messages_count, 3);
        assert!(whole.ends_with(
            "354 go on\r\n250 2.0.0 discarded\r\n354 go on\r\n250 2.0.0 discarded\r\n\
             250 2.0.0 go on\r\n250 2.0.0 discarded\r\n501 BDAT takes a length, and LAST\r\n221 bye\r\n"
        ));
        for first in 0..=input.len() {
            for second in first..=input.len() {
                let pieces = [&input[..first], &input[first..second], &input[second..]];
                assert_eq!(replies(&pieces), (whole.clone(), messages_count));
            }
        }
        let single: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(replies(&single), (whole, messages_count));
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let long = vec![b'x'; LINE_LEN_MAX + 1];
        assert!(
            replies(&[&long[..LINE_LEN_MAX], &long[..1], b"NOOP\r\n"]).0.ends_with("421 line too long\r\n")
        );
    }
}
