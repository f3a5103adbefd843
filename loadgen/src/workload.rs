//! What is sent: every octet is prepared once; a message costs one copy and the writing of its token.

use std::time::{Duration, SystemTime};

use crate::limits::SEND_LEN_MAX;

/// Names one message for good: `<run>-<connection>-<number>`, of fixed width. A number is used for one attempt only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub run: u64,
    pub connection: u32,
    pub number: u64,
}

impl Token {
    pub const LEN: usize = 16 + 1 + 6 + 1 + 10;

    /// Writes the token into exactly [`LEN`](Self::LEN) octets; `connection` and `number` keep their lowest digits.
    pub fn write(&self, out: &mut [u8]) {
        assert_eq!(out.len(), Self::LEN);
        for (index, place) in out[..16].iter_mut().enumerate() {
            *place = b"0123456789abcdef"[(self.run >> (60 - 4 * index)) as usize & 15];
        }
        out[16] = b'-';
        decimal(u64::from(self.connection), &mut out[17..23]);
        out[23] = b'-';
        decimal(self.number, &mut out[24..]);
    }
}

fn decimal(mut value: u64, out: &mut [u8]) {
    for place in out.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
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
    /// Octets of content as the server stores it: header section and body, CR LF line ends, no dot-stuffing.
    pub content_len: usize,
    /// For the Date field.
    pub now: SystemTime,
}

/// The prepared commands and content of a run, shared by all its threads.
#[derive(Debug)]
pub struct Workload {
    pub ehlo: Vec<u8>,
    /// MAIL without and with the SIZE parameter (RFC 1870), which is only sent where it is offered.
    mail: [Vec<u8>; 2],
    pub rcpt: Vec<Vec<u8>>,
    /// MAIL, all RCPT and DATA as one pipelining group (RFC 2920 §3.1: DATA is last in its group).
    group: [Vec<u8>; 2],
    /// Dot-stuffed content with the end-of-data behind it.
    wire: Vec<u8>,
    /// Where the token stands in `wire`; all within the first send.
    token_at: Vec<usize>,
    pub content_len: usize,
}

pub const DATA: &[u8] = b"DATA\r\n";
pub const END_OF_DATA: &[u8] = b".\r\n";
pub const STARTTLS: &[u8] = b"STARTTLS\r\n";
pub const RSET: &[u8] = b"RSET\r\n";
pub const QUIT: &[u8] = b"QUIT\r\n";

/// Octets of a body line, CR LF included. RFC 5322 §2.1.1 recommends 78 + CR LF as the most.
const LINE_LEN: usize = 78;
/// Every so many lines begin with a dot, so that transparency (RFC 5321 §4.5.2) is part of every run.
const LINES_PER_DOT: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {asked} bytes is too small: its header section alone takes {least}")]
pub struct TooSmall {
    pub asked: usize,
    pub least: usize,
}

impl Workload {
    pub fn new(recipe: &Recipe) -> Result<Self, TooSmall> {
        let (mut content, token_at) = header_section(recipe);
        let body_len = recipe.content_len.checked_sub(content.len()).filter(|&len| len != 1);
        let Some(body_len) = body_len else {
            return Err(TooSmall { asked: recipe.content_len, least: content.len() + 2 });
        };
        assert!(content.len() < SEND_LEN_MAX, "the token is written into the first send");
        append_body(&mut content, body_len);
        let wire = stuff(&content);
        let mail = [String::new(), format!(" SIZE={}", content.len())]
            .map(|size| format!("MAIL FROM:<{}>{size}\r\n", recipe.reverse_path).into_bytes());
        let rcpt: Vec<_> =
            recipe.forward_paths.iter().map(|path| format!("RCPT TO:<{path}>\r\n").into_bytes()).collect();
        let group = mail.clone().map(|mail| [&mail[..], &rcpt.concat(), DATA].concat());
        let ehlo = format!("EHLO {}\r\n", recipe.helo).into_bytes();
        Ok(Self { ehlo, mail, rcpt, group, wire, token_at, content_len: recipe.content_len })
    }

    pub fn mail(&self, size_offered: bool) -> &[u8] {
        &self.mail[usize::from(size_offered)]
    }

    pub fn group(&self, size_offered: bool) -> &[u8] {
        &self.group[usize::from(size_offered)]
    }

    /// Appends the next piece of the content to `out`, at most [`SEND_LEN_MAX`] octets from `sent_len` on. Returns how
    /// far that is, and whether the end-of-data is in it.
    pub fn content(&self, token: Token, sent_len: usize, out: &mut Vec<u8>) -> (usize, bool) {
        let end = self.wire.len().min(sent_len + SEND_LEN_MAX);
        let begin = out.len();
        out.extend_from_slice(&self.wire[sent_len..end]);
        if sent_len == 0 {
            for &at in &self.token_at {
                token.write(&mut out[begin + at..begin + at + Token::LEN]);
            }
        }
        (end, end == self.wire.len())
    }
}

fn header_section(recipe: &Recipe) -> (Vec<u8>, Vec<usize>) {
    let token = "0".repeat(Token::LEN);
    let from =
        if recipe.reverse_path.is_empty() { "mailer-daemon@loadgen.invalid" } else { &recipe.reverse_path };
    let to = recipe.forward_paths.first().map_or("", |path| path);
    let mut text = format!("Date: {}\r\nFrom: <{from}>\r\nTo: <{to}>\r\n", date(recipe.now));
    let mut token_at = Vec::new();
    for (before, after) in [("Subject: ", ""), ("Message-ID: <", "@loadgen.invalid>"), ("X-Loadgen: ", "")] {
        text.push_str(before);
        token_at.push(text.len());
        text.push_str(&token);
        text.push_str(after);
        text.push_str("\r\n");
    }
    text.push_str("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n");
    (text.into_bytes(), token_at)
}

/// Appends lines of exactly `body_len` octets in all, the same for every run.
fn append_body(content: &mut Vec<u8>, body_len: usize) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let end = content.len() + body_len;
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for line in 0.. {
        let left = end - content.len();
        if left == 0 {
            break;
        }
        // One octet cannot be a line: the line before it leaves it two.
        let line_len = if left == LINE_LEN + 1 { LINE_LEN - 1 } else { left.min(LINE_LEN) };
        let text_end = content.len() + line_len - 2;
        if line % LINES_PER_DOT == 0 && line_len > 2 {
            content.push(b'.');
        }
        while content.len() < text_end {
            // xorshift64: the text only has to look like one to a compressing store.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            content.push(ALPHABET[random as usize & 63]);
        }
        content.extend_from_slice(b"\r\n");
    }
}

/// RFC 5321 §4.5.2: one more dot before every line that begins with one; then the end-of-data.
fn stuff(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + content.len() / LINE_LEN + END_OF_DATA.len());
    for line in content.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(END_OF_DATA);
    wire
}

/// RFC 5322 §3.3, in UTC.
fn date(at: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let secs = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, time) = (secs / 86_400, secs % 86_400);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let (mut year, mut left) = (1970, days);
    let month_lens = |year: u64| {
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    };
    while left >= month_lens(year).iter().sum::<u64>() {
        left -= month_lens(year).iter().sum::<u64>();
        year += 1;
    }
    let mut month = 0;
    while left >= month_lens(year)[month] {
        left -= month_lens(year)[month];
        month += 1;
    }
    let (day, month) = (left + 1, MONTHS[month]);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn recipe(content_len: usize) -> Recipe {
        Recipe {
            helo: "loadgen.example".into(),
            reverse_path: "sender@example.net".into(),
            forward_paths: vec!["recipient@example.com".into()],
            content_len,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_210_096),
        }
    }

    const TOKEN: Token = Token { run: 0xfeed_0000_0000_0001, connection: 42, number: 7 };

    fn sent(workload: &Workload) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut sent_len = 0;
        loop {
            let mut piece = Vec::new();
            let (reached, ended) = workload.content(TOKEN, sent_len, &mut piece);
            assert!(piece.len() <= SEND_LEN_MAX);
            assert_eq!(reached, sent_len + piece.len());
            wire.extend_from_slice(&piece);
            sent_len = reached;
            if ended {
                return wire;
            }
        }
    }

    /// What a server stores, computed the slow way.
    fn unstuff(wire: &[u8]) -> Vec<u8> {
        let content = wire.strip_suffix(b".\r\n").expect("end-of-data");
        content
            .split_inclusive(|&octet| octet == b'\n')
            .flat_map(|line| line.strip_prefix(b".").unwrap_or(line))
            .copied()
            .collect()
    }

    #[test]
    fn content_has_exactly_the_size_asked_for() {
        let least = Workload::new(&recipe(0)).expect_err("no room").least;
        for len in (least..least + 400).chain([4096, 65_536, 1_000_001]) {
            let workload = Workload::new(&recipe(len)).expect("room");
            let content = unstuff(&sent(&workload));
            assert_eq!(content.len(), len);
            assert!(content.ends_with(b"\r\n"));
            assert_eq!(
                memchr::memchr_iter(b'\n', &content).count(),
                memchr::memmem::find_iter(&content, b"\r\n").count()
            );
        }
        assert!(Workload::new(&recipe(least - 1)).is_err());
    }

    #[test]
    fn nothing_before_the_end_looks_like_the_end() {
        let wire = sent(&Workload::new(&recipe(100_000)).expect("room"));
        assert_eq!(memchr::memmem::find(&wire, b"\r\n.\r\n"), Some(wire.len() - 5));
        assert!(memchr::memmem::find_iter(&wire, b"\r\n..").count() > 50);
    }

    #[test]
    fn the_token_stands_in_three_fields() {
        let content = unstuff(&sent(&Workload::new(&recipe(2000)).expect("room")));
        let text = String::from_utf8(content).expect("ASCII");
        let token = "feed000000000001-000042-0000000007";
        assert!(text.contains(&format!("\r\nX-Loadgen: {token}\r\n")), "{text}");
        assert!(text.contains(&format!("\r\nMessage-ID: <{token}@loadgen.invalid>\r\n")));
        assert!(text.contains(&format!("\r\nSubject: {token}\r\n")));
        assert!(text.starts_with("Date: Thu, 29 Feb 2024 12:34:56 +0000\r\n"), "{text}");
    }

    #[test]
    fn a_group_ends_with_data() {
        let mut recipe = recipe(1000);
        recipe.reverse_path.clear();
        recipe.forward_paths.push("other@example.com".into());
        let workload = Workload::new(&recipe).expect("room");
        assert_eq!(
            workload.group(true),
            b"MAIL FROM:<> SIZE=1000\r\nRCPT TO:<recipient@example.com>\r\nRCPT TO:<other@example.com>\r\nDATA\r\n"
        );
        assert_eq!(workload.mail(false), b"MAIL FROM:<>\r\n");
    }
}
