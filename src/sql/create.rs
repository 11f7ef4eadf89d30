//! CREATE: sources, the three kinds of target, views.
//!
//! Uses `error` and its siblings below the parser. Clauses of a target stand in any order before AS, each at most once.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::dialect::PinsqlDialect;
use super::query::{explain_parser_error, parse_query};
use super::statement::{
    Action, Constraint, CreateSource, CreateTarget, CreateView, Kind, Notice, SourceFormat, TargetColumn,
};
use super::text::{Name, OptionPair, Spanned};
use super::tokens::{Cursor, given_twice, source_text};
use super::types::{check_unique, column_list, comment_and_rest, data_type};
use crate::error::{Error, Place, Result};

const TARGET_CLAUSES: [&str; 9] =
    ["AS", "PARTITIONED", "CLUSTER", "COMMENT", "TBLPROPERTIES", "LOCATION", "SCHEDULE", "TRIGGER", "REFRESH"];

/// What was said between CREATE and the kind of thing.
#[derive(Default)]
struct Prefix {
    or_replace: Option<Place>,
    or_refresh: Option<Place>,
    temporary: Option<Place>,
}

/// Reads what follows CREATE.
pub(super) fn create(cursor: &mut Cursor<'_>) -> Result<Kind> {
    let prefix = prefix(cursor)?;
    let start = cursor.position();
    if cursor.take_words(&["EXTERNAL", "TABLE"]) {
        refuse(&prefix.or_refresh, "`OR REFRESH` of a source", "say OR REPLACE")?;
        refuse(&prefix.temporary, "a temporary source", "leave TEMPORARY out")?;
        return Ok(Kind::Source(Box::new(source(cursor, prefix.or_replace.is_some())?)));
    }
    if cursor.take_word("VIEW") {
        refuse(&prefix.or_refresh, "`OR REFRESH` of a view", "say OR REPLACE; only tables are refreshed")?;
        return Ok(Kind::View(Box::new(view(cursor, &prefix)?)));
    }
    let kind = if cursor.take_words(&["STREAMING", "TABLE"]) {
        refuse(&prefix.or_replace, "`OR REPLACE` of a streaming table", "say OR REFRESH; --full-refresh begins anew")?;
        Kind::StreamingTable
    } else if cursor.take_words(&["MATERIALIZED", "VIEW"]) {
        Kind::MaterializedView
    } else if cursor.take_word("TABLE") {
        refuse(
            &prefix.or_refresh,
            "`OR REFRESH` of a plain table",
            "say OR REPLACE, or CREATE OR REFRESH STREAMING TABLE",
        )?;
        Kind::TableAs
    } else {
        return Err(unknown_thing(cursor));
    };
    refuse(&prefix.temporary, "a temporary table", "say CREATE TEMPORARY VIEW")?;
    let what = cursor.text_since(start).to_uppercase();
    Ok(kind(Box::new(target(cursor, &prefix, &what)?)))
}

fn unknown_thing(cursor: &Cursor<'_>) -> Error {
    let known = ["EXTERNAL", "STREAMING", "MATERIALIZED", "TABLE", "VIEW", "TEMPORARY"];
    // `CREATE STREAMING VIEW`: the first word is right, the second is not.
    let mut at = cursor.clone();
    for (first, second) in [("EXTERNAL", "TABLE"), ("STREAMING", "TABLE"), ("MATERIALIZED", "VIEW")] {
        if at.take_word(first) {
            return at.expected(&format!("`{second}`")).hint(format!("say CREATE {first} {second}"));
        }
    }
    cursor.expected_one_of("`EXTERNAL TABLE`, `STREAMING TABLE`, `MATERIALIZED VIEW`, `TABLE` or `VIEW`", &known)
}

fn prefix(cursor: &mut Cursor<'_>) -> Result<Prefix> {
    let mut prefix = Prefix::default();
    let start = cursor.position();
    if cursor.take_words(&["OR", "REPLACE"]) {
        prefix.or_replace = Some(cursor.place_since(start));
    } else if cursor.take_words(&["OR", "REFRESH"]) {
        prefix.or_refresh = Some(cursor.place_since(start));
    } else if cursor.take_word("OR") {
        return Err(cursor.expected_one_of("`REPLACE` or `REFRESH`", &["REPLACE", "REFRESH"]));
    }
    let place = cursor.place();
    if cursor.take_word("TEMPORARY") || cursor.take_word("TEMP") {
        prefix.temporary = Some(place);
    }
    Ok(prefix)
}

fn refuse(given: &Option<Place>, what: &str, hint: &str) -> Result<()> {
    match given {
        Some(place) => Err(Error::sql(format!("{what} is not supported")).hint(hint).at(place.clone())),
        None => Ok(()),
    }
}

fn source(cursor: &mut Cursor<'_>, or_replace: bool) -> Result<CreateSource> {
    let if_not_exists = if_not_exists(cursor, or_replace)?;
    let name = cursor.table_name("a table's name")?;
    let columns = if cursor.peek() == Some(&Token::LParen) { Some(column_list(cursor)?) } else { None };
    let (mut format, mut location, mut options) = (None, None, None);
    while !cursor.is_at_end() {
        let clause = clause_start(cursor);
        if cursor.take_words(&["STORED", "AS"]) {
            once(&mut format, source_format(cursor)?, clause)?;
        } else if cursor.take_word("LOCATION") {
            once(&mut location, cursor.string("the location as a string")?, clause)?;
        } else if cursor.take_word("OPTIONS") {
            once(&mut options, cursor.options()?, clause)?;
        } else {
            return Err(not_a_source_clause(cursor));
        }
    }
    let format = format.ok_or_else(|| {
        cursor.expected("`STORED AS`").hint("say STORED AS JSON, STORED AS KAFKA or STORED AS KINESIS")
    })?;
    Ok(CreateSource {
        name,
        or_replace,
        if_not_exists,
        columns,
        format,
        location,
        options: options.unwrap_or_default(),
    })
}

fn not_a_source_clause(cursor: &Cursor<'_>) -> Error {
    if cursor.at_words(&["AS"]) {
        return Error::sql("an external table has no query")
            .hint("say CREATE STREAMING TABLE … AS, or leave AS … out")
            .at(cursor.place());
    }
    if cursor.at_words(&["PARTITIONED", "BY"]) || cursor.at_words(&["WITH", "ORDER"]) {
        return Error::sql("a source is not partitioned or ordered by a clause")
            .hint("leave it out")
            .at(cursor.place());
    }
    if cursor.at_words(&["USING"]) {
        return cursor.expected("`STORED AS`").hint("say STORED AS JSON, STORED AS KAFKA or STORED AS KINESIS");
    }
    cursor.expected_one_of("`STORED AS`, `LOCATION`, `OPTIONS` or the end", &["STORED", "LOCATION", "OPTIONS"])
}

fn source_format(cursor: &mut Cursor<'_>) -> Result<SourceFormat> {
    for (word, format) in
        [("JSON", SourceFormat::Json), ("KAFKA", SourceFormat::Kafka), ("KINESIS", SourceFormat::Kinesis)]
    {
        if cursor.take_word(word) {
            return Ok(format);
        }
    }
    let error = cursor.expected_one_of("`JSON`, `KAFKA` or `KINESIS`", &["JSON", "KAFKA", "KINESIS"]);
    Err(if cursor.at_words(&["DELTA"]) {
        error.hint("a Delta table that lies in the lake is read by its name, without being declared")
    } else {
        error.hint("the records of a source are JSON, in files, in Kafka or in Kinesis")
    })
}

fn if_not_exists(cursor: &mut Cursor<'_>, or: bool) -> Result<bool> {
    let start = cursor.position();
    if !cursor.take_words(&["IF", "NOT", "EXISTS"]) {
        return Ok(false);
    }
    if or {
        return Err(Error::sql("`IF NOT EXISTS` contradicts `OR REPLACE` and `OR REFRESH`")
            .hint("keep one of them")
            .at(cursor.place_since(start)));
    }
    Ok(true)
}

/// The clause that begins here, for an error if it comes again.
fn clause_start(cursor: &Cursor<'_>) -> Spanned<String> {
    let word = cursor.peek().map(|token| token.to_string().to_uppercase()).unwrap_or_default();
    Spanned { value: word, place: cursor.place() }
}

fn once<T>(slot: &mut Option<T>, value: T, clause: Spanned<String>) -> Result<()> {
    if slot.is_some() {
        return Err(given_twice(&clause));
    }
    *slot = Some(value);
    Ok(())
}

fn view(cursor: &mut Cursor<'_>, prefix: &Prefix) -> Result<CreateView> {
    let if_not_exists = if_not_exists(cursor, prefix.or_replace.is_some())?;
    let name = cursor.table_name("a view's name")?;
    let columns = if cursor.peek() == Some(&Token::LParen) { view_columns(cursor)? } else { Vec::new() };
    loop {
        if cursor.take_word("COMMENT") {
            cursor.string("the comment as a string")?;
        } else if cursor.take_word("TBLPROPERTIES") {
            cursor.options()?;
        } else {
            break;
        }
    }
    cursor.expect_words(&["AS"])?;
    let query = parse_query(cursor)?;
    let (or_replace, temporary) = (prefix.or_replace.is_some(), prefix.temporary.is_some());
    Ok(CreateView { name, or_replace, if_not_exists, temporary, columns, query })
}

fn view_columns(cursor: &mut Cursor<'_>) -> Result<Vec<Name>> {
    cursor.expect(&Token::LParen)?;
    let mut names: Vec<Name> = Vec::new();
    loop {
        let name = cursor.name("a column's name")?;
        check_unique(&name, names.iter().map(|name| name.value.as_str()))?;
        names.push(name);
        comment_and_rest(cursor)?;
        if cursor.take(&Token::RParen) {
            return Ok(names);
        }
        if !cursor.take(&Token::Comma) {
            return Err(cursor.expected("`,` or `)`"));
        }
    }
}

/// The clauses of a target.
#[derive(Default)]
struct Clauses {
    partitioned_by: Option<Vec<Name>>,
    comment: Option<String>,
    properties: Option<Vec<OptionPair>>,
    location: Option<Spanned<String>>,
    notices: Vec<Notice>,
}

fn target(cursor: &mut Cursor<'_>, prefix: &Prefix, what: &str) -> Result<CreateTarget> {
    let (or_replace, or_refresh) = (prefix.or_replace.is_some(), prefix.or_refresh.is_some());
    let if_not_exists = if_not_exists(cursor, or_replace || or_refresh)?;
    let name = cursor.table_name("a table's name")?;
    let mut columns = Vec::new();
    let mut constraints = Vec::new();
    if cursor.peek() == Some(&Token::LParen) {
        target_columns(cursor, &mut columns, &mut constraints)?;
    }
    let clauses = clauses(cursor, what)?;
    let query = parse_query(cursor)?;
    Ok(CreateTarget {
        name,
        or_replace,
        or_refresh,
        if_not_exists,
        columns,
        constraints,
        partitioned_by: clauses.partitioned_by.unwrap_or_default(),
        comment: clauses.comment,
        properties: clauses.properties.unwrap_or_default(),
        location: clauses.location,
        notices: clauses.notices,
        query,
    })
}

/// Everything up to and with AS.
fn clauses(cursor: &mut Cursor<'_>, what: &str) -> Result<Clauses> {
    let mut clauses = Clauses::default();
    while !cursor.take_word("AS") {
        let start = clause_start(cursor);
        if cursor.take_words(&["PARTITIONED", "BY"]) {
            once(&mut clauses.partitioned_by, cursor.names("a column's name")?, start)?;
        } else if cursor.take_word("COMMENT") {
            once(&mut clauses.comment, cursor.string("the comment as a string")?.value, start)?;
        } else if cursor.take_word("TBLPROPERTIES") {
            once(&mut clauses.properties, cursor.options()?, start)?;
        } else if cursor.take_word("LOCATION") {
            once(&mut clauses.location, cursor.string("the location as a string")?, start)?;
        } else if cursor.take_words(&["USING", "DELTA"]) {
            // What else would it be.
        } else if let Some(notice) = taken_with_notice(cursor)? {
            if clauses.notices.iter().any(|other| other.message == notice.message) {
                return Err(given_twice(&start));
            }
            clauses.notices.push(notice);
        } else {
            return Err(not_a_target_clause(cursor, what));
        }
    }
    Ok(clauses)
}

/// Clauses of Databricks that mean nothing here.
fn taken_with_notice(cursor: &mut Cursor<'_>) -> Result<Option<Notice>> {
    let start = cursor.position();
    let (clause, hint) = if cursor.take_words(&["CLUSTER", "BY"]) {
        if cursor.peek() == Some(&Token::LParen) {
            cursor.group()?;
        } else if !cursor.take_word("AUTO") && !cursor.take_word("NONE") {
            return Err(cursor.expected("`(`, `AUTO` or `NONE`"));
        }
        ("CLUSTER BY", "the table is not clustered")
    } else if cursor.take_word("SCHEDULE") {
        schedule(cursor)?;
        ("SCHEDULE", "cron or Airflow says when to run")
    } else if cursor.take_words(&["TRIGGER", "ON", "UPDATE"]) {
        if cursor.take_words(&["AT", "MOST", "EVERY"]) {
            interval(cursor)?;
        }
        ("TRIGGER ON UPDATE", "`pinsql stream` follows its sources by itself")
    } else if cursor.take_words(&["REFRESH", "POLICY"]) {
        let _ = cursor.name("a policy")?;
        let _ = cursor.take_word("STRICT");
        ("REFRESH POLICY", "what is kept up to date step by step is found out by itself")
    } else if cursor.take_words(&["DEFAULT", "COLLATION"]) {
        let _ = cursor.name("a collation")?;
        ("DEFAULT COLLATION", "text is compared by its bytes")
    } else {
        return Ok(None);
    };
    Ok(Some(Notice { message: format!("`{clause}` is ignored: {hint}"), place: cursor.place_since(start) }))
}

fn schedule(cursor: &mut Cursor<'_>) -> Result<()> {
    let _ = cursor.take_word("REFRESH");
    if cursor.take_word("EVERY") {
        return interval(cursor);
    }
    if cursor.take_word("CRON") {
        cursor.string("the times as a string")?;
        if cursor.take_words(&["AT", "TIME", "ZONE"]) {
            cursor.string("the time zone as a string")?;
        }
        return Ok(());
    }
    Err(cursor.expected("`EVERY` or `CRON`"))
}

fn interval(cursor: &mut Cursor<'_>) -> Result<()> {
    let _ = cursor.take_word("INTERVAL");
    cursor.literal("a number")?;
    cursor.name("a unit of time")?;
    Ok(())
}

fn not_a_target_clause(cursor: &Cursor<'_>, what: &str) -> Error {
    let refused = [
        (&["WITH", "ROW", "FILTER"][..], "a row filter", "put it into the WHERE of the query"),
        (&["FLOW"], "a flow", "fill the table by AS SELECT … FROM STREAM …"),
        (&["OPTIONS"], "`OPTIONS` on a table", "say TBLPROPERTIES"),
        (
            &["STORED", "AS"],
            "`STORED AS` on a table",
            "leave it out for a Delta table; a source is a CREATE EXTERNAL TABLE",
        ),
        (
            &["USING"],
            "a table that is not Delta",
            "leave USING out; a source is a CREATE EXTERNAL TABLE … STORED AS JSON",
        ),
        (&["LIKE"], "`LIKE`", "say AS SELECT … FROM the other table"),
        (&["CLONE"], "a clone", "say AS SELECT … FROM the other table"),
    ];
    for (words, name, hint) in refused {
        if cursor.at_words(words) {
            return Error::sql(format!("{name} is not supported")).hint(hint).at(cursor.place());
        }
    }
    if cursor.is_at_end() {
        let from = if what == "STREAMING TABLE" { "STREAM …" } else { "…" };
        return Error::sql(format!("a {} without a query is not supported", what.to_lowercase()))
            .hint(format!("say AS SELECT … FROM {from}; a source is a CREATE EXTERNAL TABLE"))
            .at(cursor.place());
    }
    cursor.expected_one_of("`AS` or a clause of the table", &TARGET_CLAUSES)
}

fn target_columns(
    cursor: &mut Cursor<'_>,
    columns: &mut Vec<TargetColumn>,
    constraints: &mut Vec<Constraint>,
) -> Result<()> {
    cursor.expect(&Token::LParen)?;
    loop {
        if cursor.at_words(&["CONSTRAINT"]) {
            let constraint = constraint(cursor)?;
            if constraints.iter().any(|other| other.name.value == constraint.name.value) {
                let Name { value, place } = constraint.name;
                return Err(given_twice(&Spanned { value, place }));
            }
            constraints.push(constraint);
        } else {
            let column = target_column(cursor)?;
            check_unique(&column.name, columns.iter().map(|column| column.name.value.as_str()))?;
            columns.push(column);
        }
        if cursor.take(&Token::RParen) {
            return Ok(());
        }
        if !cursor.take(&Token::Comma) {
            return Err(cursor.expected("`,` or `)`"));
        }
    }
}

fn target_column(cursor: &mut Cursor<'_>) -> Result<TargetColumn> {
    for words in [&["PRIMARY", "KEY"][..], &["FOREIGN", "KEY"]] {
        if cursor.at_words(words) {
            return Err(Error::sql("keys are not supported")
                .hint("say CONSTRAINT name EXPECT (condition)")
                .at(cursor.place()));
        }
    }
    let name = cursor.name("a column's name or `CONSTRAINT`")?;
    let is_bare = matches!(cursor.peek(), Some(Token::Comma | Token::RParen) | None)
        || cursor.at_words(&["COMMENT"])
        || cursor.at_words(&["NOT", "NULL"]);
    let data_type = if is_bare { None } else { Some(data_type(cursor)?) };
    let comment = comment_and_rest(cursor)?;
    Ok(TargetColumn { name, data_type, comment })
}

fn constraint(cursor: &mut Cursor<'_>) -> Result<Constraint> {
    let start = cursor.position();
    cursor.expect_words(&["CONSTRAINT"])?;
    let name = cursor.name("the constraint's name")?;
    if !cursor.take_word("EXPECT") {
        let hint = "a constraint is written CONSTRAINT name EXPECT (condition)";
        return Err(cursor.expected("`EXPECT`").hint(hint));
    }
    let open = cursor.place();
    let group = cursor.group()?;
    let tokens = cursor.tokens(group.clone());
    if tokens.is_empty() {
        return Err(Error::sql("this condition is empty").hint("say what must hold for every row").at(open));
    }
    let condition = condition(cursor, group)?;
    let sql = source_text(cursor.text, tokens).to_owned();
    let action = action(cursor)?;
    Ok(Constraint { name, condition, sql, action, place: cursor.place_since(start) })
}

fn condition(cursor: &Cursor<'_>, group: Range<usize>) -> Result<Expr> {
    let tokens = cursor.tokens(group.clone());
    let with_close = cursor.tokens(group.start..group.end + 1);
    let mut parser = Parser::new(&PinsqlDialect).with_tokens_with_locations(tokens.to_vec());
    let condition =
        parser.parse_expr().map_err(|error| explain_parser_error(cursor.text, with_close, tokens.len(), &error))?;
    if parser.index() < tokens.len() {
        let mut at = Cursor::new(cursor.text, tokens);
        (0..parser.index()).for_each(|_| at.advance());
        return Err(at.expected("an operator or `)`"));
    }
    let mut words = Cursor::new(cursor.text, tokens);
    while !words.is_at_end() {
        if words.at_words(&["SELECT"]) {
            return Err(Error::sql("a constraint cannot hold a query")
                .hint("join the other table in the table's own query, and test the joined column")
                .at(words.place()));
        }
        words.advance();
    }
    Ok(condition)
}

fn action(cursor: &mut Cursor<'_>) -> Result<Action> {
    if !cursor.take_words(&["ON"]) {
        return Ok(Action::Keep);
    }
    cursor.expect_words(&["VIOLATION"])?;
    let actions = [
        (["DROP", "ROW"], Action::DropRow),
        (["FAIL", "UPDATE"], Action::FailUpdate),
        (["QUARANTINE", "ROW"], Action::QuarantineRow),
    ];
    for (words, action) in actions {
        if cursor.take_word(words[0]) {
            cursor.expect_words(&words[1..])?;
            return Ok(action);
        }
    }
    Err(cursor.expected_one_of("`DROP ROW`, `FAIL UPDATE` or `QUARANTINE ROW`", &["DROP", "FAIL", "QUARANTINE"]))
}
