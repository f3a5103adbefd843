//! `ringmx listener`: the addresses of a running server.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Failure;
use super::admin::{Client, ServerArgs};

/// See and change the addresses that a running server listens on
#[derive(Debug, Args)]
#[command(after_help = "\
The server is asked through the socket `control` in its spool, which only its user and root can
open. What is changed here holds until the server ends or reads its configuration again, which
is not written.

Examples:
  ringmx listener ls --config /etc/ringmx.toml
  ringmx listener add mx 192.0.2.7:smtp --config /etc/ringmx.toml
  ringmx listener rm 192.0.2.7:25 --config /etc/ringmx.toml

Exit status: 0 done, 1 the server refuses, 2 no server or wrong usage.")]
pub(super) struct ListenerArgs {
    #[command(subcommand)]
    command: ListenerCommand,
}

#[derive(Debug, Subcommand)]
enum ListenerCommand {
    /// List every address: its listener, what keeps others off it, and who answers there
    Ls {
        /// One JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Listen on one more address
    Add {
        /// The listener whose service is offered there
        name: String,
        /// IP address and port, or the name of a service
        address: String,
        /// One JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Stop listening on an address: who is connected stays connected
    Rm {
        address: String,
        /// One JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
}

pub(super) fn run(args: &ListenerArgs, output: &mut impl Write) -> Result<u8, Failure> {
    match &args.command {
        ListenerCommand::Ls { json, server } => list(&server.client()?, *json, output),
        ListenerCommand::Add { name, address, json, server } => {
            change(&server.client()?, "POST", &format!("/listeners/{name}/{address}"), *json, output)
        }
        ListenerCommand::Rm { address, json, server } => {
            change(&server.client()?, "DELETE", &format!("/listeners/{address}"), *json, output)
        }
    }
}

fn list(server: &Client, json: bool, output: &mut impl Write) -> Result<u8, Failure> {
    let listed = server.ask("GET", "/listeners").map_err(Failure::Server)?;
    if json {
        writeln!(output, "{listed:#}")?;
        return Ok(0);
    }
    for one in listed.as_array().into_iter().flatten() {
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        let proof = match (&one["answered_by_us"], &one["why_not"]) {
            (Value::Bool(true), _) => "answered by this server".to_owned(),
            (_, Value::String(why)) => format!("LOST: {why}"),
            _ => "not proved yet".to_owned(),
        };
        writeln!(output, "{:<12} {:<28} {}; {proof}", text("listener"), text("address"), text("how"))?;
    }
    Ok(0)
}

fn change(
    server: &Client,
    method: &str,
    path: &str,
    json: bool,
    output: &mut impl Write,
) -> Result<u8, Failure> {
    if path.bytes().any(|octet| !octet.is_ascii_graphic() || octet == b'?' || octet == b'#') {
        return Err(Failure::Usage("names and addresses have neither spaces nor `?` or `#`".to_owned()));
    }
    let answer = server.ask(method, path).map_err(Failure::Server)?;
    let refused = answer["error"].as_str();
    if json {
        writeln!(output, "{answer:#}")?;
    } else {
        writeln!(output, "{}", refused.or_else(|| answer["done"].as_str()).unwrap_or_default())?;
    }
    Ok(u8::from(refused.is_some()))
}
