//! SMTP load generator on io_uring.
//!
//! It shares no SMTP code with the engine it measures, so that a fault of one cannot hide in the other. Its parts, each
//! using only those before it:
//!
//! - `limits`: every bound.
//! - `random`, `token`, `content`, `corpus`, `workload`: what is sent.
//! - `reply`, `extension`, `client`: the protocol, without a socket or a clock.
//! - `stats`, `profile`, `pace`, `ledger`: what is counted, when a message is due, what was acknowledged.
//! - `crew`, `slot`, `fleet`: all connections of a thread, still without a socket.
//! - `worker`: the ring that works for them.
//! - `mischief`: clients that are to misbehave, and what came of them.
//! - `process`, `options`, `timeline`, `report`, `hgrm`, `html`, `run`, `sink`, `selftest`, `verify`: the commands.

pub mod client;
mod content;
pub mod corpus;
pub mod crew;
pub mod extension;
pub mod fleet;
pub mod hgrm;
pub mod html;
pub mod ledger;
pub mod limits;
pub mod mischief;
pub mod options;
pub mod pace;
pub mod process;
pub mod profile;
pub mod random;
pub mod reply;
pub mod report;
pub mod run;
pub mod secure;
pub mod selftest;
pub mod sink;
pub mod slot;
pub mod stats;
pub mod timeline;
pub mod token;
pub mod verify;
pub mod worker;
pub mod workload;
