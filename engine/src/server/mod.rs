//! The server: workers, listeners, sessions.

use std::error::Error;
use std::sync::Arc;

use crate::config::Config;

/// Serves until told to stop.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(_config: Arc<Config>) -> Result<(), Box<dyn Error + Send + Sync>> {
    Err("this build has no server".into())
}
