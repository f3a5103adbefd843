//! Where log lines go and how they look: stderr, for people or as JSON, one line each, the time in UTC.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{Log, LogFormat, LogLevel};
use crate::limits::LOG_BATCH_LEN_MAX;

thread_local! {
    /// The time of the event that is being formatted, where that is not now.
    static EVENT_AT: Cell<Option<Duration>> = const { Cell::new(None) };
    static BATCH: RefCell<Batch> = const { RefCell::new(Batch { lines: Vec::new(), is_open: false }) };
}

/// Sends all log lines of the process to stderr. To be called once; a second call changes nothing.
pub fn install(log: Log) {
    // https://no-color.org
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = log.format == LogFormat::Human && io::stderr().is_terminal() && !no_color;
    let _ = tracing::subscriber::set_global_default(subscriber(log, colour, Stderr));
}

/// The lines of `log` into `output`.
pub fn subscriber<W>(log: Log, colour: bool, output: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter(log.level)).with_writer(output);
    match log.format {
        LogFormat::Human => Box::new(builder.event_format(HumanLine { colour }).finish()),
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
            Box::new(builder.with_timer(EventTime).with_target(false).finish())
        }
    }
}

/// The level is ours; libraries are heard from `warn` on.
fn filter(level: LogLevel) -> EnvFilter {
    let libraries = if level == LogLevel::Error { "error" } else { "warn" };
    EnvFilter::new(format!("{libraries},ringmx={}", level.name()))
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

/// `TIME LEVEL message name=value name="text"`, for people. The crate's own format escapes character by character,
/// where nearly nothing is to be escaped; there is a line for each message.
#[derive(Clone, Copy, Debug)]
struct HumanLine {
    /// Of the level.
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for HumanLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        EventTime.format_time(&mut writer)?;
        let level = *event.metadata().level();
        if self.colour {
            write!(writer, " \x1b[{}m{level:>5}\x1b[0m", colour_of(level))?;
        } else {
            write!(writer, " {level:>5}")?;
        }
        let mut fields = Fields { output: Escaped { output: writer, has_lines: false }, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        fields.output.output.write_char('\n')
    }
}

/// As a parameter of SGR (ECMA-48 §8.3.117).
fn colour_of(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}

/// The message and what belongs to it, in order.
struct Fields<W> {
    output: Escaped<W>,
    result: fmt::Result,
}

impl<W: fmt::Write> Fields<W> {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_ok() {
            self.output.has_lines = field.name() == "message";
            self.result = match field.name() {
                "message" => write!(self.output, " {value}"),
                name => write!(self.output, " {name}={value}"),
            };
        }
    }
}

impl<W: fmt::Write> Visit for Fields<W> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

/// Nothing that is written through it moves a terminal's cursor, or begins another line.
struct Escaped<W> {
    output: W,
    /// It may begin lines: a message of ours has one for each finding.
    has_lines: bool,
}

impl<W: fmt::Write> fmt::Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Control characters beyond ASCII begin with this octet in UTF-8, as harmless ones do.
        let may_control = |octet: u8| octet.is_ascii_control() || octet == 0xc2;
        if !text.bytes().any(may_control) {
            return self.output.write_str(text);
        }
        text.chars().try_for_each(|char| match char {
            '\n' if self.has_lines => self.output.write_char('\n'),
            char if char.is_control() => write!(self.output, "{}", char.escape_default()),
            char => self.output.write_char(char),
        })
    }
}

/// Writes RFC 3339 in UTC, microseconds.
#[derive(Clone, Copy, Debug)]
struct EventTime;

impl FormatTime for EventTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = EVENT_AT.get().unwrap_or_else(now).as_micros();
        let timestamp = i64::try_from(micros).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
        write!(writer, "{:.6}", timestamp.unwrap_or_default())
    }
}

/// The process's stderr, or this thread's open batch. Each line arrives in one call.
#[derive(Clone, Copy, Debug)]
struct Stderr;

impl MakeWriter<'_> for Stderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        BATCH.with_borrow_mut(|batch| {
            if !batch.is_open {
                return io::stderr().write(line);
            }
            batch.add(line, &mut io::stderr());
            Ok(line.len())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::id::{MessageId, SessionId};

    #[test]
    fn what_is_written_stays_in_its_line() {
        for (text, expected) in [
            ("plain é ¡ 漢", "plain é ¡ 漢"),
            ("two\r\nlines\t", "two\\r\\nlines\\t"),
            ("\x1b[2J\x07\x7f", "\\u{1b}[2J\\u{7}\\u{7f}"),
            ("\u{9b}2J\0", "\\u{9b}2J\\u{0}"),
        ] {
            let mut escaped = Escaped { output: String::new(), has_lines: false };
            escaped.write_str(text).unwrap();
            assert_eq!(escaped.output, expected);
            let mut escaped = Escaped { output: String::new(), has_lines: true };
            escaped.write_str(text).unwrap();
            assert_eq!(escaped.output, expected.replace("\\n", "\n"));
        }
    }

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What becomes of events that a program may have, at `level`.
    fn written(format: LogFormat, level: LogLevel, colour: bool) -> String {
        let captured = Captured::default();
        let output = captured.clone();
        let subscriber = subscriber(Log { format, level }, colour, move || output.clone());
        tracing::subscriber::with_default(subscriber, || {
            at(Duration::from_micros(1_763_780_000_000_001), events);
            at(Duration::from_micros(1_763_780_000_999_999), || tracing::debug!("of the same second"));
            at(Duration::from_micros(1_763_780_001_000_000), || tracing::trace!("of the next"));
            at(Duration::ZERO, || tracing::info!("long ago"));
        });
        let captured = captured.0.lock().unwrap();
        String::from_utf8(captured.clone()).unwrap()
    }

    fn events() {
        let id = MessageId { session: SessionId(451_527_680_000_000_256), transaction: 4_294_967_295 };
        let (octets, age, exact) = (u64::MAX, i64::MIN, 1.5);
        let (client, nobody): (SocketAddr, Option<u64>) = ("[2001:db8::1]:25".parse().unwrap(), None);
        tracing::info!(%id, %client, nobody, some = Some("text"), "a line");
        tracing::warn!(octets, age, exact, whole = 2.0, flag = true, "numbers");
        tracing::info!(wide = u128::MAX, kind = ?Some("a \"b\""), "by Debug");
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
            r#"  WARN numbers octets=18446744073709551615 age=-9223372036854775808 exact=1.5 whole=2.0 flag=true"#,
            r#"  INFO by Debug wide=340282366920938463463374607431768211455 kind=Some("a \"b\"")"#,
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
            r#""WARN","message":"numbers","octets":18446744073709551615,"age":-9223372036854775808,"exact":1.5,"whole":2.0,"flag":true}"#,
            r#""INFO","message":"by Debug","wide":"340282366920938463463374607431768211455","kind":"Some(\"a \\\"b\\\"\")"}"#,
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
