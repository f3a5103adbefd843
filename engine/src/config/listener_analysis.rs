//! What is hardly meant in addresses: ports that no sender finds, addresses that cover each other, promises given up.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::Listener;
use super::reader::Reader;
use super::sections::Built;

/// Where senders connect that know nothing but the MX record. RFC 5321 §4.5.4.2.
const SMTP_PORT: u16 = 25;

pub(super) fn analyse(reader: &Reader, built: &Built) {
    let listeners = &built.config.listeners;
    for (listener, &span) in listeners.iter().zip(&built.places.listeners) {
        let Listener { name, bind, exclusive, .. } = listener;
        let ports: BTreeSet<u16> = bind.iter().map(SocketAddr::port).collect();
        if ports.len() > 1 {
            let message = format!(
                "the listener `{name}` binds several ports, {}: servers on the internet connect to port 25 only; \
                 the others get mail from those that are told of them",
                list(&ports)
            );
            reader.warn_as(
                "port-several",
                span,
                message,
                "give each port a listener of its own, with its own terms",
            );
        }
        if ports.contains(&0) && bind.iter().any(|bind| !bind.ip().is_loopback()) {
            let message = "port 0: the system chooses one at each start, and no sender can know it";
            reader.warn_as("port-chosen-by-system", span, message, "write :25");
        }
        if !exclusive {
            let message =
                "exclusive = false: any process of the same user may take a share of the connections";
            reader.warn_as("address-not-exclusive", span, message, "remove it, unless they are meant to");
        }
    }
    let outside = || listeners.iter().flat_map(|it| &it.bind).filter(|bind| !bind.ip().is_loopback());
    if outside().next().is_some() && !outside().any(|bind| bind.port() == SMTP_PORT) {
        let ports: BTreeSet<u16> = outside().map(SocketAddr::port).collect();
        let message = format!(
            "no listener binds port 25, only {}: servers on the internet connect to port 25 and try no other",
            list(&ports)
        );
        let help = "write :25, unless something in front of this server hands its mail on to it";
        reader.warn_as("port-not-25", built.places.listeners[0], message, help);
    }
    overlaps(reader, built);
}

fn overlaps(reader: &Reader, built: &Built) {
    let binds: Vec<(usize, SocketAddr)> = (built.config.listeners.iter().enumerate())
        .flat_map(|(index, listener)| listener.bind.iter().map(move |&bind| (index, bind)))
        .collect();
    for &(index, address) in &binds {
        if let Some((_, all)) = binds.iter().find(|(_, all)| covers(*all, address)) {
            let message =
                format!("{all} is all addresses of that port, {address} too: the start will be refused");
            let help = "give the port to one of them";
            reader.warn_as("address-overlaps", built.places.listeners[index], message, help);
        }
    }
}

fn list(ports: &BTreeSet<u16>) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether `all` is a wildcard over `one`.
fn covers(all: SocketAddr, one: SocketAddr) -> bool {
    let same_family =
        matches!((all.ip(), one.ip()), (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)));
    all.port() != 0 && all.port() == one.port() && same_family && all.ip().is_unspecified() && all != one
}
