//! What a worker does with the records of a connection under TLS.
//!
//! A handshake costs a hundred times what a command costs. So none goes on when its octets come: the connection is
//! listed, and at the end of each turn the list is worked off for no longer than [`limits::HANDSHAKES_TURN_TIME_MAX`].
//! Who waits longest is next; everybody else is served in between.

use std::time::Duration;

use ringmx_ring::{Key, Ring};

use crate::limits;
use crate::server::connection::{Connection, State};
use crate::server::conversation::{finish, keep_buffer, lend_output};
use crate::server::journal::Segments;
use crate::server::tls::{Step, Tls};
use crate::server::worker::{Port, Worker};
use crate::session::{Context, Next};

impl<R: Ring, S: Segments> Worker<R, S> {
    /// Records of this connection may have come.
    pub(super) fn take_records(&mut self, key: Key) {
        let Some(tls) = self.connections.get_mut(key).and_then(|connection| connection.tls.as_mut()) else {
            return;
        };
        if !tls.is_handshaking() {
            return self.read_records(key);
        }
        if tls.held_len() > 0 && !tls.is_listed {
            tls.is_listed = true;
            self.handshakes.push_back(key);
        }
    }

    /// Goes on with handshakes for as long as a turn has for them, but with one at least.
    pub(super) fn shake_hands(&mut self) {
        if self.handshakes.is_empty() {
            return;
        }
        let began = self.ring.clock().monotonic;
        let mut ended = began;
        while let Some(key) = self.handshakes.pop_front() {
            let Some(tls) = self.connections.get_mut(key).and_then(|connection| connection.tls.as_mut())
            else {
                continue;
            };
            tls.is_listed = false;
            self.read_records(key);
            self.settle(key);
            ended = self.ring.clock().monotonic;
            if ended - began >= limits::HANDSHAKES_TURN_TIME_MAX {
                break;
            }
        }
        let micros = |time: Duration| time.as_micros() as u64;
        self.stats.handshake_turns.bump();
        self.stats.handshake_micros.add(micros(ended - began));
        let longest = &self.stats.handshake_turn_longest_micros_now;
        longest.set(longest.get().max(micros(ended - self.now.monotonic)));
    }

    /// Records in, plaintext to the session.
    fn read_records(&mut self, key: Key) {
        let mut plain = std::mem::take(&mut self.plain);
        while let Some(step) = self.advance(key, &mut plain) {
            if self.follow(key, step) {
                plain.clear();
                break;
            }
        }
        if !plain.is_empty() {
            self.take_octets(key, &plain);
            plain.clear();
        }
        self.plain = plain;
    }

    /// None when there is nothing more to read.
    fn advance(&mut self, key: Key, plain: &mut Vec<u8>) -> Option<Step> {
        let connection =
            self.connections.get_mut(key).filter(|connection| connection.state == State::Open)?;
        let tls = connection.tls.as_mut()?;
        let step = tls.advance(plain, self.now.unix);
        keep_buffer(&mut self.spare, tls.take_spare());
        step
    }

    /// True if nothing that came may be used.
    fn follow(&mut self, key: Key, step: Step) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return true };
        let service = &self.ports[connection.listener_index as usize].service;
        let policy = self.policies.of(&connection.session);
        let cx = &mut Context { now: self.now, service, policy, pool: &mut self.pool };
        lend_output(connection, &mut self.spare);
        let next = match step {
            Step::Secured(secured) => connection.session.secured(cx, secured, &mut connection.out),
            Step::Failed(why) => connection.session.distrust(cx, why),
        };
        if next == Next::Close {
            finish(connection, self.now.monotonic);
        }
        next == Next::Close
    }
}

/// The session wants TLS from here on: what it has said so far is the last in clear.
pub(super) fn begin<F>(connection: &mut Connection<F>, port: &Port, cx: &mut Context<'_>) {
    let clear = std::mem::take(&mut connection.out);
    match port.tls.as_ref().map(|acceptor| Tls::begin(acceptor.terms(), clear)) {
        Some(Ok(tls)) => connection.tls = Some(tls),
        // The configuration has no such listener, and rustls asks for nothing that could fail here.
        None | Some(Err(_)) => {
            connection.session.distrust(cx, "error of ours");
            finish(connection, cx.now.monotonic);
        }
    }
}
