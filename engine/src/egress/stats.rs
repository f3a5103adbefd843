//! What the tail of one shard counts.

use crate::stats::{Counter, LINES_LEN};

/// Counters of one shard's deliveries: one writer, its tail; everybody may read. Names that end in `_now` are gauges.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct EgressStats {
    /// The shard these are of.
    pub shard: u16,
    /// Messages delivered to all their recipients and acknowledged.
    pub delivered: Counter,
    /// Messages that their route discards, acknowledged.
    pub discarded: Counter,
    /// Messages given up for a recipient at least, whose sender was told or could not be, acknowledged.
    pub failed: Counter,
    /// Recipients whose sender was told that they could not be reached.
    pub notices: Counter,
    /// Transactions with next hops in which a recipient at least was taken.
    pub relayed: Counter,
    /// Messages of those that went with others, in one group.
    pub grouped: Counter,
    /// Attempts at a message that is held until the next start: by a route, for want of a route, or unreadable.
    pub kept: Counter,
    /// Files written into Maildirs, durably.
    pub files: Counter,
    /// Octets of those files.
    pub file_octets: Counter,
    /// Attempts at a message of which at least one delivery failed.
    pub failed_attempts: Counter,
    /// Messages put off since a next hop had no place for them: no attempts.
    pub put_off: Counter,
    /// Messages copied to a deferred segment after their first attempt.
    pub deferrals: Counter,
    /// Deferred messages, those that are held among them.
    pub deferred_now: Counter,
    /// Octets of their records.
    pub deferred_octets_now: Counter,
    /// Segments that hold them.
    pub deferred_segments_now: Counter,
    /// Deferred messages copied out of segments that held too little mail.
    pub compacted: Counter,
    /// Messages that wait for their next attempt.
    pub waiting_now: Counter,
    /// Messages being delivered, or delivered and not yet acknowledged.
    pub in_flight_now: Counter,
    /// Segments with mail to read, to deliver or to acknowledge.
    pub segments_now: Counter,
    /// Places of the spool that could not be read.
    pub damages: Counter,
    /// Rounds of directory syncs and acknowledgements.
    pub flushes: Counter,
}

const _: () = assert!(align_of::<EgressStats>() >= LINES_LEN);

impl EgressStats {
    pub(super) fn new(shard: u16) -> Self {
        Self { shard, ..Self::default() }
    }

    /// Name, help text and value of each counter, in a fixed order.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        [
            ("delivered", "Messages delivered to all their recipients and acknowledged.", &self.delivered),
            ("discarded", "Messages that their route discards, acknowledged.", &self.discarded),
            ("failed", "Messages given up for a recipient at least.", &self.failed),
            (
                "notices",
                "Recipients of whom the sender was told that they could not be reached.",
                &self.notices,
            ),
            ("relayed", "Transactions with next hops in which a recipient was taken.", &self.relayed),
            ("grouped", "Messages that went with others, in one group.", &self.grouped),
            ("kept", "Attempts at a message that is held until the next start.", &self.kept),
            ("files", "Files written into Maildirs, durably.", &self.files),
            ("file_octets", "Octets of those files.", &self.file_octets),
            ("failed_attempts", "Attempts at a message of which a delivery failed.", &self.failed_attempts),
            ("put_off", "Times a message was put off, its next hop being full.", &self.put_off),
            (
                "deferrals",
                "Messages copied to a deferred segment after their first attempt.",
                &self.deferrals,
            ),
            ("deferred_now", "Deferred messages, those held among them.", &self.deferred_now),
            ("deferred_octets_now", "Octets of the records of deferred messages.", &self.deferred_octets_now),
            ("deferred_segments_now", "Segments that hold deferred messages.", &self.deferred_segments_now),
            ("compacted", "Deferred messages copied out of segments with little mail.", &self.compacted),
            ("waiting_now", "Messages that wait for their next attempt.", &self.waiting_now),
            ("in_flight_now", "Messages being delivered or acknowledged.", &self.in_flight_now),
            ("segments_now", "Segments with mail to read, deliver or acknowledge.", &self.segments_now),
            ("damages", "Places of the spool that could not be read.", &self.damages),
            ("flushes", "Rounds of directory syncs and acknowledgements.", &self.flushes),
        ]
        .map(|(name, help, counter)| (name, help, counter.get()))
        .into_iter()
    }
}
