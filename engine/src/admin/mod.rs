//! The control thread: what operators see. It formats what workers tell the log and answers the admin HTTP.

pub mod control;
mod http;
mod log;
mod metrics;

pub use log::EventLog;
