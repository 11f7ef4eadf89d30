//! Type names of Databricks and of SQL to Arrow, and back.
//!
//! Uses `error`, the text and the tokens. Children are nullable; a list's item is called `element` and a map's entries
//! `key_value` with `key` and `value`, as Delta and Spark call them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use datafusion::sql::sqlparser::tokenizer::{Token, Word};

use super::text::{Name, SqlText};
use super::tokens::{Cursor, tokenize};
use super::variables::Variables;
use crate::error::{Error, Result, nearest};

/// How deep types may be nested.
const MAX_DEPTH: usize = 64;

/// Every name that is taken, for "did you mean": of equally near ones the first is offered.
const TYPE_NAMES: [&str; 40] = [
    "STRING",
    "TEXT",
    "VARCHAR",
    "CHAR",
    "CHARACTER",
    "BIGINT",
    "LONG",
    "INT",
    "INTEGER",
    "SMALLINT",
    "SHORT",
    "TINYINT",
    "BYTE",
    "FLOAT",
    "REAL",
    "DOUBLE",
    "DECIMAL",
    "NUMERIC",
    "DEC",
    "BOOLEAN",
    "BOOL",
    "BINARY",
    "VARBINARY",
    "BYTEA",
    "DATE",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "TIMESTAMP_LTZ",
    "DATETIME",
    "ARRAY",
    "LIST",
    "STRUCT",
    "MAP",
    "NVARCHAR",
    "CLOB",
    "INT2",
    "INT4",
    "INT8",
    "FLOAT4",
    "FLOAT8",
];

/// Reads one type, as `ARRAY<STRUCT<a: INT, b STRING>>`. Errors carry no place: the caller knows where the text stands.
pub fn parse_type(text: &str) -> Result<DataType> {
    read(text, data_type)
}

/// Reads columns, as `ind BIGINT, coordinates ARRAY<DOUBLE>`: what a `schema` option holds. Errors carry no place.
pub fn parse_columns(text: &str) -> Result<Schema> {
    read(text, |cursor| {
        let mut fields = Vec::new();
        loop {
            let column = column(cursor)?;
            push_column(&mut fields, column)?;
            if !cursor.take(&Token::Comma) {
                return Ok(Schema::new(fields));
            }
        }
    })
}

fn read<T>(text: &str, with: impl FnOnce(&mut Cursor<'_>) -> Result<T>) -> Result<T> {
    let text = SqlText::new("schema", text);
    let result = tokenize(&text, &Variables::none()).and_then(|mut tokens| {
        tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
        let mut cursor = Cursor::new(&text, &tokens);
        let value = with(&mut cursor)?;
        if cursor.is_at_end() { Ok(value) } else { Err(cursor.expected("the end of the type")) }
    });
    // The place inside of a value is not a place in a file.
    result.map_err(|error| {
        let message = error.message().replace("the end of the statement", "the end");
        let bare = Error::new(error.kind(), message);
        error.hint_text().map(str::to_owned).into_iter().fold(bare, Error::hint)
    })
}

/// `(name type [COMMENT '…'], …)`.
pub(super) fn column_list(cursor: &mut Cursor<'_>) -> Result<Schema> {
    cursor.expect(&Token::LParen)?;
    let mut fields = Vec::new();
    loop {
        let column = column(cursor)?;
        push_column(&mut fields, column)?;
        if cursor.take(&Token::RParen) {
            return Ok(Schema::new(fields));
        }
        if !cursor.take(&Token::Comma) {
            return Err(cursor.expected("`,` or `)`"));
        }
    }
}

fn push_column(fields: &mut Vec<Field>, (name, data_type): (Name, DataType)) -> Result<()> {
    check_unique(&name, fields.iter().map(|field| field.name().as_str()))?;
    fields.push(Field::new(name.value, data_type, true));
    Ok(())
}

/// Delta tells names apart without case.
pub(super) fn check_unique<'a>(name: &Name, mut others: impl Iterator<Item = &'a str>) -> Result<()> {
    let folded = name.value.to_lowercase();
    if !others.any(|other| other.to_lowercase() == folded) {
        return Ok(());
    }
    Err(Error::sql(format!("the column `{name}` is given twice"))
        .hint("names are told apart without case")
        .at(name.place.clone()))
}

fn column(cursor: &mut Cursor<'_>) -> Result<(Name, DataType)> {
    let name = cursor.name("a column's name")?;
    // `a: INT` is how schemas print themselves.
    let _ = cursor.take(&Token::Colon);
    let data_type = data_type(cursor)?;
    comment_and_rest(cursor)?;
    Ok((name, data_type))
}

/// Reads the type of a column.
pub(super) fn data_type(cursor: &mut Cursor<'_>) -> Result<DataType> {
    let start = cursor.position();
    let mut reader = TypeReader::new(cursor);
    let data_type = reader.data_type()?;
    if reader.open == 0 {
        return Ok(data_type);
    }
    let place = cursor.place_since(start);
    Err(Error::sql("this type has a `>` too many").hint("close every `<` once").at(place))
}

/// What may stand behind a column's type; other clauses are refused with what to do instead.
pub(super) fn comment_and_rest(cursor: &mut Cursor<'_>) -> Result<Option<String>> {
    let comment =
        if cursor.take_word("COMMENT") { Some(cursor.string("the comment as a string")?.value) } else { None };
    let refused = [
        (
            &["NOT", "NULL"][..],
            "`NOT NULL`",
            "say CONSTRAINT name EXPECT (column IS NOT NULL) on the table that reads it",
        ),
        (&["DEFAULT"], "`DEFAULT`", "use coalesce in the SELECT"),
        (&["GENERATED"], "a generated column", "compute it in the SELECT"),
        (&["MASK"], "`MASK`", "leave the column out of the SELECT, or hash it there"),
        (&["PRIMARY", "KEY"], "`PRIMARY KEY`", "say which row of a key counts in the SELECT"),
        (&["UNIQUE"], "`UNIQUE`", "say which row of a key counts in the SELECT"),
        (&["REFERENCES"], "a foreign key", "leave it out"),
        (&["COLLATE"], "`COLLATE`", "leave it out; text is compared by its bytes"),
    ];
    for (words, name, hint) in refused {
        if cursor.at_words(words) {
            return Err(Error::sql(format!("{name} on a column is not supported")).hint(hint).at(cursor.place()));
        }
    }
    Ok(comment)
}

/// Reads one type. `>>` is one token, so what it closes too much is kept for the level above.
struct TypeReader<'c, 'a> {
    cursor: &'c mut Cursor<'a>,
    /// `>` that were read and not used.
    open: usize,
    depth: usize,
}

impl<'c, 'a> TypeReader<'c, 'a> {
    fn new(cursor: &'c mut Cursor<'a>) -> Self {
        Self { cursor, open: 0, depth: 0 }
    }

    fn data_type(&mut self) -> Result<DataType> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error::sql(format!("this type is nested deeper than {MAX_DEPTH} levels"))
                .hint("read that part as STRING")
                .at(self.cursor.place()));
        }
        let mut data_type = self.one_type()?;
        while self.open == 0 && self.cursor.take(&Token::LBracket) {
            self.cursor.expect(&Token::RBracket)?;
            data_type = list_of(data_type);
        }
        self.depth -= 1;
        Ok(data_type)
    }

    fn one_type(&mut self) -> Result<DataType> {
        let Some(Token::Word(word)) = self.cursor.peek() else { return Err(self.cursor.expected("a type")) };
        let name = word.value.to_uppercase();
        if let "ARRAY" | "LIST" | "STRUCT" | "MAP" = name.as_str() {
            self.cursor.advance();
            return self.nested(&name);
        }
        if matches!(name.as_str(), "DECIMAL" | "NUMERIC" | "DEC") {
            self.cursor.advance();
            return self.decimal();
        }
        let Some(data_type) = simple_type(&name) else { return Err(unknown_type(self.cursor, &name)) };
        self.cursor.advance();
        self.suffix(&name)?;
        Ok(data_type)
    }

    /// What may follow a simple name: a length, and the long names of SQL.
    fn suffix(&mut self, name: &str) -> Result<()> {
        match name {
            "VARCHAR" | "CHAR" | "CHARACTER" | "NVARCHAR" | "VARBINARY" | "BINARY" | "CLOB" => {
                let _ = name.starts_with("CHAR") && self.cursor.take_word("VARYING");
                self.length()
            }
            "DOUBLE" => {
                let _ = self.cursor.take_word("PRECISION");
                Ok(())
            }
            "TIMESTAMP" if self.cursor.at_words(&["WITHOUT", "TIME", "ZONE"]) => {
                Err(naive_timestamp("TIMESTAMP WITHOUT TIME ZONE").at(self.cursor.place()))
            }
            "TIMESTAMP" => {
                self.length()?;
                let _ = self.cursor.take_words(&["WITH", "TIME", "ZONE"])
                    || self.cursor.take_words(&["WITH", "LOCAL", "TIME", "ZONE"]);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// `(n)`: taken and not kept; Delta's STRING has no length.
    fn length(&mut self) -> Result<()> {
        if self.cursor.take(&Token::LParen) {
            let _: u32 = self.number("a length")?;
            self.cursor.expect(&Token::RParen)?;
        }
        Ok(())
    }

    fn number<N: std::str::FromStr>(&mut self, what: &str) -> Result<N> {
        let number = match self.cursor.peek() {
            Some(Token::Number(digits, _)) => digits.parse().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| self.cursor.expected(what))?;
        self.cursor.advance();
        Ok(number)
    }

    fn decimal(&mut self) -> Result<DataType> {
        let place = self.cursor.place();
        let (mut precision, mut scale): (u8, i8) = (10, 0);
        if self.cursor.take(&Token::LParen) {
            precision = self.number("a number of digits from 1 to 38")?;
            if self.cursor.take(&Token::Comma) {
                scale = self.number("a number of decimal places")?;
            }
            self.cursor.expect(&Token::RParen)?;
        }
        if !(1..=38).contains(&precision) || i16::from(scale) > i16::from(precision) {
            return Err(Error::sql(format!("`DECIMAL({precision}, {scale})` does not exist"))
                .hint("a decimal has 1 to 38 digits, and not more decimal places than digits")
                .at(place));
        }
        Ok(DataType::Decimal128(precision, scale))
    }

    fn nested(&mut self, name: &str) -> Result<DataType> {
        if !self.cursor.take(&Token::Lt) {
            let example = match name {
                "STRUCT" => "STRUCT<a: INT, b: STRING>",
                "MAP" => "MAP<STRING, INT>",
                _ => "ARRAY<INT>",
            };
            return Err(self.cursor.expected("`<`").hint(format!("as in {example}")));
        }
        let data_type = match name {
            "STRUCT" => self.fields()?,
            "MAP" => {
                let key = self.data_type()?;
                self.cursor.expect(&Token::Comma)?;
                map_of(key, self.data_type()?)
            }
            _ => list_of(self.data_type()?),
        };
        self.close()?;
        Ok(data_type)
    }

    fn fields(&mut self) -> Result<DataType> {
        let mut fields: Vec<Field> = Vec::new();
        loop {
            let name = self.cursor.name("a field's name")?;
            let _ = self.cursor.take(&Token::Colon);
            check_unique(&name, fields.iter().map(|field| field.name().as_str()))?;
            let data_type = self.data_type()?;
            if self.open == 0 {
                comment_and_rest(self.cursor)?;
            }
            fields.push(Field::new(name.value, data_type, true));
            if self.open > 0 || !self.cursor.take(&Token::Comma) {
                return Ok(DataType::Struct(Fields::from(fields)));
            }
        }
    }

    fn close(&mut self) -> Result<()> {
        if self.open > 0 {
            self.open -= 1;
            return Ok(());
        }
        if self.cursor.take(&Token::ShiftRight) {
            self.open += 1;
            return Ok(());
        }
        if self.cursor.take(&Token::Gt) { Ok(()) } else { Err(self.cursor.expected("`,` or `>`")) }
    }
}

fn simple_type(name: &str) -> Option<DataType> {
    Some(match name {
        "STRING" | "TEXT" | "VARCHAR" | "NVARCHAR" | "CHAR" | "CHARACTER" | "CLOB" => DataType::Utf8,
        "BIGINT" | "LONG" | "INT8" => DataType::Int64,
        "INT" | "INTEGER" | "INT4" => DataType::Int32,
        "SMALLINT" | "SHORT" | "INT2" => DataType::Int16,
        "TINYINT" | "BYTE" => DataType::Int8,
        "FLOAT" | "REAL" | "FLOAT4" => DataType::Float32,
        "DOUBLE" | "FLOAT8" => DataType::Float64,
        "BOOLEAN" | "BOOL" => DataType::Boolean,
        "BINARY" | "VARBINARY" | "BYTEA" => DataType::Binary,
        "DATE" => DataType::Date32,
        "TIMESTAMP" | "TIMESTAMP_LTZ" | "TIMESTAMPTZ" | "DATETIME" => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        _ => return None,
    })
}

fn unknown_type(cursor: &Cursor<'_>, name: &str) -> Error {
    let error = match name {
        "TIMESTAMP_NTZ" => naive_timestamp(name),
        "VARIANT" | "JSON" | "JSONB" | "OBJECT" => Error::sql(format!("the type `{name}` is not supported"))
            .hint("read it as STRING, or name its fields by STRUCT<…>"),
        "INTERVAL" | "TIME" | "UUID" => {
            Error::sql(format!("the type `{name}` is not supported")).hint("read it as STRING")
        }
        _ => {
            let error = Error::sql(format!("unknown type `{name}`"));
            match nearest(name, TYPE_NAMES) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint("types are those of Databricks: STRING, BIGINT, DOUBLE, TIMESTAMP, ARRAY<…>, …"),
            }
        }
    };
    error.at(cursor.place())
}

fn naive_timestamp(name: &str) -> Error {
    Error::sql(format!("the type `{name}` is not supported"))
        .hint("use TIMESTAMP: a time without a zone is read as UTC")
}

fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, true)))
}

fn map_of(key: DataType, value: DataType) -> DataType {
    let entries = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
}

/// The name of a type as Databricks writes it, for DDL and messages. What Databricks does not have is named as the SQL
/// engine names it.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "VOID".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::UInt8 => "TINYINT UNSIGNED".into(),
        DataType::UInt16 => "SMALLINT UNSIGNED".into(),
        DataType::UInt32 => "INT UNSIGNED".into(),
        DataType::UInt64 => "BIGINT UNSIGNED".into(),
        DataType::Float16 | DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "BINARY".into()
        }
        DataType::Date32 | DataType::Date64 => "DATE".into(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".into(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP".into(),
        DataType::Timestamp(_, None) => "TIMESTAMP_NTZ".into(),
        DataType::Duration(_) | DataType::Interval(_) => "INTERVAL".into(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => array_name(item),
        DataType::ListView(item) | DataType::LargeListView(item) => array_name(item),
        DataType::Struct(fields) => format!("STRUCT<{}>", fields_name(fields)),
        DataType::Map(entries, _) => map_name(entries.data_type()),
        DataType::Dictionary(_, value) => type_name(value),
        DataType::RunEndEncoded(_, value) => type_name(value.data_type()),
        DataType::Union(..) => "UNION".into(),
    }
}

fn array_name(item: &Field) -> String {
    format!("ARRAY<{}>", type_name(item.data_type()))
}

fn map_name(entries: &DataType) -> String {
    match entries {
        DataType::Struct(fields) if fields.len() == 2 => {
            format!("MAP<{}, {}>", type_name(fields[0].data_type()), type_name(fields[1].data_type()))
        }
        other => format!("MAP<{}>", type_name(other)),
    }
}

fn fields_name(fields: &Fields) -> String {
    let field = |field: &Arc<Field>| format!("{}: {}", quoted_name(field.name()), type_name(field.data_type()));
    fields.iter().map(field).collect::<Vec<_>>().join(", ")
}

/// A name as it must be written to be read back: in back-ticks where it is not a plain lower-case word.
pub fn quoted_name(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_reserved = matches!(Token::make_word(name, None), Token::Word(Word { keyword, .. })
        if datafusion::sql::sqlparser::keywords::RESERVED_FOR_COLUMN_ALIAS.contains(&keyword));
    if is_plain && !is_reserved { name.to_owned() } else { format!("`{}`", name.replace('`', "``")) }
}
