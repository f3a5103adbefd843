//! `ringmx spool`: reads a spool without the lock, also while a server runs.
