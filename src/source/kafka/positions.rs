//! How far each partition of each topic is read, and what to make of a cluster that has moved on without us.
//!
//! Floor 3: pure; uses `epoch`, `error`. The log keeps, for every topic, its id and the offsets that come next. Offsets alone cannot tell
//! a topic from another one made later under the same name \[research: reliability 0.7\]: the id can.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the log keeps of a Kafka source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// By topic.
    pub topics: BTreeMap<String, SavedTopic>,
}

/// What the log keeps of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTopic {
    /// The topic's id, where the cluster gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// It was not there any more, and what it held counts as lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// By partition: the offset that comes next; null where another instance reads it, or nothing is known yet.
    pub next: Vec<Option<i64>>,
}

impl fmt::Display for Saved {
    /// `pin 0:120 1:98, geo 0:7`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (topic, known)) in self.topics.iter().enumerate() {
            write!(f, "{}{topic}", if index > 0 { ", " } else { "" })?;
            for (partition, next) in known.next.iter().enumerate() {
                if let Some(next) = next {
                    write!(f, " {partition}:{next}")?;
                }
            }
        }
        Ok(())
    }
}

impl Saved {
    /// The offset that comes next, where one is known.
    pub fn next(&self, topic: &str, partition: i32) -> Option<i64> {
        self.topics.get(topic)?.next.get(usize::try_from(partition).ok()?).copied().flatten()
    }

    /// Moves a partition on, up to, and without, the offset `to`.
    ///
    /// # Errors
    /// Internal: it is further already, and what lies between would be repeated.
    pub fn advance(&mut self, topic: &str, partition: i32, to: i64) -> Result<()> {
        if let Some(committed) = self.next(topic, partition).filter(|committed| *committed > to) {
            return Err(Error::internal(format!(
                "partition {partition} of `{topic}` is committed to {committed}: {to} does not follow"
            )));
        }
        self.set(topic, partition, to);
        Ok(())
    }

    /// Puts a partition somewhere: at its start, or behind what was lost.
    pub fn set(&mut self, topic: &str, partition: i32, next: i64) {
        let Ok(index) = usize::try_from(partition) else { return };
        let known = &mut self.topics.entry(topic.to_owned()).or_default().next;
        if known.len() <= index {
            known.resize(index + 1, None);
        }
        known[index] = Some(next);
    }
}

/// Where a partition is read from when nothing is committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// The first message that is there.
    #[default]
    Earliest,
    /// Behind the last one.
    Latest,
    /// The first message of this time or after it, in milliseconds since 1970.
    At(i64),
    /// As given for each topic and partition; earliest where nothing is given.
    Offsets(BTreeMap<String, BTreeMap<i32, i64>>),
}

impl Start {
    /// Spark's JSON: `{"topic":{"0":23,"1":-2}}`, where -2 is earliest and -1 latest.
    pub fn parse(text: &str) -> Result<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        let parsed: BTreeMap<String, BTreeMap<i32, i64>> = serde_json::from_str(text).map_err(|error| {
            Error::config(format!("startingOffsets is neither earliest, latest nor offsets: {error}"))
                .hint(r#"offsets are written {"topic":{"0":23,"1":-2}}, where -2 is earliest and -1 latest"#)
        })?;
        let negative = parsed.iter().flat_map(|(topic, offsets)| offsets.iter().map(move |(p, o)| (topic, p, o)));
        if let Some((topic, partition, offset)) = negative.into_iter().find(|(_, _, offset)| **offset < -2) {
            return Err(Error::config(format!(
                "startingOffsets: {offset} of partition {partition} of `{topic}` is no offset"
            ))
            .hint("-2 is earliest, -1 is latest, every other offset is at least 0"));
        }
        Ok(Self::Offsets(parsed))
    }
}

/// What a partition holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The first offset that is there.
    pub earliest: i64,
    /// Behind the last one that can be read.
    pub end: i64,
}

/// What to do with a partition whose position is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Go on there.
    At(i64),
    /// The messages between were deleted before they were read.
    Lost {
        /// Where it can go on.
        at: i64,
        /// How many offsets are gone.
        count: u64,
    },
    /// The partition ends before the position: it was cut, or made anew under an id that is not known.
    Cut {
        /// Where the partition ends.
        end: i64,
    },
}

/// Compares a committed position with what is there.
pub fn resume(next: i64, held: Held) -> Resume {
    if next < held.earliest {
        return Resume::Lost { at: held.earliest, count: held.earliest.abs_diff(next) };
    }
    if next > held.end {
        return Resume::Cut { end: held.end };
    }
    Resume::At(next)
}
