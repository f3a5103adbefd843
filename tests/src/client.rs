//! A client that says what it is told, over a real socket. It shares no code with the server.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Longer than anything the server may take.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// What an HTTP server answers to a GET: status and body.
pub fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}

/// A reply's code and the text of its last line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

impl Client {
    /// Connects and reads the greeting.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut client = Self::connect_silently(address)?;
        client.expect(220)?;
        Ok(client)
    }

    pub fn connect_silently(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, TIMEOUT)?)
    }

    /// As another client of this machine.
    pub fn connect_silently_from(source: IpAddr, address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect_timeout(&address.into(), TIMEOUT)?;
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Greeted, and EHLO said.
    pub fn ready(address: SocketAddr) -> io::Result<Self> {
        let mut client = Self::connect(address)?;
        client.say("EHLO client.example", 250)?;
        Ok(client)
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(octets)
    }

    pub fn reply(&mut self) -> io::Result<Reply> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let malformed = || io::Error::other(format!("malformed reply {line:?}"));
            let text = line.strip_suffix("\r\n").ok_or_else(malformed)?;
            let code = text.get(..3).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
            match text.as_bytes().get(3) {
                Some(b'-') => {}
                Some(b' ') => return Ok(Reply { code, text: text[4..].to_owned() }),
                _ => return Err(malformed()),
            }
        }
    }

    /// Reads a reply of this code.
    pub fn expect(&mut self, code: u16) -> io::Result<Reply> {
        let reply = self.reply()?;
        if reply.code == code {
            Ok(reply)
        } else {
            Err(io::Error::other(format!("{reply:?} instead of {code}")))
        }
    }

    /// Says a command and reads its reply.
    pub fn say(&mut self, command: &str, code: u16) -> io::Result<Reply> {
        self.write(format!("{command}\r\n").as_bytes())?;
        self.expect(code)
    }

    /// A whole transaction with content that has CRLF line ends; the id that the 250 names.
    pub fn send(&mut self, from: &str, to: &[&str], content: &[u8]) -> io::Result<String> {
        self.begin(from, to)?;
        self.write(&stuffed(content))?;
        self.queued()
    }

    /// MAIL, RCPT and DATA in one group, up to the 354.
    pub fn begin(&mut self, from: &str, to: &[&str]) -> io::Result<()> {
        let mut group = format!("MAIL FROM:<{from}>\r\n");
        to.iter().for_each(|to| group.push_str(&format!("RCPT TO:<{to}>\r\n")));
        group.push_str("DATA\r\n");
        self.write(group.as_bytes())?;
        for _ in 0..1 + to.len() {
            self.expect(250)?;
        }
        self.expect(354).map(drop)
    }

    /// Reads the 250 that takes responsibility.
    pub fn queued(&mut self) -> io::Result<String> {
        let reply = self.expect(250)?;
        let id = reply.text.strip_prefix("2.0.0 queued as ").map(str::to_owned);
        id.ok_or_else(|| io::Error::other(format!("{reply:?} names no id")))
    }

    /// The server's direction has ended without a reset, and without another word.
    pub fn expect_end(&mut self) -> io::Result<()> {
        let rest = self.reader.fill_buf()?;
        if rest.is_empty() { Ok(()) } else { Err(io::Error::other(format!("{} more", rest.escape_ascii()))) }
    }

    pub fn quit(mut self) -> io::Result<()> {
        self.say("QUIT", 221)?;
        self.expect_end()
    }
}

/// With dots stuffed and end-of-data behind it (RFC 5321 §4.5.2).
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 50 + 5);
    for line in content.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}
