//! What shows only where several configurations, or running servers, are seen side by side.

use std::net::SocketAddr;

use super::hops::{self, Behind};
use super::live::Running;
use super::{Subject, finding};
use crate::config::{Config, Finding, Severity};

pub(super) fn compare(subjects: &[Subject], running: &[Running]) -> Vec<Finding> {
    let configs: Vec<(&str, &Config)> =
        subjects.iter().filter_map(|subject| Some((&*subject.name, subject.config.as_ref()?))).collect();
    let mut findings = Vec::new();
    for (index, one) in configs.iter().enumerate() {
        for other in &configs[..index] {
            findings.extend(pair(*other, *one));
        }
    }
    let known: Vec<SocketAddr> = running.iter().flat_map(|running| running.addresses.clone()).collect();
    if !running.is_empty() {
        findings.extend(configs.iter().flat_map(|&(name, config)| not_running(name, config, &known)));
    }
    if subjects.len() + running.len() > 1 {
        for (index, &front) in configs.iter().enumerate() {
            let others = [&configs[..index], &configs[index + 1..]].concat();
            let behind = Behind { others: &others, running: &known, is_own: &hops::is_own };
            findings.extend(hops::missed(front, &behind));
        }
    }
    findings
}

fn binds(config: &Config) -> impl Iterator<Item = &SocketAddr> {
    config.listeners.iter().flat_map(|listener| &listener.bind)
}

/// Two configurations that cannot be served on one machine.
fn pair((name, config): (&str, &Config), (other_name, other): (&str, &Config)) -> Vec<Finding> {
    let mut findings = Vec::new();
    for address in binds(config) {
        let same_port = |it: &&SocketAddr| {
            it.port() != 0 && it.port() == address.port() && it.is_ipv4() == address.is_ipv4()
        };
        let overlaps = |it: &&SocketAddr| {
            it.ip() == address.ip() || it.ip().is_unspecified() || address.ip().is_unspecified()
        };
        if let Some(theirs) = binds(other).filter(same_port).find(overlaps) {
            let message = format!(
                "{name} binds {address} and {other_name} binds {theirs}: one machine has room for one"
            );
            let help = "nothing to do if they are for different machines";
            findings.push(finding("across-same-address", Severity::Warning, message, help));
        }
    }
    if config.spool.path == other.spool.path {
        let message = format!("{name} and {other_name} have the same spool, {}", config.spool.path.display());
        let help = "nothing to do if they are for different machines";
        findings.push(finding("across-same-spool", Severity::Warning, message, help));
    }
    findings
}

/// What is configured and not listened on.
fn not_running(name: &str, config: &Config, known: &[SocketAddr]) -> Vec<Finding> {
    let missing = binds(config).filter(|address| address.port() != 0 && !known.contains(address));
    missing
        .map(|address| {
            let message = format!("{name} binds {address}, and no server that was asked listens there");
            let help = "reload or restart the server, or ask the right one";
            finding("across-not-running", Severity::Warning, message, help)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_text;

    fn subject(name: &str, bind: &str, spool: &str) -> Subject {
        let text = format!(
            "hostname = \"mx.example.com\"\n[[listener]]\nbind = [\"{bind}\"]\n[spool]\npath = \"{spool}\"\n\
             [recipients]\ndomains = [\"example.com\"]\n[[route]]\ndomains = [\"*\"]\ndeliver = \"hold\"\n"
        );
        let checked = check_text(&text, name);
        Subject { name: name.to_owned(), config: checked.config, findings: Vec::new() }
    }

    fn codes(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn two_configurations_for_one_machine_are_told_apart() {
        let one = || subject("a.toml", "0.0.0.0:25", "/tmp/a");
        for (bind, spool, expected) in [
            ("192.0.2.1:25", "/tmp/b", vec!["across-same-address"]),
            ("192.0.2.1:25", "/tmp/a", vec!["across-same-address", "across-same-spool"]),
            ("192.0.2.1:26", "/tmp/b", vec![]),
            ("[::]:25", "/tmp/b", vec![]),
        ] {
            let found = compare(&[one(), subject("b.toml", bind, spool)], &[]);
            assert_eq!(codes(&found), expected, "{bind} {spool}");
        }
    }

    #[test]
    fn what_no_server_listens_on_is_told() {
        let running = |address: &str| Running {
            subject: Subject { name: "running".into(), config: None, findings: Vec::new() },
            addresses: vec![address.parse().unwrap()],
        };
        let one = || [subject("a.toml", "0.0.0.0:25", "/tmp/a")];
        assert_eq!(codes(&compare(&one(), &[running("0.0.0.0:25")])), [""; 0]);
        assert_eq!(codes(&compare(&one(), &[running("0.0.0.0:26")])), ["across-not-running"]);
    }
}
