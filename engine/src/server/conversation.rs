//! What a worker does with one connection: bytes to its session, replies to its socket, and its end.

use std::time::Duration;

use ringmx_ring::{Completion, Errno, Key, Payload, Ring};

use crate::event::{self, Event, Kind};
use crate::limits::{self, ALARM_TIME_MAX};
use crate::server::connection::{Connection, Reason, Recv, State};
use crate::server::journal::{Appended, Journal, Segments};
use crate::server::op::{ConnectionOp, Op};
use crate::server::securing;
use crate::server::worker::{Port, Worker};
use crate::session::{Context, Error, Next};

impl<R: Ring, S: Segments> Worker<R, S> {
    /// The server's first word.
    pub(super) fn greet(&mut self, key: Key, refusal: Option<Error>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let (session, client) = (connection.session.id(), connection.session.client());
        let is_shed = refusal.is_some();
        let port = &self.ports[connection.listener_index as usize];
        let policy = self.policies.of(&connection.session);
        let cx = &mut Context { now: self.now, service: &port.service, policy, pool: &mut self.pool };
        lend_output(connection, &mut self.spare);
        match connection.session.greet(cx, refusal, &mut connection.out) {
            Next::Close => finish(connection, self.now.monotonic),
            Next::StartTls => securing::begin(connection, port, cx),
            Next::Input | Next::Commit => {}
        }
        if is_shed {
            self.stats.connections_shed.bump();
            self.pool.events.push(Event { at: self.now, session, kind: Kind::Shed { client } });
        }
        self.settle(key);
    }

    pub(super) fn on_recv(&mut self, key: Key, completion: Completion) {
        let Some(connection) = self.connections.get_mut(key) else {
            // Not possible while a slot is freed only after its last completion; a lent buffer goes back all the same.
            if let Payload::Lent(lent) = completion.payload {
                self.ring.give_back(lent);
            }
            return;
        };
        if !completion.more {
            connection.recv = Recv::Off;
            connection.ops_count -= 1;
        }
        match (completion.payload, completion.result) {
            (Payload::Lent(lent), Ok(len)) if len > 0 => {
                self.stats.octets_received.add(u64::from(len));
                self.take_input(key, lent);
            }
            (payload, result) => {
                if let Payload::Lent(lent) = payload {
                    self.ring.give_back(lent);
                }
                match result {
                    Ok(_) => connection.recv = Recv::Ended,
                    // All buffers are lent; they are back before the turn ends, and `settle` arms it again.
                    Err(Errno::NO_BUFFERS) => self.stats.buffers_exhausted.bump(),
                    Err(Errno::CANCELED) => {}
                    Err(_) => self.abandon(key, Reason::ConnectionLost),
                }
            }
        }
        self.settle(key);
    }

    fn take_input(&mut self, key: Key, lent: ringmx_ring::Lent) {
        let connection = self.connections.get_mut(key).expect("looked up by `on_recv`");
        let bytes = self.ring.bytes(&lent);
        match &mut connection.state {
            State::Open => {
                let has_parked = !connection.parked.is_empty();
                if let Some(tls) = &mut connection.tls {
                    tls.receive(bytes, &mut self.spare);
                } else if has_parked {
                    connection.parked.extend(bytes, &mut self.spare);
                } else {
                    let port = &self.ports[connection.listener_index as usize];
                    let policy = self.policies.of(&connection.session);
                    let cx =
                        &mut Context { now: self.now, service: &port.service, policy, pool: &mut self.pool };
                    present(connection, key, bytes, cx, (&mut self.journal, port), &mut self.spare);
                }
                self.ring.give_back(lent);
                if has_parked {
                    self.take_parked(key);
                }
                self.take_records(key);
            }
            State::Lingering { left_len, .. } if *left_len > bytes.len() => {
                *left_len -= bytes.len();
                self.ring.give_back(lent);
            }
            State::Lingering { .. } => {
                self.ring.give_back(lent);
                self.abandon(key, Reason::ClientClosed);
            }
            State::Flushing { .. } | State::Ending | State::Closed => self.ring.give_back(lent),
        }
    }

    /// Octets that came through TLS.
    pub(super) fn take_octets(&mut self, key: Key, octets: &[u8]) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.parked.is_empty() {
            let port = &self.ports[connection.listener_index as usize];
            let policy = self.policies.of(&connection.session);
            let cx = &mut Context { now: self.now, service: &port.service, policy, pool: &mut self.pool };
            present(connection, key, octets, cx, (&mut self.journal, port), &mut self.spare);
        } else {
            connection.parked.extend(octets, &mut self.spare);
            self.take_parked(key);
        }
    }

    /// Presents parked input to the session again.
    pub(super) fn take_parked(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.parked.is_empty() {
            return;
        }
        let (octets, from) = connection.parked.take();
        let port = &self.ports[connection.listener_index as usize];
        let policy = self.policies.of(&connection.session);
        let cx = &mut Context { now: self.now, service: &port.service, policy, pool: &mut self.pool };
        lend_output(connection, &mut self.spare);
        let consumed = pump(connection, key, &octets[from..], cx, (&mut self.journal, port));
        keep_buffer(&mut self.spare, connection.parked.put_back(octets, from + consumed));
    }

    /// The commit of this connection's message is over.
    pub(super) fn on_committed(&mut self, key: Key, result: Result<(), Error>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.ops_count -= 1;
        let service = &self.ports[connection.listener_index as usize].service;
        let policy = self.policies.of(&connection.session);
        let cx = &mut Context { now: self.now, service, policy, pool: &mut self.pool };
        lend_output(connection, &mut self.spare);
        let next = connection.session.committed(cx, result, &mut connection.out);
        if next == Next::Close {
            finish(connection, self.now.monotonic);
        }
        self.forget_file(key);
        self.take_parked(key);
        self.settle(key);
    }

    /// The session is over.
    pub(super) fn finish_session(&mut self, key: Key) {
        let now = self.now.monotonic;
        self.connections.get_mut(key).into_iter().for_each(|connection| finish(connection, now));
    }

    pub(super) fn on_send(&mut self, key: Key, completion: Completion) {
        let Payload::Returned(mut bytes) = completion.payload else {
            unreachable!("a send returns its bytes")
        };
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.ops_count -= 1;
        connection.sending = false;
        match completion.result {
            Ok(len) => {
                // A short send that is over: the rest goes out by another one.
                connection.sent_len += len;
                if (connection.sent_len as usize) < bytes.len() && !matches!(connection.state, State::Ending)
                {
                    connection.sending = true;
                    connection.ops_count += 1;
                    let token = Op::Connection(ConnectionOp::Send, key).token();
                    return self.ring.send(token, connection.fd, bytes, connection.sent_len as usize);
                }
            }
            Err(_) => self.abandon(key, Reason::ConnectionLost),
        }
        bytes.clear();
        keep_buffer(&mut self.spare, bytes);
        self.take_parked(key);
        self.settle(key);
    }

    /// One send for each connection that has something to say.
    pub(super) fn send_all(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for key in touched.drain(..) {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.touched = false;
            let ends = matches!(connection.state, State::Ending | State::Closed);
            if !connection.has_output() || connection.sending || ends {
                continue;
            }
            let bytes = output(connection, &mut self.spare);
            if bytes.is_empty() {
                // Its keys are used up: nothing can be said any more.
                self.abandon(key, Reason::TlsFailed);
                continue;
            }
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.sending = true;
            connection.sent_len = 0;
            connection.send_began_at = self.now.monotonic;
            connection.ops_count += 1;
            self.ring.send(Op::Connection(ConnectionOp::Send, key).token(), connection.fd, bytes, 0);
        }
        self.touched = touched;
    }

    /// A deadline may have passed. Returns when to ask again.
    pub(super) fn on_due(&mut self, key: Key) -> Option<Duration> {
        let now = self.now.monotonic;
        let connection = self.connections.get_mut(key)?;
        if connection.alarm_at > now {
            return None;
        }
        let service = &self.ports[connection.listener_index as usize].service;
        if connection.deadline(service).is_none_or(|deadline| deadline > now) {
            connection.alarm_at = connection.next_alarm_at(service, now + ALARM_TIME_MAX);
            return Some(connection.alarm_at);
        }
        // Far away, so that `settle` schedules whatever the new state asks for.
        connection.alarm_at = Duration::MAX;
        if connection.state == State::Open && !connection.sending {
            let policy = self.policies.of(&connection.session);
            let cx = &mut Context { now: self.now, service, policy, pool: &mut self.pool };
            lend_output(connection, &mut self.spare);
            if connection.session.timeout(cx, &mut connection.out) == Next::Close {
                finish(connection, now);
            }
            self.take_parked(key);
        } else {
            self.abandon(key, Reason::TimedOut);
        }
        self.settle(key);
        None
    }

    /// The server stops: see `Session::stop`.
    pub(super) fn stop_session(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.state == State::Open {
            let service = &self.ports[connection.listener_index as usize].service;
            let policy = self.policies.of(&connection.session);
            let cx = &mut Context { now: self.now, service, policy, pool: &mut self.pool };
            if connection.session.stop(cx, &mut connection.out) == Next::Close {
                finish(connection, self.now.monotonic);
            }
        }
        self.settle(key);
    }

    /// Ends the connection without another word: everything under way is cancelled.
    pub(super) fn abandon(&mut self, key: Key, reason: Reason) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if matches!(connection.state, State::Ending | State::Closed) {
            return;
        }
        if connection.state == State::Open {
            connection.reason = Some(reason);
        }
        connection.state = State::Ending;
        let token = Op::Connection(ConnectionOp::Cancel, key).token();
        if connection.sending {
            connection.ops_count += 1;
            self.ring.cancel_all(token, connection.fd);
        } else if matches!(connection.recv, Recv::Armed { .. }) {
            // By its token: `cancel_all` makes the kernel walk over the operations of all connections.
            connection.ops_count += 1;
            self.ring.cancel(token, Op::Connection(ConnectionOp::Recv, key).token());
        }
        self.settle(key);
    }

    pub(super) fn op_ended(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.ops_count -= 1;
        }
    }

    /// The one place that decides which operations a connection needs next, from its state alone. Called after
    /// everything that changed the state.
    pub(super) fn settle(&mut self, key: Key) {
        let now = self.now.monotonic;
        while self.spill(key) {
            self.take_parked(key);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.state == State::Open && connection.is_input_over() {
            // Replies have just been taken to be sent, perhaps: then parked input has its turn before the end.
            self.take_parked(key);
        }
        while self.is_parking_too_much(key) {
            self.stats.inputs_dropped.bump();
            if !self.shed_content(key) {
                return self.abandon(key, Reason::TooMuchInput);
            }
        }
        if self.is_one_refused_too_many(key) {
            return self.abandon(key, Reason::RefusedTooMany);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.state == State::Open && connection.is_input_over() && !connection.is_blocked() {
            // What the client sent before it ended its direction has been answered.
            let is_cut = connection.tls.as_ref().is_some_and(|tls| !tls.is_ended());
            connection.reason = Some(if is_cut { Reason::Cut } else { Reason::ClientClosed });
            finish(connection, now);
        }
        if connection.has_output() && !connection.sending && !connection.touched {
            connection.touched = true;
            self.touched.push(key);
        }
        if matches!(connection.state, State::Flushing { .. })
            && !connection.has_output()
            && !connection.sending
        {
            self.ring.shutdown_write(connection.fd);
            let until = now + limits::LINGER_TIME_MAX;
            connection.state = State::Lingering { until, left_len: limits::LINGER_LEN_MAX };
        }
        self.receive_as_wanted(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.out.is_empty() && connection.out.capacity() > 0 {
            keep_buffer(&mut self.spare, std::mem::take(&mut connection.out));
        }
        if connection.state == State::Ending && connection.ops_count == 0 {
            connection.state = State::Closed;
            connection.ops_count = 1;
            self.ring.close(Op::Connection(ConnectionOp::Close, key).token(), connection.fd);
        } else if matches!(connection.state, State::Lingering { .. }) && connection.recv == Recv::Ended {
            self.abandon(key, Reason::ClientClosed);
        } else {
            self.set_alarm(key);
        }
    }

    /// Begins or ends the receive.
    fn receive_as_wanted(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.streams |= connection.session.expects_file(&self.pool);
        match (connection.recv, connection.wants_input()) {
            (Recv::Off, true) => {
                let once = connection.streams;
                connection.recv = Recv::Armed { once };
                connection.ops_count += 1;
                let token = Op::Connection(ConnectionOp::Recv, key).token();
                if once {
                    self.ring.recv_once(token, connection.fd);
                } else {
                    self.ring.recv(token, connection.fd);
                }
            }
            (Recv::Armed { once }, wanted)
                if connection.state == State::Open && (!wanted || once != connection.streams) =>
            {
                connection.recv = Recv::Cancelling;
                connection.ops_count += 1;
                let recv = Op::Connection(ConnectionOp::Recv, key).token();
                self.ring.cancel(Op::Connection(ConnectionOp::Cancel, key).token(), recv);
            }
            _ => {}
        }
    }

    /// Counts what the connection has parked. Whether that has to end: no input is refused before it has come, and what
    /// one turn brings to many connections, one after the other, has no bound but this one.
    fn is_parking_too_much(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        if connection.state != State::Open {
            keep_buffer(&mut self.spare, connection.parked.take().0);
        }
        let (before, len) = (connection.parked.counted_len as usize, connection.input_len());
        if before != len {
            connection.parked.counted_len = len as u32;
            self.parked_len = self.parked_len + len - before;
            self.stats.input_octets_now.set(self.parked_len as u64);
        }
        len > limits::PARKED_INPUT_LEN_MAX && self.parked_len > limits::PARKED_INPUTS_LEN_MAX
    }

    /// Keeps the entry in the timer wheel no later than the deadline. One that moves later is found by `on_due`.
    fn set_alarm(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let service = &self.ports[connection.listener_index as usize].service;
        let alarm_at = connection.next_alarm_at(service, self.now.monotonic + ALARM_TIME_MAX);
        if alarm_at < connection.alarm_at {
            connection.alarm_at = alarm_at;
            self.schedule(key, alarm_at);
        }
    }

    /// The descriptor is closed and nothing refers to the slot: it is free.
    pub(super) fn on_close(&mut self, key: Key) {
        let Some(mut connection) = self.connections.remove(key) else { return };
        self.left(&connection);
        let service = &self.ports[connection.listener_index as usize].service;
        let policy = self.policies.of(&connection.session);
        let cx = &mut Context { now: self.now, service, policy, pool: &mut self.pool };
        let reason = match connection.reason {
            _ if connection.session.is_check() => event::CHECK,
            Some(reason) => reason.name(),
            None => connection.session.ended_by(),
        };
        connection.session.end(cx);
        if connection.awaits_file {
            self.awaiting_files.retain(|(other, _)| *other != key);
        }
        if let Some(spill) = connection.spill.take() {
            spill.close(self.journal.segments());
        }
        let (session, client) = (connection.session.id(), connection.session.client());
        let messages_count = connection.session.messages_count();
        let lasted = self.now.monotonic.saturating_sub(Duration::from_millis(connection.began_ms));
        let kind = Kind::Closed { client, reason, messages_count, lasted };
        self.pool.events.push(Event { at: self.now, session, kind });
        keep_buffer(&mut self.spare, connection.parked.take().0);
        keep_buffer(&mut self.spare, std::mem::take(&mut connection.out));
    }
}

/// Gives octets to the session; parks what it does not consume.
fn present<S: Segments>(
    connection: &mut Connection<S::File>,
    key: Key,
    octets: &[u8],
    cx: &mut Context<'_>,
    (journal, port): (&mut Journal<S>, &Port),
    spare: &mut Vec<Vec<u8>>,
) {
    let was_in_clear = connection.tls.is_none();
    lend_output(connection, spare);
    let consumed = pump(connection, key, octets, cx, (journal, port));
    let rest = &octets[consumed..];
    if rest.is_empty() || connection.state != State::Open {
        return;
    }
    match &mut connection.tls {
        // Behind the header of a proxy: it is the client's first word of TLS. Behind STARTTLS nothing is left.
        Some(tls) if was_in_clear => tls.receive(rest, spare),
        _ => connection.parked.extend(rest, spare),
    }
}

/// Gives input to the session for as long as it takes any; returns what it consumed.
fn pump<S: Segments>(
    connection: &mut Connection<S::File>,
    key: Key,
    input: &[u8],
    cx: &mut Context<'_>,
    (journal, port): (&mut Journal<S>, &Port),
) -> usize {
    let mut consumed = 0;
    while connection.state == State::Open && !connection.is_blocked() {
        let session = &mut connection.session;
        let progress = session.receive(cx, &input[consumed..], &mut connection.out);
        consumed += progress.consumed;
        let next = match (progress.next, session.message()) {
            // It is committed when its last piece is in the file: see `spill`.
            (Next::Commit, Some(_)) if session.file().is_some() => return consumed,
            (Next::Commit, Some(message)) => match journal.append(key, message, port.durability) {
                Ok(Appended::Waits) => {
                    // Counted like an operation: the slot outlives the commit.
                    connection.ops_count += 1;
                    return consumed;
                }
                Ok(Appended::Settled) => session.committed(cx, Ok(()), &mut connection.out),
                Err(Error::NoStorage) if journal.delay(key, cx.now.monotonic) => {
                    connection.ops_count += 1;
                    return consumed;
                }
                Err(error) => session.committed(cx, Err(error), &mut connection.out),
            },
            (Next::Input, _) => return consumed,
            (Next::StartTls, _) => {
                securing::begin(connection, port, cx);
                return consumed;
            }
            (next, _) => next,
        };
        if next == Next::Close {
            finish(connection, cx.now.monotonic);
        }
    }
    consumed
}

/// What is to be sent now, as it goes over the wire.
fn output<F>(connection: &mut Connection<F>, spare: &mut Vec<Vec<u8>>) -> Vec<u8> {
    let replies = std::mem::take(&mut connection.out);
    let Some(tls) = &mut connection.tls else { return replies };
    let mut wire = spare.pop().unwrap_or_default();
    tls.seal(&replies, matches!(connection.state, State::Flushing { .. }), &mut wire);
    keep_buffer(spare, replies);
    wire
}

/// Replies are written into a pooled buffer, which an idle connection does not hold.
pub(super) fn lend_output<F>(connection: &mut Connection<F>, spare: &mut Vec<Vec<u8>>) {
    if connection.out.capacity() == 0 {
        connection.out = spare.pop().unwrap_or_default();
    }
}

pub(super) fn keep_buffer(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    let fits = (1..=limits::POOLED_OUTPUT_LEN_MAX).contains(&buffer.capacity());
    if fits && spare.len() < limits::POOLED_OUTPUTS_COUNT_MAX {
        buffer.clear();
        spare.push(buffer);
    }
}

/// The session is over: its last replies go out, then the connection ends.
pub(super) fn finish<F>(connection: &mut Connection<F>, now: Duration) {
    if connection.state == State::Open {
        connection.state = State::Flushing { until: now + limits::LAST_REPLY_TIME_MAX };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_buffers_of_replies_are_kept_and_no_large_one() {
        let mut spare = Vec::new();
        keep_buffer(&mut spare, Vec::with_capacity(limits::POOLED_OUTPUT_LEN_MAX + 1));
        keep_buffer(&mut spare, Vec::new());
        assert!(spare.is_empty());
        for _ in 0..limits::POOLED_OUTPUTS_COUNT_MAX + 10 {
            let mut buffer = Vec::with_capacity(limits::POOLED_OUTPUT_LEN_MAX);
            buffer.extend_from_slice(b"250 2.0.0 ok");
            keep_buffer(&mut spare, buffer);
        }
        assert_eq!(spare.len(), limits::POOLED_OUTPUTS_COUNT_MAX);
        assert!(spare.iter().all(Vec::is_empty));
    }
}
