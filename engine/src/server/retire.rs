//! The end of an address: those who have begun to connect come through, and nobody else.
//!
//! 1. Their sockets take no new SYN from now on (a filter in the kernel); whoever sends one tries again.
//! 2. Half-open connections get the time to become whole, and the workers accept them.
//! 3. The workers stop accepting; what came in between is accepted here and handed to one of them.
//! 4. The sockets are closed. Nothing is left in their queues that closing could reset.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use ringmx_ring::{Fd, refuse_new};

use super::{ChangeSender, Latch, PortChange, PortId};
use crate::limits::{CLOSE_TIME_MAX, HALF_OPEN_TIME_MAX};

/// An address that is not wanted any more.
#[derive(Debug)]
pub(super) struct Retired {
    pub(super) id: PortId,
    pub(super) address: SocketAddr,
    pub(super) sockets: Arc<Vec<TcpListener>>,
}

/// Does it on a thread of its own, which ends by itself.
pub(super) fn start(retired: Vec<Retired>, workers: Vec<ChangeSender>) {
    if retired.is_empty() {
        return;
    }
    for Retired { address, sockets, .. } in &retired {
        if let Some(error) = sockets.iter().find_map(|socket| refuse_new(socket).err()) {
            tracing::warn!(%address, %error, "new connections cannot be kept off: some may be reset");
        }
    }
    let spawned = Builder::new().name("retire".into()).spawn(move || retire(&retired, &workers));
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread to close removed addresses properly: they are closed at once");
    }
}

fn retire(retired: &[Retired], workers: &[ChangeSender]) {
    std::thread::sleep(HALF_OPEN_TIME_MAX);
    let latch = Arc::new(Latch::new(retired.len() * workers.len()));
    for worker in workers {
        worker.send(retired.iter().map(|Retired { id, .. }| PortChange::Close(*id, Arc::clone(&latch))));
    }
    let began = Instant::now();
    while !latch.is_open() && began.elapsed() < CLOSE_TIME_MAX {
        std::thread::sleep(Duration::from_millis(5));
    }
    for Retired { id, address, sockets } in retired {
        match sockets.iter().enumerate().try_fold(0, |sum, (index, socket)| {
            let worker = &workers[index % workers.len()];
            sweep(socket, *id, worker).map(|count| sum + count)
        }) {
            Ok(late_count) => tracing::info!(%address, late_count, "no longer listening"),
            Err(error) => {
                tracing::warn!(%address, %error, "no longer listening; some connections may be lost")
            }
        }
    }
}

/// Hands on what is in the queue still.
fn sweep(socket: &TcpListener, id: PortId, worker: &ChangeSender) -> io::Result<usize> {
    socket.set_nonblocking(true)?;
    let mut count = 0;
    loop {
        match socket.accept() {
            Ok((stream, _)) => {
                count += 1;
                worker.send([PortChange::Adopt(id, Fd(stream.into_raw_fd()))]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}
