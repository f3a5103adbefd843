//! Another program that wants an address: of this user or another, in any mode. In Python, so that it shares nothing
//! with the server, and every user may run it.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The user "nobody", and one more without a name.
pub const OTHER_USERS: [u32; 2] = [65534, 65533];

#[derive(Debug)]
pub struct Occupant {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// How a socket is bound.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub reuse_port: bool,
    /// False for an IPv6 socket that takes IPv4 too.
    pub v6_only: bool,
    /// To whom it is given before it is bound.
    pub owner: Option<u32>,
}

impl Mode {
    pub const PLAIN: Self = Self { reuse_port: false, v6_only: true, owner: None };
    pub const JOINER: Self = Self { reuse_port: true, ..Self::PLAIN };
}

impl Occupant {
    /// A program of this user.
    pub fn new() -> Self {
        Self::start(Command::new("python3"))
    }

    /// Of another one; takes root.
    pub fn of_user(user: u32) -> Self {
        let mut command = Command::new("python3");
        command.uid(user).gid(user);
        Self::start(command)
    }

    /// By a command that ends in `python3`.
    pub fn start(mut command: Command) -> Self {
        command.args(["-c", include_str!("occupant.py")]).current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Binds and listens; the socket's number and the address with its port, or the name of the errno.
    pub fn bind(&mut self, address: SocketAddr, mode: Mode) -> Result<(usize, SocketAddr), String> {
        let Mode { reuse_port, v6_only, owner } = mode;
        let owner = owner.map_or_else(|| "-".to_owned(), |owner| owner.to_string());
        let (ip, port) = (address.ip(), address.port());
        let (reuse, v6_only) = (u8::from(reuse_port), u8::from(v6_only));
        let answer = self.ask(&format!("bind {ip} {port} reuse={reuse} v6only={v6_only} owner={owner}"))?;
        let (number, port) = answer.split_once(' ').expect("a number and a port");
        let address = SocketAddr::new(ip, port.parse().expect("a port"));
        Ok((number.parse().expect("a number"), address))
    }

    /// How many connections wait at this socket; they are taken and closed.
    pub fn accept(&mut self, number: usize) -> usize {
        self.ask(&format!("accept {number}")).expect("an open socket").parse().expect("a number")
    }

    /// What stands behind `ok`, or the name of the errno.
    pub fn ask(&mut self, line: &str) -> Result<String, String> {
        writeln!(self.stdin, "{line}").expect("it reads");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("it answers");
        let answer = answer.trim();
        match answer.strip_prefix("ok") {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => Err(answer.to_owned()),
        }
    }
}

impl Default for Occupant {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Occupant {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
