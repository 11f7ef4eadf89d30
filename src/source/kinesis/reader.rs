//! One reader of one shard at work: asks or listens, and hands what comes to everybody who is at its place.
//!
//! Floor 3: uses `source::feed`, `clock`, `error`, and its neighbours in `source::kinesis`.
//!
//! **When has a bounded reading read what was there when it began?** An answer that says it is no milliseconds behind
//! does not prove it: one stand-in always says so, and Amazon says it of the answer, not of what came since. Three things do:
//! the shard's end; an answer without a record which also says that nothing is behind it (pages without records in the
//! middle of a shard say how far they are); a record that arrived after the beginning, by the service's own clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::select_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chunk::pieces;
use super::client::{Fault, Fetched, Subscription, pause};
use super::deleted;
use super::hub::{Hub, Mode, Reader, Shared, Subscriber, lock};
use super::positions::{Mark, Place};
use crate::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::source::feed::{Piece, Pushed, Stopped};

/// Between two looks at a shard where nothing is new.
const POLL: Duration = Duration::from_millis(250);
/// So long a feed that is full keeps others waiting for what it shares with them.
const COMPANY: Duration = Duration::from_secs(2);
/// A shard that could not be read for so long is given up for now.
const PATIENCE_MS: u64 = 60_000;
/// What an answer of so many bytes counts.
const LARGE: u32 = 8;
const LARGE_BYTES: usize = 1 << 20;
/// So much longer than what the stream keeps a reading may be behind before it is sure that records have expired in front
/// of it: what is about to expire when it begins is not lost by that.
const EXPIRY_SLACK_MS: i64 = 3_600_000;

/// Failures in a row.
struct Trouble {
    count: u32,
    since: Stopwatch,
}

impl Trouble {
    fn new() -> Self {
        Self { count: 0, since: Stopwatch::start() }
    }
}

/// What comes after a step of a reader.
enum Next {
    Go,
    Stop,
}

/// A reader at work.
pub(super) struct Reading {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    shard: Arc<str>,
    id: u64,
    trouble: Trouble,
    /// Of the next answer, as the last one was.
    weight: u32,
}

impl Reading {
    /// The task of the reader that is listed under `id`.
    pub fn new(hub: Arc<Hub>, shared: Arc<Shared>, shard: Arc<str>, id: u64) -> Self {
        Self { hub, shared, shard, id, trouble: Trouble::new(), weight: LARGE }
    }

    /// Reads for as long as anybody wants it.
    pub async fn run(mut self) {
        loop {
            let Some(place) = self.settle() else { return };
            let mode = self.hub.mode.clone();
            let done = match &mode {
                Mode::Polling { most } => self.poll(&place, *most).await,
                Mode::FanOut(name) => self.listen(&place, name).await,
            };
            match done {
                Ok(Next::Stop) => return,
                Ok(Next::Go) => {}
                Err(fault) => {
                    if self.meet(fault, &place).await {
                        return;
                    }
                }
            }
        }
    }

    /// Lets go of subscribers who have gone, and hands the others to a reader that is at the same place. Answers where this one is;
    /// None where it is no longer wanted.
    fn settle(&self) -> Option<Place> {
        let mut readers = lock(&self.shared.readers);
        let index = readers.iter().position(|reader| reader.id == self.id)?;
        readers[index].subscribers.retain(|subscriber| !subscriber.feed.is_closed());
        let place = readers[index].place.clone();
        let meets = |other: &Reader| other.id != self.id && other.is_open_at(&place);
        let is_open = readers[index].is_open_at(&place);
        let other = readers.iter().position(meets).filter(|_| is_open);
        if !readers[index].subscribers.is_empty() && other.is_none() {
            return Some(place);
        }
        let moved = std::mem::take(&mut readers[index].subscribers);
        if let Some(other) = other {
            readers[other].subscribers.extend(moved);
        }
        readers.remove(index);
        None
    }

    /// Asks, from an iterator to the next.
    async fn poll(&mut self, place: &Place, most: i32) -> Result<Next, Fault> {
        let mut iterator = self.hub.client.iterator(&self.shard, place).await?;
        loop {
            let Some(current) = iterator else {
                // It was closed without a record.
                return Ok(self.deliver(Fetched::default(), self.hub.watch.elapsed_ms(), true).await);
            };
            let (permit, asked_ms, mut fetched) = self.call(&current, most).await?;
            self.trouble = Trouble::new();
            self.weight = if fetched.bytes >= LARGE_BYTES { LARGE } else { 1 };
            let rests =
                fetched.behind_ms == 0 && self.weight == 1 && fetched.records.len() < most.unsigned_abs() as usize;
            iterator = fetched.next.take();
            let next = self.deliver(fetched, asked_ms, iterator.is_none()).await;
            drop(permit);
            match next {
                Next::Go if self.settle().is_none() => return Ok(Next::Stop),
                Next::Go => {}
                other => return Ok(other),
            }
            if rests {
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// One call, when the shard allows one; with it, when it was sent, and the right to hold its answer in memory.
    async fn call(&self, iterator: &str, most: i32) -> Result<(OwnedSemaphorePermit, u64, Fetched), Fault> {
        let watch = &self.hub.watch;
        let nobody = || Fault::Passing("nobody reads any more".to_owned());
        let permit = self.permit().await.ok_or_else(nobody)?;
        let mut budget = self.shared.budget.lock().await;
        loop {
            let pause = budget.pause_ms(watch.elapsed_ms());
            if pause == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let began = watch.elapsed_ms();
        let answer = self.hub.client.records(iterator, most).await;
        budget.answered(began, watch.elapsed_ms(), answer.as_ref().map_or(0, |fetched| fetched.bytes));
        Ok((permit, began, answer?))
    }

    /// Listens to a subscription, until it is over.
    async fn listen(&mut self, place: &Place, name: &str) -> Result<Next, Fault> {
        let mut subscription = self.subscription(place, name).await?;
        // What an event says was so at some time since the one before it.
        let mut asked_ms = self.hub.watch.elapsed_ms();
        let mut is_silent = true;
        while let Some(pushed) = subscription.next().await? {
            self.trouble = Trouble::new();
            let came_ms = self.hub.watch.elapsed_ms();
            is_silent = false;
            match self.deliver(pushed.fetched, asked_ms, pushed.continuation.is_none()).await {
                Next::Go if self.settle().is_none() => return Ok(Next::Stop),
                Next::Go => {}
                other => return Ok(other),
            }
            asked_ms = came_ms;
        }
        if is_silent { Err(Fault::Busy("a subscription ended at once".to_owned())) } else { Ok(Next::Go) }
    }

    /// Subscribes, as a consumer that is registered where it is not, or no longer, there.
    async fn subscription(&self, place: &Place, name: &str) -> Result<Subscription, Fault> {
        let mut known = self.hub.consumer.lock().await;
        let consumer = match known.as_ref() {
            Some(consumer) => consumer.clone(),
            None => known.insert(self.hub.client.consumer(name).await?).clone(),
        };
        drop(known);
        match self.hub.client.subscribe(&consumer, &self.shard, place).await {
            Err(Fault::Missing(words)) => {
                *self.hub.consumer.lock().await = None;
                // At first it is the consumer that is taken for missing: somebody has deregistered it.
                Err(if self.trouble.count == 0 { Fault::Busy(words) } else { Fault::Missing(words) })
            }
            answer => answer,
        }
    }

    /// Hands what was fetched to everybody who is here.
    async fn deliver(&self, fetched: Fetched, asked_ms: u64, is_over: bool) -> Next {
        let now = self.hub.client.now();
        let behind = i64::try_from(fetched.behind_ms).unwrap_or(i64::MAX);
        let (before, subscribers) = {
            let mut readers = lock(&self.shared.readers);
            let Some(reader) = readers.iter_mut().find(|reader| reader.id == self.id) else { return Next::Stop };
            let before = reader.place.clone();
            if let Some(last) = fetched.records.last() {
                reader.place = reader.place.clone().max(Place::behind(last.sequence.clone()));
            }
            (before, reader.subscribers.clone())
        };
        for subscriber in subscribers {
            subscriber.behind_ms.store(fetched.behind_ms, Ordering::Relaxed);
            let at_tip = fetched.records.is_empty() && fetched.behind_ms == 0 && asked_ms >= subscriber.joined_ms;
            if self.has_expired(&subscriber, now) {
                continue;
            }
            let delivery = Delivery { before: &before, fetched: &fetched, is_over, seen: now - behind, at_tip };
            match delivery.to(&subscriber, || self.is_alone()).await {
                Ok(Delivered::Wants) => self.keeps_up(),
                Ok(Delivered::Done) => self.leave(&subscriber),
                Ok(Delivered::TooSlow) => {
                    self.leave(&subscriber);
                    // What it has of this answer already it will not take twice.
                    self.hub.read(&self.shared, before.clone(), subscriber, true);
                }
                Err(error) => {
                    subscriber.feed.stop(Stopped::Failed(Arc::new(error)));
                    self.leave(&subscriber);
                }
            }
        }
        if !is_over {
            return Next::Go;
        }
        // Who came while this was handed out begins again, or would wait for a reader that is no more.
        let mut readers = lock(&self.shared.readers);
        let late = readers.extract_if(.., |reader| reader.id == self.id).next();
        drop(readers);
        if let Some(Reader { place, subscribers, .. }) = late {
            subscribers.into_iter().for_each(|late| self.hub.read(&self.shared, place.clone(), late, false));
        }
        Next::Stop
    }

    /// Whether nobody waits with a subscriber that is slow.
    fn is_alone(&self) -> bool {
        let readers = lock(&self.shared.readers);
        readers.iter().find(|reader| reader.id == self.id).is_none_or(|reader| reader.subscribers.len() <= 1)
    }

    /// The right to hold an answer in memory, of whichever subscriber has room for one: those that are slow do not hold up the others.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let asked = self.answers()?.into_iter().map(|answers| Box::pin(answers.acquire_many_owned(self.weight)));
            // Looked at anew from time to time: others may have come.
            if let Ok((permit, ..)) = tokio::time::timeout(COMPANY, select_all(asked)).await {
                return permit.ok();
            }
        }
    }

    /// What each subscriber may have in memory; None where there is none.
    fn answers(&self) -> Option<Vec<Arc<Semaphore>>> {
        let readers = lock(&self.shared.readers);
        let reader = readers.iter().find(|reader| reader.id == self.id)?;
        let mut waiting = reader.subscribers.iter().filter(|subscriber| !subscriber.feed.is_closed()).peekable();
        waiting.peek()?;
        Some(waiting.map(|subscriber| Arc::clone(&subscriber.answers)).collect())
    }

    /// Whoever was slow has taken an answer: others may join it again.
    fn keeps_up(&self) {
        let mut readers = lock(&self.shared.readers);
        if let Some(reader) = readers.iter_mut().find(|reader| reader.id == self.id) {
            reader.is_slow = false;
        }
    }

    /// Stops a reading in front of which records have expired. Opened again, it says what was lost, or counts it.
    fn has_expired(&self, subscriber: &Subscriber, now: i64) -> bool {
        let mark = subscriber.feed.fetched_of(subscriber.origin.slot);
        let keeps = subscriber.retention_ms.saturating_add(EXPIRY_SLACK_MS);
        let is_over = mark.is_some_and(|mark| mark.seen > 0 && mark.seen.saturating_add(keeps) < now);
        if is_over {
            let error = Error::data(format!("shard `{}` is so far behind that its records have expired", self.shard));
            subscriber.feed.stop(Stopped::Failed(Arc::new(error.passing())));
            self.leave(subscriber);
        }
        is_over
    }

    fn leave(&self, gone: &Subscriber) {
        let mut readers = lock(&self.shared.readers);
        if let Some(reader) = readers.iter_mut().find(|reader| reader.id == self.id) {
            reader.subscribers.retain(|one| !Arc::ptr_eq(&one.feed, &gone.feed));
        }
    }

    /// Takes a failure: waits, or gives up. Answers whether the reader is over.
    async fn meet(&mut self, fault: Fault, place: &Place) -> bool {
        if self.trouble.count == 0 {
            self.trouble.since = Stopwatch::start();
        }
        self.trouble.count += 1;
        let shard = &self.shard;
        let error = match fault {
            Fault::Expired if self.trouble.count == 1 => {
                tracing::debug!(%shard, "an iterator has expired; another one is asked for");
                return false;
            }
            fault @ (Fault::Expired | Fault::Throttled | Fault::Busy(_) | Fault::Passing(_))
                if self.trouble.since.elapsed_ms() < PATIENCE_MS =>
            {
                tracing::debug!(%shard, failures = self.trouble.count, "{fault}; it is asked again");
                tokio::time::sleep(pause(self.trouble.count)).await;
                return false;
            }
            fault @ (Fault::Invalid(_) | Fault::Missing(_)) => match self.astray(&fault, place).await {
                Ok(true) => return false,
                Ok(false) => self.hub.error(fault),
                Err(error) => error,
            },
            fault => self.hub.error(fault),
        };
        self.give_up(error);
        true
    }

    /// A position that the service does not know, in a stream that is the one it was: its record has expired, and with it all
    /// that came before. What is left comes behind it.
    async fn astray(&self, fault: &Fault, place: &Place) -> Result<bool> {
        // Asked anew, so that nothing of another stream of this name is logged. Opened again, the reading says what is lost.
        if self.hub.describe().await?.is_none() {
            return Err(deleted(self.hub.client.stream()).passing());
        }
        let listed = self.hub.shards().await?;
        if !listed.iter().any(|one| one.id == self.shard) {
            return Err(Error::data(format!("shard `{}` is gone: its records have expired", self.shard)).passing());
        }
        if !matches!(place, Place::Behind { .. }) {
            return match place {
                // Our clock is ahead of the service's: in a moment the time is past.
                Place::Time(_) if self.trouble.since.elapsed_ms() < PATIENCE_MS => {
                    tokio::time::sleep(pause(self.trouble.count)).await;
                    Ok(true)
                }
                _ => Ok(false),
            };
        }
        let shard = &self.shard;
        tracing::warn!(%shard, "the service no longer knows the position ({fault}); what is left comes behind it");
        let mut readers = lock(&self.shared.readers);
        if let Some(reader) = readers.iter_mut().find(|reader| reader.id == self.id) {
            reader.place = Place::Horizon;
        }
        Ok(true)
    }

    fn give_up(&self, error: Error) {
        let error = Arc::new(error);
        let mut readers = lock(&self.shared.readers);
        if let Some(index) = readers.iter().position(|reader| reader.id == self.id) {
            for subscriber in readers.remove(index).subscribers {
                subscriber.feed.stop(Stopped::Failed(Arc::clone(&error)));
            }
        }
    }
}

enum Delivered {
    Wants,
    Done,
    TooSlow,
}

/// What one answer is to a subscriber.
struct Delivery<'a> {
    before: &'a Place,
    fetched: &'a Fetched,
    is_over: bool,
    /// What arrived before this time is in this answer or an earlier one.
    seen: i64,
    at_tip: bool,
}

impl Delivery<'_> {
    /// Hands it over. Who is slow is waited for as long as it takes, unless others wait with it.
    async fn to(&self, subscriber: &Subscriber, is_alone: impl Fn() -> bool) -> Result<Delivered> {
        let Subscriber { feed, lane, shape, origin, until, ended, .. } = subscriber;
        // Of what it was handed before, a feed knows how far that went.
        let known = feed.fetched_of(origin.slot).map(|mark| mark.place);
        let behind = known.filter(is_behind_record).unwrap_or_else(|| self.before.clone());
        let (mut pieces, foreign) = pieces(shape, origin, &behind, &self.fetched.records)?;
        subscriber.foreign_bytes.fetch_add(foreign as u64, Ordering::Relaxed);
        let arrived = self.fetched.records.last().map(|record| record.arrived);
        let is_late = until.is_some_and(|until| self.at_tip || arrived.is_some_and(|arrived| arrived > until));
        let sealed = self.is_over || is_late;
        let place = match self.is_over {
            true => Place::End,
            false => pieces.last().and_then(|piece| Some(piece.reached.first()?.1.place.clone())).unwrap_or(behind),
        };
        let seen = arrived.map_or(self.seen, |arrived| arrived.min(self.seen));
        let reached = vec![(origin.slot, Mark { sealed, place, seen })];
        pieces.push(Piece { chunk: None, origins: Vec::new(), reached, bytes: 0 });
        for piece in pieces {
            let mut piece = Some(piece);
            while piece.is_some() {
                match feed.push_in_time(*lane, &mut piece, COMPANY).await {
                    Pushed::Closed => return Ok(Delivered::Done),
                    Pushed::TooSlow if !is_alone() => return Ok(Delivered::TooSlow),
                    Pushed::Waits | Pushed::TooSlow => {}
                }
            }
        }
        if self.is_over {
            ended.cancel();
        }
        Ok(if sealed { Delivered::Done } else { Delivered::Wants })
    }
}

fn is_behind_record(place: &Place) -> bool {
    matches!(place, Place::Behind { .. })
}
