//! The epoch loop: choose inputs, plan, execute, write files, append to the log, roll Delta forward.
//!
//! Floor 5: uses `source`, `delta`, `log`, `epoch`, `report`, `clock`, `error`. It knows no SQL: a [`Planner`] turns the
//! epoch's leaves into a plan.
//!
//! Whatever dies in between: before the log's entry is put, the files that were written are named by nobody and the epoch
//! is done again; after it, [`recover`] gives Delta what the entry names. There is no third case.

pub mod expect;
pub mod quarantine;
pub mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use tokio::sync::mpsc;
use uuid::Uuid;

use self::write::{Target, Written, write};
use crate::clock::{Clock, Stopwatch};
use crate::delta::{Add, Change, Commit, Spec, Table, Txn};
use crate::epoch::Epoch;
use crate::error::Result;
use crate::log::{Counts, Entry, EpochLog, Identity, SourceEntry, TableEntry};
use crate::report::{EpochReport, Reporter, TableReport};
use crate::source::{Cursor, Finished, Input, Limits, MetadataColumn, Rejects, Source, Tap, empty_leaf, records};

/// Turns the leaves of one epoch into a plan.
#[async_trait]
pub trait Planner: Send + Sync {
    /// A fresh plan over the leaves, which are named by their sources' keys.
    async fn plan(&self, leaves: BTreeMap<String, Arc<dyn TableProvider>>) -> Result<Planned>;
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

/// Asks a command to end between two epochs.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<std::sync::atomic::AtomicBool>);

impl Stop {
    /// Asks for the end.
    pub fn stop(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether the end was asked for.
    pub fn is_stopped(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// A query that fills a table, and everything it needs for that.
pub struct Query<'a> {
    /// The table, its columns and constraints.
    pub target: Target,
    /// Its quarantine.
    pub quarantine: Arc<Table>,
    /// What the quarantine is to be.
    pub quarantine_spec: Spec,
    /// Its log, recovered.
    pub log: EpochLog,
    /// What it reads.
    pub streams: Vec<Stream>,
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
    quarantine: &Table,
    quarantine_spec: &Spec,
) -> Result<()> {
    let Some(entry) = log.last() else { return Ok(()) };
    roll_forward(entry, entry.quarantine.as_ref(), quarantine, quarantine_spec).await?;
    roll_forward(entry, entry.table.as_ref(), table, spec).await
}

/// A table is due when its `txn` is less than the entry's epoch: a table without rows in an epoch is not committed.
async fn roll_forward(entry: &Entry, named: Option<&TableEntry>, table: &Table, spec: &Spec) -> Result<()> {
    let Some(named) = named else { return Ok(()) };
    if table.committed(&entry.query.app_id()).await?.is_some_and(|committed| committed >= entry.epoch) {
        if table.version().await.is_none() {
            // Another instance has made it after it was opened here.
            table.refresh().await?;
        }
        return Ok(());
    }
    commit(entry, named, table, spec).await.map(drop)
}

async fn commit(entry: &Entry, named: &TableEntry, table: &Table, spec: &Spec) -> Result<u64> {
    let commit = Commit {
        spec,
        attempt: entry.attempt,
        txn: Some(Txn { app_id: entry.query.app_id(), epoch: entry.epoch }),
        change: if named.replace { Change::Replace } else { Change::Append },
        adds: named.adds.clone(),
        removes: Vec::new(),
        operation: "STREAMING UPDATE",
    };
    table.commit(&commit).await
}

impl Query<'_> {
    /// Runs epochs until every source is read to where it ended when this began; adds what they did to `report`.
    pub async fn catch_up(mut self, limits: Limits, stop: &Stop, report: &mut TableReport) -> Result<()> {
        let mut cursors = self.open().await?;
        self.create_table(report).await?;
        while !stop.is_stopped() {
            let watch = Stopwatch::start();
            let inputs = next_inputs(&mut cursors, &limits).await?;
            if inputs.is_empty() {
                break;
            }
            let done = self.epoch(&mut cursors, inputs).await?;
            self.tell(&done, watch.elapsed_ms(), report);
        }
        Ok(())
    }

    async fn open(&self) -> Result<Cursors> {
        let state = self.log.state();
        let mut cursors = Cursors::new();
        for stream in &self.streams {
            let known = self.log.last().and_then(|entry| entry.sources.get(&stream.key));
            let cursor = stream.source.open(known.map(|source| &source.committed), &state).await?;
            cursors.insert(stream.key.clone(), cursor);
        }
        Ok(cursors)
    }

    /// A table without rows is there all the same, so that others can read it.
    async fn create_table(&mut self, report: &mut TableReport) -> Result<()> {
        if self.target.table.version().await.is_none() && self.log.last().is_none() {
            let table = TableEntry { adds: Vec::new(), rows: 0, replace: false };
            let entry = self.entry(BTreeMap::new(), Some(table), None, Counts::default());
            self.append(entry).await?;
        }
        report.version = self.target.table.version().await;
        Ok(())
    }

    async fn epoch(&mut self, cursors: &mut Cursors, inputs: Inputs) -> Result<Done> {
        let gathered = self.gather(&inputs).await?;
        let mut done = Done { counts: gathered.counts(), violations: gathered.written.violations, ..Done::default() };
        let mut sources = self.log.last().map(|entry| entry.sources.clone()).unwrap_or_default();
        for (key, input) in inputs {
            let Some(cursor) = cursors.get_mut(&key) else { continue };
            let Finished { committed, lost, lag } = cursor.finish(input).await?;
            done.lag += lag;
            done.lost = done.lost.zip(lost).map(|(before, more)| before + more);
            let columns =
                self.streams.iter().find(|stream| stream.key == key).and_then(|stream| stream.columns.clone());
            sources.insert(key, SourceEntry { committed, columns });
        }
        let table = (gathered.written.rows > 0).then_some(TableEntry {
            adds: gathered.written.adds,
            rows: gathered.written.rows,
            replace: false,
        });
        let (adds, rows) = gathered.quarantined;
        let quarantine = (rows > 0).then_some(TableEntry { adds, rows, replace: false });
        self.put(sources, table, quarantine, done).await
    }

    /// Computes the table anew over everything its sources hold, and swaps it in one commit. `fingerprints` say what was there.
    pub async fn refresh(
        mut self,
        fingerprints: BTreeMap<String, SourceEntry>,
        report: &mut TableReport,
    ) -> Result<()> {
        let watch = Stopwatch::start();
        let state = self.log.state();
        let mut inputs = Inputs::new();
        for stream in &self.streams {
            let mut cursor = stream.source.open(None, &state).await?;
            if let Some(input) = cursor.next(&Limits { records: None, everything: true }).await? {
                inputs.insert(stream.key.clone(), input);
            }
        }
        let gathered = self.gather(&inputs).await?;
        let counts = gathered.counts();
        let counts = Counts { read: counts.read + self.table_rows, ..counts };
        let done = Done { counts, violations: gathered.written.violations, ..Done::default() };
        let table = TableEntry { adds: gathered.written.adds, rows: gathered.written.rows, replace: true };
        let (adds, rows) = gathered.quarantined;
        let had_one = self.quarantine.version().await.is_some();
        let quarantine = (had_one || rows > 0).then_some(TableEntry { adds, rows, replace: true });
        let done = self.put(fingerprints, Some(table), quarantine, done).await?;
        self.tell(&done, watch.elapsed_ms(), report);
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
            self.clock.now(),
            self.log.next_epoch(),
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
        let entry = self.entry(sources, table, quarantine, done.counts);
        let epoch = entry.epoch;
        self.append(entry).await?;
        Ok(Done { epoch, version: self.target.table.version().await, ..done })
    }

    async fn append(&mut self, entry: Entry) -> Result<()> {
        let entry = self.log.append(entry).await?.clone();
        if let Some(named) = &entry.quarantine {
            commit(&entry, named, &self.quarantine, &self.quarantine_spec).await?;
        }
        if let Some(named) = &entry.table {
            commit(&entry, named, &self.target.table, &self.target.spec).await?;
        }
        Ok(())
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
            at: self.clock.now(),
            sources,
            table,
            quarantine,
            counts,
        }
    }

    fn tell(&self, done: &Done, elapsed_ms: u64, report: &mut TableReport) {
        let Counts { read, written, dropped, quarantined } = done.counts;
        report.epochs += 1;
        report.read += read;
        report.written += written;
        report.dropped += dropped;
        report.quarantined += quarantined;
        report.lost = report.lost.zip(done.lost).map(|(before, more)| before + more);
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
            lag: done.lag,
            elapsed_ms,
        });
    }
}

type Inputs = BTreeMap<String, Arc<dyn Input>>;
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
    lag: u64,
    version: Option<u64>,
}

impl Default for Done {
    fn default() -> Self {
        Self {
            epoch: Epoch::FIRST,
            counts: Counts::default(),
            violations: BTreeMap::new(),
            lost: Some(0),
            lag: 0,
            version: None,
        }
    }
}
