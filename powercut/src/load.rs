//! Clients that note each 250 together with where the disk was when they saw it.

use std::io;
use std::net::SocketAddr;

use tests::client::{Client, stuffed};
use tests::random::Random;

use crate::fuse::Disk;
use crate::message;

/// A message that got its 250.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub key: String,
    /// Events of the disk at that time, or some later ones: a power cut at or behind this position must not lose it.
    pub position: usize,
}

/// What the clients send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub connections_count: usize,
    /// Of each connection.
    pub messages_count: usize,
    /// Octets of the greatest message.
    pub len_max: usize,
}

/// Sends it all; gives what was acknowledged. Keys begin with `name`.
pub(crate) fn send(
    name: &str,
    load: Load,
    address: SocketAddr,
    disk: &Disk,
    seed: u64,
) -> io::Result<Vec<Acknowledged>> {
    let connections = std::thread::scope(|scope| {
        let connections: Vec<_> = (0..load.connections_count)
            .map(|number| {
                let mut random = Random::new(seed.wrapping_add(number as u64));
                let name = format!("{name}-{number}");
                scope.spawn(move || connection(&name, load, address, disk, &mut random))
            })
            .collect();
        connections
            .into_iter()
            .map(|thread| thread.join().expect("a client does not panic"))
            .collect::<Vec<_>>()
    });
    let acknowledged: io::Result<Vec<Vec<_>>> = connections.into_iter().collect();
    Ok(acknowledged?.concat())
}

/// One session: each transaction waits for the one before it, or comes in the same group as its content.
fn connection(
    name: &str,
    load: Load,
    address: SocketAddr,
    disk: &Disk,
    random: &mut Random,
) -> io::Result<Vec<Acknowledged>> {
    let keys: Vec<String> = (0..load.messages_count).map(|number| format!("{name}-{number}")).collect();
    let is_pipelined = random.one_in(2);
    let mut acknowledged = Vec::with_capacity(keys.len());
    let mut client = Client::ready(address)?;
    for (number, key) in keys.iter().enumerate() {
        if number == 0 || !is_pipelined {
            client.write(group(key).as_bytes())?;
        }
        client.expect(250)?;
        client.expect(250)?;
        client.expect(354)?;
        let mut octets = stuffed(&message::generate(key, len(load.len_max, random), random));
        if let Some(next) = keys.get(number + 1).filter(|_| is_pipelined) {
            octets.extend_from_slice(group(next).as_bytes());
        }
        client.write(&octets)?;
        client.queued()?;
        acknowledged.push(Acknowledged { key: key.clone(), position: disk.position() });
    }
    Ok(acknowledged)
}

fn group(key: &str) -> String {
    format!("MAIL FROM:<{key}@client.example>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
}

/// Small ones mostly, as mail is; some fill most of a segment.
fn len(max: usize, random: &mut Random) -> usize {
    let max = match random.below(12) {
        0 => max,
        1..4 => max / 10,
        _ => 4096,
    };
    1 + random.below(max)
}
