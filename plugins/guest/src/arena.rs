//! The allocator of a recipe: a pointer that only moves on.
//!
//! An instance serves one call and is dropped, so nothing is worth giving back, and there is nothing to set up: the
//! first mebibyte is zeroed memory of the module (`.bss`), which costs nothing until it is touched and needs no
//! `memory.grow`; that halves the time of a call against Rust's usual allocator (docs/recipes/README.md). What was
//! allocated last can grow and shrink in its place, so that a growing vector does not leave its old selves behind. A
//! call that needs more gets more pages, up to the host's limit for memory; past it, it traps.
//!
//! Absent: threads, which a component has none of.

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
};

/// Enough for nearly every call.
const ARENA_BYTES: usize = 1024 * 1024;
const PAGE_BYTES: usize = 65536;
/// Pages asked for at a time.
const GROW_PAGES: usize = 16;

#[repr(C, align(16))]
struct Arena {
    memory: UnsafeCell<[u8; ARENA_BYTES]>,
    /// Offsets into all of memory: the next free byte, and the first one that is not ours. 0: not begun.
    next: UnsafeCell<usize>,
    end: UnsafeCell<usize>,
}

// SAFETY: a component has one thread.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena =
    Arena { memory: UnsafeCell::new([0; ARENA_BYTES]), next: UnsafeCell::new(0), end: UnsafeCell::new(0) };

// SAFETY: every block is inside the arena or in pages that were added for it, aligned as asked, and given out once.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (next, end) = (&mut *self.next.get(), &mut *self.end.get());
        if *end == 0 {
            *next = self.memory.get() as usize;
            *end = *next + ARENA_BYTES;
        }
        let mut start = (*next + layout.align() - 1) & !(layout.align() - 1);
        if start.checked_add(layout.size()).is_none_or(|stop| stop > *end) {
            // Pages begin aligned to more than any layout asks for.
            let pages = layout.size().div_ceil(PAGE_BYTES).max(GROW_PAGES);
            let before = core::arch::wasm32::memory_grow::<0>(pages);
            if before == usize::MAX {
                return std::ptr::null_mut();
            }
            start = before * PAGE_BYTES;
            *end = start + pages * PAGE_BYTES;
        }
        *next = start + layout.size();
        start as *mut u8
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let next = &mut *self.next.get();
        if block as usize + layout.size() == *next {
            *next = block as usize;
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let next = &mut *self.next.get();
        let start = block as usize;
        if start + layout.size() == *next && start.checked_add(size).is_some_and(|stop| stop <= *self.end.get()) {
            *next = start + size;
            return block;
        }
        if size <= layout.size() {
            return block;
        }
        let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
        if !moved.is_null() {
            std::ptr::copy_nonoverlapping(block, moved, layout.size());
        }
        moved
    }
}
