//! Delta tables: open, read, write files, commit.
//!
//! Floor 2: uses `epoch`, `store`, `clock`, `options`, `error`. **The only room that knows deltalake.** It writes as DESIGN §6 says: files first, then
//! one commit that names them, with a `txn` action where a query has epochs.
//!
//! The commit itself ([`Table::commit`]) is a blind append of our own over delta-rs's actions: delta-rs materialises every
//! live file on each commit, so its commits get slower with the table, and it neither compares `txn` versions nor tells a
//! lost answer from a lost race.

mod commit;
mod narrow;
mod read;
pub mod schema;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::{EagerSnapshot, StructType};
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub use deltalake::kernel::{Add, Remove};

pub use self::commit::{Change, Commit, Txn};
use self::narrow::Narrow;
pub use self::read::{Added, VersionRange};
pub use self::write::{Files, TARGET_FILE_BYTES};
use crate::clock::Clock;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::options::{Options, wrong_value};
use crate::store::{self, Location};

/// `TBLPROPERTIES`, sorted out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// `delta.*`, written to the table.
    pub delta: BTreeMap<String, String>,
    /// `pinsql.target_file_size`, bytes.
    pub target_file_bytes: u64,
    codec: String,
}

impl Default for Properties {
    fn default() -> Self {
        Self { delta: BTreeMap::new(), target_file_bytes: TARGET_FILE_BYTES, codec: "snappy".to_owned() }
    }
}

impl Properties {
    /// Takes what concerns the Delta table out of `TBLPROPERTIES`.
    pub fn take(options: &mut Options) -> Result<Self> {
        let mut properties = Self::default();
        if let Some(pair) = options.take("pinsql.target_file_size") {
            properties.target_file_bytes =
                parse_bytes(&pair.value).ok_or_else(|| wrong_value(&pair, "a size such as 134217728 or 128mb"))?;
        }
        for pair in options.take_family("delta.") {
            refuse_feature(&pair)?;
            if pair.key.eq_ignore_ascii_case(CODEC) {
                properties.codec = codec(&pair)?;
            }
            properties.delta.insert(pair.key, pair.value);
        }
        Ok(properties)
    }
}

impl Properties {
    /// What is known of a table's properties from the table alone.
    fn of(delta: BTreeMap<String, String>) -> Self {
        let codec =
            delta.iter().find(|(key, _)| key.eq_ignore_ascii_case(CODEC)).map(|(_, value)| value.to_ascii_lowercase());
        let mut properties = Self { delta, ..Self::default() };
        properties.codec = codec.unwrap_or(properties.codec);
        properties
    }
}

const CODEC: &str = "delta.parquet.compression.codec";

fn codec(pair: &crate::options::OptionPair) -> Result<String> {
    let codec = pair.value.to_ascii_lowercase();
    if ["snappy", "zstd", "none", "uncompressed"].contains(&codec.as_str()) {
        return Ok(codec);
    }
    Err(wrong_value(pair, "one of snappy, zstd, none"))
}

/// Properties that raise the table's protocol would lock readers, or this writer, out.
fn refuse_feature(pair: &crate::options::OptionPair) -> Result<()> {
    const REFUSED: [&str; 6] = [
        "delta.columnMapping.mode",
        "delta.enableDeletionVectors",
        "delta.enableRowTracking",
        "delta.minReaderVersion",
        "delta.minWriterVersion",
        "delta.setTransactionRetentionDuration",
    ];
    let raises = REFUSED.iter().any(|key| key.eq_ignore_ascii_case(&pair.key))
        || pair.key.to_ascii_lowercase().starts_with("delta.feature.");
    if raises {
        return Err(Error::config(format!("property `{}` is not supported", pair.key))
            .at(pair.key_place.clone())
            .hint("remove it: pinsql writes tables that every reader of Delta can read (reader 1, writer 2)"));
    }
    Ok(())
}

fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic()).trim();
    let unit = match text[digits.len()..].trim() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

/// What a table is to be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its columns, as [`schema::table_schema`] gives them.
    pub schema: SchemaRef,
    /// `PARTITIONED BY`
    pub partition_by: Vec<String>,
    /// `COMMENT`
    pub comment: Option<String>,
    /// `TBLPROPERTIES`
    pub properties: Properties,
}

/// What is known of a table's newest version.
#[derive(Debug, Clone)]
struct Head {
    id: String,
    version: u64,
    schema: SchemaRef,
    partition_by: Vec<String>,
    comment: Option<String>,
    properties: BTreeMap<String, String>,
    last_checkpoint: u64,
}

/// A Delta table at a location, whether it is there already or not.
pub struct Table {
    location: Location,
    log: LogStoreRef,
    clock: Arc<dyn Clock>,
    head: Mutex<Option<Head>>,
    checkpoint: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("location", &self.location).finish_non_exhaustive()
    }
}

impl Table {
    /// Opens the table at a location; reads its newest version where there is one.
    pub async fn open(location: Location, clock: Arc<dyn Clock>) -> Result<Self> {
        let root: Arc<dyn ObjectStore> = Arc::new(Narrow::new(Arc::clone(location.store())));
        let prefixed = Arc::new(PrefixStore::new(Arc::clone(&root), location.path().clone()));
        let log = default_logstore(prefixed, root, &location.url()?, &StorageConfig::default());
        let table = Self { location, log, clock, head: Mutex::default(), checkpoint: Mutex::default() };
        table.refresh().await?;
        Ok(table)
    }

    /// Where the table lies.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The newest version, None where there is no table.
    pub async fn version(&self) -> Option<u64> {
        self.head.lock().await.as_ref().map(|head| head.version)
    }

    /// The columns of the newest version.
    pub async fn schema(&self) -> Option<SchemaRef> {
        self.head.lock().await.as_ref().map(|head| Arc::clone(&head.schema))
    }

    /// The table's own id, which stays as long as it is not deleted.
    pub async fn id(&self) -> Option<String> {
        self.head.lock().await.as_ref().map(|head| head.id.clone())
    }

    /// The partition columns of the newest version.
    pub async fn partition_by(&self) -> Vec<String> {
        self.head.lock().await.as_ref().map(|head| head.partition_by.clone()).unwrap_or_default()
    }

    /// The epoch of the newest `txn` of an application, None where it has none.
    pub async fn committed(&self, app_id: &str) -> Result<Option<Epoch>> {
        let Some(snapshot) = self.snapshot(None).await? else { return Ok(None) };
        let version = snapshot.transaction_version(self.log.as_ref(), app_id).await;
        let version = version.map_err(|error| fault(format!("cannot read table `{}`", self.location), error))?;
        Ok(version.and_then(|version| u64::try_from(version).ok()).map(Epoch))
    }

    /// Looks again what the newest version is.
    pub async fn refresh(&self) -> Result<()> {
        let head = match self.snapshot(None).await? {
            None => None,
            Some(snapshot) => Some(self.head_of(&snapshot).await?),
        };
        *self.head.lock().await = head;
        Ok(())
    }

    /// Looks for versions behind the newest that is known: cheaper than [`Table::refresh`], and meant to be asked often.
    pub async fn follow(&self) -> Result<()> {
        let mut head = self.head.lock().await;
        while let Some(known) = head.as_mut() {
            let Some(actions) = self.actions(known.version + 1).await? else { return Ok(()) };
            if actions.iter().any(|action| action.get("metaData").is_some() || action.get("protocol").is_some()) {
                break;
            }
            known.version += 1;
        }
        drop(head);
        self.refresh().await
    }

    async fn head_of(&self, snapshot: &EagerSnapshot) -> Result<Head> {
        Ok(Head {
            id: snapshot.metadata().id().to_owned(),
            version: snapshot.version(),
            schema: schema::table_schema(&snapshot.arrow_schema())?,
            partition_by: snapshot.metadata().partition_columns().to_vec(),
            comment: snapshot.metadata().description().map(str::to_owned),
            properties: commit::properties_of(snapshot),
            last_checkpoint: self.last_checkpoint().await,
        })
    }

    async fn last_checkpoint(&self) -> u64 {
        let path = self.location.join("_delta_log/_last_checkpoint");
        let read = async { path.store().get_opts(path.path(), Default::default()).await?.bytes().await };
        let Ok(bytes) = read.await else { return 0 };
        serde_json::from_slice::<Value>(&bytes).ok().and_then(|value| value["version"].as_u64()).unwrap_or(0)
    }

    /// A version of the table with its live files; None where there is no table.
    async fn snapshot(&self, version: Option<u64>) -> Result<Option<EagerSnapshot>> {
        let exists = self.log.is_delta_table_location().await;
        if !exists.map_err(|error| fault(format!("cannot read table `{}`", self.location), error))? {
            return Ok(None);
        }
        let snapshot = EagerSnapshot::try_new(self.log.as_ref(), version).await;
        snapshot.map(Some).map_err(|error| fault(format!("cannot read table `{}`", self.location), error))
    }

    /// Looks whether the table is still there: it may have been dropped while it was open, and whoever commits behind the version
    /// that is known would leave a log without a beginning.
    pub async fn find_again(&self) -> Result<()> {
        let Some(version) = self.version().await else { return Ok(()) };
        let path = self.location.join(&format!("_delta_log/{version:020}.json"));
        match path.store().head(path.path()).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => self.refresh().await,
            Err(error) => Err(store::failed(format!("cannot look for `{path}`"), error)),
        }
    }

    /// Whether all of these files lie in the table's folder.
    pub async fn holds(&self, adds: &[Add]) -> Result<bool> {
        for add in adds {
            let path = self.location.join(&add.path);
            match path.store().head(path.path()).await {
                Ok(_) => {}
                Err(object_store::Error::NotFound { .. }) => return Ok(false),
                Err(error) => return Err(store::failed(format!("cannot look for `{path}`"), error)),
            }
        }
        Ok(true)
    }

    /// Writers for the files of one commit.
    pub fn files(&self, spec: &Spec) -> Files {
        Files::new(&self.location, &spec.schema, &spec.partition_by, &spec.properties)
    }
}

/// The actions that make a table of protocol (1, 2) with all columns nullable.
fn creation(spec: &Spec, id: Uuid, clock: &dyn Clock) -> Result<[Value; 2]> {
    let protocol = json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}});
    Ok([protocol, metadata(spec, &id.to_string(), clock)?])
}

fn metadata(spec: &Spec, id: &str, clock: &dyn Clock) -> Result<Value> {
    let schema: StructType =
        spec.schema.as_ref().try_into_kernel().map_err(|error| Error::sql(format!("the table's columns: {error}")))?;
    let schema = serde_json::to_string(&schema).map_err(|error| Error::internal(error.to_string()))?;
    let mut metadata = json!({
        "id": id,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": schema,
        "partitionColumns": spec.partition_by,
        "configuration": spec.properties.delta,
        "createdTime": clock.now().timestamp_millis(),
    });
    if let Some(comment) = &spec.comment {
        metadata["description"] = json!(comment);
    }
    Ok(json!({ "metaData": metadata }))
}

/// An error of delta-rs, said in our words: what was done, what the store said, and what to do.
fn fault(doing: String, error: deltalake::DeltaTableError) -> Error {
    let cause = store::root_cause(&error);
    if let deltalake::DeltaTableError::ObjectStore { source } = error {
        return store::failed(doing, source);
    }
    let passes = store::is_passing(&error);
    let fault = Error::world(format!("{doing}: {cause}")).hint(store::world_hint(&cause)).caused_by(error);
    if passes { fault.passing() } else { fault }
}
