//! Statements that users of Databricks or of a database write and that pinsql does not have: what to do instead.
//!
//! Uses `error` and the cursor.

use super::tokens::Cursor;
use crate::error::Error;

/// The words a statement begins with, what it is called, and what to do instead.
type Refusal = (&'static [&'static str], &'static str, &'static str);

const FLOW_HINT: &str = "say CREATE OR REFRESH STREAMING TABLE t AS SELECT … FROM STREAM source";
const CDC_HINT: &str =
    "keep the latest row of a key in a MATERIALIZED VIEW by row_number() OVER (PARTITION BY key ORDER BY …)";
const ROWS_HINT: &str =
    "rows are not changed in place: change the query that makes the table, then run with --full-refresh";
const SCHEMA_HINT: &str = "tables lie side by side in the lake; another lake is chosen by --lake or a profile";
const RIGHTS_HINT: &str = "rights are given where the lake is stored";
const COMMIT_HINT: &str = "every statement commits by itself; leave it out";

const REFUSALS: [Refusal; 45] = [
    (&["CREATE", "FLOW"], "CREATE FLOW", FLOW_HINT),
    (&["CREATE", "STREAMING", "LIVE"], "CREATE STREAMING LIVE TABLE", FLOW_HINT),
    (&["CREATE", "OR", "REFRESH", "STREAMING", "LIVE"], "CREATE STREAMING LIVE TABLE", FLOW_HINT),
    (&["CREATE", "OR", "REFRESH", "LIVE"], "CREATE LIVE TABLE", "say CREATE OR REFRESH MATERIALIZED VIEW"),
    (&["CREATE", "LIVE"], "CREATE LIVE TABLE", "say CREATE MATERIALIZED VIEW"),
    (&["CREATE", "PRIVATE"], "PRIVATE", "leave the word out"),
    (&["CREATE", "OR", "REFRESH", "PRIVATE"], "PRIVATE", "leave the word out"),
    (&["CREATE", "OR", "REPLACE", "PRIVATE"], "PRIVATE", "leave the word out"),
    (&["CREATE", "DATABASE"], "CREATE DATABASE", SCHEMA_HINT),
    (&["CREATE", "SCHEMA"], "CREATE SCHEMA", SCHEMA_HINT),
    (&["CREATE", "CATALOG"], "CREATE CATALOG", SCHEMA_HINT),
    (&["CREATE", "FUNCTION"], "CREATE FUNCTION", "write the expression out, or put it in a VIEW"),
    (&["CREATE", "OR", "REPLACE", "FUNCTION"], "CREATE FUNCTION", "write the expression out, or put it in a VIEW"),
    (&["CREATE", "INDEX"], "CREATE INDEX", "say PARTITIONED BY; the statistics of Delta do the rest"),
    (&["CREATE", "GLOBAL"], "a global view", "leave GLOBAL TEMPORARY out"),
    (&["CREATE", "OR", "REPLACE", "GLOBAL"], "a global view", "leave GLOBAL TEMPORARY out"),
    (&["CREATE", "UNBOUNDED"], "UNBOUNDED", "leave the word out; FROM STREAM says how a source is read"),
    (&["DROP", "DATABASE"], "DROP DATABASE", "drop the tables one by one"),
    (&["DROP", "SCHEMA"], "DROP SCHEMA", "drop the tables one by one"),
    (&["APPLY", "CHANGES"], "APPLY CHANGES", CDC_HINT),
    (&["AUTO", "CDC"], "AUTO CDC", CDC_HINT),
    (&["MERGE"], "MERGE", CDC_HINT),
    (&["UPDATE"], "UPDATE", ROWS_HINT),
    (&["DELETE"], "DELETE", ROWS_HINT),
    (&["TRUNCATE"], "TRUNCATE", "say REFRESH t FULL, or INSERT OVERWRITE"),
    (
        &["COPY"],
        "COPY",
        "read files by read_files('path', format => 'json') in a streaming table, which reads each once",
    ),
    (&["ALTER"], "ALTER", "change the statement that makes the table, and run it again"),
    (&["USE"], "USE", SCHEMA_HINT),
    (&["GRANT"], "GRANT", RIGHTS_HINT),
    (&["REVOKE"], "REVOKE", RIGHTS_HINT),
    (&["BEGIN"], "BEGIN", COMMIT_HINT),
    (&["START", "TRANSACTION"], "START TRANSACTION", COMMIT_HINT),
    (&["COMMIT"], "COMMIT", COMMIT_HINT),
    (&["ROLLBACK"], "ROLLBACK", COMMIT_HINT),
    (&["CACHE"], "CACHE TABLE", "leave it out"),
    (&["UNCACHE"], "UNCACHE TABLE", "leave it out"),
    (&["ANALYZE"], "ANALYZE", "leave it out; statistics are written with the rows"),
    (&["DECLARE"], "DECLARE", "write ${NAME} and pass --var NAME=VALUE"),
    (&["PREPARE"], "PREPARE", "write ${NAME} and pass --var NAME=VALUE"),
    (&["EXECUTE"], "EXECUTE", "write ${NAME} and pass --var NAME=VALUE"),
    (&["CALL"], "CALL", "there are no procedures"),
    (&["MSCK"], "MSCK", "leave it out; a Delta table knows its files"),
    (&["RESET"], "RESET", "say SET with the value that it had"),
    (&["KILL"], "KILL", "stop the process by SIGINT or SIGTERM"),
    (&["RESTORE"], "RESTORE", "say REFRESH t FULL"),
];

/// The error for a statement that pinsql does not have, if it is one of those.
pub(super) fn refused(cursor: &Cursor<'_>) -> Option<Error> {
    let (words, name, hint) = REFUSALS.iter().find(|(words, ..)| cursor.at_words(words))?;
    let mut at = cursor.clone();
    let start = at.position();
    at.take_words(words);
    let error = Error::sql(format!("{} is not supported", quoted(name))).hint(*hint).at(at.place_since(start));
    Some(error)
}

/// Names of SQL go in back-ticks, descriptions do not.
fn quoted(name: &str) -> String {
    if name.chars().any(char::is_lowercase) { name.to_owned() } else { format!("`{name}`") }
}
