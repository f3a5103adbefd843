//! The listening sockets of all workers: bound before any thread starts, and changed while they run.
//!
//! A change never touches what stays: the new sockets are bound first ([`Listeners::prepare`]), and if one cannot be,
//! all stays as it was. Then the workers are told ([`Listeners::apply`]). What listens on under other terms keeps its
//! socket: its connections go on as they began, new ones come in by a new port of the same socket. What is removed is
//! drained by [`super::retire`].

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use ringmx_ring::{AcceptMode, BindError, Exclusivity, Fd, Listening, Request};

use crate::config::{Config, Durability, Listener};
use crate::limits::{ORPHANED_SOCKET_LOOK_INTERVAL, ORPHANED_SOCKET_TIME_MAX};
use crate::server::holder::is_orphaned;
use crate::server::retire::{self, Retired};
use crate::server::worker::Port;
use crate::server::{Binder, Board, ChangeSender, Helper, Latch, PortChange, PortId, Proof, Standing};
use crate::session::{Replies, Service, Settings};
use crate::tls::{Acceptor, Certified};

/// Where the private owners of sealed sockets come from: above every range that systems give to people, services or
/// containers, below the numbers with a meaning of their own.
const OWNER_FIRST: u32 = 0x7000_0000;
const OWNERS_COUNT: u32 = 0x0f00_0000;

/// All listening sockets and what is offered on each.
#[derive(Debug)]
pub struct Listeners {
    /// Every address, in the order of the configuration.
    bound: Vec<Bound>,
    workers_count: usize,
    /// Of sealed sockets.
    owner: u32,
    next_id: u32,
    binder: Binder,
    board: Arc<Board>,
}

/// One address and what is offered there.
#[derive(Clone, Debug)]
struct Bound {
    id: PortId,
    listener: String,
    /// What was asked for: the port may be 0.
    asked: (SocketAddr, bool),
    /// All that the configuration says of what is offered: the port stays as long as that is the same.
    terms: Arc<str>,
    address: SocketAddr,
    exclusivity: Exclusivity,
    sockets: Arc<Vec<TcpListener>>,
    service: Arc<Service>,
    tls: Option<Arc<Acceptor>>,
    connections_max: usize,
    durability: Durability,
}

/// What [`Listeners::apply`] puts in the place of what there is. Its sockets listen; without it they are closed.
#[derive(Debug)]
pub struct Prepared(Vec<Bound>);

impl Listeners {
    /// Binds every address of the configuration for all workers, or none. Of the sockets that were handed in by the
    /// service manager it takes those that are bound to an address of the configuration.
    pub fn bind(config: &Config, tls: &Certified, handed: &mut Vec<Listening>) -> Result<Self, BindError> {
        let mut listeners = Self {
            bound: Vec::new(),
            workers_count: config.workers,
            owner: private_owner(),
            next_id: 0,
            binder: Binder::Direct,
            board: Arc::default(),
        };
        listeners.bound = listeners.bind_all(config, tls, handed)?;
        listeners.publish();
        Ok(listeners)
    }

    /// From now on somebody else binds: this process has no longer the right to.
    pub fn bind_by(&mut self, helper: Helper) {
        self.binder = Binder::Helper(helper);
    }

    /// Binds what a configuration wants and is not bound yet.
    ///
    /// # Errors
    /// When an address cannot be bound. Then nothing has changed.
    pub fn prepare(&mut self, config: &Config, tls: &Certified) -> Result<Prepared, BindError> {
        self.bind_all(config, tls, &mut Vec::new()).map(Prepared)
    }

    /// Makes it what was prepared, and tells the workers. What was bound stays bound where it is still wanted. The
    /// latch tells when no connection comes in under other terms any more.
    pub fn apply(&mut self, Prepared(bound): Prepared, workers: &[ChangeSender]) -> Arc<Latch> {
        let former = std::mem::replace(&mut self.bound, bound);
        for (index, worker) in workers.iter().enumerate() {
            let is_new = |new: &&Bound| former.iter().all(|one| one.id != new.id);
            worker.send(self.bound.iter().filter(is_new).map(|new| PortChange::Open(new.port(index))));
        }
        let gone = former.into_iter().filter(|one| self.bound.iter().all(|new| new.id != one.id));
        let is_kept = |one: &Bound| self.bound.iter().any(|new| Arc::ptr_eq(&new.sockets, &one.sockets));
        let (kept, removed): (Vec<Bound>, Vec<Bound>) = gone.partition(is_kept);
        let latch = Arc::new(Latch::new(kept.len() * workers.len()));
        for worker in workers {
            worker.send(kept.iter().map(|Bound { id, .. }| PortChange::Close(*id, Arc::clone(&latch))));
        }
        let retired =
            removed.into_iter().map(|Bound { id, address, sockets, .. }| Retired { id, address, sockets });
        retire::start(retired.collect(), workers.to_vec());
        self.publish();
        latch
    }

    /// Where those find it who want to know what there is.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// One line for each address: what was bound and what keeps others off it.
    pub fn log(&self) {
        for Bound { listener, address, exclusivity, durability, .. } in &self.bound {
            let exclusive = exclusivity.text();
            tracing::info!(listener, %address, exclusive, %durability, "listening");
        }
    }

    /// The sockets of one worker.
    pub(super) fn ports(&self, worker_index: usize) -> Vec<Port> {
        self.bound.iter().map(|bound| bound.port(worker_index)).collect()
    }

    /// The addresses of a configuration, with the sockets that there are already.
    fn bind_all(
        &mut self,
        config: &Config,
        tls: &Certified,
        handed: &mut Vec<Listening>,
    ) -> Result<Vec<Bound>, BindError> {
        let mut bound: Vec<Bound> = Vec::new();
        for listener in &config.listeners {
            let service = Arc::new(service(config, listener));
            let terms = terms(config, listener);
            for &address in &listener.bind {
                let asked = (address, listener.exclusive);
                let is_taken = |one: &Bound| bound.iter().any(|new| Arc::ptr_eq(&new.sockets, &one.sockets));
                let there = self.bound.iter().find(|one| one.asked == asked && !is_taken(one));
                if let Some(same) = there.filter(|one| one.terms == terms) {
                    bound.push(same.clone());
                    continue;
                }
                let (address, exclusivity, sockets) = match there {
                    Some(Bound { address, exclusivity, sockets, .. }) => {
                        (*address, *exclusivity, Arc::clone(sockets))
                    }
                    None => {
                        let handed_in = handed.iter().position(|it| it.address == address);
                        let listening = match handed_in {
                            Some(index) => handed.swap_remove(index),
                            None => self.listen(asked)?,
                        };
                        let Listening { address, exclusivity, sockets } = listening;
                        (address, exclusivity, Arc::new(sockets))
                    }
                };
                self.next_id += 1;
                bound.push(Bound {
                    id: PortId(self.next_id),
                    listener: listener.name.clone(),
                    asked,
                    terms: Arc::clone(&terms),
                    address,
                    exclusivity,
                    sockets,
                    service: Arc::clone(&service),
                    tls: tls.of(&listener.name),
                    connections_max: listener.connections_max,
                    durability: config.durability_of(listener),
                });
            }
        }
        Ok(bound)
    }

    fn listen(&self, (address, exclusive): (SocketAddr, bool)) -> Result<Listening, BindError> {
        let request = Request { address, threads_count: self.workers_count, owner: self.owner, exclusive };
        let give_up_at = Instant::now() + ORPHANED_SOCKET_TIME_MAX;
        loop {
            match self.binder.listen(&request) {
                Err(BindError::Taken { address }) if Instant::now() < give_up_at && is_orphaned(address) => {
                    std::thread::sleep(ORPHANED_SOCKET_LOOK_INTERVAL);
                }
                outcome => return outcome,
            }
        }
    }

    fn publish(&self) {
        let standing = |bound: &Bound| Standing {
            id: bound.id,
            listener: bound.listener.clone(),
            address: bound.address,
            exclusivity: bound.exclusivity,
            durability: bound.durability,
            inodes: bound.sockets.iter().filter_map(inode).collect(),
            proof: Proof::Missing,
        };
        self.board.replace(self.bound.iter().map(standing).collect());
    }
}

impl Bound {
    fn port(&self, worker_index: usize) -> Port {
        let shared = self.sockets.len() == 1;
        // A socket that threads share must not be waited on by multishot: see `AcceptMode`.
        let mode =
            if self.exclusivity == Exclusivity::Shared { AcceptMode::Single } else { AcceptMode::Multishot };
        Port {
            id: self.id,
            fd: Fd(self.sockets[if shared { 0 } else { worker_index }].as_raw_fd()),
            mode,
            service: Arc::clone(&self.service),
            tls: self.tls.clone(),
            connections_max: self.connections_max,
            durability: self.durability,
        }
    }
}

fn inode(socket: &TcpListener) -> Option<u64> {
    rustix::fs::fstat(socket).ok().map(|stat| stat.st_ino)
}

fn terms(config: &Config, listener: &Listener) -> Arc<str> {
    let anywhere = Listener { bind: Vec::new(), ..listener.clone() };
    format!("{anywhere:?} {:?} {:?}", config.durability_of(listener), config.replies).into()
}

fn service(config: &Config, listener: &Listener) -> Service {
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
        listener: boxed(&listener.name),
        replies: Arc::new(replies),
        tls: listener.tls,
        guard: listener.guard.clone(),
        command_timeout: listener.command_timeout,
        data_timeout: listener.data_timeout,
    })
}

/// Random for each start, so that no other program has it by accident.
/// Whether a socket of this user is a sealed one of a ringmx.
pub(super) fn is_private_owner(user: u32) -> bool {
    (OWNER_FIRST..OWNER_FIRST + OWNERS_COUNT).contains(&user)
}

fn private_owner() -> u32 {
    let random = RandomState::new().build_hasher().finish();
    OWNER_FIRST + (random % u64::from(OWNERS_COUNT)) as u32
}
