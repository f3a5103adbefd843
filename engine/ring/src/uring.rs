//! The kernel's io_uring behind [`Ring`].

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant, SystemTime};

use io_uring::types::{self, CancelBuilder, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, IoUring, Probe, SubmissionQueue, Submitter, cqueue, opcode, squeue};

use crate::buffers::{Buffers, GROUP};
use crate::doorbell::{RING, RINGS_LEN};
use crate::in_flight::{Held, InFlight};
use crate::token::Source;
use crate::{AcceptMode, BlockBuffer, Clock, Completion, Errno, Fd, Lent, Payload, Ring, Token};

const MSG_NOSIGNAL: i32 = 0x4000;
/// Lets the kernel finish a short send by itself.
const MSG_WAITALL: i32 = 0x100;
const SOCK_CLOEXEC: i32 = 0o2_000_000;
/// Write the data and what is needed to read it back before completion. Linux 4.7.
const RWF_DSYNC: i32 = 2;
const ETIME: i32 = 62;
const EINTR: i32 = 4;
const EBUSY: i32 = 16;
const ENOSYS: i32 = 38;
const EPERM: i32 = 1;
const EINVAL: i32 = 22;
const ENOMEM: i32 = 12;

/// How large a ring is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Submission entries; the completion queue is four times as long.
    pub entries: u32,
    /// Receive buffers, a power of two.
    pub buffers_count: u16,
    /// Octets of each.
    pub buffer_len: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { entries: 4096, buffers_count: 1024, buffer_len: 16 * 1024 }
    }
}

/// Why there is no ring, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("this kernel has no io_uring (CONFIG_IO_URING is off): run Linux 6.1 or later with io_uring")]
    Missing,
    #[error(
        "io_uring is forbidden here: set `sysctl kernel.io_uring_disabled=0`, or allow the io_uring system calls in \
         the container's seccomp profile"
    )]
    Forbidden,
    #[error("this kernel's io_uring is too old: it lacks {0}; run Linux 6.1 or later")]
    TooOld(&'static str),
    #[error("io_uring needs more locked memory: raise the limit (`ulimit -l`, systemd LimitMEMLOCK=)")]
    LockedMemory,
    #[error("io_uring cannot be set up: {0}")]
    Other(#[source] io::Error),
}

/// io_uring of the calling thread: single issuer, task work deferred to [`Ring::turn`].
pub struct Uring {
    // The three queues borrow from `*kernel`; they are dropped before it.
    submitter: Submitter<'static>,
    submissions: ManuallyDrop<SubmissionQueue<'static>>,
    completions: ManuallyDrop<CompletionQueue<'static>>,
    kernel: *mut IoUring,
    buffers: ManuallyDrop<Buffers>,
    in_flight: InFlight,
    /// Operations that found the submission queue full; submitted first.
    overflow: VecDeque<squeue::Entry>,
    started: Instant,
}

impl Uring {
    /// Makes the ring of this thread: it must be used on the thread that made it (kernel: SINGLE_ISSUER).
    pub fn new(options: Options) -> Result<Self, SetupError> {
        let kernel = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(options.entries * 4)
            .build(options.entries)
            .map_err(classify)?;
        if !kernel.params().is_feature_ext_arg() || !kernel.params().is_feature_nodrop() {
            return Err(SetupError::TooOld("EXT_ARG or NODROP"));
        }
        probe(&kernel)?;
        let kernel = Box::into_raw(Box::new(kernel));
        // SAFETY: just made from a box; freed only in `drop`, after the three queues that borrow from it.
        let (mut submitter, submissions, completions) = unsafe { (*kernel).split() };
        // Saves a file table look-up at each enter; an old kernel merely goes on with the descriptor.
        let _ = submitter.register_ring_fd();
        let (submissions, completions) = (ManuallyDrop::new(submissions), ManuallyDrop::new(completions));
        let buffers =
            Buffers::register(&submitter, options.buffers_count, options.buffer_len).map_err(|error| {
                match error.raw_os_error() {
                    Some(EINVAL) => SetupError::TooOld("provided buffer rings"),
                    _ => classify(error),
                }
            })?;
        let buffers = ManuallyDrop::new(buffers);
        let (in_flight, overflow) = (InFlight::default(), VecDeque::new());
        let started = Instant::now();
        Ok(Self { submitter, submissions, completions, kernel, buffers, in_flight, overflow, started })
    }

    /// Connects a socket to `address`; a result of 0 means connected.
    pub fn connect(&mut self, token: Token, socket: Fd, address: SocketAddr) {
        let address = socket2::SockAddr::from(address);
        // The kernel copies the address when the operation is prepared, but that may be after this call returns: the
        // bytes are held like those of a send.
        // SAFETY: the storage behind `as_ptr` is `len` bytes long.
        let bytes =
            unsafe { std::slice::from_raw_parts(address.as_ptr().cast::<u8>(), address.len() as usize) }
                .to_vec();
        self.push_held(token, Held::Bytes(bytes), |pointer, len| {
            opcode::Connect::new(types::Fd(socket.0), pointer.cast_mut().cast(), len).build()
        });
    }

    /// Queues an operation that refers to no memory of ours.
    fn push(&mut self, token: Token, entry: squeue::Entry) {
        self.push_entry(entry.user_data(token.to_user_data()));
    }

    /// Queues an operation on `bytes`, which the ring holds until it completes.
    fn push_held(&mut self, token: Token, held: Held, build: impl FnOnce(*const u8, u32) -> squeue::Entry) {
        let len = u32::try_from(held.bytes().len()).unwrap_or(u32::MAX);
        let pointer = held.bytes().as_ptr();
        let index = self.in_flight.insert(token, held);
        self.push_entry(build(pointer, len).user_data(Token::held(index)));
    }

    fn push_entry(&mut self, entry: squeue::Entry) {
        // SAFETY: entries refer to descriptors, to the buffer group, or to memory held in `in_flight` until their
        // completion has been taken.
        if self.overflow.is_empty() && unsafe { self.submissions.push(&entry) }.is_ok() {
            return;
        }
        self.overflow.push_back(entry);
        self.refill();
    }

    /// Moves what overflowed into the submission queue, submitting to make room. What the kernel does not take now
    /// stays for the next turn.
    fn refill(&mut self) {
        while let Some(entry) = self.overflow.front() {
            // SAFETY: as in `push_entry`.
            if unsafe { self.submissions.push(entry) }.is_ok() {
                self.overflow.pop_front();
                continue;
            }
            self.submissions.sync();
            if self.submitter.submit().is_err() {
                return;
            }
            self.submissions.sync();
            if self.submissions.is_full() {
                return;
            }
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let result = u32::try_from(entry.result()).map_err(|_| Errno(-entry.result()));
        let more = cqueue::more(entry.flags());
        let (token, payload) = match Token::from_user_data(entry.user_data()) {
            Source::Held(index) => {
                let (token, held) = self.in_flight.remove(index)?;
                (token, held.into_payload())
            }
            Source::Token(token) => match cqueue::buffer_select(entry.flags()) {
                Some(index) => (token, Payload::Lent(self.buffers.lend(index, result.unwrap_or(0)))),
                None => (token, Payload::None),
            },
        };
        Some(Completion { token, result, more, payload })
    }
}

impl Ring for Uring {
    fn clock(&mut self) -> Clock {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clock { monotonic: self.started.elapsed(), unix }
    }

    fn turn(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.refill();
        self.submissions.sync();
        // For one completion: to wait for several within some microseconds takes a timer each time, which costs more
        // than the turns that it saves. To look out for one some microseconds before it sleeps saves nothing, either.
        let waited = match timeout {
            None => self.submitter.submit_and_wait(1),
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                self.submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        };
        match waited {
            Ok(_) => {}
            // Time is up, a signal came, or completions must be taken first: all say "look now".
            Err(error) if matches!(error.raw_os_error(), Some(ETIME | EINTR | EBUSY)) => {}
            Err(error) => return Err(error),
        }
        self.submissions.sync();
        self.completions.sync();
        while let Some(entry) = self.completions.next() {
            completions.extend(self.complete(&entry));
        }
        self.completions.sync();
        Ok(())
    }

    fn has_more(&self) -> bool {
        // Nothing completes but in a turn (DEFER_TASKRUN); what is ready to sets the flag (TASKRUN_FLAG).
        self.submissions.taskrun()
    }

    fn accept(&mut self, token: Token, listener: Fd, mode: AcceptMode) {
        let fd = types::Fd(listener.0);

        self.push(
            token,
            match mode {
                AcceptMode::Multishot => opcode::AcceptMulti::new(fd).flags(SOCK_CLOEXEC).build(),
                AcceptMode::Single => opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                    .flags(SOCK_CLOEXEC)
                    .build(),
            },
        );
    }

    fn recv(&mut self, token: Token, socket: Fd) {
        self.push(token, opcode::RecvMulti::new(types::Fd(socket.0), GROUP).build());
    }

    fn recv_once(&mut self, token: Token, socket: Fd) {
        // A length of 0 stands for the whole buffer.
        let recv = opcode::Recv::new(types::Fd(socket.0), std::ptr::null_mut(), 0).buf_group(GROUP);
        self.push(token, recv.build().flags(squeue::Flags::BUFFER_SELECT));
    }

    fn send(&mut self, token: Token, socket: Fd, bytes: Vec<u8>, sent_len: usize) {
        assert!(sent_len <= bytes.len(), "more sent than there is");
        self.push_held(token, Held::Bytes(bytes), |pointer, len| {
            // SAFETY: sent_len <= len, asserted above.
            let pointer = unsafe { pointer.add(sent_len) };
            opcode::Send::new(types::Fd(socket.0), pointer, len - sent_len as u32)
                .flags(MSG_NOSIGNAL | MSG_WAITALL)
                .build()
        });
    }

    fn shutdown_write(&mut self, socket: Fd) {
        // Fails only if the stream is gone already, which its `recv` tells.
        let _ = borrow(socket).map(|socket| rustix::net::shutdown(socket, rustix::net::Shutdown::Write));
    }

    fn close(&mut self, token: Token, fd: Fd) {
        self.push(token, opcode::Close::new(types::Fd(fd.0)).build());
    }

    fn cancel(&mut self, token: Token, target: Token) {
        self.push(token, opcode::AsyncCancel::new(target.to_user_data()).build());
    }

    fn cancel_all(&mut self, token: Token, fd: Fd) {
        let matching = CancelBuilder::fd(types::Fd(fd.0)).all();
        self.push(token, opcode::AsyncCancel2::new(matching).build());
    }

    fn write(&mut self, token: Token, file: Fd, offset: u64, bytes: BlockBuffer, durable: bool) {
        let flags = if durable && !cfg!(ringmx_mutant = "no_dsync") { RWF_DSYNC } else { 0 };
        self.push_held(token, Held::Blocks(bytes), |pointer, len| {
            opcode::Write::new(types::Fd(file.0), pointer, len).offset(offset).rw_flags(flags).build()
        });
    }

    fn sync(&mut self, token: Token, file: Fd) {
        let sync = opcode::Fsync::new(types::Fd(file.0)).flags(FsyncFlags::DATASYNC).build();
        self.push(token, if cfg!(ringmx_mutant = "no_dsync") { opcode::Nop::new().build() } else { sync });
    }

    fn signal(&mut self, token: Token, bell: Fd) {
        let write = opcode::Write::new(types::Fd(bell.0), RING.as_ptr(), RING.len() as u32);
        self.push(token, write.offset(u64::MAX).build());
    }

    fn await_signal(&mut self, token: Token, bell: Fd) {
        let rings = vec![0u8; RINGS_LEN];
        self.push_held(token, Held::Bytes(rings), |pointer, len| {
            opcode::Read::new(types::Fd(bell.0), pointer.cast_mut(), len).offset(u64::MAX).build()
        });
    }

    fn bytes(&self, lent: &Lent) -> &[u8] {
        self.buffers.bytes(lent)
    }

    fn give_back(&mut self, lent: Lent) {
        self.buffers.give_back(lent);
    }

    fn peer(&mut self, socket: Fd) -> Option<SocketAddr> {
        rustix::net::getpeername(borrow(socket)?).ok()?.and_then(|address| address.try_into().ok())
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel may still work on held bytes: cancel everything and wait, within bounds.
        let everything = CancelBuilder::any().all();
        self.push(Token::new(0, 0, 0), opcode::AsyncCancel2::new(everything).build());
        let mut ended = Vec::new();
        for _ in 0..100 {
            if self.in_flight.is_empty() || self.turn(Some(Duration::from_millis(10)), &mut ended).is_err() {
                break;
            }
            ended.clear();
        }
        // SAFETY: each is dropped once, the queues before the ring they borrow from, the ring before its buffers.
        unsafe {
            ManuallyDrop::drop(&mut self.submissions);
            ManuallyDrop::drop(&mut self.completions);
            if self.in_flight.is_empty() {
                drop(Box::from_raw(self.kernel));
                ManuallyDrop::drop(&mut self.buffers);
            } else {
                self.in_flight.leak();
            }
        }
    }
}

fn borrow<'a>(fd: Fd) -> Option<BorrowedFd<'a>> {
    // SAFETY: not -1; a number that is not open makes a system call fail with EBADF.
    (fd.0 >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd.0) })
}

/// Fails when an operation that the data plane cannot do without is missing.
fn probe(kernel: &IoUring) -> Result<(), SetupError> {
    let mut probe = Probe::new();
    kernel.submitter().register_probe(&mut probe).map_err(classify)?;
    let needed = [
        (opcode::Accept::CODE, "accept"),
        (opcode::RecvMulti::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::Close::CODE, "close"),
        (opcode::AsyncCancel::CODE, "async cancel"),
        (opcode::Write::CODE, "write"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::Read::CODE, "read"),
    ];
    match needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        None => Ok(()),
        Some((_, name)) => Err(SetupError::TooOld(name)),
    }
}

fn classify(error: io::Error) -> SetupError {
    match error.raw_os_error() {
        Some(ENOSYS) => SetupError::Missing,
        Some(EPERM) => SetupError::Forbidden,
        Some(EINVAL) => SetupError::TooOld("DEFER_TASKRUN"),
        Some(ENOMEM) => SetupError::LockedMemory,
        _ => SetupError::Other(error),
    }
}
