//! What the allocator does beside its defaults: memory is counted, and few threads ask for it.

use std::time::Duration;

/// A wave of reconciles and looks lasts seconds, and the next one finds other sizes free.
const PACE: Duration = Duration::from_secs(5);

/// Gives freed pages back for ever. The allocator by itself gives back the end of a heap only, so that one small
/// object which lives keeps all that was freed below it.
pub async fn give_back() {
    let mut ticks = tokio::time::interval(PACE);
    loop {
        ticks.tick().await;
        glibc::trim();
    }
}

/// One heap for all threads: what one has freed serves the others. To be called before there are any.
pub fn share() {
    glibc::share();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(
    unsafe_code,
    reason = "the calls are foreign; they take no pointer, and the allocator locks its heaps"
)]
mod glibc {
    pub fn trim() {
        // SAFETY: malloc_trim(3) may be called by any thread, and moves nothing that lives.
        unsafe { libc::malloc_trim(0) };
    }

    pub fn share() {
        // SAFETY: mallopt(3) takes two numbers, and there is one thread yet.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod glibc {
    pub fn trim() {}
    pub fn share() {}
}
