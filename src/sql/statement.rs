//! What a statement says, once it is read.
//!
//! Uses `error`, the text and the query. Plain data: every part knows its place in the file, so that whoever refuses it
//! later can point at it.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::sql::sqlparser::ast::Expr;

use super::query::Query;
use super::text::{Name, OptionPair, Spanned, SqlText};
use crate::error::Place;

/// One statement of a file.
#[derive(Debug, Clone)]
pub struct Statement {
    /// What it asks for.
    pub kind: Kind,
    /// Its first token.
    pub place: Place,
    /// The file it stands in.
    pub text: Arc<SqlText>,
    /// Its bytes in the file, without the `;`.
    pub range: Range<usize>,
    /// The comments in front of it, without their marks.
    pub comment: Option<String>,
}

impl Statement {
    /// As it was written: variables are not replaced. Literal secrets do show; see [`Self::shown_text`].
    pub fn source_text(&self) -> String {
        self.text.text.get(self.range.clone()).unwrap_or_default().to_owned()
    }

    /// As [`Self::source_text`], with stars for literal secrets: for logs, messages and SHOW CREATE TABLE.
    pub fn shown_text(&self) -> String {
        self.text.hidden(self.range.clone())
    }
}

/// What a statement asks for.
#[derive(Debug, Clone)]
pub enum Kind {
    /// `CREATE EXTERNAL TABLE …`.
    Source(Box<CreateSource>),
    /// `CREATE STREAMING TABLE … AS …`.
    StreamingTable(Box<CreateTarget>),
    /// `CREATE MATERIALIZED VIEW … AS …`.
    MaterializedView(Box<CreateTarget>),
    /// `CREATE TABLE … AS …`.
    TableAs(Box<CreateTarget>),
    /// `CREATE VIEW … AS …`.
    View(Box<CreateView>),
    /// `INSERT INTO …`.
    Insert(Box<Insert>),
    /// `SELECT …`.
    Query(Box<Query>),
    /// `SET k = v`.
    Set {
        /// The setting.
        key: Spanned<String>,
        /// Its new value.
        value: Spanned<String>,
    },
    /// `DESCRIBE t`.
    Describe {
        /// The table.
        name: Name,
    },
    /// `SHOW TABLES`.
    ShowTables,
    /// `SHOW CREATE TABLE t`.
    ShowCreateTable {
        /// The table.
        name: Name,
    },
    /// `EXPLAIN …`.
    Explain(Explain),
    /// `DROP TABLE t`.
    DropTable {
        /// The table.
        name: Name,
        /// Whether a missing one is no error.
        if_exists: bool,
        /// What it is said to be.
        kind: DropKind,
    },
    /// `OPTIMIZE t`.
    Optimize {
        /// The table.
        name: Name,
    },
    /// `VACUUM t`.
    Vacuum {
        /// The table.
        name: Name,
        /// `RETAIN n HOURS`.
        retain_hours: Option<f64>,
        /// `DRY RUN`: only say what would go.
        dry_run: bool,
    },
    /// `REFRESH t`.
    Refresh {
        /// The table.
        name: Name,
        /// `FULL`: from the start of the sources.
        full: bool,
    },
}

/// `INSERT INTO t …`.
#[derive(Debug, Clone)]
pub struct Insert {
    /// The table.
    pub target: Name,
    /// The columns, where they are named.
    pub columns: Vec<Name>,
    /// The rows.
    pub query: Query,
    /// `INSERT OVERWRITE`.
    pub overwrite: bool,
}

/// `EXPLAIN …`.
#[derive(Debug, Clone)]
pub struct Explain {
    /// Run it, and show what it cost.
    pub analyze: bool,
    /// Show more.
    pub verbose: bool,
    /// `FORMAT tree` and the like, in lower case.
    pub format: Option<String>,
    /// A query, an INSERT or a CREATE … AS.
    pub statement: Box<Kind>,
}

/// What DROP says that it drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropKind {
    /// `DROP TABLE`: any kind of table, a source too.
    Table,
    /// `DROP VIEW`.
    View,
    /// `DROP STREAMING TABLE`.
    StreamingTable,
    /// `DROP MATERIALIZED VIEW`.
    MaterializedView,
}

/// `CREATE EXTERNAL TABLE …`.
#[derive(Debug, Clone)]
pub struct CreateSource {
    /// Its name.
    pub name: Name,
    /// `OR REPLACE`.
    pub or_replace: bool,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// Without them they are inferred from a sample.
    pub columns: Option<Schema>,
    /// `STORED AS`.
    pub format: SourceFormat,
    /// `LOCATION`.
    pub location: Option<Spanned<String>>,
    /// `OPTIONS`.
    pub options: Vec<OptionPair>,
}

/// `STORED AS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceFormat {
    /// Files of JSON.
    Json,
    /// A Kafka topic.
    Kafka,
    /// A Kinesis stream.
    Kinesis,
}

/// A table that a query fills.
#[derive(Debug, Clone)]
pub struct CreateTarget {
    /// Its name.
    pub name: Name,
    /// `OR REPLACE`.
    pub or_replace: bool,
    /// `OR REFRESH`.
    pub or_refresh: bool,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// The columns, where they are named.
    pub columns: Vec<TargetColumn>,
    /// What rows must fulfil.
    pub constraints: Vec<Constraint>,
    /// `PARTITIONED BY`.
    pub partitioned_by: Vec<Name>,
    /// `COMMENT`.
    pub comment: Option<String>,
    /// `TBLPROPERTIES`.
    pub properties: Vec<OptionPair>,
    /// `LOCATION`.
    pub location: Option<Spanned<String>>,
    /// Clauses that were taken and mean nothing here.
    pub notices: Vec<Notice>,
    /// What fills it.
    pub query: Query,
}

/// A column that a target names.
#[derive(Debug, Clone)]
pub struct TargetColumn {
    /// Its name.
    pub name: Name,
    /// Without it, what the query gives.
    pub data_type: Option<DataType>,
    /// `COMMENT`.
    pub comment: Option<String>,
}

/// `CONSTRAINT name EXPECT (condition) ON VIOLATION …`.
#[derive(Debug, Clone)]
pub struct Constraint {
    /// Its name.
    pub name: Name,
    /// What must hold.
    pub condition: Expr,
    /// The condition as it was written, variables not replaced.
    pub sql: String,
    /// What becomes of a row that breaks it.
    pub action: Action,
    /// The whole clause.
    pub place: Place,
}

/// What becomes of a row that breaks a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It stays, and is counted.
    Keep,
    /// It is left out, and counted.
    DropRow,
    /// The run fails.
    FailUpdate,
    /// It goes to the quarantine table.
    QuarantineRow,
}

/// A clause that was taken and means nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What to tell the user.
    pub message: String,
    /// The clause.
    pub place: Place,
}

/// `CREATE VIEW …`.
#[derive(Debug, Clone)]
pub struct CreateView {
    /// Its name.
    pub name: Name,
    /// `OR REPLACE`.
    pub or_replace: bool,
    /// `IF NOT EXISTS`.
    pub if_not_exists: bool,
    /// `TEMPORARY`.
    pub temporary: bool,
    /// The columns, where they are named.
    pub columns: Vec<Name>,
    /// What it shows.
    pub query: Query,
}
