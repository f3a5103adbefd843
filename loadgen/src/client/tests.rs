//! Conversations with a client, by hand: no socket, a clock that the test turns.

use super::*;
use crate::workload::tests::recipe;

const EHLO_REPLY: &[u8] = b"250-mx\r\n250-PIPELINING\r\n250 SIZE 10000\r\n";
const TOKEN: Token = Token { run: 1, connection: 2, number: 3 };

struct Dialogue {
    client: Client,
    workload: Workload,
    now: u64,
}

impl Dialogue {
    fn new(pipelining: Pipelining, recipients_count: usize, content_len: usize) -> Self {
        let mut recipe = recipe(content_len);
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
        dialogue.client.begin(TOKEN, None);
        dialogue
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
    assert_eq!(dialogue.server(b"251 forwarded\r\n"), []);
    assert_eq!(dialogue.sent(), "DATA\r\n");
    assert_eq!(dialogue.server(b"354 go\r\n"), [Ok(Event::EnvelopeAccepted { waited_ns: 40 })]);
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
    assert_eq!(events, [Ok(Event::EnvelopeAccepted { waited_ns: 10 })]);
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
        (Pipelining::Required, Err(Failure::PipeliningMissing)),
    ] {
        let mut dialogue = Dialogue::new(pipelining, 1, 1000);
        dialogue.server(b"220 mx\r\n");
        dialogue.sent();
        assert_eq!(dialogue.server(b"250 mx\r\n"), [expected]);
        if expected.is_ok() {
            dialogue.client.begin(TOKEN, None);
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
    dialogue.client.begin(TOKEN, None);
    for reply in [b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"] {
        dialogue.sent();
        dialogue.server(reply);
    }
    let mut sends_count = 0;
    while dialogue.client.has_outgoing() {
        assert_ne!(dialogue.client.phase, Phase::Final);
        let mut out = Vec::new();
        dialogue.client.transmit(dialogue.now, &dialogue.workload, &mut out);
        assert!(out.len() <= crate::limits::SEND_LEN_MAX);
        sends_count += 1;
    }
    assert_eq!(sends_count, 4);
    assert!(matches!(dialogue.server(b"250 ok\r\n")[..], [Ok(Event::Accepted { .. })]));
}
