//! Clients that targets of one process share, so that a topic is read once for all that are at the same place; and what one
//! reading of a target leaves to the next.
//!
//! Floor 3: uses its neighbours in `source::kafka`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::client::{Client, Wanted};
use crate::source::feed::Feed;

/// The clients that fetch for followed targets.
#[derive(Debug, Default)]
pub struct Fetches(Mutex<HashMap<u64, Weak<Client>>>);

impl Fetches {
    /// A client that fetches the same from the same place, and from now on into this feed too.
    pub async fn join(&self, key: u64, feed: &Arc<Feed<i64>>, wanted: &[Wanted]) -> Option<Arc<Client>> {
        let client = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key)?.upgrade()?;
        client.join(feed, wanted).await.then_some(client)
    }

    /// Others may join this client.
    pub fn offer(&self, key: u64, client: &Arc<Client>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::downgrade(client));
    }
}

/// Where partitions lost their newest messages in an unclean election, by query, topic and partition, until the query that was
/// stopped by it looks. When a partition has grown past that again, nothing else tells what is there from what was.
#[derive(Debug, Default)]
pub struct Cuts(Mutex<HashMap<(String, String, i32), i64>>);

impl Cuts {
    /// Keeps the first offset that was lost.
    pub fn keep(&self, query: &str, topic: &str, partition: i32, end: i64) {
        self.lock().insert((query.to_owned(), topic.to_owned(), partition), end);
    }

    /// What is kept of a partition; it is not kept any longer.
    pub fn take(&self, query: &str, topic: &str, partition: i32) -> Option<i64> {
        self.lock().remove(&(query.to_owned(), topic.to_owned(), partition))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String, i32), i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
