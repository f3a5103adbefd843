use super::*;
use crate::spool::FORMAT_VERSION;
use crate::spool::segment::Role;

const EPOCH_1: SegmentHeader = SegmentHeader {
    version: FORMAT_VERSION,
    role: Role::Intake,
    shard: 0,
    number: 1,
    epoch: 1,
    key: 11,
    capacity: 4 * BLOCK_LEN,
};
const EPOCH_2: SegmentHeader = SegmentHeader { number: 2, epoch: 2, key: 12, ..EPOCH_1 };
const LARGE: SegmentHeader = SegmentHeader { capacity: 64 << 20, ..EPOCH_1 };

fn append_as(commit: &mut GroupCommit, promise: Promise, len: usize) -> Result<Place, AppendError> {
    commit.append(promise, &RecordMeta::default(), b"", &[&vec![b'x'; len]])
}

fn append(commit: &mut GroupCommit, ticket: Ticket, len: usize) -> Result<Place, AppendError> {
    append_as(commit, Promise::BeforeReply(ticket), len)
}

/// A commit whose only segment is `header`.
fn commit_to(header: &SegmentHeader) -> GroupCommit {
    let mut commit = GroupCommit::new();
    assert_eq!(commit.use_segment(header), None);
    commit
}

/// Appends so many records, with these tickets, and starts their write.
fn start(commit: &mut GroupCommit, tickets: std::ops::RangeInclusive<Ticket>) -> Write {
    tickets.for_each(|ticket| assert!(append(commit, ticket, 10).is_ok()));
    commit.start(false).unwrap()
}

/// Ends `write` well; returns its tickets.
fn succeed(commit: &mut GroupCommit, write: Write) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    commit.complete(write.flight, Ok(write.bytes.len()), write.bytes, &mut tickets).unwrap();
    tickets
}

/// Epoch, end and seal of all that is readable now. The memory goes back.
fn readable(commit: &mut GroupCommit) -> Vec<(u64, u64, bool)> {
    let mut told = Vec::new();
    while let Some(Readable { epoch, end, seals, bytes, .. }) = commit.readable() {
        commit.give_back(bytes);
        told.push((epoch, end, seals));
    }
    told
}

fn committed_below(write: &Write) -> u64 {
    crate::spool::batch::BatchHeader::parse(&write.bytes, write.offset).unwrap().committed_below
}

#[test]
fn what_waits_during_a_write_goes_out_together() {
    let mut commit = GroupCommit::new();
    assert!(commit.needs_segment(1) && commit.start(false).is_none());
    assert_eq!(commit.use_segment(&EPOCH_1), None);
    assert_eq!(append(&mut commit, 1, 10), Ok(Place { epoch: 1, offset: 4096 + 64 }));
    append(&mut commit, 2, 10).unwrap();
    append(&mut commit, 3, 10).unwrap();
    let first = commit.start(false).unwrap();
    assert_eq!((first.epoch, first.offset, first.bytes.len(), first.durable), (1, 4096, 4096, true));
    assert_eq!(append(&mut commit, 4, 10), Ok(Place { epoch: 1, offset: 8192 + 64 }));
    append(&mut commit, 5, 10).unwrap();
    assert!(commit.start(false).is_none(), "two wait, three fly");
    assert_eq!(succeed(&mut commit, first), [1, 2, 3]);
    assert_eq!(readable(&mut commit), [(1, 8192, false)]);
    let second = commit.start(false).unwrap();
    assert_eq!(second.offset, 8192);
    assert_eq!(succeed(&mut commit, second), [4, 5]);
    assert_eq!(readable(&mut commit), [(1, 12288, false)]);
    assert!(commit.is_idle());
}

#[test]
fn another_write_starts_when_it_carries_its_share() {
    let mut commit = commit_to(&LARGE);
    let first = start(&mut commit, 1..=6);
    (7..=11).for_each(|ticket| assert!(append(&mut commit, ticket, 10).is_ok()));
    assert!(commit.start(false).is_none(), "five against six");
    let second = start(&mut commit, 12..=12);
    (13..=17).for_each(|ticket| assert!(append(&mut commit, ticket, 10).is_ok()));
    assert!(commit.start(false).is_none(), "five against a mean of six");
    let third = start(&mut commit, 18..=18);
    let fourth = start(&mut commit, 19..=30);
    (31..=99).for_each(|ticket| assert!(append(&mut commit, ticket, 10).is_ok()));
    assert!(commit.start(false).is_none(), "four at once, however many wait");
    succeed(&mut commit, second);
    assert_eq!(readable(&mut commit), []);
    assert!(commit.start(false).is_none(), "the second waits for the first, and keeps its place");
    succeed(&mut commit, first);
    assert_eq!(readable(&mut commit).len(), 2);
    let fifth = commit.start(false).unwrap();
    assert!(fifth.offset > fourth.offset && third.offset < fourth.offset);
}

#[test]
fn a_full_batch_does_not_wait_for_its_share() {
    let mut commit = commit_to(&LARGE);
    let _first = start(&mut commit, 1..=6);
    append(&mut commit, 7, BATCH_LEN_SOFT_MAX).unwrap();
    assert!(commit.start(false).is_some());
}

#[test]
fn while_there_is_other_work_only_the_first_write_and_full_ones_start() {
    let mut commit = commit_to(&LARGE);
    append(&mut commit, 1, 10).unwrap();
    let first = commit.start(true).expect("nobody shares what waits alone");
    append(&mut commit, 2, 10).unwrap();
    assert!(commit.start(true).is_none(), "its share, but more may join");
    append(&mut commit, 3, BATCH_LEN_SOFT_MAX).unwrap();
    let second = commit.start(true).expect("nothing can join");
    append(&mut commit, 4, 10).unwrap();
    append(&mut commit, 5, 10).unwrap();
    assert!(commit.start(true).is_none());
    let third = commit.start(false).expect("its share");
    assert_eq!(
        [first, second, third].map(|write| succeed(&mut commit, write)),
        [vec![1], vec![2, 3], vec![4, 5]]
    );
}

#[test]
fn tickets_come_back_at_once_and_readers_are_told_in_order() {
    let mut commit = commit_to(&LARGE);
    let first = start(&mut commit, 1..=1);
    let second = start(&mut commit, 2..=2);
    let third = start(&mut commit, 3..=3);
    assert_eq!([&first, &second, &third].map(committed_below), [4096, 4096, 4096]);
    assert_eq!(succeed(&mut commit, third), [3]);
    assert_eq!(readable(&mut commit), []);
    assert_eq!(succeed(&mut commit, first), [1]);
    assert_eq!(readable(&mut commit), [(1, 8192, false)]);
    let fourth = start(&mut commit, 4..=4);
    assert_eq!(committed_below(&fourth), 8192, "the second has not ended");
    assert_eq!(succeed(&mut commit, second), [2]);
    assert_eq!(readable(&mut commit), [(1, 12288, false), (1, 16384, false)]);
    assert_eq!(succeed(&mut commit, fourth), [4]);
    let last = start(&mut commit, 5..=5);
    assert_eq!(committed_below(&last), last.offset, "all before it is durable, told or not");
}

#[test]
fn a_full_segment_is_sealed_by_its_last_write() {
    let mut commit = commit_to(&EPOCH_1);
    append(&mut commit, 1, 3000).unwrap();
    let first = commit.start(false).unwrap();
    append(&mut commit, 2, 7000).unwrap();
    assert_eq!(append(&mut commit, 3, 7000), Err(AppendError::NeedsSegment));
    assert!(commit.needs_segment(record::encoded_len(0, 7000)));
    assert_eq!(commit.use_segment(&EPOCH_2), None);
    append(&mut commit, 3, 7000).unwrap();
    let second = commit.start(false).unwrap();
    assert_eq!((second.epoch, second.offset), (1, 8192));
    let third = commit.start(false).unwrap();
    assert_eq!((third.epoch, third.offset, committed_below(&third)), (2, 4096, 4096));
    assert_eq!(succeed(&mut commit, third), [3]);
    assert_eq!(succeed(&mut commit, second), [2]);
    assert_eq!(readable(&mut commit), []);
    assert_eq!(succeed(&mut commit, first), [1]);
    assert_eq!(readable(&mut commit), [(1, 8192, false), (1, 16384, true), (2, 12288, false)]);
    assert_eq!(commit.use_segment(&SegmentHeader { epoch: 3, ..EPOCH_1 }), Some(2), "nothing left to write");
}

#[test]
fn a_write_in_flight_seals_when_it_is_the_last() {
    let mut commit = commit_to(&EPOCH_1);
    append(&mut commit, 1, 11000).unwrap();
    let write = commit.start(false).unwrap();
    assert_eq!(commit.use_segment(&EPOCH_2), None);
    succeed(&mut commit, write);
    assert_eq!(readable(&mut commit), [(1, 16384, true)]);
}

#[test]
fn a_failed_or_short_write_fails_everything_that_waits_for_good() {
    for (result, errno) in [(Err(28), 28), (Ok(4095), 5), (Ok(0), 5)] {
        let mut commit = commit_to(&EPOCH_1);
        let write = start(&mut commit, 1..=2);
        append(&mut commit, 3, 10).unwrap();
        let mut tickets = Vec::new();
        let completed = commit.complete(write.flight, result, write.bytes, &mut tickets);
        assert_eq!((completed, &tickets[..], commit.failed()), (Err(errno), &[1, 2, 3][..], Some(errno)));
        assert_eq!((readable(&mut commit), commit.durable_behind_hole(1)), (vec![], None));
        assert_eq!(append(&mut commit, 4, 10), Err(AppendError::Failed(errno)));
        commit.use_segment(&EPOCH_2);
        assert_eq!(append(&mut commit, 4, 10), Err(AppendError::Failed(errno)));
        assert!(commit.start(false).is_none() && !commit.needs_segment(10) && commit.is_idle());
    }
}

#[test]
fn what_flies_on_beside_a_failure_is_judged_by_its_own_end() {
    let mut commit = commit_to(&LARGE);
    let writes = [1, 2, 3, 4].map(|ticket| start(&mut commit, ticket..=ticket));
    let [first, second, third, fourth] = writes;
    assert_eq!(succeed(&mut commit, third), [3], "answered before the failure, and durable");
    let mut tickets = Vec::new();
    assert_eq!(commit.complete(second.flight, Err(5), second.bytes, &mut tickets), Err(5));
    assert!(tickets == [2] && commit.in_flight() && !commit.is_idle());
    assert_eq!(succeed(&mut commit, first), [1]);
    assert_eq!(readable(&mut commit), [(1, 8192, false)], "up to the hole");
    assert_eq!(commit.complete(fourth.flight, Err(28), fourth.bytes, &mut tickets), Err(28));
    assert_eq!((commit.failed(), commit.in_flight()), (Some(5), false));
    assert_eq!((readable(&mut commit), commit.durable_behind_hole(1)), (vec![], Some(16384)));
    assert_eq!(commit.durable_behind_hole(2), None);
}

#[test]
fn a_record_larger_than_a_segment_is_refused_and_changes_nothing() {
    let mut commit = commit_to(&EPOCH_1);
    assert_eq!(append(&mut commit, 1, 3 * 4096), Err(AppendError::TooLarge));
    assert!(commit.is_idle());
    append(&mut commit, 2, 3 * 4096 - 128).unwrap();
}

#[test]
fn a_large_batch_is_closed_and_the_next_stands_behind_it() {
    let mut commit = commit_to(&LARGE);
    append(&mut commit, 1, BATCH_LEN_SOFT_MAX).unwrap();
    let place = append(&mut commit, 2, 10).unwrap();
    let first = commit.start(false).unwrap();
    assert_eq!(place.offset, first.offset + first.bytes.len() as u64 + 64);
    let second = commit.start(false).unwrap();
    assert_eq!(place.offset, second.offset + 64);
    assert_eq!(succeed(&mut commit, first), [1]);
    assert_eq!(succeed(&mut commit, second), [2]);
}

#[test]
fn buffers_come_back_and_are_used_again() {
    let mut commit = commit_to(&LARGE);
    let mut pointers = Vec::new();
    for _ in 0..5 {
        let write = start(&mut commit, 1..=1);
        pointers.push(write.bytes.as_ptr());
        succeed(&mut commit, write);
        readable(&mut commit);
    }
    pointers.dedup();
    assert_eq!(pointers.len(), 1);
}

#[test]
fn a_batch_is_durable_if_anybody_waits_for_it() {
    use Promise::{BeforeReply, Never, Soon};
    for (promises, durable, soon_count) in [
        (&[Never][..], false, 0),
        (&[Soon, Soon, Never], false, 2),
        (&[Never, BeforeReply(7), Soon], true, 0),
    ] {
        let mut commit = commit_to(&LARGE);
        promises.iter().for_each(|promise| assert!(append_as(&mut commit, *promise, 10).is_ok()));
        let write = commit.start(false).unwrap();
        assert_eq!(write.durable, durable, "{promises:?}");
        assert_eq!(succeed(&mut commit, write).len(), usize::from(durable));
        assert_eq!((readable(&mut commit).len(), commit.soon_count()), (1, soon_count));
        assert_eq!((commit.is_idle(), commit.start_sync()), (soon_count == 0, (soon_count > 0).then_some(1)));
    }
}

/// What a later batch says of an earlier one that is written but not durable, until a sync has ended that began
/// behind it.
#[test]
fn only_what_is_durable_is_called_so() {
    let mut commit = commit_to(&LARGE);
    let write = |commit: &mut GroupCommit, promise| {
        append_as(commit, promise, 10).unwrap();
        let write = commit.start(false).unwrap();
        let below = committed_below(&write);
        succeed(commit, write);
        readable(commit);
        below
    };
    assert_eq!(write(&mut commit, Promise::BeforeReply(1)), 4096);
    assert_eq!(write(&mut commit, Promise::Soon), 8192);
    assert_eq!(write(&mut commit, Promise::BeforeReply(2)), 8192);
    assert_eq!((commit.start_sync(), commit.start_sync()), (Some(1), None));
    assert_eq!(write(&mut commit, Promise::Soon), 8192, "the sync is under way");
    assert_eq!(commit.soon_count(), 2);
    assert_eq!(commit.synced(1, Ok(()), &mut Vec::new()), Ok(()));
    assert_eq!((commit.soon_count(), commit.is_idle()), (1, false));
    assert_eq!(write(&mut commit, Promise::BeforeReply(3)), 4 * 4096, "what was written when the sync began");
    assert_eq!(commit.start_sync(), Some(1));
    commit.synced(1, Ok(()), &mut Vec::new()).unwrap();
    assert!(commit.is_idle());
    assert_eq!(write(&mut commit, Promise::BeforeReply(4)), 6 * 4096);
}

#[test]
fn a_failed_sync_fails_the_shard() {
    let mut commit = commit_to(&LARGE);
    append_as(&mut commit, Promise::Soon, 10).unwrap();
    let write = commit.start(false).unwrap();
    succeed(&mut commit, write);
    readable(&mut commit);
    assert_eq!(commit.start_sync(), Some(1));
    append(&mut commit, 2, 10).unwrap();
    let mut tickets = Vec::new();
    assert_eq!(commit.synced(1, Err(5), &mut tickets), Err(5));
    assert_eq!((tickets, commit.failed(), commit.start_sync()), (vec![2], Some(5), None));
    assert!(commit.start(false).is_none() && commit.is_idle());
}

#[test]
fn what_nobody_waited_for_is_counted_when_it_is_lost() {
    let mut commit = commit_to(&LARGE);
    append_as(&mut commit, Promise::Soon, 10).unwrap();
    append(&mut commit, 1, 10).unwrap();
    let write = commit.start(false).unwrap();
    append_as(&mut commit, Promise::Never, 10).unwrap();
    commit.complete(write.flight, Err(5), write.bytes, &mut Vec::new()).unwrap_err();
    assert_eq!(commit.lost_count(), 2);
}

#[test]
fn a_sealed_segment_is_remembered_until_its_sync() {
    let mut commit = commit_to(&EPOCH_1);
    append_as(&mut commit, Promise::Soon, 7000).unwrap();
    let first = commit.start(false).unwrap();
    assert_eq!(commit.use_segment(&EPOCH_2), None);
    append_as(&mut commit, Promise::Never, 7000).unwrap();
    let second = commit.start(false).unwrap();
    succeed(&mut commit, first);
    succeed(&mut commit, second);
    assert_eq!(readable(&mut commit), [(1, 12288, true), (2, 12288, false)]);
    assert!(commit.needs_sync(1) && !commit.needs_sync(2));
    assert_eq!(commit.start_sync(), Some(1));
    commit.synced(1, Ok(()), &mut Vec::new()).unwrap();
    assert!(!commit.needs_sync(1) && commit.is_idle());
    assert_eq!(commit.use_segment(&SegmentHeader { epoch: 3, ..EPOCH_1 }), Some(2));
    assert_eq!(commit.unsynced.durable_to(2), None, "forgotten with its segment");
}
