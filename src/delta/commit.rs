//! The commit: one conditional put behind the newest known version, whose cost does not grow with the table.
//!
//! An error of the put means *unknown*, never *failed*: the answer may have been lost on its way. So every error is settled by reading the version
//! back. It holds our attempt's id: committed. It holds another's: their commit is looked at, and the next version is tried
//! unless it shows that somebody else writes this table. It is not there: the same put is tried again, which is safe
//! because a put that arrives late finds its name taken or takes it for us.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use deltalake::kernel::{Add, EagerSnapshot};
use deltalake::operations::vacuum::VacuumMode;
use deltalake::protocol::checkpoints::create_checkpoint;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Head, Spec, Table, creation, fault, metadata};
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::store;

/// How often a put without any answer is tried.
const TRIES: u32 = 8;
/// The pause before the second try; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A checkpoint is written at the earliest after this many commits, at the latest after [`CHECKPOINT_MOST`], and in between
/// when the log grew by a twentieth: what checkpoints cost stays in proportion to the commits.
const CHECKPOINT_LEAST: u64 = 50;
const CHECKPOINT_MOST: u64 = 100;

/// What a commit does to the rows that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Adds to them.
    Append,
    /// Takes their place.
    Replace,
    /// Takes the place of some files with the same rows: a compaction.
    Rewrite,
    /// Nothing: the table has another comment, or other properties.
    Describe,
}

/// The `txn` action that makes a commit of an epoch recognisable.
#[derive(Debug, Clone)]
pub struct Txn {
    /// The query and its generation.
    pub app_id: String,
    /// The epoch.
    pub epoch: Epoch,
}

/// One commit.
#[derive(Debug, Clone)]
pub struct Commit<'a> {
    /// What the table is, or is to be.
    pub spec: &'a Spec,
    /// Names this attempt; found again in `commitInfo.txnId`.
    pub attempt: Uuid,
    /// The epoch, where a query has epochs.
    pub txn: Option<Txn>,
    /// What becomes of the rows that are there.
    pub change: Change,
    /// Files that were written.
    pub adds: Vec<Add>,
    /// Files that [`Change::Rewrite`] replaces.
    pub removes: Vec<Add>,
    /// The version in which those files were seen to be live.
    pub seen_live: u64,
    /// The operation as `DESCRIBE HISTORY` shows it.
    pub operation: &'static str,
}

/// What reading a version back says about a put that had no clear answer.
enum Landed {
    Ours,
    Another(Vec<Value>),
    Nothing,
}

impl Table {
    /// Commits; answers the table's version. An epoch that is there already is not committed again.
    ///
    /// # Errors
    /// Another instance committed this or a later epoch; somebody changed the table's columns or protocol; the store.
    pub async fn commit(&self, commit: &Commit<'_>) -> Result<u64> {
        let mut head = self.head.lock().await;
        let mut tries = 0;
        let mut seen_live = commit.seen_live;
        loop {
            if let (Change::Rewrite, Some(head)) = (commit.change, head.as_ref()) {
                self.refuse_removed(commit, seen_live, head.version).await?;
                seen_live = head.version;
            }
            let version = head.as_ref().map_or(0, |head| head.version + 1);
            let body = self.body(commit, head.as_ref()).await?;
            let path = self.location.join(&format!("_delta_log/{version:020}.json"));
            let options = PutOptions::from(PutMode::Create);
            let error = match path.store().put_opts(path.path(), PutPayload::from(body), options).await {
                Ok(_) => None,
                Err(error) => match self.landed(version, commit.attempt).await? {
                    Landed::Ours => None,
                    Landed::Nothing => Some(error),
                    Landed::Another(actions) => {
                        self.look_at(commit, &actions, head.as_mut(), version)?;
                        if head.is_none() {
                            return Err(self.made_by_another());
                        }
                        continue;
                    }
                },
            };
            let Some(error) = error else {
                *head = Some(self.moved(commit, head.take(), version));
                break;
            };
            tries += 1;
            if tries == TRIES || is_final(&error) {
                return Err(store::failed(format!("cannot commit to table `{}`", self.location), error));
            }
            tracing::warn!(table = %self.location, %error, "a commit had no answer; it is tried again");
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(tries - 1)).await;
        }
        let moved = head.as_ref().map(|head| (head.version, head.last_checkpoint));
        drop(head);
        let Some((version, last_checkpoint)) = moved else { return Err(Error::internal("a commit without a version")) };
        self.checkpoint_when_due(version, last_checkpoint).await;
        Ok(version)
    }

    /// A compaction replaces files that are still live: had somebody replaced one of them before, its rows would be there twice.
    async fn refuse_removed(&self, commit: &Commit<'_>, seen_live: u64, newest: u64) -> Result<()> {
        let ours: Vec<Value> = commit.removes.iter().map(|add| encoded(&add.path)).collect();
        for version in seen_live + 1..=newest {
            let actions = self.actions(version).await?.unwrap_or_default();
            if actions.iter().any(|action| ours.contains(&action["remove"]["path"])) {
                return Err(self.rewritten_by_another());
            }
        }
        Ok(())
    }

    fn rewritten_by_another(&self) -> Error {
        Error::conflict(format!("table `{}` was rewritten by another meanwhile", self.location))
            .hint("nothing was changed; run OPTIMIZE again when the other has ended")
    }

    fn moved(&self, commit: &Commit<'_>, head: Option<Head>, version: u64) -> Head {
        let said = (commit.spec.comment.clone(), commit.spec.properties.delta.clone());
        let (comment, properties) = match &head {
            Some(head) if !matches!(commit.change, Change::Replace | Change::Describe) => {
                (head.comment.clone(), head.properties.clone())
            }
            _ => said,
        };
        Head {
            // The commit that makes a table gives it the attempt's id.
            id: head.as_ref().map_or_else(|| commit.attempt.to_string(), |head| head.id.clone()),
            version,
            schema: SchemaRef::clone(&commit.spec.schema),
            partition_by: commit.spec.partition_by.clone(),
            comment,
            properties,
            last_checkpoint: head.map_or(0, |head| head.last_checkpoint),
        }
    }

    /// What is to be written so that the table has the comment and the properties of a statement; None where it has them.
    async fn redescribed(&self, spec: &Spec) -> Option<Spec> {
        let head = self.head.lock().await;
        let head = head.as_ref()?;
        let mut delta = head.properties.clone();
        delta.extend(spec.properties.delta.clone());
        let comment = spec.comment.clone().or_else(|| head.comment.clone());
        if comment == head.comment && delta == head.properties {
            return None;
        }
        let properties = super::Properties { delta, ..spec.properties.clone() };
        Some(Spec { comment, properties, ..spec.clone() })
    }

    /// Gives a table that is there the comment and the properties of its statement, in a commit without rows, where they
    /// differ. A property that others have set, or that the statement no longer names, stays.
    pub async fn describe(&self, spec: &Spec) -> Result<()> {
        if self.redescribed(spec).await.is_none() {
            return Ok(());
        }
        // What others have set since this table was opened stays too.
        self.refresh().await?;
        let Some(spec) = self.redescribed(spec).await else { return Ok(()) };
        let commit = Commit {
            spec: &spec,
            attempt: Uuid::new_v4(),
            txn: None,
            change: Change::Describe,
            adds: Vec::new(),
            removes: Vec::new(),
            seen_live: 0,
            operation: "SET TBLPROPERTIES",
        };
        self.commit(&commit).await.map(drop)
    }

    /// The commit's text: an action a line.
    async fn body(&self, commit: &Commit<'_>, head: Option<&Head>) -> Result<String> {
        let mut actions = vec![self.commit_info(commit, head)];
        if let Some(Txn { app_id, epoch }) = &commit.txn {
            actions.push(json!({"txn": {"appId": app_id, "version": epoch.txn_version()}}));
        }
        match head {
            None => actions.extend(creation(commit.spec, commit.attempt, self.clock.as_ref())?),
            Some(head) if commit.change == Change::Replace => {
                self.replace(commit, head, &mut actions).await?;
            }
            Some(head) if commit.change == Change::Describe => {
                actions.push(metadata(commit.spec, &head.id, self.clock.as_ref())?);
            }
            Some(_) => {}
        }
        let data_change = commit.change != Change::Rewrite;
        actions.extend(commit.removes.iter().map(|add| self.remove(add, data_change)));
        for add in &commit.adds {
            let mut add = add.clone();
            add.data_change = data_change;
            actions.push(json!({ "add": add }));
        }
        Ok(actions.iter().map(|action| format!("{action}\n")).collect())
    }

    fn commit_info(&self, commit: &Commit<'_>, head: Option<&Head>) -> Value {
        let mut parameters = json!({"mode": if commit.change == Change::Append { "Append" } else { "Overwrite" }});
        if let Some(Txn { app_id, epoch }) = &commit.txn {
            parameters = json!({"outputMode": parameters["mode"], "queryId": app_id, "epochId": epoch.to_string()});
        }
        let mut info = json!({
            "timestamp": self.clock.now().timestamp_millis(),
            "operation": commit.operation,
            "operationParameters": parameters,
            "isBlindAppend": commit.change == Change::Append,
            "engineInfo": concat!("pinsql/", env!("CARGO_PKG_VERSION")),
            "txnId": commit.attempt.to_string(),
        });
        if let Some(head) = head {
            info["readVersion"] = json!(head.version);
        }
        json!({ "commitInfo": info })
    }

    /// Everything that is live goes; new columns come where they differ.
    async fn replace(&self, commit: &Commit<'_>, head: &Head, actions: &mut Vec<Value>) -> Result<()> {
        let Some(snapshot) = self.snapshot(Some(head.version)).await? else {
            return Err(Error::world(format!("table `{}` vanished while it was replaced", self.location)));
        };
        let same = head.schema == commit.spec.schema
            && head.partition_by == commit.spec.partition_by
            && snapshot.metadata().description() == commit.spec.comment.as_deref()
            && properties_of(&snapshot) == commit.spec.properties.delta;
        if !same {
            actions.push(metadata(commit.spec, snapshot.metadata().id(), self.clock.as_ref())?);
        }
        actions.extend(live(&snapshot).iter().map(|add| self.remove(add, true)));
        Ok(())
    }

    fn remove(&self, add: &Add, data_change: bool) -> Value {
        json!({"remove": {
            "path": encoded(&add.path),
            "deletionTimestamp": self.clock.now().timestamp_millis(),
            "dataChange": data_change,
            "extendedFileMetadata": true,
            "partitionValues": add.partition_values,
            "size": add.size,
        }})
    }

    async fn landed(&self, version: u64, attempt: Uuid) -> Result<Landed> {
        let Some(actions) = self.actions(version).await? else { return Ok(Landed::Nothing) };
        let attempt = attempt.to_string();
        let ours = actions.iter().any(|action| action["commitInfo"]["txnId"] == attempt.as_str());
        Ok(if ours { Landed::Ours } else { Landed::Another(actions) })
    }

    /// The actions of one version, None where there is no such version.
    pub(super) async fn actions(&self, version: u64) -> Result<Option<Vec<Value>>> {
        let path = self.location.join(&format!("_delta_log/{version:020}.json"));
        let read = async { path.store().get(path.path()).await?.bytes().await };
        let bytes = match read.await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(store::failed(format!("cannot read `{path}`"), error)),
        };
        let lines = serde_json::Deserializer::from_slice(&bytes).into_iter();
        let actions: Result<Vec<Value>, _> = lines.collect();
        actions.map(Some).map_err(|error| Error::world(format!("`{path}` is not a Delta commit: {error}")))
    }

    /// Decides whether we may commit behind a commit that is not ours, and moves on behind it.
    fn look_at(&self, commit: &Commit<'_>, actions: &[Value], head: Option<&mut Head>, version: u64) -> Result<()> {
        let ours = metadata(commit.spec, "", self.clock.as_ref())?;
        for action in actions {
            // An earlier epoch of ours was committed after this table was opened: the log has put it before the one at hand.
            if let (Some(Txn { app_id, epoch }), Some(theirs)) = (&commit.txn, action["txn"]["appId"].as_str())
                && app_id == theirs
                && action["txn"]["version"].as_i64().is_none_or(|theirs| theirs >= epoch.txn_version())
            {
                return Err(self.fenced());
            }
            let describes = |theirs| commit.change != Change::Describe && has_columns_of(theirs, &ours);
            if action.get("metaData").is_some_and(|theirs| !describes(theirs)) || action.get("protocol").is_some() {
                return Err(self.changed_by_another(version));
            }
            if commit.change == Change::Rewrite && action.get("remove").is_some() {
                return Err(self.rewritten_by_another());
            }
        }
        if let Some(head) = head {
            head.version = version;
        }
        Ok(())
    }

    fn fenced(&self) -> Error {
        Error::conflict(format!("another instance of this query commits to table `{}`", self.location))
            .hint("run one instance of a query at a time; this one wrote nothing twice")
    }

    fn made_by_another(&self) -> Error {
        Error::conflict(format!("table `{}` was made by another at this moment", self.location))
            .hint("run one instance of a query at a time, or give this table another name")
    }

    fn changed_by_another(&self, version: u64) -> Error {
        Error::conflict(format!(
            "version {version} of table `{}`, which pinsql did not write, changed its columns or its protocol",
            self.location
        ))
        .hint("pinsql must be the only writer of its tables: restore the table to the version before, or rebuild it with `--full-refresh`")
    }

    async fn checkpoint_when_due(&self, version: u64, last: u64) {
        let interval = (version / 20).clamp(CHECKPOINT_LEAST, CHECKPOINT_MOST);
        if version < last + interval {
            return;
        }
        if let Some(head) = self.head.lock().await.as_mut() {
            head.last_checkpoint = version;
        }
        self.settle().await;
        let mut table = deltalake::DeltaTable::new(std::sync::Arc::clone(&self.log));
        let location = self.location.to_string();
        let task = async move {
            let written = match table.load_version(version).await {
                Ok(()) => create_checkpoint(&table, None).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                tracing::warn!(table = location, version, %error, "no checkpoint was written; the next one makes up for it");
            }
        };
        *self.checkpoint.lock().await = Some(tokio::spawn(task));
    }

    /// Waits for a checkpoint that is still being written.
    pub async fn settle(&self) {
        let running = self.checkpoint.lock().await.take();
        if let Some(running) = running {
            let _ = running.await;
        }
    }

    /// The live files of the newest version.
    pub async fn live(&self) -> Result<Vec<Add>> {
        let version = self.version().await;
        Ok(self.snapshot(version).await?.as_ref().map(live).unwrap_or_default())
    }

    /// The schema that the newest version declares, with what else a new version must keep.
    pub async fn spec(&self) -> Result<Option<Spec>> {
        let Some(snapshot) = self.snapshot(None).await? else { return Ok(None) };
        Ok(Some(Spec {
            schema: super::schema::table_schema(&snapshot.arrow_schema())?,
            partition_by: snapshot.metadata().partition_columns().to_vec(),
            comment: snapshot.metadata().description().map(str::to_owned),
            properties: super::Properties::of(properties_of(&snapshot)),
        }))
    }

    /// Removes files that no version of the last days names, those of epochs that died among them. Answers their paths.
    pub async fn vacuum(&self, retain_hours: Option<f64>, dry_run: bool) -> Result<Vec<String>> {
        let mut table = deltalake::DeltaTable::new(std::sync::Arc::clone(&self.log));
        let context = format!("cannot clean up table `{}`", self.location);
        table.load().await.map_err(|error| fault(context.clone(), error))?;
        let mut vacuum = table.vacuum().with_mode(VacuumMode::Full).with_dry_run(dry_run);
        if let Some(hours) = retain_hours {
            vacuum = vacuum
                .with_retention_period(chrono::Duration::seconds((hours * 3600.0) as i64))
                .with_enforce_retention_duration(true);
        }
        let (_, metrics) = vacuum.await.map_err(|error| fault(context, error))?;
        self.refresh().await?;
        Ok(metrics.files_deleted)
    }
}

pub(super) fn properties_of(snapshot: &EagerSnapshot) -> BTreeMap<String, String> {
    snapshot.metadata().configuration().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Whether two `metaData` differ in nothing but what describes the table.
fn has_columns_of(one: &Value, other: &Value) -> bool {
    let other = &other["metaData"];
    ["schemaString", "partitionColumns"].iter().all(|key| one[key] == other[key])
}

/// The live files of a snapshot.
#[expect(deprecated, reason = "a commit names files by Add actions; delta-rs offers no other way to get them")]
pub(super) fn live(snapshot: &EagerSnapshot) -> Vec<Add> {
    snapshot.log_data().iter().map(|file| file.add_action()).collect()
}

/// Delta's log holds paths as URLs do; `Add` does that by itself when it is written as JSON.
fn encoded(path: &str) -> Value {
    let add = Add { path: path.to_owned(), ..Default::default() };
    serde_json::to_value(add).map_or(Value::Null, |mut value| value["path"].take())
}

/// Errors that trying again cannot mend.
fn is_final(error: &object_store::Error) -> bool {
    let words = store::root_cause(error);
    matches!(
        error,
        object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. }
            | object_store::Error::NotFound { .. }
    ) || ["No space left", "Read-only", "Permission denied", "Not a directory"].iter().any(|sign| words.contains(sign))
}
