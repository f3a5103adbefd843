//! What a recovery finds on the disk.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use ringmx::spool::content_ref::ContentRef;
use ringmx::spool::record::RecordKind;
use ringmx::spool::recover::recover;
use ringmx::spool::segment::SegmentHeader;
use ringmx::spool::walk::{Found, Walk};
use ringmx_ring::Fd;
use ringmx_ring::sim::{Disk, Simulation};

use super::reference::{Stored, without_trace};
use super::segments::SegmentKeeper;

/// Records by message id.
pub type Records = HashMap<String, Stored>;

/// Reads every segment back as a start of the server would.
///
/// # Panics
/// On damage where something was durable, and on an id that two records have.
pub fn records(disk: &Disk, keeper: &SegmentKeeper) -> Records {
    let mut records = Records::new();
    for segment in keeper.all() {
        let image = disk.file(segment.fd);
        let header = SegmentHeader::parse(image).expect("the header was durable before the first batch");
        assert_eq!(header, segment.header);
        let extent = recover(image, &header, image.len() as u64).expect("memory is readable");
        let files = |fd| disk.file(fd).to_vec();
        collect((&header, image), extent.end, extent.watermark, (keeper, &files), &mut records);
    }
    records
}

/// Reads every segment as egress does, as far as it is published.
///
/// # Panics
/// On damage, but in a segment of which a write failed; and on an id that two records have.
pub fn published(simulation: &Simulation, keeper: &SegmentKeeper) -> Records {
    let mut records = Records::new();
    for segment in keeper.all() {
        let end = segment.published.load(Ordering::Relaxed);
        let watermark = if segment.failed.load(Ordering::Relaxed) { 0 } else { end };
        let files = |fd| simulation.content(fd);
        let image = simulation.content(segment.fd);
        collect((&segment.header, &image), end, watermark, (keeper, &files), &mut records);
    }
    records
}

/// Adds the records below `end`; below `watermark` there is no damage. Content in files is read by `files`.
fn collect(
    (header, image): (&SegmentHeader, &[u8]),
    end: u64,
    watermark: u64,
    (keeper, files): (&SegmentKeeper, &dyn Fn(Fd) -> Vec<u8>),
    records: &mut Records,
) {
    let mut walk = Walk::new(header);
    while let Some(found) = walk.next(image, end).expect("memory is readable") {
        let record = match found {
            Found::Record(record) => record,
            Found::Damage(damage) => {
                assert!(damage.offset >= watermark, "damage in what was durable: {damage:?}");
                continue;
            }
        };
        let id = record.meta.id.to_string();
        let content = match record.meta.kind {
            RecordKind::File => {
                let named = ContentRef::parse(record.content).expect("the name of a file");
                let all = keeper.files();
                let file = all.iter().find(|file| file.number == named.number).expect("a file there was");
                let mut content = files(file.fd);
                content.truncate(named.len as usize);
                assert_eq!(
                    crc32c::crc32c(&content),
                    named.crc,
                    "{id}: the content is not what the record says"
                );
                content
            }
            _ => record.content.to_vec(),
        };
        let trace_len = content.len() - without_trace(&content).len();
        let trace = String::from_utf8_lossy(&content[..trace_len]).into_owned();
        let is_named = [";\r\n", "\r\n\ttls "].iter().any(|end| trace.contains(&format!(" id {id}{end}")));
        assert!(is_named, "{id} is not in its trace field: {trace}");
        let stored = Stored { envelope: record.envelope.to_vec(), body: content[trace_len..].to_vec() };
        assert_eq!(records.insert(id.clone(), stored), None, "{id} is there twice");
    }
}
