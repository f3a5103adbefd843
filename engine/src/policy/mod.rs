//! What is accepted from whom: decisions over facts, without a session and without waiting.

use std::sync::Arc;

use recipient::Recipients;
use rules::RuleSet;

pub mod clients;
pub mod matcher;
pub mod network;
pub mod newline;
pub mod recipient;
pub mod rules;

/// What of a configuration another one can take the place of while transactions are open; immutable.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Each that takes another's place has a higher one.
    pub generation: u32,
    pub recipients: Arc<Recipients>,
    pub rules: Arc<RuleSet>,
}

impl From<Recipients> for Policy {
    fn from(recipients: Recipients) -> Self {
        Self { recipients: Arc::new(recipients), ..Self::default() }
    }
}
