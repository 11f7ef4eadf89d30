//! Why a reading of topics has stopped, in words.
//!
//! Floor 3: uses `error`, `source`, and its neighbours in `source::kafka`.

use super::client::Client;
use crate::error::Error;
use crate::source::feed::{Slot, Stopped};
use crate::source::pieces::{STALL_MS, Supplier};

impl Supplier for Client {
    fn stopped(&self, why: &Stopped) -> Error {
        stopped_error(why, |_| "a partition".to_owned())
    }

    fn stalled(&self) -> Error {
        stalled(self, STALL_MS)
    }
}

/// Opened again, the reading finds out what is the matter: so all but a refusal pass.
pub fn stopped_error(why: &Stopped, name: impl Fn(&Slot) -> String) -> Error {
    match why {
        Stopped::OutOfRange(slot) => {
            Error::data(format!("{} no longer has the offset that comes next", name(slot))).passing()
        }
        Stopped::Truncated(slot, end) => {
            Error::data(format!("{} lost in an election what it held from offset {end} on", name(slot))).passing()
        }
        Stopped::Gone(slot) => Error::data(format!("{} is gone", name(slot))).passing(),
        Stopped::Refused(words) => Error::world(format!("the topic may not be read: {words}"))
            .hint("give the user of this connection the right to read the topic"),
        Stopped::Grown => Error::world("new partitions have come").passing(),
        Stopped::Behind => {
            Error::world("other targets of this topic are too far ahead to share what is fetched").passing()
        }
        Stopped::Failed(error) => error.again(),
        Stopped::Broken(words) => Error::world(words.clone()).hint("read the topic with another tool to find out more"),
    }
}

/// What is said when nothing comes for so long.
pub fn stalled(client: &Client, after_ms: u64) -> Error {
    let why = client.complaint().unwrap_or_else(|| "no reason is known".to_owned());
    Error::world(format!("Kafka has not delivered for {} s what it holds: {why}", after_ms / 1000))
        .hint("look whether all brokers are up")
        .passing()
}
