//! What reads octets and says what they mean: commands, paths, parameters, content, envelopes, the configuration.

use ringmx::config;
use ringmx::limits;
use ringmx::protocol::command::{self, Command};
use ringmx::protocol::envelope::{Envelope, Writer};
use ringmx::protocol::extension::{Extension, Extensions};
use ringmx::protocol::params::{MailParams, RcptParams};
use ringmx::protocol::path::{ForwardPath, Mailbox, ReversePath};
use ringmx::spool::ack::Ack;

use crate::oracle;
use crate::random::Random;

/// A line: what it means can be written down and read again.
pub fn fuzz_command(data: &[u8]) {
    let line = data.split(|&octet| octet == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let Ok(command) = command::parse(line, Extensions::DEFAULT.with(Extension::Dsn)) else { return };
    let verb = command.verb().as_bytes();
    assert!(line[..verb.len()].eq_ignore_ascii_case(verb));
    // RFC 5321 §4.1.1: white space before the line end is let through.
    let text = str::from_utf8(line.trim_ascii_end()).expect("only UTF-8 is taken");
    assert!(!text.contains(|c: char| c.is_ascii_control()), "no control octet is taken");
    match command {
        Command::Ehlo(name) | Command::Helo(name) => {
            assert!((1..=limits::DOMAIN_LEN_MAX).contains(&name.0.len()));
            assert!(!name.0.iter().any(|octet| b" ()<>,;\"\\".contains(octet)), "fit for a trace field");
        }
        Command::Mail(mail) => {
            if let ReversePath::Mailbox(mailbox) = mail.reverse_path {
                judge_mailbox(&mailbox);
            }
            assert!(line.is_ascii() || mail.params.smtputf8);
        }
        Command::Rcpt(rcpt) => {
            if let ForwardPath::Mailbox(mailbox) = rcpt.forward_path {
                judge_mailbox(&mailbox);
            }
        }
        _ => {}
    }
}

/// A path: its stored form is read back as the same.
pub fn fuzz_path(data: &[u8]) {
    if let Ok((path, rest)) = ForwardPath::parse(data) {
        assert!(data.ends_with(rest) && data.len() > rest.len());
        let mut stored = Vec::new();
        path.write(&mut stored);
        assert_eq!(ForwardPath::parse_stored(&stored), Ok(path));
    }
    if let Ok((ReversePath::Mailbox(mailbox), _)) = ReversePath::parse(data) {
        judge_mailbox(&mailbox);
    }
    if let Ok(mailbox) = Mailbox::parse(data) {
        judge_mailbox(&mailbox);
    }
}

fn judge_mailbox(mailbox: &Mailbox<'_>) {
    assert!((1..=limits::LOCAL_PART_LEN_MAX).contains(&mailbox.local_part.as_bytes().len()));
    assert!((1..=limits::DOMAIN_LEN_MAX).contains(&mailbox.domain.as_bytes().len()));
    let mut stored = Vec::new();
    mailbox.write(&mut stored);
    let text = str::from_utf8(&stored).expect("UTF-8");
    assert!(!text.contains(|c: char| c.is_control()));
    assert_eq!(Mailbox::parse(&stored).as_ref(), Ok(mailbox));
}

/// Parameters: what is taken is taken whatever the case of its letters, and unknown where it is not offered.
pub fn fuzz_params(data: &[u8]) {
    let (offered, upper) = (Extensions::DEFAULT.with(Extension::Dsn), data.to_ascii_uppercase());
    if let Ok(params) = MailParams::parse(data, offered) {
        let again = MailParams::parse(&upper, offered).expect("the same in capitals");
        assert_eq!((params.size, params.body, params.smtputf8), (again.size, again.body, again.smtputf8));
        assert_eq!(params.ret, again.ret);
        let without = MailParams::parse(data, Extensions::DEFAULT);
        assert_eq!(without.is_ok(), params.ret.is_none() && params.envid.is_none());
    }
    if let Ok(params) = RcptParams::parse(data, offered) {
        let again = RcptParams::parse(&upper, offered).expect("the same in capitals");
        assert_eq!(params.notify, again.notify);
        let without = RcptParams::parse(data, Extensions::DEFAULT);
        assert_eq!(without.is_ok(), params == RcptParams::default());
    }
}

/// Content: whole, by octets and in random pieces as the oracle says. The first octet seeds the pieces.
pub fn fuzz_decoder(data: &[u8]) {
    let Some((&seed, input)) = data.split_first() else { return };
    let mut random = Random::new(u64::from(seed));
    let expected = oracle::decode_chunks(input);
    assert_eq!(oracle::chunks_in_pieces([input]), expected);
    assert_eq!(oracle::chunks_in_pieces(input.chunks(1)), expected);
    assert_eq!(oracle::chunks_in_pieces(oracle::random_pieces(input, &mut random)), expected);
    oracle::assert_safe(&expected);

    let expected = oracle::decode(input);
    assert_eq!(oracle::decode_pieces([input]), expected);
    assert_eq!(oracle::decode_pieces(input.chunks(1)), expected);
    assert_eq!(oracle::decode_pieces(oracle::random_pieces(input, &mut random)), expected);
    if let Some(expected) = expected {
        oracle::assert_safe(&expected);
    }
}

/// An envelope: any octets are read or refused; one that is written is read back.
pub fn fuzz_envelope(data: &[u8]) {
    if let Ok(envelope) = Envelope::parse(data) {
        assert_eq!(envelope.recipients().count(), envelope.recipients_count());
        assert!(envelope.recipients().all(|recipient| !recipient.is_empty()));
    }
    let mut written = Vec::new();
    let mut recipients = 0;
    Writer(&mut written).reverse_path(None);
    for line in data.split(|&octet| octet == b'\n') {
        if let Ok(mailbox) = Mailbox::parse(line) {
            Writer(&mut written).forward_path(&ForwardPath::Mailbox(mailbox));
            recipients += 1;
        }
    }
    assert_eq!(
        Envelope::parse(&written).map(|envelope| envelope.recipients_count()).ok(),
        (recipients > 0).then_some(recipients)
    );
}

/// An acknowledgement: what is read is read again when it is written.
pub fn fuzz_ack(data: &[u8]) {
    if let Some(ack) = Ack::parse(data) {
        assert_eq!(Ack::parse(&ack.encode()), Some(ack));
    }
}

/// A configuration: any text is read or refused with a place.
pub fn fuzz_config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let checked = config::check_text(text, "fuzz.toml");
    assert_eq!(
        checked.config.is_none(),
        checked.findings.iter().any(|finding| finding.severity == config::Severity::Error)
    );
}
