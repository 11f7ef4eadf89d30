//! Asks a command to end.
//!
//! Floor 5: uses nothing of the project.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Asks a command to end between two epochs.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<State>);

#[derive(Debug, Default)]
struct State {
    stopped: AtomicBool,
    said: Notify,
}

impl Stop {
    /// Asks for the end.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.said.notify_waiters();
    }

    /// Whether the end was asked for.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Comes back when the end is asked for.
    pub async fn stopped(&self) {
        while !self.pause(Duration::from_secs(3600)).await {}
    }

    /// Waits for a while, or until the end is asked for; answers whether it was.
    pub async fn pause(&self, time: Duration) -> bool {
        let said = self.0.said.notified();
        tokio::pin!(said);
        said.as_mut().enable();
        if !self.is_stopped() {
            // Either way what counts is what was asked for.
            let _ = tokio::time::timeout(time, said).await;
        }
        self.is_stopped()
    }
}
