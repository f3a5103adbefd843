//! Every bound of the engine, in one place: what a stranger, a next hop, a file or an operator can make grow, and how
//! long one may take, stops at a number with a name and a reason. All are `limits::NAME`. Each has a row in
//! `engine/docs/conformance.md`, with what happens there and the test that reaches it. `tests/tests/tidy.rs` fails
//! where one stands elsewhere.
//!
//! - `protocol`: what a client may say, and for how long.
//! - `tls`: handshakes, certificates, tickets.
//! - `server`: connections, what waits on them, and the sockets that they come by.
//! - `memory`: what content and envelopes hold.
//! - `spool`: records, segments and commits.
//! - `delivery`: what is under way to Maildirs and next hops, and how long those may take.
//! - `config`: what a configuration, a list or a rule set may say.
//! - `admin`: the log, the admin side, and the commands that ask a server.

mod admin;
mod config;
mod delivery;
mod memory;
mod protocol;
mod server;
mod spool;
mod tls;

pub use admin::*;
pub use config::*;
pub use delivery::*;
pub use memory::*;
pub use protocol::*;
pub use server::*;
pub use spool::*;
pub use tls::*;
