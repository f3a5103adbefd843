//! What is accepted from whom: decisions over facts, without a session and without waiting.

pub mod clients;
pub mod matcher;
pub mod network;
pub mod newline;
pub mod recipient;
