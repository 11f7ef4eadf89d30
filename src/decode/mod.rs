//! Bytes to records to Arrow, with one verdict for each record.
//!
//! Uses `error` only. [`Framer`] cuts the text of an object into records, [`infer`] finds the columns of a sample, and
//! [`Decoder`] turns records into rows: in one pass, without a tree, straight into typed columns. A record that cannot
//! be read is taken back whole and told with its reason; it never touches its neighbours. The verdict does not depend on
//! which columns a query reads: all are checked, only the wanted ones are built.

mod arrays;
mod columns;
mod convert;
mod envelope;
mod fields;
mod frame;
mod infer;
mod keys;
mod parse;
mod probe;
mod scan;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryViewArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Fields as ArrowFields, Schema, SchemaRef};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use self::columns::Column;
use self::fields::Fields;
use self::parse::{Cursor, Fault, Parse};
use crate::error::{Error, Result};

pub use self::envelope::Envelope;
pub use self::frame::{Block, Frame, Framer};
pub use self::infer::infer;

/// The column for what did not fit, under [`Mode::Permissive`].
pub const RESCUED: &str = "_rescued_data";

/// What becomes of a record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// It is rejected; the caller keeps it.
    #[default]
    Quarantine,
    /// What does not fit is NULL, and the record's text stands in [`RESCUED`].
    Permissive,
    /// It is left out and counted.
    DropMalformed,
    /// It is rejected; the caller stops.
    FailFast,
}

impl Mode {
    /// The names of the modes, as the option `mode` takes them.
    pub const NAMES: [&'static str; 4] = ["quarantine", "permissive", "dropmalformed", "failfast"];

    /// The mode by its name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        let modes = [Self::Quarantine, Self::Permissive, Self::DropMalformed, Self::FailFast];
        modes.into_iter().find(|mode| mode.name().eq_ignore_ascii_case(name))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let [quarantine, permissive, dropmalformed, failfast] = Self::NAMES;
        match self {
            Self::Quarantine => quarantine,
            Self::Permissive => permissive,
            Self::DropMalformed => dropmalformed,
            Self::FailFast => failfast,
        }
    }
}

/// A payload that gave no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The index of the payload in what was decoded.
    pub payload: u32,
    /// Which column, what was found, where.
    pub reason: String,
}

/// What became of a batch of payloads.
#[derive(Debug)]
pub struct Decoded {
    /// The wanted columns.
    pub batch: RecordBatch,
    /// For each row the index of its payload, ascending.
    pub rows: Vec<u32>,
    /// The payloads that gave no row.
    pub rejects: Vec<Reject>,
    /// How many payloads [`Mode::DropMalformed`] left out.
    pub dropped: u64,
}

/// Turns JSON records into rows. It learns the order of the keys: use one decoder as long as possible.
pub struct Decoder {
    fields: Fields,
    wanted: Vec<usize>,
    /// The declared column for what did not fit, or one of our own.
    rescued: Rescued,
    schema: SchemaRef,
    mode: Mode,
    envelope: Envelope,
    rows: Vec<u32>,
}

enum Rescued {
    Nowhere,
    Declared(usize),
    Added(Box<Column>),
}

impl Decoder {
    /// A decoder for these columns, of which `projection` names those to build (None: all). An error names a column
    /// whose type cannot be read from JSON.
    pub fn new(columns: &Schema, projection: Option<&[usize]>, mode: Mode, envelope: Envelope) -> Result<Self> {
        let declared: ArrowFields = columns.fields().iter().map(nullable).collect();
        let all: Vec<usize> = (0..declared.len()).collect();
        let wanted = projection.unwrap_or(&all).to_vec();
        let mut output = Vec::with_capacity(wanted.len() + 1);
        for index in &wanted {
            let field = declared.get(*index).ok_or_else(|| Error::internal(format!("no column {index} to decode")))?;
            output.push(Arc::clone(field));
        }
        let rescued = Rescued::new(&declared, mode)?;
        let own = if let Rescued::Declared(index) = rescued { Some(index) } else { None };
        if matches!(rescued, Rescued::Added(_)) {
            output.push(Arc::new(Field::new(RESCUED, DataType::Utf8, true)));
        }
        let fields = Fields::new(&declared, |index| wanted.contains(&index), own)?;
        let schema = Arc::new(Schema::new_with_metadata(output, columns.metadata().clone()));
        Ok(Self { fields, wanted, rescued, schema, mode, envelope, rows: Vec::new() })
    }

    /// The columns that come out.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Decodes a batch of payloads, each one record (or, in an envelope, several). An empty slot is a tombstone.
    pub fn decode(&mut self, payloads: &BinaryViewArray) -> Result<Decoded> {
        self.check_size(payloads)?;
        let mut rejects = Vec::new();
        let mut dropped = 0;
        for index in 0..payloads.len() {
            let payload = (!payloads.is_null(index)).then(|| payloads.value(index));
            let Err(fault) = self.payload(index as u32, payload) else { continue };
            match (self.mode, payload) {
                (Mode::DropMalformed, _) => dropped += 1,
                (Mode::Permissive, Some(bytes)) => self.null_row(index as u32, bytes),
                _ => {
                    let twice = payload.is_some_and(is_encoded_again);
                    let reason = if twice { ENCODED_AGAIN.to_owned() } else { fault.reason() };
                    rejects.push(Reject { payload: index as u32, reason });
                }
            }
        }
        let arrays = self.take()?;
        let rows = std::mem::take(&mut self.rows);
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(self.schema(), arrays, &options)
            .map_err(|error| Error::internal("the decoded columns do not make a batch").caused_by(error))?;
        Ok(Decoded { batch, rows, rejects, dropped })
    }

    /// Offsets are 32 bits wide: no column may come out longer. A lossy copy takes up to three bytes for one.
    fn check_size(&self, payloads: &BinaryViewArray) -> Result<()> {
        let total: u64 = payloads.views().iter().map(|view| u64::from(*view as u32)).sum();
        let growth = if self.mode == Mode::Permissive { 4 } else { 1 };
        if total * growth < i32::MAX as u64 {
            return Ok(());
        }
        Err(Error::data(format!("{total} bytes of records are too many to decode at once"))
            .hint("read fewer records at a time, with `--max-records`"))
    }

    /// Decodes one payload; on a fault no trace of it is left.
    fn payload(&mut self, index: u32, payload: Option<&[u8]>) -> Parse<()> {
        let before = self.rows.len();
        let read = match payload {
            Some(bytes) => self.read(index, bytes),
            None => Err(Fault::syntax("no payload (a tombstone)")),
        };
        if read.is_err() {
            self.fields.truncate(before);
            self.rows.truncate(before);
            if let Rescued::Added(column) = &mut self.rescued {
                column.truncate(before);
            }
        }
        read
    }

    fn read(&mut self, index: u32, bytes: &[u8]) -> Parse<()> {
        check_utf8(bytes)?;
        if self.envelope.may_wrap(bytes) {
            let inside = envelope::unwrap(bytes, &self.envelope)?;
            for row in inside.rows {
                let mut cursor = Cursor::new(inside.text.get(..row.end).unwrap_or_default());
                cursor.at = row.start;
                self.row(index, &mut cursor)?;
            }
            return Ok(());
        }
        let mut cursor = Cursor::new(bytes);
        start(&mut cursor)?;
        if cursor.peek() != Some(b'{') {
            return Err(cursor.mismatch("an object", 0));
        }
        self.row(index, &mut cursor)
    }

    /// Decodes one row, which reaches to the end of the cursor's text.
    fn row(&mut self, index: u32, cursor: &mut Cursor<'_>) -> Parse<()> {
        let row = self.rows.len();
        let start = cursor.at;
        cursor.lenient = self.mode == Mode::Permissive;
        self.fields.object(cursor, 0, row)?;
        cursor.end()?;
        self.rows.push(index);
        let text = cursor.text.get(start..).unwrap_or_default();
        self.rescue(row, cursor.misfit.then_some(text));
        Ok(())
    }

    /// A row of NULLs for a payload that cannot be read at all.
    fn null_row(&mut self, index: u32, bytes: &[u8]) {
        let row = self.rows.len();
        self.fields.push_null();
        self.rows.push(index);
        self.rescue(row, Some(bytes));
    }

    /// Fills the column for what did not fit.
    fn rescue(&mut self, row: usize, text: Option<&[u8]>) {
        let column = match &mut self.rescued {
            Rescued::Nowhere => return,
            Rescued::Declared(index) => self.fields.column_mut(*index),
            Rescued::Added(column) => Some(column.as_mut()),
        };
        let Some(column) = column else { return };
        column.truncate(row);
        match text {
            Some(text) => column.push_text(&String::from_utf8_lossy(text)),
            None => column.push_null(),
        }
    }

    /// Takes the wanted columns out.
    fn take(&mut self) -> Result<Vec<ArrayRef>> {
        let mut built: Vec<Option<ArrayRef>> = Vec::new();
        for (index, column) in self.fields.columns_mut().enumerate() {
            built.push(if self.wanted.contains(&index) { Some(column.take()?) } else { None });
        }
        let mut arrays: Vec<ArrayRef> =
            self.wanted.iter().filter_map(|index| built.get(*index).cloned().flatten()).collect();
        if let Rescued::Added(column) = &mut self.rescued {
            arrays.push(column.take()?);
        }
        Ok(arrays)
    }
}

impl Rescued {
    fn new(declared: &ArrowFields, mode: Mode) -> Result<Self> {
        if mode != Mode::Permissive {
            return Ok(Self::Nowhere);
        }
        match declared.iter().position(|field| field.name() == RESCUED) {
            None => Ok(Self::Added(Box::new(Column::new(&DataType::Utf8, true)?))),
            Some(index) if declared.get(index).is_some_and(|field| field.data_type() == &DataType::Utf8) => {
                Ok(Self::Declared(index))
            }
            Some(_) => Err(Error::sql(format!("`{RESCUED}` must be of type STRING")).hint("declare it as STRING")),
        }
    }
}

/// A field that can hold NULL at every level, as records leave out what they like.
fn nullable(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::List(item) => DataType::List(nullable(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(nullable).collect()),
        DataType::Map(entries, _) => DataType::Map(map_entries(entries), false),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type).with_nullable(true))
}

/// The entries of a map: Arrow wants them and their keys to be there.
fn map_entries(entries: &FieldRef) -> FieldRef {
    let DataType::Struct(pair) = entries.data_type() else { return Arc::clone(entries) };
    let pair = pair
        .iter()
        .enumerate()
        .map(|(i, field)| if i == 0 { Arc::new(field.as_ref().clone().with_nullable(false)) } else { nullable(field) });
    let pair = DataType::Struct(pair.collect());
    Arc::new(entries.as_ref().clone().with_data_type(pair).with_nullable(false))
}

/// The whole payload must be UTF-8; the slower look finds the place only when there is something to find.
#[inline]
fn check_utf8(bytes: &[u8]) -> Parse<()> {
    if simdutf8::basic::from_utf8(bytes).is_ok() {
        return Ok(());
    }
    let at = simdutf8::compat::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    Err(Fault::syntax(format!("invalid UTF-8 at byte {at}")))
}

/// Why a payload that is base64 of JSON is none.
const ENCODED_AGAIN: &str =
    "base64 of JSON, not JSON: whoever sent the record encoded it once more than the service does";

/// Whether the payload, or the string that it is, is base64 of an object, of an array or of a string.
fn is_encoded_again(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii();
    let text = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text);
    let json = match STANDARD.decode(text) {
        Ok(json) => json,
        Err(_) => return false,
    };
    json.trim_ascii_start().first().is_some_and(|first| b"{[\"".contains(first))
        && serde_json::from_slice::<serde::de::IgnoredAny>(&json).is_ok()
}

/// Steps over a byte-order mark and blanks; there must be something behind them.
#[inline]
fn start(cursor: &mut Cursor<'_>) -> Parse<()> {
    if cursor.text.starts_with(b"\xEF\xBB\xBF") {
        cursor.at = 3;
    }
    cursor.blank();
    if cursor.peek().is_some() {
        return Ok(());
    }
    Err(Fault::syntax(if cursor.text.is_empty() { "empty payload" } else { "blank payload" }))
}

/// A type by its SQL name.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision},{scale})"),
        DataType::Utf8 => "STRING".into(),
        DataType::Binary => "BINARY".into(),
        DataType::Date32 => "DATE".into(),
        DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => {
            "TIMESTAMP".into()
        }
        DataType::List(_) => "ARRAY".into(),
        DataType::Struct(_) => "STRUCT".into(),
        DataType::Map(..) => "MAP".into(),
        other => other.to_string(),
    }
}
