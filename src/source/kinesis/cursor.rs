//! Reads a stream epoch by epoch.
//!
//! Floor 3: uses `source`, `error`, `clock`, and its neighbours in `source::kinesis`.
//!
//! A child is read when the ends of its parents are committed, so that of one partition key no later record is in an
//! earlier epoch, or beside an earlier one in the same; a materialized view, which is one epoch over everything, waits only
//! until its parents' last records are fetched. Shards that are closed while a bounded reading is under way have children
//! that hold nothing that was there when it began: the next reading finds them, as every shard that it does not know.
//!
//! An epoch is logged only when the stream is still the one that was opened. It may be logged without a record: where the
//! position would otherwise become so old that nobody could tell an idle shard from one whose records have expired, or
//! so far behind that other people's records would have to be read over and over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::chunk::{Origin, metadata_type};
use super::hub::{Hub, Subscriber, answers};
use super::positions::{Described, HashRange, Mark, Place, Saved, SavedShard, Shard, Wanted};
use super::{Spec, deleted, loss_hint, made_anew, renamed};
use crate::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::source::feed::{Feed, Share, Stopped};
use crate::source::pieces::{Pieces, PiecesInput, STALL_MS, Supplier};
use crate::source::{Committed, Cursor, Finished, Input, Limits, Opening, own};

/// Bytes that may wait between the readers and the epochs.
const FEED_BYTES: usize = 8 << 20;
/// Bytes of one epoch.
const EPOCH_BYTES: usize = 1 << 30;
/// How often a following reading looks for new shards, and soon after one has ended.
const DISCOVERY_MS: u64 = 30_000;
const CHILDREN_MS: u64 = 1_000;
/// How often, and after which pause, a shard that seems to be gone is looked for.
const GONE_TRIES: u32 = 3;
const GONE_PAUSE: Duration = Duration::from_secs(1);
/// A record that arrived so long after a bounded reading began proves that it is at its end: arrival times are
/// approximate, and the service's clock is known to the second.
const MARGIN_MS: i64 = 3_000;
/// Records from which on an epoch is decoded by all cores.
const MANY_RECORDS: u64 = 4_096;
/// A position is logged also without records when it is older than one part in this many of what the stream keeps,
const STALE_SHARE: i64 = 8;
/// or when so much of other people's records would have to be read again.
const STALE_BYTES: u64 = 64 << 20;

/// A shard that is read, or waits for its parents.
struct Slot {
    shard: Shard,
    /// The slots of its parents, where those are listed.
    parents: Vec<usize>,
    /// When everything of it is fetched.
    fetched: CancellationToken,
    /// When its end is committed.
    committed: CancellationToken,
    behind_ms: Arc<AtomicU64>,
}

/// A stream that is being read.
pub struct KinesisCursor {
    spec: Arc<Spec>,
    hub: Arc<Hub>,
    feed: Arc<Feed<Mark>>,
    supply: Arc<Supply>,
    follow: bool,
    /// When a bounded reading began.
    until: Option<i64>,
    retention_ms: i64,
    is_spread: bool,
    answers: Arc<Semaphore>,
    saved: Saved,
    /// When what is logged was seen, by shard.
    logged: HashMap<Arc<str>, i64>,
    slots: Vec<Slot>,
    /// By slot: how far it is read.
    next: Vec<Mark>,
    /// By slot, of a following reading: how far it is fetched.
    ends: Vec<Mark>,
    /// Everything is wanted in one epoch: children do not wait until their parents are committed.
    everything: CancellationToken,
    foreign_bytes: Arc<AtomicU64>,
    looked: Stopwatch,
    /// A shard has ended whose children are not found yet.
    awaits_children: bool,
    /// A shard has ended, and no entry of the log says so yet.
    has_unlogged_end: bool,
    lost: bool,
    unpinned: bool,
}

impl KinesisCursor {
    /// Opens a stream behind what is committed.
    pub async fn open(spec: Arc<Spec>, opening: &Opening<'_>) -> Result<Self> {
        let saved: Saved = opening.saved()?;
        let hub = spec.hub(opening.query).await?;
        let described = match hub.describe().await? {
            Some(described) => described,
            None if opening.committed.is_none() => hub.find().await?,
            None if spec.fail_on_data_loss => return Err(deleted(hub.client.stream())),
            // It may be made again.
            None => return Err(deleted(hub.client.stream()).passing()),
        };
        let listed = settled_list(&hub, &saved, described.created).await?;
        let now = hub.client.now();
        let lanes = std::thread::available_parallelism().map_or(1, usize::from).min(2);
        let feed = Arc::new(Feed::new(lanes, &[], FEED_BYTES));
        let mut cursor = Self {
            supply: Arc::new(Supply { hub: Arc::clone(&hub), feed: Arc::clone(&feed) }),
            feed,
            follow: opening.follow,
            until: (!opening.follow).then_some(now + MARGIN_MS),
            retention_ms: described.retention_ms,
            is_spread: described.is_spread,
            answers: answers(),
            logged: HashMap::new(),
            slots: Vec::new(),
            next: Vec::new(),
            ends: Vec::new(),
            everything: CancellationToken::new(),
            foreign_bytes: Arc::default(),
            looked: Stopwatch::start(),
            awaits_children: false,
            has_unlogged_end: false,
            lost: false,
            unpinned: opening.committed.is_none(),
            saved,
            hub,
            spec,
        };
        let wanted = cursor.wanted(&described, &listed, opening.committed.is_none(), now).await?;
        cursor.saved.forget(&listed, described.retention_ms, now);
        cursor.adopt(wanted);
        Ok(cursor)
    }

    /// What is to be read, and whether anything is lost.
    async fn wanted(&mut self, described: &Described, listed: &[Shard], first: bool, now: i64) -> Result<Wanted> {
        let has_other_name = self.saved.stream != described.name;
        let is_another = !first && (has_other_name || self.saved.created != described.created);
        if is_another && self.spec.fail_on_data_loss {
            return Err(match has_other_name {
                true => renamed(&self.saved.stream, &described.name),
                false => made_anew(&described.name),
            });
        }
        if is_another || first {
            self.lost |= is_another;
            let start = if first { self.spec.start } else { super::positions::Start::Earliest };
            self.saved = Saved { stream: described.name.clone(), created: described.created, ..Saved::default() };
            return Ok(Saved::first(listed, start, now));
        }
        let mut wanted = self.saved.wanted(listed, self.retention_ms, now);
        let mut lost = std::mem::take(&mut wanted.gone);
        for (index, words) in std::mem::take(&mut wanted.old) {
            let (shard, at) = &mut wanted.shards[index];
            if !self.is_held(shard, &at.place).await? {
                lost.push(words);
            }
            // What was lost is said once, and what is still there was not lost until now.
            at.seen = now;
        }
        if let Some(lost) = lost.first() {
            if self.spec.fail_on_data_loss {
                return Err(Error::data(format!("records of stream `{}` may be lost: {lost}", described.name))
                    .hint(loss_hint()));
            }
            self.lost = true;
            self.saved.give_up(listed);
        }
        Ok(wanted)
    }

    /// Whether the record that was read last is still there, and with it all that came later.
    async fn is_held(&self, shard: &Shard, place: &Place) -> Result<bool> {
        match place {
            Place::Behind { sequence, .. } => {
                self.hub.client.holds(&shard.id, sequence).await.map_err(|fault| self.hub.error(fault))
            }
            _ => Ok(false),
        }
    }

    /// Takes shards in that are not read yet: those whose parents are done at once, the others when they are.
    fn adopt(&mut self, wanted: Wanted) {
        let fresh: Vec<(Shard, SavedShard)> =
            wanted.shards.into_iter().filter(|(shard, _)| self.slot_of(&shard.id).is_none()).collect();
        let first = self.slots.len();
        for (shard, at) in &fresh {
            self.logged.insert(Arc::clone(&shard.id), at.seen);
            self.saved.shards.insert(shard.id.to_string(), at.clone());
            let (fetched, committed) = (CancellationToken::new(), CancellationToken::new());
            if at.place == Place::End {
                fetched.cancel();
                committed.cancel();
            }
            let parents = Vec::new();
            self.slots.push(Slot { shard: shard.clone(), parents, fetched, committed, behind_ms: Arc::default() });
            self.next.push(Mark::at(at.place.clone(), at.seen));
        }
        for slot in first..self.slots.len() {
            let parents = self.slots[slot].shard.parents.iter().filter_map(|parent| self.slot_of(parent));
            self.slots[slot].parents = parents.collect();
        }
        self.feed.grow(&self.next[first..]);
        self.ends.extend_from_slice(&self.next[first..]);
        for slot in first..self.slots.len() {
            if !self.next[slot].sealed {
                self.start(slot);
            }
        }
    }

    fn slot_of(&self, id: &str) -> Option<usize> {
        self.slots.iter().position(|slot| slot.shard.id.as_ref() == id)
    }

    fn parents(&self, slot: usize) -> impl Iterator<Item = &Slot> {
        self.slots[slot].parents.iter().filter_map(|parent| self.slots.get(*parent))
    }

    /// Whether nothing stands in the way of reading a shard.
    fn is_due(&self, slot: usize) -> bool {
        self.parents(slot).all(|parent| parent.committed.is_cancelled())
    }

    fn start(&self, slot: usize) {
        let Slot { shard, fetched, behind_ms, .. } = &self.slots[slot];
        let subscriber = Subscriber {
            feed: Arc::clone(&self.feed),
            lane: slot % self.feed.lanes(),
            shape: Arc::clone(&self.spec.shape),
            origin: Origin {
                stream: self.saved.stream.as_str().into(),
                shard: Arc::clone(&shard.id),
                range: if self.is_spread { HashRange::WHOLE } else { shard.range },
                slot,
            },
            // A shard that is closed has an end, and that alone is it.
            until: self.until.filter(|_| !shard.closed),
            answers: Arc::clone(&self.answers),
            retention_ms: self.retention_ms,
            ended: fetched.clone(),
            behind_ms: Arc::clone(behind_ms),
            foreign_bytes: Arc::clone(&self.foreign_bytes),
            joined_ms: 0,
        };
        let place = self.next[slot].place.clone();
        if self.is_due(slot) {
            return self.hub.subscribe(place, subscriber);
        }
        let gates: Vec<_> =
            self.parents(slot).map(|parent| (parent.fetched.clone(), parent.committed.clone())).collect();
        let (hub, everything, feed) = (Arc::clone(&self.hub), self.everything.clone(), Arc::clone(&self.feed));
        let parents = self.slots[slot].parents.clone();
        tokio::spawn(async move {
            let parents_done = async {
                for (fetched, committed) in gates {
                    fetched.cancelled().await;
                    tokio::select! {
                        () = committed.cancelled() => {}
                        () = everything.cancelled() => {}
                    }
                }
            };
            tokio::select! {
                () = parents_done => {
                    // It has waited for them, and is no further behind than they were at their ends.
                    let seen = parents.iter().filter_map(|parent| feed.fetched_of(*parent)).map(|mark| mark.seen).max();
                    feed.reach(slot, &Mark::at(place.clone(), seen.unwrap_or(i64::MIN)));
                    hub.subscribe(place, subscriber);
                }
                () = feed.closed() => {}
            }
        });
    }

    /// Looks for shards that are not known, and whether the stream is the one that was opened.
    async fn discover(&mut self) -> Result<()> {
        self.looked = Stopwatch::start();
        self.verify().await?;
        let listed = self.hub.shards().await?;
        let has_child = |id: &str| listed.iter().any(|shard| shard.parents.iter().any(|parent| parent.as_ref() == id));
        let ended = self.slots.iter().filter(|slot| slot.committed.is_cancelled());
        let is_listed = |slot: &&Slot| listed.iter().any(|shard| shard.id == slot.shard.id);
        self.awaits_children = ended.filter(is_listed).any(|slot| !has_child(&slot.shard.id));
        let now = self.hub.client.now();
        let mut wanted = Saved::wanted(&self.saved, &listed, i64::MAX, now);
        wanted.shards.retain(|(shard, _)| self.slot_of(&shard.id).is_none());
        if !wanted.shards.is_empty() {
            tracing::info!(shards = wanted.shards.len(), "new shards are read from their beginning");
        }
        self.adopt(wanted);
        self.saved.forget(&listed, self.retention_ms, now);
        Ok(())
    }

    async fn verify(&self) -> Result<()> {
        // Opened again, the reading says what was lost, or counts it.
        match self.hub.created().await? {
            Some(created) if created == self.saved.created => Ok(()),
            Some(_) => Err(made_anew(&self.saved.stream).passing()),
            None => Err(deleted(&self.saved.stream).passing()),
        }
    }

    /// Waits until records are there; false where everything is read.
    async fn wait_for_records(&mut self) -> Result<bool> {
        let mut quiet = Stopwatch::start();
        loop {
            let Self { feed, next, .. } = self;
            let mut moved = false;
            let found = feed.has_records(|slot, reached| {
                if let Some(next) = next.get_mut(slot) {
                    moved = true;
                    if *next <= *reached {
                        next.clone_from(reached);
                    }
                }
            });
            self.commit_ends()?;
            if found {
                return Ok(true);
            }
            if let Some(stopped) = self.feed.stopped() {
                return Err(self.supply.stopped(&stopped));
            }
            if self.follow || (0..self.slots.len()).all(|slot| self.next[slot].sealed || !self.is_due(slot)) {
                return Ok(false);
            }
            if moved {
                quiet = Stopwatch::start();
            }
            if quiet.elapsed_ms() >= STALL_MS {
                return Err(self.supply.stalled());
            }
            let feed = Arc::clone(&self.feed);
            feed.changed(Duration::from_millis(500), || feed.has_pieces()).await;
        }
    }

    /// A shard whose last records are all in epochs that are logged, or of no matter, is at its end.
    fn commit_ends(&mut self) -> Result<()> {
        for slot in 0..self.slots.len() {
            if self.next[slot].place == Place::End && !self.slots[slot].committed.is_cancelled() {
                self.saved.advance(&self.slots[slot].shard.id, &self.next[slot])?;
                self.slots[slot].committed.cancel();
                self.awaits_children = true;
                self.has_unlogged_end = true;
            }
        }
        Ok(())
    }

    /// Whether the position should be logged though there are no records.
    fn is_stale(&self) -> bool {
        let old = |(slot, next): (&Slot, &Mark)| {
            let logged = self.logged.get(&slot.shard.id).copied().unwrap_or(next.seen);
            !slot.committed.is_cancelled() && next.seen.saturating_sub(logged) > self.retention_ms / STALE_SHARE
        };
        self.has_unlogged_end
            || self.foreign_bytes.load(Ordering::Relaxed) >= STALE_BYTES
            || self.slots.iter().zip(&self.next).any(old)
    }

    /// How far the next epoch goes.
    fn ends(&self, everything: bool) -> Vec<Mark> {
        let bounded = |slot: usize| match everything || self.is_due(slot) {
            true => Mark::sealed(),
            false => self.next[slot].clone(),
        };
        if self.follow && !everything { self.ends.clone() } else { (0..self.slots.len()).map(bounded).collect() }
    }
}

/// The shards of a stream; looked at more than once where one is missing that should be there.
async fn settled_list(hub: &Hub, saved: &Saved, created: i64) -> Result<Vec<Shard>> {
    let mut tries = 1;
    loop {
        let listed = hub.shards().await?;
        if tries == GONE_TRIES || saved.created != created || !saved.misses(&listed) {
            return Ok(listed);
        }
        tries += 1;
        tokio::time::sleep(GONE_PAUSE).await;
    }
}

/// Where records come from, for as long as the cursor or an input of it is there: a bounded reading may outlive its cursor.
struct Supply {
    hub: Arc<Hub>,
    feed: Arc<Feed<Mark>>,
}

impl Drop for Supply {
    /// The readers do not wait for this feed any more.
    fn drop(&mut self) {
        self.feed.close();
    }
}

impl Supplier for Supply {
    fn stopped(&self, why: &Stopped) -> Error {
        match why {
            Stopped::Failed(error) => error.again(),
            other => Error::internal(format!("a stream has stopped: {other:?}")),
        }
    }

    fn stalled(&self) -> Error {
        Error::world(format!("stream `{}` has not answered for {} s", self.hub.client.stream(), STALL_MS / 1000))
            .hint("look whether the service can be reached")
            .passing()
    }
}

#[async_trait]
impl Cursor for KinesisCursor {
    async fn look(&mut self) -> Result<()> {
        if let Some(stopped) = self.feed.stopped() {
            return Err(self.supply.stopped(&stopped));
        }
        let pause = if self.awaits_children { CHILDREN_MS } else { DISCOVERY_MS };
        if self.looked.elapsed_ms() >= pause {
            self.discover().await?;
        }
        for (end, fetched) in self.ends.iter_mut().zip(self.feed.fetched()) {
            if *end <= fetched {
                *end = fetched;
            }
        }
        Ok(())
    }

    fn pinned(&self) -> Option<Committed> {
        serde_json::to_value(&self.saved).ok().filter(|_| self.unpinned).map(Committed)
    }

    async fn next(&mut self, limits: &Limits) -> Result<Option<Arc<dyn Input>>> {
        let unlimited = limits.everything;
        if unlimited {
            self.everything.cancel();
        } else if !self.wait_for_records().await? && !self.lost && !self.is_stale() {
            return Ok(None);
        }
        let records = limits.records.filter(|_| !unlimited).unwrap_or(u64::MAX);
        let bytes = if unlimited { usize::MAX } else { EPOCH_BYTES };
        let share = Share::new(self.next.clone(), self.ends(unlimited), records, bytes);
        let streams = if unlimited || self.feed.records() >= MANY_RECORDS { self.feed.lanes() } else { 1 };
        let time = limits.time.filter(|_| !unlimited);
        let supply: Arc<dyn Supplier> = Arc::clone(&self.supply) as _;
        let pieces = Pieces::new(supply, Arc::clone(&self.feed), share, streams, time);
        Ok(Some(Arc::new(PiecesInput::new(pieces, self.spec.form.clone(), metadata_type()))))
    }

    async fn finish(&mut self, input: Arc<dyn Input>) -> Result<Finished> {
        let input = own::<PiecesInput<Mark>>(input)?;
        self.verify().await?;
        let reached = input.reached();
        let mut is_behind = false;
        for (slot, to) in reached.into_iter().enumerate() {
            if self.slots[slot].committed.is_cancelled() {
                continue;
            }
            let id = &self.slots[slot].shard.id;
            self.saved.advance(id, &to)?;
            self.logged.insert(Arc::clone(id), to.seen);
            is_behind |= self.follow && to < self.ends[slot];
            self.next[slot] = to;
        }
        self.commit_ends()?;
        self.has_unlogged_end = false;
        self.foreign_bytes.store(0, Ordering::Relaxed);
        let lag = if is_behind || !self.follow { self.feed.records() } else { 0 };
        let committed = serde_json::to_value(&self.saved).map_err(|error| Error::internal(error.to_string()))?;
        self.unpinned = false;
        let lost = (!std::mem::take(&mut self.lost)).then_some(0);
        let active = self.slots.iter().filter(|slot| !slot.committed.is_cancelled());
        let behind_ms = Some(active.map(|slot| slot.behind_ms.load(Ordering::Relaxed)).max().unwrap_or(0));
        Ok(Finished { committed: Committed(committed), lost, lag, behind_ms })
    }

    fn is_pressing(&self, limits: &Limits) -> bool {
        self.feed.is_pressing(limits)
    }
}
