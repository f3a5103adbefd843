//! A message costs no allocation: ten times the messages, the same number of allocations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use loadgen::options::{Cli, Command as Asked};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: each call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(server: &str, messages: &str, ledger: &str) -> u64 {
    let args = [
        "loadgen",
        "run",
        server,
        "--connections",
        "5",
        "--messages",
        messages,
        "--ledger",
        ledger,
        "--json",
        ledger,
    ];
    let Asked::Run(args) = Cli::try_parse_from(args).expect("parsed").command else {
        panic!("asked for a run")
    };
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(loadgen::run::run(&args).expect("a run"));
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
fn a_message_costs_no_allocation() {
    let mut sink = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["sink", "--bind", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the sink starts");
    let mut line = String::new();
    BufReader::new(sink.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
    let server = line.trim().strip_prefix("listening on ").expect("the address");
    let few = allocations_of(server, "1000", "/dev/null");
    let many = allocations_of(server, "10000", "/dev/null");
    sink.kill().expect("ended");
    sink.wait().expect("waited");
    // Buffers grow with the largest turn, and the display wakes up more often in a longer run.
    assert!(many < few + 300, "{few} allocations for 1,000 messages, {many} for 10,000");
}
