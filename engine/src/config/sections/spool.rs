//! `[spool]`: where mail is kept until it is delivered, and how much memory it may take before.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::reader::{Reader, Section, Text};
use super::super::value::{format_size, parse_duration, parse_size};
use super::super::{Durability, Listener, SpoolConfig};
use super::{listener, one_of};
use crate::limits::SEGMENT_SIZE_MAX;
use crate::spool::record::content_len_max;
use crate::spool::segment::{SEGMENT_SIZE_DEFAULT, segment_size_min};
use crate::store::Retention;

const SPOOL_PATH_DEFAULT: &str = "/var/spool/ringmx";
const ASYNC_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// Shorter than a few syncs it is `sync` with less of a promise; longer than a minute nobody can mean.
const ASYNC_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
/// A message in a file costs a sync of its own and the rest of a block. From here on the block is under one hundredth
/// of it, and below it batches of many messages share their sync and their blocks.
const INLINE_SIZE_DEFAULT: u64 = 256 << 10;
/// At least a block, at most what a batch holds.
const INLINE_SIZES: RangeInclusive<u64> = 4 << 10..=4 << 20;
/// With receive buffers and the program itself below 256 MiB, whatever clients send.
const MEMORY_DEFAULT: u64 = 128 << 20;
/// For one session at the least on each of many workers.
const MEMORY_MIN: u64 = 4 << 20;

/// The smallest segment in which each message fits that has no file of its own.
fn least_segment_size(inline_size: u64, largest: u64) -> u64 {
    segment_size_min(content_len_max(inline_size).min(largest)).next_multiple_of(1 << 20)
}

pub(super) fn spool(root: &Section<'_>, listeners: &[Listener]) -> SpoolConfig {
    let largest = listeners.iter().map(|listener| listener.max_message_size).max();
    let largest = largest.unwrap_or(listener::MAX_MESSAGE_SIZE_DEFAULT);
    let default_size = |inline_size| least_segment_size(inline_size, largest).max(SEGMENT_SIZE_DEFAULT);
    let Some(section) = root.section("spool") else {
        let path = PathBuf::from(SPOOL_PATH_DEFAULT);
        return SpoolConfig {
            path,
            durability: Durability::Sync,
            async_interval: ASYNC_INTERVAL_DEFAULT,
            segment_size: default_size(INLINE_SIZE_DEFAULT),
            retention: None,
            inline_size: INLINE_SIZE_DEFAULT,
            memory: MEMORY_DEFAULT,
            min_free: None,
        };
    };
    let reader = section.reader;
    let path = section.text("path").map_or_else(
        || PathBuf::from(SPOOL_PATH_DEFAULT),
        |text| {
            if text.text.is_empty() {
                reader.error_as("empty-value", text.span, "`path` is empty", "name the spool's directory");
            }
            reader.path(&text.text, text.span)
        },
    );
    let durability = section.text("durability").map_or(Durability::Sync, |text| durability(reader, &text));
    let async_interval = match section.duration("async_interval") {
        Some((interval, span)) if !ASYNC_INTERVALS.contains(&interval) => {
            let message = "`async_interval` takes 10ms to 1m: what a crash may lose of acknowledged mail";
            reader.error_as("out-of-range", span, message, "write \"1s\"");
            ASYNC_INTERVAL_DEFAULT
        }
        Some((interval, _)) => interval,
        None => ASYNC_INTERVAL_DEFAULT,
    };
    let size = |key, range| section.size(key, range).map(|(size, _)| size);
    let inline_size = size("inline_size", INLINE_SIZES).unwrap_or(INLINE_SIZE_DEFAULT);
    let memory = size("memory", MEMORY_MIN..=u64::MAX).unwrap_or(MEMORY_DEFAULT);
    let min_free = size("min_free", 0..=u64::MAX);
    let least = least_segment_size(inline_size, largest);
    let segment_size = match section.size("segment_size", 0..=SEGMENT_SIZE_MAX) {
        Some((size, span)) if size < least => {
            let (size, inline) = (format_size(size), format_size(inline_size));
            let message = format!(
                "`segment_size` of {size} cannot hold a message of `inline_size`, {inline}, and its envelope"
            );
            let help = format!("write \"{}\" or more, or lower inline_size", format_size(least));
            reader.error_as("segment-too-small", span, message, help);
            default_size(inline_size)
        }
        Some((size, _)) => size,
        None => default_size(inline_size),
    };
    let retention = section.text("retain").and_then(|text| retention(reader, &text));
    section.finish();
    SpoolConfig { path, durability, async_interval, segment_size, retention, inline_size, memory, min_free }
}

/// A time or a size.
fn retention(reader: &Reader, text: &Text) -> Option<Retention> {
    match (parse_duration(&text.text), parse_size(&text.text)) {
        (Ok(time), _) => Some(Retention::Time(time)),
        // A number without a unit is a size elsewhere; here it could be meant as a time.
        (_, Ok(octets)) if text.text.ends_with(|last: char| last.is_ascii_alphabetic()) => {
            Some(Retention::Octets(octets))
        }
        _ => {
            let message =
                format!("`retain` takes a time or a size, and \"{}\" is neither", text.text.escape_debug());
            reader.error_as(
                "neither-time-nor-size",
                text.span,
                message,
                r#"write numbers and their units, such as "1h" or "10GiB""#,
            );
            None
        }
    }
}

pub(super) fn durability(reader: &Reader, text: &Text) -> Durability {
    match text.text.as_str() {
        "sync" => return Durability::Sync,
        "async" => return Durability::Async,
        "none" => return Durability::None,
        _ => one_of(reader, "durability", text, &["sync", "async", "none"]),
    }
    Durability::Sync
}
