//! A batch of records from memory to the bytes of its write, beside copying and checksumming alone.

use std::hint::black_box;

use bench::content;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringmx::id::{MessageId, SessionId};
use ringmx::spool::FORMAT_VERSION;
use ringmx::spool::commit::{GroupCommit, Promise};
use ringmx::spool::record::RecordMeta;
use ringmx::spool::segment::{Role, SegmentHeader};

const RECORDS_COUNT: u32 = 50;

fn commit(c: &mut Criterion) {
    let content = content(4 << 10);
    let envelope = [7; 80];
    let mut group = c.benchmark_group("commit");
    group.throughput(Throughput::Elements(u64::from(RECORDS_COUNT)));
    group.bench_function("50 records of 4 KiB", |b| {
        let mut commit = GroupCommit::new();
        let (mut tickets, mut epoch) = (Vec::new(), 0);
        b.iter(|| {
            epoch += 1;
            commit.use_segment(&SegmentHeader {
                version: FORMAT_VERSION,
                role: Role::Intake,
                shard: 0,
                number: 1,
                epoch,
                key: 1,
                capacity: 64 << 20,
            });
            for transaction in 1..=RECORDS_COUNT {
                let id = MessageId { session: SessionId(1), transaction };
                let meta = RecordMeta { id, ..RecordMeta::default() };
                commit
                    .append(
                        Promise::BeforeReply(u64::from(transaction)),
                        &meta,
                        &envelope,
                        &[black_box(&content)],
                    )
                    .expect("room");
            }
            let write = commit.start(false).expect("records wait");
            let len = write.bytes.len();
            tickets.clear();
            black_box(commit.complete(write.flight, Ok(len), write.bytes, &mut tickets))
                .expect("a whole write");
            let written = commit.readable().expect("nothing before it");
            commit.give_back(written.bytes);
        });
    });
    group.bench_function("floor: memcpy", |b| {
        let mut out = Vec::with_capacity(content.len() * RECORDS_COUNT as usize);
        b.iter(|| {
            out.clear();
            (0..RECORDS_COUNT).for_each(|_| out.extend_from_slice(black_box(&content)));
            black_box(out.len())
        });
    });
    group.bench_function("floor: crc32c", |b| {
        b.iter(|| (0..RECORDS_COUNT).fold(0, |sum, _| sum ^ crc32c::crc32c(black_box(&content))));
    });
    group.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);
