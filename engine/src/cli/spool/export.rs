//! `ringmx spool export`: messages out of a spool, for a move to another server or a rescue.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::show::envelope_json;
use super::{Common, Failure, visit};
use crate::id::MessageId;
use crate::store::StoreError;
use crate::store::inspect::{self, Listed, State};

const ENVELOPES_NAME: &str = "envelopes.jsonl";

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// A directory that does not exist yet, or is empty: ID.eml for each message, and envelopes.jsonl
    #[arg(long, value_name = "DIR")]
    pub(super) to: PathBuf,
    /// These messages only; may be given several times
    #[arg(long, value_name = "ID")]
    pub(super) id: Vec<MessageId>,
    /// Delivered messages too, as long as they have not been overwritten
    #[arg(long)]
    pub(super) all: bool,
    /// What is readable in damaged segments that were set aside, too
    #[arg(long)]
    pub(super) set_aside: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

/// The exit status is 1 where a wanted message is not there or cannot be read, or damage may have taken some.
pub(super) fn run(args: &ExportArgs, output: &mut dyn Write) -> Result<u8, Failure> {
    let path = args.common.path()?;
    let stats = inspect::stat(&path)?;
    let messages_count =
        stats.iter().map(|stat| if args.all { stat.records_count } else { stat.undelivered_count }).sum();
    let mut export = Export::create(&args.to)?;
    let mut missing: BTreeSet<MessageId> = args.id.iter().copied().collect();
    let bar = progress_bar(if args.id.is_empty() { messages_count } else { args.id.len() as u64 });
    let mut failed = Ok(());
    let damages_count = visit(&path, args.set_aside, &mut |listed| {
        let wanted = match args.id.is_empty() {
            true => args.all || listed.state != State::Delivered,
            false => missing.remove(&listed.id),
        };
        if wanted {
            failed = export.add(listed);
            bar.inc(1);
        }
        let has_all = !args.id.is_empty() && missing.is_empty();
        if failed.is_err() || has_all { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failed.and_then(|()| export.finish()).map_err(|error| StoreError::Export(args.to.clone(), error))?;
    bar.finish_and_clear();
    for &id in &missing {
        eprintln!("ringmx: {}", StoreError::NoMessage { id, path: path.clone() });
    }
    let Export { messages_count, octets, again_count, unreadable_count, .. } = export;
    if args.common.json {
        let object = json!({
            "directory": args.to.to_string_lossy(), "messages": messages_count, "octets": octets,
            "twice": again_count, "damaged": damages_count, "unreadable": unreadable_count,
            "missing": missing.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        writeln!(output, "{object}")?;
    } else {
        writeln!(output, "messages: {messages_count}, octets: {octets}, in {}", args.to.display())?;
    }
    Ok(u8::from(!missing.is_empty() || damages_count > 0 || unreadable_count > 0))
}

/// On a terminal only.
fn progress_bar(len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} messages, {per_sec}, {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr()).with_style(style)
}

/// A directory that is being filled.
struct Export {
    directory: PathBuf,
    envelopes: BufWriter<File>,
    messages_count: u64,
    octets: u64,
    /// Met again, in another segment, with the same id: a copy of the same message.
    again_count: u64,
    /// Large messages whose files are damaged or gone.
    unreadable_count: u64,
}

impl Export {
    fn create(directory: &Path) -> Result<Self, StoreError> {
        let created = || -> io::Result<File> {
            fs::create_dir_all(directory)?;
            if fs::read_dir(directory)?.next().is_some() {
                return Err(io::Error::other("it is not empty; nothing is overwritten"));
            }
            new_file(&directory.join(ENVELOPES_NAME))
        };
        let envelopes = created().map_err(|error| StoreError::Export(directory.to_owned(), error))?;
        let (directory, envelopes) = (directory.to_owned(), BufWriter::new(envelopes));
        Ok(Self { directory, envelopes, messages_count: 0, octets: 0, again_count: 0, unreadable_count: 0 })
    }

    fn add(&mut self, listed: &Listed<'_>) -> io::Result<()> {
        if let Err(error) = listed.check_content() {
            eprintln!("ringmx: {} is left out, unless it was delivered just now: {error}", listed.id);
            self.unreadable_count += 1;
            return Ok(());
        }
        let name = format!("{}.eml", listed.id);
        match new_file(&self.directory.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.again_count += 1;
                return Ok(());
            }
            other => listed.write_content(&mut other?)?,
        }
        let mut envelope = envelope_json(listed);
        envelope["content"] = name.into();
        writeln!(self.envelopes, "{envelope}")?;
        self.messages_count += 1;
        self.octets += listed.content_len();
        Ok(())
    }

    /// All of it is on the disk when this returns.
    fn finish(&mut self) -> io::Result<()> {
        self.envelopes.flush()?;
        rustix::fs::syncfs(self.envelopes.get_ref())?;
        Ok(())
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Mail is nobody else's.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
