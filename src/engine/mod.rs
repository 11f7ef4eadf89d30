//! The engine: a project, its catalog and its lake, and the commands over them. The public API.
//!
//! Floor 6: uses `stream`, `project`, `sql`, `source`, `delta`, `log`, `store`, `report`, `options`, `clock`, `error`.

mod describe;
mod fill;
mod follow;
mod graph;
mod lease;
mod once;
mod prepare;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::execution::context::SessionContext;
use xxhash_rust::xxh3::Xxh3;

pub use self::follow::StreamOptions;
use self::graph::{Step, order, query_of};
use self::prepare::{Preparation, Prepared};
use crate::clock::{self, Clock, Stopwatch};
use crate::error::{Error, ErrorKind, Result, nearest};
use crate::project::{Invocation, Project};
use crate::report::{Reporter, Status, Summary, TableReport};
use crate::source::Limits;
use crate::sql::catalog::{Catalog, Leaves, Over, name_of, target_of};
use crate::sql::query::{Query, RelationTarget};
use crate::sql::session::Session;
use crate::sql::statement::{CreateTarget, Kind, Statement};
use crate::sql::tokens;
use crate::store::{Layer, Stores};
pub use crate::stream::Stop;

/// Which tables are emptied and built from the start of their sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FullRefresh {
    /// None.
    #[default]
    None,
    /// Every selected one.
    All,
    /// These.
    Tables(Vec<String>),
}

impl FullRefresh {
    fn covers(&self, table: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Tables(tables) => tables.iter().any(|name| name == table),
        }
    }
}

/// How a run goes about it.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// `--select`: only these tables. Empty: all that the named files declare.
    pub select: Vec<String>,
    /// `--full-refresh`
    pub full_refresh: FullRefresh,
    /// `--max-records`, per source and epoch.
    pub max_records: Option<u64>,
}

/// A project that is open.
#[derive(Debug)]
pub struct Engine {
    project: Project,
    catalog: Catalog,
    session: Session,
    clock: Arc<dyn Clock>,
    reporter: Arc<dyn Reporter>,
    stop: Stop,
    built: Vec<TableReport>,
    /// Notices that were given once and need not be given again.
    said: tokio::sync::Mutex<BTreeSet<String>>,
}

impl Engine {
    /// Opens the project of some .sql files or folders, or of the current folder where there are none: all of its text is
    /// read, nothing else.
    pub async fn open(invocation: &Invocation, paths: &[PathBuf], reporter: Arc<dyn Reporter>) -> Result<Self> {
        Self::open_with(invocation, paths, reporter, None).await
    }

    /// As [`Engine::open`], with something around every store: a place for a test's faults.
    pub async fn open_with(
        invocation: &Invocation,
        paths: &[PathBuf],
        reporter: Arc<dyn Reporter>,
        layer: Option<Layer>,
    ) -> Result<Self> {
        let project = Project::open(invocation, paths)?;
        let clock = clock::system();
        let stores = Arc::new(Stores::new(project.store_settings(), layer));
        let mut catalog = Catalog::new(stores, project.lake.clone(), Arc::clone(&clock));
        for statement in project.files.iter().flat_map(|file| &file.statements) {
            catalog.declare(statement, false)?;
        }
        Ok(Self {
            project,
            catalog,
            session: Session::default(),
            clock,
            reporter,
            stop: Stop::default(),
            built: Vec::new(),
            said: tokio::sync::Mutex::default(),
        })
    }

    /// Catches up every selected table; independent ones go on when one fails.
    pub async fn run(&mut self, options: &RunOptions) -> Summary {
        let watch = Stopwatch::start();
        let mut tables = Vec::new();
        let error = match self.run_all(options, &mut tables).await {
            Ok(()) => worst(&tables),
            Err(error) => {
                self.list_untouched(options, &mut tables).await;
                Some(Arc::new(error))
            }
        };
        self.settle().await;
        self.summary("run", watch, tables, error)
    }

    /// Waits for what goes on in the background: checkpoints, and clients that say goodbye.
    async fn settle(&self) {
        self.catalog.settle().await;
        // A goodbye that was not heard costs nobody anything.
        let _ = tokio::task::spawn_blocking(crate::source::kafka::farewell).await;
    }

    /// Every selected table is listed, those too that an error came before.
    async fn list_untouched(&self, options: &RunOptions, tables: &mut Vec<TableReport>) {
        let names: Vec<String> = self
            .selected_steps(options)
            .unwrap_or_default()
            .iter()
            .filter_map(|step| target_of(&step.statement.kind).map(|target| target.name.value.clone()))
            .collect();
        for name in names {
            if !tables.iter().any(|table| table.table == name) {
                tables.push(self.blank_report(&name).await);
            }
        }
    }

    async fn run_all(&mut self, options: &RunOptions, tables: &mut Vec<TableReport>) -> Result<()> {
        let steps = self.selected_steps(options)?;
        self.refuse_wrong_text(&steps).await?;
        let limits = Limits { records: options.max_records, ..Limits::default() };
        for step in &steps {
            if self.stop.is_stopped() {
                break;
            }
            let Some(name) = target_of(&step.statement.kind).map(|target| target.name.value.clone()) else {
                self.run_other(step, tables, limits).await?;
                continue;
            };
            let mut report = self.blank_report(&name).await;
            let failed_before = tables.iter().find(|done| done.error.is_some() && step.reads.contains(&done.table));
            let not_built = tables.iter().find(|done| done.version.is_none() && step.reads.contains(&done.table));
            if let (None, Some(other)) = (failed_before, not_built) {
                self.reporter.notice(
                    &format!("`{name}` is not built yet: `{}` is not either", other.table),
                    Some(&step.statement.place),
                );
                tables.push(report);
                continue;
            }
            let result = match failed_before {
                Some(failed) => Err(left_out(&name, &failed.table)),
                None => self.fill(&step.statement, options.full_refresh.covers(&name), limits, &mut report).await,
            };
            if let Err(error) = result {
                report.error = Some(Arc::new(error.at(step.statement.place.clone())));
            }
            tables.push(report);
        }
        Ok(())
    }

    /// A statement that fills no table of its own: the first that fails ends the run.
    async fn run_other(&mut self, step: &Step, tables: &[TableReport], limits: Limits) -> Result<()> {
        if let Some(failed) = tables.iter().find(|done| done.error.is_some() && step.reads.contains(&done.table)) {
            return Err(left_out("this statement", &failed.table).at(step.statement.place.clone()));
        }
        if matches!(step.statement.kind, Kind::Source(_) | Kind::View(_)) {
            return Ok(());
        }
        self.once(&step.statement, limits).await.map_err(|error| error.at(step.statement.place.clone()))
    }

    async fn fill(
        &mut self,
        statement: &Arc<Statement>,
        over: bool,
        limits: Limits,
        report: &mut TableReport,
    ) -> Result<()> {
        match &statement.kind {
            Kind::StreamingTable(target) => self.fill_stream(statement, target, over, limits, report).await,
            Kind::MaterializedView(target) => self.refresh_view(statement, target, over, report).await,
            Kind::TableAs(target) => self.create_table_as(statement, target, report).await,
            _ => Ok(()),
        }
    }

    fn selected_steps(&self, options: &RunOptions) -> Result<Vec<Step>> {
        if self.project.files.is_empty() {
            return Err(Error::config("there is no .sql file here, and none of a pinsql.toml")
                .hint("name a .sql file or a folder of them, or go to the project's folder"));
        }
        let statements: Vec<Arc<Statement>> =
            self.project.files.iter().filter(|file| file.selected).flat_map(|file| file.statements.clone()).collect();
        let names: Vec<&str> = statements
            .iter()
            .filter_map(|statement| target_of(&statement.kind))
            .map(|target| target.name.value.as_str())
            .collect();
        let asked = match &options.full_refresh {
            FullRefresh::Tables(tables) => tables.as_slice(),
            FullRefresh::None | FullRefresh::All => &[],
        };
        for name in options.select.iter().chain(asked) {
            if !names.contains(&name.as_str()) {
                let error = Error::config(format!("no selected file declares a table `{name}`"));
                return Err(match nearest(name, names.iter().copied()) {
                    Some(name) => error.hint(format!("did you mean `{name}`?")),
                    None => error.hint(format!("the tables are {}", names.join(", "))),
                });
            }
        }
        let steps = order(&statements, &self.catalog)?;
        let is_selected = |step: &Step| {
            options.select.is_empty()
                || target_of(&step.statement.kind).is_some_and(|target| options.select.contains(&target.name.value))
        };
        Ok(steps.into_iter().filter(is_selected).collect())
    }

    /// Text that is wrong whatever the data holds is refused before anything runs.
    async fn refuse_wrong_text(&mut self, steps: &[Step]) -> Result<()> {
        if let Err(error) = self.catalog.location(".").await
            && error.kind() == ErrorKind::Config
        {
            return Err(error.context("the lake"));
        }
        self.refuse_unknown_names(steps).await?;
        self.catalog.begin_check();
        let typed = self.type_steps(steps).await;
        self.catalog.end_check();
        typed
    }

    /// Types every step that can be typed before the ones that it reads have run.
    async fn type_steps(&mut self, steps: &[Step]) -> Result<()> {
        let mut untyped: Vec<&str> = Vec::new();
        for step in steps {
            let reads_untyped = untyped.iter().any(|name| step.reads.contains(*name));
            let typed = if reads_untyped { Ok(false) } else { self.type_step(step).await };
            match typed {
                Ok(true) => {}
                Err(error) if error.kind().exit_status() == 2 => return Err(error.at(step.statement.place.clone())),
                // What the world says is said, table by table, when they run.
                Ok(false) | Err(_) => untyped.extend(step.fills.as_deref()),
            }
        }
        Ok(())
    }

    /// Types one step; false where a source has to be looked at first.
    async fn type_step(&mut self, step: &Step) -> Result<bool> {
        let statement = &step.statement;
        if let Kind::Insert(insert) = &statement.kind {
            self.refuse_insert(insert)?;
        }
        let Some(target) = target_of(&statement.kind) else {
            if let Some(query) = query_of(&statement.kind) {
                self.type_query(query, statement).await?;
            }
            return Ok(true);
        };
        let Preparation::Ready(prepared) = self.prepare(statement, target, &|_| None).await? else { return Ok(false) };
        self.promise(statement, target, &prepared)?;
        Ok(true)
    }

    /// Says once which clauses of a target mean nothing here.
    pub(super) async fn say_ignored(&self, target: &CreateTarget) {
        for notice in &target.notices {
            if self.said.lock().await.insert(format!("{} {}", notice.place, notice.message)) {
                self.reporter.notice(&notice.message, Some(&notice.place));
            }
        }
    }

    /// While checking: those that read a target see the columns that it will have.
    fn promise(&mut self, statement: &Statement, target: &CreateTarget, prepared: &Prepared) -> Result<()> {
        match &statement.kind {
            Kind::StreamingTable(_) => prepare::require_stream(target, prepared)?,
            _ => prepare::refuse_stream(target)?,
        }
        self.catalog.promise(&target.name.value, Arc::clone(&prepared.spec.schema));
        self.catalog.promise(&prepared.quarantine, Arc::clone(&crate::stream::quarantine::SCHEMA));
        Ok(())
    }

    async fn refuse_unknown_names(&self, steps: &[Step]) -> Result<()> {
        let mut known: Vec<String> = self.catalog.declarations().map(|(name, _)| name.to_owned()).collect();
        known.extend(self.catalog.lake_tables().await.unwrap_or_default());
        for step in steps {
            let Some(query) = query_of(&step.statement.kind) else { continue };
            for relation in &query.relations {
                if let RelationTarget::Named(name) = &relation.target
                    && !known.contains(name)
                {
                    self.catalog.read(query, &self.session, &|_| None).await?;
                }
            }
        }
        Ok(())
    }

    async fn blank_report(&self, name: &str) -> TableReport {
        let location = self.catalog.location(name).await.map(|location| location.to_string()).unwrap_or_default();
        let target = self.catalog.declaration(name).and_then(|statement| target_of(&statement.kind));
        let quarantine = target.and_then(|target| self.quarantine_name(target).ok()).unwrap_or_default();
        TableReport { table: name.to_owned(), location, quarantine, lost: Some(0), ..TableReport::default() }
    }

    /// Parses, resolves and types everything that is selected; reads no record and writes nothing.
    pub async fn check(&mut self) -> Summary {
        let watch = Stopwatch::start();
        let mut tables = Vec::new();
        let error = self.check_all(&mut tables).await.err().map(Arc::new);
        self.summary("check", watch, tables, error)
    }

    async fn check_all(&mut self, tables: &mut Vec<TableReport>) -> Result<()> {
        let selected = self.selected_steps(&RunOptions::default())?;
        let all: Vec<Arc<Statement>> = self.project.files.iter().flat_map(|file| file.statements.clone()).collect();
        self.catalog.begin_check();
        for step in order(&all, &self.catalog)? {
            let is_selected = selected.iter().any(|other| Arc::ptr_eq(&other.statement, &step.statement));
            let Some(target) = target_of(&step.statement.kind) else {
                if is_selected && let Some(query) = query_of(&step.statement.kind) {
                    self.type_query(query, &step.statement).await?;
                }
                continue;
            };
            let Preparation::Ready(prepared) = self.prepare(&step.statement, target, &|_| None).await? else {
                let message = format!("`{}` is not typed: it reads a source without declared columns", target.name);
                self.reporter.notice(&message, Some(&target.name.place));
                continue;
            };
            self.promise(&step.statement, target, &prepared)?;
            if is_selected {
                tables.push(self.blank_report(&target.name.value).await);
            }
        }
        Ok(())
    }

    fn over<'a>(&'a self, context: &'a SessionContext, leaves: &'a Leaves) -> Over<'a> {
        Over { session: &self.session, context, leaves }
    }

    async fn type_query(&self, query: &Query, statement: &Statement) -> Result<()> {
        let readings = self.catalog.read(query, &self.session, &|_| None).await?;
        if !readings.empty.is_empty() {
            return Ok(());
        }
        let leaves = self.empty_leaves(&readings).await?;
        let context = self.session.context();
        self.catalog.plan(self.over(&context, &leaves), query, &statement.text).await.map(drop)
    }

    /// What a run would do.
    pub async fn plan(&mut self) -> Summary {
        let watch = Stopwatch::start();
        let mut tables = Vec::new();
        let error = match self.plan_all(&mut tables).await {
            Ok(()) => worst(&tables),
            Err(error) => Some(Arc::new(error)),
        };
        self.summary("plan", watch, tables, error)
    }

    async fn plan_all(&mut self, tables: &mut Vec<TableReport>) -> Result<()> {
        let steps = self.selected_steps(&RunOptions::default())?;
        self.refuse_wrong_text(&steps).await?;
        self.show_plan(&steps, tables).await
    }

    /// Runs the statements of a text one after another; all are parsed before any runs, the first that fails ends it.
    pub async fn execute(&mut self, name: &str, text: &str) -> Result<()> {
        for statement in self.project.parse(name, text)? {
            let result = self.execute_one(&statement).await;
            result.map_err(|error| error.at(statement.place.clone()))?;
            if self.stop.is_stopped() {
                break;
            }
        }
        self.settle().await;
        Ok(())
    }

    async fn execute_one(&mut self, statement: &Arc<Statement>) -> Result<()> {
        let name = name_of(&statement.kind).map(|name| name.value.clone());
        let before = name.as_ref().and_then(|name| self.catalog.declaration(name)).cloned();
        let is_read_alone = matches!(statement.kind, Kind::View(_) | Kind::Source(_));
        let statement = &self.catalog.declare(statement, true)?;
        let result = self.carry_out(statement, before.as_ref()).await;
        if let (Err(_), Some(name), true) = (&result, name, is_read_alone) {
            // A view that cannot be read must not keep a better one of its name away.
            self.catalog.restore(&name, before);
        }
        result
    }

    async fn carry_out(&mut self, statement: &Arc<Statement>, before: Option<&Arc<Statement>>) -> Result<()> {
        let limits = Limits::default();
        let Some(target) = target_of(&statement.kind) else { return self.once(statement, limits).await };
        let is_another = before.is_some_and(|before| before.source_text() != statement.source_text());
        if target.if_not_exists && is_another && self.catalog.table(&target.name.value).await?.version().await.is_some()
        {
            self.catalog.restore(&target.name.value, before.cloned());
            self.reporter.notice(&format!("`{}` exists, and stays as it is", target.name), Some(&target.name.place));
            return Ok(());
        }
        let mut report = self.blank_report(&target.name.value).await;
        let result = self.fill(statement, false, limits, &mut report).await;
        self.built(report, result)
    }

    /// Keeps the report of a table that `execute` has built; a failure is shown by whoever asked for it, not with the table.
    fn built(&mut self, report: TableReport, result: Result<()>) -> Result<()> {
        if result.is_ok() {
            self.built.push(report);
        }
        result
    }

    /// What `execute` has built since it was last asked.
    pub fn tables(&mut self) -> Vec<TableReport> {
        std::mem::take(&mut self.built)
    }

    /// The names of all tables, views and sources.
    pub async fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.catalog.declarations().map(|(name, _)| name.to_owned()).collect();
        names.extend(self.catalog.lake_tables().await.unwrap_or_default());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether a statement ends here: at a `;` outside of strings and comments.
    pub fn is_complete(text: &str) -> bool {
        tokens::is_complete(text)
    }

    /// A handle that asks a running command to end between two steps.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    fn summary(
        &self,
        command: &'static str,
        watch: Stopwatch,
        tables: Vec<TableReport>,
        error: Option<Arc<Error>>,
    ) -> Summary {
        let status = match &error {
            Some(_) => Status::Failed,
            None if self.stop.is_stopped() => Status::Stopped,
            None => Status::Ok,
        };
        Summary { command, status, elapsed_ms: watch.elapsed_ms(), tables, error }
    }

    /// A digest of a statement's query with the views that it reads, variables replaced.
    fn fingerprint(&self, statement: &Statement) -> String {
        let mut digest = Xxh3::new();
        let mut seen = BTreeMap::new();
        self.digest(&statement.kind, &mut digest, &mut seen);
        format!("{:016x}", digest.digest())
    }

    fn digest(&self, kind: &Kind, digest: &mut Xxh3, seen: &mut BTreeMap<String, ()>) {
        let Some(query) = query_of(kind) else { return };
        digest.update(query.ast.to_string().as_bytes());
        for relation in &query.relations {
            let RelationTarget::Named(name) = &relation.target else { continue };
            let view = self.catalog.declaration(name).filter(|statement| matches!(statement.kind, Kind::View(_)));
            if let Some(view) = view
                && seen.insert(name.clone(), ()).is_none()
            {
                self.digest(&view.kind, digest, seen);
            }
        }
    }
}

fn left_out(name: &str, failed: &str) -> Error {
    Error::world(format!("`{name}` was left out, because `{failed}`, which it reads, failed"))
        .hint(format!("mend `{failed}` and run again"))
}

/// The error of the tables' that decides the exit status: text before data, and then the first.
fn worst(tables: &[TableReport]) -> Option<Arc<Error>> {
    let errors = tables.iter().filter_map(|table| table.error.clone());
    errors.rev().max_by_key(|error| error.kind().exit_status())
}
