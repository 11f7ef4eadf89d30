//! What a cluster holds of the topics of a source, now.
//!
//! Floor 3: uses `error`, `source`, and its neighbours in `source::kafka`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Spec;
use super::client::{Client, Described};
use super::positions::{Held, Saved, SavedTopic};
use crate::error::{Error, Result};
use crate::source::SlotOf;

/// How often, and after which pause, what seems to be gone is looked for.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);

/// A partition that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its number.
    pub partition: i32,
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} of `{}`", self.partition, self.topic)
    }
}

/// The topics of a source, their partitions, and what those hold.
pub struct Survey {
    /// Those that are there.
    pub topics: Vec<Described>,
    /// The partitions that are this instance's to read.
    pub readings: Vec<Reading>,
    /// What each of them holds.
    pub held: Vec<Held>,
    /// Partitions that would be read, had they a leader.
    pub leaderless: Vec<Reading>,
}

impl Survey {
    /// Asks the cluster. Where a partition without a leader can `wait`, it does not hold up the others.
    pub async fn new(spec: &Spec, client: &Client, saved: &Saved, share: Option<SlotOf>, wait: bool) -> Result<Self> {
        let topics = spec.topics(client, saved.topics.keys().map(String::as_str)).await?;
        let (mut readings, mut leaderless) = (Vec::new(), Vec::new());
        for topic in &topics {
            let name: Arc<str> = topic.name.as_str().into();
            for partition in (0..topic.partitions).filter(|partition| share.is_none_or(|share| share.has(*partition))) {
                let is_led = !wait || !topic.leaderless.contains(&partition);
                let list = if is_led { &mut readings } else { &mut leaderless };
                list.push(Reading { topic: Arc::clone(&name), partition });
            }
        }
        let partitions: Vec<_> = readings.iter().map(|one| (one.topic.to_string(), one.partition)).collect();
        let held = client.held(partitions).await?;
        Ok(Self { topics, readings, held, leaderless })
    }

    /// A survey that says again and again what it says of topics that are gone and of partitions without a leader: a broker
    /// that has just come back knows less than there is, and an election takes a moment.
    pub async fn settled(
        spec: &Spec,
        client: &Client,
        saved: &Saved,
        share: Option<SlotOf>,
        wait: bool,
    ) -> Result<Self> {
        for _ in 1..TRIES {
            let found = Self::new(spec, client, saved, share, wait).await?;
            if found.leaderless.is_empty() && found.gone(spec, saved).is_empty() {
                return Ok(found);
            }
            tokio::time::sleep(PAUSE).await;
        }
        let found = Self::new(spec, client, saved, share, wait).await?;
        match found.gone(spec, saved).first() {
            Some(topic) if spec.fail_on_data_loss => {
                Err(Error::data(format!("topic `{topic}` was deleted; what it held and was not read is lost"))
                    .hint("make it again, take it out of the source, or go on without it with failOnDataLoss=false"))
            }
            _ => Ok(found),
        }
    }

    /// Topics that were read, are not found, and are not known to be gone. One that the source no longer names is not missed.
    pub fn gone<'a>(&self, spec: &Spec, saved: &'a Saved) -> Vec<&'a String> {
        let names: BTreeSet<&str> = self.topics.iter().map(|topic| topic.name.as_str()).collect();
        let was_read = |known: &SavedTopic| !known.gone && known.next.iter().any(Option::is_some);
        let known = saved.topics.iter().filter(|(_, known)| was_read(known)).map(|(topic, _)| topic);
        known.filter(|topic| spec.names(topic) && !names.contains(topic.as_str())).collect()
    }
}
