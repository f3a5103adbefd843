//! A receiver of mail by HTTP that answers as a test tells it, and remembers what it has got.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::{ServerConnection, StreamOwned};

use crate::engine::eventually;
use crate::tls::server_config;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    pub request_line: String,
    /// In order, names as they came.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Number of the connection.
    pub connection: usize,
}

impl Posted {
    /// The values of the fields with this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// # Panics
    /// Unless there is exactly one.
    pub fn one(&self, name: &str) -> &str {
        let [value] = self.all(name)[..] else { panic!("not one {name}: {:?}", self.fields) };
        value
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// These octets, line ends included.
    Say(&'static str),
    Close,
    /// Reads nothing more and says nothing, for as long as the other side holds the connection.
    Hang,
}

pub const OK: Answer = Answer::Say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks");

/// Listens until the process ends.
#[derive(Clone, Debug)]
pub struct Receiver {
    pub address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Receiver {
    pub fn start(answer: Answer) -> Self {
        Self::accept(answer, |receiver, stream, number| receiver.serve(stream, number))
    }

    /// By TLS, with the certificate `NAME.pem` and the key `NAME.key`: `certificate` is the path without the ends.
    pub fn start_secure(answer: Answer, certificate: &Path) -> Self {
        let config = server_config(certificate);
        Self::accept(answer, move |receiver, stream, number| {
            let tls = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            receiver.serve(StreamOwned::new(tls, stream), number)
        })
    }

    fn accept(
        answer: Answer,
        serve: impl Fn(&Self, TcpStream, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let serve = Arc::new(serve);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let receiver = Self { address, answer: Arc::new(Mutex::new(answer)), posted: Arc::default() };
        let shared = receiver.clone();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (receiver, serve) = (shared.clone(), Arc::clone(&serve));
                // What it does when the other side goes is the other side's test.
                std::thread::spawn(move || drop(serve(&receiver, stream, number)));
            }
        });
        receiver
    }

    /// From the next request on.
    pub fn answer(&self, answer: Answer) {
        *self.answer.lock().expect("no panic") = answer;
    }

    pub fn posted(&self) -> Vec<Posted> {
        self.posted.lock().expect("no panic").clone()
    }

    pub fn wait_for(&self, what: &str, count: usize) -> Vec<Posted> {
        eventually(what, || Some(self.posted()).filter(|posted| posted.len() >= count))
    }

    fn serve(&self, stream: impl Read + Write, connection: usize) -> io::Result<()> {
        let mut input = BufReader::new(stream);
        loop {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if input.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let Some(line) = line.strip_suffix("\r\n").map(str::to_owned) else { return Ok(()) };
                if line.is_empty() {
                    break;
                }
                lines.push(line);
            }
            let request_line = lines.remove(0);
            let field = |line: String| {
                let (name, value) = line.split_once(": ").expect("a field");
                (name.to_owned(), value.to_owned())
            };
            let mut posted = Posted {
                request_line,
                fields: lines.into_iter().map(field).collect(),
                body: Vec::new(),
                connection,
            };
            let answer = *self.answer.lock().expect("no panic");
            if let Answer::Hang = answer {
                std::thread::park();
            }
            let len: u64 = posted.one("Content-Length").parse().expect("a length");
            // A sender that was killed leaves a part behind, which nobody takes for a message.
            if ((&mut input).take(len).read_to_end(&mut posted.body)? as u64) < len {
                return Ok(());
            }
            self.posted.lock().expect("no panic").push(posted);
            match answer {
                Answer::Say(text) => input.get_mut().write_all(text.as_bytes())?,
                Answer::Close | Answer::Hang => return Ok(()),
            }
            if matches!(answer, Answer::Say(text) if text.contains("Connection: close")) {
                return Ok(());
            }
        }
    }
}
