//! Dialogue files: one behaviour of a session, written down as the two sides' lines.
//!
//! ```text
//! # Prose. A line `# key = value` sets an option of the listener (see `option`).
//! S: 220 mx.example *           the server says this; `*` stands for any run of characters
//! C: EHLO client.example        the client writes this and CRLF; neighbouring C lines are one write, a group
//! C<< "x"*3000 "\r\n" "\xff"    the client writes these octets: strings with \r \n \t \0 \\ \" \xHH, repeated by *N
//! C: <eof>                      the client ends its direction
//! S: <closed>                   the session is over
//! S*100: 250 2.1.5 *            a hundred lines like this
//! hello                         greeting, EHLO client.example and its reply: what most dialogues begin with
//! mail                          MAIL FROM:<a@example.org> and RCPT TO:<b@example.com>, both taken
//! data                          the same and DATA, with its 354
//! M: a@example.org -> b@example.com, postmaster
//!                               the next stored message's envelope (`<>`: null reverse-path); `M: *` for any.
//!                               `; 8bit` or `; 7bit` behind it is the BODY that the client declared, `; utf8` its
//!                               SMTPUTF8, `; full` or `; hdrs` its RET, `; envid=x` its ENVID,
//!                               `; tags=a,b` what rules tagged it with
//! N| SUCCESS,DELAY rfc822;b@example.com
//!                               NOTIFY and ORCPT of its next recipient, `-` for none
//! M| Subject: x                 and its content, line by line, without the trace field
//! M<< "a\r\n" "b"*70            or octet by octet
//! T| Received: from client*     a line of its trace field
//! wait 5m                       time passes (ms, s, m, h)
//! commits fail | commits succeed | commits find no room | commits wait
//! commit succeeds | commit fails    the one that waits ends
//! storage full | storage failed | storage well      what the spool's state is when MAIL comes
//! files full | files failed | files ready           what content gets that wants a file
//! handshake | handshake with a certificate | handshake fails    how the TLS handshake under way ends
//! stop                          the server is told to stop
//! vanish                        the connection is gone
//! ```
//!
//! Replies must be said when they are expected and not before: after each write, all that the server said is compared.
//! Each file runs with its writes whole, one octet at a time, and split at random places; what the server says and
//! stores must be the same each time, unless the file says `# splits = whole`. `greeting = full` or `greeting = failed`
//! has the server refuse the session.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use ringmx::policy::newline::BareNewline;
use ringmx::protocol::extension::Extension;
use ringmx::protocol::params::{Body, Notify, Ret};
use ringmx::security::{CipherSuite, ClientCertificate, Fingerprint, Secured, Security, Version};
use ringmx::session::{Error, TlsMode};

use crate::guard;
use crate::pair::{Commits, Options, Pair, Stored};
use crate::random::Random;
use crate::source;

/// Lines for which one word stands.
const SHORTHANDS: &[(&str, &str)] = &[
    (
        "hello",
        "S: 220 mx.example *\nC: EHLO client.example\nS: 250-mx.example *\nS: 250-PIPELINING\nS: 250-SIZE *\n\
         S: 250-8BITMIME\nS: 250-ENHANCEDSTATUSCODES\nS: 250-SMTPUTF8\nS: 250-CHUNKING\nS: 250 LIMITS RCPTMAX=*",
    ),
    ("mail", "C: MAIL FROM:<a@example.org>\nC: RCPT TO:<b@example.com>\nS: 250 2.1.0 *\nS: 250 2.1.5 *"),
    (
        "data",
        "C: MAIL FROM:<a@example.org>\nC: RCPT TO:<b@example.com>\nC: DATA\nS: 250 2.1.0 *\nS: 250 2.1.5 *\nS: 354 *",
    ),
];

/// A file, read.
#[derive(Debug)]
pub struct Dialogue {
    pub name: String,
    options: Options,
    refusal: Option<Error>,
    /// How it is split is what it is about.
    is_whole: bool,
    /// With the number of its first line.
    steps: Vec<(usize, Step)>,
    messages: Vec<(usize, Expected)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Client(Vec<u8>),
    EndInput,
    Server(String),
    Closed,
    Wait(Duration),
    Commits(Commits),
    Complete(Result<(), Error>),
    Storage(Option<Error>),
    Files(Result<(), Error>),
    Handshake(Result<Secured, &'static str>),
    Stop,
    Vanish,
}

/// What a message must be like.
#[derive(Clone, Debug, Default)]
struct Expected {
    /// Reverse-path and recipients.
    envelope: Option<(String, Vec<String>)>,
    body: Option<Body>,
    smtputf8: bool,
    ret: Option<Ret>,
    envid: Option<Vec<u8>>,
    tags: Vec<String>,
    notices: Vec<Notice>,
    content: Option<Vec<u8>>,
    trace: Vec<String>,
}

/// NOTIFY and ORCPT of a recipient.
type Notice = (Option<Notify>, Option<Vec<u8>>);

/// What came of playing a dialogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was said, for people.
    pub transcript: String,
    /// What the server said, line by line.
    pub replies: Vec<String>,
    /// What the log would name as the causes of refusals, with the codes of their replies.
    pub causes: Vec<(&'static str, u16)>,
    pub stored: Vec<Stored>,
}

/// How the client's writes reach the session.
#[derive(Clone, Copy, Debug)]
pub enum Splits {
    Whole,
    Octets,
    /// At places drawn from this seed.
    Random(u64),
}

impl Dialogue {
    /// All files of `dialogue/`, in the order of their names.
    pub fn all() -> Vec<Result<Self, String>> {
        source::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("dialogue"))
            .iter()
            .map(|path| Self::read(path))
            .collect()
    }

    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        Self::parse(&name, &text)
    }

    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut dialogue = Self {
            name: name.to_owned(),
            options: Options::default(),
            refusal: None,
            is_whole: false,
            steps: Vec::new(),
            messages: Vec::new(),
        };
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            dialogue
                .line(number, line)
                .map_err(|error| format!("{name}.smtp:{number}: {error}: `{line}`"))?;
        }
        if dialogue.steps.is_empty() { Err(format!("{name}.smtp: nothing is said")) } else { Ok(dialogue) }
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.trim().is_empty() {
            return Ok(());
        }
        if let Some(comment) = line.strip_prefix('#') {
            return self.option(comment);
        }
        let prefixed =
            |prefix| line.strip_prefix(prefix).map(|rest: &str| rest.strip_prefix(' ').unwrap_or(rest));
        if let Some(octets) = prefixed("C<<") {
            self.write(number, &octets_of(octets)?);
        } else if let Some(text) = prefixed("C:") {
            match text {
                "<eof>" => self.steps.push((number, Step::EndInput)),
                _ => self.write(number, format!("{text}\r\n").as_bytes()),
            }
        } else if let Some((count, text)) = line.strip_prefix("S*").and_then(|rest| rest.split_once(": ")) {
            let count = count.parse().map_err(|_| "expected a number behind S*")?;
            self.steps.extend(std::iter::repeat_n((number, Step::Server(text.to_owned())), count));
        } else if let Some((_, lines)) = SHORTHANDS.iter().find(|(name, _)| *name == line) {
            lines.lines().try_for_each(|line| self.line(number, line))?;
        } else if let Some(text) = prefixed("S:") {
            let step = if text == "<closed>" { Step::Closed } else { Step::Server(text.to_owned()) };
            self.steps.push((number, step));
        } else if let Some(text) = prefixed("M:") {
            self.messages.push((number, envelope(text)?));
        } else if let Some(text) = prefixed("M|") {
            self.message()?.content.get_or_insert_default().extend(format!("{text}\r\n").as_bytes());
        } else if let Some(octets) = prefixed("M<<") {
            self.message()?.content.get_or_insert_default().extend(octets_of(octets)?);
        } else if let Some(text) = prefixed("N|") {
            self.message()?.notices.push(notice(text)?);
        } else if let Some(text) = prefixed("T|") {
            self.message()?.trace.push(text.to_owned());
        } else {
            self.steps.push((number, event(line.trim())?));
        }
        Ok(())
    }

    fn message(&mut self) -> Result<&mut Expected, String> {
        self.messages.last_mut().map(|(_, message)| message).ok_or_else(|| "no M: line before".to_owned())
    }

    /// Neighbouring lines of the client are one write.
    fn write(&mut self, number: usize, octets: &[u8]) {
        match self.steps.last_mut() {
            Some((_, Step::Client(write))) => write.extend_from_slice(octets),
            _ => self.steps.push((number, Step::Client(octets.to_vec()))),
        }
    }

    fn option(&mut self, comment: &str) -> Result<(), String> {
        let Some((key, value)) = comment.trim().split_once(" = ") else { return Ok(()) };
        if key.contains(' ') {
            return Ok(());
        }
        let number = || value.replace('_', "").parse::<u64>().map_err(|_| "not a number".to_owned());
        if guard::set(&mut self.options, key, value)? {
            return Ok(());
        }
        match key {
            "splits" if value == "whole" => self.is_whole = true,
            "max_message_size" => self.options.max_message_size = number()?,
            "memory_max" => self.options.memory_max = number()? as usize,
            "inline_size" => self.options.inline_size = number()? as usize,
            "rule" => self.options.rules.push(value.to_owned()),
            "recipients" => self.options.recipients = Some(value.to_owned()),
            "domains" => self.options.domains = value.split(", ").map(str::to_owned).collect(),
            "client" => self.options.client = value.parse().map_err(|_| "not an address".to_owned())?,
            "command_timeout" => self.options.command_timeout = duration(value)?,
            "data_timeout" => self.options.data_timeout = duration(value)?,
            "banner" => self.options.banner = Some(value.into()),
            "disable_extensions" => {
                for keyword in value.split(", ") {
                    self.options.extensions = self.options.extensions.without(extension(keyword)?);
                }
            }
            // What no configuration can offer yet.
            "offer" => self.options.extensions = self.options.extensions.with(extension(value)?),
            "bare_newline" => {
                let named = BareNewline::ALL.into_iter().find(|choice| choice.name() == value);
                self.options.bare_newline = named.ok_or("unknown choice")?;
            }
            "bare_newline_exclude" => {
                let network = value.parse().map_err(|_| "not a network".to_owned())?;
                self.options.bare_newline_exclude = [network].into_iter().collect();
            }
            "handshakes_open" => self.options.handshakes_open = number()? as usize,
            "tls" => {
                let named = TlsMode::ALL.into_iter().find(|mode| mode.name() == value);
                self.options.tls = named.ok_or("unknown mode")?;
            }
            "help_url" => self.options.help_url = Some(value.into()),
            "greeting" => self.refusal = Some(error(value)?),
            _ => {
                let enhanced = key.strip_prefix("text.").ok_or("unknown option")?;
                self.options.texts.insert(enhanced.into(), value.into());
            }
        }
        Ok(())
    }

    /// Whether the operator's words stand in place of ours.
    pub fn has_own_texts(&self) -> bool {
        let of_rules = |rule: &String| rule.contains("text = ") || rule.contains("code = ");
        let Options { texts, help_url, banner, rules, .. } = &self.options;
        !texts.is_empty() || help_url.is_some() || banner.is_some() || rules.iter().any(of_rules)
    }

    /// Plays it; or what was not as written.
    pub fn run(&self, splits: Splits) -> Result<Outcome, String> {
        let splits = if self.is_whole { Splits::Whole } else { splits };
        let mut player = Player {
            pair: Pair::new(&self.options),
            random: Random::new(if let Splits::Random(seed) = splits { seed } else { 0 }),
            splits,
            said: Vec::new(),
            replies: Vec::new(),
            transcript: String::new(),
        };
        let place = |number: usize, player: &Player, error: String| {
            let Player { transcript, .. } = player;
            format!("{}.smtp:{number} ({splits:?}): {error}\n{transcript}", self.name)
        };
        player.pair.greet(self.refusal);
        player.listen();
        for (number, step) in &self.steps {
            player.step(step).map_err(|error| place(*number, &player, error))?;
        }
        let last = self.steps.last().map_or(0, |(number, _)| *number);
        player.nothing_unexpected().map_err(|error| place(last, &player, error))?;
        let ends = |(_, step): &(usize, Step)| matches!(step, Step::Closed | Step::EndInput | Step::Vanish);
        if player.pair.is_closed() && !self.steps.iter().any(ends) {
            return Err(place(last, &player, "the session is over".to_owned()));
        }
        let stored = std::mem::take(&mut player.pair.stored);
        if stored.len() != self.messages.len() {
            let error = format!("{} messages stored, {} expected", stored.len(), self.messages.len());
            return Err(place(last, &player, error));
        }
        for ((number, expected), message) in self.messages.iter().zip(&stored) {
            expected.compare(message).map_err(|error| place(*number, &player, error))?;
        }
        let Player { transcript, replies, pair, .. } = player;
        Ok(Outcome { transcript, replies, causes: pair.causes, stored })
    }
}

/// One run.
struct Player {
    pair: Pair,
    random: Random,
    splits: Splits,
    /// Lines that the server said and no `S:` has claimed.
    said: Vec<String>,
    /// All of them.
    replies: Vec<String>,
    transcript: String,
}

impl Player {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Server(expected) => {
                if self.said.is_empty() {
                    return Err(format!("the server says nothing; expected `{expected}`"));
                }
                let line = self.said.remove(0);
                return if glob(expected, &line) {
                    Ok(())
                } else {
                    Err(format!("the server says `{line}`; expected `{expected}`"))
                };
            }
            Step::Closed => {
                return if self.pair.is_closed() { Ok(()) } else { Err("the session goes on".to_owned()) };
            }
            _ => {}
        }
        self.nothing_unexpected()?;
        match step {
            Step::Client(_) | Step::EndInput if self.pair.is_closed() => {
                return Err("the session is over".to_owned());
            }
            Step::Client(octets) => self.write(octets),
            Step::EndInput => self.pair.end_input(),
            Step::Wait(time) => self.pair.wait(*time),
            Step::Commits(commits) => self.pair.set_commits(*commits),
            Step::Complete(_) if !self.pair.is_committing() => {
                return Err("no commit is under way".to_owned());
            }
            Step::Complete(result) => self.pair.complete(*result),
            Step::Storage(error) => self.pair.set_storage_error(*error),
            Step::Handshake(_) if !self.pair.is_securing() => {
                return Err("no handshake is under way".to_owned());
            }
            Step::Handshake(result) => self.pair.shake_hands(result.clone()),
            Step::Files(files) => self.pair.set_files(*files),
            Step::Stop => self.pair.stop(),
            Step::Vanish => {
                self.pair.vanish();
                if self.pair.content_octets_held() > 0 {
                    return Err("content is held although the connection is gone".to_owned());
                }
            }
            Step::Server(_) | Step::Closed => unreachable!("handled above"),
        }
        self.listen();
        Ok(())
    }

    fn write(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() {
            let len = match self.splits {
                Splits::Whole => rest.len(),
                Splits::Octets => 1,
                Splits::Random(_) => self.random.split(rest.len()),
            };
            let (now, later) = rest.split_at(len);
            self.pair.send(now);
            rest = later;
        }
        const SHOWN_LINES_MAX: usize = 10;
        let lines = octets.split_inclusive(|&octet| octet == b'\n');
        for line in lines.clone().take(SHOWN_LINES_MAX) {
            let shown = &line[..line.len().min(100)];
            writeln!(self.transcript, "  C: {}", shown.escape_ascii()).expect("a String takes all");
        }
        let more = lines.count().saturating_sub(SHOWN_LINES_MAX);
        if more > 0 {
            writeln!(self.transcript, "  C: .. {more} more lines").expect("a String takes all");
        }
    }

    fn listen(&mut self) {
        for line in String::from_utf8(self.pair.replies()).expect("ASCII").split_terminator("\r\n") {
            writeln!(self.transcript, "  S: {line}").expect("a String takes all");
            self.replies.push(line.to_owned());
            self.said.push(line.to_owned());
        }
    }

    fn nothing_unexpected(&self) -> Result<(), String> {
        match self.said.first() {
            None => Ok(()),
            Some(line) => Err(format!("the server says `{line}`; nothing was expected")),
        }
    }
}

impl Expected {
    fn compare(&self, message: &Stored) -> Result<(), String> {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        if let Some((reverse_path, recipients)) = &self.envelope {
            let stored: Vec<String> = message.recipients.iter().map(|recipient| text(recipient)).collect();
            if (&text(&message.reverse_path), &stored) != (reverse_path, recipients) {
                let stored = stored.join(", ");
                return Err(format!(
                    "stored is the envelope `{}` -> `{stored}`",
                    text(&message.reverse_path)
                ));
            }
            if message.body != self.body {
                return Err(format!("stored is BODY {:?}", message.body));
            }
            let kept = (message.smtputf8, message.ret, &message.envid, &message.tags);
            if kept != (self.smtputf8, self.ret, &self.envid, &self.tags) {
                return Err(format!("stored are SMTPUTF8, RET and ENVID {kept:?}"));
            }
            let mut expected = self.notices.clone();
            expected.resize(recipients.len(), (None, None));
            if message.notices != expected {
                return Err(format!("stored are NOTIFY and ORCPT {:?}", message.notices));
            }
        }
        // What the trace field says of TLS, the envelope says too.
        if text(&message.trace).contains("\ttls ") != message.security.is_some() {
            return Err(format!("stored is the security {:?}", message.security));
        }
        if let Some(content) = self.content.as_ref().filter(|&content| *content != message.content) {
            let len = content.iter().zip(&message.content).take_while(|(a, b)| a == b).count();
            let show =
                |octets: &[u8]| octets[len.min(octets.len())..].iter().take(60).copied().collect::<Vec<u8>>();
            return Err(format!(
                "content differs at octet {len}: stored `{}`, expected `{}`",
                show(&message.content).escape_ascii(),
                show(content).escape_ascii()
            ));
        }
        let trace = text(&message.trace);
        for expected in &self.trace {
            if !trace.lines().any(|line| glob(expected, line)) {
                return Err(format!("no line `{expected}` in the trace field:\n{trace}"));
            }
        }
        Ok(())
    }
}

/// `*` in the pattern stands for any run of characters.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|behind| {
            let places = behind.char_indices().map(|(at, _)| at).chain([behind.len()]);
            places.into_iter().any(|at| glob(rest, &behind[at..]))
        }),
    }
}

/// `a@b -> c@d, e@f; 8bit`, or `*`.
fn envelope(text: &str) -> Result<Expected, String> {
    let mut expected = Expected::default();
    if text == "*" {
        return Ok(expected);
    }
    let mut parts = text.split("; ");
    let paths = parts.next().unwrap_or_default();
    for part in parts {
        match part {
            "8bit" => expected.body = Some(Body::EightBitMime),
            "7bit" => expected.body = Some(Body::SevenBit),
            "utf8" => expected.smtputf8 = true,
            "full" => expected.ret = Some(Ret::Full),
            "hdrs" => expected.ret = Some(Ret::Headers),
            _ => {
                if let Some(tags) = part.strip_prefix("tags=") {
                    expected.tags = tags.split(',').map(str::to_owned).collect();
                    continue;
                }
                let envid = part.strip_prefix("envid=").ok_or("unknown parameter of the envelope")?;
                expected.envid = Some(envid.into());
            }
        }
    }
    let (from, to) = paths.split_once(" -> ").ok_or("expected `reverse-path -> recipient, ..`")?;
    let from = if from == "<>" { "" } else { from };
    let to = to.split(", ").map(str::to_owned).collect();
    expected.envelope = Some((from.to_owned(), to));
    Ok(expected)
}

/// `NOTIFY ORCPT`, each `-` for none.
fn notice(text: &str) -> Result<Notice, String> {
    let (notify, orcpt) = text.split_once(' ').ok_or("expected NOTIFY and ORCPT")?;
    let event = |name| match name {
        "NEVER" => Ok(Notify::NEVER),
        "SUCCESS" => Ok(Notify::SUCCESS),
        "FAILURE" => Ok(Notify::FAILURE),
        "DELAY" => Ok(Notify::DELAY),
        _ => Err("unknown NOTIFY".to_owned()),
    };
    let notify = (notify != "-").then(|| {
        notify.split(',').try_fold(Notify::NEVER, |wanted, name| event(name).map(|event| wanted.and(event)))
    });
    Ok((notify.transpose()?, (orcpt != "-").then(|| orcpt.into())))
}

fn extension(keyword: &str) -> Result<Extension, String> {
    let named = Extension::ALL.into_iter().find(|extension| extension.keyword() == keyword);
    named.ok_or_else(|| "unknown extension".to_owned())
}

fn event(line: &str) -> Result<Step, String> {
    Ok(match line {
        "commits succeed" => Step::Commits(Commits::Succeed),
        "commits fail" => Step::Commits(Commits::Fail(Error::SpoolFailed)),
        "commits find no room" => Step::Commits(Commits::Fail(Error::NoStorage)),
        "commits wait" => Step::Commits(Commits::Wait),
        "commit succeeds" => Step::Complete(Ok(())),
        "commit fails" => Step::Complete(Err(Error::SpoolFailed)),
        "storage well" => Step::Storage(None),
        "handshake" => Step::Handshake(Ok(secured(None))),
        "handshake with a certificate" => {
            let certificate = ClientCertificate { fingerprint: Fingerprint([0xab; 32]), verified: true };
            Step::Handshake(Ok(secured(Some(certificate))))
        }
        "handshake fails" => Step::Handshake(Err("malformed message")),
        "stop" => Step::Stop,
        "vanish" => Step::Vanish,
        _ => match line.split_once(' ') {
            Some(("wait", time)) => Step::Wait(duration(time)?),
            Some(("files", "ready")) => Step::Files(Ok(())),
            Some(("files", what)) => Step::Files(Err(error(what)?)),
            Some(("storage", what)) => Step::Storage(Some(error(what)?)),
            _ => return Err("not a line of a dialogue".to_owned()),
        },
    })
}

fn secured(certificate: Option<ClientCertificate>) -> Secured {
    Secured {
        security: Security { version: Version::Tls13, cipher: CipherSuite(0x1302), certificate },
        resumed: false,
        certificate_names: Box::default(),
    }
}

fn error(name: &str) -> Result<Error, String> {
    match name {
        "full" => Ok(Error::NoStorage),
        "failed" => Ok(Error::SpoolFailed),
        "too many connections" => Ok(Error::Full),
        "spool stopped" => Ok(Error::SpoolStopped),
        _ => Err("unknown error".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "not a duration".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err("a duration ends in ms, s, m or h".to_owned()),
    }
}

/// Strings in quotes, each perhaps repeated.
fn octets_of(text: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (string, behind) = quoted(rest.strip_prefix('"').ok_or("expected a string in quotes")?)?;
        let (count, behind) = match behind.strip_prefix('*') {
            None => (1, behind),
            Some(number) => {
                let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
                (number[..digits].parse().map_err(|_| "expected a number behind *")?, &number[digits..])
            }
        };
        octets.extend(string.repeat(count));
        rest = behind.trim_start();
    }
    Ok(octets)
}

/// The string's octets and what follows its closing quote.
fn quoted(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut octets = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((octets, &text[at + 1..])),
            '\\' => octets.push(match chars.next().map(|(_, c)| c) {
                Some('r') => b'\r',
                Some('n') => b'\n',
                Some('t') => b'\t',
                Some('0') => 0,
                Some('x') => {
                    let hex = text.get(at + 2..at + 4).ok_or("two digits follow \\x")?;
                    chars.nth(1);
                    u8::from_str_radix(hex, 16).map_err(|_| "two digits follow \\x")?
                }
                Some(c @ ('\\' | '"')) => c as u8,
                _ => return Err("unknown escape".to_owned()),
            }),
            c => octets.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Err("the string does not end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_runs() {
        assert!(glob("250 *", "250 2.0.0 ok") && glob("*", "") && glob("a*c*e", "abcde") && glob("x", "x"));
        assert!(!glob("250 *", "550 2.0.0") && !glob("x", "xy") && !glob("a*c", "ab"));
    }

    #[test]
    fn octets_are_read() {
        assert_eq!(
            octets_of(r#""a\r\n" "\xff\"\\"*2 "é""#).as_deref(),
            Ok(&b"a\r\n\xff\"\\\xff\"\\\xc3\xa9"[..])
        );
        assert!(octets_of("x").is_err() && octets_of("\"x").is_err() && octets_of("\"\\q\"").is_err());
    }

    #[test]
    fn a_dialogue_that_is_wrong_is_told_where() {
        let wrong = [
            ("S: 250 x", "1"),
            ("S: 220 *\nC: NOOP", "2"),
            ("S: 220 *\nC: NOOP\nS: 250 *\nS: <closed>", "4"),
            ("S: 220 *\nC: QUIT\nS: 221 *\nM: *", "3"),
        ];
        for (text, number) in wrong {
            let error =
                Dialogue::parse("x", text).expect("a dialogue").run(Splits::Whole).expect_err("wrong");
            assert!(error.starts_with(&format!("x.smtp:{number} ")), "{text}: {error}");
        }
        for text in ["", "X: y", "# unknown = 1", "M| x", "wait long", "C<< x"] {
            assert!(Dialogue::parse("x", text).is_err(), "{text}");
        }
    }
}
