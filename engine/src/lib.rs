//! ringmx: an SMTP ingress engine.
//!
//! # Layers
//!
//! Left to right; a module may `use crate::` only what stands to its left (`tests/tests/tidy.rs` fails otherwise):
//!
//! ```text
//! limits, time, id, checksum, security, stats, event, readiness <- protocol <- policy <- session <- spool   (pure)
//!     <- store   (files)
//!     <- config   (text)
//!     <- logging   (lines to stderr)
//!     <- tls   (certificates)
//!     <- server, egress <- reload <- admin, privileges, systemd <- supervisor <- cli <- main   (threads, sockets)
//! ```
//!
//! Left of `store` nothing touches a socket, a file, a thread or the clock: time and buffers are arguments.
//! The only `unsafe` and the ring's system calls are in the crate `ringmx-ring` (`engine/ring`), which knows no SMTP.
//!
//! # Threads
//!
//! [`supervisor::run`] starts them all: one worker per core ([`server::Worker`]), which share nothing; a keeper that
//! has segments ready ([`store::Keeper`]); one egress thread per two workers ([`egress`]); a control thread for log and
//! admin HTTP ([`admin::control`]). Workers talk to the others by atomics and bounded queues, and never wait for them.
//!
//! # The way of one message
//!
//! 1. [`server::Worker::turn`]: one `Ring::turn` submits everything and waits; completions are copied out, nothing
//!    reacts yet.
//! 2. `Worker::dispatch` finds the connection of a completion by its token: slot and generation.
//! 3. [`session::Session::receive`] frames a line ([`protocol::line::next`]), parses it ([`protocol::command::parse`],
//!    which borrows), and decides in one match on phase and command; replies are appended to the connection's output.
//! 4. After DATA, [`protocol::data::Decoder`] streams the content into the transaction's buffer up to end-of-data. Then
//!    the phase is `Committing`: what the client sends meanwhile is parked, up to one buffer, then its receiving is
//!    cancelled.
//! 5. `Journal::append` puts the record into the batch that waits ([`spool::commit::GroupCommit`]). When all
//!    completions of the turn are handled, `Journal::flush` starts one durable write for everything that waits, if none
//!    is in flight or what waits is worth another.
//! 6. The write's completion gives all its tickets back, and [`session::Session::committed`] says 250: the only place
//!    that takes responsibility (RFC 5321 §6.1). Where the listener's durability asks for no sync, 5 is followed by it
//!    at once.
//! 7. `Worker::send_all`: one send per connection per turn.
//! 8. The egress thread of the shard, woken if it slept, reads the segment up to the first write that has not ended,
//!    from the worker's memory where it can ([`store::Reader`]), delivers, acknowledges in batches, and gives wholly
//!    acknowledged segments back to the keeper, which recycles them.
//!
//! Back edges: only 6, and timers ([`session::Session::timeout`]). No callbacks upward, no trait objects between
//! layers.

#![deny(unsafe_code)]

pub mod checksum;
pub mod event;
pub mod id;
pub mod limits;
pub mod readiness;
pub mod security;
pub mod stats;
pub mod time;

pub mod admin;
pub mod cli;
pub mod config;
pub mod egress;
pub mod logging;
pub mod policy;
pub mod privileges;
pub mod protocol;
pub mod reload;
pub mod server;
pub mod session;
pub mod spool;
pub mod store;
pub mod supervisor;
pub mod systemd;
pub mod tls;
