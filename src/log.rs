//! The epoch log: the commit point of a query.
//!
//! Floor 3: uses `epoch`, `source`, `delta`, `store`, `error`. `_pinsql/<query>/log/<n>.json` is put if absent and never
//! changed. What an entry names is there before it is put; what Delta commits afterwards is an idempotent roll-forward of
//! it. Each entry says all that a restart needs (identity, positions, pinned columns), so only the newest is ever read.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::delta::Add;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::source::Committed;
use crate::store::{self, Location};

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
    /// For people.
    pub counts: Counts,
}

/// The log of one query.
#[derive(Debug)]
pub struct EpochLog {
    folder: Location,
    last: Option<Entry>,
}

impl EpochLog {
    /// Opens the log of a query in `folder` (`<table>/_pinsql/<query>`) and reads its newest entry.
    pub async fn open(folder: Location) -> Result<Self> {
        let mut log = Self { folder, last: None };
        if let Some(epoch) = log.newest().await? {
            log.last = log.read(epoch).await?;
        }
        Ok(log)
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
        Ok(self.last.insert(entry))
    }

    fn taken(&self, epoch: Epoch) -> Error {
        Error::conflict(format!("another instance of this query wrote epoch {epoch} in `{}`", self.folder))
            .hint("run one instance of a query at a time; this one stops, and wrote nothing twice")
    }

    fn path(&self, epoch: Epoch) -> Location {
        self.folder.join(&format!("log/{:020}.json", epoch.0))
    }

    async fn newest(&self) -> Result<Option<Epoch>> {
        let folder = self.folder.join("log");
        let listed = folder.store().list(Some(folder.path()));
        let number = |name: &str| name.strip_suffix(".json").and_then(|digits| digits.parse().ok()).map(Epoch);
        let newest = listed.try_fold(None, |newest: Option<Epoch>, object| {
            std::future::ready(Ok(newest.max(object.location.filename().and_then(number))))
        });
        newest.await.map_err(|error| store::failed(format!("cannot list `{folder}`"), error))
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
