//! Who binds: this process, or once it has given its rights away, a small helper that keeps them.
//!
//! The helper is this program under another subcommand, of the server's user, with CAP_NET_BIND_SERVICE and CAP_CHOWN
//! and nothing else. It knows one request, to bind an address, and answers with the bound sockets (SCM_RIGHTS). It ends
//! when the server does, by the end of the socket pair between them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use ringmx_ring::{BindError, Exclusivity, Listening, Request, listen};
use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::limits::{BINDER_MESSAGE_LEN_MAX, PASSED_SOCKETS_COUNT_MAX};

/// What binds.
#[derive(Debug)]
pub enum Binder {
    Direct,
    Helper(Helper),
}

/// The server's end.
#[derive(Debug)]
pub struct Helper {
    socket: OwnedFd,
    child: Child,
}

impl Binder {
    /// As [`ringmx_ring::listen`].
    pub fn listen(&self, request: &Request) -> Result<Listening, BindError> {
        match self {
            Self::Direct => listen(request),
            Self::Helper(helper) => helper.listen(request),
        }
    }
}

impl Helper {
    /// Starts it with all rights of this process; it gives away what it does not need, and becomes this user.
    ///
    /// # Errors
    /// Of the system, if there can be no process.
    pub fn start(user: u32, group: u32) -> io::Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("ringmx").args(["bind-helper", &user.to_string(), &group.to_string()]);
        // A Ctrl-C is for the server.
        command.env_clear().stdin(theirs).process_group(0);
        let helper = Self { socket, child: command.spawn()? };
        let mut octets = [0; BINDER_MESSAGE_LEN_MAX];
        match receive(helper.socket.as_fd(), &mut octets)? {
            (len, _) if octets.starts_with(b"ready") && len == 5 => Ok(helper),
            _ => Err(io::Error::other("the helper that binds did not come up; its error stands above")),
        }
    }

    fn listen(&self, request: &Request) -> Result<Listening, BindError> {
        let address = request.address;
        let failed = |source: io::Error| {
            let why = format!("the helper that binds (pid {}) does not answer: {source}", self.child.id());
            BindError::Other { address, source: io::Error::other(why) }
        };
        send(self.socket.as_fd(), encode(request).as_bytes(), &[]).map_err(failed)?;
        let mut octets = [0; BINDER_MESSAGE_LEN_MAX];
        let (len, _) = receive(self.socket.as_fd(), &mut octets).map_err(failed)?;
        let answer = String::from_utf8_lossy(&octets[..len]).into_owned();
        let words: Vec<&str> = answer.split(' ').collect();
        let malformed = || failed(io::Error::other(format!("`{answer}`")));
        let (address, exclusivity, count) = match words[..] {
            ["errno", number] => {
                let number = number.parse().map_err(|_| malformed())?;
                return Err(BindError::new(address, io::Error::from_raw_os_error(number)));
            }
            ["ok", address, kind, count] => {
                let kinds = [Exclusivity::Sealed, Exclusivity::Shared, Exclusivity::Open];
                let kind = kinds.into_iter().find(|it| it.name() == kind).ok_or_else(malformed)?;
                let address: SocketAddr = address.parse().map_err(|_| malformed())?;
                (address, kind, count.parse::<usize>().map_err(|_| malformed())?)
            }
            _ => return Err(malformed()),
        };
        let mut sockets: Vec<TcpListener> = Vec::new();
        while sockets.len() < count {
            let (_, descriptors) = receive(self.socket.as_fd(), &mut octets).map_err(failed)?;
            if descriptors.is_empty() {
                return Err(malformed());
            }
            sockets.extend(descriptors.into_iter().map(TcpListener::from));
        }
        Ok(Listening { address, exclusivity, sockets })
    }
}

/// It ends by itself when its end of the pair is the last.
impl Drop for Helper {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        drop(self.child.wait());
    }
}

/// The helper's life, with its end of the pair.
///
/// # Errors
/// When the server cannot be answered; without it there is nothing to do.
pub fn serve_helper(socket: BorrowedFd<'_>) -> io::Result<()> {
    send(socket, b"ready", &[])?;
    let mut octets = [0; BINDER_MESSAGE_LEN_MAX];
    loop {
        let (len, _) = receive(socket, &mut octets)?;
        if len == 0 {
            return Ok(());
        }
        let request = std::str::from_utf8(&octets[..len]).ok().and_then(decode);
        let request = request.ok_or_else(|| io::Error::other("a malformed request"))?;
        match listen(&request) {
            Ok(Listening { address, exclusivity, sockets }) => {
                let answer = format!("ok {address} {} {}", exclusivity.name(), sockets.len());
                send(socket, answer.as_bytes(), &[])?;
                for sockets in sockets.chunks(PASSED_SOCKETS_COUNT_MAX) {
                    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
                    send(socket, b"sockets", &sockets)?;
                }
            }
            Err(error) => send(socket, format!("errno {}", error.errno()).as_bytes(), &[])?,
        }
    }
}

fn encode(request: &Request) -> String {
    let Request { address, threads_count, owner, exclusive } = request;
    format!("{address} {threads_count} {owner} {exclusive}")
}

fn decode(text: &str) -> Option<Request> {
    let mut words = text.split(' ');
    let request = Request {
        address: words.next()?.parse().ok()?,
        threads_count: words.next()?.parse().ok()?,
        owner: words.next()?.parse().ok()?,
        exclusive: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(request)
}

fn send(socket: BorrowedFd<'_>, octets: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(PASSED_SOCKETS_COUNT_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    sendmsg(socket, &[IoSlice::new(octets)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>, octets: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(PASSED_SOCKETS_COUNT_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(octets)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((received.bytes, rights.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn sockets_and_refusals_come_over_the_pair() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let serving = std::thread::spawn(move || serve_helper(theirs.as_fd()));
        assert_eq!(receive(ours.as_fd(), &mut [0; 16]).unwrap().0, 5);
        let child = Command::new("true").spawn().unwrap();
        let binder = Binder::Helper(Helper { socket: ours, child });
        let address = "127.0.0.1:0".parse().unwrap();
        // More sockets than go into one message, where they can be sealed.
        let request = Request { address, threads_count: 70, owner: 0x7a00_0001, exclusive: true };
        let listening = binder.listen(&request).unwrap();
        let expected = if listening.exclusivity == Exclusivity::Sealed { 70 } else { 1 };
        assert_eq!(listening.sockets.len(), expected);
        TcpStream::connect(listening.address).unwrap();
        let taken = binder.listen(&Request { address: listening.address, ..request });
        assert!(matches!(taken, Err(BindError::Taken { .. })), "{taken:?}");
        drop(binder);
        serving.join().unwrap().unwrap();
    }

    #[test]
    fn requests() {
        let request =
            Request { address: "[::1]:25".parse().unwrap(), threads_count: 4, owner: 7, exclusive: false };
        assert_eq!(decode(&encode(&request)), Some(request));
        for text in ["", "[::1]:25 4 7", "[::1]:25 4 7 false x", "::1 4 7 false"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
