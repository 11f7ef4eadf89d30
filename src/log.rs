//! The epoch log: the commit point of a query.
//!
//! Floor 3: uses `epoch`, `source`, `delta`, `store`, `clock`, `error`. `_pinsql/<query>/log/<n>.json` is put if absent and never
//! changed. What an entry names is there before it is put; what Delta commits afterwards is an idempotent roll-forward of
//! it. Each entry says all that a restart needs (identity, positions, pinned columns), so only the newest is ever read.
//!
//! **Folding.** Old entries are deleted, so that a start lists a few hundred of them and not a million. First
//! `log/_folded.json` says up to which number, then they go. A number that was folded must never be put again: an instance
//! that was frozen for so long could do it, because nothing lies there any more. Entries are kept for [`FOLD_AGE`] at least, and whoever
//! has been away for longer than half of that when its put is answered looks at the mark before it believes the answer.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::{self, Stopwatch};
use crate::delta::Add;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::source::Committed;
use crate::store::{self, Location};

/// Entries are kept for this time.
const FOLD_AGE: chrono::Duration = chrono::Duration::seconds(300);
/// So many are kept, whatever their age.
const FOLD_KEEPS: u64 = 100;
/// Folding waits until there are so many to fold.
const FOLD_AT: usize = 500;
/// The mark of what was folded.
const FOLDED: &str = "log/_folded.json";

/// Beside the logs of several instances: how many they are.
const INSTANCES: &str = "instances";

const TRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Who a query is, from its first epoch on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Made at the first epoch.
    pub id: Uuid,
    /// Counts full refreshes.
    pub generation: u32,
}

impl Identity {
    /// The `appId` of the query's `txn` actions.
    pub fn app_id(&self) -> String {
        format!("pinsql/{}/{}", self.id, self.generation)
    }
}

/// What an entry says of one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// How far it is read.
    pub committed: Committed,
    /// The columns that the first epoch inferred, as DDL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<String>,
}

/// What an entry adds to one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableEntry {
    /// The files. The table is made if it is not there yet.
    pub adds: Vec<Add>,
    /// Rows in them.
    pub rows: u64,
    /// The rows that are there go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

/// What one epoch did, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Source records.
    pub read: u64,
    /// Rows added to the table.
    pub written: u64,
    /// Rows and records that the SQL asked to leave out.
    pub dropped: u64,
    /// Rows of the quarantine.
    pub quarantined: u64,
    /// Records known to be waiting behind the epoch.
    #[serde(default)]
    pub lag: u64,
    /// How far the sources were behind their tips, in milliseconds, where they say so: Kinesis does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
}

/// One epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number.
    pub epoch: Epoch,
    /// The process that put it, found again when an answer was lost.
    pub attempt: Uuid,
    /// Whose it is.
    pub query: Identity,
    /// A digest of the query's text.
    pub fingerprint: String,
    /// When it was put.
    pub at: DateTime<Utc>,
    /// How far each source is read.
    pub sources: BTreeMap<String, SourceEntry>,
    /// The table; None where the epoch has nothing for it.
    pub table: Option<TableEntry>,
    /// The quarantine, likewise.
    pub quarantine: Option<TableEntry>,
    /// The name of the quarantine, which an edited statement may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine_name: Option<String>,
    /// For people.
    pub counts: Counts,
}

/// The log of one query.
#[derive(Debug)]
pub struct EpochLog {
    folder: Location,
    last: Option<Entry>,
    /// The attempt that was put last, whether or not that was answered.
    tried: Option<Uuid>,
    /// When the folder was last seen, by both clocks: one of them stands still while the machine sleeps.
    seen: (Stopwatch, DateTime<Utc>),
    /// Entries that were appended since the log was last folded.
    unfolded: usize,
}

/// Up to which number entries were folded away.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Folded {
    through: Option<Epoch>,
}

fn now() -> (Stopwatch, DateTime<Utc>) {
    (Stopwatch::start(), clock::system().now())
}

impl EpochLog {
    /// Opens the log of a query in `folder` (`<table>/_pinsql/<query>`) and reads its newest entry.
    pub async fn open(folder: Location) -> Result<Self> {
        let mut log = Self { folder, last: None, tried: None, seen: now(), unfolded: 0 };
        let listed = log.list().await?;
        log.unfolded = listed.len();
        if let Some((epoch, _)) = listed.last() {
            log.last = log.read(*epoch).await?;
        }
        Ok(log)
    }

    /// The logs of several instances below a query's folder, where it is shared; they are named `i-of-n`.
    pub async fn slots(folder: &Location) -> Result<Vec<Location>> {
        let listed = folder.store().list_with_delimiter(Some(folder.path())).await;
        let listed = listed.map_err(|error| store::failed(format!("cannot list `{folder}`"), error))?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename());
        Ok(names.filter(|name| name.contains("-of-")).map(|name| folder.join(name)).collect())
    }

    /// How many instances fill a target together: what the first of them said. It is put if absent, so that two who begin at
    /// once do not both believe to be the first.
    pub async fn instances(folder: &Location, count: u32) -> Result<u32> {
        let path = folder.join(INSTANCES);
        let payload = PutPayload::from(count.to_string());
        let put = path.store().put_opts(path.path(), payload, PutOptions::from(PutMode::Create)).await;
        let read = async { path.store().get(path.path()).await?.bytes().await };
        // Whatever became of the put, what lies there counts.
        let text =
            read.await.map_err(|error| store::failed(format!("cannot read `{path}`"), put.err().unwrap_or(error)))?;
        std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            Error::data(format!("`{path}` does not say how many instances fill the table"))
                .hint("pinsql writes this file itself: put back what was in it")
        })
    }

    /// Reads the newest entry again, after an error.
    ///
    /// # Errors
    /// Conflict where another instance has appended meanwhile.
    pub async fn reopen(&mut self) -> Result<()> {
        let mut newest = None;
        self.seen = now();
        if let Some((epoch, _)) = self.list().await?.last() {
            newest = self.read(*epoch).await?;
        }
        let same = newest.as_ref().map(|entry| entry.attempt) == self.last.as_ref().map(|entry| entry.attempt);
        let ours = newest.as_ref().is_some_and(|entry| Some(entry.attempt) == self.tried);
        if !same && !ours {
            return Err(self.taken(self.next_epoch()));
        }
        self.last = newest;
        Ok(())
    }

    /// The newest entry.
    pub fn last(&self) -> Option<&Entry> {
        self.last.as_ref()
    }

    /// The number of the epoch to come.
    pub fn next_epoch(&self) -> Epoch {
        self.last.as_ref().map_or(Epoch::FIRST, |entry| entry.epoch.next())
    }

    /// A folder for what sources keep.
    pub fn state(&self) -> Location {
        self.folder.join("state")
    }

    /// Appends an entry: the epoch is committed when this answers, and not before.
    ///
    /// # Errors
    /// Conflict where another instance put an entry of this number; otherwise the store's.
    pub async fn append(&mut self, entry: Entry) -> Result<&Entry> {
        let text = serde_json::to_string(&entry).map_err(|error| Error::internal(error.to_string()))?;
        let path = self.path(entry.epoch);
        self.tried = Some(entry.attempt);
        let mut tries = 0;
        loop {
            let payload = PutPayload::from(text.clone());
            let put = path.store().put_opts(path.path(), payload, PutOptions::from(PutMode::Create)).await;
            let Err(error) = put else { break };
            // Whatever the error says, the put may have taken effect: what lies there now decides.
            match self.read(entry.epoch).await? {
                Some(there) if there.attempt == entry.attempt => break,
                Some(_) => return Err(self.taken(entry.epoch)),
                None => {}
            }
            tries += 1;
            if tries == TRIES || matches!(error, object_store::Error::PermissionDenied { .. }) {
                return Err(store::failed(format!("cannot write `{path}`"), error));
            }
            tracing::warn!(%path, %error, "the epoch log gave no answer; the entry is put again");
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(tries - 1)).await;
        }
        self.refuse_folded(entry.epoch).await?;
        self.unfolded += 1;
        Ok(self.last.insert(entry))
    }

    /// Whoever was away for so long that others may have folded the log looks before it believes that its put was the first.
    async fn refuse_folded(&mut self, epoch: Epoch) -> Result<()> {
        let (watch, time) = std::mem::replace(&mut self.seen, now());
        let awake = chrono::Duration::milliseconds(i64::try_from(watch.elapsed_ms()).unwrap_or(i64::MAX));
        let away = awake.max((self.seen.1 - time).abs());
        if away > FOLD_AGE / 2 && self.folded().await?.through.is_some_and(|folded| epoch <= folded) {
            return Err(self.taken(epoch));
        }
        Ok(())
    }

    /// Whether there is so much to fold that it is worth it.
    pub fn is_long(&self) -> bool {
        self.unfolded >= FOLD_AT
    }

    /// Deletes entries that nobody needs any more. What cannot be deleted stays, behind the mark, and costs nobody anything.
    pub async fn fold(&mut self) -> Result<()> {
        self.unfolded = 0;
        let listed = self.list().await?;
        let Some((newest, at)) = listed.last().copied() else { return Ok(()) };
        let is_old = |(epoch, put): &(Epoch, DateTime<Utc>)| at - *put > FOLD_AGE && epoch.0 + FOLD_KEEPS < newest.0;
        let old: Vec<Epoch> = listed.iter().filter(|one| is_old(one)).map(|(epoch, _)| *epoch).collect();
        let Some(through) = old.last().copied() else { return Ok(()) };
        let text = serde_json::to_string(&Folded { through: Some(through) });
        let text = text.map_err(|error| Error::internal(error.to_string()))?;
        let mark = self.folder.join(FOLDED);
        let put = mark.store().put(mark.path(), PutPayload::from(text)).await;
        put.map_err(|error| store::failed(format!("cannot write `{mark}`"), error))?;
        let paths: Vec<_> = old.iter().map(|epoch| Ok(self.path(*epoch).path().clone())).collect();
        let deleted = self.folder.store().delete_stream(futures::stream::iter(paths).boxed());
        let deleted = deleted.try_for_each(|_| std::future::ready(Ok(()))).await;
        deleted.map_err(|error| store::failed(format!("cannot fold the log `{}`", self.folder), error))
    }

    async fn folded(&self) -> Result<Folded> {
        let mark = self.folder.join(FOLDED);
        let read = async { mark.store().get(mark.path()).await?.bytes().await };
        match read.await {
            // A mark that cannot be read folds nothing: entries are only found more slowly.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(object_store::Error::NotFound { .. }) => Ok(Folded::default()),
            Err(error) => Err(store::failed(format!("cannot read `{mark}`"), error)),
        }
    }

    fn taken(&self, epoch: Epoch) -> Error {
        Error::conflict(format!("another instance of this query wrote epoch {epoch} in `{}`", self.folder))
            .hint("run one instance of a query at a time; this one stops, and wrote nothing twice")
    }

    fn path(&self, epoch: Epoch) -> Location {
        self.folder.join(&format!("log/{:020}.json", epoch.0))
    }

    /// The entries that are there, ascending, with the times of their puts.
    async fn list(&self) -> Result<Vec<(Epoch, DateTime<Utc>)>> {
        let folder = self.folder.join("log");
        let from = self.folded().await?.through.map_or_else(|| folder.clone(), |folded| self.path(folded));
        let listed = folder.store().list_with_offset(Some(folder.path()), from.path());
        let number = |name: &str| name.strip_suffix(".json").and_then(|digits| digits.parse().ok()).map(Epoch);
        let listed = listed.try_filter_map(|object| {
            let epoch = object.location.filename().and_then(number);
            std::future::ready(Ok(epoch.map(|epoch| (epoch, object.last_modified))))
        });
        let listed: Result<Vec<_>, _> = listed.try_collect().await;
        let mut entries = listed.map_err(|error| store::failed(format!("cannot list `{folder}`"), error))?;
        entries.sort_unstable();
        Ok(entries)
    }

    async fn read(&self, epoch: Epoch) -> Result<Option<Entry>> {
        let path = self.path(epoch);
        let read = async { path.store().get(path.path()).await?.bytes().await };
        match read.await {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                Error::world(format!("`{path}` is not an entry of an epoch log: {error}"))
                    .hint("it was changed from outside; restore it, or rebuild the table with `--full-refresh`")
            }),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store::failed(format!("cannot read `{path}`"), error)),
        }
    }
}
