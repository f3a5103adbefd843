//! What the sinks on other runtimes have in common. Their sessions are those of `loadgen sink`, octet by octet, so that
//! nothing but the runtime differs: the floor is the same program on a ring of its own.

use std::io;
use std::net::TcpListener;

/// Octets of a receive at most: as long as a buffer of the sink's ring.
pub const RECEIVE_LEN: usize = 16 << 10;

/// Listens where the first argument says, and prints that.
///
/// # Errors
/// There is no such argument, or nothing can listen there.
pub fn bind() -> io::Result<TcpListener> {
    let address = std::env::args().nth(1);
    let address = address.ok_or_else(|| io::Error::other("give the address to listen on: 127.0.0.1:2526"))?;
    let listener = TcpListener::bind(&address)?;
    listener.set_nonblocking(true)?;
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}
