//! Writes data files: what is written is invisible until a commit names it.
//!
//! Floor 2: uses `error`, `store`.

use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use delta_kernel::table_properties::DataSkippingNumIndexedCols;
use deltalake::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake::kernel::Add;
use object_store::prefix::PrefixStore;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{Properties, fault, schema};
use crate::error::{Error, Result};
use crate::store::Location;

/// A data file is closed at about this size where `pinsql.target_file_size` says nothing.
pub const TARGET_FILE_BYTES: u64 = 128 << 20;
/// Columns with statistics, from the first on: what Delta's readers expect.
const STATISTICS_COLUMNS: u64 = 32;
/// A row group is closed at about this size: it lies in memory until then, for each file that is written.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// Rows that the writer takes at once between two looks at the file's size.
const ROWS_AT_ONCE: usize = 8192;

/// Writes the files of one commit of one table. Several may work side by side.
pub struct Files {
    writer: DeltaWriter,
    rows: u64,
    table: String,
    /// Partition columns of type STRING, by position.
    texts: Vec<usize>,
}

impl Files {
    pub(super) fn new(
        location: &Location,
        schema: &SchemaRef,
        partition_by: &[String],
        properties: &Properties,
    ) -> Self {
        let store = PrefixStore::new(Arc::clone(location.store()), location.path().clone());
        let config = WriterConfig::new(
            SchemaRef::clone(schema),
            partition_by.to_vec(),
            Some(parquet_properties(schema, properties)),
            NonZeroU64::new(properties.target_file_bytes),
            Some(ROWS_AT_ONCE),
            DataSkippingNumIndexedCols::NumColumns(STATISTICS_COLUMNS),
            None,
        );
        let writer = DeltaWriter::new(Arc::new(store), config);
        Self { writer, rows: 0, table: location.to_string(), texts: text_partitions(schema, partition_by) }
    }

    /// Adds rows. The batch has the table's schema.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        let batch = self.without_empty_partitions(batch)?;
        let written = self.writer.write(&batch).await;
        written.map_err(|error| fault(format!("cannot write to table `{}`", self.table), error))
    }

    /// In Delta's log the empty text is how NULL is written as a partition's value: every other reader would say NULL, and so
    /// it is NULL for us, as it is for Spark.
    fn without_empty_partitions(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        for &index in &self.texts {
            let Some(texts) = columns[index].as_string_opt::<i32>() else { continue };
            if texts.iter().any(|text| text == Some("")) {
                let texts: StringArray = texts.iter().map(|text| text.filter(|text| !text.is_empty())).collect();
                columns[index] = Arc::new(texts);
            }
        }
        RecordBatch::try_new(batch.schema(), columns).map_err(|error| Error::internal(error.to_string()))
    }

    /// Closes the files; answers what a commit has to name, and the number of rows.
    pub async fn close(self) -> Result<(Vec<Add>, u64)> {
        let adds = self.writer.close().await;
        let adds = adds.map_err(|error| fault(format!("cannot write to table `{}`", self.table), error))?;
        Ok((adds, self.rows))
    }

    /// Gives the files up. What a failed upload leaves behind would be seen by nobody, and paid for.
    pub async fn abort(self) {
        if let Err(error) = self.writer.abort().await {
            tracing::warn!(table = self.table, %error, "an upload could not be given up; the store may keep its parts");
        }
    }
}

fn text_partitions(schema: &SchemaRef, partition_by: &[String]) -> Vec<usize> {
    let texts = schema.fields().iter().enumerate().filter(|(_, field)| *field.data_type() == DataType::Utf8);
    texts.filter(|(_, field)| partition_by.contains(field.name())).map(|(index, _)| index).collect()
}

/// Readers lose rows of a float column where NaN was left out of min and max, as Parquet's writer does, so float columns
/// have neither \[DESIGN §6.5\]; nor have wide decimals.
fn parquet_properties(schema: &SchemaRef, properties: &Properties) -> WriterProperties {
    let builder = WriterProperties::builder()
        .set_created_by(concat!("pinsql ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(compression(&properties.codec))
        .set_write_batch_size(ROWS_AT_ONCE)
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_statistics_enabled(EnabledStatistics::Chunk);
    schema::paths_without_bounds(schema)
        .into_iter()
        .fold(builder, |builder, path| {
            builder.set_column_statistics_enabled(ColumnPath::new(path), EnabledStatistics::None)
        })
        .build()
}

fn compression(codec: &str) -> Compression {
    match codec {
        "zstd" => Compression::ZSTD(parquet::basic::ZstdLevel::default()),
        "none" | "uncompressed" => Compression::UNCOMPRESSED,
        _ => Compression::SNAPPY,
    }
}
