//! The options that every source of JSON payloads has.
//!
//! Floor 3: uses `source::records`, `decode`, `options`, `error`.

use std::sync::Arc;

use arrow::datatypes::Schema;

use super::records::Decoding;
use crate::decode::{Envelope, Mode};
use crate::error::Result;
use crate::options::Options;

/// `maxRecordBytes` where it is not given.
const MAX_RECORD_BYTES: u64 = 64 << 20;
/// What is kept of a longer record.
const KEPT_OF_TOO_LONG: usize = 64 << 10;

/// In which form a topic or a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// `STORED AS …`
    Decoded,
    /// `read_kafka`, `read_kinesis`
    Raw,
}

/// How payloads are taken.
#[derive(Debug, Clone)]
pub struct PayloadOptions {
    /// What becomes of a record that is no row.
    pub mode: Mode,
    /// What rows are wrapped in.
    pub envelope: Envelope,
    /// A longer record is not read, and only its beginning is kept.
    pub max_record_bytes: usize,
}

impl PayloadOptions {
    /// Takes them out of `options`.
    pub fn take(options: &mut Options) -> Result<Self> {
        let mode = options.take_word("mode", &["quarantine", "permissive", "dropmalformed", "failfast"])?;
        let modes = [Mode::Quarantine, Mode::Permissive, Mode::DropMalformed, Mode::FailFast];
        let envelope = options.take("envelope").map_or(Envelope::None, |pair| envelope(&pair.value));
        let max_record_bytes = options.take_count("maxRecordBytes")?.unwrap_or(MAX_RECORD_BYTES);
        Ok(Self {
            mode: modes[mode.unwrap_or_default()],
            envelope,
            max_record_bytes: usize::try_from(max_record_bytes).unwrap_or(usize::MAX),
        })
    }
}

impl PayloadOptions {
    /// How payloads become these columns.
    pub fn decoding(&self, columns: Schema) -> Decoding {
        Decoding { columns: Arc::new(columns), mode: self.mode, envelope: self.envelope.clone() }
    }

    /// What is kept of a record, and why that is not all of it.
    pub fn kept(bytes: &[u8], most: usize) -> (&[u8], Option<String>) {
        if bytes.len() <= most {
            return (bytes, None);
        }
        let reason = format!("{} bytes are more than maxRecordBytes ({most})", bytes.len());
        (&bytes[..bytes.len().min(KEPT_OF_TOO_LONG)], Some(reason))
    }

    /// Takes those of them that mean something where records are not decoded.
    pub fn take_of_raw(options: &mut Options) -> Result<Self> {
        let most = options.take_count("maxRecordBytes")?.unwrap_or(MAX_RECORD_BYTES);
        let max_record_bytes = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(Self { mode: Mode::Quarantine, envelope: Envelope::None, max_record_bytes })
    }
}

fn envelope(value: &str) -> Envelope {
    match value.to_ascii_lowercase().as_str() {
        "none" => Envelope::None,
        "auto" => Envelope::Auto,
        _ => Envelope::Path(value.split('.').map(str::to_owned).collect()),
    }
}
