//! One object's keys into the columns of its fields, with duplicates, missing keys and misfits.
//!
//! Uses the parser, the keys and the columns. The object is the record itself or a STRUCT inside it.

use arrow::datatypes::Fields as ArrowFields;

use super::columns::Column;
use super::keys::{Keys, Match};
use super::parse::{Cursor, Fault, Parse};
use crate::error::Result;

/// One column and what the present object has said about it.
struct Field {
    name: String,
    column: Column,
    /// The last object with a key for it.
    seen: u64,
    /// The last object with a key that is exactly its name.
    exact: u64,
}

/// The columns of an object.
pub(super) struct Fields {
    fields: Vec<Field>,
    keys: Keys,
    /// The number of the present object.
    object: u64,
    /// Fields of the present object whose last value does not fit.
    faults: Vec<(usize, Box<Fault>)>,
}

impl Fields {
    /// Columns for these fields. `keep` says which are built; all are checked. `rescued` is filled by no key.
    pub fn new(fields: &ArrowFields, keep: impl Fn(usize) -> bool, rescued: Option<usize>) -> Result<Self> {
        let names = fields.iter().enumerate().map(|(i, field)| (Some(i) != rescued).then_some(field.name().as_str()));
        let keys = Keys::new(names);
        let mut columns = Vec::with_capacity(fields.len());
        for (i, field) in fields.iter().enumerate() {
            let column = Column::new(field.data_type(), keep(i))
                .map_err(|error| error.context(format!("`{}`", field.name())))?;
            columns.push(Field { name: field.name().clone(), column, seen: 0, exact: 0 });
        }
        Ok(Self { fields: columns, keys, object: 0, faults: Vec::new() })
    }

    /// Reads one object below `depth` levels as row number `row`; the cursor stands at its opening bracket.
    pub fn object(&mut self, cursor: &mut Cursor<'_>, depth: usize, row: usize) -> Parse<()> {
        let depth = cursor.deeper(depth)?;
        self.object += 1;
        self.faults.clear();
        let mut previous = 0;
        let mut seen = 0;
        if cursor.peek() == Some(b'}') {
            cursor.at += 1;
            return self.close(cursor, seen);
        }
        loop {
            let (entry, found) = self.keys.read(cursor, previous)?;
            previous = entry;
            match found {
                Some(found) => seen += usize::from(self.member(found, cursor, depth, row)?),
                None => cursor.skip(depth)?,
            }
            cursor.blank();
            match cursor.peek() {
                Some(b',') => {
                    cursor.at += 1;
                    cursor.after_comma(b'}')?;
                }
                Some(b'}') => {
                    cursor.at += 1;
                    return self.close(cursor, seen);
                }
                _ => return Err(cursor.unexpected()),
            }
        }
    }

    /// Reads the value of a key. True if it is the first for its field in this object.
    #[inline]
    fn member(&mut self, found: Match, cursor: &mut Cursor<'_>, depth: usize, row: usize) -> Parse<bool> {
        let Some(field) = self.fields.get_mut(found.field) else { return Ok(false) };
        let first = field.seen != self.object;
        if !first {
            if field.exact == self.object && !found.exact {
                cursor.skip(depth)?;
                return Ok(false);
            }
            field.column.truncate(row);
            self.faults.retain(|(faulty, _)| *faulty != found.field);
        }
        field.seen = self.object;
        if found.exact {
            field.exact = self.object;
        }
        if let Err(fault) = field.column.value(cursor, depth) {
            let fault = fault.within(&field.name);
            if fault.syntax {
                return Err(fault);
            }
            field.column.truncate(row);
            field.column.push_null();
            self.faults.push((found.field, fault));
        }
        Ok(first)
    }

    /// The object is over: what had no key is NULL, and a misfit that stayed is told.
    #[inline]
    fn close(&mut self, cursor: &mut Cursor<'_>, seen: usize) -> Parse<()> {
        if seen < self.fields.len() {
            let object = self.object;
            self.fields.iter_mut().filter(|field| field.seen != object).for_each(|field| field.column.push_null());
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        if cursor.lenient {
            cursor.misfit = true;
            return Ok(());
        }
        Err(self.faults.swap_remove(0).1)
    }

    /// A row of NULLs.
    pub fn push_null(&mut self) {
        self.columns_mut().for_each(Column::push_null);
    }

    /// Takes back all rows from `rows` on.
    pub fn truncate(&mut self, rows: usize) {
        self.columns_mut().for_each(|column| column.truncate(rows));
    }

    /// The columns, in order.
    pub fn columns_mut(&mut self) -> impl Iterator<Item = &mut Column> {
        self.fields.iter_mut().map(|field| &mut field.column)
    }

    /// One column.
    pub fn column_mut(&mut self, index: usize) -> Option<&mut Column> {
        self.fields.get_mut(index).map(|field| &mut field.column)
    }
}
