//! Partitions, positions, spans and epochs: what "exactly once" is made of.
//!
//! Floor 1: pure arithmetic. No async, no I/O, no clock; uses only `error`.
//!
//! A source has partitions; a partition has ordered positions; an epoch covers one [`Span`] `(from, to]` per partition.
//! The rule that everything hangs on is [`Positions::advance`]: a span is taken only where it starts exactly at what is
//! committed already.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The number of an epoch of one query. It is also the version of the `txn` action in Delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The first epoch of a query.
    pub const FIRST: Self = Self(0);

    /// The epoch behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The version of Delta's `txn` action.
    pub fn txn_version(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a partition of a source: a Kafka partition, a shard, a table.
pub type Partition = String;

/// How far a partition was read: everything up to and including this.
///
/// Numbers are kept as digits, because a Kinesis sequence number has up to 129 of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// Nothing was read.
    Beginning,
    /// Read up to and including this number: decimal digits without leading zeros.
    At(String),
    /// Read to the end; nothing can follow.
    Eof,
}

impl Position {
    /// The position of a number.
    pub fn at(number: u64) -> Self {
        Self::At(number.to_string())
    }

    /// The number, where there is one that fits.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::At(digits) => digits.parse().ok(),
            Self::Beginning | Self::Eof => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Beginning => 0,
            Self::At(_) => 1,
            Self::Eof => 2,
        }
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::At(a), Self::At(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What one epoch covers of one partition: everything behind `from`, up to and including `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Exclusive.
    pub from: Position,
    /// Inclusive.
    pub to: Position,
}

/// How far each partition of a source is committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Positions(BTreeMap<Partition, Position>);

impl Positions {
    /// How far a partition is committed; [`Position::Beginning`] for one never seen.
    pub fn of(&self, partition: &str) -> Position {
        self.0.get(partition).cloned().unwrap_or(Position::Beginning)
    }

    /// Moves a partition over a span.
    ///
    /// | `span.from` and what is committed | `span.to` | answer |
    /// |---|---|---|
    /// | equal | at or behind it | moved |
    /// | equal | before `span.from` | internal error: a span cannot go back |
    /// | different | – | internal error: a gap would lose records, an overlap would repeat them |
    pub fn advance(&mut self, partition: &str, span: &Span) -> Result<()> {
        let committed = self.of(partition);
        if span.from != committed {
            return Err(Error::internal(format!(
                "partition `{partition}` is committed to {committed:?}, a span from {:?} does not follow",
                span.from
            )));
        }
        if span.to < span.from {
            return Err(Error::internal(format!("a span of partition `{partition}` goes back to {:?}", span.to)));
        }
        self.0.insert(partition.to_owned(), span.to.clone());
        Ok(())
    }
}
