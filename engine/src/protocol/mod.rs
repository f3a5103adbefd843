//! SMTP's words and grammar (RFC 5321 and the extensions served): octets in, values out. Nothing here knows a session.
//!
//! - [`line`]: one command line out of what was received; [`command`], [`params`], [`path`]: what it says. Values
//!   borrow from the line, nothing is copied or allocated.
//! - [`data`]: the content of a transaction out of what was received, over [`scan`].
//! - [`reply`]: every reply the engine can give, and their encoding.
//! - [`proxy`], [`xclient`]: what a front end says about the client.
//! - [`envelope`]: the stored form of a transaction's envelope; [`deferral`]: what it says of former attempts.

pub mod command;
pub mod data;
pub mod deferral;
pub mod envelope;
pub mod extension;
pub mod line;
pub mod params;
pub mod path;
pub mod proxy;
pub mod reply;
pub mod scan;
pub mod xclient;
