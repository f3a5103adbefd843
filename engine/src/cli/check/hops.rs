//! Where the routes of one configuration meet the listeners of the others: a front end and what stands behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::finding;
use crate::config::{
    Addressed, Config, Deliver, DomainPattern, Finding, Listener, NextHop, Relay, RelayProtocol,
};
use crate::config::{RelayTls, Severity};
use crate::policy::recipient::NotOurs;
use crate::policy::rules::{Action, Facts, Stage};
use crate::protocol::path::{ForwardPath, ReversePath};
use crate::session::TlsMode;

/// A configuration and its name.
pub(super) type Named<'a> = (&'a str, &'a Config);

/// What next hops are looked for in.
pub(super) struct Behind<'a> {
    pub(super) others: &'a [Named<'a>],
    /// What running servers listen on.
    pub(super) running: &'a [SocketAddr],
    /// Whether an address is this machine's.
    pub(super) is_own: &'a dyn Fn(IpAddr) -> bool,
}

/// Loopback, or one that can be bound here.
pub(super) fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Next hops of `front` where nobody listens, or where they will be refused.
pub(super) fn missed(front: Named<'_>, behind: &Behind<'_>) -> Vec<Finding> {
    let routes = front.1.routes.iter().enumerate().filter_map(|(index, route)| match &route.deliver {
        Deliver::Relay(relay) => Some((&**relay, domains(front.1, index))),
        _ => None,
    });
    let bounce = front.1.bounce.iter().map(|bounce| (&*bounce.relay, Vec::new()));
    let mut findings = Vec::new();
    for (relay, domains) in routes.chain(bounce) {
        for address in relay.next_hops.iter().filter_map(address) {
            findings.extend(behind.hop(front, relay, &domains, address));
        }
    }
    findings.dedup_by(|one, other| one.message == other.message);
    findings
}

/// Those that are known without asking anybody.
fn address(hop: &NextHop) -> Option<SocketAddr> {
    let NextHop::Tcp { host, port } = hop else { return None };
    let ip = if host == "localhost" { Ok(Ipv4Addr::LOCALHOST.into()) } else { host.parse() };
    Some(SocketAddr::new(ip.ok()?, *port))
}

/// The domains that go by a route whatever a message is like.
fn domains(config: &Config, index: usize) -> Vec<&str> {
    let route = &config.routes[index];
    let exact = route.domains.iter().filter_map(|pattern| match pattern {
        DomainPattern::Exact(domain) => Some(&**domain),
        DomainPattern::Any => None,
    });
    let own = config
        .recipients
        .domains
        .iter()
        .map(String::as_str)
        .filter(|_| route.domains.contains(&DomainPattern::Any));
    let goes_there = |domain: &&str| {
        let mailbox = format!("postmaster@{domain}");
        let addressed = Addressed { mailbox: mailbox.as_bytes(), domain, listener: None, tags: &[] };
        config.route_for(&addressed).is_some_and(|(found, _)| found == index)
    };
    exact.chain(own).filter(goes_there).collect()
}

fn meets(bind: SocketAddr, address: SocketAddr) -> bool {
    let is_same = bind.ip() == address.ip() || bind.ip().is_unspecified();
    bind.port() == address.port() && bind.is_ipv4() == address.is_ipv4() && is_same
}

impl Behind<'_> {
    fn hop(&self, front: Named<'_>, relay: &Relay, domains: &[&str], address: SocketAddr) -> Vec<Finding> {
        let listeners = |config: &&Config| {
            config.listeners.iter().find(|it| it.bind.iter().any(|&bind| meets(bind, address))).cloned()
        };
        let met = self.others.iter().find_map(|&(name, config)| Some((name, config, listeners(&config)?)));
        let (name, _) = front;
        if let Some((other, config, listener)) = met {
            let back = Back { config, listener: &listener, clients: clients(front.1, address) };
            let whys = back.refusals(front.1, relay, domains);
            let told = |(why, help): (String, &str)| {
                let at = format!("listener `{}` of {other}", listener.name);
                let message = format!("{name} hands mail to {address}, and the {at} refuses it: {why}");
                finding("across-hop-refused", Severity::Warning, message, help)
            };
            return whys.into_iter().map(told).collect();
        }
        let is_met = listeners(&front.1).is_some() || self.running.iter().any(|&bind| meets(bind, address));
        let mut binds = self.others.iter().flat_map(|(_, config)| &config.listeners).flat_map(|it| &it.bind);
        let is_theirs = binds.any(|bind| bind.ip() == address.ip())
            || self.running.iter().any(|it| it.ip() == address.ip());
        if is_met || !(is_theirs || (self.is_own)(address.ip())) {
            return Vec::new();
        }
        let message = format!("{name} hands mail to {address}, and none of the others listens there");
        let help = "correct `next_hop`, or bind a listener of the server behind to it; nothing to do if another program has it";
        vec![finding("across-hop-nowhere", Severity::Warning, message, help)]
    }
}

/// Where a connection to this address may come from, as far as that is known.
fn clients(front: &Config, to: SocketAddr) -> Vec<IpAddr> {
    match to.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => vec![Ipv4Addr::LOCALHOST.into()],
        IpAddr::V6(ip) if ip.is_loopback() => vec![Ipv6Addr::LOCALHOST.into()],
        _ => {
            let binds = front.listeners.iter().flat_map(|listener| &listener.bind).map(SocketAddr::ip);
            binds
                .filter(|ip| ip.is_ipv4() == to.is_ipv4() && !ip.is_unspecified() && !ip.is_loopback())
                .collect()
        }
    }
}

/// The listener that a next hop leads to.
struct Back<'a> {
    config: &'a Config,
    listener: &'a Listener,
    clients: Vec<IpAddr>,
}

impl Back<'_> {
    /// Why it takes no mail of this relay, or none for one of the domains; and what to do.
    fn refusals(&self, front: &Config, relay: &Relay, domains: &[&str]) -> Vec<(String, &'static str)> {
        let whole = self.of_protocol(relay).or_else(|| self.of_client());
        if let Some(refusal) = whole {
            return vec![refusal];
        }
        let refused: Vec<&str> =
            domains.iter().copied().filter(|domain| self.refuses(front, domain)).collect();
        if refused.is_empty() {
            return Vec::new();
        }
        let help = "name them in its [recipients], or let it relay them for this client";
        vec![(format!("it takes no mail for {}", refused.join(", ")), help)]
    }

    fn of_protocol(&self, relay: &Relay) -> Option<(String, &'static str)> {
        let (ours, theirs) = (&relay.tls, self.listener.tls);
        let wants_tls = matches!(ours, RelayTls::Required | RelayTls::Verified(_));
        if relay.protocol == RelayProtocol::Lmtp {
            return Some(("it speaks SMTP, not LMTP".to_owned(), "write deliver = \"smtp\""));
        }
        if theirs == TlsMode::Implicit {
            let help = "write tls = \"required\" at the listener: routes ask for TLS by STARTTLS";
            return Some(("it begins with TLS, which no route does".to_owned(), help));
        }
        if wants_tls && theirs == TlsMode::Off {
            let why = format!("the route has tls = \"{}\", and it offers none", ours.name());
            return Some((why, "write tls = \"starttls\" at the listener"));
        }
        if *ours == RelayTls::Off && theirs == TlsMode::Required {
            let why = "it takes no mail without TLS, and the route has tls = \"off\"".to_owned();
            return Some((why, "leave `tls` out of the route"));
        }
        None
    }

    /// If that is so wherever it comes from.
    fn of_client(&self) -> Option<(String, &'static str)> {
        let first = *self.clients.first()?;
        let all = |is: &dyn Fn(IpAddr) -> bool| self.clients.iter().all(|&client| is(client));
        if all(&|client| self.listener.guard.proxies.contains(client)) {
            let why = format!("it awaits a PROXY header from {first}, and routes send none");
            return Some((why, "leave the front end out of `proxy_protocol`; `xclient` is for it"));
        }
        let is_refused = |client| {
            let facts = self.facts(client, b"");
            self.decides(Stage::Connect, &facts, |action| {
                matches!(action, Action::Reject(_) | Action::Defer(_) | Action::Drop)
            })
        };
        let help = "put a rule in front that accepts it";
        all(&is_refused).then(|| (format!("a rule refuses {first}"), help))
    }

    fn refuses(&self, front: &Config, domain: &str) -> bool {
        let text = format!("<postmaster@{domain}>");
        let Ok((path, [])) = ForwardPath::parse(text.as_bytes()) else { return false };
        let is_ours = self.config.recipients.table.check(&path) != Err(NotOurs::Domain);
        let is_taken = |client| {
            let facts = Facts {
                reverse_path: Some(ReversePath::Null),
                forward_path: Some(&path),
                ..self.facts(client, front.hostname.as_bytes())
            };
            is_ours || self.decides(Stage::Rcpt, &facts, |action| matches!(action, Action::Relay))
        };
        match &*self.clients {
            // Rules may know the front end by its address.
            [] => !is_ours && !self.config.rules.has(Stage::Rcpt),
            clients => !clients.iter().any(|&client| is_taken(client)),
        }
    }

    fn facts<'f>(&self, client: IpAddr, helo: &'f [u8]) -> Facts<'f> {
        let client = client.into();
        Facts { client, helo, reverse_path: None, forward_path: None, size: None, secured: None }
    }

    /// Whether the first rule that decides is of this kind.
    fn decides(&self, stage: Stage, facts: &Facts<'_>, is: impl Fn(&Action) -> bool) -> bool {
        let mut rules = self.config.rules.matching(stage, &self.listener.name, facts);
        rules.find(|rule| rule.action.decides()).is_some_and(|rule| is(&rule.action))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_text;

    fn config(text: &str) -> Config {
        let checked = check_text(text, "a.toml");
        checked.config.unwrap_or_else(|| panic!("{:?}", checked.findings))
    }

    /// Takes mail for example.com on port 25 and hands it on.
    fn front(route: &str) -> Config {
        config(&format!(
            "hostname = \"front.example.com\"\n[[listener]]\nbind = [\"10.0.0.1:25\"]\n[recipients]\n\
             domains = [\"example.com\"]\n[[route]]\ndomains = [\"*\"]\n{route}\n"
        ))
    }

    fn back(listener: &str, rest: &str) -> Config {
        config(&format!(
            "hostname = \"back.example.com\"\n[[listener]]\n{listener}\n[recipients]\n\
             domains = [\"example.com\"]\n[[route]]\ndomains = [\"*\"]\ndeliver = \"hold\"\n\
             [[certificate]]\nchain = \"/tmp/a.pem\"\nkey = \"/tmp/a.key\"\n{rest}"
        ))
    }

    fn found(front: &Config, back: &Config, running: &[SocketAddr]) -> Vec<(&'static str, String)> {
        let is_own = |ip: IpAddr| ip.is_loopback();
        let behind = Behind { others: &[("back.toml", back)], running, is_own: &is_own };
        let findings = missed(("front.toml", front), &behind);
        findings.into_iter().map(|finding| (finding.code, finding.message)).collect()
    }

    const TO_LOOPBACK: &str = "deliver = \"smtp\"\nnext_hop = [\"127.0.0.3:2525\"]";
    const LOOPBACK: &str = "bind = [\"127.0.0.3:2525\"]";

    #[test]
    fn a_hop_must_meet_a_listener_of_the_others() {
        let hop = |address: &str| front(&format!("deliver = \"smtp\"\nnext_hop = [\"{address}\"]"));
        for (address, binds, is_missed) in [
            ("127.0.0.3:2525", "127.0.0.3:2525", false),
            ("127.0.0.3:2525", "0.0.0.0:2525", false),
            ("localhost:2525", "127.0.0.1:2525", false),
            ("[::1]:2525", "[::]:2525", false),
            ("127.0.0.3:2526", "127.0.0.3:2525", true),
            ("[::1]:2525", "127.0.0.1:2525", true),
            ("10.0.0.2:26", "10.0.0.2:25", true),
            // Whose they are is not known.
            ("10.0.0.3:25", "10.0.0.2:25", false),
            ("mail.internal:26", "10.0.0.2:25", false),
            // Its own: no matter of the others.
            ("10.0.0.1:25", "10.0.0.2:25", false),
        ] {
            let found = found(&hop(address), &back(&format!("bind = [\"{binds}\"]"), ""), &[]);
            let codes: Vec<_> = found.iter().map(|(code, _)| *code).collect();
            let expected = if is_missed { &["across-hop-nowhere"][..] } else { &[] };
            assert_eq!(codes, expected, "{address} {binds} {found:?}");
        }
        let running = ["127.0.0.3:2525".parse().unwrap()];
        assert_eq!(found(&hop("127.0.0.3:2525"), &back("bind = [\"10.0.0.2:25\"]", ""), &running), []);
        assert_eq!(found(&hop("127.0.0.3:2526"), &back("bind = [\"10.0.0.2:25\"]", ""), &running).len(), 1);
    }

    #[test]
    fn a_listener_that_refuses_the_front_end_is_told() {
        let rule = |stage: &str, rest: &str| format!("[[rule]]\nstage = \"{stage}\"\n{rest}\n");
        let drop = rule("connect", "client = [\"127.0.0.0/8\"]\naction = \"drop\"");
        let accept = rule("connect", "client = [\"127.0.0.1\"]\naction = \"accept\"");
        for (route, listener, rest, why) in [
            ("", "", "", None),
            ("", "proxy_protocol = [\"127.0.0.0/8\"]", "", Some("awaits a PROXY header from 127.0.0.1")),
            ("", "proxy_protocol = [\"10.0.0.0/8\"]", "", None),
            ("", "tls = \"implicit\"", "", Some("begins with TLS")),
            ("", "tls = \"required\"", "", None),
            ("tls = \"off\"", "tls = \"required\"", "", Some("no mail without TLS")),
            ("tls = \"required\"", "", "", Some("offers none")),
            ("tls = \"required\"", "tls = \"starttls\"", "", None),
            ("", "", &*drop, Some("a rule refuses 127.0.0.1")),
            ("", "", &*format!("{accept}{drop}"), None),
        ] {
            let front = front(&format!("{TO_LOOPBACK}\n{route}"));
            let found = found(&front, &back(&format!("{LOOPBACK}\n{listener}"), rest), &[]);
            match why {
                None => assert_eq!(found, [], "{route} {listener} {rest}"),
                Some(why) => {
                    assert_eq!((found.len(), found[0].0), (1, "across-hop-refused"), "{found:?}");
                    assert!(found[0].1.contains(why), "{why}: {}", found[0].1);
                }
            }
        }
        let lmtp = front(&TO_LOOPBACK.replace("smtp", "lmtp"));
        assert!(found(&lmtp, &back(LOOPBACK, ""), &[])[0].1.contains("not LMTP"));
    }

    #[test]
    fn domains_that_nobody_behind_takes_are_named() {
        let text = format!("{TO_LOOPBACK}\n[[route]]\ndomains = [\"example.com\"]\ndeliver = \"hold\"\n");
        let others = |route: &str, domains: &str| {
            let config =
                "hostname = \"front.example.com\"\n[[listener]]\nbind = [\"10.0.0.1:25\"]\n[recipients]\n";
            self::config(&format!("{config}domains = [{domains}]\n[[route]]\ndomains = [{route}]\n{text}"))
        };
        let relay = "[[rule]]\nstage = \"rcpt\"\nclient = [\"127.0.0.1\"]\naction = \"relay\"\n";
        for (route, domains, rest, why) in [
            ("\"*\"", "\"example.com\"", "", None),
            ("\"*\"", "\"example.com\", \"a.example\", \"b.example\"", "", Some("a.example, b.example")),
            ("\"a.example\"", "\"example.com\", \"a.example\"", "", Some("no mail for a.example")),
            ("\"*\"", "\"example.com\", \"a.example\"", relay, None),
        ] {
            let found = found(&others(route, domains), &back(LOOPBACK, rest), &[]);
            let whys: Vec<&str> = found.iter().map(|(_, message)| message.as_str()).collect();
            assert_eq!(whys.len(), usize::from(why.is_some()), "{whys:?}");
            assert!(why.is_none_or(|why| whys[0].ends_with(why)), "{whys:?}");
        }
    }
}
