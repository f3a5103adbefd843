//! What is written but not durable: batches of which nobody waited for the disk.

use super::flights::Flight;

/// One segment with such batches.
#[derive(Debug)]
struct Unsynced {
    epoch: u64,
    /// Everything of the segment below is durable.
    from: u64,
    /// Everything below is written.
    to: u64,
    /// Records among it that were promised to be durable soon and were written since the last sync began.
    owed_count: usize,
    /// The sync under way: up to where it makes the segment durable, and how many of those records.
    syncing: Option<(u64, usize)>,
    /// No further batch comes.
    sealed: bool,
}

impl Unsynced {
    /// A sync is owed or under way.
    fn is_needed(&self) -> bool {
        self.owed_count > 0 || self.syncing.is_some()
    }
}

/// In the order of the segments: the present one, and those before it whose sync is owed or under way.
#[derive(Debug, Default)]
pub(super) struct UnsyncedList(Vec<Unsynced>);

impl UnsyncedList {
    /// A batch has been written, and all before it.
    pub(super) fn written(&mut self, flight: &Flight) {
        if let Some(unsynced) = self.find(flight.epoch) {
            unsynced.to = flight.end();
            unsynced.owed_count += if flight.durable { 0 } else { flight.soon_count };
            unsynced.sealed |= flight.seals;
        } else if !flight.durable {
            self.0.push(Unsynced {
                epoch: flight.epoch,
                from: flight.offset,
                to: flight.end(),
                owed_count: flight.soon_count,
                syncing: None,
                sealed: flight.seals,
            });
        }
        self.forget_settled();
    }

    /// The next segment whose sync is owed. From now on it is under way.
    pub(super) fn start_sync(&mut self) -> Option<u64> {
        let owed = |unsynced: &&mut Unsynced| unsynced.owed_count > 0 && unsynced.syncing.is_none();
        let unsynced = self.0.iter_mut().find(owed)?;
        unsynced.syncing = Some((unsynced.to, std::mem::take(&mut unsynced.owed_count)));
        Some(unsynced.epoch)
    }

    /// The sync of this segment has ended.
    pub(super) fn synced(&mut self, epoch: u64, ok: bool) {
        let Some(unsynced) = self.find(epoch) else { return };
        if let Some((to, _)) = unsynced.syncing.take().filter(|_| ok) {
            unsynced.from = to;
        }
        self.0.retain(|unsynced| unsynced.from < unsynced.to);
        self.forget_settled();
    }

    /// Of a sealed segment it does not matter any more how far it is durable, once nothing is owed.
    fn forget_settled(&mut self) {
        self.0.retain(|unsynced| !unsynced.sealed || unsynced.is_needed());
    }

    /// Up to where the segment is durable, if something of it is not.
    pub(super) fn durable_to(&self, epoch: u64) -> Option<u64> {
        self.0.iter().find(|unsynced| unsynced.epoch == epoch).map(|unsynced| unsynced.from)
    }

    /// Records that were promised to be durable soon and are not yet.
    pub(super) fn soon_count(&self) -> usize {
        let syncing_count = |unsynced: &Unsynced| unsynced.syncing.map_or(0, |(_, count)| count);
        self.0.iter().map(|unsynced| unsynced.owed_count + syncing_count(unsynced)).sum()
    }

    pub(super) fn is_syncing(&self) -> bool {
        self.0.iter().any(|unsynced| unsynced.syncing.is_some())
    }

    pub(super) fn needs_sync(&self, epoch: u64) -> bool {
        self.0.iter().any(|unsynced| unsynced.epoch == epoch && unsynced.is_needed())
    }

    /// No further batch goes to this segment, and none is on its way.
    pub(super) fn seal(&mut self, epoch: u64) {
        if let Some(unsynced) = self.find(epoch) {
            unsynced.sealed = true;
        }
        self.forget_settled();
    }

    fn find(&mut self, epoch: u64) -> Option<&mut Unsynced> {
        self.0.iter_mut().find(|unsynced| unsynced.epoch == epoch)
    }
}
