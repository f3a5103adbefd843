//! ringmx: an SMTP ingress engine.
//!
//! Layers, left to right; a module may `use crate::` only what stands to its left (a test in `tests/` fails otherwise):
//!
//! ```text
//! limits, time, id, event, stats, readiness <- protocol <- policy <- session <- spool <- store <- config <- server, egress <- admin <- supervisor <- cli <- main
//! (pure)                            (pure)      (pure)    (pure)     (pure)   (files)  (text)    (sockets, threads)
//! ```
//!
//! Left of `store` nothing touches a socket, a file, a thread or the clock: time and buffers are arguments.
//! The only `unsafe` and the ring's system calls are in the crate `ringmx-ring` (`engine/ring`).

#![deny(unsafe_code)]

pub mod event;
pub mod id;
pub mod limits;
pub mod readiness;
pub mod stats;
pub mod time;

pub mod admin;
pub mod cli;
pub mod config;
pub mod egress;
pub mod policy;
pub mod protocol;
pub mod server;
pub mod session;
pub mod spool;
pub mod store;
pub mod supervisor;
