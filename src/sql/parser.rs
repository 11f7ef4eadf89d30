//! Reads a whole SQL file: text to statements, or the first error with its place.
//!
//! Uses `error` and its siblings. Everything is parsed before anything runs.

use std::sync::Arc;

use datafusion::sql::sqlparser::tokenizer::{Token, Word};

use super::create::create;
use super::query::parse_query;
use super::refusals::refused;
use super::statement::{DropKind, Explain, Insert, Kind, Statement};
use super::text::{Spanned, SqlText};
use super::tokens::{Cursor, Piece, split, tokenize};
use super::variables::Variables;
use crate::error::{Error, Result};

/// The words a statement can begin with.
const FIRST_WORDS: [&str; 14] = [
    "SELECT", "WITH", "VALUES", "FROM", "CREATE", "INSERT", "SET", "DESCRIBE", "SHOW", "EXPLAIN", "DROP", "OPTIMIZE",
    "VACUUM", "REFRESH",
];

/// Reads what follows the first word of a statement.
type Reader = fn(&mut Cursor<'_>) -> Result<Kind>;

/// Reads every statement of a file.
pub fn parse_script(text: &Arc<SqlText>, variables: &Variables<'_>) -> Result<Vec<Statement>> {
    let tokens = tokenize(text, variables)?;
    split(tokens).into_iter().map(|piece| statement(text, piece)).collect()
}

fn statement(text: &Arc<SqlText>, piece: Piece) -> Result<Statement> {
    let mut cursor = Cursor::new(text, &piece.tokens);
    let place = cursor.place();
    let kind = kind(&mut cursor)?;
    cursor.expect_end()?;
    let offset = |token: Option<usize>| token.unwrap_or(text.text.len());
    let start = offset(piece.tokens.first().map(|token| text.offset(token.span.start)));
    let end = offset(piece.tokens.last().map(|token| text.offset(token.span.end)));
    Ok(Statement { kind, place, text: Arc::clone(text), range: start..end, comment: piece.comment })
}

fn kind(cursor: &mut Cursor<'_>) -> Result<Kind> {
    if let Some(error) = refused(cursor) {
        return Err(error);
    }
    let is_query = ["SELECT", "WITH", "VALUES", "FROM"].iter().any(|word| cursor.at_words(&[word]));
    if is_query || cursor.peek() == Some(&Token::LParen) {
        return Ok(Kind::Query(Box::new(parse_query(cursor)?)));
    }
    let readers: [(&str, Reader); 11] = [
        ("CREATE", create),
        ("INSERT", insert),
        ("SET", set),
        ("DESCRIBE", describe),
        ("DESC", describe),
        ("SHOW", show),
        ("EXPLAIN", explain),
        ("DROP", drop),
        ("OPTIMIZE", optimize),
        ("VACUUM", vacuum),
        ("REFRESH", refresh),
    ];
    for (word, read) in readers {
        if cursor.take_word(word) {
            return read(cursor);
        }
    }
    Err(cursor.expected_one_of("a statement", &FIRST_WORDS))
}

fn insert(cursor: &mut Cursor<'_>) -> Result<Kind> {
    let overwrite = cursor.take_word("OVERWRITE");
    if !cursor.take_word("INTO") && !overwrite {
        return Err(cursor.expected_one_of("`INTO` or `OVERWRITE`", &["INTO", "OVERWRITE"]));
    }
    let _ = cursor.take_word("TABLE");
    let target = cursor.table_name("a table's name")?;
    for (words, hint) in [
        (&["BY", "NAME"][..], "name the columns: INSERT INTO t (a, b) SELECT a, b …"),
        (&["REPLACE"], "say INSERT OVERWRITE, which replaces the whole table"),
        (&["PARTITION"], "leave it out; a row finds its partition by its columns"),
    ] {
        if cursor.at_words(words) {
            let message = format!("`INSERT … {}` is not supported", words.join(" "));
            return Err(Error::sql(message).hint(hint).at(cursor.place()));
        }
    }
    let columns = if is_column_list(cursor) { cursor.names("a column's name")? } else { Vec::new() };
    if cursor.is_at_end() {
        return Err(cursor.expected("a query").hint("say INSERT INTO t SELECT … or INSERT INTO t VALUES (…)"));
    }
    let query = parse_query(cursor)?;
    Ok(Kind::Insert(Box::new(Insert { target, columns, query, overwrite })))
}

/// `(a, …` is a list of columns, `(SELECT …` is a query.
fn is_column_list(cursor: &Cursor<'_>) -> bool {
    let mut at = cursor.clone();
    let is_open = at.take(&Token::LParen);
    is_open
        && !["SELECT", "WITH", "VALUES", "FROM"].iter().any(|word| at.at_words(&[word]))
        && at.peek() != Some(&Token::LParen)
}

fn set(cursor: &mut Cursor<'_>) -> Result<Kind> {
    let key = cursor.option_key()?;
    if !cursor.take(&Token::Eq) && !cursor.take_word("TO") {
        return Err(cursor.expected("`=`").hint("a setting is written SET key = value"));
    }
    let value = match cursor.peek() {
        Some(Token::Word(Word { value, .. })) => {
            let value = Spanned { value: value.clone(), place: cursor.place() };
            cursor.advance();
            value
        }
        _ => cursor.literal("a value")?,
    };
    Ok(Kind::Set { key, value })
}

fn describe(cursor: &mut Cursor<'_>) -> Result<Kind> {
    let has_more = |cursor: &Cursor<'_>| matches!(cursor.peek_at(1), Some(Token::Word(_)));
    for word in ["TABLE", "VIEW", "EXTENDED", "FORMATTED"] {
        if has_more(cursor) {
            let _ = cursor.take_word(word);
        }
    }
    Ok(Kind::Describe { name: cursor.table_name("a table's name")? })
}

fn show(cursor: &mut Cursor<'_>) -> Result<Kind> {
    if cursor.take_word("TABLES") {
        return Ok(Kind::ShowTables);
    }
    if cursor.take_word("CREATE") {
        let is_table = cursor.take_word("TABLE")
            || cursor.take_word("VIEW")
            || cursor.take_words(&["STREAMING", "TABLE"])
            || cursor.take_words(&["MATERIALIZED", "VIEW"]);
        if !is_table {
            return Err(cursor.expected("`TABLE`"));
        }
        return Ok(Kind::ShowCreateTable { name: cursor.table_name("a table's name")? });
    }
    let error = cursor.expected_one_of("`TABLES` or `CREATE TABLE`", &["TABLES", "CREATE"]);
    Err(if cursor.at_words(&["COLUMNS"]) { error.hint("say DESCRIBE t") } else { error.hint("say SHOW TABLES") })
}

fn explain(cursor: &mut Cursor<'_>) -> Result<Kind> {
    let (mut analyze, mut verbose, mut format) = (false, false, None);
    let is_list = cursor.peek() == Some(&Token::LParen) && !is_query_group(cursor);
    let _ = is_list && cursor.take(&Token::LParen);
    loop {
        if cursor.take_word("ANALYZE") {
            analyze = true;
        } else if cursor.take_word("VERBOSE") || cursor.take_word("EXTENDED") || cursor.take_word("FORMATTED") {
            verbose = true;
        } else if cursor.take_word("FORMAT") {
            format = Some(explain_format(cursor)?);
        } else if is_list && cursor.take(&Token::RParen) {
            break;
        } else if is_list {
            return Err(
                cursor.expected_one_of("`ANALYZE`, `VERBOSE`, `FORMAT` or `)`", &["ANALYZE", "VERBOSE", "FORMAT"])
            );
        } else {
            break;
        }
        let _ = is_list && cursor.take(&Token::Comma);
    }
    let nothing = Error::sql("there is nothing to explain in this statement")
        .hint("EXPLAIN takes a query, an INSERT or a CREATE … AS")
        .at(cursor.place());
    if cursor.at_words(&["EXPLAIN"]) {
        return Err(nothing);
    }
    let statement = Box::new(kind(cursor)?);
    if !can_be_explained(&statement) {
        return Err(nothing);
    }
    Ok(Kind::Explain(Explain { analyze, verbose, format, statement }))
}

fn is_query_group(cursor: &Cursor<'_>) -> bool {
    let mut at = cursor.clone();
    while at.take(&Token::LParen) {}
    ["SELECT", "WITH", "VALUES", "FROM"].iter().any(|word| at.at_words(&[word]))
}

fn explain_format(cursor: &mut Cursor<'_>) -> Result<String> {
    let formats = ["INDENT", "TREE", "PGJSON", "GRAPHVIZ"];
    match formats.iter().find(|format| cursor.take_word(format)) {
        Some(format) => Ok(format.to_lowercase()),
        None => Err(cursor.expected_one_of("`INDENT`, `TREE`, `PGJSON` or `GRAPHVIZ`", &formats)),
    }
}

fn can_be_explained(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Query(_)
            | Kind::Insert(_)
            | Kind::StreamingTable(_)
            | Kind::MaterializedView(_)
            | Kind::TableAs(_)
            | Kind::View(_)
    )
}

fn drop(cursor: &mut Cursor<'_>) -> Result<Kind> {
    let kinds = [
        (&["TABLE"][..], DropKind::Table),
        (&["EXTERNAL", "TABLE"], DropKind::Table),
        (&["VIEW"], DropKind::View),
        (&["STREAMING", "TABLE"], DropKind::StreamingTable),
        (&["MATERIALIZED", "VIEW"], DropKind::MaterializedView),
    ];
    let Some((_, kind)) = kinds.into_iter().find(|(words, _)| cursor.take_words(words)) else {
        let words = ["TABLE", "VIEW", "STREAMING", "MATERIALIZED"];
        return Err(cursor.expected_one_of("`TABLE`, `VIEW`, `STREAMING TABLE` or `MATERIALIZED VIEW`", &words));
    };
    let if_exists = cursor.take_words(&["IF", "EXISTS"]);
    Ok(Kind::DropTable { name: cursor.table_name("a table's name")?, if_exists, kind })
}

fn optimize(cursor: &mut Cursor<'_>) -> Result<Kind> {
    let name = cursor.table_name("a table's name")?;
    if cursor.at_words(&["ZORDER"]) || cursor.at_words(&["WHERE"]) || cursor.at_words(&["FULL"]) {
        return Err(Error::sql("`OPTIMIZE` takes the whole table, in the order that it has")
            .hint("say OPTIMIZE t")
            .at(cursor.place()));
    }
    Ok(Kind::Optimize { name })
}

fn vacuum(cursor: &mut Cursor<'_>) -> Result<Kind> {
    let name = cursor.table_name("a table's name")?;
    let mut retain_hours = None;
    if cursor.take_word("RETAIN") {
        let what = "a number of hours";
        let place = cursor.place();
        let hours = cursor.literal(what)?;
        let number = hours.value.parse::<f64>().ok().filter(|hours| hours.is_finite() && *hours >= 0.0);
        retain_hours = Some(number.ok_or_else(|| Error::sql(format!("`{}` is not {what}", hours.value)).at(place))?);
        if !cursor.take_word("HOURS") && !cursor.take_word("HOUR") {
            return Err(cursor.expected("`HOURS`"));
        }
    }
    let dry_run = cursor.take_words(&["DRY", "RUN"]);
    Ok(Kind::Vacuum { name, retain_hours, dry_run })
}

fn refresh(cursor: &mut Cursor<'_>) -> Result<Kind> {
    let _ = cursor.take_words(&["STREAMING", "TABLE"])
        || cursor.take_words(&["MATERIALIZED", "VIEW"])
        || cursor.take_words(&["TABLE"]);
    let name = cursor.table_name("a table's name")?;
    Ok(Kind::Refresh { name, full: cursor.take_word("FULL") })
}
