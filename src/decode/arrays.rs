//! Grown columns into arrays of Arrow.
//!
//! Uses the columns. A finished column gives its buffers away without a copy and begins anew, with as much room as the
//! last batch took.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, ListArray, MapArray, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, Fields as ArrowFields};
use arrow::error::ArrowError;

use super::columns::{Column, Data, Width};
use super::fields::Fields;

/// The values, with as much room for the next batch as this one took.
fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(values.len());
    std::mem::replace(values, room)
}

pub(super) fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let taken = take(offsets);
    offsets.push(0);
    OffsetBuffer::new(ScalarBuffer::from(taken))
}

impl Data {
    /// Takes the values out, with these nulls.
    pub(super) fn take(&mut self, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Boolean(values) => Arc::new(BooleanArray::new(BooleanBuffer::from(take(values)), nulls)),
            Self::Integer(width, values) => integers(*width, take(values), nulls)?,
            Self::Float { single: true, values } => {
                let values: Vec<f32> = take(values).into_iter().map(|value| value as f32).collect();
                Arc::new(Float32Array::try_new(values.into(), nulls)?)
            }
            Self::Float { single: false, values } => Arc::new(Float64Array::try_new(take(values).into(), nulls)?),
            Self::Decimal { precision, scale, values } => {
                let array = Decimal128Array::try_new(take(values).into(), nulls)?;
                Arc::new(array.with_precision_and_scale(*precision, *scale)?)
            }
            Self::Text(strings) => {
                let (offsets, bytes) = strings.take();
                Arc::new(StringArray::try_new(offsets, bytes, nulls)?)
            }
            Self::Binary(strings) => {
                let (offsets, bytes) = strings.take();
                Arc::new(BinaryArray::try_new(offsets, bytes, nulls)?)
            }
            Self::Date(values) => Arc::new(Date32Array::try_new(take(values).into(), nulls)?),
            Self::Timestamp(values) => {
                Arc::new(TimestampMicrosecondArray::try_new(take(values).into(), nulls)?.with_timezone("UTC"))
            }
            Self::List { field, offsets, child } => {
                let values = child.array()?;
                Arc::new(ListArray::try_new(Arc::clone(field), take_offsets(offsets), values, nulls)?)
            }
            Self::Struct { fields, children } => structs(fields, children, nulls)?,
            Self::Map { field, keys, values, offsets } => {
                let (ends, bytes) = keys.take();
                let keys: ArrayRef = Arc::new(StringArray::try_new(ends, bytes, None)?);
                let DataType::Struct(entry) = field.data_type() else { return Ok(keys) };
                let entries = StructArray::try_new(entry.clone(), vec![keys, values.array()?], None)?;
                Arc::new(MapArray::try_new(Arc::clone(field), take_offsets(offsets), entries, nulls, false)?)
            }
        })
    }
}

fn structs(fields: &ArrowFields, children: &mut Fields, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
    let arrays = children.columns_mut().map(Column::array).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StructArray::try_new(fields.clone(), arrays, nulls)?))
}

fn integers(width: Width, values: Vec<i64>, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
    Ok(match width {
        Width::Tiny => Arc::new(Int8Array::try_new(narrow(&values, |value| value as i8), nulls)?),
        Width::Small => Arc::new(Int16Array::try_new(narrow(&values, |value| value as i16), nulls)?),
        Width::Int => Arc::new(Int32Array::try_new(narrow(&values, |value| value as i32), nulls)?),
        Width::Big => Arc::new(Int64Array::try_new(values.into(), nulls)?),
    })
}

/// Every value was held against the bounds of its width when it was read: nothing is lost here.
fn narrow<T: ArrowNativeType>(values: &[i64], cast: fn(i64) -> T) -> ScalarBuffer<T> {
    values.iter().map(|value| cast(*value)).collect::<Vec<T>>().into()
}
