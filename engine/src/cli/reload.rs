//! `ringmx reload`: the running server reads its configuration again.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use super::Failure;
use super::admin::ServerArgs;

/// Let a running server read its configuration and its lists again
#[derive(Debug, Args)]
#[command(after_help = "\
Waits until every worker goes by the new configuration, or until it is known why the old one stays.
The server is asked through the socket `control` in its spool, which only its user and root can
open. SIGHUP does the same, and tells the log.

Examples:
  ringmx reload --config /etc/ringmx.toml
  ringmx reload --spool /var/spool/ringmx --json

Exit status: 0 the new configuration is in force, 1 the server refuses it and keeps the old one,
2 no server, wrong usage, or a configuration that does not tell where the spool is: nobody was asked.")]
pub(super) struct ReloadArgs {
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &ReloadArgs, output: &mut impl Write) -> Result<u8, Failure> {
    let answer = args.server.client()?.reload().map_err(Failure::Server)?;
    if args.json {
        writeln!(output, "{answer:#}")?;
    } else {
        write!(output, "{}", told(&answer))?;
    }
    Ok(u8::from(!answer["error"].is_null()))
}

fn told(answer: &Value) -> String {
    if let Some(why) = answer["error"].as_str() {
        return format!("the old configuration stays in force: {why}\n");
    }
    let mut text = format!("generation {} is in force\n", answer["generation"]);
    let keys: Vec<&str> =
        answer["needs_restart"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !keys.is_empty() {
        text += &format!("these have changed too, and change with a restart only: {}\n", keys.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_came_of_it_is_told() {
        for (answer, expected) in [
            (json!({ "generation": 7, "needs_restart": [] }), "generation 7 is in force\n"),
            (
                json!({ "generation": 7, "needs_restart": ["spool", "workers"] }),
                "generation 7 is in force\nthese have changed too, and change with a restart only: spool, workers\n",
            ),
            (json!({ "error": "a.toml:1" }), "the old configuration stays in force: a.toml:1\n"),
        ] {
            assert_eq!(told(&answer), expected);
        }
    }
}
