//! Small files into larger ones, while epochs go on.
//!
//! Floor 5: uses `delta`, `clock`, `report`, `error`, and its own room.
//!
//! A stream that commits every second writes many small files. Whoever fills a table merges what it has written itself, in
//! the background: files of like size are merged when there are many, so each row is rewritten a few times and not with
//! every merge. A merge is one commit that adds and removes with `dataChange=false`: a reader sees all of it or nothing, a
//! stream that reads the table sees none of it. A file that somebody else has replaced meanwhile ends the merge, and
//! nothing has happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::write::{Target, write};
use super::{Planned, Planner};
use crate::clock::Stopwatch;
use crate::delta::{Add, Change, Commit, Spec, Table};
use crate::error::{Error, Result};

/// So many files of like size are merged.
const TOGETHER: usize = 32;
/// Files are of like size up to this factor.
const LIKE: i64 = 8;
/// Files that have waited this long are merged when they are only a few.
const AGE_MS: u64 = 10 * 60 * 1000;
/// How long the end waits for a merge.
const PATIENCE: Duration = Duration::from_secs(1);
const FEW: usize = 2;

/// Whether a file is worth merging.
pub fn is_small(file: &Add, target_bytes: u64) -> bool {
    file.size < i64::try_from(target_bytes).unwrap_or(i64::MAX) / 2
}

/// How many files, of the smallest, are worth one merge: not one that is so large that the others together add little to it.
/// A few rows every hour must not have all that came before rewritten with them. The sizes ascend.
pub fn worth_merging(sizes: &[i64]) -> usize {
    let mut rest: i64 = sizes.iter().sum();
    let mut count = sizes.len();
    while let Some(largest) = count.checked_sub(1).and_then(|last| sizes.get(last)) {
        rest -= largest;
        if rest.saturating_mul(LIKE) >= *largest {
            break;
        }
        count -= 1;
    }
    count
}

/// The values of a file's partition columns, by their names.
type Partition = Vec<(String, Option<String>)>;

/// Files by the values of their partition columns: only those of one partition can become one file.
pub fn by_partition(files: impl Iterator<Item = Add>) -> BTreeMap<Partition, Vec<Add>> {
    let mut partitions: BTreeMap<Partition, Vec<Add>> = BTreeMap::new();
    for file in files {
        partitions.entry(partition(&file)).or_default().push(file);
    }
    partitions
}

fn partition(file: &Add) -> Partition {
    let mut values: Partition = file.partition_values.clone().into_iter().collect();
    values.sort_unstable();
    values
}

/// Writes the rows of `files`, which were live in version `seen_live`, into new files, and puts those in their place.
pub async fn merge(
    table: Arc<Table>,
    spec: Spec,
    planned: Planned,
    files: Vec<Add>,
    seen_live: u64,
) -> Result<Vec<Add>> {
    let target = Target {
        name: "".into(),
        table: Arc::clone(&table),
        spec: spec.clone(),
        rules: Arc::from([]),
        source: "".into(),
    };
    let written = write(planned.plan, planned.context, &target, mpsc::channel(1).0).await?;
    let commit = Commit {
        spec: &spec,
        attempt: Uuid::new_v4(),
        txn: None,
        change: Change::Rewrite,
        adds: written.adds.clone(),
        removes: files,
        seen_live,
        operation: "OPTIMIZE",
    };
    table.commit(&commit).await?;
    Ok(written.adds)
}

/// The small files that one instance has written, and the merge that runs.
#[derive(Debug, Default)]
pub struct Compactor {
    small: Vec<(Add, Stopwatch)>,
    running: Option<JoinHandle<Result<Vec<Add>>>>,
}

impl Compactor {
    /// Takes note of files that were committed.
    pub fn added(&mut self, adds: &[Add], spec: &Spec) {
        let small = adds.iter().filter(|add| is_small(add, spec.properties.target_file_bytes));
        self.small.extend(small.map(|add| (add.clone(), Stopwatch::start())));
    }

    /// Starts a merge where one is due, and takes note of one that has ended.
    pub async fn tend(&mut self, table: &Arc<Table>, spec: &Spec, planner: &dyn Planner) -> Result<()> {
        if let Some(running) = self.running.take_if(|running| running.is_finished()) {
            let merged = running.await.map_err(|error| Error::internal(format!("a merge stopped: {error}")))?;
            self.added(&merged?, spec);
        }
        if self.running.is_some() {
            return Ok(());
        }
        let Some(files) = self.due() else { return Ok(()) };
        let seen_live = table.version().await.unwrap_or_default();
        let planned = planner.merge(table, spec, files.clone()).await?;
        self.running = Some(tokio::spawn(merge(Arc::clone(table), spec.clone(), planned, files, seen_live)));
        Ok(())
    }

    /// Takes files out that are to be merged now.
    fn due(&mut self) -> Option<Vec<Add>> {
        if self.small.len() < FEW {
            return None;
        }
        let mut classes: BTreeMap<(u32, Partition), Vec<usize>> = BTreeMap::new();
        for (index, (add, since)) in self.small.iter().enumerate() {
            // Old files are all alike: it is time.
            let class = if since.elapsed_ms() >= AGE_MS { u32::MAX } else { add.size.max(1).ilog(LIKE) };
            classes.entry((class, partition(add))).or_default().push(index);
        }
        let due = classes.into_iter().map(|((class, _), files)| match class {
            u32::MAX => (FEW, self.worthy(files)),
            _ => (TOGETHER, files),
        });
        let mut due = due.into_iter().find(|(enough, files)| files.len() >= *enough)?.1;
        due.sort_unstable_by(|a, b| b.cmp(a));
        Some(due.into_iter().map(|index| self.small.swap_remove(index).0).collect())
    }

    /// Those of some files that one merge is worth.
    fn worthy(&self, mut files: Vec<usize>) -> Vec<usize> {
        let size = |index: &usize| self.small[*index].0.size;
        files.sort_unstable_by_key(size);
        files.truncate(worth_merging(&files.iter().map(size).collect::<Vec<_>>()));
        files
    }

    /// Waits a moment for the merge that runs, and gives it up.
    pub async fn settle(&mut self) {
        if let Some(mut running) = self.running.take()
            && tokio::time::timeout(PATIENCE, &mut running).await.is_err()
        {
            // Half a merge has changed nothing.
            running.abort();
        }
    }
}
