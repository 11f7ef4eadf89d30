//! Typed columns that grow value by value, and can be taken back to any length.
//!
//! Uses the parser, the conversions and, for STRUCT, the fields. Each type of Arrow that a table can have is one variant
//! of [`Data`]. A column that the query does not read is checked like the others and keeps nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, NullBufferBuilder};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, FieldRef, Fields as ArrowFields, TimeUnit};
use arrow::error::ArrowError;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::arrays::take_offsets;
use super::convert;
use super::fields::Fields;
use super::parse::{Cursor, Fault, Parse, Quoted, compact, describe, unescape};
use super::type_name;
use crate::error::{Error, Result};

/// Base64 with or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Byte strings of any length, one behind the other.
pub(super) struct Strings {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

/// The integer types: one column of i64 with the bounds of its type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Width {
    Tiny,
    Small,
    Int,
    Big,
}

/// The values of a column. The decoder bounds a batch so that offsets fit an i32.
pub(super) enum Data {
    Boolean(Vec<bool>),
    Integer(Width, Vec<i64>),
    Float { single: bool, values: Vec<f64> },
    Decimal { precision: u8, scale: i8, values: Vec<i128> },
    Text(Strings),
    Binary(Strings),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
    List { field: FieldRef, offsets: Vec<i32>, child: Box<Column> },
    Struct { fields: ArrowFields, children: Box<Fields> },
    Map { field: FieldRef, keys: Strings, values: Box<Column>, offsets: Vec<i32> },
}

/// One column.
pub(super) struct Column {
    name: String,
    keep: bool,
    nulls: NullBufferBuilder,
    data: Data,
    /// For strings with escapes on their way to another type.
    scratch: Vec<u8>,
}

impl Strings {
    fn new() -> Self {
        Self { offsets: vec![0], bytes: Vec::new() }
    }

    /// Ends the value that was appended.
    #[inline]
    fn end(&mut self) {
        self.offsets.push(self.bytes.len() as i32);
    }

    fn truncate(&mut self, len: usize) {
        if let Some(end) = self.offsets.get(len) {
            self.bytes.truncate(*end as usize);
        }
        self.offsets.truncate(len + 1);
    }

    #[inline]
    fn push(&mut self, quoted: Quoted<'_>) {
        if quoted.escaped {
            unescape(quoted.raw, &mut self.bytes);
        } else {
            self.bytes.extend_from_slice(quoted.raw);
        }
        self.end();
    }

    /// Takes the values out.
    pub fn take(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        let bytes = Vec::with_capacity(self.bytes.len());
        (take_offsets(&mut self.offsets), std::mem::replace(&mut self.bytes, bytes).into())
    }
}

impl Width {
    fn fits(self, value: i64) -> bool {
        match self {
            Self::Tiny => i8::try_from(value).is_ok(),
            Self::Small => i16::try_from(value).is_ok(),
            Self::Int => i32::try_from(value).is_ok(),
            Self::Big => true,
        }
    }
}

impl Column {
    /// An empty column of a type; an error names what cannot be decoded.
    pub fn new(data_type: &DataType, keep: bool) -> Result<Self> {
        let data = match data_type {
            DataType::Boolean => Data::Boolean(Vec::new()),
            DataType::Int8 => Data::Integer(Width::Tiny, Vec::new()),
            DataType::Int16 => Data::Integer(Width::Small, Vec::new()),
            DataType::Int32 => Data::Integer(Width::Int, Vec::new()),
            DataType::Int64 => Data::Integer(Width::Big, Vec::new()),
            DataType::Float32 => Data::Float { single: true, values: Vec::new() },
            DataType::Float64 => Data::Float { single: false, values: Vec::new() },
            DataType::Decimal128(precision, scale) => {
                Data::Decimal { precision: *precision, scale: *scale, values: Vec::new() }
            }
            DataType::Utf8 => Data::Text(Strings::new()),
            DataType::Binary => Data::Binary(Strings::new()),
            DataType::Date32 => Data::Date(Vec::new()),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => {
                Data::Timestamp(Vec::new())
            }
            DataType::List(field) => Data::List {
                field: Arc::clone(field),
                offsets: vec![0],
                child: Box::new(Self::new(field.data_type(), keep)?),
            },
            DataType::Struct(fields) => {
                Data::Struct { fields: fields.clone(), children: Box::new(Fields::new(fields, |_| keep, None)?) }
            }
            DataType::Map(field, _) => Data::map(field, keep)?,
            other => return Err(unsupported(other)),
        };
        let name = type_name(data_type);
        Ok(Self { name, keep, nulls: NullBufferBuilder::new(0), data, scratch: Vec::new() })
    }

    /// How many values there are. A column that keeps nothing has none.
    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Appends NULL.
    pub fn push_null(&mut self) {
        if !self.keep {
            return;
        }
        match &mut self.data {
            Data::Boolean(values) => values.push(false),
            Data::Integer(_, values) | Data::Timestamp(values) => values.push(0),
            Data::Float { values, .. } => values.push(0.0),
            Data::Decimal { values, .. } => values.push(0),
            Data::Date(values) => values.push(0),
            Data::Text(strings) | Data::Binary(strings) => strings.end(),
            Data::List { offsets, child, .. } => offsets.push(child.len() as i32),
            Data::Map { offsets, values, .. } => offsets.push(values.len() as i32),
            Data::Struct { children, .. } => children.push_null(),
        }
        self.nulls.append_null();
    }

    /// Appends a text as it is; only for columns of strings.
    pub fn push_text(&mut self, text: &str) {
        if let (true, Data::Text(strings)) = (self.keep, &mut self.data) {
            strings.bytes.extend_from_slice(text.as_bytes());
            strings.end();
            self.nulls.append_non_null();
        }
    }

    /// Takes back all values from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if !self.keep || self.reached() <= len {
            return;
        }
        if len < self.nulls.len() {
            self.nulls.truncate(len);
        }
        match &mut self.data {
            Data::Boolean(values) => values.truncate(len),
            Data::Integer(_, values) | Data::Timestamp(values) => values.truncate(len),
            Data::Float { values, .. } => values.truncate(len),
            Data::Decimal { values, .. } => values.truncate(len),
            Data::Date(values) => values.truncate(len),
            Data::Text(strings) | Data::Binary(strings) => strings.truncate(len),
            Data::List { offsets, child, .. } => {
                offsets.truncate(len + 1);
                child.truncate(offsets.last().copied().unwrap_or_default() as usize);
            }
            Data::Map { offsets, keys, values, .. } => {
                offsets.truncate(len + 1);
                let end = offsets.last().copied().unwrap_or_default() as usize;
                keys.truncate(end);
                values.truncate(end);
            }
            Data::Struct { children, .. } => children.truncate(len),
        }
    }

    /// The length, counting a value that was left half-written: nested values can have begun before their parent has.
    fn reached(&self) -> usize {
        match &self.data {
            Data::List { .. } | Data::Struct { .. } | Data::Map { .. } => usize::MAX,
            _ => self.nulls.len(),
        }
    }

    /// Reads a value and appends it. After a misfit the column may hold half a value: the caller truncates.
    #[inline]
    pub fn value(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Parse<()> {
        if cursor.peek() == Some(b'n') {
            cursor.literal("null")?;
            self.push_null();
            return Ok(());
        }
        let keep = self.keep;
        match &mut self.data {
            Data::Text(strings) => {
                if cursor.peek() == Some(b'"') {
                    let quoted = cursor.string()?;
                    if keep {
                        strings.push(quoted);
                    }
                } else {
                    let start = cursor.at;
                    cursor.skip(depth)?;
                    if keep {
                        compact(cursor.text.get(start..cursor.at).unwrap_or_default(), &mut strings.bytes);
                        strings.end();
                    }
                }
            }
            Data::Integer(..) | Data::Float { .. } | Data::Decimal { .. } => self.number(cursor, depth)?,
            Data::Boolean(values) => {
                let value = boolean(cursor, depth)?;
                if keep {
                    values.push(value);
                }
            }
            Data::Binary(_) | Data::Date(_) | Data::Timestamp(_) => self.quoted(cursor, depth)?,
            Data::List { .. } => self.list(cursor, depth)?,
            Data::Map { .. } => self.map(cursor, depth)?,
            Data::Struct { children, .. } => match cursor.peek() {
                Some(b'{') => children.object(cursor, depth, self.nulls.len())?,
                _ => return Err(cursor.mismatch(&self.name, depth)),
            },
        }
        if keep {
            self.nulls.append_non_null();
        }
        Ok(())
    }

    #[inline]
    fn number(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Parse<()> {
        let Some(b'-' | b'0'..=b'9') = cursor.peek() else { return Err(cursor.mismatch(&self.name, depth)) };
        let number = cursor.number()?;
        let keep = self.keep;
        let fits = match &mut self.data {
            Data::Integer(width, values) => {
                if !number.integer {
                    return Err(misfit(&self.name, number.text));
                }
                convert::integer(number.text).filter(|value| width.fits(*value)).map(|value| push(keep, values, value))
            }
            Data::Float { single: false, values } => {
                convert::double(number.text).map(|value| push(keep, values, value))
            }
            Data::Float { single: true, values } => convert::single(number.text).map(|value| push(keep, values, value)),
            Data::Decimal { precision, scale, values } => {
                convert::decimal(number.text, *precision, *scale).map(|value| push(keep, values, value))
            }
            _ => None,
        };
        fits.ok_or_else(|| out_of_range(&self.name, number.text))
    }

    /// The types whose values are strings of a certain form; TIMESTAMP is also a number of seconds.
    fn quoted(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Parse<()> {
        let start = cursor.at;
        let keep = self.keep;
        if let (Data::Timestamp(values), Some(b'-' | b'0'..=b'9')) = (&mut self.data, cursor.peek()) {
            let number = cursor.number()?;
            if !number.integer {
                return Err(misfit(&self.name, number.text));
            }
            let value = convert::seconds(number.text).ok_or_else(|| out_of_range(&self.name, number.text))?;
            push(keep, values, value);
            return Ok(());
        }
        if cursor.peek() != Some(b'"') {
            return Err(cursor.mismatch(&self.name, depth));
        }
        let quoted = cursor.string()?;
        let mut text = quoted.raw;
        if quoted.escaped {
            self.scratch.clear();
            unescape(quoted.raw, &mut self.scratch);
            text = &self.scratch;
        }
        let fits = match &mut self.data {
            Data::Date(values) => convert::date(text).map(|value| push(keep, values, value)),
            Data::Timestamp(values) => convert::timestamp(text).map(|value| push(keep, values, value)),
            Data::Binary(strings) => BASE64.decode(text).ok().map(|bytes| {
                if keep {
                    strings.bytes.extend_from_slice(&bytes);
                    strings.end();
                }
            }),
            _ => None,
        };
        fits.ok_or_else(|| misfit(&self.name, cursor.text.get(start..cursor.at).unwrap_or_default()))
    }

    fn list(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Parse<()> {
        let Data::List { offsets, child, .. } = &mut self.data else { return Ok(()) };
        if cursor.peek() != Some(b'[') {
            return Err(cursor.mismatch(&self.name, depth));
        }
        let depth = cursor.deeper(depth)?;
        let mut fault = None;
        let mut more = cursor.peek() != Some(b']');
        let mut index = 0;
        while more {
            if let Some(found) = child.element(cursor, depth)? {
                fault.get_or_insert_with(|| found.within(&format!("[{index}]")));
            }
            index += 1;
            cursor.blank();
            more = cursor.peek() == Some(b',');
            if more {
                cursor.at += 1;
                cursor.after_comma(b']')?;
            }
        }
        cursor.expect(b']')?;
        if self.keep {
            offsets.push(child.len() as i32);
        }
        fault.map_or(Ok(()), Err)
    }

    /// Reads one value inside a list or a map. A misfit is NULL, and told unless the cursor is lenient.
    #[inline]
    fn element(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Parse<Option<Box<Fault>>> {
        let before = self.len();
        match self.value(cursor, depth) {
            Ok(()) => Ok(None),
            Err(fault) if fault.syntax => Err(fault),
            Err(fault) => {
                self.truncate(before);
                self.push_null();
                cursor.misfit |= cursor.lenient;
                Ok((!cursor.lenient).then_some(fault))
            }
        }
    }

    /// A map is read twice, first its keys: of two values of one key only the last counts.
    fn map(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Parse<()> {
        let Data::Map { keys, values, offsets, .. } = &mut self.data else { return Ok(()) };
        if cursor.peek() != Some(b'{') {
            return Err(cursor.mismatch(&self.name, depth));
        }
        let entries = map_entries(cursor, depth)?;
        let end = cursor.at;
        let mut fault = None;
        for (key, start) in entries {
            cursor.at = start;
            if let Some(found) = values.element(cursor, depth + 1)? {
                fault.get_or_insert_with(|| found.within(&String::from_utf8_lossy(&key)));
            }
            if self.keep {
                keys.bytes.extend_from_slice(&key);
                keys.end();
            }
        }
        cursor.at = end;
        if self.keep {
            offsets.push(values.len() as i32);
        }
        fault.map_or(Ok(()), Err)
    }

    /// Takes all values out as an array and begins anew.
    pub fn take(&mut self) -> Result<ArrayRef> {
        self.array().map_err(|error| Error::internal("a decoded column is not sound").caused_by(error))
    }

    /// The same, inside another column.
    pub fn array(&mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.nulls.finish();
        self.data.take(nulls)
    }
}

impl Data {
    fn map(field: &FieldRef, keep: bool) -> Result<Self> {
        let DataType::Struct(entry) = field.data_type() else { return Err(unsupported(field.data_type())) };
        let [key, value] = entry.as_ref() else { return Err(unsupported(field.data_type())) };
        if key.data_type() != &DataType::Utf8 {
            return Err(Error::sql(format!(
                "a map with keys of type {} cannot be read from JSON",
                type_name(key.data_type())
            ))
            .hint("keys of JSON objects are strings: declare MAP<STRING, …>"));
        }
        let values = Box::new(Column::new(value.data_type(), keep)?);
        Ok(Self::Map { field: Arc::clone(field), keys: Strings::new(), values, offsets: vec![0] })
    }
}

#[inline]
fn push<T>(keep: bool, values: &mut Vec<T>, value: T) {
    if keep {
        values.push(value);
    }
}

#[inline]
fn boolean(cursor: &mut Cursor<'_>, depth: usize) -> Parse<bool> {
    match cursor.peek() {
        Some(b't') => cursor.literal("true").map(|()| true),
        Some(b'f') => cursor.literal("false").map(|()| false),
        _ => Err(cursor.mismatch("BOOLEAN", depth)),
    }
}

/// The keys of an object, each with the place of its last value; in the order of first appearance.
fn map_entries(cursor: &mut Cursor<'_>, depth: usize) -> Parse<Vec<(Vec<u8>, usize)>> {
    let depth = cursor.deeper(depth)?;
    let mut entries: Vec<(Vec<u8>, usize)> = Vec::new();
    let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut more = cursor.peek() != Some(b'}');
    while more {
        let mut key = Vec::new();
        unescape(cursor.key()?.raw, &mut key);
        let index = *known.entry(key.clone()).or_insert(entries.len());
        match entries.get_mut(index) {
            Some(entry) => entry.1 = cursor.at,
            None => entries.push((key, cursor.at)),
        }
        cursor.skip(depth)?;
        cursor.blank();
        more = cursor.peek() == Some(b',');
        if more {
            cursor.at += 1;
            cursor.after_comma(b'}')?;
        }
    }
    cursor.expect(b'}')?;
    Ok(entries)
}

#[cold]
fn misfit(name: &str, value: &[u8]) -> Box<Fault> {
    Fault::misfit(format!("expected {name}, found {}", describe(value)))
}

#[cold]
fn out_of_range(name: &str, number: &[u8]) -> Box<Fault> {
    Fault::misfit(format!("{} does not fit {name}", describe(number)))
}

fn unsupported(data_type: &DataType) -> Error {
    Error::sql(format!("type {} cannot be read from JSON", type_name(data_type)))
        .hint("declare the column as STRING and cast it in the query")
}
