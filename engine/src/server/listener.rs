//! The listening sockets of all workers, bound once, before any thread starts.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use ringmx_ring::{AcceptMode, BindError, Exclusivity, Fd, Listening, listen};

use crate::config::{Config, Durability, Listener};
use crate::policy::recipient::Recipients;
use crate::server::worker::Port;
use crate::session::{Replies, Service, Settings};

/// Where the private owners of sealed sockets come from: above every range that systems give to people, services or
/// containers, below the numbers with a meaning of their own.
const OWNER_FIRST: u32 = 0x7000_0000;
const OWNERS_COUNT: u32 = 0x0f00_0000;

/// All listening sockets and what is offered on each.
#[derive(Debug)]
pub struct Listeners {
    /// Every address, in the order of the configuration.
    bound: Vec<Bound>,
}

/// One address and what is offered there.
#[derive(Debug)]
struct Bound {
    listening: Listening,
    service: Arc<Service>,
    connections_max: usize,
    durability: Durability,
}

impl Listeners {
    /// Binds every address of the configuration for all workers, or none.
    pub fn bind(config: &Config, recipients: &Arc<Recipients>) -> Result<Self, BindError> {
        let owner = private_owner();
        let mut bound = Vec::new();
        for listener in &config.listeners {
            let service = Arc::new(service(config, listener, Arc::clone(recipients)));
            for &address in &listener.bind {
                let listening = listen(address, config.workers, owner)?;
                let (service, connections_max) = (Arc::clone(&service), listener.connections_max);
                let durability = config.durability_of(listener);
                bound.push(Bound { listening, service, connections_max, durability });
            }
        }
        Ok(Self { bound })
    }

    /// One line for each address: what was bound and what keeps others off it.
    pub fn log(&self) {
        for Bound { listening, durability, .. } in &self.bound {
            let exclusive = match listening.exclusivity {
                Exclusivity::Sealed => "sealed group, one socket per worker",
                Exclusivity::Shared => "one socket shared by all workers",
            };
            tracing::info!(address = %listening.address, exclusive, %durability, "listening");
        }
    }

    /// The sockets of one worker.
    pub(super) fn ports(&self, worker_index: usize) -> Vec<Port> {
        let port = |bound: &Bound| {
            let Bound { listening, service, connections_max, durability } = bound;
            let sockets = &listening.sockets;
            let shared = sockets.len() == 1;
            let mode = match listening.exclusivity {
                Exclusivity::Sealed => AcceptMode::Multishot,
                Exclusivity::Shared => AcceptMode::Single,
            };
            Port {
                fd: Fd(sockets[if shared { 0 } else { worker_index }].as_raw_fd()),
                mode,
                service: Arc::clone(service),
                connections_max: *connections_max,
                durability: *durability,
            }
        };
        self.bound.iter().map(port).collect()
    }
}

fn service(config: &Config, listener: &Listener, recipients: Arc<Recipients>) -> Service {
    let boxed = |text: &String| text.as_str().into();
    let texts: HashMap<Box<str>, Box<str>> =
        config.replies.texts.iter().map(|(code, text)| (boxed(code), boxed(text))).collect();
    let replies = Replies::new(texts, config.replies.help_url.as_ref().map(boxed));
    Service::new(Settings {
        hostname: boxed(&listener.hostname),
        banner: listener.banner.as_ref().map(boxed),
        message_len_max: listener.max_message_size,
        extensions: listener.extensions,
        bare_newline: listener.bare_newline,
        bare_newline_exclude: listener.bare_newline_exclude.clone(),
        recipients,
        replies: Arc::new(replies),
        guard: listener.guard.clone(),
        command_timeout: listener.command_timeout,
        data_timeout: listener.data_timeout,
    })
}

/// Random for each start, so that no other program has it by accident.
fn private_owner() -> u32 {
    let random = RandomState::new().build_hasher().finish();
    OWNER_FIRST + (random % u64::from(OWNERS_COUNT)) as u32
}
