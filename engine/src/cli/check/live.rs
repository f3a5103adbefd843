//! What this machine and running servers have to say about a configuration.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ringmx_ring::{Options, Uring};
use serde_json::Value;

use super::{Subject, finding};
use crate::cli::admin::Client;
use crate::config::{Config, Finding, Severity};
use crate::privileges::Identity;
use crate::server::listens_at;
use crate::tls;

/// A server that was asked.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) subject: Subject,
    pub(super) addresses: Vec<SocketAddr>,
}

/// Adds what is seen on this machine.
pub(super) fn look(subject: &mut Subject) {
    let Some(config) = &subject.config else { return };
    subject.findings.extend(ports_in_use(config));
    if let Some(Err(error)) = config.user.as_deref().map(|user| Identity::find(user, config.group.as_deref()))
    {
        let help = "create it before the server starts here";
        subject.findings.push(finding("user-unknown", Severity::Warning, error.to_string(), help));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    subject.findings.extend(tls::check(config, now));
    if let Err(error) = Uring::new(Options { entries: 8, buffers_count: 4, buffer_len: 64 }) {
        let help = "the server will not start on this machine until that is changed";
        subject.findings.push(finding("kernel-io-uring", Severity::Warning, error.to_string(), help));
    }
}

/// Other programs; a running ringmx is probably the one that is configured here.
fn ports_in_use(config: &Config) -> Vec<Finding> {
    let addresses = config.listeners.iter().flat_map(|listener| &listener.bind).chain(&config.admin);
    let holders = addresses.filter(|address| address.port() != 0).flat_map(|&address| {
        let others = listens_at(address).into_iter().filter(|holder| holder.program != "ringmx");
        others.map(move |holder| {
            let message = format!("{address} is in use: {holder}");
            finding("port-in-use", Severity::Warning, message, "stop it, or bind another address")
        })
    });
    holders.collect()
}

/// Asks running servers by their admin HTTP.
pub(super) fn ask_all(admins: &[SocketAddr]) -> Result<Vec<Running>, String> {
    admins
        .iter()
        .map(|&admin| Ok(running(admin, &Client::of_admin(admin).ask("GET", "/listeners")?)))
        .collect()
}

fn running(admin: SocketAddr, listed: &Value) -> Running {
    let listed = listed.as_array().map_or(&[][..], Vec::as_slice);
    let lost = listed.iter().filter(|one| one["answered_by_us"] != true).map(|one| {
        let (listener, address) = (&one["listener"], &one["address"]);
        let why = one["why_not"].as_str().unwrap_or("it has not been proved yet");
        let message = format!("the listener {listener} at {address} is not answered by its server: {why}");
        finding("listener-lost", Severity::Error, message, "find what comes between")
    });
    let subject = Subject { name: admin.to_string(), config: None, findings: lost.collect() };
    let address = |one: &Value| one["address"].as_str()?.parse().ok();
    Running { subject, addresses: listed.iter().filter_map(address).collect() }
}
