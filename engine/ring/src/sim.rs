//! The simulated ring.
