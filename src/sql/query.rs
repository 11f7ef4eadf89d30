//! One query: its syntax tree, and every table, stream and source function that it reads.
//!
//! Uses `error`, the text, the tokens and the stream pass. The tree is sqlparser's, so DataFusion plans it as it is;
//! what sqlparser says of wrong text is said again in our words, at the right place.

use std::collections::BTreeSet;
use std::fmt;

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::dialect::PinsqlDialect;
use super::relations::resolve;
use super::streams::take_streams;
use super::text::{OptionPair, SqlText};
use super::tokens::{Cursor, END_HINT, is_word, shown_text, unclosed};
use crate::error::{Error, Place, Result, nearest};

/// Clauses of a query, for "did you mean".
const CLAUSES: [&str; 24] = [
    "SELECT",
    "DISTINCT",
    "FROM",
    "STREAM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "HAVING",
    "LIMIT",
    "JOIN",
    "INNER",
    "LEFT",
    "RIGHT",
    "FULL",
    "CROSS",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "OVER",
    "PARTITION",
    "BETWEEN",
    "CASE",
    "WHEN",
    "THEN",
];

/// A query and what it reads.
#[derive(Clone)]
pub struct Query {
    /// The tree, with the names of [`Relation::binding`] where tables stand.
    pub ast: Box<ast::Query>,
    /// What it reads, each once, in the order of the text.
    pub relations: Vec<Relation>,
    /// Where it begins.
    pub place: Place,
    /// As it was written, variables not replaced, with stars where a secret stands.
    pub sql: String,
    /// Every identifier in it, in lower case.
    words: BTreeSet<String>,
}

impl fmt::Debug for Query {
    /// Without the tree, which may hold a secret where a function is mistyped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("sql", &self.sql).field("relations", &self.relations).finish_non_exhaustive()
    }
}

/// Something that a query reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The name that stands in the tree now.
    pub binding: String,
    /// What is read.
    pub target: RelationTarget,
    /// Whether it is read as a stream: each record once.
    pub stream: bool,
    /// Where it is first named.
    pub place: Place,
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelationTarget {
    /// A table, a view or a source, by its name.
    Named(String),
    /// A source function.
    Inline(InlineSource),
}

/// `read_files(…)` and its like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineSource {
    /// Which one.
    pub function: SourceFunction,
    /// Its arguments; the positional one of `read_files` has the key `path`.
    pub options: Vec<OptionPair>,
}

/// The source functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceFunction {
    /// `read_files`
    ReadFiles,
    /// `read_kafka`
    ReadKafka,
    /// `read_kinesis`
    ReadKinesis,
}

impl SourceFunction {
    /// The function of a name in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::ReadFiles, Self::ReadKafka, Self::ReadKinesis]
            .into_iter()
            .find(|function| function.name().eq_ignore_ascii_case(name))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadFiles => "read_files",
            Self::ReadKafka => "read_kafka",
            Self::ReadKinesis => "read_kinesis",
        }
    }
}

/// Whether an identifier of this name, in any case, stands anywhere in the query.
pub fn mentions(query: &Query, name: &str) -> bool {
    query.words.contains(&name.to_lowercase())
}

/// Reads the query that the rest of a statement is.
pub(super) fn parse_query(cursor: &mut Cursor<'_>) -> Result<Query> {
    let text = cursor.text;
    if cursor.is_at_end() {
        return Err(cursor.expected("a query").hint("say SELECT …"));
    }
    let place = cursor.place();
    let tokens = cursor.take_rest();
    let streams = take_streams(text, tokens)?;
    let mut ast = parse_tokens(text, &streams.tokens)?;
    let words = tokens.iter().filter_map(|token| match &token.token {
        Token::Word(word) => Some(word.value.to_lowercase()),
        _ => None,
    });
    let words: BTreeSet<String> = words.collect();
    let relations = resolve(text, &mut ast, &streams.starts, &words, &place)?;
    Ok(Query { ast, relations, place, sql: shown_text(text, tokens), words })
}

fn parse_tokens(text: &SqlText, tokens: &[TokenWithSpan]) -> Result<Box<ast::Query>> {
    let mut parser = Parser::new(&PinsqlDialect).with_tokens_with_locations(tokens.to_vec());
    let result = parser.parse_query();
    let rest = parser.peek_token_ref();
    match result {
        Ok(query) if rest.token == Token::EOF => Ok(query),
        Ok(_) => {
            let at = tokens.iter().position(|token| token.span == rest.span).unwrap_or(tokens.len());
            let plain = || with_hint(text, tokens, at, expected_at(text, tokens, at, "the end of the statement"));
            Err(inner_error(text, tokens).unwrap_or_else(plain))
        }
        Err(error) => {
            Err(inner_error(text, tokens).unwrap_or_else(|| explain_parser_error(text, tokens, tokens.len(), &error)))
        }
    }
}

/// sqlparser tries a parenthesis as a query, then as a join, and blames the join. So the first query in parentheses that
/// is wrong by itself, innermost first, is what is reported.
fn inner_error(text: &SqlText, tokens: &[TokenWithSpan]) -> Option<Error> {
    let mut opens = Vec::new();
    let mut groups = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.token {
            Token::LParen => opens.push(at),
            Token::RParen => groups.extend(opens.pop().map(|open| (open, at))),
            _ => {}
        }
    }
    if let Some(open) = opens.last() {
        let span = tokens[*open].span;
        return Some(unclosed(text.place(span.start, span.end)));
    }
    for (open, close) in groups {
        let inner = &tokens[open + 1..close];
        if !inner.first().is_some_and(|token| is_word(&token.token, "SELECT") || is_word(&token.token, "WITH")) {
            continue;
        }
        let mut parser = Parser::new(&PinsqlDialect).with_tokens_with_locations(inner.to_vec());
        let result = parser.parse_query();
        let rest = parser.peek_token_ref();
        match result {
            Ok(_) if rest.token == Token::EOF => {}
            Ok(_) => {
                let at = tokens.iter().position(|token| token.span == rest.span).unwrap_or(close);
                return Some(with_hint(text, tokens, at, expected_at(text, tokens, at, "`)`")));
            }
            Err(error) => return Some(explain_parser_error(text, tokens, close, &error)),
        }
    }
    None
}

/// sqlparser's error in our words, when it read the tokens before `end`. An error without a place is about the end.
pub(super) fn explain_parser_error(text: &SqlText, tokens: &[TokenWithSpan], end: usize, error: &ParserError) -> Error {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            return Error::sql("this is nested too deeply")
                .hint("put the inner part into a WITH or a VIEW")
                .at(place_at(text, tokens, 0));
        }
        ParserError::ParserError(message) | ParserError::TokenizerError(message) => message,
    };
    let (message, location) = split_location(message);
    let located = location.and_then(|location| tokens.iter().position(|token| token.span.start == location));
    let at = located.unwrap_or(end);
    // The one error that says what it found with the place of the token behind it.
    let is_from = |at: &usize| message.ends_with("found: FROM") && is_word(&tokens[*at].token, "FROM");
    let at = at.checked_sub(1).filter(is_from).unwrap_or(at);
    let Some(expected) = message.strip_prefix("Expected").and_then(|text| text.rsplit_once(", found:")) else {
        return Error::sql(lower_first(message.trim_end_matches('.'))).at(place_at(text, tokens, at));
    };
    with_hint(text, tokens, at, expected_at(text, tokens, at, &in_our_words(expected.0)))
}

/// `… at Line: 3, Column: 5`
fn split_location(message: &str) -> (&str, Option<Location>) {
    let Some((before, place)) = message.rsplit_once(" at Line: ") else { return (message, None) };
    let location = place.split_once(", Column: ").and_then(|(line, column)| {
        Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
    });
    (before, location)
}

fn in_our_words(expected: &str) -> String {
    let expected = expected.trim_start_matches(':').trim();
    match expected {
        "end of statement" => "the end of the statement".into(),
        "identifier" => "a name".into(),
        "SELECT, VALUES, or a subquery in the query body" => "a query".into(),
        _ if expected.chars().any(char::is_whitespace) && expected.chars().any(char::is_lowercase) => expected.into(),
        _ => format!("`{expected}`"),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

fn expected_at(text: &SqlText, tokens: &[TokenWithSpan], at: usize, what: &str) -> Error {
    let found = match tokens.get(at) {
        Some(token) => format!("`{}`", text.quote(token.span.start, token.span.end)),
        None => "the end of the statement".into(),
    };
    Error::sql(format!("expected {what}, found {found}")).at(place_at(text, tokens, at))
}

fn place_at(text: &SqlText, tokens: &[TokenWithSpan], at: usize) -> Place {
    match (tokens.get(at), tokens.last()) {
        (Some(token), _) => text.place(token.span.start, token.span.end),
        (None, Some(last)) => text.place(last.span.end, last.span.end),
        (None, None) => text.place(text.end(), text.end()),
    }
}

/// What may have been meant by the word at fault, or by the one before it.
fn with_hint(text: &SqlText, tokens: &[TokenWithSpan], at: usize, error: Error) -> Error {
    let word = |at: usize| match tokens.get(at).map(|token| &token.token) {
        Some(Token::Word(word)) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
        _ => None,
    };
    for at in [Some(at), at.checked_sub(1), at.checked_sub(2)].into_iter().flatten() {
        let Some(word) = word(at) else { continue };
        let near = nearest(&word, CLAUSES).filter(|near| *near != word && word.len() >= 3);
        if let Some(near) = near {
            return error.hint(format!(
                "did you mean `{near}` by `{}`?",
                text.quote(tokens[at].span.start, tokens[at].span.end)
            ));
        }
    }
    match tokens.get(at).map(|token| &token.token) {
        Some(token) if ["WHEN", "THEN", "ELSE"].iter().any(|word| is_word(token, word)) => {
            error.hint("is the END of a CASE missing?")
        }
        Some(token) if is_word(token, "FROM") => {
            error.hint("is there a comma too many, or something missing before it?")
        }
        Some(Token::RArrow) => error.hint("a key with dots goes in back-ticks: `kafka.group.id` => 'x'"),
        Some(Token::Word(_)) => error.hint(END_HINT),
        Some(Token::RParen) => error.hint("is there a `(` too few, or something missing in front of it?"),
        _ => error,
    }
}
