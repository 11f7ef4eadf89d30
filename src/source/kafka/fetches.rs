//! Clients that targets of one process share, so that a topic is read once for all that are at the same place.
//!
//! Floor 3: uses its neighbours in `source::kafka`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
