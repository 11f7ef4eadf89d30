//! Reads topics epoch by epoch.
//!
//! Floor 3: uses `source`, `error`, `clock`, and its neighbours in `source::kafka`.
//!
//! A bounded reading (`run`, SELECT, a materialized view) ends at the last stable offsets that were seen when it was opened.
//! The end of a partition is reached when a message at or behind it comes, or when the client says that the partition ends:
//! so aborted messages, markers of transactions and holes of a compaction are never waited for. A following reading
//! (`stream`) has no end; an epoch of it goes up to what was fetched, or is known to be there, when it began.
//!
//! Before an epoch is logged, the topics' ids are asked for again: had a topic been deleted and made anew while its
//! messages were fetched, offsets would not show it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::client::{Client, NotThere, Role, Wanted, Which};
use super::positions::{Held, Resume, Saved, SavedTopic, Start, resume};
use super::stopped::{stalled, stopped_error};
use super::survey::{Reading, Survey};
use super::{Spec, chunk, no_topic};
use crate::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::source::feed::{Feed, Share, Stopped};
use crate::source::pieces::{Pieces, PiecesInput, STALL_MS, Supplier};
use crate::source::{Committed, Cursor, Finished, Input, Limits, Opening, own};

/// Bytes that may wait between the client's thread and the epochs.
const FEED_BYTES: usize = 8 << 20;
/// Bytes of one epoch.
const EPOCH_BYTES: usize = 1 << 30;
/// How often a following reading looks for new partitions and topics, and asks how much is waiting.
const DISCOVERY_MS: u64 = 10_000;
/// The same, while partitions wait for a leader.
const ELECTION_MS: u64 = 1000;
/// How long a client that several targets may share waits for them before it begins.
const GATHERING: Duration = Duration::from_millis(200);
/// Records from which on an epoch is decoded by all cores.
const MANY_RECORDS: i64 = 50_000;

/// Topics that are being read.
pub struct KafkaCursor {
    spec: Arc<Spec>,
    /// Who reads.
    query: String,
    /// Asks, and writes the group's offsets.
    client: Arc<Client>,
    /// Fetches; another target's, where they share it. It has connections of its own: a broker answers one request of a
    /// connection after the other, and a fetch that waits for messages would let every question wait with it.
    fetcher: Arc<Client>,
    feed: Arc<Feed<i64>>,
    follow: bool,
    share: Option<crate::source::SlotOf>,
    saved: Saved,
    /// By slot.
    readings: Vec<Reading>,
    /// By slot: the offset that comes next.
    next: Vec<i64>,
    /// By slot: the last stable offset that is known.
    ends: Vec<i64>,
    /// Partitions that wait for a leader.
    leaderless: Vec<Reading>,
    lost: Loss,
    discovered: Stopwatch,
    /// Whether positions have to be kept that no epoch has logged: where `latest` was.
    unpinned: bool,
}

/// Records that the cluster no longer had.
#[derive(Debug, Clone, Copy, Default)]
struct Loss {
    count: u64,
    unknown: bool,
}

impl Loss {
    fn is_any(self) -> bool {
        self.count > 0 || self.unknown
    }
}

impl KafkaCursor {
    /// Opens the topics of a source behind what is committed.
    pub async fn open(spec: Arc<Spec>, opening: &Opening<'_>) -> Result<Self> {
        let saved: Saved = opening.saved()?;
        let client = Arc::new(spec.client(Role::Asks, opening.query)?);
        let first = opening.committed.is_none();
        // Where it begins at the newest message, or at a time, none but the first survey knows what that is.
        let waits = opening.follow && (!first || spec.start == Start::Earliest);
        let survey = Survey::settled(&spec, &client, &saved, opening.share, waits).await?;
        let lanes = if opening.follow { cores().min(2) } else { cores() };
        let mut cursor = Self {
            fetcher: Arc::clone(&client),
            client,
            feed: Arc::new(Feed::new(lanes, &[], FEED_BYTES)),
            follow: opening.follow,
            share: opening.share,
            unpinned: first,
            query: opening.query.to_owned(),
            saved,
            readings: Vec::new(),
            next: Vec::new(),
            ends: Vec::new(),
            leaderless: Vec::new(),
            lost: Loss::default(),
            discovered: Stopwatch::start(),
            spec,
        };
        cursor.refuse_another(&survey)?;
        cursor.count_gone(&survey);
        cursor.note_leaderless(&survey);
        let wanted = cursor.adopt(survey, first).await?;
        cursor.fetch(wanted, opening.query, opening.company).await?;
        Ok(cursor)
    }

    /// Fetches by itself, or together with another target of this process that is at the same place.
    async fn fetch(&mut self, wanted: Vec<Wanted>, query: &str, company: bool) -> Result<()> {
        let shared = if self.follow { self.spec.fetches.join(self.spec.key, &self.feed, &wanted).await } else { None };
        if let Some(shared) = shared {
            self.fetcher = shared;
            return Ok(());
        }
        if !self.follow && wanted.iter().all(|one| one.from >= one.until) {
            // Everything is read already.
            return Ok(());
        }
        let patience = if company { GATHERING } else { Duration::ZERO };
        self.fetcher = Arc::new(self.spec.client(Role::Fetches, query)?);
        self.fetcher.start(&self.feed, wanted, patience);
        if self.follow {
            self.spec.fetches.offer(self.spec.key, &self.fetcher);
        }
        Ok(())
    }

    /// What topics held that are gone is lost, and counted once. Their positions stay: should one come again, its id says
    /// whether it is the same.
    fn count_gone(&mut self, survey: &Survey) {
        let gone: Vec<String> = survey.gone(&self.spec, &self.saved).into_iter().cloned().collect();
        self.lost.unknown |= !gone.is_empty();
        for topic in gone {
            self.saved.topics.entry(topic).or_default().gone = true;
        }
    }

    /// Says once which partitions are not read for the time being.
    fn note_leaderless(&mut self, survey: &Survey) {
        if self.leaderless == survey.leaderless {
            return;
        }
        match survey.leaderless.is_empty() {
            true => tracing::info!("every partition has a leader again"),
            false => {
                let names: Vec<String> = survey.leaderless.iter().map(ToString::to_string).collect();
                tracing::warn!("no broker leads {}: the others are read meanwhile", names.join(", "));
            }
        }
        self.leaderless.clone_from(&survey.leaderless);
        // An epoch must not wait for what nobody delivers: with a leader, what is there will be known again.
        let fetched = self.feed.fetched();
        for (slot, reading) in self.readings.iter().enumerate() {
            if self.leaderless.contains(reading) {
                self.ends[slot] = self.next[slot].max(fetched.get(slot).copied().unwrap_or_default());
            }
        }
    }

    /// Another topic has the name of one that was read.
    fn refuse_another(&mut self, survey: &Survey) -> Result<()> {
        for topic in &survey.topics {
            let Some(known) = self.saved.topics.get(&topic.name) else { continue };
            if is_another(known.id.as_deref(), topic.id.as_deref()) {
                if self.spec.fail_on_data_loss {
                    return Err(made_anew(&topic.name));
                }
                self.forget(topic.name.clone());
            }
        }
        Ok(())
    }

    /// What is known of a topic no longer counts: it may come again, and is then another one.
    fn forget(&mut self, topic: String) {
        self.saved.topics.insert(topic, SavedTopic::default());
        self.lost.unknown = true;
    }

    /// Whether a topic that is read is gone, or another one has its name.
    fn misses(&self, survey: &Survey) -> Option<&str> {
        let found = |name: &str| survey.topics.iter().find(|topic| topic.name == name);
        let is_lost = |one: &&Reading| {
            let known = self.saved.topics.get(one.topic.as_ref()).and_then(|topic| topic.id.as_deref());
            found(&one.topic).is_none_or(|topic| is_another(known, topic.id.as_deref()))
        };
        self.readings.iter().find(is_lost).map(|one| one.topic.as_ref())
    }

    /// Takes partitions in that are not read yet.
    async fn adopt(&mut self, survey: Survey, first: bool) -> Result<Vec<Wanted>> {
        let starts = self.starts(&survey, first).await?;
        for topic in &survey.topics {
            let known = self.saved.topics.entry(topic.name.clone()).or_default();
            known.id.clone_from(&topic.id);
            known.gone = false;
        }
        let mut wanted = Vec::new();
        for ((reading, held), from) in survey.readings.into_iter().zip(survey.held).zip(starts) {
            self.saved.set(&reading.topic, reading.partition, from);
            let until = if self.follow { i64::MAX } else { held.end };
            wanted.push(Wanted { topic: Arc::clone(&reading.topic), partition: reading.partition, from, until });
            self.readings.push(reading);
            self.next.push(from);
            self.ends.push(held.end);
        }
        self.feed.grow(&wanted.iter().map(|one| one.from).collect::<Vec<_>>());
        Ok(wanted)
    }

    /// Where each partition of a survey is read from. A topic or a partition that came later than the `first` survey is read
    /// from its beginning, whatever the source was started at.
    async fn starts(&mut self, survey: &Survey, first: bool) -> Result<Vec<i64>> {
        let times = match (&self.spec.start, first) {
            (Start::At(millis), true) => {
                let partitions = survey.readings.iter().map(|one| (one.topic.to_string(), one.partition)).collect();
                Some(self.client.offsets(partitions, Which::At(*millis)).await?)
            }
            _ => None,
        };
        let mut starts = Vec::with_capacity(survey.readings.len());
        for (index, (reading, held)) in survey.readings.iter().zip(&survey.held).enumerate() {
            let at = match self.saved.next(&reading.topic, reading.partition) {
                Some(next) => self.resumed(reading, next, *held)?,
                None if !first => held.earliest,
                None => match (&self.spec.start, &times) {
                    (_, Some(times)) if times[index] >= 0 => times[index].min(held.end),
                    (Start::Latest | Start::At(_), _) => held.end,
                    (Start::Earliest, _) => held.earliest,
                    (Start::Offsets(offsets), _) => given(offsets, reading, *held)?,
                },
            };
            starts.push(at);
        }
        Ok(starts)
    }

    fn resumed(&mut self, reading: &Reading, next: i64, held: Held) -> Result<i64> {
        let Reading { topic, partition } = reading;
        // What it holds from there on is not what was read.
        let cut = self.spec.cuts.take(&self.query, topic, *partition).filter(|end| *end < next);
        let held = cut.map_or(held, |end| Held { end: end.max(held.earliest), ..held });
        let hint = "rebuild the table with `--full-refresh`, or go on and count the loss with failOnDataLoss=false";
        match resume(next, held) {
            Resume::At(next) => Ok(next),
            Resume::Lost { at, count } if !self.spec.fail_on_data_loss => {
                self.lost.count += count;
                Ok(at)
            }
            Resume::Cut { end } if !self.spec.fail_on_data_loss => {
                self.lost.unknown = true;
                // The same topic was cut; one that has no id may as well be another one.
                let has_id = self.saved.topics.get(topic.as_ref()).is_some_and(|topic| topic.id.is_some());
                Ok(if has_id { end } else { held.earliest })
            }
            Resume::Lost { at, count } => Err(Error::data(format!(
                "partition {partition} of `{topic}` begins at offset {at}, but {next} was to be read next: {count} messages were deleted before they were read"
            ))
            .hint(hint)),
            Resume::Cut { end } => Err(Error::data(format!(
                "partition {partition} of `{topic}` ends at offset {end}, but {next} was to be read next: the topic was cut or made anew"
            ))
            .hint(hint)),
        }
    }

    /// New partitions, new topics, and how much is waiting.
    async fn discover(&mut self) -> Result<()> {
        self.discovered = Stopwatch::start();
        let mut survey = Survey::new(&self.spec, &self.client, &self.saved, self.share, self.follow).await?;
        if let Some(topic) = self.misses(&survey) {
            // Opened again, the reading says what was lost, or counts it.
            return Err(made_anew(topic).passing());
        }
        self.refuse_another(&survey)?;
        self.note_leaderless(&survey);
        let mut fresh = Vec::new();
        for (index, reading) in survey.readings.iter().enumerate() {
            match self.readings.iter().position(|one| one == reading) {
                Some(slot) => self.ends[slot] = self.ends[slot].max(survey.held[index].end),
                None => fresh.push(index),
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        survey.readings = fresh.iter().map(|index| survey.readings[*index].clone()).collect();
        survey.held = fresh.iter().map(|index| survey.held[*index]).collect();
        tracing::info!(partitions = fresh.len(), "more partitions are read");
        let wanted = self.adopt(survey, false).await?;
        self.fetcher.fetch_too(wanted);
        Ok(())
    }

    /// The topics must be the ones that were opened: an id never lies.
    async fn verify(&self) -> Result<()> {
        let has_id = |name: &&str| self.saved.topics.get(*name).is_some_and(|topic| topic.id.is_some());
        let read: BTreeSet<&str> = self.readings.iter().map(|one| one.topic.as_ref()).filter(has_id).collect();
        let topics: Vec<String> = read.into_iter().map(str::to_owned).collect();
        if topics.is_empty() {
            return Ok(());
        }
        for found in self.client.describe(topics).await? {
            let known = self.saved.topics.get(&found.name).and_then(|topic| topic.id.as_deref());
            match &found.error {
                Some((NotThere::Unknown, _)) => {}
                Some(_) => return Err(no_topic(&found)),
                None if is_another(known, found.id.as_deref()) => {}
                None => continue,
            }
            // Opened again, the reading says what was lost, or counts it.
            return Err(made_anew(&found.name).passing());
        }
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        self.next.iter().zip(&self.ends).all(|(next, end)| next >= end)
    }

    /// Waits until records are there; false where everything is read.
    async fn wait_for_records(&mut self) -> Result<bool> {
        let mut quiet = Stopwatch::start();
        loop {
            let Self { feed, next, .. } = self;
            let mut moved = false;
            let found = feed.has_records(|slot, reached| {
                if let Some(next) = next.get_mut(slot) {
                    moved |= *next < *reached;
                    *next = (*next).max(*reached);
                }
            });
            if found {
                return Ok(true);
            }
            if let Some(stopped) = self.feed.stopped() {
                return Err(self.stopped(&stopped));
            }
            // Who follows has other things to look after until something comes.
            if self.follow || self.is_at_end() {
                return Ok(false);
            }
            if moved {
                quiet = Stopwatch::start();
            }
            if quiet.elapsed_ms() >= STALL_MS {
                return Err(stalled(&self.client, STALL_MS));
            }
            let feed = Arc::clone(&self.feed);
            feed.changed(Duration::from_millis(500), || feed.has_pieces()).await;
        }
    }

    fn stopped(&self, why: &Stopped) -> Error {
        stopped_error(why, |slot| self.readings.get(*slot).map_or_else(String::new, ToString::to_string))
    }
}

fn made_anew(topic: &str) -> Error {
    Error::data(format!(
        "topic `{topic}` was deleted and made anew since it was read; what it held and was not read is lost"
    ))
    .hint("rebuild the table with `--full-refresh`, or read the new topic from its start with failOnDataLoss=false")
}

fn is_another(known: Option<&str>, found: Option<&str>) -> bool {
    known.zip(found).is_some_and(|(known, found)| known != found)
}

fn given(offsets: &BTreeMap<String, BTreeMap<i32, i64>>, reading: &Reading, held: Held) -> Result<i64> {
    let offset = offsets.get(reading.topic.as_ref()).and_then(|topic| topic.get(&reading.partition));
    match offset {
        None | Some(-2) => Ok(held.earliest),
        Some(-1) => Ok(held.end),
        Some(&offset) if offset < held.earliest || offset > held.end => Err(Error::config(format!(
            "startingOffsets: partition {} of `{}` holds the offsets from {} to {}, not {offset}",
            reading.partition, reading.topic, held.earliest, held.end
        ))
        .hint("-2 is the earliest offset and -1 the latest")),
        Some(&offset) => Ok(offset),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Drop for KafkaCursor {
    /// Whoever else shares the client does not wait for this one any more. A bounded reading may outlive its cursor.
    fn drop(&mut self) {
        if let Some(Stopped::Truncated(slot, end)) = self.feed.stopped()
            && let Some(Reading { topic, partition }) = self.readings.get(slot)
        {
            self.spec.cuts.keep(&self.query, topic, *partition, end);
        }
        if self.follow {
            self.feed.close();
        }
    }
}

#[async_trait]
impl Cursor for KafkaCursor {
    async fn look(&mut self) -> Result<()> {
        if let Some(stopped) = self.feed.stopped() {
            return Err(self.stopped(&stopped));
        }
        let pause = if self.leaderless.is_empty() { DISCOVERY_MS } else { ELECTION_MS };
        if self.discovered.elapsed_ms() >= pause || self.feed.is_crowded() {
            self.discover().await?;
        }
        for (end, fetched) in self.ends.iter_mut().zip(self.feed.fetched()) {
            *end = (*end).max(fetched);
        }
        Ok(())
    }

    fn pinned(&self) -> Option<Committed> {
        serde_json::to_value(&self.saved).ok().filter(|_| self.unpinned).map(Committed)
    }

    async fn next(&mut self, limits: &Limits) -> Result<Option<Arc<dyn Input>>> {
        if !self.wait_for_records().await? && !self.lost.is_any() {
            return Ok(None);
        }
        let unlimited = limits.everything;
        let records = limits.records.filter(|_| !unlimited).unwrap_or(u64::MAX);
        let bytes = if unlimited { usize::MAX } else { EPOCH_BYTES };
        let share = Share::new(self.next.clone(), self.ends.clone(), records, bytes);
        let waiting: i64 = self.next.iter().zip(&self.ends).map(|(next, end)| (end - next).max(0)).sum();
        let streams = if waiting >= MANY_RECORDS { self.feed.lanes() } else { 1 };
        let time = limits.time.filter(|_| !unlimited);
        let fetcher: Arc<dyn Supplier> = Arc::clone(&self.fetcher) as _;
        let pieces = Pieces::new(fetcher, Arc::clone(&self.feed), share, streams, time);
        Ok(Some(Arc::new(PiecesInput::new(pieces, self.spec.form.clone(), chunk::metadata_type()))))
    }

    async fn finish(&mut self, input: Arc<dyn Input>) -> Result<Finished> {
        let input = own::<PiecesInput<i64>>(input)?;
        self.verify().await?;
        let reached = input.reached();
        for (slot, reading) in self.readings.iter().enumerate() {
            let Some(to) = reached.get(slot) else { continue };
            self.saved.advance(&reading.topic, reading.partition, *to)?;
            self.next[slot] = *to;
        }
        let lag = self.next.iter().zip(&self.ends).map(|(next, end)| u64::try_from(end - next).unwrap_or(0)).sum();
        let committed = serde_json::to_value(&self.saved).map_err(|error| Error::internal(error.to_string()))?;
        let lost = std::mem::take(&mut self.lost);
        self.unpinned = false;
        let lost = (!lost.unknown).then_some(lost.count);
        Ok(Finished { committed: Committed(committed), lost, lag, behind_ms: None })
    }

    fn is_pressing(&self, limits: &Limits) -> bool {
        self.feed.is_pressing(limits)
    }

    fn acknowledge(&mut self) {
        let offsets = self.readings.iter().zip(&self.next);
        self.client.commit(offsets.map(|(one, next)| (one.topic.to_string(), one.partition, *next)).collect());
    }
}
