//! Counting allocations, for the tests that say there are none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::simulation::probe::Aside;

thread_local! {
    /// Of each thread: the test harness has threads of its own.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts. To be made a test binary's `#[global_allocator]`.
pub struct Counting;

/// Allocations of this thread so far, those of a simulation around the worker not counted.
pub fn counted() -> u64 {
    COUNT.get()
}

fn count() {
    if !Aside::is_inside() {
        // No value any more while a thread ends.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, new_len) }
    }
}
