//! Where log lines go and how they look: stderr, for people or as JSON, one line each, the time in UTC.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write};
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::config::{Log, LogFormat};
use crate::limits::LOG_BATCH_LEN_MAX;

thread_local! {
    /// The time of the event that is being formatted, where that is not now.
    static EVENT_AT: Cell<Option<Duration>> = const { Cell::new(None) };
    static BATCH: RefCell<Batch> = const { RefCell::new(Batch { lines: Vec::new(), is_open: false }) };
    /// Taken by the event that is being formatted: one inside of it finds another.
    static LINE: Cell<Line> = Cell::default();
}

/// Sends all log lines of the process to stderr. To be called once; a second call changes nothing.
pub fn install(log: Log) {
    // https://no-color.org
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = log.format == LogFormat::Human && io::stderr().is_terminal() && !no_color;
    let _ = tracing::subscriber::set_global_default(subscriber(log, colour, to_stderr));
}

/// The lines of `log` into `output`, one in a call.
pub fn subscriber(
    log: Log,
    colour: bool,
    output: impl Fn(&[u8]) + Send + Sync + 'static,
) -> impl Subscriber + Send + Sync {
    let level = log.level.name().parse().expect("levels have their names of tracing");
    Lines { level, format: log.format, colour, output }
}

/// Makes each event a line. The subscribers of `tracing-subscriber` do so at twice the cost and more: they carry spans,
/// filters by directive and any format, where there are no spans, one level and two formats.
struct Lines<F> {
    level: LevelFilter,
    format: LogFormat,
    /// Of the level, for people.
    colour: bool,
    output: F,
}

impl<F: Fn(&[u8]) + 'static> Subscriber for Lines<F> {
    /// The level is ours; libraries are heard from `warn` on.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = metadata.target().starts_with("ringmx");
        let level = if is_ours { self.level } else { self.level.min(LevelFilter::WARN) };
        metadata.is_event() && *metadata.level() <= level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = LINE.take();
        line.text.clear();
        match self.format {
            LogFormat::Human => line.write_human(event, self.colour),
            LogFormat::Json => line.write_json(event),
        }
        (self.output)(&line.text);
        LINE.set(line);
    }

    /// Spans are not enabled: nobody comes here, nor to what follows.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Runs `log`; its lines carry the time `unix` since 1970.
pub(crate) fn at(unix: Duration, log: impl FnOnce()) {
    EVENT_AT.set(Some(unix));
    log();
    EVENT_AT.set(None);
}

/// Runs `log`; its lines are written together at its end: one system call for many lines. Lines of other threads may
/// come between them, but not into them.
pub(crate) fn batched(log: impl FnOnce()) {
    BATCH.with_borrow_mut(|batch| batch.is_open = true);
    log();
    BATCH.with_borrow_mut(|batch| {
        batch.is_open = false;
        batch.write(&mut io::stderr());
    });
}

#[derive(Debug)]
struct Batch {
    lines: Vec<u8>,
    is_open: bool,
}

impl Batch {
    fn add(&mut self, line: &[u8], output: &mut impl Write) {
        if self.lines.len() + line.len() > LOG_BATCH_LEN_MAX {
            self.write(output);
        }
        self.lines.extend_from_slice(line);
    }

    fn write(&mut self, output: &mut impl Write) {
        if !self.lines.is_empty() {
            // There is nowhere to tell that the log cannot be written.
            let _ = output.write_all(&self.lines);
            self.lines.clear();
        }
    }
}

/// What a thread keeps of a line for its next one.
#[derive(Debug, Default)]
struct Line {
    text: Vec<u8>,
    /// Since 1970: the one of `time`.
    second: Option<u64>,
    /// As `2026-02-03T04:05:06.000000Z`. The date is another one only once a second.
    time: [u8; 27],
}

impl Line {
    /// `TIME LEVEL message name=value name="text"`. Nothing in it moves a terminal's cursor, and a message alone may
    /// begin another line.
    fn write_human(&mut self, event: &Event<'_>, colour: bool) {
        self.write_time();
        let (level, code) = shown(*event.metadata().level());
        self.text.push(b' ');
        if colour {
            self.text.extend_from_slice(&[b"\x1b[", code, b"m", level, b"\x1b[0m"].concat());
        } else {
            self.text.extend_from_slice(level);
        }
        let start = self.text.len();
        let mut fields = HumanFields { text: &mut self.text, message: 0..0 };
        event.record(&mut fields);
        let message = fields.message;
        // Control characters beyond ASCII begin with the latter octet in UTF-8, as harmless ones do. Without an end at
        // the first one this is done by many octets at a time.
        let may_control = |octet: u8| octet.is_ascii_control() | (octet == 0xc2);
        if self.text[start..].iter().fold(false, |found, &octet| found | may_control(octet)) {
            escape(&mut self.text, start, &message);
        }
        self.text.push(b'\n');
    }

    /// `{"timestamp":TIME,"level":LEVEL,"message":"...","name":value}`.
    fn write_json(&mut self, event: &Event<'_>) {
        self.text.extend_from_slice(b"{\"timestamp\":\"");
        self.write_time();
        self.text.extend_from_slice(b"\",\"level\":\"");
        self.text.extend_from_slice(event.metadata().level().as_str().as_bytes());
        self.text.push(b'"');
        event.record(&mut JsonFields { text: &mut self.text });
        self.text.extend_from_slice(b"}\n");
    }

    /// RFC 3339 in UTC, microseconds.
    fn write_time(&mut self) {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix = EVENT_AT.get().unwrap_or_else(now);
        if self.second != Some(unix.as_secs()) {
            self.second = Some(unix.as_secs());
            let timestamp =
                i64::try_from(unix.as_secs()).ok().and_then(|it| jiff::Timestamp::from_second(it).ok());
            let time = format!("{:.6}", timestamp.unwrap_or_default());
            self.time = time.as_bytes().try_into().expect("the calendar ends before the year 10000");
        }
        // A seventh digit in front keeps the others in their places.
        let micros = 1_000_000 + unix.subsec_micros();
        self.time[20..26].copy_from_slice(&itoa::Buffer::new().format(micros).as_bytes()[1..]);
        self.text.extend_from_slice(&self.time);
    }
}

/// The name, as wide as the longest, and the colour as a parameter of SGR (ECMA-48 §8.3.117).
fn shown(level: Level) -> (&'static [u8; 5], &'static [u8]) {
    match level {
        Level::ERROR => (b"ERROR", b"31"),
        Level::WARN => (b" WARN", b"33"),
        Level::INFO => (b" INFO", b"32"),
        Level::DEBUG => (b"DEBUG", b"34"),
        Level::TRACE => (b"TRACE", b"35"),
    }
}

/// Escapes the control characters from `start` on; `message` keeps its ends of lines: one of ours has a line for each
/// finding.
fn escape(line: &mut Vec<u8>, start: usize, message: &Range<usize>) {
    let text = line.split_off(start);
    for (index, char) in String::from_utf8_lossy(&text).char_indices() {
        match char {
            '\n' if message.contains(&(start + index)) => line.push(b'\n'),
            char if char.is_control() => line.extend(char.escape_default().map(|char| char as u8)),
            char => line.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The message and what belongs to it, in order. Numbers and texts, which most are, go without `fmt`.
struct HumanFields<'a> {
    text: &'a mut Vec<u8>,
    /// Where in `text` it stands.
    message: Range<usize>,
}

impl HumanFields<'_> {
    fn begin(&mut self, field: &Field) {
        self.text.push(b' ');
        if field.name() != "message" {
            self.text.extend_from_slice(field.name().as_bytes());
            self.text.push(b'=');
        }
    }
}

impl Visit for HumanFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.begin(field);
        let start = self.text.len();
        // Memory takes all of it: what cannot be shown ends where it fails.
        let _ = write!(self, "{value:?}");
        if field.name() == "message" {
            self.message = start..self.text.len();
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.begin(field);
        self.text.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.begin(field);
        self.text.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = |octet: u8| matches!(octet, b' '..=b'~') && octet != b'"' && octet != b'\\';
        if !value.bytes().all(is_plain) {
            return self.record_debug(field, &value);
        }
        self.begin(field);
        self.text.push(b'"');
        self.text.extend_from_slice(value.as_bytes());
        self.text.push(b'"');
    }
}

impl fmt::Write for HumanFields<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// The same as members of an object.
struct JsonFields<'a> {
    text: &'a mut Vec<u8>,
}

impl JsonFields<'_> {
    fn add(&mut self, field: &Field, value: impl Serialize) {
        self.text.push(b',');
        // Memory takes all of it, and what is written here has no type that JSON has not.
        let _ = serde_json::to_writer(&mut *self.text, field.name());
        self.text.push(b':');
        let _ = serde_json::to_writer(&mut *self.text, &value);
    }
}

impl Visit for JsonFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }
}

/// Into the process's stderr, or this thread's open batch.
fn to_stderr(line: &[u8]) {
    BATCH.with_borrow_mut(|batch| {
        if batch.is_open {
            batch.add(line, &mut io::stderr());
        } else {
            // There is nowhere to tell that the log cannot be written.
            let _ = io::stderr().write_all(line);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::LogLevel;
    use crate::id::{MessageId, SessionId};

    #[test]
    fn what_is_written_stays_in_its_line() {
        for (text, expected) in [
            ("plain é ¡ 漢", "plain é ¡ 漢"),
            ("two\r\nlines\t", "two\\r\\nlines\\t"),
            ("\x1b[2J\x07\x7f", "\\u{1b}[2J\\u{7}\\u{7f}"),
            ("\u{9b}2J\0", "\\u{9b}2J\\u{0}"),
        ] {
            let escaped = |message: Range<usize>| {
                let mut line = format!("\x1b[m{text}").into_bytes();
                escape(&mut line, 3, &message);
                String::from_utf8(line).unwrap().split_off(3)
            };
            assert_eq!(escaped(0..0), expected);
            assert_eq!(escaped(3..3 + text.len()), expected.replace("\\n", "\n"));
        }
    }

    /// What becomes of events that a program may have, at `level`.
    fn written(format: LogFormat, level: LogLevel, colour: bool) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let output = Arc::clone(&lines);
        let output = move |line: &[u8]| output.lock().unwrap().extend_from_slice(line);
        let subscriber = subscriber(Log { format, level }, colour, output);
        tracing::subscriber::with_default(subscriber, || {
            at(Duration::from_micros(1_763_780_000_000_001), events);
            at(Duration::from_micros(1_763_780_000_999_999), || tracing::debug!("of the same second"));
            at(Duration::from_micros(1_763_780_001_000_000), || tracing::trace!("of the next"));
            at(Duration::ZERO, || tracing::info!("long ago"));
        });
        String::from_utf8(lines.lock().unwrap().clone()).unwrap()
    }

    fn events() {
        let id = MessageId { session: SessionId(451_527_680_000_000_256), transaction: 4_294_967_295 };
        let (octets, age, exact) = (u64::MAX, i64::MIN, 1.5);
        let (client, nobody): (SocketAddr, Option<u64>) = ("[2001:db8::1]:25".parse().unwrap(), None);
        tracing::info!(%id, %client, nobody, some = Some("text"), "a line");
        tracing::warn!(octets, age, "integers");
        tracing::warn!(exact, whole = 2.0, flag = true, "numbers");
        tracing::info!(wide = 1_u128, kind = ?Some("a \"b\""), "by Debug");
        tracing::error!(error = %io::Error::from_raw_os_error(5), "of {}: \t{}", "two\nlines", "\x1b[2J\u{9b}é");
        let error = io::Error::other("one\r\ntwo");
        tracing::warn!(error = &error as &dyn std::error::Error, bytes = &b"\x00\xff"[..], "");
        tracing::info!(text = "two\nlines \"'\\ é ¡ \u{9b}\u{7f}", shown = %"two\nlines \"'\\ é ¡ \u{9b}", "a\nb");
        tracing::info!(name.with.dots = "", "odd name" = 1, message = "as a text\n");
        tracing::info!(only = 1_u8);
        tracing::info!(target: "library", "not heard");
        tracing::warn!(target: "library", "heard");
        let span = tracing::error_span!("span", of = 1);
        let _entered = span.enter();
        tracing::info!("in a span");
    }

    #[test]
    fn lines_for_people() {
        let first = "2025-11-22T02:53:20.000001Z";
        let expected = [
            r#"  INFO a line id=0CH1611EAG080-4294967295 client=[2001:db8::1]:25 some="text""#,
            r#"  WARN integers octets=18446744073709551615 age=-9223372036854775808"#,
            r#"  WARN numbers exact=1.5 whole=2.0 flag=true"#,
            r#"  INFO by Debug wide=1 kind=Some("a \"b\"")"#,
            " ERROR of two\nlines: \\t\\u{1b}[2J\\u{9b}é error=Input/output error (os error 5)",
            r"  WARN  error=one\r\ntwo bytes=[00 ff]",
            "  INFO a\nb text=\"two\\nlines \\\"'\\\\ é ¡ \\u{9b}\\u{7f}\" shown=two\\nlines \"'\\ é ¡ \\u{9b}",
            r#"  INFO name.with.dots="" odd name=1 "as a text\n""#,
            "  INFO only=1",
            "  WARN heard",
            "  INFO in a span",
        ];
        let text = written(LogFormat::Human, LogLevel::Trace, false);
        assert_eq!(
            text,
            expected.map(|line| format!("{first}{line}\n")).concat()
                + "2025-11-22T02:53:20.999999Z DEBUG of the same second\n\
                   2025-11-22T02:53:21.000000Z TRACE of the next\n\
                   1970-01-01T00:00:00.000000Z  INFO long ago\n"
        );
    }

    #[test]
    fn lines_for_programs() {
        let first = r#"{"timestamp":"2025-11-22T02:53:20.000001Z","level":"#;
        let expected = [
            r#""INFO","message":"a line","id":"0CH1611EAG080-4294967295","client":"[2001:db8::1]:25","some":"text"}"#,
            r#""WARN","message":"integers","octets":18446744073709551615,"age":-9223372036854775808}"#,
            r#""WARN","message":"numbers","exact":1.5,"whole":2.0,"flag":true}"#,
            r#""INFO","message":"by Debug","wide":"1","kind":"Some(\"a \\\"b\\\"\")"}"#,
            r#""ERROR","message":"of two\nlines: \t\u001b[2JCSIé","error":"Input/output error (os error 5)"}"#,
            r#""WARN","message":"","error":"one\r\ntwo","bytes":"[00 ff]"}"#,
            r#""INFO","message":"a\nb","text":"two\nlines \"'\\ é ¡ CSIDEL","shown":"two\nlines \"'\\ é ¡ CSI"}"#,
            r#""INFO","name.with.dots":"","odd name":1,"message":"as a text\n"}"#,
            r#""INFO","only":1}"#,
            r#""WARN","message":"heard"}"#,
            r#""INFO","message":"in a span"}"#,
        ];
        let expected = expected.map(|line| line.replace("CSI", "\u{9b}").replace("DEL", "\u{7f}"));
        let text = written(LogFormat::Json, LogLevel::Info, false);
        assert_eq!(
            text,
            expected.map(|line| format!("{first}{line}\n")).concat()
                + "{\"timestamp\":\"1970-01-01T00:00:00.000000Z\",\"level\":\"INFO\",\"message\":\"long ago\"}\n"
        );
    }

    #[test]
    fn a_level_has_its_colour() {
        let text = written(LogFormat::Human, LogLevel::Trace, true);
        for (level, colour) in [("ERROR", 31), (" WARN", 33), (" INFO", 32), ("DEBUG", 34), ("TRACE", 35)] {
            assert!(text.contains(&format!("Z \x1b[{colour}m{level}\x1b[0m ")), "{text}");
        }
    }

    #[test]
    fn libraries_are_heard_less() {
        for (level, target_of_last) in [(LogLevel::Warn, "heard"), (LogLevel::Error, "of two")] {
            let text = written(LogFormat::Json, level, false);
            assert!(text.lines().last().unwrap().contains(target_of_last), "{text}");
        }
    }

    #[test]
    fn a_batch_is_written_before_it_is_too_long() {
        let (mut batch, mut output) = (Batch { lines: Vec::new(), is_open: true }, Vec::new());
        let line = vec![b'x'; LOG_BATCH_LEN_MAX / 4 + 1];
        for (held, written) in [(1, 0), (2, 0), (3, 0), (1, 3)] {
            batch.add(&line, &mut output);
            assert_eq!((batch.lines.len(), output.len()), (held * line.len(), written * line.len()));
        }
    }
}
