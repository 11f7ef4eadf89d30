//! The epoch loop: choose inputs, plan, execute, write files, append to the log, roll Delta forward.
//!
//! Floor 5: uses `source`, `delta`, `log`, `epoch`, `report`, `clock`, `memory`, `error`. It knows no SQL: a [`Planner`] turns the
//! epoch's leaves into a plan. [`Query::catch_up`] runs epochs to the end, [`Query::follow`] for ever.
//!
//! Whatever dies in between: before the log's entry is put, the files that were written are named by nobody and the epoch
//! is done again; after it, [`recover`] gives Delta what the entry names. There is no third case.

pub mod compact;
pub mod expect;
mod follow;
pub mod json;
pub mod quarantine;
pub mod stop;
pub mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use tokio::sync::mpsc;
use uuid::Uuid;

pub use self::follow::{Following, Pauses};
pub use self::stop::Stop;
use self::write::{Target, Written, write};
use crate::clock::{Clock, Stopwatch};
use crate::delta::{Add, Change, Commit, Spec, Table, Txn};
use crate::epoch::Epoch;
use crate::error::{ErrorKind, Result};
use crate::log::{Counts, Entry, EpochLog, Identity, SourceEntry, TableEntry};
use crate::memory;
use crate::report::{EpochReport, Reporter, TableReport};
use crate::source::{
    Cursor, Finished, Input, Limits, MetadataColumn, Opening, Rejects, SlotOf, Source, Tap, empty_leaf, records,
};

/// How long the first epoch of a process reads a source that does not end by itself. Each one after it may take twice as
/// long as the one before: soon after a start something is committed, and a long run is not cut into small pieces.
const FIRST_EPOCH: Duration = Duration::from_millis(500);
/// How long an epoch reads at most.
const LONGEST_EPOCH: Duration = Duration::from_secs(8);
/// How often a run tries again what passes.
pub const RUN_TRIES: u32 = 3;

/// Turns the leaves of one epoch into a plan.
#[async_trait]
pub trait Planner: Send + Sync {
    /// A fresh plan over the leaves, which are named by their sources' keys.
    async fn plan(&self, leaves: BTreeMap<String, Arc<dyn TableProvider>>) -> Result<Planned>;

    /// A plan over the rows of some files of a table, in one partition.
    async fn merge(&self, table: &Table, spec: &Spec, files: Vec<Add>) -> Result<Planned>;
}

/// A plan to execute.
#[derive(Debug)]
pub struct Planned {
    /// The plan. Its last two columns are the lineage, where rows come from one record each.
    pub plan: Arc<dyn ExecutionPlan>,
    /// What to execute it with.
    pub context: Arc<TaskContext>,
    /// The source whose records the rows come from.
    pub source: Arc<str>,
}

/// A source of a query.
#[derive(Debug)]
pub struct Stream {
    /// How the log names it.
    pub key: String,
    /// The source.
    pub source: Arc<dyn Source>,
    /// Inferred columns, to be pinned.
    pub columns: Option<String>,
}

/// A query that fills a table, and everything it needs for that.
pub struct Query<'a> {
    /// The table, its columns and constraints.
    pub target: Target,
    /// Its quarantine.
    pub quarantine: Arc<Table>,
    /// Its quarantine's name.
    pub quarantine_name: String,
    /// What the quarantine is to be.
    pub quarantine_spec: Spec,
    /// Its log, recovered.
    pub log: EpochLog,
    /// What it reads.
    pub streams: Vec<Stream>,
    /// The partitions that this instance reads; None: all.
    pub share: Option<SlotOf>,
    /// Whether this process follows other targets as well.
    pub company: bool,
    /// Rows of the tables that it reads as they are.
    pub table_rows: u64,
    /// A digest of its text.
    pub fingerprint: String,
    /// Whether `_metadata` is named.
    pub metadata: MetadataColumn,
    /// Makes its plans.
    pub planner: &'a dyn Planner,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Who is told.
    pub reporter: Arc<dyn Reporter>,
}

/// Gives Delta what the newest entry of the log names and Delta does not have yet.
pub async fn recover(
    log: &EpochLog,
    table: &Table,
    spec: &Spec,
    (quarantine, name): (&Table, &str),
    quarantine_spec: &Spec,
) -> Result<()> {
    let Some(entry) = log.last() else { return Ok(()) };
    if let Some(named) = &entry.quarantine
        && entry.quarantine_name.as_deref().is_none_or(|meant| meant == name)
        && is_due(entry, quarantine).await?
        && is_there(named, quarantine).await?
    {
        commit(entry, named, quarantine, quarantine_spec).await?;
    }
    if let Some(named) = &entry.table
        && is_due(entry, table).await?
    {
        commit(entry, named, table, spec).await?;
    }
    Ok(())
}

/// Whether the files are there that a quarantine is to be given: whoever has looked through one may drop it, and it must not
/// come back with files that went with it.
async fn is_there(named: &TableEntry, quarantine: &Table) -> Result<bool> {
    let was_dropped = quarantine.version().await.is_none() && named.adds.is_empty();
    Ok(!was_dropped && quarantine.holds(&named.adds).await?)
}

/// A table is due when its `txn` is less than the entry's epoch: a table without rows in an epoch is not committed.
async fn is_due(entry: &Entry, table: &Table) -> Result<bool> {
    if table.committed(&entry.query.app_id()).await?.is_some_and(|committed| committed >= entry.epoch) {
        if table.version().await.is_none() {
            // Another instance has made it after it was opened here.
            table.refresh().await?;
        }
        return Ok(false);
    }
    Ok(true)
}

async fn commit(entry: &Entry, named: &TableEntry, table: &Table, spec: &Spec) -> Result<u64> {
    let commit = Commit {
        spec,
        attempt: entry.attempt,
        txn: Some(Txn { app_id: entry.query.app_id(), epoch: entry.epoch }),
        change: if named.replace { Change::Replace } else { Change::Append },
        adds: named.adds.clone(),
        removes: Vec::new(),
        seen_live: 0,
        operation: "STREAMING UPDATE",
    };
    table.commit(&commit).await
}

impl Query<'_> {
    /// Runs epochs until every source is read to where it ended when this began; adds what they did to `report`. What
    /// passes, as a broker that is away for a moment, is tried again a few times.
    pub async fn catch_up(&mut self, limits: Limits, stop: &Stop, report: &mut TableReport) -> Result<()> {
        let Some(opened) = self.open(false, stop).await? else { return Ok(()) };
        self.create_table(self.pinned(&opened), report).await?;
        let (mut cursors, mut tries, mut pauses) = (Some(opened), 0, Pauses::default());
        loop {
            let epochs = report.epochs;
            let result = self.catch_on(cursors.take(), limits, stop, report).await;
            let Err(error) = result else { return Ok(()) };
            tries = if report.epochs > epochs { 1 } else { tries + 1 };
            if !error.is_passing() || tries > RUN_TRIES || stop.is_stopped() {
                return Err(error);
            }
            tracing::warn!(table = report.table, %error, "an epoch failed; it is tried again");
            stop.pause(pauses.longer()).await;
        }
    }

    async fn catch_on(
        &mut self,
        cursors: Option<Cursors>,
        limits: Limits,
        stop: &Stop,
        report: &mut TableReport,
    ) -> Result<()> {
        let mut cursors = match cursors {
            Some(cursors) => cursors,
            None => {
                tokio::select! {
                    reopened = self.reopen() => reopened?,
                    () = stop.stopped() => return Ok(()),
                }
                let Some(opened) = self.open(false, stop).await? else { return Ok(()) };
                opened
            }
        };
        let mut time = FIRST_EPOCH;
        while !stop.is_stopped() {
            let watch = Stopwatch::start();
            let limits = Limits { time: Some(time), ..limits };
            let inputs = tokio::select! {
                inputs = next_inputs(&mut cursors, &limits) => inputs?,
                () = stop.stopped() => break,
            };
            if inputs.is_empty() {
                break;
            }
            let done = self.closing_epoch(&mut cursors, inputs, stop).await?;
            self.tell(&done, watch.elapsed_ms(), report);
            time = (time * 2).min(LONGEST_EPOCH);
        }
        self.fold().await;
        Ok(())
    }

    async fn fold(&mut self) {
        if self.log.is_long()
            && let Err(error) = self.log.fold().await
        {
            tracing::warn!(%error, "old entries of the log stay");
        }
    }

    /// Opens the sources behind what the log says is read; None where the end is asked for, as a service that is away is
    /// waited for.
    async fn open(&self, follow: bool, stop: &Stop) -> Result<Option<Cursors>> {
        tokio::select! {
            cursors = self.cursors(follow) => cursors.map(Some),
            () = stop.stopped() => Ok(None),
        }
    }

    async fn cursors(&self, follow: bool) -> Result<Cursors> {
        let state = self.log.state();
        let mut cursors = Cursors::new();
        for stream in &self.streams {
            let known = self.log.last().and_then(|entry| entry.sources.get(&stream.key));
            let opening = Opening {
                committed: known.map(|source| &source.committed),
                state: &state,
                query: &self.target.name,
                follow,
                share: self.share,
                company: self.company,
            };
            cursors.insert(stream.key.clone(), stream.source.open(&opening).await?);
        }
        Ok(cursors)
    }

    /// Goes back to what is committed, after an error: what of the last epoch has taken effect, the log says.
    async fn reopen(&mut self) -> Result<()> {
        self.target.table.refresh().await?;
        self.quarantine.refresh().await?;
        self.log.reopen().await?;
        let quarantine = (self.quarantine.as_ref(), self.quarantine_name.as_str());
        recover(&self.log, &self.target.table, &self.target.spec, quarantine, &self.quarantine_spec).await
    }

    fn pinned(&self, cursors: &Cursors) -> Sources {
        let pinned = self.streams.iter().filter_map(|stream| {
            let committed = cursors.get(&stream.key)?.pinned()?;
            Some((stream.key.clone(), SourceEntry { committed, columns: stream.columns.clone() }))
        });
        pinned.collect()
    }

    /// A table without rows is there all the same, so that others can read it; and where a source was started at its end, that
    /// end is kept.
    async fn create_table(&mut self, pinned: Sources, report: &mut TableReport) -> Result<()> {
        let known = self.log.last().map(|entry| entry.sources.clone());
        let mut sources = known.clone().unwrap_or_default();
        sources.extend(pinned);
        if known.is_none_or(|known| known != sources) {
            if self.share.is_some() {
                self.target.table.refresh().await?;
            }
            let is_missing = self.target.table.version().await.is_none();
            let table = is_missing.then(|| TableEntry { adds: Vec::new(), rows: 0, replace: false });
            let entry = self.entry(sources, table, None, Counts::default());
            self.append(entry).await?;
        }
        report.version = self.target.table.version().await;
        Ok(())
    }

    /// An epoch that reads no further when the end is asked for.
    async fn closing_epoch(&mut self, cursors: &mut Cursors, inputs: Inputs, stop: &Stop) -> Result<Done> {
        let handles: Vec<Arc<dyn Input>> = inputs.values().cloned().collect();
        let mut epoch = std::pin::pin!(self.epoch(cursors, inputs));
        tokio::select! {
            done = &mut epoch => return done,
            () = stop.stopped() => handles.iter().for_each(|input| input.close()),
        }
        epoch.await
    }

    async fn epoch(&mut self, cursors: &mut Cursors, inputs: Inputs) -> Result<Done> {
        let gathered = self.gather(&inputs).await?;
        let mut done = Done { counts: gathered.counts(), violations: gathered.written.violations, ..Done::default() };
        let mut sources = self.log.last().map(|entry| entry.sources.clone()).unwrap_or_default();
        for (key, input) in inputs {
            let Some(cursor) = cursors.get_mut(&key) else { continue };
            let Finished { committed, lost, lag, behind_ms } = cursor.finish(input).await?;
            done.counts.lag += lag;
            done.behind_ms = done.behind_ms.max(behind_ms);
            done.lost = done.lost.zip(lost).map(|(before, more)| before + more);
            let columns =
                self.streams.iter().find(|stream| stream.key == key).and_then(|stream| stream.columns.clone());
            sources.insert(key, SourceEntry { committed, columns });
        }
        if done.counts == Counts::default() && self.log.last().is_some_and(|entry| entry.sources == sources) {
            // It was closed before anything came.
            return Ok(Done { is_nothing: true, ..done });
        }
        let table = (gathered.written.rows > 0).then_some(TableEntry {
            adds: gathered.written.adds,
            rows: gathered.written.rows,
            replace: false,
        });
        let (adds, rows) = gathered.quarantined;
        let quarantine = (rows > 0).then_some(TableEntry { adds, rows, replace: false });
        let done = self.put(sources, table, quarantine, done).await?;
        cursors.values_mut().for_each(|cursor| cursor.acknowledge());
        Ok(done)
    }

    /// Computes the table anew over everything its sources hold, and swaps it in one commit. `fingerprints` say what was there.
    pub async fn refresh(
        &mut self,
        fingerprints: BTreeMap<String, SourceEntry>,
        report: &mut TableReport,
    ) -> Result<()> {
        let watch = Stopwatch::start();
        let state = self.log.state();
        let mut inputs = Inputs::new();
        for stream in &self.streams {
            let opening = Opening { query: &self.target.name, ..Opening::of_now(&state) };
            let mut cursor = stream.source.open(&opening).await?;
            if let Some(input) = cursor.next(&Limits { everything: true, ..Limits::default() }).await? {
                inputs.insert(stream.key.clone(), input);
            }
        }
        let gathered = self.gather(&inputs).await?;
        let counts = gathered.counts();
        let counts = Counts { read: counts.read + self.table_rows, ..counts };
        let done = Done { counts, violations: gathered.written.violations, ..Done::default() };
        let table = TableEntry { adds: gathered.written.adds, rows: gathered.written.rows, replace: true };
        let (adds, rows) = gathered.quarantined;
        self.quarantine.find_again().await?;
        let had_one = self.quarantine.version().await.is_some();
        let quarantine = (had_one || rows > 0).then_some(TableEntry { adds, rows, replace: true });
        let done = self.put(fingerprints, Some(table), quarantine, done).await?;
        self.tell(&done, watch.elapsed_ms(), report);
        self.fold().await;
        Ok(())
    }

    /// Empties the table and its quarantine and begins a new generation at the start of the sources.
    pub async fn start_over(&mut self) -> Result<()> {
        let emptied = |exists: bool| exists.then(|| TableEntry { adds: Vec::new(), rows: 0, replace: true });
        let table = emptied(self.target.table.version().await.is_some());
        let quarantine = emptied(self.quarantine.version().await.is_some());
        if self.log.last().is_some() {
            let mut entry = self.entry(BTreeMap::new(), table, quarantine, Counts::default());
            entry.query.generation += 1;
            self.append(entry).await?;
        }
        Ok(())
    }

    /// Executes a plan over inputs into files, and judges every record on the way. Nothing of it can be seen yet.
    async fn gather(&self, inputs: &Inputs) -> Result<Gathered> {
        let (writer, rejects) = quarantine::Writer::start(
            Arc::clone(&self.quarantine),
            self.quarantine_spec.clone(),
            quarantine::Stamp {
                at: self.clock.now(),
                epoch: self.log.next_epoch(),
                topics: self.sources_with_topics(),
            },
        );
        let mut taps = Vec::new();
        let mut leaves = BTreeMap::new();
        for stream in &self.streams {
            let leaf = match inputs.get(&stream.key) {
                Some(input) => {
                    let tap = Arc::new(Tap::new(stream.key.as_str().into(), rejects.clone(), true));
                    taps.push(Arc::clone(&tap));
                    input.table(tap, self.metadata)?
                }
                None => empty_leaf(stream.source.as_ref(), self.metadata),
            };
            leaves.insert(stream.key.clone(), leaf);
        }
        let written = self.execute(leaves, rejects).await;
        if written.is_err() {
            taps.iter().for_each(|tap| tap.cancel());
        }
        let quarantined = writer.finish().await;
        let written = written?;
        let read = taps.iter().map(|tap| tap.read()).sum();
        let dropped = taps.iter().map(|tap| tap.dropped()).sum();
        Ok(Gathered { written, quarantined: quarantined?, read, dropped })
    }

    fn sources_with_topics(&self) -> BTreeSet<String> {
        self.streams.iter().filter(|stream| stream.source.has_topics()).map(|stream| stream.key.clone()).collect()
    }

    async fn execute(
        &self,
        leaves: BTreeMap<String, Arc<dyn TableProvider>>,
        rejects: mpsc::Sender<Rejects>,
    ) -> Result<Written> {
        let Planned { plan, context, source } = self.planner.plan(leaves.clone()).await?;
        let target = Target { source, ..self.target.clone() };
        let written = write(plan, context, &target, rejects).await?;
        for leaf in leaves.values() {
            records::exhaust(leaf.as_ref()).await?;
        }
        Ok(written)
    }

    /// Commits an epoch: the log first, Delta after it.
    async fn put(
        &mut self,
        sources: BTreeMap<String, SourceEntry>,
        table: Option<TableEntry>,
        quarantine: Option<TableEntry>,
        done: Done,
    ) -> Result<Done> {
        let counts = Counts { behind_ms: done.behind_ms, ..done.counts };
        let entry = self.entry(sources, table, quarantine, counts);
        let epoch = entry.epoch;
        self.append(entry).await?;
        memory::give_back();
        Ok(Done { epoch, version: self.target.table.version().await, ..done })
    }

    async fn append(&mut self, entry: Entry) -> Result<()> {
        let entry = self.log.append(entry).await?.clone();
        if let Some(named) = &entry.quarantine {
            self.quarantine.find_again().await?;
            self.roll(&entry, named, &self.quarantine, &self.quarantine_spec).await?;
        }
        if let Some(named) = &entry.table {
            self.roll(&entry, named, &self.target.table, &self.target.spec).await?;
        }
        Ok(())
    }

    /// Commits what an entry names. Where several instances share the target, another one may have made the table a moment ago.
    async fn roll(&self, entry: &Entry, named: &TableEntry, table: &Table, spec: &Spec) -> Result<()> {
        let result = commit(entry, named, table, spec).await;
        let Err(error) = result else { return Ok(()) };
        let is_race = self.share.is_some() && error.kind() == ErrorKind::Conflict && table.version().await.is_none();
        if !is_race {
            return Err(error);
        }
        table.refresh().await?;
        if table.schema().await.as_ref() != Some(&spec.schema) {
            return Err(error);
        }
        commit(entry, named, table, spec).await.map(drop)
    }

    fn entry(
        &self,
        sources: BTreeMap<String, SourceEntry>,
        table: Option<TableEntry>,
        quarantine: Option<TableEntry>,
        counts: Counts,
    ) -> Entry {
        let query = self.log.last().map(|entry| entry.query.clone());
        Entry {
            epoch: self.log.next_epoch(),
            attempt: Uuid::new_v4(),
            query: query.unwrap_or_else(|| Identity { id: Uuid::new_v4(), generation: 0 }),
            fingerprint: self.fingerprint.clone(),
            quarantine_name: quarantine.is_some().then(|| self.quarantine_name.clone()),
            at: self.clock.now(),
            sources,
            table,
            quarantine,
            counts,
        }
    }

    fn tell(&self, done: &Done, elapsed_ms: u64, report: &mut TableReport) {
        let Counts { read, written, dropped, quarantined, lag, .. } = done.counts;
        if done.is_nothing {
            return;
        }
        report.epochs += 1;
        report.read += read;
        report.written += written;
        report.dropped += dropped;
        report.quarantined += quarantined;
        report.lost = report.lost.zip(done.lost).map(|(before, more)| before + more);
        if done.lost != Some(0) {
            let count = done.lost.map_or_else(|| "an unknown number of".to_owned(), |lost| lost.to_string());
            let message = format!("`{}` goes on without {count} records that its source no longer had", report.table);
            self.reporter.notice(&message, None);
        }
        report.version = done.version;
        for (name, count) in &done.violations {
            *report.expectations.entry(name.to_string()).or_default() += count;
        }
        self.reporter.epoch(&EpochReport {
            table: report.table.clone(),
            epoch: done.epoch.0,
            read,
            written,
            quarantined,
            version: done.version,
            lag,
            behind_ms: done.behind_ms,
            elapsed_ms,
        });
    }
}

type Inputs = BTreeMap<String, Arc<dyn Input>>;
type Sources = BTreeMap<String, SourceEntry>;
type Cursors = BTreeMap<String, Box<dyn Cursor>>;

async fn next_inputs(cursors: &mut Cursors, limits: &Limits) -> Result<Inputs> {
    let mut inputs = Inputs::new();
    for (key, cursor) in cursors {
        if let Some(input) = cursor.next(limits).await? {
            inputs.insert(key.clone(), input);
        }
    }
    Ok(inputs)
}

/// What one execution wrote.
struct Gathered {
    written: Written,
    quarantined: (Vec<Add>, u64),
    read: u64,
    dropped: u64,
}

impl Gathered {
    fn counts(&self) -> Counts {
        Counts {
            read: self.read,
            written: self.written.rows,
            dropped: self.dropped + self.written.dropped,
            quarantined: self.quarantined.1,
            lag: 0,
            behind_ms: None,
        }
    }
}

/// What one epoch did.
#[derive(Debug)]
struct Done {
    epoch: Epoch,
    counts: Counts,
    violations: BTreeMap<Arc<str>, u64>,
    lost: Option<u64>,
    version: Option<u64>,
    behind_ms: Option<u64>,
    /// Nothing was read, nothing was logged.
    is_nothing: bool,
}

impl Default for Done {
    fn default() -> Self {
        Self {
            epoch: Epoch::FIRST,
            counts: Counts::default(),
            violations: BTreeMap::new(),
            lost: Some(0),
            version: None,
            behind_ms: None,
            is_nothing: false,
        }
    }
}
