//! The summary for people: a line per table, the errors worth showing whole, and the totals.
//!
//! Uses `report`, `error`. Pure: texts come out, and somebody else writes them.

use std::sync::Arc;

use super::text::{counted, duration, shown_line, thousands, width};
use crate::error::{Error, ErrorKind};
use crate::report::{Condition, Status, Summary, TableReport, TableStatus};

/// A line per table, each with a line end; more where rows were put aside or a constraint was broken.
pub fn tables(command: &str, tables: &[TableReport]) -> String {
    let relevant = |table: &&TableReport| command != "plan" || table.error.is_some();
    let rows: Vec<(&TableReport, String)> =
        tables.iter().filter(relevant).map(|table| (table, what(command, table))).collect();
    let name_width = rows.iter().map(|(table, _)| width(&table.table)).max().unwrap_or(0);
    let what_width =
        rows.iter().filter(|(table, _)| table.error.is_none()).map(|(_, what)| width(what)).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (table, what) in &rows {
        let name = padded(&table.table, name_width);
        let version = table.version.filter(|_| table.error.is_none() && command != "check");
        lines.push(match version {
            Some(version) => format!("{name}  {}  version {version}\n", padded(what, what_width)),
            None => format!("{name}  {what}\n"),
        });
        lines.extend(details(table).iter().map(|line| format!("{}  {line}\n", " ".repeat(name_width))));
    }
    lines.concat()
}

/// What `status` found: a line per target, and one per source below it.
pub fn status(tables: &[TableStatus]) -> String {
    let name_width = tables.iter().map(|table| width(&table.table)).max().unwrap_or(0);
    let mut lines = Vec::new();
    for table in tables {
        let name = padded(&table.table, name_width);
        let (Some(epoch), Some(at)) = (table.epoch, table.at) else {
            lines.push(format!("{name}  not built yet\n"));
            continue;
        };
        let version = table.version.map_or_else(|| "–".to_owned(), thousands);
        let at = at.format("%Y-%m-%d %H:%M:%S");
        let lag = counted(table.lag, "record");
        let epoch = thousands(epoch);
        let behind =
            table.behind_ms.filter(|ms| *ms > 0).map_or_else(String::new, |ms| format!("  {} behind", duration(ms)));
        lines.push(format!("{name}  version {version}  epoch {epoch}  committed {at} UTC  {lag} waiting{behind}\n"));
        let indent = " ".repeat(name_width);
        lines.extend(table.sources.iter().map(|one| format!("{indent}  {}: {}\n", one.source, one.position)));
    }
    lines.concat()
}

/// How it stands with a table that is followed, in one line.
pub fn condition(table: &str, condition: &Condition<'_>) -> String {
    match condition {
        Condition::Running => format!("{table}: running"),
        Condition::Stopped => format!("{table}: stopped"),
        Condition::Waiting { error, pause } => format!(
            "{table}: waiting: {}; tried again in {}",
            shown_line(error.message().lines().next().unwrap_or_default()),
            duration(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
        ),
        Condition::Failed(error) => {
            format!("{table}: failed: {}", shown_line(error.message().lines().next().unwrap_or_default()))
        }
    }
}

fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// What became of one table, in one line.
fn what(command: &str, table: &TableReport) -> String {
    if let Some(error) = &table.error {
        return format!("failed: {}", shown_line(error.message().lines().next().unwrap_or_default()));
    }
    if command == "check" {
        return "ok".into();
    }
    if table.epochs == 0 && counts(table).is_empty() && table.written == 0 {
        return "up to date".into();
    }
    let counts = counts(table);
    let counts = if counts.is_empty() { counts } else { format!(" ({counts})") };
    format!("+{}{counts}", counted(table.written, "row"))
}

/// Every count that is not 0: `read 4,011, quarantined 15`.
fn counts(table: &TableReport) -> String {
    let counts = [
        ("read", table.read),
        ("dropped", table.dropped),
        ("quarantined", table.quarantined),
        ("late", table.late),
        ("lost", table.lost.unwrap_or(0)),
    ];
    let counts = counts.iter().filter(|(_, count)| *count > 0);
    let mut words: Vec<String> = counts.map(|(name, count)| format!("{name} {}", thousands(*count))).collect();
    if table.lost.is_none() {
        words.push("lost an unknown number".to_owned());
    }
    words.join(", ")
}

/// What to do about a failure, which constraints were broken by rows that stayed, and where rows that were put aside are.
fn details(table: &TableReport) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(hint) = table.error.as_ref().filter(|error| !is_shown_whole(error)).and_then(|error| error.hint_text())
    {
        lines.push(format!("hint: {}", shown_line(hint)));
    }
    for (name, count) in table.expectations.iter().filter(|(_, count)| **count > 0) {
        let verb = if *count == 1 { "breaks" } else { "break" };
        lines.push(format!("{} {verb} constraint `{}` and stayed", counted(*count, "row"), shown_line(name)));
    }
    if table.quarantined > 0 {
        lines.push(format!("see them: SELECT * FROM {}", quoted(&table.quarantine)));
    }
    lines
}

/// A name as SQL takes it.
fn quoted(name: &str) -> String {
    let is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if is_plain { name.to_owned() } else { format!("`{}`", name.replace('`', "``")) }
}

/// The errors to show whole, each once: those of tables that say more than their line did, then the command's own.
pub fn errors(summary: &Summary) -> Vec<&Error> {
    let mut found: Vec<&Arc<Error>> = Vec::new();
    let of_tables = summary.tables.iter().filter_map(|table| table.error.as_ref());
    let of_tables = of_tables.filter(|error| is_shown_whole(error));
    for error in of_tables.chain(summary.error.as_ref()) {
        if !found.iter().any(|known| is_same(known, error)) {
            found.push(error);
        }
    }
    found.into_iter().map(Arc::as_ref).collect()
}

/// Text or data that is wrong has a place worth looking at; what the world refused fits in the table's own line.
fn is_shown_whole(error: &Error) -> bool {
    error.kind() != ErrorKind::World
}

fn is_same(one: &Arc<Error>, other: &Arc<Error>) -> bool {
    Arc::ptr_eq(one, other) || (one.message() == other.message() && one.place() == other.place())
}

/// The last line: totals and the time. What built nothing has said all it had to say.
pub fn total(summary: &Summary) -> Option<String> {
    let time = duration(summary.elapsed_ms);
    if summary.tables.is_empty() {
        return match (summary.status, summary.command) {
            (Status::Stopped, _) => Some(format!("stopped after {time}")),
            (Status::Ok, "run") => Some("nothing to build: no table is declared here".into()),
            (Status::Ok, "check") => Some(format!("checked in {time}")),
            _ => None,
        };
    }
    let failed = summary.tables.iter().filter(|table| table.error.is_some()).count() as u64;
    let mut parts = vec![counted(summary.tables.len() as u64, "table")];
    if failed > 0 {
        parts.push(format!("{} failed", thousands(failed)));
    }
    if !matches!(summary.command, "check" | "plan") {
        parts.push(totals(&summary.tables));
    }
    let word = match (summary.status, summary.command) {
        (Status::Stopped, _) => "stopped: ",
        (Status::Ok, "check") => "checked: ",
        (Status::Ok, "plan") => "planned: ",
        _ => "",
    };
    Some(format!("{word}{} in {time}", parts.join(", ")))
}

/// The counts of all tables together.
fn totals(tables: &[TableReport]) -> String {
    let mut sum = TableReport { lost: Some(0), ..TableReport::default() };
    for table in tables {
        sum.written += table.written;
        sum.read += table.read;
        sum.dropped += table.dropped;
        sum.quarantined += table.quarantined;
        sum.late += table.late;
        sum.lost = sum.lost.zip(table.lost).map(|(before, more)| before + more);
        sum.epochs += table.epochs;
    }
    if sum.epochs == 0 && sum.written == 0 {
        return "nothing new".into();
    }
    let counts = counts(&sum);
    let counts = if counts.is_empty() { counts } else { format!(", {counts}") };
    format!("+{}{counts}", counted(sum.written, "row"))
}
