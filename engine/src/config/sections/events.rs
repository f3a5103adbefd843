//! `[events]`: where what happens to messages is told.

use std::ops::RangeInclusive;

use crate::config::EventsConfig;
use crate::config::reader::Section;

const MAX_SIZE_DEFAULT: u64 = 100 << 20;
/// From some lines on; at most what one still likes to search.
const MAX_SIZES: RangeInclusive<u64> = 4 << 10..=1 << 40;
const KEEP_DEFAULT: usize = 5;
/// Each is renamed when the newest is full, and opened by who searches them.
const KEEP: RangeInclusive<usize> = 0..=100;

/// None where there is no such section, or it does not say where.
pub(super) fn events(root: &Section<'_>) -> Option<EventsConfig> {
    let section = root.section("events")?;
    let reader = section.reader;
    if section.entry("path").is_none() {
        let help = "write path = \"/var/log/ringmx/events.jsonl\"";
        reader.error_as("missing-key", section.span(), "[events] has no `path`", help);
    }
    let path = section.text("path").and_then(|text| {
        if text.text.is_empty() {
            reader.error_as("empty-value", text.span, "`path` is empty", "name the file of the events");
            return None;
        }
        Some(reader.path(&text.text, text.span))
    });
    let keep = section.number("keep", KEEP).unwrap_or(KEEP_DEFAULT);
    let (max_size, addresses) = (section.size("max_size", MAX_SIZES), section.boolean("addresses"));
    section.finish();
    Some(EventsConfig {
        path: path?,
        max_size: max_size.map_or(MAX_SIZE_DEFAULT, |(size, _)| size),
        keep: u32::try_from(keep).unwrap_or(u32::MAX),
        addresses: addresses.unwrap_or(false),
    })
}
