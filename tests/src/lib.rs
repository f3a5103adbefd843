//! What the tests of ringmx share. None of it is part of the server.
//!
//! - [`source`]: Rust source as text, for the tests that read the code.
//! - [`pair`]: a session with a virtual clock and a journal that does as it is told; [`phases`]: how it gets anywhere.
//! - [`dialogue`]: dialogue files and how they are played.
//! - [`fuzz`]: what is fuzzed.
//! - [`oracle`]: what decoded content must be, said slowly.
//! - [`random`]: the seeded generator behind every random choice.
//! - [`simulation`]: a worker on a simulated machine, with clients that do as a seed tells them.

pub mod dialogue;
pub mod fuzz;
pub mod oracle;
pub mod pair;
pub mod phases;
pub mod random;
pub mod simulation;
pub mod source;
