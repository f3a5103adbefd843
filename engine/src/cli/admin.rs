//! A running server, as the commands ask it: by its admin HTTP, or by the control socket in its spool.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

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
pub(super) enum Client {
    Admin(SocketAddr),
    Control(PathBuf),
}

impl AdminArgs {
    /// None if no server was named.
    pub(super) fn client(&self) -> Result<Option<Client>, Failure> {
        let Some(path) = &self.config else { return Ok(self.admin.map(Client::Admin)) };
        match Config::load(path)?.admin {
            Some(address) => Ok(Some(Client::Admin(address))),
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
    /// The server that runs on this spool.
    pub(super) fn of_spool(spool: &Path) -> Self {
        Self::Control(spool.join(CONTROL_SOCKET))
    }

    /// Has something done with messages that wait.
    pub(super) fn order(&self, verb: Verb, messages: &[Named]) -> Result<Value, String> {
        let wire = |named: &Named| json!([named.shard, named.epoch, named.offset, named.id.to_string()]);
        let messages: Vec<_> = messages.iter().map(wire).collect();
        let body = json!({ "verb": verb, "messages": messages }).to_string();
        self.ask_for(ADMIN_ANSWER_TIME_MAX, "POST", "/queue", &body)
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
        self.ask_for(RELOAD_ANSWER_TIME_MAX, "POST", "/reload", "")
    }

    /// The JSON that is answered.
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<Value, String> {
        self.ask_for(ADMIN_ANSWER_TIME_MAX, method, path, "")
    }

    fn ask_for(&self, time_max: Duration, method: &str, path: &str, body: &str) -> Result<Value, String> {
        let name = self.name();
        let failed = |error: io::Error| format!("the server at {name} cannot be asked: {error}");
        let answer = match self {
            Self::Admin(address) => TcpStream::connect_timeout(address, time_max).and_then(|stream| {
                stream.set_read_timeout(Some(time_max))?;
                exchange(stream, method, path, body)
            }),
            Self::Control(socket) => UnixStream::connect(socket).and_then(|stream| {
                stream.set_read_timeout(Some(time_max))?;
                exchange(stream, method, path, body)
            }),
        };
        let (status, body) = answer.map_err(failed)?;
        if status != 200 {
            return Err(format!("{name} answers {status} to {path}: {}", body.trim()));
        }
        serde_json::from_str(&body).map_err(|error| format!("{name} answers no JSON to {path}: {error}"))
    }

    fn name(&self) -> String {
        match self {
            Self::Admin(address) => address.to_string(),
            Self::Control(socket) => socket.display().to_string(),
        }
    }
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let len = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: ringmx\r\nX-Ringmx: 1\r\nContent-Type: application/json\r\n\
         Content-Length: {len}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.take(ADMIN_ANSWER_LEN_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}
