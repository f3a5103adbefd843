//! Options of a listener's guard, as dialogue files and tests write them: the configuration's keys, one value each.

use std::time::Duration;

use ringmx::policy::clients::Rate;
use ringmx::policy::network::NetworkSet;
use ringmx::session::EarlyTalker;

use crate::pair::Options;

/// Sets the option; false if the key is none of these.
pub fn set(options: &mut Options, key: &str, value: &str) -> Result<bool, String> {
    let guard = &mut options.guard;
    let (client, session) = (&mut guard.client_limits.client, &mut guard.session_limits);
    match key {
        "proxy_protocol" => guard.proxies = networks(value)?,
        "xclient" => guard.xclient = networks(value)?,
        "unlimited" => guard.unlimited = networks(value)?,
        "early_talker" => {
            guard.early_talker = match value {
                "reject" => EarlyTalker::Reject,
                "close" => EarlyTalker::Close,
                "note" => EarlyTalker::Note,
                _ => return Err("reject, close or note".to_owned()),
            }
        }
        "greet_delay" => guard.greet_delay = secs(value)?,
        "tarpit" => guard.tarpit = secs(value)?,
        "data_total_timeout" => guard.data_time_max = secs(value)?,
        "connections_per_client" => client.open_max = Some(number(value)?),
        "connections_per_network" => guard.client_limits.network.open_max = Some(number(value)?),
        "connection_rate_per_client" => client.connections = Some(per_minute(value)?),
        "transaction_rate_per_client" => client.transactions = Some(per_minute(value)?),
        "recipient_rate_per_client" => client.recipients = Some(per_minute(value)?),
        "command_rate_per_client" => client.commands = Some(per_minute(value)?),
        "fault_rate_per_client" => client.faults = Some(per_minute(value)?),
        "size_rate_per_client" => client.octets = Some(per_minute(value)?),
        "transactions_per_session" => session.transactions_max = Some(number(value)?),
        "recipients_per_session" => session.recipients_max = Some(number(value)?),
        "size_per_session" => session.octets_max = Some(number(value)?),
        // Of this client, besides its own.
        "connections_open" => {
            options.connected.extend(std::iter::repeat_n(options.client.ip(), number(value)?));
        }
        // Of this client, in sessions before.
        "faults_before" => options.used_before.faults = number(value)?,
        "commands_before" => options.used_before.commands = number(value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn networks(value: &str) -> Result<NetworkSet, String> {
    value.split(", ").map(|network| network.parse().map_err(|error| format!("{network}: {error}"))).collect()
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| "not a number".to_owned())
}

/// `30s`.
fn secs(value: &str) -> Result<Duration, String> {
    value
        .strip_suffix('s')
        .and_then(|secs| secs.parse().ok())
        .map(Duration::from_secs)
        .ok_or_else(|| "not seconds".to_owned())
}

/// `10/m`.
fn per_minute(value: &str) -> Result<Rate, String> {
    let count =
        value.strip_suffix("/m").and_then(|count| count.parse().ok()).ok_or("not a number per minute")?;
    Ok(Rate::new(count, Duration::from_secs(60)))
}
