//! The rows of a result, as psql shows them or as lines of JSON, a block at a time.
//!
//! Uses `error` and the cells. A long result is never kept whole: columns are aligned over a block of rows, and only
//! become wider in a later one.

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, SchemaRef};

use super::cells::{cells, is_number, json_lines};
use super::text::{counted, shown_line, shown_value, width};
use crate::error::Result;

/// Rows that are aligned together.
const BLOCK_ROWS: usize = 1_000;

/// A block ends early at this many bytes of text.
const BLOCK_BYTES: usize = 4 << 20;

/// The result that is being shown, if there is one.
pub(super) struct ResultTable {
    is_json: bool,
    is_expanded: bool,
    columns: Option<Vec<Column>>,
    block: Vec<Vec<String>>,
    block_bytes: usize,
    has_header: bool,
    count: u64,
}

struct Column {
    name: String,
    is_number: bool,
    width: usize,
}

impl ResultTable {
    pub(super) fn new(is_json: bool) -> Self {
        Self {
            is_json,
            is_expanded: false,
            columns: None,
            block: Vec::new(),
            block_bytes: 0,
            has_header: false,
            count: 0,
        }
    }

    pub(super) fn set_expanded(&mut self, is_expanded: bool) {
        self.is_expanded = is_expanded;
    }

    /// Takes rows, and gives what can be written by now.
    pub(super) fn rows(&mut self, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if self.is_json {
            for batch in batches {
                json_lines(batch, &mut bytes)?;
            }
            return Ok(bytes);
        }
        self.begin(schema);
        for batch in batches {
            cells(batch, |row| {
                let row: Vec<String> = row.into_iter().map(shown_value).collect();
                self.block_bytes += row.iter().map(String::len).sum::<usize>();
                self.block.push(row);
                if self.block.len() >= BLOCK_ROWS || self.block_bytes >= BLOCK_BYTES {
                    self.flush(&mut bytes);
                }
            })?;
        }
        Ok(bytes)
    }

    /// Gives the rest, and the number of rows.
    pub(super) fn end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.columns.is_some() {
            self.flush(&mut bytes);
            if !self.is_expanded || self.count == 0 {
                bytes.extend_from_slice(format!("({})\n", counted_rows(self.count)).as_bytes());
            }
            bytes.push(b'\n');
        }
        self.abandon();
        bytes
    }

    /// Forgets what is not shown yet: the next rows are those of another result.
    pub(super) fn abandon(&mut self) {
        self.columns = None;
        self.block.clear();
        self.block_bytes = 0;
        self.has_header = false;
        self.count = 0;
    }

    fn begin(&mut self, schema: &SchemaRef) {
        if self.columns.is_some() {
            return;
        }
        let column = |field: &FieldRef| {
            let name = shown_line(field.name());
            let width = width(&name);
            Column { name, is_number: is_number(field.data_type()), width }
        };
        self.columns = Some(schema.fields().iter().map(column).collect());
    }

    fn flush(&mut self, bytes: &mut Vec<u8>) {
        let Some(columns) = &mut self.columns else { return };
        let mut text = String::new();
        if self.is_expanded {
            for row in &self.block {
                self.count += 1;
                push_record(&mut text, columns, row, self.count);
            }
        } else {
            widen(columns, &self.block);
            if !self.has_header && !columns.is_empty() {
                push_header(&mut text, columns);
            }
            self.has_header = true;
            for row in &self.block {
                push_row(&mut text, columns, row);
            }
            self.count += self.block.len() as u64;
        }
        self.block.clear();
        self.block_bytes = 0;
        bytes.extend_from_slice(text.as_bytes());
    }
}

fn counted_rows(count: u64) -> String {
    // psql writes no commas here, and scripts read this line.
    if count < 1_000 { counted(count, "row") } else { format!("{count} rows") }
}

fn widen(columns: &mut [Column], rows: &[Vec<String>]) {
    for row in rows {
        for (column, cell) in columns.iter_mut().zip(row) {
            column.width = cell.split('\n').map(width).fold(column.width, usize::max);
        }
    }
}

fn push_header(text: &mut String, columns: &[Column]) {
    let mut names = String::new();
    let mut rule = String::new();
    for (at, column) in columns.iter().enumerate() {
        if at > 0 {
            names.push('|');
            rule.push('+');
        }
        let free = column.width - width(&column.name);
        push_cell(&mut names, &column.name, free / 2, free - free / 2);
        names.push(' ');
        rule.push_str(&"-".repeat(column.width + 2));
    }
    text.push_str(names.trim_end());
    text.push('\n');
    text.push_str(&rule);
    text.push('\n');
}

fn push_cell(text: &mut String, cell: &str, before: usize, after: usize) {
    text.push(' ');
    text.push_str(&" ".repeat(before));
    text.push_str(cell);
    text.push_str(&" ".repeat(after));
}

/// A row; a value of several lines goes on below, with `+` where it does, as in psql.
fn push_row(text: &mut String, columns: &[Column], row: &[String]) {
    let cells: Vec<Vec<&str>> = row.iter().map(|cell| cell.split('\n').collect()).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    for line in 0..height {
        let start = text.len();
        for (at, (column, cell)) in columns.iter().zip(&cells).enumerate() {
            if at > 0 {
                text.push('|');
            }
            let part = cell.get(line).copied().unwrap_or_default();
            let free = column.width.saturating_sub(width(part));
            let (before, after) = if column.is_number { (free, 0) } else { (0, free) };
            push_cell(text, part, before, after);
            text.push(if line + 1 < cell.len() { '+' } else { ' ' });
        }
        text.truncate(start + text[start..].trim_end_matches(' ').len());
        text.push('\n');
    }
}

/// A record below the others, a line per column.
fn push_record(text: &mut String, columns: &[Column], row: &[String], number: u64) {
    let name_width = columns.iter().map(|column| width(&column.name)).max().unwrap_or(0);
    let value_width = row.iter().flat_map(|cell| cell.split('\n')).map(width).max().unwrap_or(0);
    let mut title = format!("-[ RECORD {number} ]");
    let rule = name_width + 3 + value_width;
    title.push_str(&"-".repeat(rule.saturating_sub(title.len())));
    text.push_str(&title);
    text.push('\n');
    for (column, cell) in columns.iter().zip(row) {
        for (at, line) in cell.split('\n').enumerate() {
            let name = if at == 0 { column.name.as_str() } else { "" };
            let free = name_width - width(name);
            let line = format!("{name}{} | {line}", " ".repeat(free));
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
}
