//! `FROM STREAM x` and `FROM STREAM(x)`: found among the tokens, taken out, and remembered.
//!
//! Uses `error`, the text and the tokens. sqlparser would read `FROM STREAM pin` as a table `STREAM` called `pin`, so
//! the word goes before it parses; what it stood in front of is remembered by its place in the file.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Word};

use super::text::SqlText;
use super::tokens::is_word;
use crate::error::{Error, Result};

/// Words that end a FROM clause.
const AFTER_FROM: [&str; 17] = [
    "SELECT",
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "QUALIFY",
    "WINDOW",
    "UNION",
    "EXCEPT",
    "INTERSECT",
    "MINUS",
    "CLUSTER",
    "SORT",
    "DISTRIBUTE",
];

/// The tokens of a query without STREAM, and where the relations begin that it stood in front of.
pub(super) struct Streams {
    pub tokens: Vec<TokenWithSpan>,
    pub starts: BTreeSet<Location>,
}

/// What is known of one pair of parentheses.
#[derive(Clone, Copy, Default)]
struct Level {
    /// Between FROM and the clause behind it.
    in_from: bool,
    /// The next token begins a relation.
    at_relation: bool,
}

/// Takes STREAM out, and refuses WATERMARK.
pub(super) fn take_streams(text: &SqlText, tokens: &[TokenWithSpan]) -> Result<Streams> {
    let mut streams = Streams { tokens: Vec::with_capacity(tokens.len()), starts: BTreeSet::new() };
    let mut dropped = BTreeSet::new();
    let mut levels = vec![Level::default()];
    for (at, token) in tokens.iter().enumerate() {
        let level = levels.last().copied().unwrap_or_default();
        if level.at_relation && is_stream(tokens, at) {
            dropped.insert(at);
            streams.starts.insert(stream_start(text, tokens, at, &mut dropped)?);
            // What follows still begins a relation, but a second STREAM is a name.
            if let Some(level) = levels.last_mut() {
                level.at_relation = false;
            }
            continue;
        }
        if dropped.contains(&at) {
            continue;
        }
        if level.in_from && !level.at_relation && is_watermark(tokens, at) {
            return Err(watermark(text, token));
        }
        follow(&mut levels, tokens, at);
        streams.tokens.push(token.clone());
    }
    Ok(streams)
}

/// Keeps the levels up to date with one token.
fn follow(levels: &mut Vec<Level>, tokens: &[TokenWithSpan], at: usize) {
    let token = &tokens[at].token;
    let level = levels.last().copied().unwrap_or_default();
    match token {
        Token::LParen => {
            set(levels, Level { at_relation: false, ..level });
            levels.push(Level { in_from: level.at_relation, at_relation: level.at_relation });
            return;
        }
        Token::RParen if levels.len() > 1 => {
            levels.pop();
            return;
        }
        _ => {}
    }
    let is_from = is_word(token, "FROM") && !at.checked_sub(1).is_some_and(|at| is_word(&tokens[at].token, "DISTINCT"));
    let next = if is_from {
        Level { in_from: true, at_relation: true }
    } else if is_word(token, "JOIN") || (level.in_from && *token == Token::Comma) {
        Level { at_relation: true, ..level }
    } else if level.at_relation && is_word(token, "LATERAL") {
        level
    } else if AFTER_FROM.iter().any(|word| is_word(token, word)) {
        Level::default()
    } else {
        Level { at_relation: false, ..level }
    };
    set(levels, next);
}

fn set(levels: &mut [Level], level: Level) {
    if let Some(last) = levels.last_mut() {
        *last = level;
    }
}

/// STREAM with a name or a parenthesis behind it; alone it is a name itself.
fn is_stream(tokens: &[TokenWithSpan], at: usize) -> bool {
    is_word(&tokens[at].token, "STREAM")
        && match tokens.get(at + 1).map(|token| &token.token) {
            Some(Token::LParen) => true,
            Some(Token::Word(word)) => can_be_name(word),
            _ => false,
        }
}

fn can_be_name(word: &Word) -> bool {
    let is_clause = RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword) || word.keyword == Keyword::AS;
    word.quote_style.is_some() || !is_clause
}

/// Where the relation behind STREAM begins. The parentheses of `STREAM(…)` are to be dropped as well.
fn stream_start(
    text: &SqlText,
    tokens: &[TokenWithSpan],
    at: usize,
    dropped: &mut BTreeSet<usize>,
) -> Result<Location> {
    if tokens[at + 1].token != Token::LParen {
        return Ok(tokens[at + 1].span.start);
    }
    let wrong = |token: &TokenWithSpan| {
        Error::sql("`STREAM` takes one table or one source function")
            .hint("say FROM STREAM t, FROM STREAM(t) or FROM STREAM read_files(…), and put STREAM in front of each table of a join")
            .at(text.place(token.span.start, token.span.end))
    };
    let Some(close) = closing(tokens, at + 1) else {
        let open = tokens[at + 1].span;
        return Err(super::tokens::unclosed(text.place(open.start, open.end)));
    };
    let inner = &tokens[at + 2..close];
    let parts = inner.iter().take_while(|token| matches!(token.token, Token::Word(_) | Token::Period)).count();
    let is_name = parts > 0 && matches!(&inner[0].token, Token::Word(word) if can_be_name(word));
    let is_single = parts % 2 == 1
        && inner[..parts].iter().enumerate().all(|(at, token)| (token.token == Token::Period) == (at % 2 == 1));
    let is_call = inner.get(parts).is_some_and(|token| token.token == Token::LParen)
        && closing(inner, parts) == Some(inner.len() - 1);
    if !is_name || !is_single || !(parts == inner.len() || is_call) {
        return Err(wrong(inner.first().unwrap_or(&tokens[at])));
    }
    dropped.extend([at + 1, close]);
    Ok(inner[0].span.start)
}

/// The parenthesis that closes the one at `open`.
pub(super) fn closing(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// `WATERMARK expression [AS name] DELAY OF …`, not a table called so.
fn is_watermark(tokens: &[TokenWithSpan], at: usize) -> bool {
    let clause = |token: &&TokenWithSpan| !AFTER_FROM.iter().any(|word| is_word(&token.token, word));
    is_word(&tokens[at].token, "WATERMARK")
        && tokens[at + 1..]
            .iter()
            .take_while(clause)
            .zip(tokens[at + 1..].iter().skip(1))
            .any(|(first, second)| is_word(&first.token, "DELAY") && is_word(&second.token, "OF"))
}

fn watermark(text: &SqlText, token: &TokenWithSpan) -> Error {
    Error::sql("`WATERMARK` is not supported")
        .hint("leave the clause out: a MATERIALIZED VIEW that groups by date_bin(…) counts late rows too")
        .at(text.place(token.span.start, token.span.end))
}
