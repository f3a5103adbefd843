//! What the tests of ringmx share. None of it is part of the server.
//!
//! - [`engine`]: the real server in a directory of its own; [`client`] talks to it, [`maildir`] reads what it delivers.
//! - [`mime`]: messages drawn from a seed.
//! - [`allocations`]: an allocator that counts.
//! - [`source`]: Rust source as text, for the tests that read the code.
//! - [`pair`]: a session with a virtual clock and a journal that does as it is told; [`phases`]: how it gets anywhere.
//! - [`dialogue`]: dialogue files and how they are played.
//! - [`fuzz`]: what is fuzzed.
//! - [`generated`]: documentation that a test writes.
//! - [`guard`]: options of whom a listener trusts and what it lets clients do.
//! - [`matrix`]: what a session must answer to each line in each state, by a model.
//! - [`next_hop`]: a server that mail is handed on to, which does as a test tells it.
//! - [`occupant`]: another program that wants an address.
//! - [`privilege`]: tests that take root.
//! - [`oracle`]: what decoded content must be, said slowly.
//! - [`proxy`]: what a PROXY header says, read slowly.
//! - [`random`]: the seeded generator behind every random choice.
//! - [`records`]: TLS records that no library would send; [`tls`]: certificates, and clients under TLS.
//! - [`simulation`]: a worker on a simulated machine, with clients that do as a seed tells them.

pub mod allocations;
pub mod client;
pub mod dialogue;
pub mod engine;
pub mod fuzz;
pub mod generated;
pub mod guard;
pub mod maildir;
pub mod matrix;
pub mod mime;
pub mod next_hop;
pub mod occupant;
pub mod oracle;
pub mod pair;
pub mod phases;
pub mod privilege;
pub mod proxy;
pub mod random;
pub mod receiver;
pub mod records;
pub mod reloading;
pub mod simulation;
pub mod source;
pub mod tls;
