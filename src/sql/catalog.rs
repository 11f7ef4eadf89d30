//! Names to sources, views and tables.
//!
//! Floor 4: uses `source`, `delta`, `options`, `store`, `clock`, `error`. What is declared in the project, what is declared in this session, and
//! what lies in the lake; in this order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::ViewTable;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use tokio::sync::Mutex;

use super::query::{InlineSource, Query, Relation, RelationTarget, SourceFunction, mentions};
use super::session::{Bound, Session};
use super::statement::{CreateSource, CreateTarget, Kind, SourceFormat, Statement};
use super::text::{OptionPair as SqlOption, SqlText};
use super::types::{parse_columns, quoted_name, type_name};
use crate::clock::Clock;
use crate::delta::Table;
use crate::error::{Error, Place, Result, nearest};
use crate::options::{OptionPair, Options};
use crate::source::files::{FileOptions, Files};
use crate::source::kafka::fetches::Fetches;
use crate::source::kafka::{Kafka, KafkaOptions};
use crate::source::kinesis::hub::Hubs;
use crate::source::kinesis::{Kinesis, KinesisOptions};
use crate::source::payload::Taken;
use crate::source::table::TableStream;
use crate::source::{METADATA, MetadataColumn, Source};
use crate::store::{self, Location, Stores};

/// A source of records that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The source.
    pub source: Arc<dyn Source>,
    /// Its columns, as declared or inferred; None where they are what they are, as those of the raw form.
    pub columns: Option<Schema>,
}

impl From<Files> for Opened {
    fn from(files: Files) -> Self {
        let columns = Some(files.declared().clone());
        Self { source: Arc::new(files), columns }
    }
}

impl From<Kinesis> for Opened {
    fn from(kinesis: Kinesis) -> Self {
        let columns = kinesis.declared().cloned();
        Self { source: Arc::new(kinesis), columns }
    }
}

impl From<Kafka> for Opened {
    fn from(kafka: Kafka) -> Self {
        let columns = kafka.declared().cloned();
        Self { source: Arc::new(kafka), columns }
    }
}

/// A source that a query reads, opened.
#[derive(Debug, Clone)]
pub struct Reading {
    /// How the log and the quarantine name it.
    pub key: String,
    /// The source.
    pub source: Arc<dyn Source>,
    /// Whether the query reads it with STREAM.
    pub stream: bool,
    /// The columns that were inferred, as DDL, to be pinned.
    pub inferred: Option<String>,
}

/// Everything that a query reads, through its views.
#[derive(Debug, Default)]
pub struct Readings {
    /// Sources of records, and tables that are read as streams.
    pub sources: Vec<Reading>,
    /// Tables of the lake that are read as they are.
    pub tables: BTreeMap<String, Arc<Table>>,
    /// Tables that are not built yet, by the columns that they will have: only while checking.
    pub promised: BTreeMap<String, SchemaRef>,
    /// Whether any query names `_metadata`.
    pub metadata: Option<Place>,
    /// Sources that have no columns yet, because there is nothing to infer them from.
    pub empty: Vec<String>,
}

impl Readings {
    /// Whether the leaves have to show `_metadata`.
    pub fn metadata_column(&self) -> MetadataColumn {
        if self.metadata.is_some() { MetadataColumn::Named } else { MetadataColumn::Absent }
    }
}

/// The tables that stand for the readings in one plan, by key and by whether they are streams.
pub type Leaves = BTreeMap<(String, bool), Arc<dyn TableProvider>>;

/// What a query is planned with.
#[derive(Clone, Copy)]
pub struct Over<'a> {
    /// Makes sessions for views.
    pub session: &'a Session,
    /// The query's own.
    pub context: &'a SessionContext,
    /// The tables under it.
    pub leaves: &'a Leaves,
}

/// The catalog.
#[derive(Debug)]
pub struct Catalog {
    declared: BTreeMap<String, Arc<Statement>>,
    tables: Mutex<HashMap<String, Arc<Table>>>,
    /// While checking, what statements will build: nothing is read then.
    promised: Option<BTreeMap<String, SchemaRef>>,
    stores: Arc<Stores>,
    lake: String,
    clock: Arc<dyn Clock>,
    fetches: Arc<Fetches>,
    hubs: Arc<Hubs>,
}

impl Catalog {
    /// An empty catalog over a lake.
    pub fn new(stores: Arc<Stores>, lake: String, clock: Arc<dyn Clock>) -> Self {
        Self {
            declared: BTreeMap::new(),
            tables: Mutex::default(),
            promised: None,
            stores,
            lake,
            clock,
            fetches: Arc::default(),
            hubs: Arc::default(),
        }
    }

    /// Declares what a statement creates. Other statements declare nothing.
    ///
    /// # Errors
    /// The name is declared already. With `again`, as in a shell, the same text may be said twice, and OR REPLACE, IF NOT
    /// EXISTS and OR REFRESH mean what they say. Answers the statement that counts.
    pub fn declare(&mut self, statement: &Arc<Statement>, again: bool) -> Result<Arc<Statement>> {
        let Some((name, lenient, keeps)) = declared_name(&statement.kind) else { return Ok(Arc::clone(statement)) };
        if let Some(first) = self.declared.get(&name.value).filter(|_| again && keeps) {
            return Ok(Arc::clone(first));
        }
        if let Some(first) = self.declared.get(&name.value)
            && !(again && (lenient || first.source_text() == statement.source_text()))
        {
            return Err(Error::sql(format!("`{name}` is declared twice; first at {}", first.place))
                .at(name.place.clone())
                .hint("give one of the two another name"));
        }
        self.declared.insert(name.value.clone(), Arc::clone(statement));
        Ok(Arc::clone(statement))
    }

    /// From now on nothing is read: tables have the columns that are promised, sources those that they declare.
    pub fn begin_check(&mut self) {
        self.promised = Some(BTreeMap::new());
    }

    /// While checking: a table will have these columns.
    pub fn promise(&mut self, name: &str, columns: SchemaRef) {
        if let Some(promised) = &mut self.promised {
            promised.insert(name.to_owned(), columns);
        }
    }

    /// What is read is read again.
    pub fn end_check(&mut self) {
        self.promised = None;
    }

    /// Declares again what a statement had taken the place of, where that came to nothing.
    pub fn restore(&mut self, name: &str, before: Option<Arc<Statement>>) {
        match before {
            Some(before) => self.declared.insert(name.to_owned(), before),
            None => self.declared.remove(name),
        };
    }

    /// Takes a declaration back.
    pub fn forget(&mut self, name: &str) -> Option<Arc<Statement>> {
        self.declared.remove(name)
    }

    /// The statement that declares a name.
    pub fn declaration(&self, name: &str) -> Option<&Arc<Statement>> {
        self.declared.get(name)
    }

    /// All declarations, by name.
    pub fn declarations(&self) -> impl Iterator<Item = (&str, &Arc<Statement>)> {
        self.declared.iter().map(|(name, statement)| (name.as_str(), statement))
    }

    /// Where a table lies.
    pub async fn location(&self, name: &str) -> Result<Location> {
        let declared = self.declared.get(name).and_then(|statement| target_of(&statement.kind));
        match declared.and_then(|target| target.location.as_ref()) {
            Some(written) => self.stores.open(&written.value).await.map_err(|error| error.at(written.place.clone())),
            None => Ok(self.stores.open(&self.lake).await?.join(name)),
        }
    }

    /// A table by its name, whether it is there already or not.
    pub async fn table(&self, name: &str) -> Result<Arc<Table>> {
        let mut tables = self.tables.lock().await;
        if let Some(table) = tables.get(name) {
            return Ok(Arc::clone(table));
        }
        let table = Arc::new(Table::open(self.location(name).await?, Arc::clone(&self.clock)).await?);
        tables.insert(name.to_owned(), Arc::clone(&table));
        Ok(table)
    }

    /// Waits for what tables still do in the background.
    pub async fn settle(&self) {
        let tables: Vec<_> = self.tables.lock().await.values().cloned().collect();
        for table in tables {
            table.settle().await;
        }
    }

    /// A table is gone, or was made anew.
    pub async fn close(&self, name: &str) {
        self.tables.lock().await.remove(name);
    }

    /// The names of the tables in the lake.
    pub async fn lake_tables(&self) -> Result<Vec<String>> {
        let lake = self.stores.open(&self.lake).await?;
        if lake.local_path().is_some_and(|path| !path.exists()) {
            return Ok(Vec::new());
        }
        let listed = lake.store().list_with_delimiter(Some(lake.path())).await;
        let folders = listed.map_err(|error| store::failed(format!("cannot list the lake `{lake}`"), error))?;
        let mut names = Vec::new();
        for folder in folders.common_prefixes {
            let Some(name) = folder.filename() else { continue };
            let log = lake.join(name).join("_delta_log");
            let first = log.store().list(Some(log.path())).try_next().await;
            if first.map_err(|error| store::failed(format!("cannot list `{log}`"), error))?.is_some() {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Finds and opens everything that a query reads. `pinned` gives the columns that a log has pinned for a source.
    pub async fn read(
        &self,
        query: &Query,
        session: &Session,
        pinned: &(dyn Fn(&str) -> Option<String> + Sync),
    ) -> Result<Readings> {
        let mut readings = Readings::default();
        let mut walk =
            Walk { catalog: self, session, pinned, path: Vec::new(), inline: BTreeMap::new(), readings: &mut readings };
        walk.query(query, false).await?;
        Ok(readings)
    }

    /// Plans a query over leaves for all that it reads.
    pub async fn plan(&self, over: Over<'_>, query: &Query, text: &SqlText) -> Result<LogicalPlan> {
        self.plan_view(over, query, text, false).await
    }

    /// `stream`: everything is read as a stream, as a view is that is read with STREAM.
    fn plan_view<'a>(
        &'a self,
        over: Over<'a>,
        query: &'a Query,
        text: &'a SqlText,
        stream: bool,
    ) -> BoxFuture<'a, Result<LogicalPlan>> {
        Box::pin(async move {
            let mut bound = Vec::with_capacity(query.relations.len());
            for relation in &query.relations {
                let streamed = relation.stream || stream;
                let table = match self.view(relation) {
                    Some((statement, view)) => {
                        let inner = over.session.context();
                        let force = streamed && !reads_with_stream(&view.query);
                        let over = Over { context: &inner, ..over };
                        let plan = self.plan_view(over, &view.query, &statement.text, force).await?;
                        Arc::new(ViewTable::new(plan, None)) as Arc<dyn TableProvider>
                    }
                    None => {
                        let key = (key_of(relation), streamed);
                        let leaf = over.leaves.get(&key).or_else(|| over.leaves.get(&(key.0.clone(), !streamed)));
                        Arc::clone(leaf.ok_or_else(|| Error::internal(format!("`{}` has no leaf", key.0)))?)
                    }
                };
                bound.push(Bound { binding: relation.binding.clone(), table });
            }
            over.session.plan(over.context, query, text, &bound).await
        })
    }

    fn view(&self, relation: &Relation) -> Option<(&Statement, &super::statement::CreateView)> {
        let RelationTarget::Named(name) = &relation.target else { return None };
        let statement = self.declared.get(name)?;
        match &statement.kind {
            Kind::View(view) => Some((statement, view)),
            _ => None,
        }
    }

    async fn unknown(&self, name: &str, place: &Place) -> Error {
        let in_lake = self.lake_tables().await.unwrap_or_default();
        let known = self.declared.keys().map(String::as_str).chain(in_lake.iter().map(String::as_str));
        let unknown = Error::sql(format!("there is no table, view or source `{name}`")).at(place.clone());
        match nearest(name, known) {
            Some(name) => unknown.hint(format!("did you mean `{name}`?")),
            None => unknown.hint("declare it in the project, or look whether the lake is the right one"),
        }
    }

    /// Opens a declared source; None where there is nothing to infer its columns from.
    pub async fn open_source(&self, create: &CreateSource, pinned: Option<String>) -> Result<Option<Opened>> {
        let name = &create.name;
        let mut options = Options::new(converted(&create.options))?;
        let of = format!("source `{name}`");
        let columns = match &create.columns {
            Some(columns) => Some(columns.clone()),
            None => pinned.map(|columns| parse_columns(&columns)).transpose()?,
        };
        let is_untyped = create.columns.is_none() && self.promised.is_some();
        match create.format {
            SourceFormat::Json => {
                let location = create.location.as_ref().ok_or_else(|| {
                    Error::sql(format!("{of} has no location")).at(name.place.clone()).hint("add LOCATION '…'")
                })?;
                let file_options = FileOptions::take(&mut options)?;
                options.finish(&of)?;
                if is_untyped {
                    return Ok(None);
                }
                let opened = Files::open(&self.stores, &location.value, file_options, columns).await;
                let opened = opened.map_err(|error| error.at(location.place.clone()))?;
                Ok(opened.map(|files| files.said_at(location.place.clone()).into()))
            }
            SourceFormat::Kafka => {
                let place = create.location.as_ref().map_or(&name.place, |location| &location.place);
                let location = create.location.as_ref().map(|location| location.value.as_str());
                let kafka = KafkaOptions::take(&mut options, location, Taken::Decoded, self.stores.base());
                let kafka = kafka.map_err(|error| error.at(place.clone()))?;
                options.finish(&of)?;
                if is_untyped {
                    return Ok(None);
                }
                let opened = Kafka::decoded(kafka, columns, Arc::clone(&self.fetches))
                    .await
                    .map_err(|error| error.at(place.clone()))?;
                Ok(opened.map(Opened::from))
            }
            SourceFormat::Kinesis => {
                let place = create.location.as_ref().map_or(&name.place, |location| &location.place);
                let location = create.location.as_ref().map(|location| location.value.as_str());
                let kinesis = KinesisOptions::take(&mut options, location, Taken::Decoded);
                let kinesis = kinesis.map_err(|error| error.at(place.clone()))?;
                options.finish(&of)?;
                if is_untyped {
                    return Ok(None);
                }
                let opened = Kinesis::decoded(kinesis, columns, Arc::clone(&self.hubs))
                    .await
                    .map_err(|error| error.at(place.clone()))?;
                Ok(opened.map(Opened::from))
            }
        }
    }

    async fn open_inline(
        &self,
        inline: &InlineSource,
        place: &Place,
        pinned: Option<String>,
    ) -> Result<Option<Opened>> {
        let mut options = Options::new(converted(&inline.options))?;
        match inline.function {
            SourceFunction::ReadFiles => self.read_files(options, place, pinned).await,
            SourceFunction::ReadKafka => {
                let kafka = KafkaOptions::take(&mut options, None, Taken::Raw, self.stores.base());
                let kafka = kafka.map_err(|error| error.at(place.clone()))?;
                options.finish("read_kafka")?;
                Ok(Some(Kafka::raw(kafka, Arc::clone(&self.fetches)).into()))
            }
            SourceFunction::ReadKinesis => {
                let kinesis = KinesisOptions::take(&mut options, None, Taken::Raw);
                let kinesis = kinesis.map_err(|error| error.at(place.clone()))?;
                options.finish("read_kinesis")?;
                Ok(Some(Kinesis::raw(kinesis, Arc::clone(&self.hubs)).into()))
            }
        }
    }

    async fn read_files(&self, mut options: Options, place: &Place, pinned: Option<String>) -> Result<Option<Opened>> {
        let path = options.take("path").ok_or_else(|| {
            Error::sql("read_files has no path").at(place.clone()).hint("say read_files('folder', format => 'json')")
        })?;
        options.take_word("format", &["json"])?;
        let schema = options.take("schema");
        let file_options = FileOptions::take(&mut options)?;
        options.finish("read_files")?;
        if schema.is_none() && self.promised.is_some() {
            return Ok(None);
        }
        let columns = match (schema, pinned) {
            (Some(pair), _) => Some(parse_columns(&pair.value).map_err(|error| error.at(pair.value_place))?),
            (None, pinned) => pinned.map(|columns| parse_columns(&columns)).transpose()?,
        };
        let opened = Files::open(&self.stores, &path.value, file_options, columns).await;
        let opened = opened.map_err(|error| error.at(path.value_place.clone()))?;
        Ok(opened.map(|files| files.said_at(path.value_place).into()))
    }
}

/// Goes through a query and its views and opens what they read.
struct Walk<'a> {
    catalog: &'a Catalog,
    session: &'a Session,
    pinned: &'a (dyn Fn(&str) -> Option<String> + Sync),
    path: Vec<String>,
    /// The functions that were read, by key: with other options the same key would be another source.
    inline: BTreeMap<String, InlineSource>,
    readings: &'a mut Readings,
}

impl Walk<'_> {
    fn query<'b>(&'b mut self, query: &'b Query, stream: bool) -> BoxFuture<'b, Result<()>> {
        Box::pin(async move {
            if mentions(query, METADATA) {
                self.readings.metadata.get_or_insert_with(|| query.place.clone());
            }
            for relation in &query.relations {
                self.relation(relation, relation.stream || stream).await?;
            }
            Ok(())
        })
    }

    async fn relation(&mut self, relation: &Relation, stream: bool) -> Result<()> {
        let catalog = self.catalog;
        let key = key_of(relation);
        if let RelationTarget::Inline(inline) = &relation.target {
            let first = self.inline.entry(key.clone()).or_insert_with(|| inline.clone());
            if !same_options(first, inline) {
                return Err(Error::sql(format!("`{key}` is read twice with other options"))
                    .at(relation.place.clone())
                    .hint("declare both as external tables, under names of their own"));
            }
        }
        if self.readings.sources.iter().any(|reading| reading.key == key && reading.stream == stream) {
            return Ok(());
        }
        let name = match &relation.target {
            RelationTarget::Named(name) => name,
            RelationTarget::Inline(inline) => {
                let opened = catalog.open_inline(inline, &relation.place, (self.pinned)(&key)).await?;
                self.opened(key, stream, opened, true);
                return Ok(());
            }
        };
        match catalog.declaration(name).map(|statement| &statement.kind) {
            Some(Kind::Source(create)) => {
                let opened = catalog.open_source(create, (self.pinned)(&key)).await?;
                self.opened(key, stream, opened, create.columns.is_none());
                Ok(())
            }
            Some(Kind::View(view)) => {
                if self.path.contains(name) {
                    let others = self.path.iter().skip_while(|other| *other != name).skip(1);
                    let through: Vec<String> = others.map(|other| format!("`{other}`")).collect();
                    let through =
                        if through.is_empty() { String::new() } else { format!(" through {}", through.join(", ")) };
                    return Err(Error::sql(format!("view `{name}` reads itself{through}"))
                        .at(relation.place.clone())
                        .hint("let it read something else"));
                }
                self.path.push(name.clone());
                self.query(&view.query, stream && !reads_with_stream(&view.query)).await?;
                self.path.pop();
                Ok(())
            }
            _ => self.table(name, relation, stream).await,
        }
    }

    fn opened(&mut self, key: String, stream: bool, opened: Option<Opened>, undeclared: bool) {
        match opened {
            None => self.readings.empty.push(key),
            Some(Opened { source, columns }) => {
                let inferred = columns.as_ref().filter(|_| undeclared).map(columns_ddl);
                self.readings.sources.push(Reading { key, source, stream, inferred });
            }
        }
    }

    async fn table(&mut self, name: &str, relation: &Relation, stream: bool) -> Result<()> {
        if let Some(columns) = self.catalog.promised.as_ref().and_then(|promised| promised.get(name)) {
            self.readings.promised.insert(name.to_owned(), Arc::clone(columns));
            return Ok(());
        }
        let table = self.catalog.table(name).await?;
        if table.version().await.is_none() {
            let Some(declared) = self.catalog.declaration(name) else {
                return Err(self.catalog.unknown(name, &relation.place).await);
            };
            return Err(Error::world(format!("table `{name}` has never been built"))
                .at(relation.place.clone())
                .hint(format!("run `{}` first, or run the whole folder", declared.place.file)));
        }
        if !stream {
            self.readings.tables.insert(name.to_owned(), table);
            return Ok(());
        }
        let source = Arc::new(TableStream::new(table, Arc::clone(self.session.runtime())).await?);
        self.readings.sources.push(Reading { key: name.to_owned(), source, stream, inferred: None });
        Ok(())
    }
}

fn same_options(one: &InlineSource, other: &InlineSource) -> bool {
    let pairs = |inline: &InlineSource| -> BTreeMap<String, String> {
        let pair = |pair: &SqlOption| (pair.key.value.to_ascii_lowercase(), pair.value.value.clone());
        inline.options.iter().map(pair).collect()
    };
    pairs(one) == pairs(other)
}

/// Whether a query says STREAM by itself.
fn reads_with_stream(query: &Query) -> bool {
    query.relations.iter().any(|relation| relation.stream)
}

/// How the log names what a relation reads.
pub fn key_of(relation: &Relation) -> String {
    match &relation.target {
        RelationTarget::Named(name) => name.clone(),
        RelationTarget::Inline(inline) => {
            let named = |key: &str| inline.options.iter().find(|pair| pair.key.value.eq_ignore_ascii_case(key));
            let path = ["path", "subscribe", "subscribePattern", "streamName", "streamARN"].into_iter().find_map(named);
            format!("{}({})", inline.function.name(), path.map_or("", |pair| pair.value.value.as_str()))
        }
    }
}

/// Columns as they would be declared.
pub fn columns_ddl(columns: &Schema) -> String {
    let columns: Vec<String> = columns
        .fields()
        .iter()
        .map(|field| format!("{} {}", quoted_name(field.name()), type_name(field.data_type())))
        .collect();
    columns.join(", ")
}

/// The options of a statement, with their places.
pub fn converted(options: &[SqlOption]) -> Vec<OptionPair> {
    let convert = |pair: &SqlOption| OptionPair {
        key: pair.key.value.clone(),
        value: pair.value.value.clone(),
        key_place: pair.key.place.clone(),
        value_place: pair.value.place.clone(),
    };
    options.iter().map(convert).collect()
}

/// What a statement fills, if it fills a table that it declares.
pub fn target_of(kind: &Kind) -> Option<&CreateTarget> {
    match kind {
        Kind::StreamingTable(target) | Kind::MaterializedView(target) | Kind::TableAs(target) => Some(target),
        _ => None,
    }
}

/// The name that a statement declares.
pub fn name_of(kind: &Kind) -> Option<&super::text::Name> {
    declared_name(kind).map(|(name, ..)| name)
}

/// What a statement declares; whether it may take the place of what is declared; whether that stays where it is.
fn declared_name(kind: &Kind) -> Option<(&super::text::Name, bool, bool)> {
    match kind {
        Kind::Source(create) => Some((&create.name, create.or_replace, create.if_not_exists)),
        Kind::View(view) => Some((&view.name, view.or_replace, view.if_not_exists)),
        Kind::TableAs(target) | Kind::StreamingTable(target) | Kind::MaterializedView(target) => {
            Some((&target.name, true, false))
        }
        _ => None,
    }
}
