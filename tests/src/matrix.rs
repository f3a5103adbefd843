//! What a session must answer, by a model that shares no line with the engine: a client's lines, each with what it
//! means, and a table of replies by state.

use crate::phases::{Phase, TARPIT_FAULTS_COUNT};

/// What a line means to a server that reads commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Hello,
    Mail,
    /// MAIL that announces more than the listener takes.
    LargeMail,
    Rcpt,
    /// RCPT of a domain that is not served.
    Elsewhere,
    Data,
    /// MAIL with SMTPUTF8.
    Utf8Mail,
    /// RCPT of a mailbox that needs it.
    Utf8Rcpt,
    /// BDAT of no octets, and not the last.
    Chunk,
    /// BDAT of no octets, and the last.
    LastChunk,
    /// What follows it cannot be told from commands.
    Unreadable,
    Rset,
    Noop,
    Help,
    Vrfy,
    Quit,
    /// Refused with this code in every state: it is no command, or not of its form, or not offered.
    Wrong(u16),
}

/// Octets below 32, names and paths at their bounds and the like have dialogues; here stands one line of each kind.
pub const LINES: &[(&str, Class)] = &[
    ("EHLO client.example", Class::Hello),
    ("ehlo [192.0.2.1]", Class::Hello),
    ("EHLO [IPv6:2001:db8::1]", Class::Hello),
    ("HELO client.example", Class::Hello),
    ("EHLO", Class::Wrong(501)),
    ("HELO", Class::Wrong(501)),
    ("EHLO <", Class::Wrong(501)),
    ("HELO a b", Class::Wrong(501)),
    ("MAIL FROM:<>", Class::Mail),
    ("mail from:<a@example.org>", Class::Mail),
    ("MAIL FROM:<\"a b\"@[192.0.2.1]>", Class::Mail),
    ("MAIL FROM:<@a.example,@b.example:c@example.org>", Class::Mail),
    ("MAIL FROM:<a@example.org> SIZE=10", Class::Mail),
    ("MAIL FROM:<a@example.org> size=0 body=7bit", Class::Mail),
    ("MAIL FROM:<a@example.org> BODY=8BITMIME SIZE=00010", Class::Mail),
    ("MAIL FROM:<a@example.org> SIZE=99999999999", Class::LargeMail),
    ("MAIL FROM:<> SIZE=99999999999999999999 BODY=8BITMIME", Class::LargeMail),
    ("MAIL FROM:<a@example.org> SIZE", Class::Wrong(501)),
    ("MAIL FROM:<a@example.org> SIZE=", Class::Wrong(501)),
    ("MAIL FROM:<a@example.org> SIZE=-1", Class::Wrong(501)),
    ("MAIL FROM:<a@example.org> SIZE=1 SIZE=1", Class::Wrong(501)),
    ("MAIL FROM:<a@example.org> BODY", Class::Wrong(501)),
    ("MAIL FROM:<a@example.org> BODY=BINARYMIME", Class::Wrong(555)),
    ("MAIL FROM:<a@example.org> BODY=7BIT BODY=7BIT", Class::Wrong(501)),
    ("MAIL FROM:<a@example.org> X-KEY", Class::Wrong(555)),
    ("MAIL FROM:<a@example.org> X-KEY=value", Class::Wrong(555)),
    ("MAIL FROM:<a@example.org> X=a=b", Class::Wrong(501)),
    ("MAIL FROM:<a@example.org> -X", Class::Wrong(501)),
    ("MAIL FROM:<a@example.org> AUTH=<>", Class::Wrong(555)),
    ("MAIL FROM:<a@example.org> REQUIRETLS", Class::Wrong(555)),
    ("MAIL FROM:<a@example.org> MT-PRIORITY=3", Class::Wrong(555)),
    ("MAIL", Class::Wrong(501)),
    ("MAIL a@example.org", Class::Wrong(501)),
    ("MAIL FROM:", Class::Wrong(501)),
    ("MAIL FROM:a@example.org", Class::Wrong(501)),
    ("MAIL FROM:<a>", Class::Wrong(501)),
    ("MAIL FROM:<a@example.org", Class::Wrong(501)),
    ("MAIL TO:<a@example.org>", Class::Wrong(501)),
    ("MAIL FROM:<\u{e9}@example.org>", Class::Wrong(550)),
    ("MAIL FROM:<\u{e9}@example.org> SMTPUTF8", Class::Utf8Mail),
    ("MAIL FROM:<a@example.org> smtputf8 BODY=8BITMIME", Class::Utf8Mail),
    ("MAIL FROM:<a@example.org> SMTPUTF8=", Class::Wrong(501)),
    ("MAIL FROM:<a@example.org> RET=FULL", Class::Wrong(555)),
    ("RCPT TO:<b@example.com>", Class::Rcpt),
    ("rcpt to:<Postmaster>", Class::Rcpt),
    ("RCPT TO:<postmaster@EXAMPLE.com>", Class::Rcpt),
    ("RCPT TO:<\"b\"@[192.0.2.25]>", Class::Rcpt),
    ("RCPT TO:<@x.example:b@example.com>", Class::Rcpt),
    ("RCPT TO:<b@example.org>", Class::Elsewhere),
    ("RCPT TO:<@example.com:b@example.org>", Class::Elsewhere),
    ("RCPT TO:<\"b@example.com\"@example.org>", Class::Elsewhere),
    ("RCPT TO:<b@example.com> X-KEY=value", Class::Wrong(555)),
    ("RCPT TO:<b@example.com> SIZE=1", Class::Wrong(555)),
    ("RCPT TO:<b@example.com> =", Class::Wrong(501)),
    ("RCPT TO:<>", Class::Wrong(501)),
    ("RCPT TO:<b>", Class::Wrong(501)),
    ("RCPT TO:b@example.com", Class::Wrong(501)),
    ("RCPT FROM:<b@example.com>", Class::Wrong(501)),
    ("RCPT", Class::Wrong(501)),
    ("RCPT TO:<\u{e9}@example.com>", Class::Utf8Rcpt),
    ("RCPT TO:<b@example.com> NOTIFY=NEVER", Class::Wrong(555)),
    ("DATA", Class::Data),
    ("data ", Class::Data),
    ("DATA x", Class::Wrong(501)),
    ("RSET", Class::Rset),
    ("RSET x", Class::Wrong(501)),
    ("NOOP", Class::Noop),
    ("NOOP x", Class::Noop),
    ("HELP", Class::Help),
    ("HELP x", Class::Help),
    ("VRFY b", Class::Vrfy),
    ("VRFY \u{e9} SMTPUTF8", Class::Vrfy),
    ("VRFY \u{e9}", Class::Wrong(553)),
    ("VRFY", Class::Wrong(501)),
    ("EXPN", Class::Wrong(501)),
    ("EXPN b", Class::Wrong(502)),
    ("QUIT", Class::Quit),
    ("QUIT x", Class::Wrong(501)),
    ("STARTTLS", Class::Wrong(502)),
    ("STARTTLS x", Class::Wrong(501)),
    ("AUTH", Class::Wrong(502)),
    ("AUTH PLAIN AGEAYg==", Class::Wrong(502)),
    ("BDAT 0", Class::Chunk),
    ("bdat 0 last", Class::LastChunk),
    ("BDAT", Class::Unreadable),
    ("BDAT 3 FIRST", Class::Unreadable),
    ("BDAT 5000000000", Class::Unreadable),
    ("XYZZY", Class::Wrong(500)),
    ("SEND FROM:<a@example.org>", Class::Wrong(500)),
    ("ETRN example.com", Class::Wrong(500)),
    ("TURN", Class::Wrong(500)),
    ("MAILFROM:<a@example.org>", Class::Wrong(500)),
    ("", Class::Wrong(500)),
    (" ", Class::Wrong(500)),
    (" NOOP", Class::Wrong(500)),
    (".", Class::Wrong(500)),
    ("..", Class::Wrong(500)),
    ("NOOP\0", Class::Wrong(500)),
    ("NO\rOP", Class::Wrong(500)),
    ("NOOP \u{7f}", Class::Wrong(500)),
    ("\u{e9}", Class::Wrong(500)),
    ("NOOP \u{e9}", Class::Wrong(500)),
];

/// Where the model's session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No EHLO or HELO yet.
    Start,
    Idle,
    /// Behind MAIL.
    Mail,
    /// Behind MAIL, and no RCPT but refused ones.
    Refused,
    /// Behind MAIL and a RCPT that was taken.
    Rcpt,
    /// Between two chunks of BDAT.
    Chunks,
    /// At the start of a line of content.
    Content,
    /// Within one.
    Line,
    /// Within a command line that is too long.
    Discarding,
    Closed,
    /// The greeting was a refusal.
    TurnedAway,
    /// No header of a proxy yet; as many empty lines have come, with which one may begin.
    Proxy(usize),
    /// No greeting yet; whether who does not wait for it is dismissed.
    Greeting {
        is_strict: bool,
    },
}

/// The session as the model sees it.
#[derive(Clone, Debug)]
pub struct Model {
    pub state: State,
    no_storage: bool,
    stopping: bool,
    /// The last MAIL was refused for an error of the server.
    mail_failed: bool,
    /// The transaction has it.
    smtputf8: bool,
    /// Since the last accepted message.
    faults_count: u32,
    refused_recipients_count: u32,
}

/// RFC 5321 does not say how many; these are what operations.md promises.
const FAULTS_COUNT_MAX: u32 = 20;
const REFUSED_RECIPIENTS_COUNT_MAX: u32 = 200;

impl Model {
    /// A session in that phase, a pending commit done.
    pub fn new(phase: Phase) -> Self {
        let state = match phase {
            Phase::Start => State::Start,
            Phase::Idle | Phase::Helo | Phase::Used | Phase::NoStorage | Phase::Committing => State::Idle,
            Phase::Mail => State::Mail,
            Phase::Recipients | Phase::Stopping => State::Rcpt,
            Phase::Refused => State::Refused,
            Phase::Chunks => State::Chunks,
            Phase::Content => State::Content,
            Phase::Line => State::Line,
            Phase::Discarding => State::Discarding,
            Phase::Closed => State::Closed,
            Phase::TurnedAway => State::TurnedAway,
            Phase::Tarpit => State::Idle,
            Phase::Proxy => State::Proxy(0),
            Phase::Greeting => State::Greeting { is_strict: true },
            Phase::Patient => State::Greeting { is_strict: false },
            Phase::Chunk | Phase::Skipping => unreachable!("no lines are read there"),
        };
        Self {
            state,
            no_storage: phase == Phase::NoStorage,
            stopping: phase == Phase::Stopping,
            mail_failed: false,
            smtputf8: false,
            faults_count: if phase == Phase::Tarpit { TARPIT_FAULTS_COUNT as u32 } else { 0 },
            refused_recipients_count: u32::from(phase == Phase::Refused),
        }
    }

    /// The codes of the replies to a line.
    pub fn line(&mut self, line: &str, class: Class) -> Vec<u16> {
        match self.state {
            State::Closed => Vec::new(),
            // The signature of version 2 begins with two of them; of version 1 no line is one.
            State::Proxy(empty_count) if line.is_empty() && empty_count < 2 => {
                self.state = State::Proxy(empty_count + 1);
                Vec::new()
            }
            State::Proxy(_) => {
                self.state = State::Closed;
                Vec::new()
            }
            State::Greeting { is_strict: true } => {
                self.state = State::Closed;
                vec![554]
            }
            State::Greeting { is_strict: false } => {
                self.state = State::Start;
                [vec![220], self.command(class)].concat()
            }
            // RFC 5321 §3.1: 503 to each command until QUIT.
            State::TurnedAway if !matches!(class, Class::Quit | Class::Unreadable) => self.refuse(503),
            State::Content if line == "." => self.accept(),
            State::Content | State::Line => {
                self.state = State::Content;
                Vec::new()
            }
            State::Discarding => {
                self.state = State::Idle;
                self.refuse(500)
            }
            _ => self.command(class),
        }
    }

    /// The message is whole.
    fn accept(&mut self) -> Vec<u16> {
        (self.faults_count, self.refused_recipients_count) = (0, 0);
        self.state = if self.stopping { State::Closed } else { State::Idle };
        if self.stopping { vec![250, 421] } else { vec![250] }
    }

    fn command(&mut self, class: Class) -> Vec<u16> {
        use State::{Chunks, Closed, Content, Idle, Mail, Rcpt, Refused, Start};
        if class == Class::LastChunk && matches!(self.state, Rcpt | Chunks) {
            return self.accept();
        }
        let is_mail = matches!(class, Class::Mail | Class::Utf8Mail);
        let in_transaction = matches!(self.state, Mail | Refused | Rcpt);
        let (code, next) = match (class, self.state) {
            (Class::Wrong(code), state) => (code, state),
            (Class::Hello, _) => (250, Idle),
            (Class::Noop, state) => (250, state),
            (Class::Help, state) => (214, state),
            (Class::Vrfy, state) => (252, state),
            (Class::Rset, Start) => (250, Start),
            (Class::Rset, _) => (250, Idle),
            (Class::Quit, _) => (221, Closed),
            (Class::LargeMail, Idle) => (552, Idle),
            (_, Idle) if is_mail && self.stopping => (421, Closed),
            (_, Idle) if is_mail && self.no_storage => (452, Idle),
            (_, Idle) if is_mail => (250, Mail),
            (Class::Rcpt, _) if in_transaction => (250, Rcpt),
            (Class::Utf8Rcpt, _) if in_transaction && self.smtputf8 => (250, Rcpt),
            (Class::Utf8Rcpt, Rcpt) => (553, Rcpt),
            (Class::Utf8Rcpt, _) if in_transaction => (553, Refused),
            (Class::Unreadable, _) => (421, Closed),
            (Class::Chunk, Rcpt | Chunks) => (250, Chunks),
            (Class::Elsewhere, Rcpt) => (550, Rcpt),
            (Class::Elsewhere, _) if in_transaction => (550, Refused),
            (Class::Data, Rcpt) => (354, Content),
            (Class::Data | Class::Chunk | Class::LastChunk, Refused) => (554, Refused),
            // Everything that makes a transaction, at the wrong time.
            (_, state) => (503, state),
        };
        let free = self.mail_failed && self.state == Idle && code == 503;
        self.state = next;
        if is_mail && code != 503 {
            self.mail_failed = code == 452;
            self.smtputf8 = class == Class::Utf8Mail;
        }
        match code {
            _ if code < 500 || code == 554 || free => vec![code],
            550 if class == Class::Elsewhere => self.refuse_recipient(),
            _ => self.refuse(code),
        }
    }

    /// A fault, and what follows when it was the last that the session had.
    fn refuse(&mut self, code: u16) -> Vec<u16> {
        self.faults_count += 1;
        self.patience(code, self.faults_count < FAULTS_COUNT_MAX)
    }

    fn refuse_recipient(&mut self) -> Vec<u16> {
        self.refused_recipients_count += 1;
        self.patience(550, self.refused_recipients_count < REFUSED_RECIPIENTS_COUNT_MAX)
    }

    fn patience(&mut self, code: u16, goes_on: bool) -> Vec<u16> {
        if goes_on {
            return vec![code];
        }
        self.state = State::Closed;
        vec![code, 421]
    }
}

/// The codes of well-formed replies.
///
/// RFC 5321 §4.2: three digits, the first 2 to 5 and the second 0 to 5; each line but a reply's last has a hyphen
/// behind its code, which is the same in all of them. RFC 2034 §4: the enhanced status code's class is the first
/// digit.
pub fn codes(replies: &[u8]) -> Vec<u16> {
    let text = str::from_utf8(replies).expect("ASCII");
    let (mut codes, mut open) = (Vec::new(), None);
    for line in text.split_inclusive("\r\n") {
        let line = line.strip_suffix("\r\n").expect("whole lines");
        let digits: Vec<u32> = line.chars().take(3).filter_map(|digit| digit.to_digit(10)).collect();
        let [first @ 2..=5, second @ 0..=5, third] = digits[..] else { panic!("no code: `{line}`") };
        let code = (first * 100 + second * 10 + third) as u16;
        assert!(open.is_none_or(|open| open == code), "a reply of two codes: `{line}`");
        open = match line.as_bytes()[3] {
            b'-' => Some(code),
            b' ' => {
                codes.push(code);
                None
            }
            _ => panic!("neither space nor hyphen behind the code: `{line}`"),
        };
        let word = line[4..].split(' ').next().unwrap_or_default();
        if word.split('.').all(|part| part.parse::<u16>().is_ok()) {
            assert!(word.starts_with(&first.to_string()), "class and code differ: `{line}`");
        }
    }
    assert!(open.is_none(), "a reply without its last line: `{text}`");
    codes
}
