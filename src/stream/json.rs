//! Rows as JSON, for the quarantine.
//!
//! Floor 5: uses `error`. Bytes stand there in base64, as in Spark's `to_json`.

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
        let bytes: Box<dyn Fn(usize) -> &'a [u8] + 'a> = match array.data_type() {
            DataType::Binary => Box::new(|index| array.as_binary::<i32>().value(index)),
            DataType::LargeBinary => Box::new(|index| array.as_binary::<i64>().value(index)),
            DataType::BinaryView => Box::new(|index| array.as_binary_view().value(index)),
            DataType::FixedSizeBinary(_) => Box::new(|index| array.as_fixed_size_binary().value(index)),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(Box::new(Bytes(bytes)), array.nulls().cloned())))
    }
}

struct Bytes<'a>(Box<dyn Fn(usize) -> &'a [u8] + 'a>);

impl Encoder for Bytes<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode((self.0)(index)).as_bytes());
        out.push(b'"');
    }
}
