//! What a shard allows: five calls and two megabytes a second, for all who read it.
//!
//! Floor 3: pure; the caller says what time it is. The limits are of Amazon's service quotas; a call may bring ten megabytes at once, and then nothing more
//! for five seconds. Of any six calls in a row the sixth is sent a second after the first was answered, so that the
//! service counts five in every second, however long each is on its way.

use std::collections::VecDeque;

/// Calls in a second.
const CALLS: usize = 5;
const SECOND_MS: u64 = 1_000;
/// Of data and keys.
const BYTES_EACH_MS: u64 = 2_000;

/// What was used of one shard's limits. Times are in milliseconds since any beginning, always the same one.
#[derive(Debug, Default)]
pub struct Budget {
    /// When the last calls were answered.
    answers: VecDeque<u64>,
    /// Until then the bytes of the last calls count.
    bytes_until: u64,
}

impl Budget {
    /// How long to wait before the next call.
    pub fn pause_ms(&self, now: u64) -> u64 {
        let first = self.answers.len().checked_sub(CALLS).and_then(|index| self.answers.get(index));
        // A millisecond more, as both times are rounded.
        let calls = first.map_or(0, |answered| answered + SECOND_MS + 1);
        calls.max(self.bytes_until).saturating_sub(now)
    }

    /// A call that began at one time was answered at another, with so many bytes.
    pub fn answered(&mut self, began: u64, now: u64, bytes: usize) {
        self.bytes_until = self.bytes_until.max(began) + bytes as u64 / BYTES_EACH_MS;
        self.answers.push_back(now);
        if self.answers.len() > CALLS {
            self.answers.pop_front();
        }
    }
}
