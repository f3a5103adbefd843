//! A message as a line of text or of JSON.

use serde_json::{Value, json};

use crate::protocol::deferral::{Action, Deferral, Failure, Mark};
use crate::protocol::envelope::Envelope;
use crate::security::{ClientCertificate, Security};
use crate::store::inspect::{Listed, State};

/// `ID  TIME  STATE  OCTETS  <REVERSE-PATH>  <FORWARD-PATH>, ...  tags TAG, ...`, the last where there are any.
pub(in crate::cli) fn line(listed: &Listed<'_>) -> String {
    let Listed { id, state, .. } = listed;
    let envelope = match Envelope::parse(listed.envelope) {
        Ok(envelope) => {
            let recipients: Vec<_> =
                envelope.recipients().map(|to| format!("<{}>", to.escape_ascii())).collect();
            let tags: Vec<_> = envelope.tags().collect();
            let tags = if tags.is_empty() { String::new() } else { format!("  tags {}", tags.join(", ")) };
            format!("<{}>  {}{tags}", envelope.reverse_path().escape_ascii(), recipients.join(", "))
        }
        Err(error) => error.to_string(),
    };
    let state = state_name(*state);
    let attempts = Deferral::read(listed.envelope).map(|deferral| attempts(&deferral)).unwrap_or_default();
    format!("{id}  {}  {state}  {}  {envelope}{attempts}", utc(listed.received_unix_us), listed.content_len())
}

/// Behind the line of a message that was tried.
fn attempts(deferral: &Deferral) -> String {
    let Deferral { attempts, due_unix_us, last_error, mark, .. } = deferral;
    let by = if *mark == Mark::Held { " by an operator" } else { "" };
    let next = due_unix_us.map_or_else(|| format!("held{by}"), |due| format!("next at {}", utc(due)));
    let error = if last_error.is_empty() { String::new() } else { format!(": {last_error}") };
    format!("  ({attempts} attempts, {next}{error})")
}

pub(in crate::cli) fn envelope_json(listed: &Listed<'_>) -> Value {
    // What is not ASCII in an envelope is no address; it is shown escaped, as `ls` does.
    let text = |octets: &[u8]| octets.escape_ascii().to_string();
    let mut object = json!({
        "id": listed.id.to_string(),
        "received": utc(listed.received_unix_us),
        "state": state_name(listed.state),
        "octets": listed.content_len(),
        "shard": listed.shard,
        "file": listed.path.to_string_lossy(),
        "offset": listed.offset,
    });
    match Envelope::parse(listed.envelope) {
        Ok(envelope) => {
            object["reverse_path"] = text(envelope.reverse_path()).into();
            object["recipients"] = envelope.recipients().map(text).collect();
            object["client"] = envelope.client().map(|(ip, _)| ip.to_string()).into();
            object["client_port"] = envelope.client().map(|(_, port)| port).into();
            object["helo"] = envelope.helo().map(text).into();
            if let Some(security) = envelope.security() {
                object["tls"] = security_json(&security);
            }
            object["requiretls"] = envelope.requiretls().then_some(true).into();
            object["listener"] = envelope.listener().into();
            object["tags"] = envelope.tags().collect();
            let failed = envelope.recipients_with_params().filter_map(|recipient| {
                let Failure { action, status, remote, reason } = Failure::read(recipient.failed?);
                if action != Action::Failed {
                    return None;
                }
                let path = text(recipient.path);
                Some(json!({ "recipient": path, "status": status, "next_hop": remote, "reason": reason }))
            });
            object["failed"] = failed.collect();
        }
        Err(error) => object["error"] = error.to_string().into(),
    }
    if let Some(Deferral { since_unix_us, due_unix_us, attempts, last_error, mark, .. }) =
        Deferral::read(listed.envelope)
    {
        object["attempts"] = attempts.into();
        object["tried_since"] = utc(since_unix_us).into();
        object["next_attempt"] = due_unix_us.map(utc).into();
        object["last_error"] = last_error.into();
        object["mark"] = match mark {
            Mark::None => Value::Null,
            Mark::Held => "held".into(),
            Mark::Released => "released".into(),
        };
    }
    object
}

fn security_json(security: &Security) -> Value {
    let mut object = json!({ "version": security.version.name(), "cipher": security.cipher.name() });
    if let Some(ClientCertificate { fingerprint, verified }) = security.certificate {
        object["client_certificate"] = json!({ "sha256": fingerprint.to_string(), "verified": verified });
    }
    object
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Undelivered => "undelivered",
        State::Delivered => "delivered",
        State::SetAside => "set aside",
    }
}

/// RFC 3339, in seconds.
fn utc(unix_us: u64) -> String {
    let timestamp = i64::try_from(unix_us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    timestamp.map_or_else(|| "-".to_owned(), |timestamp| format!("{timestamp:.0}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::id::{MessageId, SessionId};
    use crate::protocol::deferral::Fate;
    use crate::protocol::envelope::Writer;
    use crate::protocol::path::{ForwardPath, Mailbox};

    #[test]
    fn a_listed_message_shows_its_envelope() {
        let mut envelope = Vec::new();
        let mut writer = Writer(&mut envelope);
        writer.reverse_path(None);
        writer.forward_path(&ForwardPath::Mailbox(Mailbox::parse(b"a@example.com").unwrap()));
        writer.forward_path(&ForwardPath::Postmaster);
        writer.client("192.0.2.7".parse().unwrap(), 4321);
        let mut listed = Listed {
            id: MessageId { session: SessionId(1_763_780_000_000_000 << 8), transaction: 2 },
            received_unix_us: 1_763_780_000_000_000,
            state: State::Undelivered,
            envelope: &envelope,
            content: b"hello\r\n",
            content_file: None,
            shard: 1,
            epoch: 7,
            path: Path::new("x.seg"),
            offset: 4096,
        };
        let id = listed.id;
        assert_eq!(
            line(&listed),
            format!("{id}  2025-11-22T02:53:20Z  undelivered  7  <>  <a@example.com>, <postmaster>")
        );
        let object = envelope_json(&listed);
        assert_eq!(object["recipients"], json!(["a@example.com", "postmaster"]));
        assert_eq!((&object["client"], &object["helo"]), (&json!("192.0.2.7"), &Value::Null));
        assert_eq!(object["tags"], json!([]));
        let mut tagged = envelope.clone();
        let mut writer = Writer(&mut tagged);
        writer.tag("partner");
        writer.tag("no.spf");
        listed.envelope = &tagged;
        assert!(line(&listed).ends_with(", <postmaster>  tags partner, no.spf"), "{}", line(&listed));
        assert_eq!(envelope_json(&listed)["tags"], json!(["partner", "no.spf"]));
        let failure = Failure {
            status: "5.1.1".into(),
            remote: "hop:25".into(),
            reason: "550 nobody".into(),
            ..Failure::default()
        };
        let deferral = Deferral {
            since_unix_us: 1_763_780_000_000_000,
            attempts: 3,
            last_error: "no notice".into(),
            ..Deferral::default()
        };
        let mut tried = Vec::new();
        let fate = |position| if position == 0 { Fate::Failed(&failure) } else { Fate::Stays };
        deferral.rewrite(&envelope, fate, &mut tried);
        listed.envelope = &tried;
        assert!(line(&listed).ends_with("<postmaster>  (3 attempts, held: no notice)"), "{}", line(&listed));
        let object = envelope_json(&listed);
        assert_eq!((&object["attempts"], &object["next_attempt"]), (&json!(3), &Value::Null));
        assert_eq!(object["failed"][0]["reason"], "550 nobody");
        listed.envelope = b"\xff";
        assert!(envelope_json(&listed)["error"].is_string() && line(&listed).contains("ends within a field"));
    }
}
