//! A running server, as the commands ask it: by its admin HTTP, or by the control socket in its spool.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use super::Failure;
use crate::admin::control::CONTROL_SOCKET;
use crate::config::Config;
use crate::egress::{Named, Verb};
use crate::limits::{ADMIN_ANSWER_LEN_MAX, ADMIN_ANSWER_TIME_MAX, RELOAD_ANSWER_TIME_MAX};

/// Which running server is asked by its admin HTTP, if any.
#[derive(Debug, Default, Args)]
pub(super) struct AdminArgs {
    /// The configuration of the server, which says where its admin HTTP is
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Where the server's admin HTTP is, such as 127.0.0.1:8025
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

/// Which running server is meant, by its control socket.
#[derive(Debug, Default, Args)]
pub(super) struct ServerArgs {
    /// The configuration of the server, which says where its spool is; without it, that of the quick start
    #[arg(long, value_name = "FILE", conflicts_with = "spool")]
    config: Option<PathBuf>,
    /// The spool of the server
    #[arg(long, value_name = "DIRECTORY")]
    spool: Option<PathBuf>,
}

/// Asks one server; each question is a connection of its own.
#[derive(Clone, Debug)]
pub(super) struct Client {
    server: Server,
    /// From the connection to the end of the answer.
    time_max: Duration,
    /// The same for a reload.
    reload_time_max: Duration,
}

#[derive(Clone, Debug)]
enum Server {
    Admin(SocketAddr),
    Control(PathBuf),
}

/// A connection on which nothing lasts longer than until a certain time, whatever the server does.
struct Timed {
    socket: Socket,
    until: Instant,
}

impl AdminArgs {
    /// None if no server was named.
    pub(super) fn client(&self) -> Result<Option<Client>, Failure> {
        let Some(path) = &self.config else { return Ok(self.admin.map(Client::of_admin)) };
        match Config::load(path)?.admin {
            Some(address) => Ok(Some(Client::of_admin(address))),
            None => {
                Err(Failure::Usage(format!("{} has no [admin] bind: nobody can be asked", path.display())))
            }
        }
    }
}

impl ServerArgs {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let spool = match (&self.spool, &self.config) {
            (Some(spool), _) => spool.clone(),
            (None, Some(path)) => Config::load(path)?.spool.path,
            (None, None) => Config::quick_start().spool.path,
        };
        Ok(Client::of_spool(&spool))
    }
}

impl Client {
    fn of(server: Server) -> Self {
        Self { server, time_max: ADMIN_ANSWER_TIME_MAX, reload_time_max: RELOAD_ANSWER_TIME_MAX }
    }

    /// The server with this admin HTTP.
    pub(super) fn of_admin(address: SocketAddr) -> Self {
        Self::of(Server::Admin(address))
    }

    /// The server that runs on this spool.
    pub(super) fn of_spool(spool: &Path) -> Self {
        Self::of(Server::Control(spool.join(CONTROL_SOCKET)))
    }

    /// Has something done with messages that wait.
    pub(super) fn order(&self, verb: Verb, messages: &[Named]) -> Result<Value, String> {
        self.ask_for(self.time_max, "POST", "/queue", &order_body(verb, messages))
    }

    /// Tells the server that a connection comes from `source`; the ticket to ask by whether it came.
    pub(super) fn expect_visitor(&self, source: SocketAddr) -> Result<String, String> {
        let answer = self.ask("POST", &format!("/visitors/{source}"))?;
        answer["ticket"].as_str().map(str::to_owned).ok_or_else(|| format!("{} gives no ticket", self.name()))
    }

    pub(super) fn was_seen(&self, ticket: &str) -> Result<bool, String> {
        Ok(self.ask("GET", &format!("/visitors/{ticket}"))?["seen"] == true)
    }

    /// What came of a reload.
    pub(super) fn reload(&self) -> Result<Value, String> {
        self.ask_for(self.reload_time_max, "POST", "/reload", "")
    }

    /// The JSON that is answered.
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<Value, String> {
        self.ask_for(self.time_max, method, path, "")
    }

    fn ask_for(&self, time_max: Duration, method: &str, path: &str, body: &str) -> Result<Value, String> {
        let name = self.name();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::TimedOut => format!("the server at {name} gives no answer within {time_max:?}"),
            _ => format!("the server at {name} cannot be asked: {error}"),
        };
        let answer = Timed::connect(&self.server, Instant::now() + time_max);
        let answer = answer.and_then(|stream| exchange(stream, method, path, body));
        let (status, body) = answer.map_err(failed)?;
        if status != 200 {
            return Err(format!("{name} answers {status} to {path}: {}", body.trim()));
        }
        serde_json::from_str(&body).map_err(|error| format!("{name} answers no JSON to {path}: {error}"))
    }

    fn name(&self) -> String {
        match &self.server {
            Server::Admin(address) => address.to_string(),
            Server::Control(socket) => socket.display().to_string(),
        }
    }
}

fn order_body(verb: Verb, messages: &[Named]) -> String {
    let wire = |named: &Named| json!([named.shard, named.epoch, named.offset, named.id.to_string()]);
    let messages: Vec<_> = messages.iter().map(wire).collect();
    json!({ "verb": verb, "messages": messages }).to_string()
}

fn exchange(mut stream: Timed, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let len = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: ringmx\r\nX-Ringmx: 1\r\nContent-Type: application/json\r\n\
         Content-Length: {len}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ADMIN_ANSWER_LEN_MAX + 1).read_to_string(&mut answer)?;
    if answer.len() as u64 > ADMIN_ANSWER_LEN_MAX {
        return Err(io::Error::other(format!("it answers with more than {ADMIN_ANSWER_LEN_MAX} octets")));
    }
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}

impl Timed {
    fn connect(server: &Server, until: Instant) -> io::Result<Self> {
        let (domain, address) = match server {
            Server::Admin(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Server::Control(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let stream = Self { socket: Socket::new(domain, Type::STREAM, None)?, until };
        match server {
            Server::Admin(_) => stream.socket.connect_timeout(&address, stream.left()?)?,
            // Waits for a place among those to be accepted, as a write does for room.
            Server::Control(_) => {
                stream.socket.set_write_timeout(Some(stream.left()?))?;
                stream.socket.connect(&address).map_err(timed_out)?;
            }
        }
        Ok(stream)
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        // The kernel takes no time for no bound.
        if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(left.max(Duration::from_millis(1)))
        }
    }
}

impl Read for Timed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(out).map_err(timed_out)
    }
}

impl Write for Timed {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(octets).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// The name that the kernel has for it says nothing to an operator.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::id::{MessageId, SessionId};
    use crate::limits::{ORDER_LEN_MAX, ORDERED_COUNT_MAX};

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    /// A server that does this, and a client that waits for it so long.
    fn client_of(
        waits: (Duration, Duration),
        serve: impl FnOnce(UnixListener) + Send + 'static,
    ) -> (Client, tempfile::TempDir) {
        let spool = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(spool.path().join(CONTROL_SOCKET)).unwrap();
        std::thread::spawn(move || serve(listener));
        let (time_max, reload_time_max) = waits;
        (Client { time_max, reload_time_max, ..Client::of_spool(spool.path()) }, spool)
    }

    /// Its beginning at least; empty where the client has gone.
    fn request(stream: &mut UnixStream) -> String {
        let mut octets = [0; 1024];
        let len = stream.read(&mut octets).unwrap_or_default();
        String::from_utf8_lossy(&octets[..len]).into_owned()
    }

    fn answer(stream: &mut UnixStream, len: usize) {
        let head = "HTTP/1.0 200 OK\r\n\r\n";
        let filled = "x".repeat(len - head.len() - 2);
        stream.write_all(format!("{head}\"{filled}\"").as_bytes()).unwrap();
    }

    fn is_given_up<T: std::fmt::Debug>(asked: Result<T, String>) {
        assert!(asked.as_ref().is_err_and(|why| why.ends_with("gives no answer within 50ms")), "{asked:?}");
    }

    #[test]
    fn a_server_that_hangs_is_given_up() {
        // It accepts nobody, and a long order finds no room.
        let (client, _spool) = client_of((SHORT, LONG), |listener| {
            std::thread::sleep(LONG);
            drop(listener);
        });
        is_given_up(client.ask("GET", "/listeners"));
        is_given_up(client.ask_for(SHORT, "POST", "/queue", &"x".repeat(ORDER_LEN_MAX)));
        let (client, _spool) = client_of((LONG, SHORT), |listener| {
            std::thread::sleep(LONG);
            drop(listener);
        });
        is_given_up(client.reload());
        // It is never done.
        let (client, _spool) = client_of((SHORT, LONG), |listener| {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        is_given_up(client.order(Verb::Retry, &[]));
    }

    #[test]
    fn a_reload_has_a_time_of_its_own() {
        let (client, _spool) = client_of((SHORT, LONG), |listener| {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if request(&mut stream).starts_with("POST /reload ") {
                    std::thread::sleep(4 * SHORT);
                    return answer(&mut stream, 100);
                }
                held.push(stream);
            }
        });
        is_given_up(client.ask("GET", "/listeners"));
        assert!(client.reload().is_ok_and(|answer| answer.is_string()));
    }

    #[test]
    fn an_answer_has_a_length() {
        let len_max = usize::try_from(ADMIN_ANSWER_LEN_MAX).unwrap();
        let (client, _spool) = client_of((LONG, LONG), move |listener| {
            for len in [len_max, len_max + 1] {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(request(&mut stream).starts_with("GET / "));
                answer(&mut stream, len);
            }
        });
        assert!(client.ask("GET", "/").is_ok_and(|answer| answer.is_string()));
        let asked = client.ask("GET", "/");
        assert!(
            asked.as_ref().is_err_and(|why| why.contains("it answers with more than 16777216 octets")),
            "{asked:?}"
        );
    }

    #[test]
    fn as_many_messages_as_an_order_names_fit_into_it() {
        let id = MessageId { session: SessionId(u64::MAX), transaction: u32::MAX };
        let named = Named { shard: u16::MAX, epoch: u64::MAX, offset: u64::MAX, id };
        assert!(order_body(Verb::Release, &vec![named; ORDERED_COUNT_MAX]).len() <= ORDER_LEN_MAX);
    }
}
