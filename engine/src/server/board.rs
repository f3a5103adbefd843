//! What is known of each address that the server listens on: for the log, the metrics and the admin HTTP. Workers do
//! not look at it.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use ringmx_ring::Exclusivity;

use crate::config::Durability;
use crate::server::PortId;

/// All addresses, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Board(Mutex<Vec<Standing>>);

/// One address.
#[derive(Clone, Debug)]
pub struct Standing {
    pub id: PortId,
    /// The listener's name.
    pub listener: String,
    pub address: SocketAddr,
    pub exclusivity: Exclusivity,
    pub durability: Durability,
    /// Of our sockets: how /proc names them.
    pub inodes: Vec<u64>,
    pub proof: Proof,
}

/// Who answers at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// Nobody has asked yet.
    #[default]
    Missing,
    /// This process.
    Ours,
    /// Somebody else, or nobody: in words.
    Failed(String),
}

impl Board {
    /// A copy.
    pub fn standings(&self) -> Vec<Standing> {
        self.with(|standings| standings.clone())
    }

    /// What is to be known from now on. What was proved stays proved.
    pub(super) fn replace(&self, mut standings: Vec<Standing>) {
        self.with(|former| {
            for standing in &mut standings {
                if let Some(known) = former.iter().find(|known| known.id == standing.id) {
                    standing.proof = known.proof.clone();
                }
            }
            *former = standings;
        });
    }

    /// What was known before; None if the address has been removed meanwhile.
    pub(super) fn prove(&self, id: PortId, proof: Proof) -> Option<Proof> {
        self.with(|standings| {
            let standing = standings.iter_mut().find(|standing| standing.id == id)?;
            Some(std::mem::replace(&mut standing.proof, proof))
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<Standing>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
impl Board {
    /// With one address, proved.
    pub(crate) fn example() -> Self {
        Self(Mutex::new(vec![Standing {
            id: PortId(1),
            listener: "mx".into(),
            address: "192.0.2.1:25".parse().unwrap(),
            exclusivity: Exclusivity::Sealed,
            durability: Durability::Async,
            inodes: Vec::new(),
            proof: Proof::Ours,
        }]))
    }
}
