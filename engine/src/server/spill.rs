//! Content that goes to a file of its own: which file, which writes, and when the record that names it may be written.
//!
//! ```text
//! session wants a file ──take_file──> Open ──end-of-data, all pieces written──> Syncing ──> Named ──committed──> gone
//!                  │ none ready: it waits   │ session has done with it (refused, reset, lost)
//!                  └── tried each turn      └──> given back when no operation refers to it
//! ```
//!
//! The session's phase says what is wanted; here is only what is under way.

use std::sync::Arc;

use ringmx_ring::{Completion, Errno, Key, Payload, Ring};

use crate::limits;
use crate::server::conversation::lend_output;
use crate::server::journal::{Appended, Segments};
use crate::server::op::{ConnectionOp, Op};
use crate::server::worker::Worker;
use crate::session::{Context, Error, Next, Piece};
use crate::store::Room;

/// A file in use.
#[derive(Debug)]
pub(super) struct Spill<F> {
    file: Arc<F>,
    number: u32,
    /// Pieces being written.
    writing_count: u8,
    stage: Stage,
    /// A write or the sync failed: what is on the disk is unknown, and the file is not used again.
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Pieces go to it.
    Open,
    /// All is written; the sync is under way.
    Syncing,
    /// It is durable, and no record names it yet.
    Synced,
    /// The record that names it is with the journal: it belongs to the spool, whatever comes of the commit.
    Named,
}

impl<F> Spill<F> {
    fn is_unnamed(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Synced)
    }

    /// Nothing refers to it any more.
    pub(super) fn close<S: Segments<File = F>>(self, segments: &S) {
        // What a record may name is for the next start to decide.
        if self.is_unnamed() {
            segments.give_file_back(self.file, self.failed);
        }
    }
}

impl<R: Ring, S: Segments> Worker<R, S> {
    /// Does what the connection's content wants. Returns whether the session may take input again.
    pub(super) fn spill(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let (wanted, file) = (connection.session.wants_file(), connection.session.file());
        if !wanted && std::mem::take(&mut connection.awaits_file) {
            self.awaiting_files.retain(|(other, _)| *other != key);
        }
        match &connection.spill {
            // What most connections meet.
            None if !wanted => return false,
            Some(spill) if spill.stage == Stage::Named => return false,
            Some(spill) if file != Some(spill.number) => {
                if spill.writing_count == 0 && spill.is_unnamed() {
                    let spill = connection.spill.take().expect("matched above");
                    spill.close(self.journal.segments());
                }
                if connection.spill.is_some() || !wanted {
                    return false;
                }
            }
            _ => {}
        }
        if wanted {
            return self.take_file(key);
        }
        self.write_pieces(key);
        self.sync_when_written(key)
    }

    /// Brings the session a file, or has it wait for one, or says that there is none.
    fn take_file(&mut self, key: Key) -> bool {
        let room = self.journal.segments().room();
        let Some(connection) = self.connections.get_mut(key) else { return false };
        if room == Room::Spent {
            return self.refuse_content(key, Error::NoStorage);
        }
        let Some((number, file)) = self.journal.segments().take_file() else {
            if !std::mem::replace(&mut connection.awaits_file, true) {
                self.awaiting_files.push_back((key, self.now.monotonic));
            }
            return false;
        };
        connection.session.use_file(number);
        let spill = Spill { file, number, writing_count: 0, stage: Stage::Open, failed: false };
        connection.spill = Some(Box::new(spill));
        connection.streams = true;
        self.stats.content_files.bump();
        self.write_pieces(key);
        true
    }

    fn write_pieces(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(spill) = connection.spill.as_mut().filter(|spill| !spill.failed) else { return };
        while spill.writing_count < limits::WRITING_PIECES_COUNT_MAX {
            let Some(Piece { offset, bytes }) = connection.session.next_piece(&mut self.pool) else { return };
            spill.writing_count += 1;
            connection.ops_count += 1;
            self.stats.spool_octets.add(bytes.len() as u64);
            let token = Op::Connection(ConnectionOp::Piece, key).token();
            self.ring.write(token, S::file_fd(&spill.file), offset, bytes, false);
        }
    }

    /// At end-of-data, when the last piece is written: makes the file durable, so that a record may name it.
    fn sync_when_written(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Some(spill) = &mut connection.spill else { return false };
        let written = spill.writing_count == 0 && spill.stage == Stage::Open;
        if !written || connection.session.message().is_none_or(|message| message.spilled().is_none()) {
            return false;
        }
        if cfg!(ringmx_mutant = "no_file_sync") {
            return self.commit_spilled(key);
        }
        // Whatever the listener promises: a record must not come to name content that a crash took.
        spill.stage = Stage::Syncing;
        connection.ops_count += 1;
        self.ring.sync(Op::Connection(ConnectionOp::Sync, key).token(), S::file_fd(&spill.file));
        false
    }

    pub(super) fn on_piece(&mut self, key: Key, completion: Completion) {
        let Payload::Written(bytes) = completion.payload else { unreachable!("a write returns its bytes") };
        let len = bytes.len();
        self.pool.give_back(bytes);
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.ops_count -= 1;
        let Some(spill) = &mut connection.spill else { return };
        spill.writing_count -= 1;
        if completion.result != Ok(len as u32) {
            self.fail_spill(key, completion.result.err());
        } else if connection.session.file() == Some(spill.number) {
            connection.session.written(len);
            if self.journal.segments().room() == Room::Spent {
                self.refuse_content(key, Error::NoStorage);
            }
        }
        self.take_parked(key);
        self.settle(key);
    }

    pub(super) fn on_file_synced(&mut self, key: Key, completion: &Completion) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.ops_count -= 1;
        if let Some(spill) = &mut connection.spill {
            spill.stage = Stage::Synced;
        }
        match completion.result {
            Ok(_) => self.commit_spilled(key),
            Err(errno) => self.fail_spill(key, Some(errno)),
        };
        self.take_parked(key);
        self.settle(key);
    }

    /// The content is where it should be: the record that names it goes out with the next commit.
    fn commit_spilled(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Some(message) = connection.session.message() else { return false };
        let port = &self.ports[connection.listener_index as usize];
        let appended = match self.journal.append(key, message, port.durability) {
            Ok(appended) => appended,
            Err(Error::NoStorage) if self.journal.delay(key, self.now.monotonic) => {
                connection.ops_count += 1;
                return false;
            }
            Err(error) => return self.refuse_content(key, error),
        };
        if let Some(spill) = &mut connection.spill {
            spill.stage = Stage::Named;
        }
        match appended {
            Appended::Waits => connection.ops_count += 1,
            Appended::Settled => {
                connection.spill = None;
                let (service, policy) = (&port.service, self.policies.of(&connection.session));
                let cx = &mut Context { now: self.now, service, policy, pool: &mut self.pool };
                lend_output(connection, &mut self.spare);
                if connection.session.committed(cx, Ok(()), &mut connection.out) == Next::Close {
                    self.finish_session(key);
                }
                return true;
            }
        }
        false
    }

    /// A record that names the connection's file is with the journal.
    pub(super) fn name_file(&mut self, key: Key) {
        let spill = self.connections.get_mut(key).and_then(|connection| connection.spill.as_mut());
        spill.into_iter().for_each(|spill| spill.stage = Stage::Named);
    }

    /// A write or the sync failed or fell short.
    fn fail_spill(&mut self, key: Key, errno: Option<Errno>) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Some(spill) = &mut connection.spill else { return false };
        spill.failed = true;
        let is_full = matches!(errno, None | Some(Errno::NO_SPACE | Errno::QUOTA));
        if connection.session.file() != Some(spill.number) {
            return false;
        }
        self.stats.content_files_failed.bump();
        // A short write is how a full disk first shows.
        self.refuse_content(key, if is_full { Error::NoStorage } else { Error::SpoolFailed })
    }

    /// Gives up the message whose content has no place.
    pub(super) fn refuse_content(&mut self, key: Key, error: Error) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let service = &self.ports[connection.listener_index as usize].service;
        let policy = self.policies.of(&connection.session);
        let cx = &mut Context { now: self.now, service, policy, pool: &mut self.pool };
        lend_output(connection, &mut self.spare);
        if connection.session.message().is_none() {
            connection.session.refuse_content(cx, error);
        } else if connection.session.committed(cx, Err(error), &mut connection.out) == Next::Close {
            self.finish_session(key);
        }
        true
    }

    /// Where content waits for the disk while there is no memory for what comes behind it: the message is refused, so
    /// that it can be read on to its end. False if no content waits.
    pub(super) fn shed_content(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get(key) else { return false };
        let session = &connection.session;
        if !session.is_waiting() || session.message().is_some() {
            return false;
        }
        self.refuse_content(key, Error::NoMemory);
        self.take_parked(key);
        while self.spill(key) {
            self.take_parked(key);
        }
        true
    }

    /// The commit of a message in a file is over: the file is the spool's, or nobody knows whether a record names it.
    pub(super) fn forget_file(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.spill.take_if(|spill| spill.stage == Stage::Named);
        }
    }

    /// Each turn: files for those who wait for one, the longest first.
    pub(super) fn bring_files(&mut self) {
        let now = self.now.monotonic;
        for _ in 0..self.awaiting_files.len() {
            let Some(&(key, since)) = self.awaiting_files.front() else { return };
            let is_over = now.saturating_sub(since) >= limits::STORAGE_WAIT_MAX;
            let segments = self.journal.segments();
            if !is_over && !segments.has_file() && segments.room() < Room::Spent {
                return;
            }
            self.awaiting_files.pop_front();
            if let Some(connection) = self.connections.get_mut(key) {
                connection.awaits_file = false;
            }
            if is_over {
                self.refuse_content(key, Error::NoStorage);
            }
            self.take_parked(key);
            self.settle(key);
        }
    }
}
