//! `[spool]`: where mail is kept until it is delivered.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::reader::{Reader, Section, Text};
use super::super::value::{format_size, parse_duration, parse_size};
use super::super::{Durability, Listener, SpoolConfig};
use super::{listener, one_of};
use crate::spool::segment::{SEGMENT_SIZE_DEFAULT, SEGMENT_SIZE_MAX, segment_size_min};
use crate::store::Retention;

const SPOOL_PATH_DEFAULT: &str = "/var/spool/ringmx";
const ASYNC_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// Shorter than a few syncs it is `sync` with less of a promise; longer than a minute nobody can mean.
const ASYNC_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

pub(super) fn spool(root: &Section<'_>, listeners: &[Listener]) -> SpoolConfig {
    let largest = listeners.iter().map(|listener| listener.max_message_size).max();
    let largest = largest.unwrap_or(listener::MAX_MESSAGE_SIZE_DEFAULT);
    let least = segment_size_min(largest).next_multiple_of(1 << 20);
    let default_size = least.max(SEGMENT_SIZE_DEFAULT);
    let Some(section) = root.section("spool") else {
        let path = PathBuf::from(SPOOL_PATH_DEFAULT);
        let (durability, async_interval) = (Durability::Sync, ASYNC_INTERVAL_DEFAULT);
        return SpoolConfig { path, durability, async_interval, segment_size: default_size, retention: None };
    };
    let reader = section.reader;
    let path = section.text("path").map_or_else(
        || PathBuf::from(SPOOL_PATH_DEFAULT),
        |text| {
            if text.text.is_empty() {
                reader.error(text.span, "`path` is empty", "name the spool's directory");
            }
            reader.path(&text.text, text.span)
        },
    );
    let durability = section.text("durability").map_or(Durability::Sync, |text| durability(reader, &text));
    let async_interval = match section.duration("async_interval") {
        Some((interval, span)) if !ASYNC_INTERVALS.contains(&interval) => {
            let message = "`async_interval` takes 10ms to 1m: what a crash may lose of acknowledged mail";
            reader.error(span, message, "write \"1s\"");
            ASYNC_INTERVAL_DEFAULT
        }
        Some((interval, _)) => interval,
        None => ASYNC_INTERVAL_DEFAULT,
    };
    let segment_size = match section.size("segment_size", 0..=SEGMENT_SIZE_MAX) {
        Some((size, span)) if size < least => {
            let (size, largest) = (format_size(size), format_size(largest));
            let message =
                format!("`segment_size` of {size} cannot hold a message of {largest} and its envelope");
            let help = format!("write \"{}\" or more, or lower max_message_size", format_size(least));
            reader.error(span, message, help);
            default_size
        }
        Some((size, _)) => size,
        None => default_size,
    };
    let retention = section.text("retain").and_then(|text| retention(reader, &text));
    section.finish();
    SpoolConfig { path, durability, async_interval, segment_size, retention }
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
            reader.error(text.span, message, r#"write numbers and their units, such as "1h" or "10GiB""#);
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
