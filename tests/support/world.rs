//! A project in a folder of its own, run through the library.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use pinsql::engine::{Engine, RunOptions};
use pinsql::error::{Place, Result};
use pinsql::project::Invocation;
use pinsql::report::{Condition, EpochReport, Reporter, Summary, TableReport};
use pinsql::store::Layer;
use tempfile::TempDir;

/// Keeps what it is told.
#[derive(Debug, Default)]
pub struct Told {
    pub epochs: Mutex<Vec<EpochReport>>,
    pub notices: Mutex<Vec<String>>,
    pub conditions: Mutex<Vec<String>>,
    pub rows: Mutex<Vec<RecordBatch>>,
}

impl Reporter for Told {
    fn epoch(&self, report: &EpochReport) {
        self.epochs.lock().unwrap().push(report.clone());
    }

    fn notice(&self, message: &str, _place: Option<&Place>) {
        self.notices.lock().unwrap().push(message.to_owned());
    }

    fn condition(&self, table: &str, condition: &Condition<'_>) {
        let said = match condition {
            Condition::Running => "running".to_owned(),
            Condition::Stopped => "stopped".to_owned(),
            Condition::Waiting { error, .. } => format!("waiting: {error}"),
            Condition::Failed(error) => format!("failed: {error}"),
        };
        self.conditions.lock().unwrap().push(format!("{table}: {said}"));
    }

    fn progress(&self, _table: &str, _read: u64) {}

    fn rows(&self, _schema: &SchemaRef, rows: &[RecordBatch]) {
        self.rows.lock().unwrap().extend(rows.iter().cloned());
    }

    fn end_of_rows(&self) {}
}

/// A project.
pub struct World {
    folder: TempDir,
    pub layer: Option<Layer>,
    pub invocation: Invocation,
}

impl World {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir_all(folder.path().join("in")).unwrap();
        let invocation = Invocation { directory: Some(folder.path().to_path_buf()), ..Invocation::default() };
        let world = Self { folder, layer: None, invocation };
        world.write("pinsql.toml", "");
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Whoever lists the folder meanwhile sees all of it, or nothing.
        let hidden = path.with_file_name(format!(".{}", path.file_name().unwrap().to_string_lossy()));
        std::fs::write(&hidden, text).unwrap();
        std::fs::rename(hidden, path).unwrap();
    }

    pub async fn open(&self, paths: &[&str]) -> Result<(Engine, Arc<Told>)> {
        let told = Arc::new(Told::default());
        let paths: Vec<PathBuf> = paths.iter().map(|path| self.path(path)).collect();
        let engine = Engine::open_with(&self.invocation, &paths, Arc::clone(&told) as _, self.layer.clone()).await?;
        Ok((engine, told))
    }

    /// `pinsql run PATHS`.
    pub async fn run_with(&self, paths: &[&str], options: &RunOptions) -> Summary {
        self.open(paths).await.unwrap().0.run(options).await
    }

    /// `pinsql run sql`, which must succeed.
    pub async fn run(&self) -> Summary {
        let summary = self.run_with(&["sql"], &RunOptions::default()).await;
        assert!(summary.error.is_none(), "{:?}", summary.error);
        summary
    }

    /// `pinsql -c SQL`: the rows of all results, as JSON.
    pub async fn query(&self, sql: &str) -> Vec<serde_json::Value> {
        let (mut engine, told) = self.open(&[]).await.unwrap();
        engine.execute("-c", sql).await.unwrap();
        let rows = told.rows.lock().unwrap();
        json(&rows)
    }

    /// `pinsql -c SQL` that must fail.
    pub async fn refused(&self, sql: &str) -> pinsql::error::Error {
        match self.open(&[]).await {
            Ok((mut engine, _)) => engine.execute("-c", sql).await.unwrap_err(),
            Err(error) => error,
        }
    }
}

pub fn json(batches: &[RecordBatch]) -> Vec<serde_json::Value> {
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::LineDelimited>(Vec::new());
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn table<'a>(summary: &'a Summary, name: &str) -> &'a TableReport {
    summary.tables.iter().find(|table| table.table == name).unwrap_or_else(|| panic!("no table {name}: {summary:?}"))
}

/// The clone's own folder.
pub fn home() -> PathBuf {
    std::env::var_os("PINSQL_HOME").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// The program.
pub fn binary() -> PathBuf {
    let built = option_env!("CARGO_BIN_EXE_pinsql").map(PathBuf::from);
    built.unwrap_or_else(|| std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("pinsql"))
}
