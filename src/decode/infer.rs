//! The columns of a sample of records.
//!
//! Uses the parser and the envelopes. Types widen as records are seen: integers and floats meet in DOUBLE, anything
//! else that differs meets in STRING. Text stays text: dates and timestamps are declared, not guessed.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};

use super::envelope::{Envelope, unwrap};
use super::parse::{Cursor, Parse, unescape};
use super::{check_utf8, convert, start};

/// What was seen of a value so far.
#[derive(Debug, Default)]
enum Shape {
    #[default]
    Null,
    Boolean,
    Integer,
    Float,
    Text,
    List(Box<Shape>),
    Struct(Members),
}

/// The fields of an object by their folded names, in the order of first appearance.
#[derive(Debug, Default)]
struct Members {
    shapes: Vec<(String, Shape)>,
    index: HashMap<String, usize>,
}

impl Shape {
    /// Widens to what holds both.
    fn merge(&mut self, other: Self) {
        *self = match (std::mem::take(self), other) {
            (Self::Null, shape) | (shape, Self::Null) => shape,
            (Self::Boolean, Self::Boolean) => Self::Boolean,
            (Self::Integer, Self::Integer) => Self::Integer,
            (Self::Integer | Self::Float, Self::Integer | Self::Float) => Self::Float,
            (Self::List(mut item), Self::List(other)) => {
                item.merge(*other);
                Self::List(item)
            }
            (Self::Struct(mut members), Self::Struct(other)) => {
                other.shapes.into_iter().for_each(|(name, shape)| members.add(name, shape));
                Self::Struct(members)
            }
            _ => Self::Text,
        };
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::List(item) => DataType::List(Arc::new(Field::new("item", item.data_type(), true))),
            // An object that never had a key has no fields to make a STRUCT of: its text is kept.
            Self::Struct(members) if !members.shapes.is_empty() => DataType::Struct(members.fields()),
            Self::Null | Self::Text | Self::Struct(_) => DataType::Utf8,
        }
    }
}

impl Members {
    fn add(&mut self, name: String, shape: Shape) {
        match self.index.get(&name).and_then(|index| self.shapes.get_mut(*index)) {
            Some((_, seen)) => seen.merge(shape),
            None => {
                self.index.insert(name.clone(), self.shapes.len());
                self.shapes.push((name, shape));
            }
        }
    }

    fn fields(&self) -> Fields {
        self.shapes.iter().map(|(name, shape)| Field::new(name, shape.data_type(), true)).collect()
    }
}

/// The columns that hold these records. Records that cannot be read are passed over; None if there is no other.
pub fn infer<'a>(records: impl Iterator<Item = &'a [u8]>, envelope: &Envelope) -> Option<Schema> {
    let mut seen = None;
    for record in records {
        let Ok(rows) = shapes(record, envelope) else { continue };
        for row in rows {
            seen.get_or_insert_with(Shape::default).merge(row);
        }
    }
    match seen? {
        Shape::Struct(members) => Some(Schema::new(members.fields())),
        _ => None,
    }
}

/// The shapes of the rows in a record.
fn shapes(record: &[u8], envelope: &Envelope) -> Parse<Vec<Shape>> {
    check_utf8(record)?;
    if envelope.may_wrap(record) {
        let inside = unwrap(record, envelope)?;
        return inside.rows.iter().map(|row| object(&inside.text, row.start).map(|(shape, _)| shape)).collect();
    }
    let mut cursor = Cursor::new(record);
    start(&mut cursor)?;
    if cursor.peek() != Some(b'{') {
        return Err(cursor.unexpected());
    }
    let (shape, end) = object(record, cursor.at)?;
    cursor.at = end;
    cursor.end()?;
    Ok(vec![shape])
}

/// The shape of the object at a place, and where it ends.
fn object(text: &[u8], at: usize) -> Parse<(Shape, usize)> {
    let mut cursor = Cursor::new(text);
    cursor.at = at;
    let shape = value(&mut cursor, 0)?;
    Ok((shape, cursor.at))
}

/// Recursive, but never deeper than the nesting that the cursor allows.
fn value(cursor: &mut Cursor<'_>, depth: usize) -> Parse<Shape> {
    let start = cursor.peek();
    match start {
        Some(b'{') => members(cursor, depth),
        Some(b'[') => items(cursor, depth),
        Some(b'-' | b'0'..=b'9') => {
            let number = cursor.number()?;
            let whole = number.integer && convert::integer(number.text).is_some();
            Ok(if whole { Shape::Integer } else { Shape::Float })
        }
        _ => {
            cursor.skip(depth)?;
            Ok(match start {
                Some(b'"') => Shape::Text,
                Some(b'n') => Shape::Null,
                _ => Shape::Boolean,
            })
        }
    }
}

fn items(cursor: &mut Cursor<'_>, depth: usize) -> Parse<Shape> {
    let depth = cursor.deeper(depth)?;
    let mut item = Shape::Null;
    let mut more = cursor.peek() != Some(b']');
    while more {
        item.merge(value(cursor, depth)?);
        more = comma(cursor, b']')?;
    }
    cursor.expect(b']')?;
    Ok(Shape::List(Box::new(item)))
}

fn members(cursor: &mut Cursor<'_>, depth: usize) -> Parse<Shape> {
    let depth = cursor.deeper(depth)?;
    let mut members = Members::default();
    let mut more = cursor.peek() != Some(b'}');
    while more {
        let mut name = Vec::new();
        unescape(cursor.key()?.raw, &mut name);
        members.add(String::from_utf8_lossy(&name).to_lowercase(), value(cursor, depth)?);
        more = comma(cursor, b'}')?;
    }
    cursor.expect(b'}')?;
    Ok(Shape::Struct(members))
}

/// Steps over a comma, if there is one.
fn comma(cursor: &mut Cursor<'_>, closing: u8) -> Parse<bool> {
    cursor.blank();
    if cursor.peek() != Some(b',') {
        return Ok(false);
    }
    cursor.at += 1;
    cursor.after_comma(closing)?;
    Ok(true)
}
