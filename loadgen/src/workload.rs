//! What is sent: every octet is prepared once; a message costs one copy and the writing of its token.
//!
//! All contents lie in one stock. A message of our own is the beginning of it, as far as whole lines go, and a tail
//! that brings it to its size; a message from a file is a piece of it. So a thousand sizes take the memory of the
//! largest.

use std::io::Write;
use std::ops::Range;
use std::time::SystemTime;

use crate::content::{self, Heading, LINE_LEN, Lines};
use crate::extension::{Extension, Extensions};
use crate::limits::{SEND_LEN_MAX, SIZE_DRAWN_MAX, SIZES_COUNT};
use crate::random::{self, Random};
use crate::token::Token;

/// How content is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// RFC 5321 §4.1.1.4, with dot-stuffing and end-of-data.
    Data,
    /// RFC 3030 §2, in chunks of at most so many octets.
    Bdat { chunk_len: usize },
}

/// How long messages are, and what they say.
#[derive(Clone, Debug)]
pub enum Contents {
    /// All of so many octets.
    Fixed(usize),
    /// From a log-normal distribution: its median in octets, and the standard deviation of the logarithm.
    LogNormal { median: f64, sigma: f64 },
    /// These, with a field of our own in front.
    Files(Vec<Vec<u8>>),
}

/// What a workload is made from.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Argument of EHLO.
    pub helo: String,
    /// Without angle brackets; empty for the null reverse-path.
    pub reverse_path: String,
    /// Without angle brackets; at least one.
    pub forward_paths: Vec<String>,
    /// As the server stores them: header section and body, CR LF line ends, no dot-stuffing.
    pub contents: Contents,
    pub transfer: Transfer,
    /// Octets above 127 are sent, and MAIL says so by BODY=8BITMIME.
    pub eight_bit: bool,
    /// MAIL says SMTPUTF8.
    pub utf8: bool,
    /// Of sizes, and of which message comes when.
    pub seed: u64,
    /// For the Date field.
    pub now: SystemTime,
}

/// One message, but for its token.
#[derive(Debug)]
struct Letter {
    /// MAIL without and with the SIZE parameter (RFC 1870), which is only sent where it is offered.
    mail: [Vec<u8>; 2],
    /// The content is this of the stock, and the tail behind it.
    head: Range<usize>,
    /// With the end-of-data where there is to be one.
    tail: Vec<u8>,
    content_len: usize,
}

impl Letter {
    fn wire_len(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

/// The prepared commands and contents of a run, shared by all its threads.
#[derive(Debug)]
pub struct Workload {
    pub ehlo: Vec<u8>,
    pub rcpt: Vec<Vec<u8>>,
    /// All RCPT, and DATA where that follows: a pipelining group without its MAIL (RFC 2920 §3.1: DATA is last in it).
    group: Vec<u8>,
    pub transfer: Transfer,
    /// What MAIL's parameters and the transfer need the server to offer.
    pub needed: Extensions,
    stock: Vec<u8>,
    /// Where tokens stand in each content.
    token_at: Vec<usize>,
    letters: Vec<Letter>,
    seed: u64,
}

/// Octets of a run's contents as the server stores them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub count: usize,
    pub least: usize,
    pub mean: f64,
    pub most: usize,
}

pub const DATA: &[u8] = b"DATA\r\n";
pub const END_OF_DATA: &[u8] = b".\r\n";
pub const STARTTLS: &[u8] = b"STARTTLS\r\n";
pub const RSET: &[u8] = b"RSET\r\n";
pub const QUIT: &[u8] = b"QUIT\r\n";
/// Room for `BDAT 1073741824 LAST` and its line end.
const BDAT_LEN_MAX: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {asked} bytes is too small: its header section alone takes {least}")]
pub struct TooSmall {
    pub asked: usize,
    pub least: usize,
}

impl Workload {
    pub fn new(recipe: &Recipe) -> Result<Self, TooSmall> {
        let rcpt: Vec<_> =
            recipe.forward_paths.iter().map(|path| format!("RCPT TO:<{path}>\r\n").into_bytes()).collect();
        let mut group = rcpt.concat();
        let mut needed = Extensions::default();
        match recipe.transfer {
            Transfer::Data => group.extend_from_slice(DATA),
            Transfer::Bdat { .. } => needed.add(Extension::Chunking),
        }
        for (wanted, extension) in
            [(recipe.eight_bit, Extension::EightBitMime), (recipe.utf8, Extension::SmtpUtf8)]
        {
            if wanted {
                needed.add(extension);
            }
        }
        let mut workload = Self {
            ehlo: format!("EHLO {}\r\n", recipe.helo).into_bytes(),
            rcpt,
            group,
            transfer: recipe.transfer,
            needed,
            stock: Vec::new(),
            token_at: Vec::new(),
            letters: Vec::new(),
            seed: random::mixed(recipe.seed),
        };
        match &recipe.contents {
            Contents::Fixed(len) => workload.write(recipe, &[*len])?,
            Contents::LogNormal { median, sigma } => {
                let least = content::header_section(&heading(recipe)).0.len() + 2;
                let mut random = Random::new(recipe.seed);
                let draw = |_| {
                    let len = (median * (sigma * random.normal()).exp()).round();
                    (len as usize).clamp(least, SIZE_DRAWN_MAX)
                };
                workload.write(recipe, &(0..SIZES_COUNT).map(draw).collect::<Vec<_>>())?;
            }
            Contents::Files(files) => workload.take(recipe, files),
        }
        Ok(workload)
    }

    /// Letters of our own, of these lengths.
    fn write(&mut self, recipe: &Recipe, lens: &[usize]) -> Result<(), TooSmall> {
        let (header, token_at) = content::header_section(&heading(recipe));
        let least = header.len() + 2;
        let stuffed = recipe.transfer == Transfer::Data;
        let mut lines = Lines::new(recipe.eight_bit, stuffed);
        self.token_at = token_at;
        let header_len = header.len();
        self.stock = header;
        // Where in the stock each line ends that the longest letter has.
        let mut ends = vec![header_len];
        for &len in lens {
            let body_len = len.checked_sub(header_len);
            let Some((whole, rest)) = body_len.and_then(content::lines_of) else {
                return Err(TooSmall { asked: len, least });
            };
            while ends.len() <= whole {
                lines.append(&mut self.stock, LINE_LEN);
                ends.push(self.stock.len());
            }
            let mut tail = Vec::new();
            let mut last = Lines::new(recipe.eight_bit, stuffed);
            rest.into_iter().for_each(|len| last.append(&mut tail, len));
            self.add(recipe, 0..ends[whole], tail, len);
        }
        Ok(())
    }

    /// Letters from files: each gets the field that `loadgen verify` looks for.
    fn take(&mut self, recipe: &Recipe, files: &[Vec<u8>]) {
        const FIELD: &str = "X-Loadgen: ";
        self.token_at = vec![FIELD.len()];
        for file in files {
            let begin = self.stock.len();
            self.stock.extend_from_slice(FIELD.as_bytes());
            self.stock.resize(self.stock.len() + Token::LEN, b'0');
            self.stock.extend_from_slice(b"\r\n");
            let field_len = self.stock.len() - begin;
            let stuffed = recipe.transfer == Transfer::Data;
            let content_len = field_len + content::append_file(file, stuffed, &mut self.stock);
            self.add(recipe, begin..self.stock.len(), Vec::new(), content_len);
        }
    }

    fn add(&mut self, recipe: &Recipe, head: Range<usize>, mut tail: Vec<u8>, content_len: usize) {
        if recipe.transfer == Transfer::Data {
            tail.extend_from_slice(END_OF_DATA);
        }
        let body = if recipe.eight_bit { " BODY=8BITMIME" } else { "" };
        let utf8 = if recipe.utf8 { " SMTPUTF8" } else { "" };
        let mail = [String::new(), format!(" SIZE={content_len}")]
            .map(|size| format!("MAIL FROM:<{}>{size}{body}{utf8}\r\n", recipe.reverse_path).into_bytes());
        self.letters.push(Letter { mail, head, tail, content_len });
    }

    /// Which message a token is the name of: the same in every run with the same seed, whatever came before.
    fn letter(&self, token: Token) -> &Letter {
        match &self.letters[..] {
            [only] => only,
            letters => {
                let drawn = random::mixed(self.seed ^ u64::from(token.connection) << 40 ^ token.number);
                &letters[(drawn % letters.len() as u64) as usize]
            }
        }
    }

    pub fn mail(&self, token: Token, size_offered: bool) -> &[u8] {
        &self.letter(token).mail[usize::from(size_offered)]
    }

    /// Appends all commands that may go ahead of their replies: with DATA for the last one of them.
    pub fn append_group(&self, token: Token, size_offered: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.mail(token, size_offered));
        out.extend_from_slice(&self.group);
    }

    /// Octets of a content as the server stores it.
    pub fn content_len(&self, token: Token) -> usize {
        self.letter(token).content_len
    }

    /// Octets of a content on the wire: stuffed dots and end-of-data included, BDAT commands not.
    pub fn wire_len(&self, token: Token) -> usize {
        self.letter(token).wire_len()
    }

    pub fn spread(&self) -> Spread {
        let lens = || self.letters.iter().map(|letter| letter.content_len);
        Spread {
            count: self.letters.len(),
            least: lens().min().unwrap_or(0),
            mean: lens().sum::<usize>() as f64 / self.letters.len().max(1) as f64,
            most: lens().max().unwrap_or(0),
        }
    }

    /// Appends the next piece of the content to `out`, from `sent_len` on, as long as `out` stays within
    /// [`SEND_LEN_MAX`] octets. Returns how far that is. By BDAT at most one chunk, with its command in front at the
    /// chunk's beginning.
    pub fn append_content(&self, token: Token, sent_len: usize, out: &mut Vec<u8>) -> usize {
        let letter = self.letter(token);
        let wire_len = letter.wire_len();
        let mut until = wire_len;
        if let Transfer::Bdat { chunk_len } = self.transfer {
            let chunk_end = (sent_len / chunk_len + 1).saturating_mul(chunk_len).min(wire_len);
            if sent_len.is_multiple_of(chunk_len) {
                let last = if chunk_end == wire_len { " LAST" } else { "" };
                write!(out, "BDAT {}{last}\r\n", chunk_end - sent_len).expect("memory takes all");
            }
            until = chunk_end;
        }
        let end = until.min(sent_len + SEND_LEN_MAX.saturating_sub(out.len()));
        let begin = out.len();
        let head = &self.stock[letter.head.clone()];
        out.extend_from_slice(&head[sent_len.min(head.len())..end.min(head.len())]);
        let in_tail = |at: usize| at.saturating_sub(head.len());
        out.extend_from_slice(&letter.tail[in_tail(sent_len)..in_tail(end)]);
        self.name(token, sent_len..end, &mut out[begin..]);
        end
    }

    /// Whether a chunk ends where so many octets of a content are sent.
    pub fn ends_chunk(&self, sent_len: usize, wire_len: usize) -> bool {
        match self.transfer {
            Transfer::Data => false,
            Transfer::Bdat { chunk_len } => sent_len == wire_len || sent_len.is_multiple_of(chunk_len),
        }
    }

    /// Writes the token into its places, as far as they lie in `piece`, which is this range of the content.
    fn name(&self, token: Token, range: Range<usize>, piece: &mut [u8]) {
        let mut text = [0; Token::LEN];
        for &at in &self.token_at {
            let (from, to) = (range.start.max(at), range.end.min(at + Token::LEN));
            if from >= to {
                continue;
            }
            if text[0] == 0 {
                token.write(&mut text);
            }
            piece[from - range.start..to - range.start].copy_from_slice(&text[from - at..to - at]);
        }
    }

    /// Whether `out` has room for more of a content, and its command.
    pub fn has_room(out: &[u8]) -> bool {
        out.len() + BDAT_LEN_MAX < SEND_LEN_MAX
    }
}

fn heading(recipe: &Recipe) -> Heading<'_> {
    Heading {
        reverse_path: &recipe.reverse_path,
        forward_path: recipe.forward_paths.first().map_or("", |path| path),
        eight_bit: recipe.eight_bit,
        now: recipe.now,
    }
}

#[cfg(test)]
pub(crate) mod tests;
