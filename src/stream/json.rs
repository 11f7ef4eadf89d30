//! Rows as JSON, for the quarantine; and bytes in base64 wherever JSON is written, as in Spark's `to_json`.
//!
//! Floor 5: uses `error`.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// Each row as a JSON object; columns that are NULL stand there as null.
pub fn json_rows(batch: &RecordBatch) -> Result<Vec<String>> {
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(InBase64))
        .build::<_, LineDelimited>(Vec::new());
    let written = writer.write(batch).and_then(|()| writer.finish());
    written.map_err(|error| Error::internal(error.to_string()))?;
    let text = String::from_utf8(writer.into_inner()).map_err(|error| Error::internal(error.to_string()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Encodes bytes.
#[derive(Debug)]
struct InBase64;

impl EncoderFactory for InBase64 {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let Some(at) = bytes_at(array.data_type()) else { return Ok(None) };
        Ok(Some(NullableEncoder::new(Box::new(Base64Encoder::new(array, at)), array.nulls().cloned())))
    }
}

/// The bytes of an array, by row.
pub type BytesAt = fn(&dyn Array, usize) -> &[u8];

/// How the bytes of a type are found; None where it does not hold bytes.
pub fn bytes_at(kind: &DataType) -> Option<BytesAt> {
    match kind {
        DataType::Binary => Some(|array, row| array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Some(|array, row| array.as_binary::<i64>().value(row)),
        DataType::BinaryView => Some(|array, row| array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => Some(|array, row| array.as_fixed_size_binary().value(row)),
        _ => None,
    }
}

/// Writes the bytes of an array in base64.
pub struct Base64Encoder<'a> {
    array: &'a dyn Array,
    at: BytesAt,
}

impl<'a> Base64Encoder<'a> {
    /// Of an array of the type that `at` is for.
    pub fn new(array: &'a dyn Array, at: BytesAt) -> Self {
        Self { array, at }
    }
}

impl Encoder for Base64Encoder<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode((self.at)(self.array, row)).as_bytes());
        out.push(b'"');
    }
}
