//! Messages on their way from the client's thread to the epochs: bounded, and in order within a lane.
//!
//! Floor 3: uses `source::records`, `error`. The thread pushes pieces and waits while there are too many; epochs take them.
//! A partition has a number, its slot, and belongs to one lane, so that several tasks can decode side by side and each
//! partition still comes in its order.
//!
//! An epoch's [`Share`] says how far it goes: up to the offsets that were there when it began, or until it has taken enough.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::source::records::Chunk;

/// A partition's number within one reading.
pub type Slot = usize;

/// How long the client's thread sleeps at most while the feed is full: it has other things to look after.
const NAP: Duration = Duration::from_millis(20);
/// So many of them it sleeps for one feed while others wait for what it fetches.
const COMPANY_NAPS: u32 = 100;

/// Messages of one lane that came together.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The records; None where only the ends of partitions were seen.
    pub chunk: Option<Chunk>,
    /// The slot and the offset of each record.
    pub origins: Vec<(u32, i64)>,
    /// How far the piece brings its slots: the offset that comes next.
    pub reached: Vec<(Slot, i64)>,
    /// What it weighs.
    pub bytes: usize,
}

impl Piece {
    /// Records in it.
    pub fn rows(&self) -> usize {
        self.origins.len()
    }

    /// Whether anything in it has to be counted.
    pub fn has_records(&self) -> bool {
        self.chunk.is_some()
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
        let mut reached: Vec<(Slot, i64)> = Vec::new();
        for (slot, offset) in &self.origins {
            let slot = *slot as Slot;
            match reached.iter_mut().find(|(other, _)| *other == slot) {
                Some((_, next)) => *next = offset + 1,
                None => reached.push((slot, offset + 1)),
            }
        }
        self.reached = reached;
        rest
    }
}

/// Why no more messages come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// The offset that was asked for is not there: too old, or from another life of the topic.
    OutOfRange(Slot),
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

#[derive(Debug, Default)]
struct State {
    lanes: Vec<VecDeque<Piece>>,
    bytes: usize,
    /// By slot: the offset behind the newest piece.
    fetched: Vec<i64>,
    stopped: Option<Stopped>,
    closed: bool,
}

/// Pieces that wait.
#[derive(Debug)]
pub struct Feed {
    state: Mutex<State>,
    news: Notify,
    space: Condvar,
    most_bytes: usize,
}

impl Feed {
    /// An empty feed for slots that start at these offsets.
    pub fn new(lanes: usize, starts: &[i64], most_bytes: usize) -> Self {
        let lanes = (0..lanes).map(|_| VecDeque::new()).collect();
        let state = State { lanes, fetched: starts.to_vec(), ..State::default() };
        Self { state: Mutex::new(state), news: Notify::new(), space: Condvar::new(), most_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of lanes.
    pub fn lanes(&self) -> usize {
        self.lock().lanes.len()
    }

    /// More slots, with their starts.
    pub fn grow(&self, starts: &[i64]) {
        self.lock().fetched.extend_from_slice(starts);
    }

    /// Adds a piece; waits while the feed is full, and does `meanwhile` again and again. With `company` it does not wait for
    /// ever.
    pub fn push(&self, lane: usize, piece: Piece, company: bool, mut meanwhile: impl FnMut()) -> Pushed {
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
        for (slot, next) in &piece.reached {
            if let Some(fetched) = state.fetched.get_mut(*slot) {
                *fetched = (*fetched).max(*next);
            }
        }
        state.bytes += piece.bytes;
        if let Some(lane) = state.lanes.get_mut(lane) {
            lane.push_back(piece);
        }
        drop(state);
        self.news.notify_waiters();
        Pushed::Waits
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

    /// By slot, the offset behind the newest piece.
    pub fn fetched(&self) -> Vec<i64> {
        self.lock().fetched.clone()
    }

    /// How many records wait.
    pub fn records(&self) -> u64 {
        self.lock().lanes.iter().flatten().map(|piece| piece.rows() as u64).sum()
    }

    /// Whether so much waits that there is more where it came from.
    pub fn is_crowded(&self) -> bool {
        self.lock().bytes * 2 >= self.most_bytes
    }

    /// Whether anything waits.
    pub fn has_pieces(&self) -> bool {
        self.lock().lanes.iter().any(|lane| !lane.is_empty())
    }

    /// Whether a piece with records waits. Pieces without, at the front, are taken off: `reached` hears of them.
    pub fn has_records(&self, mut reached: impl FnMut(Slot, i64)) -> bool {
        let mut state = self.lock();
        let mut found = false;
        for lane in &mut state.lanes {
            while let Some(piece) = lane.front() {
                if piece.has_records() {
                    found = true;
                    break;
                }
                piece.reached.iter().for_each(|(slot, next)| reached(*slot, *next));
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

    /// Wakes all who wait.
    pub fn wake(&self) {
        self.news.notify_waiters();
    }

    /// The next piece of a lane, as much of it as the share has room for. None where nothing waits, or the share is full.
    pub fn take(&self, lane: usize, share: &mut Share) -> Option<Piece> {
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
        share.add(&piece);
        Some(piece)
    }
}

/// How far one epoch goes, and how far it has come.
#[derive(Debug, Clone)]
pub struct Share {
    /// By slot: the offset that comes next.
    pub next: Vec<i64>,
    ends: Vec<i64>,
    records_left: u64,
    bytes_left: usize,
    taken: bool,
    full: bool,
}

impl Share {
    /// Goes from `next` to `ends`, or until it has taken enough.
    pub fn new(next: Vec<i64>, ends: Vec<i64>, records: u64, bytes: usize) -> Self {
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

    fn add(&mut self, piece: &Piece) {
        self.taken |= piece.has_records();
        self.records_left = self.records_left.saturating_sub(piece.rows() as u64);
        self.bytes_left = self.bytes_left.saturating_sub(piece.bytes);
        self.full |= self.records_left == 0 || self.bytes_left == 0;
        for (slot, next) in &piece.reached {
            if let Some(old) = self.next.get_mut(*slot) {
                *old = (*old).max(*next);
            }
        }
    }
}
