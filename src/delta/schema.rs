//! Which Arrow schemas become Delta tables, and how.
//!
//! Floor 2: uses `error`. The rules are those of DESIGN §6: timestamps are UTC microseconds (a naive one would raise the
//! protocol), every column is nullable, an all-null column is STRING, and what Delta or Spark cannot hold is refused here,
//! while the query is being planned.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use arrow::util::display::FormatOptions;

use crate::error::{Error, Result};

/// Characters that Delta forbids in a column's name as long as the table has no column mapping.
const FORBIDDEN: [char; 10] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// The schema of the Delta table that holds what a query gives.
///
/// # Errors
/// No column at all, two names that differ only by case, a character that Delta forbids, a type that it does not know.
pub fn table_schema(query: &Schema) -> Result<SchemaRef> {
    if query.fields().is_empty() {
        return Err(Error::sql("the query has no columns").hint("select at least one"));
    }
    let mut fields: Vec<FieldRef> = Vec::with_capacity(query.fields().len());
    for field in query.fields() {
        if let Some(twin) = fields.iter().find(|other| other.name().eq_ignore_ascii_case(field.name())) {
            return Err(Error::sql(format!("two columns are called `{}` and `{}`", twin.name(), field.name()))
                .hint("give one of them another name with AS; Delta does not tell names apart by case"));
        }
        fields.push(table_field(field, field.name())?);
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn table_field(field: &Field, path: &str) -> Result<FieldRef> {
    if let Some(character) = field.name().chars().find(|character| FORBIDDEN.contains(character)) {
        return Err(Error::sql(format!(
            "the column name `{path}` holds `{}`, which Delta forbids",
            character.escape_default()
        ))
        .hint("give the column a plain name with AS"));
    }
    Ok(Arc::new(Field::new(field.name(), table_type(field.data_type(), path)?, true)))
}

fn table_type(data_type: &DataType, path: &str) -> Result<DataType> {
    Ok(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Utf8
        | DataType::Binary
        | DataType::Decimal128(..) => data_type.clone(),
        DataType::Null | DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        // A UInt64 that does not fit fails the run; counts and row numbers do.
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Dictionary(_, value) => table_type(value, path)?,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            let element = table_type(item.data_type(), &format!("{path}.element"))?;
            DataType::List(Arc::new(Field::new("element", element, true)))
        }
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|field| table_field(field, &format!("{path}.{}", field.name())))
                .collect::<Result<Fields>>()?,
        ),
        DataType::Map(entries, _) => map_type(entries, path)?,
        other => return Err(unsupported(path, other)),
    })
}

fn map_type(entries: &Field, path: &str) -> Result<DataType> {
    let DataType::Struct(fields) = entries.data_type() else { return Err(unsupported(path, entries.data_type())) };
    let [key, value] = &fields[..] else { return Err(unsupported(path, entries.data_type())) };
    let key = Field::new("key", table_type(key.data_type(), &format!("{path}.key"))?, false);
    let value = Field::new("value", table_type(value.data_type(), &format!("{path}.value"))?, true);
    let entries = DataType::Struct(Fields::from(vec![key, value]));
    Ok(DataType::Map(Arc::new(Field::new("key_value", entries, false)), false))
}

fn unsupported(path: &str, data_type: &DataType) -> Error {
    let name = crate::error::in_sql_types(&data_type.to_string());
    Error::sql(format!("column `{path}` is of type {name}, which Delta does not have"))
        .hint("cast it, for example to STRING, BIGINT or TIMESTAMP")
}

/// Casts a batch to the table's schema, column by column. A value that does not fit is an error, never a NULL.
pub fn to_table(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    let columns: Result<Vec<ArrayRef>> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                return Ok(Arc::clone(column));
            }
            cast_with_options(column, field.data_type(), &options).map_err(|error| {
                Error::data(format!("a value of column `{}` does not fit its type: {error}", field.name()))
                    .hint("use TRY_CAST in the query, or give the column a wider type")
            })
        })
        .collect();
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns?, &rows)
        .map_err(|error| Error::internal(error.to_string()))
}

/// Decimals with more digits than these do not survive the way through an f64.
const EXACT_DIGITS: u8 = 15;

/// The paths of all columns in a Parquet file of this schema, nested ones too, whose smallest and greatest value must not be
/// told, because readers would skip files that hold what they look for: floats, where NaN is left out of both, and wide
/// decimals, which delta-rs rounds.
pub fn paths_without_bounds(schema: &Schema) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for field in schema.fields() {
        collect_unbounded(field, Vec::new(), &mut paths);
    }
    paths
}

fn collect_unbounded(field: &Field, mut path: Vec<String>, found: &mut Vec<Vec<String>>) {
    path.push(field.name().clone());
    match field.data_type() {
        DataType::Float32 | DataType::Float64 => found.push(path),
        DataType::Decimal128(precision, _) if *precision > EXACT_DIGITS => found.push(path),
        DataType::List(item) => {
            path.push("list".to_owned());
            collect_unbounded(item, path, found);
        }
        DataType::Struct(fields) => fields.iter().for_each(|child| collect_unbounded(child, path.clone(), found)),
        DataType::Map(entries, _) => collect_unbounded(entries, path, found),
        _ => {}
    }
}
