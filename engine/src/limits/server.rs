//! Connections, what waits on them, and the sockets that they come by.

use std::time::Duration;

/// Entries of the table that counts what clients do, over all workers: 64 octets each. Each connection has two.
pub const CLIENTS_COUNT_MAX: usize = 1 << 16;
/// Octets of received but unread input of one connection before its receiving stops: one receive buffer. What the turn
/// brings until then comes on top.
pub const PARKED_INPUT_LEN_MAX: usize = 16 * 1024;
/// Octets of such input of all connections of a worker; beyond it those that have more than their part are cut off. A
/// turn can bring 16 MiB, all receive buffers, and then it stops.
pub const PARKED_INPUTS_LEN_MAX: usize = 64 << 20;
/// Octets of replies that wait to be sent to one client before its input stays unread.
pub const PENDING_OUTPUT_LEN_MAX: usize = 64 * 1024;
/// Octets of a send buffer that goes back to the worker's pool.
pub const POOLED_OUTPUT_LEN_MAX: usize = 16 * 1024;
/// Pooled send buffers of a worker: at most 16 MiB.
pub const POOLED_OUTPUTS_COUNT_MAX: usize = 1024;
/// Connections that a worker has slots for even if the listeners of its start ask for fewer: others may come. Address
/// space until they are used.
pub const CONNECTIONS_COUNT_LEAST: usize = 1 << 17;
/// Addresses that may be listened on at the same time; the queue in which a worker is told of changes has room for two
/// changes to each.
pub const PORTS_COUNT_MAX: usize = 1024;
/// Connections beyond the worker's limit, or beyond a client's, that are told so with a 421, at one time; more are
/// closed without a word.
pub const SHED_CONNECTIONS_COUNT_MAX: usize = 64;
/// How long a client may take to accept one send. As long as RFC 5321 §4.5.3.2 gives it for a command.
pub const SEND_TIME_MAX: Duration = Duration::from_secs(300);
/// How long the last reply of a session may take to be sent.
pub const LAST_REPLY_TIME_MAX: Duration = Duration::from_secs(30);
/// How long, after our last reply, we read what the client still sends: closing with unread input resets the
/// connection, and the reset destroys the reply (RFC 9293 §3.6.1 and Linux's tcp_close).
pub const LINGER_TIME_MAX: Duration = Duration::from_secs(5);
/// Octets read and thrown away meanwhile.
pub const LINGER_LEN_MAX: usize = 1 << 20;
/// How long accepting pauses after it failed for want of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// A connection is looked at this often, however far away its deadline: the timer wheel holds no entry for longer than
/// about four minutes, and those of connections that are gone shall not pile up in it.
pub const ALARM_TIME_MAX: Duration = Duration::from_secs(30);
/// Sockets that the helper hands over in one message; the kernel takes 253 at most (`SCM_MAX_FD`).
pub const PASSED_SOCKETS_COUNT_MAX: usize = 64;
/// Octets of a message between server and helper: an address, or an error in one line.
pub const BINDER_MESSAGE_LEN_MAX: usize = 256;
/// How long we wait for an address that is taken by a socket of nobody: the kernel closes those that a killed process
/// had in its ring a moment later.
pub const ORPHANED_SOCKET_TIME_MAX: Duration = Duration::from_secs(2);
/// Between two looks at it.
pub const ORPHANED_SOCKET_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long a connection may take to become whole that is half open when its address is removed: a round trip, and one
/// lost packet.
pub const HALF_OPEN_TIME_MAX: Duration = Duration::from_secs(3);
/// How long a worker may take to let go of a socket; it does at its next turn.
pub const CLOSE_TIME_MAX: Duration = Duration::from_secs(10);
/// Visitors that may be expected at the same time: one that looks, and those that stay, of whom the oldest is forgotten
/// when there are too many.
pub const EXPECTED_COUNT_MAX: usize = 16;
/// How long a worker may take to accept the connection that proves an address. Longer than any turn; a worker that has
/// no descriptors left pauses for less.
pub const PROOF_TIME_MAX: Duration = Duration::from_secs(5);
/// Own addresses behind a wildcard that are asked each time, so that a host with very many is not busy with itself.
pub const OWN_ADDRESSES_COUNT_MAX: usize = 32;
/// Octets of the greeting of whoever else answers at an address of ours that are read and shown.
pub const SHOWN_GREETING_LEN_MAX: usize = 100;
/// How long all workers may take for the turn after a ring of their bells: a turn has hardly more than milliseconds.
pub const TURN_TIME_MAX: Duration = Duration::from_secs(10);
/// Configurations older than the newest that transactions may go on under, so that what reloads leave behind stays
/// small; beyond it those with the oldest go on under the newest.
pub const OLDER_GENERATIONS_COUNT_MAX: usize = 2;
