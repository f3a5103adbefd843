//! `ringmx explain`: which rule decides, stage by stage, and why.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Failure;
use crate::config::{Checked, Config, ConfigError, QUICK_START, Severity, check_file, check_text};
use crate::policy::recipient::NotOurs;
use crate::policy::rules::{Action, Facts, Rule, RuleSpec, Stage};
use crate::protocol::path::{ForwardPath, ReversePath};
use crate::security::{CipherSuite, ClientCertificate, Fingerprint, Secured, Security, Version};

/// Say which rules a session would meet, and what each of them does
///
/// Nothing is sent and nobody is asked: the configuration is read, and its rules are tried as the server tries them.
/// Limits are named, not counted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ringmx explain --client 192.0.2.7
  ringmx explain --config /etc/ringmx.toml --client 192.0.2.7 --helo mail.example.org \\
      --mail a@example.org --rcpt b@example.com --rcpt c@example.com
  ringmx explain --client 2001:db8::1 --mail '<>' --rcpt postmaster --json

Exit status: 0 all is accepted, 1 something is refused, 2 wrong usage or configuration.")]
pub(super) struct ExplainArgs {
    /// The configuration; without it, the built-in quick start
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The address the session comes from
    #[arg(long, value_name = "ADDRESS")]
    client: IpAddr,
    /// The listener it comes to; without it, the first of the configuration
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The name in EHLO
    #[arg(long, value_name = "NAME")]
    helo: Option<String>,
    /// The reverse-path; <> for the null one
    #[arg(long, value_name = "ADDRESS")]
    mail: Option<String>,
    /// The session is under TLS; at the first stage it is not known yet
    #[arg(long)]
    tls: bool,
    /// The certificate that the client shows: sha256:HEX, which nobody verifies, or a DNS name in a verified one
    #[arg(long, value_name = "CERTIFICATE", requires = "tls")]
    client_certificate: Option<String>,
    /// What MAIL announces as the message's size, in octets
    #[arg(long, value_name = "OCTETS")]
    size: Option<u64>,
    /// A recipient; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    rcpt: Vec<String>,
    /// The stages as one JSON object
    #[arg(long)]
    json: bool,
}

/// What one stage comes to.
#[derive(Debug, Serialize)]
struct Step {
    stage: &'static str,
    /// What the stage is about.
    subject: String,
    accepted: bool,
    verdict: String,
    /// The rule that decides, if one does.
    rule: Option<Met>,
    /// Those before it that match and go on: tags, waits and limits.
    also: Vec<Met>,
}

/// A rule that matches.
#[derive(Debug, Serialize)]
struct Met {
    /// In the order of the configuration, from 1 on.
    number: u32,
    place: String,
    action: String,
    /// One for each of its conditions; none where it takes everything.
    reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    listener: String,
    stages: Vec<Step>,
}

/// What is asked about.
struct Asked<'a> {
    config: &'a Config,
    specs: &'a [RuleSpec],
    listener: &'a str,
}

pub(super) fn run(args: &ExplainArgs, out: &mut impl Write) -> Result<u8, Failure> {
    let checked = match &args.config {
        Some(path) => check_file(path),
        None => check_text(QUICK_START, "quick-start.toml"),
    };
    let Checked { config, findings, rules } = checked;
    let Some(config) = config else {
        let findings = findings.into_iter().filter(|finding| finding.severity == Severity::Error).collect();
        return Err(ConfigError { findings }.into());
    };
    let names: Vec<&str> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    let listener = args.listener.as_deref().unwrap_or(names[0]);
    if !names.contains(&listener) {
        return Err(Failure::Usage(format!(
            "no listener is named `{listener}`; there are {}",
            names.join(", ")
        )));
    }
    let stages = Asked { config: &config, specs: &rules, listener }.stages(args)?;
    let is_refused = stages.iter().any(|step| !step.accepted);
    let report = Report { listener: listener.to_owned(), stages };
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        report.stages.iter().try_for_each(|step| step.write(out))?;
    }
    Ok(u8::from(is_refused))
}

impl ExplainArgs {
    /// What would protect the session; version and cipher suite are nothing that a rule asks for.
    fn secured(&self) -> Result<Option<Secured>, Failure> {
        if !self.tls {
            return Ok(None);
        }
        let (certificate, names) = match &self.client_certificate {
            None => (None, Box::default()),
            Some(text) => match text.strip_prefix("sha256:").map(Fingerprint::parse) {
                Some(Some(fingerprint)) => {
                    (Some(ClientCertificate { fingerprint, verified: false }), Box::default())
                }
                Some(None) => {
                    let why = format!("--client-certificate {text} has no 64 hexadecimal digits");
                    return Err(Failure::Usage(why));
                }
                None => {
                    let fingerprint = Fingerprint([0; 32]);
                    let certificate = ClientCertificate { fingerprint, verified: true };
                    (Some(certificate), [text.to_ascii_lowercase().into()].into())
                }
            },
        };
        let security = Security { version: Version::Tls13, cipher: CipherSuite(0), certificate };
        Ok(Some(Secured { security, resumed: false, certificate_names: names }))
    }
}

impl Asked<'_> {
    /// Up to the first that turns the session away; each recipient by itself.
    fn stages(&self, args: &ExplainArgs) -> Result<Vec<Step>, Failure> {
        let (client, secured) = (args.client.into(), args.secured()?);
        let mut facts =
            Facts { client, helo: b"", reverse_path: None, forward_path: None, size: None, secured: None };
        let mut steps = vec![self.step(Stage::Connect, args.client.to_string(), &facts)];
        let goes_on = |steps: &[Step]| steps.iter().all(|step| step.accepted);
        if let Some(helo) = args.helo.as_ref().filter(|_| goes_on(&steps)) {
            facts.helo = helo.as_bytes();
            facts.secured = secured.as_ref();
            steps.push(self.step(Stage::Helo, helo.clone(), &facts));
        }
        let mail = args.mail.as_deref().map(bracketed);
        if let Some(mail) = mail.as_ref().filter(|_| goes_on(&steps)) {
            facts.reverse_path = Some(match ReversePath::parse(mail.as_bytes()) {
                Ok((path, [])) => path,
                _ => return Err(Failure::Usage(format!("--mail {mail} is no reverse-path"))),
            });
            facts.size = args.size;
            steps.push(self.step(Stage::Mail, mail.clone(), &facts));
        }
        if !goes_on(&steps) {
            return Ok(steps);
        }
        // What MAIL said counts for every recipient; without it, the null reverse-path.
        facts.reverse_path.get_or_insert(ReversePath::Null);
        for rcpt in args.rcpt.iter().map(|rcpt| bracketed(rcpt)) {
            let Ok((path, [])) = ForwardPath::parse(rcpt.as_bytes()) else {
                return Err(Failure::Usage(format!("--rcpt {rcpt} is no forward-path")));
            };
            steps.push(self.step(Stage::Rcpt, rcpt.clone(), &Facts { forward_path: Some(&path), ..facts }));
        }
        Ok(steps)
    }

    fn step(&self, stage: Stage, subject: String, facts: &Facts<'_>) -> Step {
        let mut also = Vec::new();
        let mut rule = None;
        for matching in self.config.rules.matching(stage, self.listener, facts) {
            let met = self.met(matching, facts);
            if matching.action.decides() {
                rule = Some((matching, met));
                break;
            }
            also.push(met);
        }
        let (accepted, verdict) = self.verdict(rule.as_ref().map(|(rule, _)| &rule.action), facts);
        Step { stage: stage.name(), subject, accepted, verdict, rule: rule.map(|(_, met)| met), also }
    }

    fn verdict(&self, action: Option<&Action>, facts: &Facts<'_>) -> (bool, String) {
        match action {
            Some(Action::Reject(refusal) | Action::Defer(refusal)) => {
                (false, format!("refused: {}", refusal.text()))
            }
            Some(Action::Drop) => (false, "the connection is closed without a word".to_owned()),
            Some(Action::Relay) => (true, "accepted, wherever its mailbox is".to_owned()),
            Some(_) | None => {
                let why = if action.is_some() { "" } else { ": no rule decides" };
                let Some(path) = facts.forward_path else { return (true, format!("accepted{why}")) };
                match self.config.recipients.table.check(path) {
                    Ok(()) => (true, format!("accepted{why}, and [recipients] has it")),
                    Err(NotOurs::Domain) => {
                        (false, "refused: [recipients] does not have its domain".to_owned())
                    }
                    Err(NotOurs::Mailbox) => {
                        (false, "refused: [recipients] has its domain, but not this mailbox".to_owned())
                    }
                }
            }
        }
    }

    fn met(&self, rule: &Rule, facts: &Facts<'_>) -> Met {
        let spec = &self.specs[rule.number as usize - 1];
        let action = match &rule.action {
            Action::Tag(tag) => format!("tag {}", self.config.rules.tag(*tag)),
            Action::Tarpit(delay) => format!("tarpit {delay:?}"),
            Action::Limit(limit) => format!("limit, beyond it {}", limit.refusal.text()),
            action => action.name().to_owned(),
        };
        let reasons = spec.reasons(self.listener, facts, &self.config.recipients.postmaster_domain);
        Met {
            number: rule.number,
            place: rule.place.to_string(),
            action,
            reasons: reasons.unwrap_or_default(),
        }
    }
}

impl Step {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{} {}: {}", self.stage, self.subject, self.verdict)?;
        self.rule.iter().chain(&self.also).try_for_each(|met| {
            let reasons =
                if met.reasons.is_empty() { "takes everything".to_owned() } else { met.reasons.join(", ") };
            writeln!(out, "  rule {} ({}), {}: {reasons}", met.number, met.place, met.action)
        })
    }
}

fn bracketed(path: &str) -> String {
    if path.starts_with('<') { path.to_owned() } else { format!("<{path}>") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
[[rule]]
stage = "connect"
client = ["192.0.2.0/24", "192.0.0.0/16"]
action = "tag"
tag = "near"
[[rule]]
stage = "connect"
client = ["198.51.100.0/24"]
action = "reject"
[[rule]]
stage = "mail"
from = [".bad.example"]
size_over = "1kB"
action = "defer"
[[rule]]
stage = "rcpt"
to = ["partner.example"]
action = "relay"
"#;

    fn explain(args: &[&str]) -> (u8, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        std::fs::write(&path, format!("{QUICK_START}{RULES}")).unwrap();
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ExplainArgs,
        }
        let line = [&["explain", "--config", path.to_str().unwrap()], args].concat();
        let args = <Line as clap::Parser>::try_parse_from(line).unwrap().args;
        let mut out = Vec::new();
        let status = run(&args, &mut out).unwrap();
        (status, String::from_utf8(out).unwrap().replace(path.to_str().unwrap(), "a.toml"))
    }

    #[test]
    fn stage_by_stage_with_reasons() {
        let (status, text) = explain(&[
            "--client",
            "192.0.2.7",
            "--helo",
            "x",
            "--mail",
            "a@x.bad.example",
            "--rcpt",
            "b@example.com",
            "--rcpt",
            "b@partner.example",
            "--rcpt",
            "b@example.org",
        ]);
        let line =
            |text: &str| format!("a.toml:{}", QUICK_START.lines().count() + text.parse::<usize>().unwrap());
        let (near, relay) = (line("2"), line("16"));
        assert_eq!(
            text,
            format!(
                "connect 192.0.2.7: accepted: no rule decides\n  \
                 rule 1 ({near}), tag near: client 192.0.2.7 is in 192.0.2.0/24\n\
                 helo x: accepted: no rule decides\n\
                 mail <a@x.bad.example>: accepted: no rule decides\n\
                 rcpt <b@example.com>: accepted: no rule decides, and [recipients] has it\n\
                 rcpt <b@partner.example>: accepted, wherever its mailbox is\n  \
                 rule 4 ({relay}), relay: recipient b@partner.example lies in partner.example\n\
                 rcpt <b@example.org>: refused: [recipients] does not have its domain\n"
            )
        );
        assert_eq!(status, 1);
    }

    #[test]
    fn a_refusal_is_the_end() {
        let (status, text) = explain(&["--client", "198.51.100.1", "--mail", "<>", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, report["stages"].as_array().map(Vec::len)), (1, Some(1)));
        assert_eq!(report["stages"][0]["rule"]["number"], 2);
        assert!(report["stages"][0]["verdict"].as_str().unwrap().starts_with("refused: 554 5.7.1 "));
        let (status, text) = explain(&["--client", "::1", "--mail", "a@x.bad.example", "--size", "1001"]);
        assert!(
            status == 1 && text.contains("lies in .bad.example, announced size 1001 is over 1000"),
            "{text}"
        );
    }
}
