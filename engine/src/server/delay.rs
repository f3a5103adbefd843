//! Messages that are complete and find no segment: they wait for the next one.

use ringmx_ring::Ring;

use crate::server::journal::{Appended, Segments};
use crate::server::worker::Worker;
use crate::session::Error;

impl<R: Ring, S: Segments> Worker<R, S> {
    /// Each turn: what waits for a segment goes to it, the longest first.
    pub(super) fn append_delayed(&mut self) {
        while let Some((key, may_wait)) = self.journal.first_delayed(self.now.monotonic) {
            let appended = match self.connections.get_mut(key) {
                Some(connection) => {
                    let durability = self.ports[connection.listener_index as usize].durability;
                    let message = connection.session.message();
                    message.map(|message| self.journal.append(key, message, durability))
                }
                None => None,
            };
            if may_wait && appended == Some(Err(Error::NoStorage)) {
                return;
            }
            self.journal.drop_first_delayed();
            if let Some(Ok(_)) = appended {
                self.name_file(key);
            }
            match appended {
                // Counted among the connection's operations already.
                Some(Ok(Appended::Waits)) => {}
                Some(Ok(Appended::Settled)) => self.on_committed(key, Ok(())),
                Some(Err(error)) => self.on_committed(key, Err(error)),
                None => {
                    self.op_ended(key);
                    self.settle(key);
                }
            }
        }
    }
}
