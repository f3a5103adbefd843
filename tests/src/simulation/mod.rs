//! A real worker on a simulated machine: the network, the disk and the clients do as one seed tells them.
//!
//! ```text
//! Script ──> Actor ──> Simulation (network) ──> Probe ──> Worker ──> Probe ──> Simulation (disk)
//!              │ replies                        checks                          │ power cut
//!              └──────────────── Verdict: replies against records <─────────────┘
//! ```
//!
//! - [`script`]: what a client says. [`actor`]: how it says it, and how it leaves. [`wire`]: what it goes through, in
//!   clear or under TLS; [`secure`]: the certificate.
//! - [`probe`]: a ring that counts, and stops the test at what no kernel would forgive.
//! - [`segments`]: segments over simulated files. [`machine`]: all of it together.
//! - [`play`]: one run from one seed, and what must hold whatever happened.
//! - [`reference`](mod@reference): the same octets given to a bare session at once: what the replies should be.
//! - [`recovered`]: what a recovery finds on the disk afterwards.

pub mod actor;
pub mod machine;
pub mod play;
pub mod probe;
pub mod recovered;
pub mod reference;
pub mod script;
pub mod secure;
pub mod segments;
pub mod wire;
