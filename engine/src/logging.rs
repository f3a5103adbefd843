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
    use super::*;

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
