//! Writes on their way: several at once, which end in any order.
//!
//! A batch that has ended well is durable, whatever becomes of those before it: recovery finds it behind a hole. So its
//! tickets come back at once. Readers go by a single offset, and are told in order: up to the first write that has
//! not ended.

use std::collections::VecDeque;

use ringmx_ring::BlockBuffer;

use super::Ticket;

/// Names one write from its start to its end.
pub type FlightId = u32;

#[derive(Debug)]
pub(super) struct Flight {
    id: FlightId,
    pub(super) epoch: u64,
    pub(super) offset: u64,
    pub(super) len: usize,
    /// Records of which somebody waits for the end of the write.
    pub(super) tickets: Vec<Ticket>,
    pub(super) records_count: usize,
    /// On stable storage once it has ended.
    pub(super) durable: bool,
    /// Records that were promised to be durable soon, of which nobody waits.
    pub(super) soon_count: usize,
    /// The last of its segment.
    pub(super) seals: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Flying,
    Done(BlockBuffer),
    Failed,
}

impl Flight {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.len as u64
    }
}

/// Oldest first, from the first that readers have not been told of.
#[derive(Debug, Default)]
pub(super) struct Flights {
    list: VecDeque<Flight>,
    next_id: FlightId,
}

/// What a write is, before it begins.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) epoch: u64,
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) tickets: Vec<Ticket>,
    pub(super) records_count: usize,
    pub(super) durable: bool,
    pub(super) soon_count: usize,
    pub(super) seals: bool,
}

impl Flights {
    pub(super) fn depart(&mut self, departure: Departure) -> FlightId {
        let Departure { epoch, offset, len, tickets, records_count, durable, soon_count, seals } = departure;
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let state = State::Flying;
        self.list.push_back(Flight {
            id,
            epoch,
            offset,
            len,
            tickets,
            records_count,
            durable,
            soon_count,
            seals,
            state,
        });
        id
    }

    /// The write has ended, well with all of its bytes. Returns what it was.
    ///
    /// # Panics
    /// Unless it is on its way.
    pub(super) fn land(&mut self, id: FlightId, outcome: Option<BlockBuffer>) -> &mut Flight {
        let flight = self.list.iter_mut().find(|flight| flight.id == id && flight.is_flying());
        let flight = flight.expect("each completion answers one start");
        flight.state = outcome.map_or(State::Failed, State::Done);
        flight
    }

    /// The oldest, if it has ended well, and its bytes.
    pub(super) fn pop_done(&mut self) -> Option<(Flight, BlockBuffer)> {
        let done = |flight: &Flight| matches!(flight.state, State::Done(_));
        let mut flight = self.list.pop_front_if(|flight| done(flight))?;
        match std::mem::replace(&mut flight.state, State::Failed) {
            State::Done(bytes) => Some((flight, bytes)),
            State::Flying | State::Failed => unreachable!("just looked at"),
        }
    }

    /// How many are on their way, or wait for one before them.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_any_flying(&self) -> bool {
        self.list.iter().any(Flight::is_flying)
    }

    /// Records on their way.
    pub(super) fn records_count(&self) -> usize {
        self.list.iter().filter(|flight| flight.is_flying()).map(|flight| flight.records_count).sum()
    }

    /// Records of them that were promised to be durable soon and are not yet.
    pub(super) fn soon_count(&self) -> usize {
        let uncertain = |flight: &&Flight| flight.is_uncertain();
        self.list.iter().filter(uncertain).map(|flight| flight.soon_count).sum()
    }

    /// Where in this segment the oldest of them begins that is not durable.
    pub(super) fn uncertain_from(&self, epoch: u64) -> Option<u64> {
        let uncertain = |flight: &&Flight| flight.is_uncertain();
        self.list.iter().filter(|flight| flight.epoch == epoch).find(uncertain).map(|flight| flight.offset)
    }

    /// Where in this segment the last write ends that has ended well.
    pub(super) fn done_to(&self, epoch: u64) -> Option<u64> {
        self.list.iter().filter(|flight| flight.epoch == epoch && flight.is_done()).map(Flight::end).max()
    }

    /// The newest, if it goes to this segment.
    pub(super) fn last_to(&mut self, epoch: u64) -> Option<&mut Flight> {
        self.list.back_mut().filter(|flight| flight.epoch == epoch)
    }
}

impl Flight {
    fn is_flying(&self) -> bool {
        matches!(self.state, State::Flying)
    }

    fn is_uncertain(&self) -> bool {
        !(self.is_done() && self.durable)
    }

    fn is_done(&self) -> bool {
        matches!(self.state, State::Done(_))
    }
}
