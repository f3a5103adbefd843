//! EHLO, HELO, MAIL and RCPT: the envelope.

use crate::id::MessageId;
use crate::policy::rules::Stage;
use crate::protocol::command::{HeloName, Mail, Malformed, Rcpt, Side};
use crate::protocol::reply;
use crate::session::phase::Phase;
use crate::session::rules::Asking;
use crate::session::service::Offer;
use crate::session::{Context, Error, Fault, Next, Session, TlsMode};

impl Session {
    /// EHLO or HELO: at any time, and it resets the transaction (RFC 5321 §4.1.4).
    pub(super) fn hello(
        &mut self,
        cx: &mut Context<'_>,
        name: HeloName<'_>,
        extended: bool,
        out: &mut Vec<u8>,
    ) -> Next {
        let matching = self.matching(cx, Stage::Helo, &Asking { helo: Some(name.0), ..Asking::default() });
        let asked = self.ask(cx, matching);
        // RFC 5321 §4.1.4: an EHLO that is refused leaves things as they are.
        if let Some(next) = self.refuse_as_ruled(cx, Stage::Helo, &asked, out) {
            return next;
        }
        self.enter(cx, Phase::Idle);
        self.helo.clear();
        self.helo.extend_from_slice(name.0);
        self.extended = extended;
        out.extend_from_slice(if extended {
            let offer = match self.secured {
                Some(_) => Offer::Secured,
                None if self.is_offered_starttls(cx) => Offer::StartTls,
                None => Offer::Nothing,
            };
            cx.service.ehlo_reply(offer, self.may_xclient)
        } else {
            &cx.service.helo_reply
        });
        self.wait(cx, asked.delay);
        Next::Input
    }

    pub(super) fn mail(&mut self, cx: &mut Context<'_>, mail: &Mail<'_>, out: &mut Vec<u8>) -> Next {
        if cx.service.settings.tls == TlsMode::Required && self.secured.is_none() {
            return self.refuse(cx, Fault::NotSecure, out);
        }
        // RFC 1870 §6.1: a declared size above the limit is refused before anything is sent.
        if mail.params.size.is_some_and(|size| size > cx.service.settings.message_len_max) {
            return self.refuse(cx, Fault::DeclaredTooLarge, out);
        }
        if cx.pool.draining {
            return self.fail_and_close(cx, Error::Stopping, out);
        }
        if let Err(fault) = self.admit_transaction(cx) {
            return self.dismiss(cx, fault, out);
        }
        let Mail { reverse_path, params } = mail;
        let asking = Asking { reverse_path: Some(*reverse_path), size: params.size, ..Asking::default() };
        let matching = self.matching(cx, Stage::Mail, &asking);
        let asked = self.ask(cx, matching);
        if let Some(next) = self.refuse_as_ruled(cx, Stage::Mail, &asked, out) {
            return next;
        }
        let taken = match cx.pool.storage_error {
            Some(error) => Err(error),
            None => cx.pool.take_transaction().ok_or(Error::NoMemory),
        };
        self.mail_failed = taken.is_err();
        let mut transaction = match taken {
            Ok(transaction) => transaction,
            Err(error) => return self.fail(cx, error, out),
        };
        self.transactions_count = self.transactions_count.saturating_add(1);
        let message = MessageId { session: self.id, transaction: self.transactions_count };
        let listener = &cx.service.settings.listener;
        transaction.begin(message, cx.now, self.client, &self.helo, listener, mail);
        transaction.add_tags(self.tags_before_mail(cx) | asked.tags, &cx.policy.rules);
        if let Some(secured) = self.secured_by() {
            transaction.secure(&secured.security);
        }
        // Small, and there was room for it: only recipients can make an envelope grow.
        transaction.hold_envelope(&mut cx.pool.memory);
        self.enter(cx, Phase::Mail(transaction));
        cx.reply(&reply::SENDER_OK, out);
        self.wait(cx, asked.delay);
        Next::Input
    }

    pub(super) fn rcpt(&mut self, cx: &mut Context<'_>, rcpt: &Rcpt<'_>, out: &mut Vec<u8>) -> Next {
        self.used.add_recipient();
        let Phase::Mail(transaction) = &mut self.phase else { unreachable!("checked by `obey`") };
        if rcpt.needs_smtputf8 && !transaction.smtputf8() {
            transaction.refused_count = transaction.refused_count.saturating_add(1);
            return self.refuse(cx, Fault::Malformed(Malformed::NonAsciiPath(Side::Recipient)), out);
        }
        let asked = self.ask_about(cx, &rcpt.forward_path);
        if let Some(next) = self.refuse_as_ruled(cx, Stage::Rcpt, &asked, out) {
            return next;
        }
        if !asked.relays()
            && let Err(why) = cx.policy.recipients.check(&rcpt.forward_path)
        {
            self.count_refused_recipient(cx);
            return self.refuse(cx, Fault::from(why), out);
        }
        let Phase::Mail(transaction) = &mut self.phase else { unreachable!("checked by `obey`") };
        if transaction.has_all_recipients() {
            return self.refuse(cx, Fault::TooManyRecipients, out);
        }
        transaction.add_tags(asked.tags, &cx.policy.rules);
        if !transaction.add_recipient(rcpt, &mut cx.pool.memory) {
            // RFC 5321 §4.5.3.1.10: the others stand.
            return self.fail(cx, Error::NoMemory, out);
        }
        cx.reply(&reply::RECIPIENT_OK, out);
        self.wait(cx, asked.delay);
        Next::Input
    }

    pub(super) fn count_refused_recipient(&mut self, cx: &Context<'_>) {
        cx.pool.stats.recipients_refused.bump();
        if let Some(transaction) = self.phase.transaction_mut() {
            transaction.refused_count = transaction.refused_count.saturating_add(1);
        }
    }
}
