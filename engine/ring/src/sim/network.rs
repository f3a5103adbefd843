//! TCP in memory, as far as a server can tell the difference: two bounded queues, two ends of stream, and resets.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::Errno;

const NOT_CONNECTED: Errno = Errno(107);

/// How a connection looks to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// Waiting to be accepted, or connected.
    Open,
    /// The server has ended its direction, and all that it sent has arrived.
    Ended,
    /// The server has reset the connection. What had not been taken is lost.
    Reset,
    /// This client has closed or reset the connection itself.
    Closed,
    /// Nobody listened.
    Refused,
}

/// What a receive finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Bytes(Vec<u8>),
    End,
    Failed(Errno),
    Nothing,
}

/// One connection, both ends.
///
/// ```text
/// client: outbox -> received :server      `received` is the server's receive buffer, bounded
/// client: inbox <- sending   :server      `sending` is its send buffer, bounded
/// ```
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) address: SocketAddr,
    /// The server's description of the socket, once accepted.
    pub(super) description: Option<usize>,
    /// An arrival at the client is scheduled.
    pub(super) arriving: bool,
    socket_buffer_len: usize,
    outbox: VecDeque<u8>,
    received: VecDeque<u8>,
    sending: VecDeque<u8>,
    inbox: Vec<u8>,
    /// The client's end of stream follows its outbox.
    client_ended: bool,
    /// The client's end of stream is in the server's socket, behind `received`.
    end_received: bool,
    /// The server's end of stream follows `sending`.
    server_ended: bool,
    /// The client takes what arrives. When false, `sending` fills up.
    reading: bool,
    state: ClientState,
    /// The server's socket is closed for good: whatever the client sends is answered with a reset.
    released: bool,
    /// Reset by either side: the server's socket has no connection any more.
    dead: bool,
    /// Reported to the server's next operation, once.
    error: Option<Errno>,
}

impl Connection {
    pub(super) fn new(address: SocketAddr, socket_buffer_len: usize) -> Self {
        Self {
            address,
            description: None,
            arriving: false,
            socket_buffer_len: socket_buffer_len.max(1),
            outbox: VecDeque::new(),
            received: VecDeque::new(),
            sending: VecDeque::new(),
            inbox: Vec::new(),
            client_ended: false,
            end_received: false,
            server_ended: false,
            reading: true,
            state: ClientState::Open,
            released: false,
            dead: false,
            error: None,
        }
    }

    pub(super) fn refused(address: SocketAddr) -> Self {
        Self { state: ClientState::Refused, dead: true, ..Self::new(address, 1) }
    }

    // The server's calls.

    pub(super) fn is_connected(&self) -> bool {
        !self.dead
    }

    /// Octets that a receive would find.
    pub(super) fn received_len(&self) -> usize {
        self.received.len()
    }

    /// A receive would find something: bytes, an end or an error.
    pub(super) fn is_readable(&self) -> bool {
        !self.received.is_empty() || self.end_received || self.dead
    }

    /// Takes at most `len` octets. Bytes come before a reset that followed them, as on Linux.
    pub(super) fn receive(&mut self, len: usize) -> Received {
        if !self.received.is_empty() {
            let bytes = self.received.drain(..len.min(self.received.len())).collect();
            self.fill_received();
            return Received::Bytes(bytes);
        }
        // Linux tells the end of stream again and again, and leaves an error that came later to the next send.
        if self.end_received {
            return Received::End;
        }
        match self.error.take() {
            Some(error) => Received::Failed(error),
            None if self.dead => Received::End,
            None => Received::Nothing,
        }
    }

    /// Takes as many octets as there is room for; 0 means wait.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.dead || self.server_ended {
            return Err(Errno::BROKEN_PIPE);
        }
        let len = bytes.len().min(self.socket_buffer_len - self.sending.len());
        self.sending.extend(&bytes[..len]);
        Ok(len)
    }

    pub(super) fn shutdown_write(&mut self) -> Result<(), Errno> {
        if self.dead {
            return Err(NOT_CONNECTED);
        }
        self.server_ended = true;
        Ok(())
    }

    /// The last reference to the server's socket is gone. Closing with unread input resets the connection and destroys
    /// what the client has not read yet.
    pub(super) fn release(&mut self) {
        self.released = true;
        self.server_ended = true;
        if !self.received.is_empty() || !self.outbox.is_empty() {
            self.reset_by_server();
        }
    }

    pub(super) fn reset_by_server(&mut self) {
        if self.state == ClientState::Open {
            self.state = ClientState::Reset;
            self.inbox.clear();
        }
        self.die();
        self.received.clear();
    }

    // The client's calls.

    pub(super) fn state(&self) -> ClientState {
        match self.state {
            ClientState::Open if self.server_ended && self.sending.is_empty() => ClientState::Ended,
            state => state,
        }
    }

    /// Sends, or does nothing where the connection is gone.
    pub(super) fn client_send(&mut self, bytes: &[u8]) {
        if self.state != ClientState::Open {
            return;
        }
        if self.released {
            return self.reset_by_server();
        }
        self.outbox.extend(bytes);
        self.fill_received();
    }

    pub(super) fn has_client_ended(&self) -> bool {
        self.client_ended
    }

    pub(super) fn client_half_close(&mut self) {
        self.client_ended = true;
        self.fill_received();
    }

    pub(super) fn client_reset(&mut self) {
        if self.state != ClientState::Open {
            return;
        }
        self.state = ClientState::Closed;
        self.fail();
    }

    /// Closes like a program that is gone: with unread bytes that is a reset, else an end of stream, and whatever the
    /// server sends then is answered with a reset.
    pub(super) fn client_close(&mut self) {
        if !self.inbox.is_empty() || !self.sending.is_empty() {
            return self.client_reset();
        }
        if self.state == ClientState::Open {
            self.state = ClientState::Closed;
            self.client_half_close();
        }
    }

    pub(super) fn set_reading(&mut self, reading: bool) {
        self.reading = reading;
    }

    pub(super) fn take_inbox(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.inbox)
    }

    // The wire.

    /// Octets on their way to a client that takes them, or to nobody.
    pub(super) fn arriving_len(&self) -> usize {
        if self.reading || self.state == ClientState::Closed { self.sending.len() } else { 0 }
    }

    /// `len` octets arrive; at a client that is gone they cause a reset.
    pub(super) fn arrive(&mut self, len: usize) {
        let len = len.min(self.arriving_len());
        if len > 0 && self.state == ClientState::Closed {
            return self.fail();
        }
        self.inbox.extend(self.sending.drain(..len));
    }

    fn fill_received(&mut self) {
        let len = self.outbox.len().min(self.socket_buffer_len.saturating_sub(self.received.len()));
        self.received.extend(self.outbox.drain(..len));
        self.end_received |= self.client_ended && self.outbox.is_empty() && !self.dead;
    }

    /// A reset arrives at the server. After the client's end of stream Linux reports it as EPIPE.
    fn fail(&mut self) {
        if !self.released && !self.dead {
            self.error = Some(if self.end_received { Errno::BROKEN_PIPE } else { Errno::CONNECTION_RESET });
        }
        self.die();
    }

    fn die(&mut self) {
        self.dead = true;
        self.outbox.clear();
        self.sending.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn connection(socket_buffer_len: usize) -> Connection {
        Connection::new((Ipv4Addr::LOCALHOST, 1).into(), socket_buffer_len)
    }

    #[test]
    fn both_directions_are_bounded_and_lose_nothing() {
        let mut connection = connection(4);
        connection.client_send(b"abcdefghij");
        connection.client_half_close();
        assert_eq!(connection.receive(3), Received::Bytes(b"abc".to_vec()));
        assert_eq!(connection.receive(100), Received::Bytes(b"defg".to_vec()));
        assert_eq!(connection.receive(100), Received::Bytes(b"hij".to_vec()));
        assert_eq!(connection.receive(100), Received::End);

        connection.set_reading(false);
        assert_eq!(connection.send(b"123456"), Ok(4));
        assert_eq!(connection.send(b"56"), Ok(0));
        assert_eq!(connection.arriving_len(), 0);
        connection.set_reading(true);
        connection.arrive(3);
        assert_eq!(connection.send(b"56"), Ok(2));
        connection.shutdown_write().expect("connected");
        assert_eq!((connection.send(b"7"), connection.state()), (Err(Errno::BROKEN_PIPE), ClientState::Open));
        connection.arrive(3);
        assert_eq!((connection.take_inbox(), connection.state()), (b"123456".to_vec(), ClientState::Ended));
    }

    #[test]
    fn closing_with_unread_input_destroys_the_last_reply() {
        let mut connection = connection(100);
        connection.client_send(b"more");
        assert_eq!(connection.send(b"reply"), Ok(5));
        connection.arrive(5);
        connection.release();
        assert_eq!((connection.state(), connection.take_inbox()), (ClientState::Reset, Vec::new()));
    }

    #[test]
    fn input_after_the_close_does_so_too() {
        let mut connection = connection(100);
        assert_eq!(connection.send(b"reply"), Ok(5));
        connection.release();
        connection.arrive(5);
        assert_eq!(connection.state(), ClientState::Ended);
        connection.client_send(b"late");
        assert_eq!((connection.state(), connection.take_inbox()), (ClientState::Reset, Vec::new()));
    }

    #[test]
    fn a_client_that_is_gone_answers_with_a_reset() {
        let mut connection = connection(100);
        connection.client_close();
        assert_eq!(connection.receive(1), Received::End);
        assert_eq!(connection.send(b"reply"), Ok(5));
        connection.arrive(5);
        assert_eq!(connection.send(b"reply"), Err(Errno::BROKEN_PIPE));
        assert_eq!(connection.shutdown_write(), Err(NOT_CONNECTED));
    }
}
