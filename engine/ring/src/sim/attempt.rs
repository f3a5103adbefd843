//! What each operation does when its time has come, and what the caller must never do.

use std::time::Duration;

use super::descriptors::Object;
use super::disk::{Certainty, FILE_LEN_MAX};
use super::network::Received;
use super::operation::{Cancelled, Kind};
use super::world::World;
use crate::doorbell::{RING, RINGS_LEN};
use crate::{AcceptMode, Errno, Fd, Token};

const ALREADY: Errno = Errno(114);
const FILE_TOO_BIG: Errno = Errno(27);

impl World {
    /// Lets an operation make progress; one that cannot waits until its description is woken.
    pub(super) fn attempt(&mut self, id: u64) {
        let Some(operation) = self.operations.get_mut(&id) else { return };
        let scheduled = operation.scheduled.take();
        scheduled.into_iter().for_each(|place| self.unschedule(place));
        let Some(operation) = self.operations.get_mut(&id) else { return };
        if let Some(outcome) = operation.outcome {
            return self.complete(id, outcome, false);
        }
        if operation.cancelled == Cancelled::Now {
            return self.end_cancelled(id);
        }
        let Some(object) = operation.description.map(|description| self.descriptors.object(description))
        else {
            return;
        };
        match (&operation.kind, object) {
            (&Kind::Accept(mode), Object::Listener(listener)) => self.attempt_accept(id, mode, listener),
            (Kind::Recv { .. }, Object::Connection(connection)) => self.attempt_recv(id, connection),
            (Kind::Send { .. }, Object::Connection(connection)) => self.attempt_send(id, connection),
            (Kind::Write { .. }, Object::File(file)) => self.attempt_write(id, file),
            (&Kind::Sync { before }, Object::File(file)) => self.attempt_sync(id, file, before),
            (Kind::Signal, Object::Bell(bell)) => {
                self.bells[bell] += 1;
                let description = operation.description;
                self.complete(id, Ok(RING.len() as u32), false);
                description.into_iter().for_each(|description| self.wake(description));
            }
            (Kind::AwaitSignal(_), Object::Bell(bell)) => {
                let count = self.bells[bell].min(RINGS_LEN as u64);
                self.bells[bell] -= count;
                if count > 0 {
                    operation.kind = Kind::AwaitSignal(count);
                    self.complete(id, Ok(count as u32), false);
                }
            }
            (kind, object) => {
                let what = format!("{} on {object:?}", kind.name());
                self.misuse(&what)
            }
        }
        if self.operations.get(&id).is_some_and(|operation| operation.cancelled == Cancelled::AfterAttempt) {
            self.end_cancelled(id);
        }
    }

    fn attempt_accept(&mut self, id: u64, mode: AcceptMode, listener: usize) {
        // The kernel reserves the number before it looks for a connection.
        if self.descriptors.open_count() >= self.settings.fds_max {
            return self.complete(id, Err(Errno::PROCESS_FILES), false);
        }
        let Some(&connection) = self.listeners[listener].as_ref().and_then(|waiting| waiting.front()) else {
            return;
        };
        if self.random.chance(self.settings.faults.accept_error) {
            let errors = [Errno::PROCESS_FILES, Errno::SYSTEM_FILES, Errno::CONNECTION_ABORTED];
            let error = errors[self.random.len(0..=2)];
            if error == Errno::CONNECTION_ABORTED {
                self.take_waiting(listener);
                self.connections[connection].reset_by_server();
            }
            return self.complete(id, Err(error), false);
        }
        self.take_waiting(listener);
        let (fd, description) = self.descriptors.open(Object::Connection(connection));
        self.connections[connection].description = Some(description);
        let more = mode == AcceptMode::Multishot && !self.random.chance(self.settings.faults.multishot_end);
        self.complete(id, Ok(fd.0 as u32), more);
        if more {
            self.schedule(id, Duration::ZERO);
        }
    }

    fn take_waiting(&mut self, listener: usize) {
        self.listeners[listener].as_mut().and_then(|waiting| waiting.pop_front());
    }

    fn attempt_recv(&mut self, id: u64, connection: usize) {
        let (first, once) = match self.operations.get_mut(&id).map(|operation| &mut operation.kind) {
            Some(Kind::Recv { attempted, once }) => (!std::mem::replace(attempted, true), *once),
            _ => return,
        };
        let received_len = self.connections[connection].received_len();
        // Older kernels look for the next buffer before they know that no bytes are left.
        let looks = received_len > 0 || self.free_buffers.is_empty();
        let no_buffers = looks && self.random.chance(self.settings.faults.no_buffers);
        let Some(&buffer_index) = self.free_buffers.front().filter(|_| !no_buffers) else {
            // The kernel picks a buffer before it looks for bytes: at submission, and when the socket has something to
            // say, be it the end of the stream.
            if first || no_buffers || self.connections[connection].is_readable() {
                self.complete(id, Err(Errno::NO_BUFFERS), false);
            }
            return;
        };
        let len = received_len.min(self.settings.buffer_len);
        let len = self.part(len, self.settings.faults.short_recv);
        match self.connections[connection].receive(len) {
            Received::Bytes(bytes) => {
                self.free_buffers.pop_front();
                let more = !once && !self.random.chance(self.settings.faults.multishot_end);
                self.complete_received(id, buffer_index, bytes, more);
                if more {
                    self.schedule(id, Duration::ZERO);
                }
            }
            Received::End => self.complete(id, Ok(0), false),
            Received::Failed(error) => self.complete(id, Err(error), false),
            Received::Nothing => {}
        }
    }

    fn attempt_send(&mut self, id: u64, connection: usize) {
        let shortened = self.random.chance(self.settings.faults.short_send);
        let Some(Kind::Send { bytes, sent_len, done_len }) =
            self.operations.get_mut(&id).map(|operation| &mut operation.kind)
        else {
            return;
        };
        let rest = &bytes[*sent_len + *done_len..];
        let offered_len =
            if shortened && !rest.is_empty() { self.random.len(1..=rest.len()) } else { rest.len() };
        let result = self.connections[connection].send(&rest[..offered_len]);
        let taken_len = result.unwrap_or(0);
        *done_len += taken_len;
        let (done, all) = (*done_len, *sent_len + *done_len == bytes.len());
        match result {
            // An error is told by the next send if this one has moved bytes.
            Err(error) if done == 0 => self.complete(id, Err(error), false),
            Err(_) => self.complete(id, Ok(done as u32), false),
            Ok(_) if all || (shortened && done > 0) => self.complete(id, Ok(done as u32), false),
            Ok(_) => {}
        }
        if taken_len > 0 {
            self.touch(connection);
        }
    }

    fn attempt_write(&mut self, id: u64, file: usize) {
        let error = self.disk_error();
        let shortened = self.random.chance(self.settings.faults.short_write);
        let Some(Kind::Write { bytes, offset, durable }) =
            self.operations.get(&id).map(|operation| &operation.kind)
        else {
            return;
        };
        if offset.saturating_add(bytes.len() as u64) > FILE_LEN_MAX {
            return self.complete(id, Err(FILE_TOO_BIG), false);
        }
        let file = &mut self.files[file].1;
        let offset = *offset as usize;
        let result = match error {
            // The page cache has the bytes and calls them clean; how many the disk has, nobody knows.
            Some(Errno::IO) => {
                file.write(offset, bytes, Certainty::Lost);
                Err(Errno::IO)
            }
            Some(error) => Err(error),
            None => {
                let short = shortened && bytes.len() > 1;
                let len = if short { self.random.len(1..=bytes.len() - 1) } else { bytes.len() };
                let certainty = if *durable { Certainty::Durable } else { Certainty::Cached };
                file.write(offset, &bytes[..len], certainty);
                Ok(len as u32)
            }
        };
        self.complete(id, result, false);
    }

    fn attempt_sync(&mut self, id: u64, file: usize, before: u64) {
        let error = self.disk_error();
        self.files[file].1.sync(before, error.is_none());
        self.complete(id, error.map_or(Ok(0), Err), false);
    }

    /// Why this access to the disk fails, if it does.
    fn disk_error(&mut self) -> Option<Errno> {
        let fails = self.random.chance(self.settings.faults.write_error);
        let injected = [Errno::IO, Errno::NO_SPACE][self.random.len(0..=1)];
        self.write_error.or_else(|| fails.then_some(injected))
    }

    /// Cancels the first `recv` or `accept` under this token; the result of the cancelling operation.
    pub(super) fn cancel(&mut self, target: Token) -> Result<u32, Errno> {
        let found = self.operations.iter().find(|(_, operation)| {
            operation.token == target
                && operation.cancelled == Cancelled::No
                && matches!(operation.kind, Kind::Accept(_) | Kind::Recv { .. })
                && operation.outcome.is_none()
        });
        let Some((&id, _)) = found else { return Err(Errno::NO_ENTRY) };
        if !self.random.chance(self.settings.faults.cancel_race) {
            self.mark_cancelled(id, Cancelled::Now);
            return Ok(0);
        }
        if self.random.chance(0.5) {
            self.mark_cancelled(id, Cancelled::AfterAttempt);
            return Err(ALREADY);
        }
        self.attempt(id);
        if !self.operations.contains_key(&id) {
            return Err(Errno::NO_ENTRY);
        }
        self.mark_cancelled(id, Cancelled::Now);
        Ok(0)
    }

    /// Cancels everything on the description; the number of operations.
    pub(super) fn cancel_all(&mut self, description: usize) -> u32 {
        let targets: Vec<u64> = self
            .operations
            .iter()
            .filter(|(_, operation)| {
                operation.description == Some(description)
                    && operation.cancelled == Cancelled::No
                    && operation.outcome.is_none()
            })
            .map(|(id, _)| *id)
            .collect();
        for id in &targets {
            let on_disk = self.operations[id].kind.is_of_disk();
            let races = self.random.chance(self.settings.faults.cancel_race);
            self.mark_cancelled(*id, if on_disk || races { Cancelled::AfterAttempt } else { Cancelled::Now });
        }
        targets.len() as u32
    }

    fn mark_cancelled(&mut self, id: u64, cancelled: Cancelled) {
        let Some(operation) = self.operations.get_mut(&id) else { return };
        operation.cancelled = cancelled;
        if operation.scheduled.is_none() {
            self.schedule(id, Duration::ZERO);
        }
    }

    fn end_cancelled(&mut self, id: u64) {
        let result = match self.operations.get(&id).map(|operation| &operation.kind) {
            Some(Kind::Send { done_len, .. }) if *done_len > 0 => Ok(*done_len as u32),
            _ => Err(Errno::CANCELED),
        };
        self.complete(id, result, false);
    }

    /// Stops the test where the kernel would go on and do damage.
    pub(super) fn refuse_misuse(&self, fd: Fd, found: Option<usize>, kind: &Kind) {
        if matches!(kind, Kind::Close) && found.is_none() {
            self.misuse(&format!("close of {fd:?}, which is not open"));
        }
        let others = self.operations.values().filter(|other| found.is_some() && other.description == found);
        for other in others {
            let conflict = match (kind, &other.kind) {
                (Kind::Recv { .. }, Kind::Recv { .. }) | (Kind::Send { .. }, Kind::Send { .. }) => true,
                (
                    Kind::Write { offset, bytes, .. },
                    Kind::Write { offset: other_offset, bytes: other_bytes, .. },
                ) => {
                    *offset < *other_offset + other_bytes.len() as u64
                        && *other_offset < *offset + bytes.len() as u64
                }
                _ => false,
            };
            if conflict {
                self.misuse(&format!("{} on {fd:?} while {:?} is in flight there", kind.name(), other.token));
            }
        }
    }
}
