//! `ringmx spool show`: all that is known of one message, in the spool and in the events stream.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::ops::ControlFlow;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::show::envelope_json;
use super::{Common, Failure, visit};
use crate::config::EventsConfig;
use crate::egress::open_for_reading;
use crate::id::MessageId;
use crate::limits::EVENT_LEN_MAX;
use crate::store::StoreError;

/// What is shown of an envelope, in this order.
const KEYS: [&str; 23] = [
    "id",
    "state",
    "received",
    "octets",
    "reverse_path",
    "recipients",
    "failed",
    "attempts",
    "tried_since",
    "next_attempt",
    "last_error",
    "listener",
    "client",
    "client_port",
    "helo",
    "tls",
    "tags",
    "shard",
    "file",
    "offset",
    "mark",
    "requiretls",
    "error",
];

/// The exit status is 1 where nobody knows the message.
pub(super) fn run(
    id: MessageId,
    set_aside: bool,
    common: &Common,
    output: &mut dyn Write,
) -> Result<u8, Failure> {
    let (path, events) = common.places()?;
    let mut found = None;
    visit(&path, set_aside, &mut |listed| {
        if listed.id != id {
            return ControlFlow::Continue(());
        }
        found = Some(envelope_json(listed));
        ControlFlow::Break(())
    })?;
    if let Some(found) = &found {
        if common.json {
            writeln!(output, "{found}")?;
        } else {
            write_envelope(found, output)?;
        }
    }
    let mut history = History { id, is_json: common.json, is_apart: found.is_some(), count: 0, output };
    if let Some(events) = &events {
        history.write(events)?;
    }
    if found.is_none() && history.count == 0 {
        let nothing = StoreError::NoMessage { id, path };
        match events {
            Some(events) => {
                eprintln!("ringmx: {nothing}, nor is it in the events at {}", events.path.display())
            }
            None => eprintln!("ringmx: {nothing}; with [events] its history would be known"),
        }
        return Ok(1);
    }
    Ok(0)
}

fn write_envelope(found: &Value, output: &mut dyn Write) -> io::Result<()> {
    for key in KEYS {
        let name = key.replace('_', " ");
        match &found[key] {
            Value::Null => {}
            // One line each: they are long.
            Value::Array(failures) if key == "failed" => {
                for failure in failures {
                    writeln!(output, "{name:<13} {}", text(failure))?;
                }
            }
            Value::Array(values) if values.is_empty() => {}
            value => writeln!(output, "{name:<13} {}", text(value))?,
        }
    }
    Ok(())
}

/// In one line, whatever strangers have put into it.
fn text(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            fields.map(|(key, value)| format!("{key}={}", quoted(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A text with spaces in it between quotes, so that its end can be seen.
fn quoted(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains([' ', '"', '=']) => value.to_string(),
        value => text(value),
    }
}

/// What the events say of a message.
struct History<'a> {
    id: MessageId,
    is_json: bool,
    /// Something else was written before.
    is_apart: bool,
    count: u64,
    output: &'a mut dyn Write,
}

impl History<'_> {
    fn write(&mut self, config: &EventsConfig) -> Result<(), Failure> {
        let files = open_for_reading(config).map_err(|(path, source)| Failure::Events { path, source })?;
        for file in files {
            self.read(file).map_err(|source| Failure::Events { path: config.path.clone(), source })??;
        }
        Ok(())
    }

    /// The outer error is of reading, the inner one of writing.
    fn read(&mut self, file: File) -> io::Result<io::Result<()>> {
        let wanted = format!("\"id\":\"{}\"", self.id);
        let (mut reader, mut line) = (BufReader::new(file), Vec::new());
        loop {
            line.clear();
            if (&mut reader).take(EVENT_LEN_MAX as u64).read_until(b'\n', &mut line)? == 0 {
                return Ok(Ok(()));
            }
            // Most lines are about others: only those that may be about this one are parsed. What has no end is a piece
            // of one that is too long.
            if !line.ends_with(b"\n") || memchr::memmem::find(&line, wanted.as_bytes()).is_none() {
                continue;
            }
            let Ok(event) = serde_json::from_slice::<Event>(&line) else { continue };
            if event.get("id") != Some(&Value::from(self.id.to_string())) {
                continue;
            }
            self.count += 1;
            if let Err(error) = self.write_event(&event, &line) {
                return Ok(Err(error));
            }
        }
    }

    fn write_event(&mut self, event: &Event, line: &[u8]) -> io::Result<()> {
        if self.is_json {
            return self.output.write_all(line);
        }
        if std::mem::take(&mut self.is_apart) {
            writeln!(self.output)?;
        }
        let shown = |key| event.get(key).map(text).unwrap_or_default();
        write!(self.output, "{}  {:<9}", shown("time"), shown("event"))?;
        for (key, value) in &event.0 {
            if !["time", "event", "id"].contains(&key.as_str()) {
                write!(self.output, " {}={}", text(&Value::from(key.as_str())), quoted(value))?;
            }
        }
        writeln!(self.output)
    }
}

/// A line of the stream, in its own order.
struct Event(Vec<(String, Value)>);

impl Event {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Event;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Event(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;

    #[test]
    fn events_of_one_message_are_found_in_all_files_oldest_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let id = MessageId { session: SessionId(256), transaction: 1 };
        let other = MessageId { session: SessionId(256), transaction: 11 };
        let line = |id, event, more: &str| {
            format!("{{\"time\":\"T\",\"event\":\"{event}\",\"id\":\"{id}\"{more}}}\n")
        };
        let why = format!(",\"why\":\"\\\"id\\\":\\\"{id}\\\"\"");
        let files = [
            ("events.jsonl.2", line(id, "too old to be kept", "")),
            ("events.jsonl.1", line(id, "accepted", ",\"octets\":7") + &line(other, "held", &why)),
            (
                "events.jsonl",
                line(id, "deferred", ",\"error\":\"not now\"")
                    + "{\"id\":\""
                    + &line(id, "held", ",\"b\":\"\\n\",\"a\":[1]"),
            ),
        ];
        for (name, text) in &files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let config = EventsConfig { path, max_size: 1 << 20, keep: 1, addresses: false };
        let told = |is_json| {
            let mut output = Vec::new();
            let mut history = History { id, is_json, is_apart: true, count: 0, output: &mut output };
            history.write(&config).unwrap();
            assert_eq!(history.count, 2);
            String::from_utf8(output).unwrap()
        };
        // What follows a line that was cut is lost with it.
        assert_eq!(told(false), "\nT  accepted  octets=7\nT  deferred  error=\"not now\"\n");
        assert_eq!(
            told(true),
            line(id, "accepted", ",\"octets\":7") + &line(id, "deferred", ",\"error\":\"not now\"")
        );
    }

    #[test]
    fn an_event_that_is_longer_than_any_is_left_out_and_what_follows_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let id = MessageId { session: SessionId(256), transaction: 1 };
        let line = |event: &str, len: usize| {
            let line = format!("{{\"event\":\"{event}\",\"id\":\"{id}\",\"to\":[\"");
            let filled = "x".repeat(len.saturating_sub(line.len() + 4));
            format!("{line}{filled}\"]}}\n")
        };
        let (longest, longer) = (line("accepted", EVENT_LEN_MAX), line("delivered", EVENT_LEN_MAX + 1));
        assert_eq!((longest.len(), longer.len()), (EVENT_LEN_MAX, EVENT_LEN_MAX + 1));
        std::fs::write(&path, format!("{longest}{longer}{}", line("held", 0))).unwrap();
        let config = EventsConfig { path, max_size: 1 << 20, keep: 0, addresses: true };
        let mut output = Vec::new();
        let mut history = History { id, is_json: true, is_apart: false, count: 0, output: &mut output };
        history.write(&config).unwrap();
        assert_eq!(history.count, 2);
        assert!(output == format!("{longest}{}", line("held", 0)).into_bytes());
    }
}
