//! Values of a result as text: cells of a table, and members of a JSON object.
//!
//! Uses `stream`, `error`. Timestamps are UTC throughout, so a time zone's name need never be looked up.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, SecondsFormat, Utc};

use crate::error::{Error, Result};
use crate::stream::json::{Base64Encoder, BytesAt, bytes_at};

/// What stands for NULL in a table.
const NULL: &str = "NULL";

/// Times of day and dates as psql shows them.
const TIMESTAMP: &str = "%Y-%m-%d %H:%M:%S%.f";

fn cannot_show(error: &ArrowError) -> Error {
    Error::internal(format!("a result cannot be shown: {error}"))
}

/// Whether a column's values stand at the right, as numbers do.
pub(super) fn is_number(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, value) => is_number(value),
        kind => kind.is_numeric(),
    }
}

/// The rows of a batch as cells of a table, one after the other.
pub(super) fn cells(batch: &RecordBatch, mut take: impl FnMut(Vec<String>)) -> Result<()> {
    let columns: Vec<(FieldRef, ArrayRef)> = columns(batch);
    let options = json_options();
    let mut formats = Vec::with_capacity(columns.len());
    for (field, array) in &columns {
        formats.push(CellFormat::new(field, array, &options).map_err(|error| cannot_show(&error))?);
    }
    for row in 0..batch.num_rows() {
        let mut line = Vec::with_capacity(formats.len());
        for format in &mut formats {
            line.push(format.cell(row).map_err(|error| cannot_show(&error))?);
        }
        take(line);
    }
    Ok(())
}

/// The rows of a batch as lines of JSON.
pub(super) fn json_lines(batch: &RecordBatch, lines: &mut Vec<u8>) -> Result<()> {
    let columns = columns(batch);
    let options = json_options();
    let mut encoders = Vec::with_capacity(columns.len());
    for (field, array) in &columns {
        let name = serde_json::to_string(field.name())
            .map_err(|error| Error::internal(format!("a column's name cannot be shown: {error}")))?;
        encoders.push((name, make_encoder(field, array, &options).map_err(|error| cannot_show(&error))?));
    }
    for row in 0..batch.num_rows() {
        for (at, (name, encoder)) in encoders.iter_mut().enumerate() {
            lines.extend_from_slice(if at == 0 { b"{" } else { b"," });
            lines.extend_from_slice(name.as_bytes());
            lines.push(b':');
            encode(encoder, row, lines);
        }
        lines.extend_from_slice(if encoders.is_empty() { b"{}\n" } else { b"}\n" });
    }
    Ok(())
}

fn encode(encoder: &mut NullableEncoder<'_>, row: usize, into: &mut Vec<u8>) {
    if encoder.is_null(row) {
        into.extend_from_slice(b"null");
    } else {
        encoder.encode(row, into);
    }
}

/// The columns with their fields; dictionaries are unpacked where that is possible.
fn columns(batch: &RecordBatch) -> Vec<(FieldRef, ArrayRef)> {
    let schema = batch.schema_ref();
    let columns = schema.fields().iter().zip(batch.columns());
    columns.map(|(field, array)| unpacked(field, array)).collect()
}

fn unpacked(field: &FieldRef, array: &ArrayRef) -> (FieldRef, ArrayRef) {
    let value = match array.data_type() {
        DataType::Dictionary(_, value) => value.as_ref(),
        DataType::RunEndEncoded(_, values) => values.data_type(),
        _ => return (Arc::clone(field), Arc::clone(array)),
    };
    match cast(array, value) {
        Ok(array) => (Arc::new(Field::new(field.name(), value.clone(), true)), array),
        Err(_) => (Arc::clone(field), Arc::clone(array)),
    }
}

/// How one column becomes cells.
enum CellFormat<'a> {
    Plain(ArrayFormatter<'a>),
    Instant(&'a dyn Array, Vec<Option<DateTime<Utc>>>),
    Bytes(&'a dyn Array, BytesAt),
    Json(NullableEncoder<'a>),
}

impl<'a> CellFormat<'a> {
    fn new(field: &'a FieldRef, array: &'a ArrayRef, options: &'a EncoderOptions) -> Result<Self, ArrowError> {
        let kind = array.data_type();
        if let Some(bytes) = bytes_at(kind) {
            return Ok(Self::Bytes(array, bytes));
        }
        if let DataType::Timestamp(unit, _) = kind {
            return Ok(Self::Instant(array, instants(array, *unit)));
        }
        if kind.is_nested()
            && let Ok(encoder) = make_encoder(field, array, options)
        {
            return Ok(Self::Json(encoder));
        }
        let options = FormatOptions::default().with_null(NULL).with_datetime_format(Some(TIMESTAMP));
        Ok(Self::Plain(ArrayFormatter::try_new(array, &options)?))
    }

    fn cell(&mut self, row: usize) -> Result<String, ArrowError> {
        match self {
            Self::Instant(array, _) | Self::Bytes(array, _) if array.is_null(row) => Ok(NULL.into()),
            Self::Plain(formatter) => formatter.value(row).try_to_string(),
            Self::Instant(_, instants) => Ok(match instants.get(row).copied().flatten() {
                Some(instant) => instant.format(TIMESTAMP).to_string(),
                None => "a time out of range".into(),
            }),
            Self::Bytes(array, at) => Ok(hex(at(*array, row))),
            Self::Json(encoder) if encoder.is_null(row) => Ok(NULL.into()),
            Self::Json(encoder) => {
                let mut bytes = Vec::new();
                encoder.encode(row, &mut bytes);
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }
}

/// `\x00ff`, as psql shows `bytea`.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("\\x");
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Reads the bytes of one row.
/// Every timestamp as an instant; None for NULL, and for what no calendar has.
fn instants(array: &dyn Array, unit: TimeUnit) -> Vec<Option<DateTime<Utc>>> {
    let split = |value: i64, per_second: i64| {
        let nanoseconds = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
        DateTime::from_timestamp(value.div_euclid(per_second), u32::try_from(nanoseconds).unwrap_or(0))
    };
    match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().iter().map(|value| split(value?, 1)).collect(),
        TimeUnit::Millisecond => {
            array.as_primitive::<TimestampMillisecondType>().iter().map(|value| split(value?, 1_000)).collect()
        }
        TimeUnit::Microsecond => {
            array.as_primitive::<TimestampMicrosecondType>().iter().map(|value| split(value?, 1_000_000)).collect()
        }
        TimeUnit::Nanosecond => {
            array.as_primitive::<TimestampNanosecondType>().iter().map(|value| split(value?, 1_000_000_000)).collect()
        }
    }
}

fn json_options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(JsonValues))
}

/// Values whose JSON form is ours to choose: BINARY in base64, as it is read; instants in RFC 3339, as Databricks.
#[derive(Debug)]
struct JsonValues;

impl EncoderFactory for JsonValues {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let kind = array.data_type();
        let encoder: Box<dyn Encoder + 'a> = if let Some(at) = bytes_at(kind) {
            Box::new(Base64Encoder::new(array, at))
        } else if let DataType::Timestamp(unit, zone) = kind {
            Box::new(InstantEncoder { instants: instants(array, *unit), is_zoned: zone.is_some() })
        } else {
            return Ok(None);
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

struct InstantEncoder {
    instants: Vec<Option<DateTime<Utc>>>,
    is_zoned: bool,
}

impl Encoder for InstantEncoder {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let Some(instant) = self.instants.get(row).copied().flatten() else {
            out.extend_from_slice(b"null");
            return;
        };
        let text = instant.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let text = if self.is_zoned { text.as_str() } else { text.trim_end_matches('Z') };
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }
}
