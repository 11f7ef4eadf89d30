//! The allocator of the program, and how soon it gives memory back.
//!
//! Floor 0: uses nothing. **One of two files with `unsafe` code**; the other speaks to librdkafka.
//!
//! Decoding and query operators allocate and free small and medium blocks on every core; mimalloc does that without the
//! contention of the system's allocator. Left to itself it keeps what was freed for a second, and lets the system back it by
//! huge pages, of which a few used bytes hold 2 MiB: draining a backlog then holds half as much again as it uses. So huge
//! pages are off (its feature `no_thp`), and free pages go back after [`PURGE_DELAY_MS`].
//!
//! It happens that mimalloc 3 stops to do that: a block that is freed while the last purge ends is noted, but no next purge is
//! due (`mi_arenas_try_purge` clears the time that `mi_arena_schedule_purge` has just set). A purge by force, behind every
//! epoch, sets it going again.
#![allow(unsafe_code, reason = "mimalloc is written in C")]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3 (`mimalloc.h`), which the crate does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// How long mimalloc keeps free pages, in milliseconds. Sooner costs page faults, later costs memory.
const PURGE_DELAY_MS: std::ffi::c_long = 10;

/// Tells the allocator to give memory back soon. A program calls it once, first of all.
pub fn give_back_soon() {
    // SAFETY: sets a number that mimalloc reads atomically; an option that it does not know is ignored.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) }
}

/// Gives back now what is free.
pub fn give_back() {
    // SAFETY: may be called by any thread at any time; it touches nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
