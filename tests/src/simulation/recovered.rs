//! What a recovery finds on the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ringmx::spool::recover::recover;
use ringmx::spool::segment::SegmentHeader;
use ringmx::spool::walk::{Found, Walk};
use ringmx_ring::sim::{Disk, Simulation};

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
        collect(&header, image, extent.end, extent.watermark, &mut records);
    }
    records
}

/// Reads every segment as egress does, as far as it is published.
///
/// # Panics
/// On damage, but in a segment of which a write failed; and on an id that two records have.
pub fn published(simulation: &Simulation, segments: &[Arc<SimSegment>]) -> Records {
    let mut records = Records::new();
    for segment in segments {
        let end = segment.published.load(Ordering::Relaxed);
        let watermark = if segment.failed.load(Ordering::Relaxed) { 0 } else { end };
        collect(&segment.header, &simulation.content(segment.fd), end, watermark, &mut records);
    }
    records
}

/// Adds the records below `end`; below `watermark` there is no damage.
fn collect(header: &SegmentHeader, image: &[u8], end: u64, watermark: u64, records: &mut Records) {
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
        let trace_len = record.content.len() - without_trace(record.content).len();
        let trace = String::from_utf8_lossy(&record.content[..trace_len]).into_owned();
        assert!(trace.contains(&format!(" id {id};\r\n")), "{id} is not in its trace field: {trace}");
        let stored =
            Stored { envelope: record.envelope.to_vec(), body: record.content[trace_len..].to_vec() };
        assert_eq!(records.insert(id.clone(), stored), None, "{id} is there twice");
    }
}
