//! Counters. Each worker is the only writer of its own; everybody may read them at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::security::{CipherSuite, Security};

/// What is written by one thread is aligned to so many octets, so that no other thread's lies in a cache line with it:
/// two lines, because the processor fetches them in pairs. CONTRIBUTING.md has the list of what threads share.
pub const LINES_LEN: usize = 128;

/// A counter or gauge with one writer: an increment is a load and a store, not a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    pub fn bump(&self) {
        self.add(1);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[$outer:meta])* $name:ident { $($(#[doc = $doc:literal])+ $field:ident,)* }
        and { $($(#[doc = $more_doc:literal])+ $more:ident: $more_type:ty,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: Counter,)*
            $($(#[doc = $more_doc])+ pub $more: $more_type,)*
        }

        impl $name {
            /// Name, help text and value of each counter, in a fixed order.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($field), concat!($($doc),+), self.$field.get()),)*].into_iter()
            }
        }
    };
}

counters! {
    /// What one worker counts. Names that end in `_now` are gauges. Aligned so that two workers never share a cache
    /// line.
    WorkerStats {
        /// Connections accepted.
        connections,
        /// Connections open.
        connections_now,
        /// Connections answered 421 because the worker was full.
        connections_shed,
        /// Connections of networks that must send a PROXY header, and did not.
        proxies_refused,
        /// Sessions refused or ended because a client or its network did too much.
        clients_limited,
        /// Clients not counted because the table of clients was crowded.
        clients_untracked,
        /// Times that a client sent something before the reply that it had to wait for.
        early_talkers,
        /// Times that a client with many faults was made to wait.
        tarpits,
        /// TLS handshakes done.
        handshakes,
        /// Of those, resumed by a ticket.
        handshakes_resumed,
        /// TLS handshakes begun and not done: not TLS, nothing in common, too slow, too large, client gone.
        handshakes_failed,
        /// TLS handshakes not begun because too many were under way.
        handshakes_refused,
        /// Sessions under TLS that ended by a fatal alert, or by a record that cannot be trusted.
        tls_failed,
        /// TLS handshakes under way.
        handshakes_now,
        /// Turns of the worker's loop that worked on TLS handshakes.
        handshake_turns,
        /// Time spent on TLS handshakes.
        handshake_micros,
        /// Longest of those turns, from its first completion to its last handshake.
        handshake_turn_longest_micros_now,
        /// Longest from a turn's first completion until the rules of a reload are in force.
        reload_turn_longest_micros_now,
        /// Commands answered.
        commands,
        /// Faults of clients: commands or contents refused.
        faults,
        /// Sessions, commands and recipients refused by rules.
        rules_refused,
        /// Recipients refused.
        recipients_refused,
        /// Messages made durable and answered 250.
        messages,
        /// Octets of content in those messages.
        content_octets,
        /// Messages answered 4yz for an error of ours.
        messages_failed,
        /// Messages that waited for a segment.
        messages_delayed,
        /// Octets received.
        octets_received,
        /// Commits: writes of one or more messages.
        commits,
        /// Of those, durable ones: each waits for the disk.
        commits_synced,
        /// Syncs for messages that were answered before they were durable.
        syncs,
        /// Messages answered before they were durable that wait for their sync.
        messages_at_risk_now,
        /// Octets written to the spool.
        spool_octets,
        /// Messages whose content got a file of its own.
        content_files,
        /// Of those, given up because a write to the file failed.
        content_files_failed,
        /// 1 once a write to the shard failed: it takes no more mail.
        shards_failed,
        /// The configuration that new transactions begin under: each reload has the next number.
        policy_generation_now,
        /// Turns of the worker's loop.
        turns,
        /// Completions handled.
        completions,
        /// Times a connection waited because all receive buffers were lent.
        buffers_exhausted,
        /// Connections cut off because too much input waited on all of them.
        inputs_dropped,
        /// Octets of received input that waits for its turn.
        input_octets_now,
        /// Octets of memory that envelopes and content hold.
        memory_octets_now,
        /// 1 while so much memory is held that new transactions are answered 452.
        memory_full_now,
    } and {
        /// TLS handshakes done, by what came of them.
        secured: SecuredStats,
    }
}

const _: () = assert!(align_of::<WorkerStats>() >= LINES_LEN);

/// What the handshakes of a worker came to. Its sums are the worker's `handshakes`.
#[derive(Debug, Default)]
pub struct SecuredStats {
    /// By the place of the cipher suite among those that are served.
    by_cipher: [Counter; CipherSuite::COUNT],
    /// By the place of the word in [`Security::CERTIFICATE_STATES`].
    by_certificate: [Counter; Security::CERTIFICATE_STATES.len()],
}

impl SecuredStats {
    pub fn count(&self, security: &Security) {
        // The provider has no other suites: `tls::tests::every_suite_that_is_served_has_a_name`.
        if let Some(counter) = security.cipher.index().and_then(|index| self.by_cipher.get(index)) {
            counter.bump();
        }
        self.by_certificate[security.certificate_state()].bump();
    }

    pub fn by_cipher(&self) -> impl Iterator<Item = (CipherSuite, u64)> {
        CipherSuite::all().zip(&self.by_cipher).map(|(cipher, counter)| (cipher, counter.get()))
    }

    /// `none`, `recorded`, `verified`.
    pub fn by_certificate(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Security::CERTIFICATE_STATES
            .into_iter()
            .zip(&self.by_certificate)
            .map(|(state, counter)| (state, counter.get()))
    }
}
