//! How far each shard of a stream is read, and what to read of the shards that are there.
//!
//! Floor 3: pure; uses `error`. Shards make a graph: a split gives one shard two children, a merge gives two one. A child is
//! read when its parents are read to their ends, and from its oldest record: whatever the stream was started at, what is in
//! it came later than all that was in them. A shard that is read to its end is remembered for as long as the stream lists
//! it, or it would look like a new one.
//!
//! A position also says until when the shard is known to be read. Kinesis does not say of a sequence number that it is
//! too old: it goes on at the oldest record that is left, in silence. So what was not read for longer than the stream
//! keeps its records counts as lost, unless the record at the position is still there: Kinesis drops the oldest first
//! \[research: reliability A.2, B.3\].

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::options::parse_time;

/// A record's number in its shard: decimal digits, up to 129 of them, compared as numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Sequence(Arc<str>);

impl From<String> for Sequence {
    fn from(digits: String) -> Self {
        Self(digits.into())
    }
}

impl From<Sequence> for String {
    fn from(sequence: Sequence) -> Self {
        sequence.0.as_ref().to_owned()
    }
}

impl Sequence {
    /// The digits.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl Ord for Sequence {
    fn cmp(&self, other: &Self) -> Ordering {
        let significant = |digits: &str| digits.trim_start_matches('0').len();
        let (a, b) = (significant(&self.0), significant(&other.0));
        a.cmp(&b).then_with(|| self.0[self.0.len() - a..].cmp(&other.0[other.0.len() - b..]))
    }
}

impl PartialOrd for Sequence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A place in a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Before the oldest record that is there.
    Horizon,
    /// Before the first record that arrived at this time or later, in milliseconds since 1970.
    Time(i64),
    /// Behind a record.
    Behind {
        /// Its number.
        sequence: Sequence,
        /// Behind this one of the records that it holds, counted from 0, and not behind all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within: Option<u32>,
    },
    /// Behind all: the shard is closed, and read.
    End,
}

impl Place {
    /// Behind a whole record.
    pub fn behind(sequence: Sequence) -> Self {
        Self::Behind { sequence, within: None }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Horizon => 0,
            Self::Time(_) => 1,
            Self::Behind { .. } => 2,
            Self::End => 3,
        }
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Time(a), Self::Time(b)) => a.cmp(b),
            (Self::Behind { sequence: a, within: x }, Self::Behind { sequence: b, within: y }) => {
                let part = |within: &Option<u32>| within.map_or(u64::from(u32::MAX) + 1, u64::from);
                a.cmp(b).then_with(|| part(x).cmp(&part(y)))
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How far a shard is read in one reading of the stream. Ordered by what is behind it: first whether that is all that the
/// reading wants, then by place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Nothing that this reading wants comes behind it.
    pub sealed: bool,
    /// The place.
    pub place: Place,
    /// What arrived before this time, in milliseconds since 1970, is read. It does not count for the order.
    pub seen: i64,
}

impl Mark {
    /// A place behind which more may come.
    pub fn at(place: Place, seen: i64) -> Self {
        Self { sealed: place == Place::End, place, seen }
    }

    /// The least mark that is behind all that a bounded reading wants.
    pub fn sealed() -> Self {
        Self { sealed: true, place: Place::Horizon, seen: i64::MIN }
    }
}

impl Ord for Mark {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sealed.cmp(&other.sealed).then_with(|| self.place.cmp(&other.place))
    }
}

impl PartialOrd for Mark {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Where a stream is read from when nothing is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// The oldest record that is there.
    #[default]
    Earliest,
    /// What arrives from now on.
    Latest,
    /// The first record of this time or later, in milliseconds since 1970.
    At(i64),
}

impl Start {
    /// `earliest`, `trim_horizon`, `latest`, or `{"at_timestamp": "2026-01-31T12:00:00Z"}`.
    pub fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct At {
            at_timestamp: serde_json::Value,
        }
        match text.trim().to_ascii_lowercase().as_str() {
            "earliest" | "trim_horizon" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        let time = serde_json::from_str::<At>(text).ok().and_then(|at| match at.at_timestamp {
            serde_json::Value::String(text) => parse_time(&text),
            serde_json::Value::Number(millis) => millis.as_i64().filter(|millis| *millis >= 0),
            _ => None,
        });
        time.map(Self::At).ok_or_else(|| {
            Error::config(format!("initialPosition `{text}` is neither earliest, trim_horizon, latest nor a time"))
                .hint(r#"a time is written {"at_timestamp":"2026-01-31T12:00:00Z"}, or with milliseconds since 1970"#)
        })
    }
}

/// The numbers that partition keys are hashed to: those of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashRange {
    /// Inclusive.
    pub first: u128,
    /// Inclusive.
    pub last: u128,
}

impl HashRange {
    /// All of them.
    pub const WHOLE: Self = Self { first: 0, last: u128::MAX };
}

/// A shard as the stream lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its name.
    pub id: Arc<str>,
    /// Those that it took over from; they may be gone.
    pub parents: Vec<Arc<str>>,
    /// Whose records it takes.
    pub range: HashRange,
    /// Nothing is written to it any more.
    pub closed: bool,
}

/// A stream as it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// When it was made, in milliseconds since 1970: no two streams of a name have that in common.
    pub created: i64,
    /// For how long it keeps a record.
    pub retention_ms: i64,
    /// Whether it spreads records over shards whatever their keys are.
    pub is_spread: bool,
    /// Whether it takes part in nothing yet, or any more.
    pub state: State,
}

/// What a stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is there. So it is while its shards are being split or merged.
    Active,
    /// It is being made.
    Creating,
    /// It is being deleted.
    Deleting,
}

/// What the log keeps of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The stream's name.
    pub stream: String,
    /// When it was made.
    pub created: i64,
    /// By shard.
    pub shards: BTreeMap<String, SavedShard>,
}

/// What the log keeps of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedShard {
    /// How far it is read.
    pub place: Place,
    /// What arrived before this time, in milliseconds since 1970, is read.
    pub seen: i64,
}

impl fmt::Display for Saved {
    /// `pin 0 to 2026-11-21 17:00:00, 1 ended`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stream)?;
        for (index, (id, shard)) in self.shards.iter().enumerate() {
            let number = id.strip_prefix("shardId-").map_or(id.as_str(), |digits| digits.trim_start_matches('0'));
            let number = if number.is_empty() { "0" } else { number };
            write!(f, "{} {number} ", if index > 0 { "," } else { "" })?;
            match (&shard.place, chrono::DateTime::from_timestamp_millis(shard.seen)) {
                (Place::End, _) => write!(f, "ended")?,
                (_, Some(time)) => write!(f, "to {}", time.format("%Y-%m-%d %H:%M:%S"))?,
                (_, None) => write!(f, "not read")?,
            }
        }
        Ok(())
    }
}

/// What is to be read of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The shards, and how far each is read.
    pub shards: Vec<(Shard, SavedShard)>,
    /// Those of them whose position is older than the records that the stream keeps, with a sentence: if the record at the
    /// position is still there, so is everything behind it.
    pub old: Vec<(usize, String)>,
    /// Shards that are gone and were not read to their ends: one sentence each.
    pub gone: Vec<String>,
}

impl Saved {
    /// What to read of the shards that are listed `now`, in milliseconds since 1970. A shard that is not known came later than those that are.
    pub fn wanted(&self, listed: &[Shard], retention_ms: i64, now: i64) -> Wanted {
        let mut wanted = Wanted::default();
        let mut unread: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut seen: BTreeMap<String, i64> = self.shards.iter().map(|(id, known)| (id.clone(), known.seen)).collect();
        for shard in listed {
            // All of it came later than what is read of its parents.
            let parents = shard.parents.iter().filter_map(|parent| seen.get(parent.as_ref())).copied().max();
            let at = match self.shards.get(shard.id.as_ref()) {
                None => SavedShard { place: Place::Horizon, seen: parents.unwrap_or(now) },
                // It has waited for them since it was found.
                Some(SavedShard { place: Place::Horizon, seen }) => {
                    SavedShard { place: Place::Horizon, seen: parents.map_or(*seen, |parents| parents.max(*seen)) }
                }
                Some(known) => known.clone(),
            };
            seen.insert(shard.id.to_string(), at.seen);
            // Before the last record of its parents is gone, nothing of it is.
            let waits = at.place == Place::Horizon && shard.parents.iter().any(|parent| unread.contains(parent));
            if at.place != Place::End {
                unread.insert(Arc::clone(&shard.id));
            }
            if at.place != Place::End && !waits && at.seen.saturating_add(retention_ms) < now {
                let words = format!(
                    "shard `{}` was read until {} UTC, and the stream keeps its records for {} hours",
                    shard.id,
                    in_words(at.seen),
                    retention_ms / 3_600_000
                );
                wanted.old.push((wanted.shards.len(), words));
            }
            wanted.shards.push((shard.clone(), at));
        }
        let ids: BTreeSet<&str> = listed.iter().map(|shard| shard.id.as_ref()).collect();
        for (id, known) in &self.shards {
            if known.place != Place::End && !ids.contains(id.as_str()) {
                wanted.gone.push(format!(
                    "shard `{id}` was read until {} UTC; since then it was closed, and its records have expired",
                    in_words(known.seen)
                ));
            }
        }
        wanted
    }

    /// What to read first, when nothing is known.
    pub fn first(listed: &[Shard], start: Start, now: i64) -> Wanted {
        let place = |shard: &Shard| match start {
            Start::Earliest => Place::Horizon,
            Start::At(time) => Place::Time(time),
            Start::Latest if shard.closed => Place::End,
            Start::Latest => Place::Time(now),
        };
        let shards = listed.iter().map(|shard| (shard.clone(), SavedShard { place: place(shard), seen: now }));
        Wanted { shards: shards.collect(), ..Wanted::default() }
    }

    /// Takes those that the stream no longer lists for read: what was left of them is lost.
    pub fn give_up(&mut self, listed: &[Shard]) {
        let gone = self.shards.iter_mut().filter(|(id, _)| !is_listed(listed, id));
        gone.for_each(|(_, known)| known.place = Place::End);
    }

    /// Forgets those that are read to their ends, and that the stream no longer lists as even their last records are gone. One
    /// that is missing from a list before that may be in the next, and would look like a new one.
    pub fn forget(&mut self, listed: &[Shard], retention_ms: i64, now: i64) {
        let is_over = |known: &SavedShard| known.place == Place::End && known.seen.saturating_add(retention_ms) < now;
        self.shards.retain(|id, known| !is_over(known) || is_listed(listed, id));
    }

    /// Whether a shard that is not read to its end is not listed.
    pub fn misses(&self, listed: &[Shard]) -> bool {
        self.shards.iter().any(|(id, known)| known.place != Place::End && !is_listed(listed, id))
    }

    /// Moves a shard on.
    ///
    /// # Errors
    /// Internal: it is not known, or is further already, and what lies between would be repeated.
    pub fn advance(&mut self, id: &str, to: &Mark) -> Result<()> {
        let known = self.shards.get_mut(id).filter(|known| known.place <= to.place);
        let known = known.ok_or_else(|| Error::internal(format!("{to:?} does not follow what shard `{id}` is at")))?;
        // What arrived at no known time says nothing.
        let has_moved = known.place != to.place && to.seen > 0;
        known.seen = if has_moved { to.seen } else { known.seen.max(to.seen) };
        known.place = to.place.clone();
        Ok(())
    }
}

fn is_listed(listed: &[Shard], id: &str) -> bool {
    listed.iter().any(|shard| shard.id.as_ref() == id)
}

fn in_words(millis: i64) -> String {
    chrono::DateTime::from_timestamp_millis(millis)
        .map_or_else(|| "an unknown time".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%S").to_string())
}
