//! `ringmx spool`: reads a spool, also while a server runs on it.

mod export;
mod history;
mod show;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use self::export::ExportArgs;
pub(super) use self::show::{envelope_json, line};
use super::Failure;
use crate::config::{Config, EventsConfig, format_size};
use crate::id::MessageId;
use crate::store::inspect::{self, Listed, ShardStat, State};
use crate::store::{StoreError, list_set_aside};

/// Read the spool, also while the server runs
#[derive(Debug, Args)]
#[command(after_help = "\
Without --spool or --config, the spool of the quick start: ./ringmx-data.

Examples:
  ringmx spool ls --spool /var/spool/ringmx
  ringmx spool show 0CH1611EAG081-1 --config /etc/ringmx.toml
  ringmx spool cat 0CH1611EAG081-1 --config /etc/ringmx.toml > message.eml
  ringmx spool verify --json
  ringmx spool export --to rescued --set-aside

Exit status: 0 done, 1 no such message or mail is damaged, 2 the spool cannot be read.")]
pub(super) struct SpoolArgs {
    #[command(subcommand)]
    command: SpoolCommand,
}

#[derive(Debug, Subcommand)]
enum SpoolCommand {
    /// List the messages that are not delivered yet
    Ls {
        /// List delivered messages too, as long as they have not been overwritten
        #[arg(long)]
        all: bool,
        /// List what is readable in damaged segments that were set aside, too
        #[arg(long)]
        set_aside: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Write messages out: a file with the exact octets of each, and their envelopes as lines of JSON
    Export(ExportArgs),
    /// Print a message's content, exactly its octets; with --json its envelope instead
    Cat {
        /// As the reply to the client and the log give it
        #[arg(value_name = "ID")]
        id: MessageId,
        /// Look into damaged segments that were set aside, too
        #[arg(long)]
        set_aside: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Tell all that is known of a message: where it is, and what the events say has happened to it
    Show {
        /// As the reply to the client and the log give it
        #[arg(value_name = "ID")]
        id: MessageId,
        /// Look into damaged segments that were set aside, too
        #[arg(long)]
        set_aside: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Read every record and tell what is damaged
    Verify {
        #[command(flatten)]
        common: Common,
    },
    /// Count messages, segments and octets of each shard
    Stat {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// The spool's directory
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    spool: Option<PathBuf>,
    /// A configuration that names the spool
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// JSON instead of text, one object a line
    #[arg(long)]
    pub(super) json: bool,
}

impl Common {
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        Ok(self.places()?.0)
    }

    /// The spool, and where events are told.
    fn places(&self) -> Result<(PathBuf, Option<EventsConfig>), Failure> {
        let config = match (&self.spool, &self.config) {
            (Some(path), _) => return Ok((path.clone(), None)),
            (None, Some(config)) => Config::load(config)?,
            (None, None) => Config::quick_start(),
        };
        Ok((config.spool.path, config.events))
    }
}

/// Writes what is asked for; the exit status is 0 or 1.
pub(super) fn run(args: &SpoolArgs, output: &mut dyn Write) -> Result<u8, Failure> {
    let status = match &args.command {
        SpoolCommand::Ls { all, set_aside, common } => ls(*all, *set_aside, common, output)?,
        SpoolCommand::Export(args) => export::run(args, output)?,
        SpoolCommand::Cat { id, set_aside, common } => cat(*id, *set_aside, common, output)?,
        SpoolCommand::Show { id, set_aside, common } => history::run(*id, *set_aside, common, output)?,
        SpoolCommand::Verify { common } => verify(common, output)?,
        SpoolCommand::Stat { common } => stat(common, output)?,
    };
    output.flush()?;
    Ok(status)
}

/// Visits the messages of a spool, and of its segments that were set aside if these are wanted. Returns how many
/// stretches of the others were damaged, and says so.
pub(super) fn visit(
    path: &Path,
    set_aside: bool,
    visit: &mut dyn FnMut(&Listed<'_>) -> ControlFlow<()>,
) -> Result<u64, StoreError> {
    let mut ended = false;
    let damages_count = inspect::list(path, &mut |listed| {
        let flow = visit(listed);
        ended = flow.is_break();
        flow
    })?;
    if damages_count > 0 {
        eprintln!("ringmx: damaged places: {damages_count}; `ringmx spool verify` names them");
    }
    if set_aside && !ended {
        list_set_aside(path, visit)?;
    }
    Ok(damages_count)
}

fn ls(all: bool, set_aside: bool, common: &Common, output: &mut dyn Write) -> Result<u8, Failure> {
    let mut failed = Ok(());
    let damages_count = visit(&common.path()?, set_aside, &mut |listed| {
        if !all && listed.state == State::Delivered {
            return ControlFlow::Continue(());
        }
        let line = if common.json { envelope_json(listed).to_string() } else { line(listed) };
        failed = writeln!(output, "{line}");
        if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    failed?;
    Ok(u8::from(damages_count > 0))
}

fn cat(id: MessageId, set_aside: bool, common: &Common, output: &mut dyn Write) -> Result<u8, Failure> {
    let path = common.path()?;
    let mut written = None;
    visit(&path, set_aside, &mut |listed| {
        if listed.id != id {
            return ControlFlow::Continue(());
        }
        // Its checksum is right before the first octet goes out.
        written = Some(match listed.check_content() {
            _ if common.json => Ok(writeln!(output, "{}", envelope_json(listed))),
            Ok(()) => Ok(listed.write_content(output)),
            Err(error) => Err(error),
        });
        ControlFlow::Break(())
    })?;
    match written {
        Some(Ok(written)) => return written.map(|()| 0).map_err(Failure::from),
        Some(Err(error)) => eprintln!("ringmx: the content of {id} is damaged or gone: {error}"),
        None => eprintln!("ringmx: {}", StoreError::NoMessage { id, path }),
    }
    Ok(1)
}

fn verify(common: &Common, output: &mut dyn Write) -> Result<u8, Failure> {
    let findings = inspect::verify(&common.path()?)?;
    for finding in &findings {
        let (path, offset) = (finding.path.display(), finding.offset);
        let severity = if finding.is_error { "error" } else { "note" };
        if common.json {
            let id = finding.id.map(|id| id.to_string());
            let (path, text) = (path.to_string(), &finding.text);
            let object =
                json!({"severity": severity, "file": path, "offset": offset, "id": id, "text": text});
            writeln!(output, "{object}")?;
        } else {
            writeln!(output, "{path}: octet {offset}: {severity}: {}", finding.text)?;
        }
    }
    let errors_count = findings.iter().filter(|finding| finding.is_error).count();
    if !common.json {
        match errors_count {
            0 => writeln!(output, "no mail is damaged")?,
            _ => writeln!(output, "errors: {errors_count}")?,
        }
    }
    Ok(u8::from(errors_count > 0))
}

fn stat(common: &Common, output: &mut dyn Write) -> Result<u8, Failure> {
    let stats = inspect::stat(&common.path()?)?;
    if common.json {
        for stat in &stats {
            let ShardStat { shard, segments_count, bytes, records_count, undelivered_count, .. } = stat;
            let set_aside_count = stat.set_aside_count;
            let object = json!({
                "shard": shard, "segments": segments_count, "octets": bytes, "messages": records_count,
                "undelivered": undelivered_count, "set_aside": set_aside_count,
                "content_files": stat.content_files_count,
            });
            writeln!(output, "{object}")?;
        }
        return Ok(0);
    }
    writeln!(output, "shard  undelivered  messages  segments  set aside  size")?;
    for stat in &stats {
        stat_row(&stat.shard.to_string(), stat, output)?;
    }
    let sum = |field: fn(&ShardStat) -> u64| stats.iter().map(field).sum();
    let total = ShardStat {
        shard: 0,
        segments_count: sum(|stat| stat.segments_count),
        bytes: sum(|stat| stat.bytes),
        records_count: sum(|stat| stat.records_count),
        undelivered_count: sum(|stat| stat.undelivered_count),
        set_aside_count: sum(|stat| stat.set_aside_count),
        content_files_count: sum(|stat| stat.content_files_count),
    };
    stat_row("all", &total, output)?;
    Ok(0)
}

fn stat_row(name: &str, stat: &ShardStat, output: &mut dyn Write) -> std::io::Result<()> {
    let ShardStat { segments_count, bytes, records_count, undelivered_count, set_aside_count, .. } = stat;
    let size = format_size(*bytes);
    writeln!(
        output,
        "{name:<5}  {undelivered_count:>11}  {records_count:>8}  {segments_count:>8}  {set_aside_count:>9}  {size}"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::id::SessionId;
    use crate::protocol::envelope::Writer;
    use crate::protocol::path::{ForwardPath, Mailbox};
    use ringmx_ring::BlockBuffer;

    use crate::spool::batch::Batch;
    use crate::spool::record::RecordMeta;
    use crate::spool::segment::FIRST_BATCH_AT;
    use crate::store::{Spool, SpoolOptions};

    #[test]
    fn a_path_that_is_no_spool_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let common = || Common { spool: Some(directory.path().to_owned()), config: None, json: false };
        for command in [
            SpoolCommand::Ls { all: true, set_aside: true, common: common() },
            SpoolCommand::Verify { common: common() },
            SpoolCommand::Stat { common: common() },
        ] {
            let failure = run(&SpoolArgs { command }, &mut Vec::new()).unwrap_err();
            assert!(failure.to_string().contains("there is no spool at"), "{failure}");
        }
    }

    /// A spool with one message, and its id.
    fn spool_with_mail(path: &Path) -> MessageId {
        let options = SpoolOptions { ready_count: 1, ..SpoolOptions::new(path, 1, 64 << 10) };
        let (_keeper, shards, _feeds) = Spool::open(options).unwrap().start().unwrap();
        let segment = std::iter::repeat_with(|| {
            std::thread::sleep(Duration::from_millis(1));
            shards[0].take()
        });
        let segment = segment.take(10_000).flatten().next().unwrap();
        let id = MessageId { session: SessionId(1 << 8), transaction: 1 };
        let mut envelope = Vec::new();
        let mut writer = Writer(&mut envelope);
        writer.reverse_path(Some(&Mailbox::parse(b"b@example.org").unwrap()));
        writer.forward_path(&ForwardPath::Mailbox(Mailbox::parse(b"a@example.com").unwrap()));
        let mut batch = Batch::begin(BlockBuffer::new(), segment.epoch, segment.key, FIRST_BATCH_AT, 0);
        batch.append(
            &RecordMeta { id, ..RecordMeta::default() },
            &envelope,
            &[b"Received: x\r\n", b"\r\nhello\r\n"],
        );
        let bytes = batch.finish(FIRST_BATCH_AT);
        segment.file.write_all_at(&bytes, FIRST_BATCH_AT).unwrap();
        segment.publish(FIRST_BATCH_AT + bytes.len() as u64);
        id
    }

    #[test]
    fn mail_is_listed_printed_verified_counted() {
        let directory = tempfile::tempdir().unwrap();
        let id = spool_with_mail(directory.path());
        let told = |json, command: fn(Common) -> SpoolCommand| {
            let common = Common { spool: Some(directory.path().to_owned()), config: None, json };
            let mut output = Vec::new();
            let status = run(&SpoolArgs { command: command(common) }, &mut output).unwrap();
            (status, String::from_utf8(output).unwrap())
        };
        let ls = |common| SpoolCommand::Ls { all: false, set_aside: false, common };
        let cat = |common| SpoolCommand::Cat {
            id: MessageId { session: SessionId(1 << 8), transaction: 1 },
            set_aside: false,
            common,
        };
        let line = format!("{id}  1970-01-01T00:00:00Z  undelivered  22  <b@example.org>  <a@example.com>\n");
        assert_eq!(told(false, ls), (0, line));
        assert_eq!(told(false, cat), (0, "Received: x\r\n\r\nhello\r\n".to_owned()));
        let (_, envelope) = told(true, cat);
        assert_eq!(told(true, ls).1, envelope);
        assert_eq!(serde_json::from_str::<Value>(&envelope).unwrap()["id"], id.to_string());
        assert_eq!(
            told(false, |common| SpoolCommand::Verify { common }),
            (0, "no mail is damaged\n".to_owned())
        );
        assert_eq!(told(true, |common| SpoolCommand::Verify { common }), (0, String::new()));
        let (_, stat) = told(true, |common| SpoolCommand::Stat { common });
        assert_eq!(serde_json::from_str::<Value>(&stat).unwrap()["undelivered"], 1);
        let (_, stat) = told(false, |common| SpoolCommand::Stat { common });
        assert_eq!(stat.lines().count(), 3, "{stat}");
        let other = |common| SpoolCommand::Cat { id: MessageId::default(), set_aside: true, common };
        assert_eq!((told(false, other), told(true, other)), ((1, String::new()), (1, String::new())));
    }

    #[test]
    fn mail_is_exported_and_nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let id = spool_with_mail(&directory.path().join("spool"));
        let export = |to: &str, ids: &[MessageId], json| {
            let common = Common { spool: Some(directory.path().join("spool")), config: None, json };
            let (to, id) = (directory.path().join(to), ids.to_vec());
            let args = ExportArgs { to, id, all: false, set_aside: true, common };
            let mut output = Vec::new();
            let command = SpoolCommand::Export(args);
            run(&SpoolArgs { command }, &mut output)
                .map(|status| (status, String::from_utf8(output).unwrap()))
        };
        let (status, summary) = export("first", &[], true).unwrap();
        let summary: Value = serde_json::from_str(&summary).unwrap();
        assert_eq!((status, &summary["messages"], &summary["octets"]), (0, &json!(1), &json!(22)));
        let first = directory.path().join("first");
        let content = std::fs::read(first.join(format!("{id}.eml"))).unwrap();
        assert_eq!(content, b"Received: x\r\n\r\nhello\r\n");
        let envelopes = std::fs::read_to_string(first.join("envelopes.jsonl")).unwrap();
        let envelope: Value = serde_json::from_str(&envelopes).unwrap();
        assert_eq!(
            (&envelope["id"], &envelope["reverse_path"]),
            (&json!(id.to_string()), &json!("b@example.org"))
        );
        assert_eq!(envelope["content"], json!(format!("{id}.eml")));

        let error = export("first", &[], false).unwrap_err().to_string();
        assert!(error.contains("first: it is not empty"), "{error}");
        let (status, text) = export("second", &[id, MessageId::default()], false).unwrap();
        assert!(status == 1 && text.starts_with("messages: 1, octets: 22, in "), "{status} {text}");
        let (status, _) = export("third", &[id], false).unwrap();
        assert_eq!(status, 0);
    }
}
