//! What a recovery finds on the disk.

use std::collections::HashMap;
use std::sync::Arc;

use ringmx::spool::recover::recover;
use ringmx::spool::segment::SegmentHeader;
use ringmx::spool::walk::{Found, Walk};
use ringmx_ring::sim::Disk;

use super::reference::{Stored, without_trace};
use super::segments::SimSegment;

/// Records by message id.
pub type Records = HashMap<String, Stored>;

/// Reads every segment back as a start of the server would.
///
/// # Panics
/// On damage where something was durable, and on an id that two records have.
pub fn records(disk: &Disk, segments: &[Arc<SimSegment>]) -> Records {
    let mut records = Records::new();
    for segment in segments {
        let image = disk.file(segment.fd);
        let header = SegmentHeader::parse(image).expect("the header was durable before the first batch");
        assert_eq!(header, segment.header);
        let extent = recover(image, &header, image.len() as u64).expect("memory is readable");
        let mut walk = Walk::new(&header);
        while let Some(found) = walk.next(image, extent.end).expect("memory is readable") {
            let record = match found {
                Found::Record(record) => record,
                Found::Damage(damage) => {
                    assert!(damage.offset >= extent.watermark, "damage in what was durable: {damage:?}");
                    continue;
                }
            };
            let id = record.meta.id.to_string();
            let trace_len = record.content.len() - without_trace(record.content).len();
            let trace = String::from_utf8_lossy(&record.content[..trace_len]).into_owned();
            assert!(trace.contains(&format!(" id {id};\r\n")), "{id} is not in its trace field: {trace}");
            let stored =
                Stored { envelope: record.envelope.to_vec(), body: record.content[trace_len..].to_vec() };
            assert_eq!(records.insert(id.clone(), stored), None, "{id} is there twice");
        }
    }
    records
}
