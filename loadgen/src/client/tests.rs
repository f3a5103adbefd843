//! Conversations with a client, by hand: no socket, a clock that the test turns.

use super::*;
use crate::workload::Recipe;
use crate::workload::tests::recipe;

const EHLO_REPLY: &[u8] = b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE 10000\r\n";
const TOKEN: Token = Token { run: 1, connection: 2, number: 3 };

struct Dialogue {
    client: Client,
    workload: Workload,
    now: u64,
}

impl Dialogue {
    fn new(pipelining: Pipelining, recipients_count: usize, content_len: usize) -> Self {
        Self::with(pipelining, recipients_count, recipe(content_len))
    }

    fn with(pipelining: Pipelining, recipients_count: usize, mut recipe: Recipe) -> Self {
        recipe.forward_paths = (0..recipients_count).map(|n| format!("r{n}@example.com")).collect();
        let workload = Workload::new(&recipe).expect("room");
        let mut dialogue = Self { client: Client::new(pipelining, false), workload, now: 0 };
        dialogue.client.open(0);
        dialogue
    }

    /// A session that has got as far as `begin`.
    fn begun(pipelining: Pipelining, recipients_count: usize) -> Self {
        let mut dialogue = Self::new(pipelining, recipients_count, 1000);
        dialogue.opened();
        dialogue.begin();
        dialogue
    }

    /// The same, and content leaves by BDAT.
    fn begun_bdat(pipelining: Pipelining, content_len: usize, chunk_len: usize) -> Self {
        let transfer = Transfer::Bdat { chunk_len };
        let mut dialogue = Self::with(pipelining, 1, Recipe { transfer, ..recipe(content_len) });
        dialogue.opened();
        dialogue.begin();
        dialogue
    }

    fn begin(&mut self) {
        self.client.begin(TOKEN, None, &self.workload);
    }

    fn opened(&mut self) {
        assert!(matches!(self.server(b"220 mx\r\n")[..], [Ok(Event::Greeted { .. })]));
        assert_eq!(self.sent(), "EHLO loadgen.example\r\n");
        assert!(matches!(self.server(EHLO_REPLY)[..], [Ok(Event::Opened { .. })]));
        assert!(self.client.is_ready());
    }

    /// Everything the client wants to send now.
    fn sent(&mut self) -> String {
        let mut out = Vec::new();
        while self.client.has_outgoing() {
            self.client.transmit(self.now, &self.workload, &mut out);
        }
        String::from_utf8(out).expect("ASCII")
    }

    /// What the client makes of the server's octets, ten nanoseconds later.
    fn server(&mut self, mut input: &[u8]) -> Vec<Result<Event, Failure>> {
        self.now += 10;
        let mut events = Vec::new();
        loop {
            match self.client.receive(self.now, &self.workload, &mut input) {
                Ok(Some(event)) => events.push(Ok(event)),
                Ok(None) => return events,
                Err(failure) => {
                    events.push(Err(failure));
                    return events;
                }
            }
        }
    }
}

#[test]
fn one_command_per_round_trip() {
    let mut dialogue = Dialogue::begun(Pipelining::Off, 2);
    assert_eq!(dialogue.sent(), "MAIL FROM:<sender@example.net> SIZE=1000\r\n");
    assert_eq!(dialogue.server(b"250 ok\r\n"), []);
    assert_eq!(dialogue.sent(), "RCPT TO:<r0@example.com>\r\n");
    assert_eq!(dialogue.server(b"250 ok\r\n"), []);
    assert_eq!(dialogue.sent(), "RCPT TO:<r1@example.com>\r\n");
    assert_eq!(dialogue.server(b"251 forwarded\r\n"), [Ok(Event::RecipientsAnswered { waited_ns: 30 })]);
    assert_eq!(dialogue.sent(), "DATA\r\n");
    assert_eq!(
        dialogue.server(b"354 go\r\n"),
        [Ok(Event::EnvelopeAccepted { waited_ns: 40, data_ns: Some(10) })]
    );
    assert!(dialogue.sent().ends_with("\r\n.\r\n"));
    let accepted = Event::Accepted { token: TOKEN, final_ns: 10, transaction_ns: 50 };
    assert_eq!(dialogue.server(b"250 2.0.0 queued as 77\r\n"), [Ok(accepted)]);
    assert_eq!(dialogue.client.reply_text(), b"2.0.0 queued as 77");
    dialogue.client.quit();
    assert_eq!(dialogue.sent(), "QUIT\r\n");
    assert_eq!(dialogue.server(b"221 bye\r\n"), [Ok(Event::Closed)]);
    assert_eq!(dialogue.client.lose(), None);
}

#[test]
fn a_group_leaves_in_one_send() {
    let mut dialogue = Dialogue::begun(Pipelining::Offered, 1);
    dialogue.client.transaction.intended_at = Some(5);
    let group = "MAIL FROM:<sender@example.net> SIZE=1000\r\nRCPT TO:<r0@example.com>\r\nDATA\r\n";
    assert_eq!(dialogue.sent(), group);
    let events = dialogue.server(b"250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(events, [Ok(Event::EnvelopeAccepted { waited_ns: 10, data_ns: None })]);
    assert!(dialogue.sent().ends_with("\r\n.\r\n"));
    // An open loop counts from the intended time: 5, where MAIL left at 20.
    let accepted = Event::Accepted { token: TOKEN, final_ns: 10, transaction_ns: 35 };
    assert_eq!(dialogue.server(b"250 ok\r\n"), [Ok(accepted)]);
}

#[test]
fn the_same_events_whatever_the_split() {
    let replies: &[u8] = b"250 ok\r\n450 later\r\n250 ok\r\n354 go\r\n";
    for split in 0..=replies.len() {
        let mut dialogue = Dialogue::begun(Pipelining::Offered, 2);
        dialogue.sent();
        let mut events = dialogue.server(&replies[..split]);
        events.extend(dialogue.server(&replies[split..]));
        assert!(
            matches!(events[..], [Ok(Event::RecipientRefused), Ok(Event::EnvelopeAccepted { .. })]),
            "split at {split}: {events:?}"
        );
    }
}

#[test]
fn without_the_offer_nothing_is_grouped_and_no_size_is_sent() {
    for (pipelining, expected) in [
        (Pipelining::Offered, Ok(Event::Opened { waited_ns: 10 })),
        (Pipelining::Required, Err(Failure::Missing(Extension::Pipelining))),
    ] {
        let mut dialogue = Dialogue::new(pipelining, 1, 1000);
        dialogue.server(b"220 mx\r\n");
        dialogue.sent();
        assert_eq!(dialogue.server(b"250 mx\r\n"), [expected]);
        if expected.is_ok() {
            dialogue.begin();
            assert_eq!(dialogue.sent(), "MAIL FROM:<sender@example.net>\r\n");
        }
    }
}

#[test]
fn a_refusal_is_followed_by_reset() {
    let cases: [(&[&[u8]], Step); 3] = [
        (&[b"451 no\r\n"], Step::Mail),
        (&[b"250 ok\r\n", b"550 no\r\n"], Step::Rcpt),
        (&[b"250 ok\r\n", b"250 ok\r\n", b"554 no\r\n"], Step::Data),
    ];
    for (replies, step) in cases {
        let mut dialogue = Dialogue::begun(Pipelining::Off, 1);
        let mut events = Vec::new();
        for reply in replies {
            dialogue.sent();
            events = dialogue.server(reply);
        }
        assert_eq!(events, [Ok(Event::Refused(step))]);
        assert_eq!(dialogue.client.lose(), None, "the outcome is known");
    }
    for (replies, step) in [
        (&b"451 no\r\n503 mail first\r\n503 rcpt first\r\n"[..], Step::Mail),
        (b"250 ok\r\n550 no\r\n503 rcpt first\r\n", Step::Rcpt),
        (b"250 ok\r\n250 ok\r\n451 no\r\n", Step::Data),
    ] {
        let mut dialogue = Dialogue::begun(Pipelining::Required, 1);
        dialogue.sent();
        assert_eq!(dialogue.server(replies), [Ok(Event::Refused(step))]);
        assert_eq!(dialogue.sent(), "RSET\r\n");
        assert_eq!(dialogue.server(b"250 ok\r\n"), []);
        assert!(dialogue.client.is_ready());
    }
}

#[test]
fn refused_content_leaves_the_session_ready() {
    let mut dialogue = Dialogue::begun(Pipelining::Required, 1);
    dialogue.sent();
    dialogue.server(b"250 ok\r\n250 ok\r\n354 go\r\n");
    dialogue.sent();
    assert_eq!(dialogue.server(b"452 4.3.1 disk full\r\n"), [Ok(Event::Refused(Step::Content))]);
    assert_eq!(dialogue.client.reply_code(), 452);
    assert!(dialogue.client.is_ready());
}

#[test]
fn permission_to_send_what_was_refused_gets_a_lone_dot() {
    for (reply, expected) in [(&b"554 no\r\n"[..], None), (b"250 stored\r\n", Some(Err(Failure::Unexpected)))]
    {
        let mut dialogue = Dialogue::begun(Pipelining::Required, 1);
        dialogue.sent();
        assert_eq!(dialogue.server(b"250 ok\r\n550 no\r\n"), [Ok(Event::Refused(Step::Rcpt))]);
        assert_eq!(dialogue.client.reply_code(), 550, "the reason, not the 503 of DATA");
        assert_eq!(dialogue.server(b"354 go\r\n"), []);
        assert_eq!(dialogue.sent(), ".\r\n");
        assert_eq!(dialogue.server(reply), Vec::from_iter(expected));
        assert_eq!(dialogue.client.lose(), None);
    }
}

#[test]
fn nothing_but_the_250_accepts() {
    for reply in
        [&b"251 ok\r\n"[..], b"220 ok\r\n", b"354 ok\r\n", b"25\r\n", b"250-ok\r\n550 no\r\n", b"250 ok\n"]
    {
        let mut dialogue = Dialogue::begun(Pipelining::Required, 1);
        dialogue.sent();
        dialogue.server(b"250 ok\r\n250 ok\r\n354 go\r\n");
        dialogue.sent();
        assert!(matches!(dialogue.server(reply)[..], [Err(_)]), "{}", reply.escape_ascii());
        assert_eq!(dialogue.client.lose(), Some(Unfinished::InDoubt));
    }
}

#[test]
fn a_reply_before_its_command_is_unexpected() {
    let mut early = Dialogue::new(Pipelining::Off, 1, 1000);
    assert!(matches!(early.server(b"220 mx\r\n250 mx\r\n")[..], [Ok(_), Err(Failure::Unexpected)]));
    let mut idle = Dialogue::new(Pipelining::Off, 1, 1000);
    idle.opened();
    assert_eq!(idle.server(b"250 what\r\n"), [Err(Failure::Unexpected)]);
    let mut before_the_dot = Dialogue::begun(Pipelining::Required, 1);
    before_the_dot.sent();
    assert!(matches!(
        before_the_dot.server(b"250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n")[..],
        [Ok(Event::EnvelopeAccepted { .. }), Err(Failure::Unexpected)]
    ));
    assert_eq!(before_the_dot.client.lose(), Some(Unfinished::Aborted));
}

#[test]
fn the_server_may_close_at_any_time() {
    let mut greeting = Dialogue::new(Pipelining::Off, 1, 1000);
    assert_eq!(greeting.server(b"421 4.3.2 full\r\n"), [Err(Failure::ServiceClosing)]);
    let mut refusing = Dialogue::new(Pipelining::Off, 1, 1000);
    assert_eq!(refusing.server(b"554 not you\r\n"), [Err(Failure::GreetingRefused)]);
    let mut idle = Dialogue::new(Pipelining::Off, 1, 1000);
    idle.opened();
    assert_eq!(idle.server(b"421 4.4.2 idle\r\n"), [Err(Failure::ServiceClosing)]);
    assert_eq!(idle.client.lose(), None);
    // And the slot is used again, with nothing left of the session before.
    idle.client.open(idle.now);
    idle.opened();
}

#[test]
fn large_content_leaves_in_bounded_sends() {
    let mut dialogue = Dialogue::new(Pipelining::Off, 1, 1_000_000);
    dialogue.opened();
    dialogue.begin();
    for reply in [b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"] {
        dialogue.sent();
        dialogue.server(reply);
    }
    let mut sends_count = 0;
    while dialogue.client.has_outgoing() {
        assert_eq!(dialogue.client.phase, Phase::Content);
        let mut out = Vec::new();
        dialogue.client.transmit(dialogue.now, &dialogue.workload, &mut out);
        assert!(out.len() <= crate::limits::SEND_LEN_MAX);
        sends_count += 1;
    }
    assert_eq!(sends_count, 4);
    assert!(matches!(dialogue.server(b"250 ok\r\n")[..], [Ok(Event::Accepted { .. })]));
}

#[test]
fn what_the_run_needs_and_the_server_has_not_is_named() {
    let bdat = Transfer::Bdat { chunk_len: 100 };
    for (recipe, missing) in [
        (Recipe { transfer: bdat, ..recipe(1000) }, Extension::Chunking),
        (Recipe { eight_bit: true, ..recipe(1000) }, Extension::EightBitMime),
        (Recipe { utf8: true, ..recipe(1000) }, Extension::SmtpUtf8),
    ] {
        let mut dialogue = Dialogue::with(Pipelining::Offered, 1, recipe);
        dialogue.server(b"220 mx\r\n");
        dialogue.sent();
        let offered = Extension::ALL.iter().filter(|&&extension| extension != missing);
        let lines: String = offered.map(|extension| format!("250-{}\r\n", extension.keyword())).collect();
        let reply = format!("{lines}250 HELP\r\n");
        assert_eq!(dialogue.server(reply.as_bytes()), [Err(Failure::Missing(missing))]);
    }
}

#[test]
fn a_group_takes_its_chunks_with_it() {
    let mut dialogue = Dialogue::begun_bdat(Pipelining::Offered, 1000, 600);
    let sent = dialogue.sent();
    let commands =
        "MAIL FROM:<sender@example.net> SIZE=1000\r\nRCPT TO:<r0@example.com>\r\nBDAT 600\r\nDate: ";
    assert!(sent.starts_with(commands) && sent.contains("BDAT 400 LAST\r\n"), "{sent}");
    assert_eq!(dialogue.server(b"250 ok\r\n250 ok\r\n250 600\r\n"), []);
    assert_eq!(dialogue.client.unfinished(), Some(Unfinished::InDoubt));
    let accepted = Event::Accepted { token: TOKEN, final_ns: 20, transaction_ns: 20 };
    assert_eq!(dialogue.server(b"250 queued\r\n"), [Ok(accepted)]);
    assert!(dialogue.client.is_ready());
}

#[test]
fn one_chunk_per_round_trip() {
    let mut dialogue = Dialogue::begun_bdat(Pipelining::Off, 1000, 600);
    dialogue.sent();
    dialogue.server(b"250 ok\r\n");
    dialogue.sent();
    assert_eq!(dialogue.server(b"250 ok\r\n"), [Ok(Event::RecipientsAnswered { waited_ns: 20 })]);
    let first = dialogue.sent();
    assert!(first.starts_with("BDAT 600\r\n") && first.len() == 610, "{first}");
    assert_eq!(dialogue.client.unfinished(), Some(Unfinished::Aborted));
    assert_eq!(dialogue.server(b"250 600\r\n"), []);
    let second = dialogue.sent();
    assert!(second.starts_with("BDAT 400 LAST\r\n") && second.len() == 415, "{second}");
    let accepted = Event::Accepted { token: TOKEN, final_ns: 10, transaction_ns: 40 };
    assert_eq!(dialogue.server(b"250 queued\r\n"), [Ok(accepted)]);
}

#[test]
fn a_refusal_of_what_is_sent_ahead_is_one_refusal() {
    for (replies, step) in [
        (&b"451 no\r\n503 mail first\r\n503 rcpt first\r\n503 no\r\n"[..], Step::Mail),
        (b"250 ok\r\n550 no\r\n554 no recipients\r\n503 no\r\n", Step::Rcpt),
        (b"250 ok\r\n250 ok\r\n552 too large\r\n503 no\r\n", Step::Content),
        (b"250 ok\r\n250 ok\r\n250 ok\r\n452 full\r\n", Step::Content),
    ] {
        let mut dialogue = Dialogue::begun_bdat(Pipelining::Required, 1000, 600);
        dialogue.sent();
        assert_eq!(dialogue.server(replies), [Ok(Event::Refused(step))]);
        assert_eq!(dialogue.client.unfinished(), None, "the outcome is known");
        assert_eq!(dialogue.sent(), "RSET\r\n");
        assert_eq!(dialogue.server(b"250 ok\r\n"), []);
        assert!(dialogue.client.is_ready());
    }
    let mut alone = Dialogue::begun_bdat(Pipelining::Off, 1000, 600);
    for reply in [b"250 ok\r\n", b"250 ok\r\n"] {
        alone.sent();
        alone.server(reply);
    }
    alone.sent();
    assert_eq!(alone.server(b"452 full\r\n"), [Ok(Event::Refused(Step::Content))]);
    assert_eq!(alone.sent(), "RSET\r\n");
}

#[test]
fn a_250_for_a_chunk_that_is_not_sent_or_was_refused_is_no_acceptance() {
    let mut ahead = Dialogue::begun_bdat(Pipelining::Required, 1_000_000, 600_000);
    let mut out = Vec::new();
    ahead.client.transmit(ahead.now, &ahead.workload, &mut out);
    assert!(out.len() <= crate::limits::SEND_LEN_MAX && ahead.client.has_outgoing());
    assert_eq!(ahead.server(b"250 ok\r\n250 ok\r\n"), [], "replies while content still leaves");
    assert_eq!(ahead.server(b"250 queued\r\n"), [Err(Failure::Unexpected)]);
    assert_eq!(ahead.client.lose(), Some(Unfinished::Aborted));
    let mut refused = Dialogue::begun_bdat(Pipelining::Required, 1000, 600);
    refused.sent();
    let events = refused.server(b"250 ok\r\n550 no\r\n250 stored\r\n");
    assert_eq!(events, [Ok(Event::Refused(Step::Rcpt)), Err(Failure::Unexpected)]);
}

#[test]
fn many_large_chunks_leave_in_bounded_sends() {
    let mut dialogue = Dialogue::begun_bdat(Pipelining::Required, 1_000_000, 3000);
    let mut wire = Vec::new();
    while dialogue.client.has_outgoing() {
        let mut out = Vec::new();
        dialogue.client.transmit(dialogue.now, &dialogue.workload, &mut out);
        assert!(!out.is_empty() && out.len() <= crate::limits::SEND_LEN_MAX);
        wire.extend_from_slice(&out);
    }
    assert_eq!(memchr::memmem::find_iter(&wire, b"BDAT ").count(), 334);
    let replies = b"250 ok\r\n".repeat(2 + 334);
    assert!(matches!(dialogue.server(&replies)[..], [Ok(Event::Accepted { .. })]));
}
