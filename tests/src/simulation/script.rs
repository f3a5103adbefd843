//! What a client says: messages of known content, and noise that a server must answer line by line.

use ringmx::limits;
use ringmx_ring::sim::Random;

/// What a step is, for a client that waits for replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command, or something in the place of one.
    Line,
    /// DATA: the content follows only behind a 354.
    Data,
    /// Content up to end-of-data.
    Content,
}

/// Octets that are answered by exactly one reply.
#[derive(Clone, Debug)]
pub struct Step {
    pub octets: Vec<u8>,
    pub kind: Kind,
}

/// A message whose content stands in the canonical form, so that what is stored is known beforehand.
#[derive(Clone, Debug)]
pub struct Message {
    /// Local-part of the first recipient: names the message among all of a run.
    pub marker: String,
    pub content: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub struct Script {
    pub steps: Vec<Step>,
    pub messages: Vec<Message>,
}

/// What the server of these scripts accepts at most.
pub const MESSAGE_LEN_MAX: u64 = 8192;

impl Script {
    /// A session of client number `client_index`. `noise`: how often something else than a transaction comes.
    pub fn random(random: &mut Random, client_index: usize, messages_max: usize, noise: f64) -> Self {
        let mut script = Self::default();
        script.hello(random);
        for message_index in 0..random.len(0..=messages_max) {
            while random.chance(noise) {
                script.noise(random);
            }
            script.message(random, &format!("c{client_index}m{message_index}"), noise);
        }
        script
    }

    /// Without noise: `messages_count` messages of `content_len` octets.
    pub fn plain(client_index: usize, messages_count: usize, content_len: usize) -> Self {
        let mut script = Self::default();
        script.line("EHLO client.example\r\n");
        for message_index in 0..messages_count {
            let marker = format!("c{client_index}m{message_index}");
            script.line("MAIL FROM:<a@sender.example>\r\n");
            script.line(&format!("RCPT TO:<{marker}@example.com>\r\n"));
            script.push(b"DATA\r\n".to_vec(), Kind::Data);
            let content = [vec![b'x'; content_len.max(2) - 2], b"\r\n".to_vec()].concat();
            script.push([&content[..], b".\r\n"].concat(), Kind::Content);
            script.messages.push(Message { marker, content });
        }
        script
    }

    pub fn line(&mut self, text: &str) {
        self.push(text.as_bytes().to_vec(), Kind::Line);
    }

    pub fn push(&mut self, octets: Vec<u8>, kind: Kind) {
        self.steps.push(Step { octets, kind });
    }

    fn hello(&mut self, random: &mut Random) {
        let hellos = ["EHLO client.example\r\n", "HELO [192.0.2.1]\r\n", "ehlo a_b.example.\r\n"];
        self.line(hellos[random.len(0..=2)]);
    }

    fn message(&mut self, random: &mut Random, marker: &str, noise: f64) {
        let senders = [
            "<>",
            "<a@sender.example>",
            "<\"a b\"@sender.example> BODY=8BITMIME",
            "<b@[192.0.2.9]> SIZE=100",
        ];
        self.line(&format!("MAIL FROM:{}\r\n", senders[random.len(0..=3)]));
        self.line(&format!("RCPT TO:<{marker}@example.com>\r\n"));
        while random.chance(0.3) {
            let recipients =
                ["<Postmaster>", "<x@EXAMPLE.com>", "<@relay.example:y@example.com>", "<z@other.example>"];
            self.line(&format!("RCPT TO:{}\r\n", recipients[random.len(0..=3)]));
        }
        if random.chance(noise / 8.0) {
            self.line(
                ["NOOP\r\n", "RSET\r\n", "EHLO again\r\n", "MAIL FROM:<>\r\n", "x\r\n"][random.len(0..=4)],
            );
        }
        self.push(b"DATA\r\n".to_vec(), Kind::Data);
        if random.chance(noise / 2.0) {
            self.push(dirty_content(random), Kind::Content);
        } else {
            let content = content(random);
            self.push(stuffed(&content), Kind::Content);
            self.messages.push(Message { marker: marker.to_owned(), content });
        }
    }

    /// One step that is no message; each gets one reply.
    fn noise(&mut self, random: &mut Random) {
        match random.len(0..=16) {
            0 => self.hello(random),
            1 => self.line("RSET\r\n"),
            2 => self.line("VRFY somebody\r\n"),
            3 => self.line("EXPN list\r\n"),
            4 => self.line("AUTH PLAIN\r\n"),
            5 => self.line("MAIL FROM:<a@sender.example> SIZE=999999999\r\n"),
            6 => self.line("RCPT TO:<stray@example.com>\r\n"),
            7 => self.push(b"DATA\r\n".to_vec(), Kind::Line),
            8 => self.line("bare newline\n"),
            9 => self.push([&b"NOOP \xe4\xf6\xfc\0"[..], b"\r\n"].concat(), Kind::Line),
            10 => {
                let len = random.len(limits::COMMAND_LINE_LEN_MAX - 4..=limits::COMMAND_LINE_LEN_MAX + 700);
                self.push([vec![b'x'; len], b"\r\n".to_vec()].concat(), Kind::Line);
            }
            11 => self.line("HELP\r\n"),
            12 => self.line("\r\n"),
            _ => self.line("NOOP\r\n"),
        }
    }
}

/// Content in canonical form: whole lines that end with CRLF, some of which begin with dots.
fn content(random: &mut Random) -> Vec<u8> {
    let len_max = [0, 80, 600, 6000][random.len(0..=3)];
    let mut content = Vec::new();
    while content.len() < len_max {
        let starts: [&[u8]; 6] = [b"", b".", b"..", b". ", b"Subject: ", b"\xc3\xa4"];
        content.extend_from_slice(starts[random.len(0..=5)]);
        let len = [0, 10, 76, 990][random.len(0..=3)];
        content.extend((0..random.len(0..=len)).map(|_| b' ' + random.len(0..=94) as u8));
        content.extend_from_slice(b"\r\n");
    }
    content
}

/// As it goes over the wire (RFC 5321 §4.5.2), end-of-data included.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 8);
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// Content with line ends and dots in every order, or too much of it.
fn dirty_content(random: &mut Random) -> Vec<u8> {
    let mut wire = Vec::new();
    if random.chance(0.2) {
        wire.resize(MESSAGE_LEN_MAX as usize + random.len(0..=3), b'x');
    }
    for _ in 0..random.len(0..=30) {
        let pieces: [&[u8]; 7] = [b"\r", b"\n", b".", b"\r\n", b"x", b"Received: y\r\n", b"\0"];
        wire.extend_from_slice(pieces[random.len(0..=6)]);
        // No end by accident: what follows must be content in the eyes of every reader of this script.
        if wire.ends_with(b"\r\n.\r\n") || wire == b".\r\n" {
            wire.extend_from_slice(b"y");
            let at = wire.len() - 3;
            wire.insert(at, b'z');
        }
    }
    // Behind a bare CR this would be no end either.
    wire.extend_from_slice(b"x\r\n.\r\n");
    wire
}
