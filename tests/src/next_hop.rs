//! A next hop that answers as a test tells it, and remembers what it has taken.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::engine::eventually;

/// How it behaves, of which the first line that fits counts.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    pub is_lmtp: bool,
    /// In the reply to EHLO.
    pub extensions: Vec<&'static str>,
    /// The beginning of a command, or `connect`, `content` (behind its first octets) and `end` (and, by LMTP, a
    /// space and the recipient); and what is done about it.
    pub acts: Vec<(&'static str, Act)>,
}

#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// At the end, of a message that it has not taken.
    Say(&'static str),
    Close,
    /// Says nothing more, for as long as the other side holds the connection.
    Hang,
    /// As `Say`, an octet at a time with this between; at the end it has taken the message.
    Drip(&'static str, Duration),
}

/// A message that it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The line of MAIL, and those of the RCPTs that were accepted.
    pub mail: String,
    pub recipients: Vec<String>,
    /// Without transparency.
    pub content: Vec<u8>,
    pub by_bdat: bool,
    /// Behind it the next transaction was there already.
    pub is_followed: bool,
    /// Number of the connection.
    pub connection: usize,
}

/// Listens until the process ends.
#[derive(Clone, Debug)]
pub struct NextHop {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    taken: Mutex<Vec<Taken>>,
    connections_count: AtomicUsize,
}

impl NextHop {
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared { behaviour: Mutex::new(behaviour), ..Shared::default() });
        let hop = Self { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                let number = shared.connections_count.fetch_add(1, Ordering::Relaxed);
                // What it does when the other side goes is the other side's test.
                std::thread::spawn(move || {
                    drop(Conversation::new(&shared, &stream, number).map(Conversation::run))
                });
            }
        });
        hop
    }

    /// From the next command on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().expect("no panic") = behaviour;
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.shared.taken.lock().expect("no panic").clone()
    }

    pub fn wait_for(&self, what: &str, count: usize) -> Vec<Taken> {
        eventually(what, || Some(self.taken()).filter(|taken| taken.len() >= count))
    }

    pub fn connections_count(&self) -> usize {
        self.shared.connections_count.load(Ordering::Relaxed)
    }
}

struct Conversation<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    input: BufReader<&'a TcpStream>,
    number: usize,
    mail: Option<String>,
    recipients: Vec<String>,
    chunks: Vec<u8>,
}

impl<'a> Conversation<'a> {
    fn new(shared: &'a Shared, stream: &'a TcpStream, number: usize) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let input = BufReader::new(stream);
        Ok(Self { shared, stream, input, number, mail: None, recipients: Vec::new(), chunks: Vec::new() })
    }

    fn behaviour(&self) -> Behaviour {
        self.shared.behaviour.lock().expect("no panic").clone()
    }

    fn run(mut self) -> io::Result<()> {
        self.act("connect", "220 next.example")?;
        loop {
            let mut line = Vec::new();
            if self.input.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.command(&line)?;
        }
    }

    fn command(&mut self, line: &str) -> io::Result<()> {
        let verb = line.split(' ').next().unwrap_or_default();
        match verb {
            "EHLO" | "LHLO" => {
                let lines = [&["next.example"], &self.behaviour().extensions[..]].concat();
                let last = lines.len() - 1;
                let reply = lines.iter().enumerate().map(|(index, line)| {
                    format!(
                        "250{}{line}{}",
                        if index == last { ' ' } else { '-' },
                        if index == last { "" } else { "\r\n" }
                    )
                });
                self.act(line, &reply.collect::<String>()).map(drop)
            }
            "MAIL" => {
                self.recipients.clear();
                self.mail = self.act(line, "250 2.1.0 ok")?.then(|| line.to_owned());
                Ok(())
            }
            "RCPT" if self.mail.is_some() => {
                if self.act(line, "250 2.1.5 ok")? {
                    self.recipients.push(line.to_owned());
                }
                Ok(())
            }
            "DATA" if !self.recipients.is_empty() => {
                if self.act(line, "354 go on")? {
                    let content = self.content()?;
                    self.end(content, false)?;
                }
                Ok(())
            }
            "BDAT" => self.chunk(line),
            "RSET" => {
                self.mail = None;
                self.act(line, "250 2.0.0 ok").map(drop)
            }
            "QUIT" => {
                self.act(line, "221 2.0.0 bye")?;
                self.stream.shutdown(Shutdown::Both)
            }
            _ => self.act(line, "503 5.5.1 not now").map(drop),
        }
    }

    /// As RFC 5321 §4.5.2 has it, line by line.
    fn content(&mut self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let mut line = Vec::new();
            if self.input.read_until(b'\n', &mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == b".\r\n" {
                return Ok(content);
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            self.maybe("content")?;
        }
    }

    fn chunk(&mut self, line: &str) -> io::Result<()> {
        let mut words = line.split(' ').skip(1);
        let len: u64 = words.next().and_then(|len| len.parse().ok()).expect("BDAT has a length");
        let mut octets = Vec::new();
        let read = (&mut self.input).take(len).read_to_end(&mut octets)?;
        self.maybe("content")?;
        assert_eq!(read as u64, len, "the chunk is whole");
        if self.recipients.is_empty() {
            return self.act(line, "503 5.5.1 no recipients").map(drop);
        }
        self.chunks.extend_from_slice(&octets);
        if words.next() == Some("LAST") {
            let content = std::mem::take(&mut self.chunks);
            return self.end(content, true);
        }
        self.act(line, "250 2.0.0 more").map(drop)
    }

    fn end(&mut self, content: Vec<u8>, by_bdat: bool) -> io::Result<()> {
        let mut recipients = std::mem::take(&mut self.recipients);
        let mail = self.mail.take().expect("MAIL comes first");
        let (is_followed, connection) = (!self.input.buffer().is_empty(), self.number);
        let taken = |recipients| Taken { mail, recipients, content, by_bdat, is_followed, connection };
        if !self.behaviour().is_lmtp {
            let refuses =
                |(stage, act): &(&str, Act)| "end" == *stage && matches!(act, Act::Say(_) | Act::Hang);
            // It has it, and whoever sent it may never hear of that.
            if !self.behaviour().acts.iter().any(refuses) {
                self.shared.taken.lock().expect("no panic").push(taken(recipients));
            }
            return self.act("end", "250 2.0.0 taken as 1").map(drop);
        }
        let mut replies = Vec::new();
        for recipient in &recipients {
            replies.push(self.act(&format!("end {recipient}"), "250 2.0.0 taken")?);
        }
        let mut replies = replies.into_iter();
        recipients.retain(|_| replies.next() == Some(true));
        if !recipients.is_empty() {
            self.shared.taken.lock().expect("no panic").push(taken(recipients));
        }
        Ok(())
    }

    /// An act that is no reply.
    fn maybe(&self, stage: &str) -> io::Result<()> {
        match self.behaviour().acts.into_iter().find(|(of, _)| *of == stage) {
            Some((_, act)) => self.perform(act).map(drop),
            None => Ok(()),
        }
    }

    /// Whether the reply was a positive one.
    fn act(&self, stage: &str, usual: &str) -> io::Result<bool> {
        match self.behaviour().acts.into_iter().find(|(of, _)| stage.starts_with(of)) {
            Some((_, act)) => self.perform(act),
            None => self.say(usual),
        }
    }

    fn perform(&self, act: Act) -> io::Result<bool> {
        match act {
            Act::Say(reply) => self.say(reply),
            Act::Close => {
                self.stream.shutdown(Shutdown::Both)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Act::Hang => {
                let mut input = self.stream;
                io::copy(&mut input, &mut io::sink())?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Act::Drip(reply, pause) => {
                for octet in reply.bytes().chain(*b"\r\n") {
                    self.write(&[octet])?;
                    std::thread::sleep(pause);
                }
                Ok(reply.starts_with(['2', '3']))
            }
        }
    }

    fn say(&self, reply: &str) -> io::Result<bool> {
        self.write(format!("{reply}\r\n").as_bytes())?;
        Ok(reply.starts_with(['2', '3']))
    }

    fn write(&self, octets: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        stream.write_all(octets)
    }
}
