//! Text to tokens, tokens to statements, and the cursor that statements are read with.
//!
//! Uses `error`, the text and the variables. Statements are cut at `;` tokens of the whole file, so a `;` in a string or
//! comment cuts nothing. Every token keeps its position in the file.

use std::ops::Range;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace, Word};

use super::dialect::PinsqlDialect;
use super::text::{Name, OptionPair, Spanned, SqlText, comment_text};
use super::variables::{Variables, mask, replace};
use crate::error::{Error, Place, Result, nearest};

/// Words that begin a clause: never taken for a name that was left out.
const CLAUSE_WORDS: [&str; 22] = [
    "AS",
    "SELECT",
    "FROM",
    "WHERE",
    "WITH",
    "JOIN",
    "ON",
    "USING",
    "GROUP",
    "ORDER",
    "BY",
    "HAVING",
    "LIMIT",
    "UNION",
    "SET",
    "INTO",
    "VALUES",
    "STORED",
    "LOCATION",
    "OPTIONS",
    "PARTITIONED",
    "TBLPROPERTIES",
];

/// The tokens of one statement, without white space and comments.
#[derive(Debug)]
pub(super) struct Piece {
    pub tokens: Vec<TokenWithSpan>,
    pub comment: Option<String>,
}

/// Whether the text ends a statement: its last token is `;`, and no string or comment is open.
pub fn is_complete(text: &str) -> bool {
    let tokens = Tokenizer::new(&PinsqlDialect, text).tokenize();
    let is_text = |token: &&Token| !matches!(token, Token::Whitespace(_));
    tokens.is_ok_and(|tokens| tokens.iter().rev().find(is_text) == Some(&Token::SemiColon))
}

/// The tokens of a file, with the variables replaced.
pub(super) fn tokenize(text: &SqlText, variables: &Variables<'_>) -> Result<Vec<TokenWithSpan>> {
    let (masked, ranges) = mask(text)?;
    let mut tokens = Vec::new();
    if let Err(error) = Tokenizer::new(&PinsqlDialect, &masked).tokenize_with_location_into_buf(&mut tokens) {
        // The tokenizer points behind the end of what is open; the start of it is what helps.
        let start = tokens.last().map_or(Location { line: 1, column: 1 }, |token| token.span.end);
        let (message, hint) = tokenizer_message(&error.message);
        let start = if hint.is_some() { start } else { error.location };
        let end = Location { line: start.line, column: start.column + 1 };
        let error = Error::sql(message).at(text.place(start, end));
        return Err(hint.into_iter().fold(error, Error::hint));
    }
    for token in &mut tokens {
        if let Token::SingleQuotedRawStringLiteral(raw) = &mut token.token {
            token.token = Token::SingleQuotedString(std::mem::take(raw));
        }
    }
    replace(text, &mut tokens, &ranges, variables)?;
    Ok(tokens)
}

fn tokenizer_message(message: &str) -> (String, Option<&'static str>) {
    let lower = message.to_lowercase();
    if lower.contains("comment") {
        return ("this comment is never closed".into(), Some("close it by `*/`"));
    }
    if lower.contains("dollar") {
        return ("this `$` string is never closed".into(), Some("close it by the same `$…$` that opens it"));
    }
    if lower.contains("close delimiter") {
        return ("this quoted name is never closed".into(), Some("close it by the quote that opens it"));
    }
    if lower.contains("unterminated") {
        return ("this string is never closed".into(), Some("close it by `'`; a quote inside is written `''`"));
    }
    (lower, None)
}

/// Cuts at `;`. Empty statements fall away, with their comments going to the next.
pub(super) fn split(tokens: Vec<TokenWithSpan>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut current = Vec::new();
    let mut comments: Vec<String> = Vec::new();
    // A comment behind a `;`, in the same line, speaks of the statement before.
    let mut last_line = 0;
    for token in tokens {
        match &token.token {
            Token::Whitespace(space) => {
                let is_leading = current.is_empty() && token.span.start.line != last_line;
                comments.extend(comment_text(space).filter(|_| is_leading));
                if matches!(space, Whitespace::Newline) {
                    last_line = 0;
                }
            }
            Token::SemiColon => {
                last_line = token.span.start.line;
                if !current.is_empty() {
                    pieces.push(piece(&mut current, &mut comments));
                }
            }
            _ => current.push(token),
        }
    }
    if !current.is_empty() {
        pieces.push(piece(&mut current, &mut comments));
    }
    pieces
}

fn piece(tokens: &mut Vec<TokenWithSpan>, comments: &mut Vec<String>) -> Piece {
    let comment = Some(std::mem::take(comments).join("\n")).filter(|comment| !comment.is_empty());
    Piece { tokens: std::mem::take(tokens), comment }
}

/// Reads the tokens of one statement from left to right.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    pub text: &'a SqlText,
    tokens: &'a [TokenWithSpan],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a SqlText, tokens: &'a [TokenWithSpan]) -> Self {
        Self { text, tokens, position: 0 }
    }

    pub fn peek(&self) -> Option<&'a Token> {
        self.peek_at(0)
    }

    pub fn peek_at(&self, ahead: usize) -> Option<&'a Token> {
        self.tokens.get(self.position + ahead).map(|token| &token.token)
    }

    pub fn advance(&mut self) {
        self.position += 1;
    }

    pub fn position(&self) -> usize {
        self.position
    }

    /// Some of the tokens.
    pub fn tokens(&self, range: Range<usize>) -> &'a [TokenWithSpan] {
        self.tokens.get(range).unwrap_or_default()
    }

    /// Takes everything that is left.
    pub fn take_rest(&mut self) -> &'a [TokenWithSpan] {
        let rest = self.tokens(self.position..self.tokens.len());
        self.position = self.tokens.len();
        rest
    }

    pub fn is_at_end(&self) -> bool {
        self.position >= self.tokens.len()
    }

    /// Whether these words come next: unquoted, in any case.
    pub fn at_words(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(ahead, word)| self.peek_at(ahead).is_some_and(|token| is_word(token, word)))
    }

    pub fn take_words(&mut self, words: &[&str]) -> bool {
        let found = self.at_words(words);
        if found {
            self.position += words.len();
        }
        found
    }

    pub fn take_word(&mut self, word: &str) -> bool {
        self.take_words(&[word])
    }

    /// The words must come next.
    pub fn expect_words(&mut self, words: &[&str]) -> Result<()> {
        for word in words {
            if !self.take_word(word) {
                return Err(self.expected(&format!("`{word}`")));
            }
        }
        Ok(())
    }

    pub fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        if found {
            self.position += 1;
        }
        found
    }

    pub fn expect(&mut self, token: &Token) -> Result<()> {
        if self.take(token) { Ok(()) } else { Err(self.expected(&format!("`{token}`"))) }
    }

    /// Nothing may follow.
    pub fn expect_end(&self) -> Result<()> {
        if self.is_at_end() { Ok(()) } else { Err(self.expected("the end of the statement").hint(END_HINT)) }
    }

    /// The place of the next token; at the end, the one behind the last.
    pub fn place(&self) -> Place {
        match self.tokens.get(self.position) {
            Some(token) => self.text.place(token.span.start, token.span.end),
            None => self.end_place(),
        }
    }

    fn end_place(&self) -> Place {
        let end = self.tokens.last().map_or_else(|| self.text.end(), |token| token.span.end);
        self.text.place(end, end)
    }

    /// The place from the token at `start` to the last one read.
    pub fn place_since(&self, start: usize) -> Place {
        match (self.tokens.get(start), self.tokens.get(self.position.saturating_sub(1))) {
            (Some(first), Some(last)) if self.position > start => self.text.place(first.span.start, last.span.end),
            _ => self.place(),
        }
    }

    /// The source text from the token at `start` to the last one read.
    pub fn text_since(&self, start: usize) -> &'a str {
        source_text(self.text, self.tokens.get(start..self.position).unwrap_or_default())
    }

    /// "expected …, found …" at the next token.
    pub fn expected(&self, what: &str) -> Error {
        let found = match self.tokens.get(self.position) {
            Some(token) => format!("`{}`", self.text.quote(token.span.start, token.span.end)),
            None => "the end of the statement".into(),
        };
        Error::sql(format!("expected {what}, found {found}")).at(self.place())
    }

    /// As [`Self::expected`] one of these words, with "did you mean".
    pub fn expected_one_of(&self, what: &str, words: &[&str]) -> Error {
        let error = self.expected(what);
        match self.peek() {
            Some(Token::Word(word)) if word.quote_style.is_none() => {
                match nearest(&word.value, words.iter().copied()) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error,
                }
            }
            _ => error,
        }
    }

    /// A string literal.
    pub fn string(&mut self, what: &str) -> Result<Spanned<String>> {
        let (Some(Token::SingleQuotedString(text)) | Some(Token::EscapedStringLiteral(text))) = self.peek() else {
            return Err(self.expected(what));
        };
        let place = self.place();
        self.advance();
        Ok(Spanned { value: text.clone(), place })
    }

    /// A name of one word, as of a column.
    pub fn name(&mut self, what: &str) -> Result<Name> {
        let Some(Token::Word(word)) = self.peek() else { return Err(self.expected(what)) };
        if word.quote_style.is_none() && CLAUSE_WORDS.iter().any(|clause| word.value.eq_ignore_ascii_case(clause)) {
            return Err(self.expected(what));
        }
        let name = Name { value: fold(word), place: self.place() };
        self.advance();
        Ok(name)
    }

    /// The name of a table: one word that can be the name of a folder.
    pub fn table_name(&mut self, what: &str) -> Result<Name> {
        let start = self.position;
        let mut name = self.name(what)?;
        while self.take(&Token::Period) {
            name = self.name(what)?;
            if self.peek() != Some(&Token::Period) {
                return Err(qualified(self.text_since(start), &name.value, self.place_since(start)));
            }
        }
        check_table_name(&name)?;
        Ok(name)
    }

    /// `(a, b, …)`.
    pub fn names(&mut self, what: &str) -> Result<Vec<Name>> {
        self.expect(&Token::LParen)?;
        let mut names = vec![self.name(what)?];
        while self.take(&Token::Comma) {
            names.push(self.name(what)?);
        }
        self.expect(&Token::RParen)?;
        Ok(names)
    }

    /// Which tokens stand between the parenthesis that comes next and the one that closes it.
    pub fn group(&mut self) -> Result<Range<usize>> {
        let open = self.place();
        self.expect(&Token::LParen)?;
        let start = self.position;
        let mut depth = 1;
        while let Some(token) = self.peek() {
            self.advance();
            match token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(start..self.position - 1);
            }
        }
        Err(unclosed(open))
    }

    /// `('k' 'v', 'k' = 'v', k.with.dots = 1, …)`.
    pub fn options(&mut self) -> Result<Vec<OptionPair>> {
        self.expect(&Token::LParen)?;
        let mut pairs: Vec<OptionPair> = Vec::new();
        while !self.take(&Token::RParen) {
            if !pairs.is_empty() && !self.take(&Token::Comma) {
                return Err(self.expected("`,` or `)`"));
            }
            let key = self.option_key()?;
            if pairs.iter().any(|pair| pair.key.value.eq_ignore_ascii_case(&key.value)) {
                return Err(given_twice(&key));
            }
            let _ = self.take(&Token::Eq) || self.take(&Token::RArrow);
            let value = self.literal("a string, a number, `true` or `false`")?;
            pairs.push(OptionPair { key, value });
        }
        Ok(pairs)
    }

    /// A string, or words with dots between them.
    pub fn option_key(&mut self) -> Result<Spanned<String>> {
        if matches!(self.peek(), Some(Token::SingleQuotedString(_))) {
            return self.string("a key");
        }
        let start = self.position;
        let mut key = String::new();
        loop {
            let Some(Token::Word(word)) = self.peek() else { return Err(self.expected("a key")) };
            key.push_str(&word.value);
            self.advance();
            if !self.take(&Token::Period) {
                return Ok(Spanned { value: key, place: self.place_since(start) });
            }
            key.push('.');
        }
    }

    /// The text of a string, number or boolean.
    pub fn literal(&mut self, what: &str) -> Result<Spanned<String>> {
        let start = self.position;
        let sign = if self.take(&Token::Minus) { "-" } else { "" };
        let value = match self.peek() {
            Some(Token::Number(number, _)) => format!("{sign}{number}"),
            Some(Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_)) if sign.is_empty() => {
                return self.string(what);
            }
            Some(Token::Word(word)) if sign.is_empty() && matches!(word.keyword, Keyword::TRUE | Keyword::FALSE) => {
                word.value.to_lowercase()
            }
            Some(Token::Word(_)) => return Err(self.expected(what).hint("put the value in single quotes")),
            _ => return Err(self.expected(what)),
        };
        self.advance();
        Ok(Spanned { value, place: self.place_since(start) })
    }
}

/// What to say when a statement goes on where it should end.
pub(super) const END_HINT: &str = "a statement ends with `;`";

/// The source text of some tokens.
pub(super) fn source_text<'a>(text: &'a SqlText, tokens: &[TokenWithSpan]) -> &'a str {
    match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => text.slice(first.span.start, last.span.end),
        _ => "",
    }
}

/// As [`source_text`], with stars where a secret stands.
pub(super) fn shown_text(text: &SqlText, tokens: &[TokenWithSpan]) -> String {
    match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => text.quote(first.span.start, last.span.end),
        _ => String::new(),
    }
}

/// Whether a token is this word, unquoted, in any case.
pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(Word { value, quote_style: None, .. }) if value.eq_ignore_ascii_case(word))
}

/// A name as it is compared: lower case unless quoted.
pub(super) fn fold(word: &Word) -> String {
    if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() }
}

/// A name with dots where a table's name should be.
pub(super) fn qualified(written: &str, last: &str, place: Place) -> Error {
    Error::sql(format!("`{written}` has more than one part, and a table's name is one word"))
        .hint(format!("write `{last}`; where a table lives is said by its LOCATION or by --lake"))
        .at(place)
}

/// A table's name becomes a folder.
pub(super) fn check_table_name(name: &Name) -> Result<()> {
    let is_bad = |c: char| matches!(c, '/' | '\\') || c.is_control();
    if name.value.is_empty() || name.value.starts_with('.') || name.value.contains(is_bad) {
        return Err(Error::sql(format!("`{}` cannot be a table's name", name.value.escape_debug()))
            .hint("a table's name is a folder's: without slashes, and not beginning with a dot")
            .at(name.place.clone()));
    }
    Ok(())
}

pub(super) fn given_twice(key: &Spanned<String>) -> Error {
    Error::sql(format!("`{}` is given twice", key.value)).hint("keep one of them").at(key.place.clone())
}

pub(super) fn unclosed(open: Place) -> Error {
    Error::sql("this `(` is never closed").hint("close it by `)`").at(open)
}
