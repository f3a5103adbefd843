//! What the tests of ringmx share. None of it is part of the server.
//!
//! - [`source`]: Rust source as text, for the tests that read the code.

pub mod source;
