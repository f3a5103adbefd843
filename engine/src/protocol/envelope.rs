//! The stored form of an envelope: fields one after the other in one flat run of octets, so that taking a recipient is
//! one append and nothing is allocated for it.
//!
//! ```text
//! field = tag (1 octet) len (2 octets, little endian) value (len octets)
//! ```
//!
//! | tag | field | value |
//! |---|---|---|
//! | 1 | client | 4 or 16 octets of address, 2 of port, both most significant first |
//! | 2 | helo | the name given with EHLO or HELO |
//! | 3 | body | 0: 7BIT, 1: 8BITMIME |
//! | 4 | listener | the listener's name, UTF-8 |
//! | 5 | received | microseconds since 1970, 8 octets, little endian |
//! | 6 | ret | RET of MAIL (RFC 3461 §4.3). 0: FULL, 1: HDRS |
//! | 7 | envid | ENVID of MAIL (§4.4), in xtext |
//! | 8 | tag | a tag that a rule gave the message, ASCII; once for each |
//! | 9 | security | of TLS: version, cipher suite (2 octets each, big endian); of a client's certificate SHA-256, 1: verified or 0 |
//! | 32, 33 | deferral, last error | of a message that was tried before: see [`super::deferral`] |
//! | 128 | reverse-path | mailbox as the client wrote it, without brackets; empty: the null reverse-path; exactly once |
//! | 129 | forward-path | mailbox as the client wrote it, or `postmaster`; once for each recipient, in order, at least once |
//! | 130 | smtputf8 | empty: MAIL had SMTPUTF8 (RFC 6531), so that addresses and header section may be UTF-8 |
//! | 131 | notify | NOTIFY of the RCPT before it (RFC 3461 §4.1): 0 NEVER, or the sum of 1 SUCCESS, 2 FAILURE, 4 DELAY |
//! | 132 | orcpt | ORCPT of the RCPT before it (§4.2): `addr-type;xtext` |
//! | 133 | failed | of a recipient whose delivery has failed, and whose sender is to be told: see [`super::deferral::Failure`] |
//! | 134 | mark | of a message that was tried before, in front of all others but 32 and 33: see [`super::deferral::Mark`] |
//! | 135 | requiretls | empty: MAIL had REQUIRETLS (RFC 8689), so that no next hop gets it without TLS |
//!
//! Tags below 128 are optional, may stand once (8 may be repeated), and a reader skips those that it does not know. Of
//! the others it must know each one, since leaving it out would deliver wrongly: an unknown one is an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::deferral::Mark;
use super::params::{Body, Notify, RcptParams, Ret};
use super::path::{ForwardPath, Mailbox};
use crate::security::Security;

const TAG_CLIENT: u8 = 1;
const TAG_HELO: u8 = 2;
const TAG_BODY: u8 = 3;
const TAG_LISTENER: u8 = 4;
const TAG_RECEIVED: u8 = 5;
const TAG_RET: u8 = 6;
const TAG_ENVID: u8 = 7;
const TAG_TAG: u8 = 8;
const TAG_SECURITY: u8 = 9;
/// The first tag that a reader must know.
const TAG_CRITICAL_MIN: u8 = 128;
const TAG_REVERSE_PATH: u8 = 128;
pub(super) const TAG_FORWARD_PATH: u8 = 129;
const TAG_SMTPUTF8: u8 = 130;
pub(super) const TAG_NOTIFY: u8 = 131;
pub(super) const TAG_ORCPT: u8 = 132;
pub(super) const TAG_FAILED: u8 = 133;
pub(super) const TAG_MARK: u8 = 134;
const TAG_REQUIRETLS: u8 = 135;

/// Octets of a field before its value.
const FIELD_HEADER_LEN: usize = 3;

/// Appends fields to an envelope that begins empty; in any order, but what belongs to a recipient stands behind it.
#[derive(Debug)]
pub struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    /// `None` is the null reverse-path. Exactly once.
    pub fn reverse_path(&mut self, mailbox: Option<&Mailbox<'_>>) {
        self.field_with(TAG_REVERSE_PATH, |out| {
            if let Some(mailbox) = mailbox {
                mailbox.write(out);
            }
        });
    }

    /// Once for each recipient.
    pub fn forward_path(&mut self, path: &ForwardPath<'_>) {
        self.field_with(TAG_FORWARD_PATH, |out| path.write(out));
    }

    /// The parameters of the recipient that was appended last.
    pub fn rcpt_params(&mut self, params: &RcptParams<'_>) {
        if let Some(notify) = params.notify {
            self.field_with(TAG_NOTIFY, |out| out.push(notify.bits()));
        }
        if let Some(orcpt) = params.orcpt {
            self.field_with(TAG_ORCPT, |out| out.extend_from_slice(orcpt));
        }
    }

    pub fn smtputf8(&mut self) {
        self.field_with(TAG_SMTPUTF8, |_| {});
    }

    pub fn requiretls(&mut self) {
        self.field_with(TAG_REQUIRETLS, |_| {});
    }

    pub fn ret(&mut self, ret: Ret) {
        self.field_with(TAG_RET, |out| out.push(u8::from(ret == Ret::Headers)));
    }

    pub fn envid(&mut self, envid: &[u8]) {
        self.field_with(TAG_ENVID, |out| out.extend_from_slice(envid));
    }

    /// Once for each tag.
    pub fn tag(&mut self, tag: &str) {
        self.field_with(TAG_TAG, |out| out.extend_from_slice(tag.as_bytes()));
    }

    pub fn security(&mut self, security: &Security) {
        self.field_with(TAG_SECURITY, |out| security.write(out));
    }

    pub fn client(&mut self, address: IpAddr, port: u16) {
        self.field_with(TAG_CLIENT, |out| {
            match address {
                IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
            }
            out.extend_from_slice(&port.to_be_bytes());
        });
    }

    pub fn helo(&mut self, name: &[u8]) {
        self.field_with(TAG_HELO, |out| out.extend_from_slice(name));
    }

    pub fn body(&mut self, body: Body) {
        self.field_with(TAG_BODY, |out| out.push(u8::from(body == Body::EightBitMime)));
    }

    pub fn listener(&mut self, name: &str) {
        let len = name.floor_char_boundary(usize::from(u16::MAX));
        self.field_with(TAG_LISTENER, |out| out.extend_from_slice(&name.as_bytes()[..len]));
    }

    pub fn received(&mut self, unix_us: u64) {
        self.field_with(TAG_RECEIVED, |out| out.extend_from_slice(&unix_us.to_le_bytes()));
    }

    /// Appends a field whose value `write` appends; cut at 65,535 octets, which the grammar of paths and names stays
    /// far below, so that the length can never lie.
    pub(super) fn field_with(&mut self, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
        let out = &mut *self.0;
        out.extend_from_slice(&[tag, 0, 0]);
        let start = out.len();
        write(out);
        let len = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
        out.truncate(start + usize::from(len));
        out[start - 2..start].copy_from_slice(&len.to_le_bytes());
    }
}

/// Why octets are no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the envelope ends within a field")]
    Truncated,
    #[error(
        "the envelope has a field with tag {0}, which must be understood and is not: written by a newer version?"
    )]
    UnknownTag(u8),
    #[error("the envelope has the field with tag {0} twice")]
    Duplicate(u8),
    #[error("the envelope's field with tag {0} has a value that is not of its form")]
    BadValue(u8),
    #[error("the envelope has no reverse-path")]
    NoReversePath,
    #[error("the envelope has no forward-path")]
    NoForwardPath,
    #[error("the envelope has a field with tag {0} that belongs to a recipient, and none before it")]
    NoRecipientBefore(u8),
}

/// One recipient of a stored envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'a> {
    /// `local-part@domain` or `postmaster`.
    pub path: &'a [u8],
    pub params: RcptParams<'a>,
    /// The stored form of a [`Failure`](super::deferral::Failure).
    pub failed: Option<&'a [u8]>,
}

/// Reader of a stored envelope; borrows from its octets.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// All fields are whole.
    fields: &'a [u8],
    reverse_path: &'a [u8],
    recipients_count: usize,
    client: Option<(IpAddr, u16)>,
    helo: Option<&'a [u8]>,
    body: Option<Body>,
    listener: Option<&'a str>,
    received_unix_us: Option<u64>,
    smtputf8: bool,
    requiretls: bool,
    ret: Option<Ret>,
    envid: Option<&'a [u8]>,
    security: Option<Security>,
}

impl<'a> Envelope<'a> {
    /// Checks the whole of the envelope once; the readers below do not fail.
    pub fn parse(octets: &'a [u8]) -> Result<Self, EnvelopeError> {
        let (mut reverse_path, mut smtputf8, mut requiretls, mut mark) = (None, None, None, None);
        let mut params = None;
        let mut envelope = Self {
            fields: octets,
            reverse_path: b"",
            recipients_count: 0,
            client: None,
            helo: None,
            body: None,
            listener: None,
            received_unix_us: None,
            smtputf8: false,
            requiretls: false,
            ret: None,
            envid: None,
            security: None,
        };
        let mut rest = octets;
        while !rest.is_empty() {
            let (tag, value, after) = field(rest).ok_or(EnvelopeError::Truncated)?;
            rest = after;
            match tag {
                TAG_CLIENT => set(&mut envelope.client, tag, client(value))?,
                TAG_HELO => set(&mut envelope.helo, tag, Some(value))?,
                TAG_BODY => set(&mut envelope.body, tag, body(value))?,
                TAG_LISTENER => set(&mut envelope.listener, tag, str::from_utf8(value).ok())?,
                TAG_RECEIVED => {
                    set(&mut envelope.received_unix_us, tag, value.try_into().ok().map(u64::from_le_bytes))?;
                }
                TAG_REVERSE_PATH => set(&mut reverse_path, tag, Some(value))?,
                TAG_FORWARD_PATH if value.is_empty() => return Err(EnvelopeError::BadValue(tag)),
                TAG_FORWARD_PATH => {
                    envelope.recipients_count += 1;
                    params = Some(RcptParams::default());
                }
                TAG_SMTPUTF8 => set(&mut smtputf8, tag, value.is_empty().then_some(()))?,
                TAG_REQUIRETLS => set(&mut requiretls, tag, value.is_empty().then_some(()))?,
                TAG_RET => set(&mut envelope.ret, tag, ret(value))?,
                TAG_ENVID => set(&mut envelope.envid, tag, Some(value))?,
                TAG_SECURITY => set(&mut envelope.security, tag, Security::read(value))?,
                TAG_NOTIFY | TAG_ORCPT => {
                    rcpt_param(params.as_mut().ok_or(EnvelopeError::NoRecipientBefore(tag))?, tag, value)?;
                }
                TAG_FAILED if params.is_none() => return Err(EnvelopeError::NoRecipientBefore(tag)),
                TAG_FAILED => {}
                TAG_MARK => set(&mut mark, tag, Mark::read(value))?,
                _ if tag >= TAG_CRITICAL_MIN => return Err(EnvelopeError::UnknownTag(tag)),
                _ => {}
            }
        }
        envelope.reverse_path = reverse_path.ok_or(EnvelopeError::NoReversePath)?;
        (envelope.smtputf8, envelope.requiretls) = (smtputf8.is_some(), requiretls.is_some());
        if envelope.recipients_count == 0 { Err(EnvelopeError::NoForwardPath) } else { Ok(envelope) }
    }

    /// `local-part@domain`; empty for the null reverse-path.
    pub fn reverse_path(&self) -> &'a [u8] {
        self.reverse_path
    }

    /// `local-part@domain` or `postmaster`, in the order of the RCPTs.
    pub fn recipients(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.recipients_with_params().map(|recipient| recipient.path)
    }

    /// The recipients with what their RCPTs said of notices, in the same order.
    pub fn recipients_with_params(&self) -> impl Iterator<Item = Recipient<'a>> + use<'a> {
        let mut rest = self.fields;
        std::iter::from_fn(move || {
            let path = loop {
                let (tag, value, after) = field(rest)?;
                rest = after;
                if tag == TAG_FORWARD_PATH {
                    break value;
                }
            };
            let (mut params, mut failed) = (RcptParams::default(), None);
            while let Some((tag, value, after)) = field(rest).filter(|(tag, ..)| *tag != TAG_FORWARD_PATH) {
                rest = after;
                if matches!(tag, TAG_NOTIFY | TAG_ORCPT) {
                    rcpt_param(&mut params, tag, value).ok()?;
                }
                if tag == TAG_FAILED {
                    failed = Some(value);
                }
            }
            Some(Recipient { path, params, failed })
        })
    }

    /// The tags that rules gave the message.
    pub fn tags(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = self.fields;
        std::iter::from_fn(move || {
            loop {
                let (tag, value, after) = field(rest)?;
                rest = after;
                if tag == TAG_TAG {
                    break str::from_utf8(value).ok();
                }
            }
        })
    }

    pub fn recipients_count(&self) -> usize {
        self.recipients_count
    }

    /// Address and port.
    pub fn client(&self) -> Option<(IpAddr, u16)> {
        self.client
    }

    pub fn helo(&self) -> Option<&'a [u8]> {
        self.helo
    }

    pub fn body(&self) -> Option<Body> {
        self.body
    }

    pub fn listener(&self) -> Option<&'a str> {
        self.listener
    }

    pub fn received_unix_us(&self) -> Option<u64> {
        self.received_unix_us
    }

    /// Addresses and header section may be UTF-8.
    pub fn smtputf8(&self) -> bool {
        self.smtputf8
    }

    /// No next hop may get it without TLS.
    pub fn requiretls(&self) -> bool {
        self.requiretls
    }

    pub fn ret(&self) -> Option<Ret> {
        self.ret
    }

    pub fn envid(&self) -> Option<&'a [u8]> {
        self.envid
    }

    /// None where the session was in clear.
    pub fn security(&self) -> Option<Security> {
        self.security
    }
}

/// The value of the first field; empty where there is none.
pub fn first_value(octets: &[u8]) -> &[u8] {
    field(octets).map_or(&[], |(_, value, _)| value)
}

/// Tag and value of the first field, and what follows it.
pub(super) fn field(octets: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, low, high], rest) = octets.split_first_chunk::<FIELD_HEADER_LEN>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    Some((tag, value, rest))
}

fn set<T>(slot: &mut Option<T>, tag: u8, value: Option<T>) -> Result<(), EnvelopeError> {
    match slot.replace(value.ok_or(EnvelopeError::BadValue(tag))?) {
        None => Ok(()),
        Some(_) => Err(EnvelopeError::Duplicate(tag)),
    }
}

fn client(value: &[u8]) -> Option<(IpAddr, u16)> {
    let (address, port) = value.split_last_chunk::<2>()?;
    let address = match address.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?)),
        _ => return None,
    };
    Some((address, u16::from_be_bytes(*port)))
}

fn body(value: &[u8]) -> Option<Body> {
    match value {
        [0] => Some(Body::SevenBit),
        [1] => Some(Body::EightBitMime),
        _ => None,
    }
}

fn ret(value: &[u8]) -> Option<Ret> {
    match value {
        [0] => Some(Ret::Full),
        [1] => Some(Ret::Headers),
        _ => None,
    }
}

fn rcpt_param<'a>(params: &mut RcptParams<'a>, tag: u8, value: &'a [u8]) -> Result<(), EnvelopeError> {
    match (tag, value) {
        (TAG_NOTIFY, &[bits]) => set(&mut params.notify, tag, Notify::from_bits(bits)),
        (TAG_NOTIFY, _) => Err(EnvelopeError::BadValue(tag)),
        _ => set(&mut params.orcpt, tag, Some(value)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::security::{CipherSuite, Version};

    fn mailbox(text: &'static str) -> Mailbox<'static> {
        Mailbox::parse(text.as_bytes()).expect("a mailbox")
    }

    fn dsn() -> RcptParams<'static> {
        let notify = Some(Notify::SUCCESS.and(Notify::DELAY));
        RcptParams { notify, orcpt: Some(b"rfc822;c@d") }
    }

    const TLS: Security =
        Security { version: Version::Tls13, cipher: CipherSuite(0x1301), certificate: None };

    fn sample() -> Vec<u8> {
        let mut octets = Vec::new();
        let mut writer = Writer(&mut octets);
        writer.reverse_path(Some(&mailbox("\"a b\"@Example.COM")));
        writer.client("192.0.2.7".parse().expect("an address"), 40_000);
        writer.helo(b"mail.example");
        writer.body(Body::EightBitMime);
        writer.listener("mx");
        writer.received(1_763_780_000_000_000);
        writer.smtputf8();
        writer.ret(Ret::Headers);
        writer.envid(b"a+20b");
        writer.security(&TLS);
        writer.forward_path(&ForwardPath::Mailbox(mailbox("c@[IPv6:::1]")));
        writer.rcpt_params(&dsn());
        writer.forward_path(&ForwardPath::Postmaster);
        octets
    }

    #[test]
    fn what_is_written_is_read() {
        let octets = sample();
        let envelope = Envelope::parse(&octets).expect("whole");
        assert_eq!(envelope.reverse_path(), b"\"a b\"@Example.COM");
        assert_eq!(envelope.recipients().collect::<Vec<_>>(), [&b"c@[IPv6:::1]"[..], b"postmaster"]);
        assert_eq!(envelope.recipients_count(), 2);
        let params: Vec<_> = envelope.recipients_with_params().map(|recipient| recipient.params).collect();
        assert_eq!(params, [dsn(), RcptParams::default()]);
        assert!(envelope.smtputf8());
        assert_eq!((envelope.ret(), envelope.envid()), (Some(Ret::Headers), Some(&b"a+20b"[..])));
        assert_eq!(envelope.client(), Some(("192.0.2.7".parse().expect("an address"), 40_000)));
        assert_eq!(envelope.helo(), Some(&b"mail.example"[..]));
        assert_eq!(envelope.body(), Some(Body::EightBitMime));
        assert_eq!(envelope.security(), Some(TLS));
        assert_eq!(envelope.listener(), Some("mx"));
        assert_eq!(envelope.received_unix_us(), Some(1_763_780_000_000_000));
    }

    #[test]
    fn null_reverse_path_and_nothing_optional() {
        let mut octets = Vec::new();
        Writer(&mut octets).reverse_path(None);
        assert_eq!(Envelope::parse(&octets).err(), Some(EnvelopeError::NoForwardPath));
        Writer(&mut octets).forward_path(&ForwardPath::Mailbox(mailbox("a@b")));
        // The stored form is fixed: older spools are read by it.
        assert_eq!(octets, b"\x80\0\0\x81\x03\0a@b");
        let envelope = Envelope::parse(&octets).expect("whole");
        assert_eq!((envelope.reverse_path(), envelope.client(), envelope.helo()), (&b""[..], None, None));
        let mut octets = octets.clone();
        Writer(&mut octets).client("2001:db8::1".parse().expect("an address"), 1);
        assert_eq!(
            Envelope::parse(&octets).expect("whole").client(),
            Some(("2001:db8::1".parse().expect("an address"), 1))
        );
    }

    #[test]
    fn unknown_optional_fields_are_skipped_and_others_refused() {
        let with = |field: &[u8]| [&sample()[..], field].concat();
        assert!(Envelope::parse(&with(b"\x7f\x02\0xx")).is_ok());
        assert_eq!(Envelope::parse(&with(b"\x88\0\0")).err(), Some(EnvelopeError::UnknownTag(136)));
        assert_eq!(Envelope::parse(&with(b"\x82\0\0")).err(), Some(EnvelopeError::Duplicate(130)));
        assert_eq!(Envelope::parse(&with(b"\x83\x01\0\x08")).err(), Some(EnvelopeError::BadValue(131)));
        let twice = with(b"\x84\x01\0a\x84\x01\0b");
        assert_eq!(Envelope::parse(&twice).err(), Some(EnvelopeError::Duplicate(132)));
        let before = b"\x83\x01\0\0\x81\x01\0a\x80\0\0";
        assert_eq!(Envelope::parse(before).err(), Some(EnvelopeError::NoRecipientBefore(131)));
        assert_eq!(Envelope::parse(&with(b"\x80\0\0")).err(), Some(EnvelopeError::Duplicate(128)));
        assert_eq!(Envelope::parse(&with(b"\x02\0\0")).err(), Some(EnvelopeError::Duplicate(2)));
        assert_eq!(Envelope::parse(&with(b"\x81\0\0")).err(), Some(EnvelopeError::BadValue(129)));
        assert_eq!(Envelope::parse(&with(b"\x09\x01\0\x02")).err(), Some(EnvelopeError::BadValue(9)));
        assert_eq!(Envelope::parse(&with(b"\x03\x01\0\x02")).err(), Some(EnvelopeError::BadValue(3)));
        assert_eq!(Envelope::parse(&with(b"\x01\x05\0abcde")).err(), Some(EnvelopeError::BadValue(1)));
        assert_eq!(Envelope::parse(b"\x81\x01\0a").err(), Some(EnvelopeError::NoReversePath));
    }

    #[test]
    fn an_envelope_cut_anywhere_is_an_error_or_misses_recipients_only() {
        let octets = sample();
        for len in 0..octets.len() {
            match Envelope::parse(&octets[..len]) {
                Ok(envelope) => assert_eq!(envelope.recipients_count(), 1, "{len}"),
                Err(
                    EnvelopeError::Truncated | EnvelopeError::NoReversePath | EnvelopeError::NoForwardPath,
                ) => {}
                Err(other) => panic!("{len}: {other}"),
            }
        }
    }

    #[test]
    fn values_beyond_a_length_are_cut_and_the_rest_stays_readable() {
        let mut octets = Vec::new();
        let mut writer = Writer(&mut octets);
        writer.helo(&[b'x'; 70_000]);
        writer.listener(&"\u{e9}".repeat(40_000));
        writer.reverse_path(None);
        writer.forward_path(&ForwardPath::Postmaster);
        let envelope = Envelope::parse(&octets).expect("whole");
        assert_eq!(envelope.helo().map(<[u8]>::len), Some(65_535));
        assert_eq!(envelope.listener().map(str::len), Some(65_534));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(
            octets in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..8, 128u8..136], 0..60),
        ) {
            if let Ok(envelope) = Envelope::parse(&octets) {
                prop_assert_eq!(envelope.recipients().count(), envelope.recipients_count());
            }
        }
    }
}
