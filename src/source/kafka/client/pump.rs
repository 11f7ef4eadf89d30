//! The client's thread: polls, fetches, delivers.
//!
//! Floor 3: uses `error` and its neighbours.
//!
//! It polls the consumer (client errors, token refreshes, answers to commits) and takes batches from the data queue, for as
//! long as the client lives. It alone assigns, so it knows exactly which offset of every partition comes next, and a new
//! assignment goes on there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rdkafka::bindings::rd_kafka_resp_err_t as Code;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::native::{Batch, DataQueue, Message};
use super::{Consumer, Context, Feeds, Wanted, lock};
use crate::error::Result;
use crate::source::feed::{Feed, Piece, Pushed, Slot, Stopped};
use crate::source::kafka::chunk::{ChunkBuilder, Shape};
use crate::source::records::Chunk;

/// How long the thread sleeps for a message before it looks at commands.
const NAP: Duration = Duration::from_millis(100);
/// How long it waits for a command while it fetches nothing.
const IDLE_NAP: Duration = Duration::from_millis(50);
/// How long it sleeps while it waits for others, or for the answer to a commit.
const SHORT_NAP: Duration = Duration::from_millis(10);
/// Events of the client that are served at once.
const EVENTS: usize = 16;
/// How long a client that ends waits for the answer to its last commit.
const LAST_COMMIT: Duration = Duration::from_secs(2);

/// What the thread is asked for.
pub(super) enum Command {
    /// Fetch these from now on, beside those it fetches already.
    Fetch {
        /// Their slots follow those that are there.
        wanted: Vec<Wanted>,
        /// Others may want the same within this time.
        patience: Duration,
    },
    /// Deliver to one more feed, which wants the same.
    Join {
        /// The feed.
        feed: Arc<Feed<i64>>,
        /// What it wants, in the order of its slots.
        wanted: Vec<Wanted>,
        /// Whether that is what comes next.
        answer: oneshot::Sender<bool>,
    },
    /// Write the group's offsets.
    Commit(Vec<(String, i32, i64)>),
}

/// The thread's own.
pub(super) struct Pump {
    consumer: Arc<Consumer>,
    commands: Receiver<Command>,
    feeds: Feeds,
    ended: Arc<AtomicBool>,
    commit_answered: Arc<AtomicBool>,
    /// By slot. `from` is the offset that comes next.
    wanted: Vec<Wanted>,
    slots: HashMap<(Arc<str>, i32), Slot>,
    /// Topics by librdkafka's handle for them.
    names: HashMap<usize, Arc<str>>,
    shape: Shape,
    /// Naps until the first assignment, for others to join.
    gathering: u32,
    /// How many of the wanted were assigned, or need not be.
    assigned: usize,
    /// A partition no longer delivers, or what was delivered had no taker: nobody may join.
    stopped: bool,
}

impl Pump {
    pub(super) fn new(
        consumer: Arc<Consumer>,
        commands: Receiver<Command>,
        feeds: Feeds,
        ended: Arc<AtomicBool>,
        commit_answered: Arc<AtomicBool>,
        shape: Shape,
    ) -> Self {
        Self {
            consumer,
            commands,
            feeds,
            ended,
            commit_answered,
            wanted: Vec::new(),
            slots: HashMap::new(),
            names: HashMap::new(),
            shape,
            gathering: 0,
            assigned: 0,
            stopped: false,
        }
    }

    pub(super) fn run(mut self) {
        let queue = DataQueue::new(Arc::clone(&self.consumer));
        let mut committed = None;
        while !self.ended.load(Ordering::Acquire) {
            while let Some(command) = self.command() {
                match command {
                    Command::Fetch { wanted, patience } => self.fetch(wanted, patience, &queue),
                    Command::Join { feed, wanted, answer } => self.join(feed, &wanted, answer),
                    Command::Commit(offsets) => committed = self.commit(&offsets),
                }
            }
            self.listen();
            if self.wanted.is_empty() {
                continue;
            }
            if self.gathers(&queue) {
                std::thread::sleep(SHORT_NAP);
                continue;
            }
            let batch = queue.take(NAP);
            if let Err(error) = self.deliver(&batch) {
                self.stop(&Stopped::Broken(error.to_string()));
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Commit(offsets) = command {
                committed = self.commit(&offsets);
            }
        }
        if committed.is_some() {
            self.await_commit();
        }
    }

    /// The next command. Where there is nothing to fetch it is waited for.
    fn command(&self) -> Option<Command> {
        match self.wanted.is_empty() {
            true => self.commands.recv_timeout(IDLE_NAP).ok(),
            false => self.commands.try_recv().ok(),
        }
    }

    /// Serves what the client has to say.
    fn listen(&self) {
        // A poll that does not wait serves one event, and does not say whether there was one. Messages come by the data queue;
        // errors were kept by the context.
        for _ in 0..EVENTS {
            if let Some(Err(error)) = self.consumer.poll(Duration::ZERO) {
                tracing::trace!(%error, "the consumer says");
            }
        }
    }

    fn fetch(&mut self, wanted: Vec<Wanted>, patience: Duration, queue: &DataQueue<Context>) {
        if !self.wanted.is_empty() && self.feeds().len() > 1 {
            return self.stop(&Stopped::Grown);
        }
        for one in wanted {
            self.slots.insert((Arc::clone(&one.topic), one.partition), self.wanted.len());
            self.wanted.push(one);
        }
        self.gathering = u32::try_from(patience.as_millis() / SHORT_NAP.as_millis()).unwrap_or(0);
        if self.gathering == 0 {
            self.assign(queue);
        }
    }

    /// Whether it still waits for others who want the same.
    fn gathers(&mut self, queue: &DataQueue<Context>) -> bool {
        if self.gathering == 0 {
            return false;
        }
        self.gathering -= 1;
        if self.gathering == 0 {
            self.assign(queue);
        }
        true
    }

    fn join(&self, feed: Arc<Feed<i64>>, wanted: &[Wanted], answer: oneshot::Sender<bool>) {
        let same = |(one, other): (&Wanted, &Wanted)| {
            (&one.topic, one.partition, one.from, one.until) == (&other.topic, other.partition, other.from, other.until)
        };
        // Where nothing is fetched yet there is nothing to share: who finds the first partition before the other does would
        // fill the other's feed with records that it does not know.
        let fits = !self.stopped
            && !wanted.is_empty()
            && wanted.len() == self.wanted.len()
            && wanted.iter().zip(&self.wanted).all(same);
        // Whoever no longer waits for the answer has a feed of its own, which nobody may fill.
        if answer.send(fits).is_ok() && fits {
            lock(&self.feeds).push(feed);
        }
    }

    fn feeds(&self) -> Vec<Arc<Feed<i64>>> {
        let mut feeds = lock(&self.feeds);
        feeds.retain(|feed| !feed.is_closed());
        feeds.clone()
    }

    fn stop(&mut self, why: &Stopped) {
        self.stopped = true;
        self.feeds().iter().for_each(|feed| feed.stop(why.clone()));
    }

    /// Assigns what is new and not at its end, each partition at the offset that comes next. What is assigned already stays as
    /// it is: assigned anew, a partition would no longer be forwarded to the data queue.
    fn assign(&mut self, queue: &DataQueue<Context>) {
        let mut list = TopicPartitionList::new();
        for one in self.wanted[self.assigned..].iter().filter(|one| one.from < one.until) {
            queue.adopt(&one.topic, one.partition);
            let added = list.add_partition_offset(&one.topic, one.partition, Offset::Offset(one.from));
            if let Err(error) = added {
                tracing::debug!(%error, topic = %one.topic, "an offset that Kafka does not know");
            }
        }
        // Names of topics are looked up anew: their handles may change.
        self.names.clear();
        self.assigned = self.wanted.len();
        if let Err(error) = self.consumer.incremental_assign(&list) {
            self.stop(&Stopped::Broken(format!("partitions cannot be assigned: {error}")));
        }
    }

    fn commit(&self, offsets: &[(String, i32, i64)]) -> Option<()> {
        let mut list = TopicPartitionList::new();
        for (topic, partition, next) in offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*next)).ok()?;
        }
        self.commit_answered.store(false, Ordering::Release);
        self.consumer.commit(&list, CommitMode::Async).ok()
    }

    fn await_commit(&self) {
        let naps = LAST_COMMIT.as_millis() / SHORT_NAP.as_millis();
        for _ in 0..naps {
            self.listen();
            if self.commit_answered.load(Ordering::Acquire) {
                return;
            }
            std::thread::sleep(SHORT_NAP);
        }
    }

    /// A batch into pieces, one for each lane, and each of them into every feed.
    fn deliver(&mut self, batch: &Batch<'_>) -> Result<()> {
        let feeds = self.feeds();
        let Some(lanes) = feeds.first().map(|feed| feed.lanes()) else {
            self.stopped = true;
            return Ok(());
        };
        let rows = batch.len() / lanes + 1;
        let mut open: Vec<Option<Open>> = (0..lanes).map(|_| None).collect();
        for message in batch.iter() {
            let Some((topic, slot)) = self.slot_of(&message) else { continue };
            let lane = slot % lanes;
            if let Some(code) = message.error() {
                if code == Code::RD_KAFKA_RESP_ERR__PARTITION_EOF {
                    let end = message.offset();
                    self.wanted[slot].from = self.wanted[slot].from.max(end);
                    // The partition may have grown behind the end of a bounded reading, which has not read that.
                    let next = end.min(self.wanted[slot].until);
                    open[lane].get_or_insert_with(|| Open::new(&self.shape, rows)).reach(slot, next);
                } else {
                    self.complain(code, slot, &message);
                }
                continue;
            }
            let wanted = &mut self.wanted[slot];
            wanted.from = message.offset() + 1;
            // What came after the end of a bounded reading is not looked at; that it came says that the end is reached.
            let next = if message.offset() < wanted.until { message.offset() + 1 } else { wanted.until };
            let is_within = message.offset() < wanted.until;
            let piece = open[lane].get_or_insert_with(|| Open::new(&self.shape, rows));
            piece.reach(slot, next);
            if is_within && piece.builder.push(&topic, &message) {
                piece.origins.push((u32::try_from(slot).unwrap_or(u32::MAX), message.offset() + 1));
            }
        }
        for (lane, piece) in open.into_iter().enumerate() {
            let Some(piece) = piece else { continue };
            let piece = piece.build()?;
            for feed in &feeds {
                let pushed = feed.push(lane, piece.clone(), feeds.len() > 1, || self.listen());
                if pushed == Pushed::TooSlow {
                    // The others do not wait for it; it goes on by itself.
                    feed.stop(Stopped::Behind);
                    feed.close();
                }
            }
        }
        Ok(())
    }

    fn slot_of(&mut self, message: &Message<'_>) -> Option<(Arc<str>, Slot)> {
        let key = message.topic_key();
        let topic = match self.names.get(&key) {
            Some(topic) => Arc::clone(topic),
            None => {
                let topic: Arc<str> = message.topic().into();
                self.names.insert(key, Arc::clone(&topic));
                topic
            }
        };
        let slot = self.slots.get(&(Arc::clone(&topic), message.partition()));
        slot.map(|slot| (topic, *slot))
    }

    /// An event of a partition that is neither a message nor its end.
    fn complain(&mut self, code: Code, slot: Slot, message: &Message<'_>) {
        let text = message.error_text();
        tracing::debug!(topic = message.topic(), partition = message.partition(), text, "a partition says");
        match code {
            Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET | Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE => {
                self.stop(&truncated_at(&text).map_or(Stopped::OutOfRange(slot), |end| Stopped::Truncated(slot, end)));
            }
            Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID
            | Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
            | Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION => self.stop(&Stopped::Gone(slot)),
            Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => self.stop(&Stopped::Refused(text)),
            // Of these librdkafka skips the whole batch.
            Code::RD_KAFKA_RESP_ERR__BAD_MSG
            | Code::RD_KAFKA_RESP_ERR__BAD_COMPRESSION
            | Code::RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED => {
                self.stop(&Stopped::Broken(format!("a message cannot be unpacked: {text}")));
            }
            // The rest passes: librdkafka tries again by itself.
            _ => {}
        }
    }
}

/// The offset from which on messages are gone. librdkafka says it in words alone: `Partition log truncation detected at …:
/// broker end offset is 50 (…`.
fn truncated_at(words: &str) -> Option<i64> {
    let digits = words.split_once("truncation detected")?.1.split_once("broker end offset is ")?.1;
    digits.split(' ').next()?.parse().ok()
}

/// A piece that is being filled.
struct Open {
    builder: ChunkBuilder,
    /// The slot of each, and the offset that comes next.
    origins: Vec<(u32, i64)>,
    reached: Vec<(Slot, i64)>,
}

impl Open {
    fn new(shape: &Shape, rows: usize) -> Self {
        Self { builder: ChunkBuilder::new(shape.clone(), rows), origins: Vec::new(), reached: Vec::new() }
    }

    fn reach(&mut self, slot: Slot, next: i64) {
        // Messages of one partition come in runs.
        match self.reached.iter_mut().rev().find(|(other, _)| *other == slot) {
            Some((_, reached)) => *reached = (*reached).max(next),
            None => self.reached.push((slot, next)),
        }
    }

    fn build(self) -> Result<Piece<i64>> {
        let chunk = self.builder.build()?;
        let bytes = chunk.as_ref().map_or(0, Chunk::bytes) + size_of_val(self.origins.as_slice());
        Ok(Piece { chunk, origins: self.origins, reached: self.reached, bytes })
    }
}
