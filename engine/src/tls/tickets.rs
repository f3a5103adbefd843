//! Tickets for resumption (RFC 8446 §4.6.1, RFC 5077): the client keeps the session's state, sealed with a key that all
//! workers share. The server remembers nothing.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use super::TlsError;
use crate::limits::TICKET_KEY_TIME_MAX;

const KEY_LEN: usize = 32;
const NAME_LEN: usize = 16;
const LIFETIME_SECS: u32 = 2 * TICKET_KEY_TIME_MAX.as_secs() as u32;

/// Makes and opens the tickets of one listener. Each listener has its own, so that what one of them asked of a client
/// is not taken for granted by another.
pub struct Tickets {
    keys: ArcSwap<Keys>,
}

/// The key that seals, and the one before it, which still opens.
struct Keys {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
}

struct Key {
    /// Tells a ticket's key; it says nothing else.
    name: [u8; NAME_LEN],
    key: RandomizedNonceKey,
}

impl Key {
    fn new() -> Result<Self, TlsError> {
        let no_random = |_| TlsError::Library("the system gives no random numbers".to_owned());
        let (mut name, mut key) = ([0; NAME_LEN], [0; KEY_LEN]);
        rand::fill(&mut name).map_err(no_random)?;
        rand::fill(&mut key).map_err(no_random)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(no_random)?;
        Ok(Self { name, key })
    }

    /// `name nonce sealed tag`
    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(self.name), &mut sealed).ok()?;
        let mut ticket = Vec::with_capacity(NAME_LEN + NONCE_LEN + plain.len() + MAX_TAG_LEN);
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(nonce.as_ref());
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        if *name != self.name {
            return None;
        }
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = self.key.open_in_place(nonce, Aad::from(self.name), &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

impl Tickets {
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new() -> Result<Self, TlsError> {
        let keys = Keys { current: Arc::new(Key::new()?), previous: None };
        Ok(Self { keys: ArcSwap::from_pointee(keys) })
    }

    /// From now on a new key seals. Tickets of the one before are still taken, older ones are not. To be called every
    /// [`TICKET_KEY_TIME_MAX`].
    ///
    /// # Errors
    /// When the system gives no random numbers; then nothing changes.
    pub fn rotate(&self) -> Result<(), TlsError> {
        let current = Arc::new(Key::new()?);
        let previous = Some(Arc::clone(&self.keys.load().current));
        self.keys.store(Arc::new(Keys { current, previous }));
        Ok(())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.load().current.seal(plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let previous = || keys.previous.as_ref()?.open(ticket);
        keys.current.open(ticket).or_else(previous)
    }
}

impl fmt::Debug for Tickets {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_live_for_two_keys() {
        let tickets = Tickets::new().unwrap();
        let ticket = tickets.encrypt(b"the session's state").unwrap();
        assert_ne!(tickets.encrypt(b"the session's state").unwrap(), ticket, "a nonce of its own");
        assert!(!ticket.windows(7).any(|octets| octets == b"session"));
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"the session's state"[..]));
        tickets.rotate().unwrap();
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"the session's state"[..]));
        tickets.rotate().unwrap();
        assert_eq!(tickets.decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_that_is_not_ours_is_none() {
        let tickets = Tickets::new().unwrap();
        let ticket = tickets.encrypt(b"x").unwrap();
        for at in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at] ^= 1;
            assert_eq!(tickets.decrypt(&forged), None, "{at}");
            assert_eq!(tickets.decrypt(&ticket[..at]), None, "{at}");
        }
        assert_eq!(Tickets::new().unwrap().decrypt(&ticket), None, "another listener's");
    }
}
