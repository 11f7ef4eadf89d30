//! Records of a topic or a stream on their way from whoever fetches them to the epochs: bounded, and in order within a lane.
//!
//! Floor 3: uses `source::records`, `clock`, `error`. Who fetches pushes pieces and waits while there are too many; epochs take them.
//! A partition has a number, its slot, and belongs to one lane, so that several tasks can decode side by side and each
//! partition still comes in its order. A position `P` says how far a partition is read: the larger, the farther.
//!
//! An epoch's [`Share`] says how far it goes: up to the offsets that were there when it began, or until it has taken enough.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Limits;
use super::records::Chunk;
use crate::clock::Stopwatch;
use crate::error::{Error, Result};

/// A partition's number within one reading.
pub type Slot = usize;

/// How far a partition is read.
pub trait Progress: Clone + Ord + fmt::Debug + Send + Sync + 'static {}

impl<T: Clone + Ord + fmt::Debug + Send + Sync + 'static> Progress for T {}

/// How long a client's thread sleeps at most while the feed is full: it has other things to look after.
const NAP: Duration = Duration::from_millis(20);
/// So many of them it sleeps for one feed while others wait for what it fetches.
const COMPANY_NAPS: u32 = 100;

/// Records of one lane that came together.
#[derive(Debug, Clone)]
pub struct Piece<P> {
    /// The records; None where only the ends of partitions were seen.
    pub chunk: Option<Chunk>,
    /// The slot of each record, and how far its partition is read with it.
    pub origins: Vec<(u32, P)>,
    /// How far the piece brings its slots.
    pub reached: Vec<(Slot, P)>,
    /// What it weighs.
    pub bytes: usize,
}

impl<P: Progress> Piece<P> {
    /// Records in it.
    pub fn rows(&self) -> usize {
        self.origins.len()
    }

    /// Whether anything in it has to be counted.
    pub fn has_records(&self) -> bool {
        self.chunk.is_some()
    }

    /// Goes further, without records.
    fn reach(&mut self, reached: Vec<(Slot, P)>) {
        for (slot, place) in reached {
            match self.reached.iter_mut().find(|(other, _)| *other == slot) {
                Some((_, old)) => advance(old, &place),
                None => self.reached.push((slot, place)),
            }
        }
    }

    /// Cuts the piece behind `rows` records; answers the rest.
    fn split(&mut self, rows: usize) -> Self {
        let rest_bytes = self.bytes * (self.rows() - rows) / self.rows().max(1);
        let rest_origins = self.origins.split_off(rows);
        let rest = Self {
            chunk: self.chunk.as_mut().map(|chunk| chunk.split(rows)),
            origins: rest_origins,
            reached: std::mem::take(&mut self.reached),
            bytes: rest_bytes,
        };
        self.bytes -= rest_bytes;
        for (slot, place) in self.origins.iter().rev() {
            let slot = *slot as Slot;
            if self.reached.iter().all(|(other, _)| *other != slot) {
                self.reached.push((slot, place.clone()));
            }
        }
        rest
    }
}

/// Why no more records come.
#[derive(Debug, Clone)]
pub enum Stopped {
    /// The offset that was asked for is not there: too old, or from another life of the topic.
    OutOfRange(Slot),
    /// The partition lost what it held from this offset on, in an election, and may hold other messages there by now.
    Truncated(Slot, i64),
    /// The partition or its topic is gone.
    Gone(Slot),
    /// The cluster refuses.
    Refused(String),
    /// The client cannot go on.
    Broken(String),
    /// New partitions came to a client that several targets share: each opens its own.
    Grown,
    /// Others with whom it shared a client did not wait.
    Behind,
    /// What is the matter is known already.
    Failed(Arc<Error>),
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits to be taken.
    Waits,
    /// Nobody reads any more.
    Closed,
    /// There was no room for so long that others should not wait with it.
    TooSlow,
}

#[derive(Debug)]
struct State<P> {
    lanes: Vec<VecDeque<Piece<P>>>,
    bytes: usize,
    /// By slot: how far the newest piece brings it.
    fetched: Vec<P>,
    stopped: Option<Stopped>,
    closed: bool,
}

impl<P: Progress> State<P> {
    fn add(&mut self, lane: usize, piece: Piece<P>) {
        for (slot, place) in &piece.reached {
            if let Some(fetched) = self.fetched.get_mut(*slot) {
                advance(fetched, place);
            }
        }
        self.bytes += piece.bytes;
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        match lane.back_mut() {
            // Where nothing comes for hours, one piece says so.
            Some(last) if !last.has_records() && !piece.has_records() => last.reach(piece.reached),
            _ => lane.push_back(piece),
        }
    }
}

/// Of two equal places the newer one stays.
fn advance<P: Progress>(old: &mut P, new: &P) {
    if *old <= *new {
        old.clone_from(new);
    }
}

/// Pieces that wait.
#[derive(Debug)]
pub struct Feed<P> {
    state: Mutex<State<P>>,
    news: Notify,
    /// For a thread that waits for room,
    space: Condvar,
    /// and for a task that does.
    room: Notify,
    most_bytes: usize,
}

impl<P: Progress> Feed<P> {
    /// An empty feed for slots that start at these places.
    pub fn new(lanes: usize, starts: &[P], most_bytes: usize) -> Self {
        let lanes = (0..lanes).map(|_| VecDeque::new()).collect();
        let state = State { lanes, bytes: 0, fetched: starts.to_vec(), stopped: None, closed: false };
        let (news, space, room) = (Notify::new(), Condvar::new(), Notify::new());
        Self { state: Mutex::new(state), news, space, room, most_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of lanes.
    pub fn lanes(&self) -> usize {
        self.lock().lanes.len()
    }

    /// More slots, with their starts.
    pub fn grow(&self, starts: &[P]) {
        self.lock().fetched.extend_from_slice(starts);
    }

    /// Adds a piece; waits while the feed is full, and does `meanwhile` again and again. With `company` it does not wait for
    /// ever.
    pub fn push(&self, lane: usize, piece: Piece<P>, company: bool, mut meanwhile: impl FnMut()) -> Pushed {
        let mut naps = 0;
        let mut state = self.lock();
        while state.bytes >= self.most_bytes && !state.closed {
            drop(state);
            naps += 1;
            if company && naps > COMPANY_NAPS {
                return Pushed::TooSlow;
            }
            meanwhile();
            let waiting = self.lock();
            state = match self.space.wait_timeout(waiting, NAP) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        if state.closed {
            return Pushed::Closed;
        }
        state.add(lane, piece);
        drop(state);
        self.news.notify_waiters();
        Pushed::Waits
    }

    /// Adds a piece as soon as there is room, for `patience` at most.
    /// It is left in `piece` where there was none.
    pub async fn push_in_time(&self, lane: usize, piece: &mut Option<Piece<P>>, patience: Duration) -> Pushed {
        let waiting = async {
            loop {
                let room = self.room.notified();
                tokio::pin!(room);
                room.as_mut().enable();
                if let Some(pushed) = self.try_push(lane, piece) {
                    return pushed;
                }
                room.await;
            }
        };
        tokio::time::timeout(patience, waiting).await.unwrap_or(Pushed::TooSlow)
    }

    fn try_push(&self, lane: usize, piece: &mut Option<Piece<P>>) -> Option<Pushed> {
        let mut state = self.lock();
        if state.closed {
            return Some(Pushed::Closed);
        }
        if state.bytes >= self.most_bytes {
            return None;
        }
        state.add(lane, piece.take()?);
        drop(state);
        self.news.notify_waiters();
        Some(Pushed::Waits)
    }

    /// No more will come.
    pub fn stop(&self, why: Stopped) {
        self.lock().stopped.get_or_insert(why);
        self.news.notify_waiters();
    }

    /// Nobody reads any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.space.notify_all();
        self.room.notify_waiters();
        self.news.notify_waiters();
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Why no more messages come.
    pub fn stopped(&self) -> Option<Stopped> {
        self.lock().stopped.clone()
    }

    /// By slot, how far the newest piece brings it.
    pub fn fetched(&self) -> Vec<P> {
        self.lock().fetched.clone()
    }

    /// Brings a slot on without a piece, where it is not further already.
    pub fn reach(&self, slot: Slot, place: &P) {
        if let Some(fetched) = self.lock().fetched.get_mut(slot) {
            advance(fetched, place);
        }
    }

    /// How far the newest piece brings one slot.
    pub fn fetched_of(&self, slot: Slot) -> Option<P> {
        self.lock().fetched.get(slot).cloned()
    }

    /// How many records wait.
    pub fn records(&self) -> u64 {
        self.lock().lanes.iter().flatten().map(|piece| piece.rows() as u64).sum()
    }

    /// Whether so much waits that there is more where it came from.
    pub fn is_crowded(&self) -> bool {
        self.lock().bytes * 2 >= self.most_bytes
    }

    /// Whether so much waits that the next epoch should not be waited for.
    pub fn is_pressing(&self, limits: &Limits) -> bool {
        self.is_crowded() || limits.records.is_some_and(|most| self.records() >= most)
    }

    /// Whether anything waits.
    pub fn has_pieces(&self) -> bool {
        self.lock().lanes.iter().any(|lane| !lane.is_empty())
    }

    /// Whether a piece with records waits. Pieces without, at the front, are taken off: `reached` hears of them.
    pub fn has_records(&self, mut reached: impl FnMut(Slot, &P)) -> bool {
        let mut state = self.lock();
        let mut found = false;
        for lane in &mut state.lanes {
            while let Some(piece) = lane.front() {
                if piece.has_records() {
                    found = true;
                    break;
                }
                piece.reached.iter().for_each(|(slot, place)| reached(*slot, place));
                lane.pop_front();
            }
        }
        found
    }

    /// Waits for the next change, up to `patience`; false where none came. What has changed before `look` was called is
    /// not missed: it is called after the waiting has begun, and ends it with true.
    pub async fn changed(&self, patience: Duration, look: impl FnOnce() -> bool) -> bool {
        let news = self.news.notified();
        tokio::pin!(news);
        news.as_mut().enable();
        look() || tokio::time::timeout(patience, news).await.is_ok()
    }

    /// The first payloads of the first lane: as many as the share wants, about `most`, or what came in `most_ms` and before the
    /// feed was stopped. Afterwards the share says whether that was all.
    ///
    /// # Errors
    /// What the feed was stopped for, where that is known.
    pub async fn sample(&self, share: &mut Share<P>, most: usize, most_ms: u64) -> Result<Vec<Vec<u8>>> {
        let watch = Stopwatch::start();
        let mut payloads = Vec::new();
        while !share.is_done() && payloads.len() < most && watch.elapsed_ms() < most_ms {
            match self.take(0, share) {
                Some(Piece { chunk: Some(chunk), .. }) => {
                    payloads.extend(chunk.payloads.iter().flatten().map(<[u8]>::to_vec));
                }
                Some(_) => {}
                None => match self.stopped() {
                    Some(Stopped::Failed(error)) => return Err(error.again()),
                    Some(_) => break,
                    None => drop(self.changed(NAP, || self.has_pieces()).await),
                },
            }
        }
        Ok(payloads)
    }

    /// Waits until nobody reads any more.
    pub async fn closed(&self) {
        while !self.is_closed() {
            self.changed(Duration::from_secs(1), || self.is_closed()).await;
        }
    }

    /// Wakes all who wait.
    pub fn wake(&self) {
        self.news.notify_waiters();
    }

    /// The next piece of a lane, as much of it as the share has room for. None where nothing waits, or the share is full.
    pub fn take(&self, lane: usize, share: &mut Share<P>) -> Option<Piece<P>> {
        if share.is_full() {
            return None;
        }
        let mut state = self.lock();
        let queue = state.lanes.get_mut(lane)?;
        let mut piece = queue.pop_front()?;
        let room = usize::try_from(share.records_left).unwrap_or(usize::MAX);
        if piece.rows() > room {
            let rest = piece.split(room);
            queue.push_front(rest);
        }
        state.bytes = state.bytes.saturating_sub(piece.bytes);
        drop(state);
        self.space.notify_one();
        self.room.notify_waiters();
        share.add(&piece);
        Some(piece)
    }
}

/// How far one epoch goes, and how far it has come.
#[derive(Debug, Clone)]
pub struct Share<P> {
    /// By slot: how far it is read.
    pub next: Vec<P>,
    ends: Vec<P>,
    records_left: u64,
    bytes_left: usize,
    taken: bool,
    full: bool,
}

impl<P: Progress> Share<P> {
    /// Goes from `next` to `ends`, or until it has taken enough.
    pub fn new(next: Vec<P>, ends: Vec<P>, records: u64, bytes: usize) -> Self {
        Self { next, ends, records_left: records, bytes_left: bytes, taken: false, full: false }
    }

    /// Whether it takes nothing more.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether anything was taken.
    pub fn has_begun(&self) -> bool {
        self.taken
    }

    /// It takes nothing more.
    pub fn fill(&mut self) {
        self.full = true;
    }

    /// Whether every slot has come as far as it goes. A lane whose own slots are done goes on until all are: what waits in it
    /// would leave no room for the others.
    pub fn is_done(&self) -> bool {
        self.next.iter().zip(&self.ends).all(|(next, end)| next >= end)
    }

    fn add(&mut self, piece: &Piece<P>) {
        self.taken |= piece.has_records();
        self.records_left = self.records_left.saturating_sub(piece.rows() as u64);
        self.bytes_left = self.bytes_left.saturating_sub(piece.bytes);
        self.full |= self.records_left == 0 || self.bytes_left == 0;
        for (slot, place) in &piece.reached {
            if let Some(old) = self.next.get_mut(*slot) {
                advance(old, place);
            }
        }
    }
}
