//! `ringmx spool`: reads a spool, also while a server runs on it.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::Config;
use crate::id::MessageId;

/// Read the spool, also while the server runs
#[derive(Debug, Args)]
#[command(after_help = "\
Without --spool or --config, the spool of the quick start: ./ringmx-data.

Examples:
  ringmx spool ls --spool /var/spool/ringmx
  ringmx spool cat 0CH1611EAG081-1 --config /etc/ringmx.toml > message.eml
  ringmx spool verify --json

Exit status: 0 done, 1 no such message or damage found, 2 the spool cannot be read.")]
pub(super) struct SpoolArgs {
    #[command(subcommand)]
    command: SpoolCommand,
}

#[derive(Debug, Subcommand)]
enum SpoolCommand {
    /// List the messages that are not delivered yet
    Ls(Common),
    /// Print a message's content, exactly its octets
    Cat {
        /// As the reply to the client and the log give it
        #[arg(value_name = "ID")]
        id: MessageId,
        #[command(flatten)]
        common: Common,
    },
    /// Check each record of each segment
    Verify(Common),
    /// Count messages, segments and octets
    Stat(Common),
}

#[derive(Debug, Args)]
struct Common {
    /// The spool's directory
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    spool: Option<PathBuf>,
    /// A configuration that names the spool
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// JSON instead of text; `ls`: one object a line
    #[arg(long)]
    json: bool,
}

impl Common {
    fn path(&self) -> io::Result<PathBuf> {
        match (&self.spool, &self.config) {
            (Some(path), _) => Ok(path.clone()),
            (None, Some(config)) => match Config::load(config) {
                Ok(config) => Ok(config.spool.path),
                Err(error) => Err(io::Error::other(format!("the configuration is wrong\n{error}"))),
            },
            (None, None) => Ok(Config::quick_start().spool.path),
        }
    }
}

pub(super) fn run(args: &SpoolArgs, output: &mut impl Write) -> io::Result<u8> {
    let _ = output;
    let (SpoolCommand::Ls(common)
    | SpoolCommand::Cat { common, .. }
    | SpoolCommand::Verify(common)
    | SpoolCommand::Stat(common)) = &args.command;
    common.path()?;
    Ok(2)
}
