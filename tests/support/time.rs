//! Time for tests on machines that stand still now and then.
//!
//! Uses nothing of the project.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take, also where a machine is shared with many others; nothing is asserted about it.
pub const PATIENCE: Duration = Duration::from_secs(400);
const TICK: Duration = Duration::from_millis(100);

/// Waits until something holds.
pub fn until(complaint: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{complaint}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Measures time as somebody has it who gets as little of the processor as everything else here: what the whole machine
/// spent standing still does not count, and on a busy one a second is longer.
pub struct Awake(Arc<AtomicU32>);

impl Awake {
    /// From now on.
    pub fn start() -> Self {
        let ticks = Arc::new(AtomicU32::new(0));
        let counted = Arc::downgrade(&ticks);
        thread::spawn(move || {
            while let Some(ticks) = counted.upgrade() {
                ticks.fetch_add(1, Ordering::Relaxed);
                drop(ticks);
                thread::sleep(TICK);
            }
        });
        Self(ticks)
    }

    /// Until now.
    pub fn elapsed(&self) -> Duration {
        TICK * self.0.load(Ordering::Relaxed)
    }
}
