//! What is valid in a configuration, but hardly meant: the warnings of `ringmx check`.

use std::path::Path;

use rustix::fs::{Access, access};

use super::listener_analysis;
use super::reader::Reader;
use super::rule_analysis;
use super::sections::{Built, default_workers};
use super::source::Span;
use super::{Deliver, DomainPattern, Durability, Recipients, Route};
use crate::limits::{COMMAND_TIMEOUT_LEAST, DATA_TIMEOUT_LEAST};
use crate::store::{Remark, survey};

pub(super) fn analyse(reader: &Reader, built: &Built) {
    let (config, places) = (&built.config, &built.places);
    if !config.hostname.contains('.') {
        let span = places.hostname.unwrap_or(places.root);
        let message = format!("the host name `{}` is not fully qualified", config.hostname);
        reader.warn_as(
            "hostname-not-qualified",
            span,
            message,
            "write the name of the MX record, such as hostname = \"mx1.example.com\"",
        );
    }
    if let (Some(span), cores) = (places.workers, default_workers())
        && config.workers > cores
    {
        let message = format!("{} workers share {cores} cores", config.workers);
        reader.warn_as("workers-share-cores", span, message, "leave `workers` out for one per core");
    }
    let span = places.durability.unwrap_or(places.root);
    if config.has_durability(Durability::None) {
        let message = "durability \"none\": a crash of the system loses mail that was answered with 250";
        reader.warn_as("durability-none", span, message, "write \"sync\" outside of tests and measurements");
    }
    if config.has_durability(Durability::Async) {
        let interval = config.spool.async_interval;
        let message = format!(
            "durability \"async\": a crash loses mail answered with 250 in the last {interval:?} or more"
        );
        reader.warn_as(
            "durability-async",
            span,
            message,
            "write \"sync\" where no acknowledged mail may be lost",
        );
    }
    if let Some(admin) = config.admin
        && !admin.ip().is_loopback()
    {
        let message = format!("the admin HTTP on {admin} asks nobody for a password");
        reader.warn_as(
            "admin-exposed",
            places.admin.unwrap_or(places.root),
            message,
            "bind it to 127.0.0.1 or [::1]",
        );
    }
    listeners(reader, built);
    listener_analysis::analyse(reader, built);
    routes(reader, built);
    rule_analysis::analyse(reader, built);
    writable(reader, "the spool", &config.spool.path, places.spool_path.unwrap_or(places.root));
    spool_site(reader, built);
    if let Some(events) = &config.events {
        writable_file(reader, &events.path, places.events_path.unwrap_or(places.root));
    }
    for (route, places) in config.routes.iter().zip(&places.routes) {
        if let Deliver::Maildir { path } = &route.deliver {
            writable(reader, "the Maildir", &path.root(), places.path.unwrap_or(places.route));
        }
    }
}

/// Warns where a directory is neither there for this user to write to nor can be made.
fn writable(reader: &Reader, what: &str, path: &Path, span: Span) {
    let is_there = |path: &&Path| std::fs::symlink_metadata(path).is_ok();
    let existing = path.ancestors().find(|path| path.as_os_str().is_empty() || is_there(path));
    let existing = existing.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let why = if !existing.is_dir() {
        format!("{} is no directory", existing.display())
    } else if let Err(error) = access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        format!("this user cannot write to {}: {}", existing.display(), std::io::Error::from(error))
    } else {
        return;
    };
    let help = "make the directory, or run the check as the user of the server";
    reader.warn_as("directory-not-writable", span, format!("{what} at {}: {why}", path.display()), help);
}

/// The same for the file of the events, which is made together with its directory.
fn writable_file(reader: &Reader, path: &Path, span: Span) {
    let why = match std::fs::metadata(path) {
        Err(_) => {
            let directory = path.parent().unwrap_or_else(|| Path::new("."));
            return writable(reader, "the directory of the events", directory, span);
        }
        Ok(found) if !found.is_file() => "it is no regular file".to_owned(),
        Ok(_) => match access(path, Access::READ_OK | Access::WRITE_OK) {
            Err(error) => format!("this user cannot write to it: {}", std::io::Error::from(error)),
            Ok(()) => return,
        },
    };
    let help = "the server will not start; name another file, or run the check as the user of the server";
    reader.warn_as("events-not-writable", span, format!("the events at {}: {why}", path.display()), help);
}

/// What the place of the spool is not fit for.
fn spool_site(reader: &Reader, built: &Built) {
    let (config, span) = (&built.config, built.places.spool_path.unwrap_or(built.places.root));
    let shards_count = u16::try_from(config.workers).unwrap_or(u16::MAX);
    for Remark { is_error, text, help } in survey(&config.spool.path, shards_count, config.spool.segment_size)
    {
        if is_error {
            reader.error_as("spool-unfit", span, text, help);
        } else {
            reader.warn_as("spool-place", span, text, help);
        }
    }
}

fn listeners(reader: &Reader, built: &Built) {
    for (listener, &span) in built.config.listeners.iter().zip(&built.places.listeners) {
        for (key, timeout, least) in [
            ("command_timeout", listener.command_timeout, COMMAND_TIMEOUT_LEAST),
            ("data_timeout", listener.data_timeout, DATA_TIMEOUT_LEAST),
        ] {
            if timeout < least {
                let minutes = least.as_secs() / 60;
                let message = format!("`{key}` is shorter than the {minutes} minutes of RFC 5321 §4.5.3.2");
                reader.warn_as(
                    "timeout-short",
                    span,
                    message,
                    format!("write {key} = \"{minutes}m\" or more"),
                );
            }
        }
    }
}

fn routes(reader: &Reader, built: &Built) {
    let config = &built.config;
    for (index, (route, places)) in config.routes.iter().zip(&built.places.routes).enumerate() {
        if let Some(message) = never_matches(route, &config.routes[..index], &config.recipients) {
            reader.warn_as("route-never-matches", places.route, message, "move it further up, or remove it");
        } else if route.deliver == Deliver::Discard {
            let message = "deliver \"discard\": this mail is answered with 250 and thrown away";
            reader.warn_as("mail-discarded", places.deliver.unwrap_or(places.route), message, "");
        }
    }
    let is_relay = |(route, _): &(&Route, _)| matches!(route.deliver, Deliver::Relay(_));
    let first = config.routes.iter().zip(&built.places.routes).find(is_relay);
    if let (Some((_, places)), None) = (first, &config.bounce) {
        let message = "no [bounce]: mail that a next hop refuses is held, and its sender hears nothing";
        let help =
            "write [bounce] and next_hop = [\"mail.internal:25\"], a server that takes mail to the senders";
        reader.warn_as("no-bounce", places.deliver.unwrap_or(places.route), message, help);
    }
}

fn never_matches(route: &Route, earlier: &[Route], recipients: &Recipients) -> Option<String> {
    // Those that leave nothing of their domains to this one.
    let is_greedy =
        |earlier: &&Route| earlier.conditions.are_none() || earlier.conditions == route.conditions;
    let greedy: Vec<&Route> = earlier.iter().filter(is_greedy).collect();
    if greedy.iter().any(|earlier| earlier.domains.contains(&DomainPattern::Any)) {
        return Some("this route never matches: one before it takes \"*\"".to_owned());
    }
    let is_taken = |domain: &String| greedy.iter().any(|earlier| earlier.matches(domain));
    let reachable = recipients.domains.iter().any(|domain| route.matches(domain) && !is_taken(domain));
    (!reachable).then(|| {
        "this route never matches: its domains are not in [recipients], or routes before it take them"
            .to_owned()
    })
}
