//! What the tests of ringmx share. None of it is part of the server.
//!
//! - [`simulation`]: a worker on a simulated machine, with clients that do as a seed tells them.

pub mod simulation;
